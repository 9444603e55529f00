"""The bodies of the presence API, and of what watchers get."""

from datetime import datetime
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from accounts.shapes import Id

USERS_MAX = 1000
TEXT_MAX = 140

Status = Literal["ONLINE", "OFFLINE"]
Availability = Literal["available", "away", "busy", "invisible"]


class Seen(Struct, frozen=True):
    """A user as others see them; `version` grows with each change of that. An unknown user is OFFLINE, version 0."""

    user: str
    status: str
    availability: str
    text: str
    since: datetime | None
    last_seen: datetime | None
    version: int
    seq: int


class PresenceQuery(Struct, forbid_unknown_fields=True):
    users: Annotated[list[Id], Meta(min_length=1, max_length=USERS_MAX)]


class StatusChange(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What is to be changed; what is not given stays."""

    availability: Annotated[
        Availability | UnsetType, Meta(description="`invisible`: others see the user OFFLINE, until it is changed.")
    ] = UNSET
    text: Annotated[str, Meta(max_length=TEXT_MAX, description="Printable, one line.")] | UnsetType = UNSET


class Presence(Struct):
    user: str
    status: Status
    availability: Availability
    text: str
    connections: Annotated[int | None, Meta(description="How many are open now; null while Redis does not answer.")]
    since: Annotated[datetime | None, Meta(description="When the status began.")]
    last_seen: Annotated[datetime | None, Meta(description="When the user last went OFFLINE.")]
    seq: Annotated[int, Meta(description="Numbers the changes of the status.")]
    version: Annotated[int, Meta(description="Numbers all changes; live events carry it too.")]


class Presences(Struct):
    presences: list[Presence]


class PresencePage(Struct):
    presences: list[Presence]
    next: str | None


class Transition(Struct):
    status: Status
    reason: str
    seq: int
    at: datetime


class History(Struct):
    transitions: list[Transition]
