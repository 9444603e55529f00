"""The bodies of the API for destinations and deliveries."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

Name = Annotated[
    str, Meta(min_length=1, max_length=100, description="For people, and `destination` where one is named.")
]
Address = Annotated[str, Meta(max_length=2000, description="Where to: a URL for a webhook; nothing for a table.")]
Texts = Annotated[list[Annotated[str, Meta(min_length=1, max_length=220)]], Meta(max_length=100)]
State = Literal["pending", "delivered", "dead", "expired"]
EVENTS = "Kinds of events that it wants; empty: all."
TOPICS = "Beginnings of topics that it wants; empty: all."
TYPES = "Types of messages that it wants; empty: all."


class DestinationChange(Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What is to be changed; what is not given stays. `enabled: true` also ends a pause."""

    name: Name | UnsetType = UNSET
    address: Address | UnsetType = UNSET
    options: dict[str, Any] | UnsetType = UNSET
    events: Annotated[Texts, Meta(description=EVENTS)] | UnsetType = UNSET
    topics: Annotated[Texts, Meta(description=TOPICS)] | UnsetType = UNSET
    types: Annotated[Texts, Meta(description=TYPES)] | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET


class NewDestination(DestinationChange, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    name: Name
    kind: Annotated[str, Meta(min_length=1, max_length=20, description="Such as `webhook`, `table` or `sqs`.")]
    options: dict[str, Any] = {}


class DeliveryCounts(Struct):
    """How many deliveries came to each end since the destination was made."""

    pending: int
    delivered: int
    dead: int
    expired: int


class Destination(Struct, kw_only=True):
    """A destination; `options` without what is secret in them."""

    id: UUID
    name: str
    kind: str
    address: str
    options: dict[str, Any]
    events: list[str]
    topics: list[str]
    types: list[str]
    enabled: bool
    disabled_reason: str
    failures: Annotated[int, Meta(description="In a row; after 10, it has a pause.")]
    failing_since: datetime | None
    paused_until: datetime | None
    last_error: str
    created_at: datetime
    counts: DeliveryCounts


class MadeDestination(Destination, kw_only=True):
    secret: Annotated[str | None, Meta(description="Signs what is sent; shown this once.")]


class Secret(Struct):
    secret: str


class Destinations(Struct):
    destinations: list[Destination]
    next: str | None


class Delivery(Struct, kw_only=True):
    """One event owed to one destination. `event_id` is what the receiver sees as its id."""

    id: int
    destination: UUID
    event_id: UUID
    event: str
    key: str
    state: State
    attempts: int
    due_at: datetime | None
    expires_at: datetime | None
    error: str
    response: str
    created_at: datetime
    finished_at: datetime | None


class Deliveries(Struct):
    deliveries: list[Delivery]
    next: str | None


class Redrive(Struct, forbid_unknown_fields=True):
    """Dead letters to be sent again: these, or a destination's, perhaps only those that died since a time."""

    ids: Annotated[list[Annotated[int, Meta(ge=1, le=2**63 - 1)]], Meta(min_length=1, max_length=1000)] | UnsetType = (
        UNSET
    )
    destination: UUID | UnsetType = UNSET
    since: datetime | UnsetType = UNSET


class Redriven(Struct):
    redriven: Annotated[int, Meta(description="10,000 at most: call again for the rest.")]
