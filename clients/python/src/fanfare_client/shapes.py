"""What the server answers, as it is read. Times have a zone; fields that are new to this version are ignored."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

import msgspec

from fanfare_client.errors import FanfareError

Number = int | float
Offset = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far a topic has been read; `Position(epoch=None, offset=0)` is its beginning."""

    epoch: str | None
    offset: Offset


START = Position(epoch=None, offset=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a message stands; without offset it is scheduled, or not stored. `user`: whose it is, where it went to
    several."""

    id: str
    topic: str
    epoch: str | None = None
    offset: Offset | None = None
    user: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What was accepted: one message, or one for each of several users. `replayed`: it was accepted before."""

    messages: tuple[Place, ...]
    replayed: bool = False

    @property
    def id(self) -> str:
        """Of the only message, or of the first."""
        return self.messages[0].id


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemResult:
    """What became of one notification of a batch: `messages`, or why not."""

    status: int
    messages: tuple[Place, ...] = ()
    error: FanfareError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """`data` is what somebody else wrote. `sender`: the user who published it, if a user did."""

    id: str
    topic: str
    offset: Offset | None = None
    type: str
    data: Any
    created_at: datetime
    expires_at: datetime | None = None
    sender: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    what: str
    at: datetime
    user: str | None = None
    connection: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageWithTimeline(Message):
    key: str = ""
    timeline: tuple[Step, ...] = ()
    totals: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxMessage(Message):
    seen_at: datetime | None = None
    read_at: datetime | None = None
    archived_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many messages of an inbox wait: exactly, as long as `unread_more` is false."""

    unread: int
    unseen: int
    unread_more: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipted(Counts):
    """The ids that were changed now, and what waits."""

    receipted: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """`state`: queued, running, done, failed or cancelled; `progress` from 0 to 1."""

    id: str
    user: str
    type: str
    state: str
    progress: float
    note: str
    error: str | None
    attempts: int
    cancel_requested: bool
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    payload: Any = None
    result: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """`status`: ONLINE or OFFLINE. `connections` is null where it is not known, or not said."""

    user: str
    status: str
    availability: str
    text: str
    connections: int | None = None
    since: datetime | None = None
    last_seen: datetime | None = None
    seq: int
    version: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    status: str
    reason: str
    seq: int
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """Who is in a room, and what they said on entering."""

    user: str
    info: Any = None
    connections: int | None = None
    joined_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    id: str
    account: str | None
    name: str
    attributes: Mapping[str, Any]
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """`token` is shown here and never again."""

    id: str
    token: str
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ListeningToken:
    """A token for a browser to listen with."""

    endpoint: str
    token: str
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    id: str
    user: str | None
    account: str | None
    subscribe: tuple[str, ...]
    publish: tuple[str, ...]
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    ticket: str
    expires_at: datetime
