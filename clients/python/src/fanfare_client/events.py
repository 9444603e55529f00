"""What a listener gets, as it is read from frames. Events that are new to this version are passed over."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from fanfare_client.errors import FanfareError
from fanfare_client.outside_shapes import Row
from fanfare_client.shapes import Counts, Member, Message, Offset, Position, Presence


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """The connection stands, for the first time or again. `counts`: what waits in the inbox, where that is known."""

    user: str | None = None
    counts: Counts | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnected:
    """The connection is lost, or could not be made; `pause` seconds later comes the next attempt."""

    code: int
    reason: str
    pause: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset:
    """Something of this topic was missed for good: load it again. What comes from now on follows `position`."""

    topic: str
    position: Position


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """How a topic that is a state is now: a room, a board, the presence of a user."""

    topic: str
    snapshot: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """This topic is not listened to, or not any more."""

    topic: str
    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """A message was taken back: remove it where it is shown."""

    id: str
    topic: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptEvent:
    """What the user has done with messages: `state` is seen, read, unread or archive."""

    state: str
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadEvent(Counts):
    """What waits in the inbox now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvent:
    """Where a task stands; `progress` from 0 to 1."""

    task: str
    type: str
    state: str
    progress: float = 0.0
    note: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomEvent:
    """Who came and went; with a `snapshot` begin anew from it, with a `count` only that is known."""

    topic: str
    version: Offset
    joined: tuple[Member, ...] = ()
    left: tuple[str, ...] = ()
    count: int | None = None
    snapshot: Any = None
    epoch: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardEvent:
    """What has changed in the top of a board: without `removed` and the names of `set`, put in those of `set` at their
    ranks. With a `snapshot` begin anew from it; `me` alone is one's own standing."""

    topic: str
    version: Offset | None = None
    window: str | None = None
    total: int | None = None
    set: tuple[Row, ...] = ()
    removed: tuple[str, ...] = ()
    snapshot: Any = None
    me: Mapping[str, Any] | None = None
    epoch: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PresenceEvent:
    """How users are now."""

    presences: tuple[Presence, ...]
    topic: str | None = None


Event = (
    Message
    | Connected
    | Disconnected
    | Reset
    | Snapshot
    | Refused
    | Recalled
    | ReceiptEvent
    | UnreadEvent
    | TaskEvent
    | RoomEvent
    | BoardEvent
    | PresenceEvent
)

PASSED_ON: Mapping[str, Any] = {
    "message": Message,
    "recalled": Recalled,
    "receipt": ReceiptEvent,
    "unread": UnreadEvent,
    "task": TaskEvent,
    "room": RoomEvent,
    "board": BoardEvent,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicPlace(Position):
    """Where a topic of a `welcome` stands."""

    snapshot: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    user: str | None = None
    topics: Mapping[str, TopicPlace] = field(default_factory=dict)
    unread: int | None = None
    unseen: int | None = None
    unread_more: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscribed:
    topic: str
    epoch: str | None = None
    offset: Offset = 0
    recovered: bool = True
    snapshot: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorFrame:
    code: str
    message: str
    ref: Any = None
    topic: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicFrame:
    topic: str
    epoch: str | None = None
    offset: Offset = 0


class _Envelope(msgspec.Struct):
    event: str


def kind_of(frame: str | bytes) -> str:
    """The event of a frame. Raises FanfareError where it is none."""
    event: str = parsed(frame, _Envelope).event
    return event


def parsed(frame: str | bytes, shape: Any) -> Any:
    """A frame as this shape. Raises FanfareError."""
    try:
        return msgspec.json.decode(frame, type=shape)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError) as error:
        raise FanfareError(1007, "bad_reply", f"A frame that is not Fanfare's: {error}. Is the URL right?") from error


def event_of(body: Any) -> Event | None:
    """What came for a session; None where it is new to this version. Raises FanfareError."""
    kind = str(body.get("event")) if isinstance(body, dict) else ""
    try:
        if kind == "reset":
            frame = msgspec.convert(body, TopicFrame)
            return Reset(topic=frame.topic, position=Position(epoch=frame.epoch, offset=frame.offset))
        return msgspec.convert(body, PASSED_ON[kind]) if kind in PASSED_ON else None
    except msgspec.ValidationError as error:
        raise FanfareError(200, "bad_reply", f"An event that is not Fanfare's: {error}.") from error


def presence_event(frame: str | bytes) -> PresenceEvent:
    """Of both forms: several users of `watch`, or the one of a topic."""
    fields = parsed(frame, dict[str, Any])
    shown = {"presences": fields.get("presences", [fields]), "topic": fields.get("topic")}
    return parsed(msgspec.json.encode(shown), PresenceEvent)  # type: ignore[no-any-return]
