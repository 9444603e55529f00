"""The wire protocol as pure functions: client frames in, server events out. docs/protocol.md is its manual."""

from collections.abc import Sequence
from datetime import datetime
from enum import IntEnum
from typing import Annotated, Any, cast
from uuid import UUID

import msgspec

from realtime.strict_json import RefusedJSON, loads

SUBPROTOCOL = "fanfare.v1"
MAX_BAD_FRAMES = 3  # In a row.
WATCH_USERS = 500


class CloseCode(IntEnum):
    """Why the server ends a connection: 1012 and 4400-4499 come back, 4500-4999 do not."""

    SERVICE_RESTART = 1012
    TOKEN_EXPIRED = 4401
    SLOW_READER = 4408
    RESYNC = 4409
    UNAVAILABLE = 4410
    RATE_LIMITED = 4429
    BAD_FRAMES = 4500
    UNAUTHENTICATED = 4501
    REVOKED = 4502
    KICKED = 4503


LOGGED_OUT = "logged out"  # Why it is REVOKED, when the client wanted it.


class ProtocolError(Exception):
    """A client frame that cannot be carried out; becomes an `error` event."""

    def __init__(self, code: str, message: str, ref: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.ref = ref


class Since(msgspec.Struct, frozen=True):
    """A position in a topic, as a client kept it."""

    epoch: str | None
    offset: int


class Action(msgspec.Struct, tag_field="action", tag=str.lower, forbid_unknown_fields=True, kw_only=True):
    ref: Any = None


class Ping(Action):
    pass


class Subscribe(Action):
    topic: str
    users: Annotated[list[str], msgspec.Meta(max_length=WATCH_USERS)] | None = None
    since: Since | None = None
    token: str | None = None
    info: Any = None
    me: bool = False


class Unsubscribe(Action):
    topic: str


class Publish(Action):
    topic: str
    data: Any
    type: str = "message"


class ClientMessage(Action):
    """For backends: it goes to whatever destinations want it, and to no topic."""

    message: Any


class Send(ClientMessage):
    pass


class PublishOutside(ClientMessage, tag="publish"):
    """The `publish` that has a `message`; the one with a `topic` is Publish."""


class Receipt(Action):
    """What the user has done with messages of the inbox: with single ones, all until a moment, or all."""

    ids: list[UUID] | None = None
    as_of: datetime | None = None
    all: bool = False


class Seen(Receipt):
    pass


class Read(Receipt):
    pass


class Unread(Receipt):
    pass


class Archive(Receipt):
    pass


class Ack(Action):
    """The messages that this client has shown."""

    ids: list[UUID]


class Status(Action):
    """What the user says of themselves."""

    availability: str | None = None
    text: str | None = None


class Refresh(Action):
    token: str


class Logout(Action):
    pass


_Actions = (
    Ping | Subscribe | Unsubscribe | Publish | Send | Seen | Read | Unread | Archive | Ack | Status | Refresh | Logout
)
ACTIONS = frozenset(action.__struct_config__.tag for action in _Actions.__args__)


def parse(text: str) -> _Actions | PublishOutside:
    """The action that a client frame asks for. Raises ProtocolError (`malformed`, `unknown_action`)."""
    try:
        value = loads(text.encode())
    except (RefusedJSON, UnicodeEncodeError) as error:
        raise ProtocolError("malformed", f"Not JSON that is taken here: {error}.") from error
    if not isinstance(value, dict):
        raise ProtocolError("malformed", 'A frame is an object: {"action": …}.')
    ref = value.get("ref")
    if (action := value.get("action")) not in ACTIONS if isinstance(value.get("action"), str) else True:
        raise ProtocolError("unknown_action", f"The actions are: {', '.join(sorted(ACTIONS))}.", ref)
    try:
        return cast(_Actions | PublishOutside, msgspec.convert(value, type=_shape(value)))
    except msgspec.ValidationError as error:
        raise ProtocolError("malformed", f"{action}: {error}.", ref) from error


def _shape(frame: dict[str, Any]) -> Any:
    """`publish` has two forms. Raises ProtocolError for a mixture of them, and for neither."""
    if frame["action"] != "publish":
        return _Actions
    outside = "message" in frame
    if outside == ("topic" in frame or "data" in frame):
        why = "publish: either `topic` and `data`, for those who listen, or `message` alone, for backends."
        raise ProtocolError("malformed", why, frame.get("ref"))
    return PublishOutside if outside else _Actions


def welcome(connection_id: str, user: str | None, topics: dict[str, dict[str, Any]], **more: Any) -> bytes:
    return _event("welcome", connectionId=connection_id, user=user, topics=topics, **more)


def message(
    *,
    topic: str,
    offset: int | None,
    id: str,
    type: str,
    data: bytes,
    created_at: Any,
    expires_at: Any = None,
    sender: str = "",
) -> bytes:
    """A message of a topic; `data` is JSON already. Without an offset it is ephemeral."""
    fields: dict[str, Any] = {
        "topic": topic,
        "offset": offset,
        "id": id,
        "type": type,
        "data": msgspec.Raw(data),
        "created_at": created_at,
    }
    if expires_at is not None:
        fields["expires_at"] = expires_at
    if sender:
        fields["sender"] = sender
    return _event("message", **fields)


def recalled(topic: str, offset: int, id: str) -> bytes:
    return _event("recalled", topic=topic, offset=offset, id=id)


def receipt(state: str, ids: list[str]) -> bytes:
    """What the user has done with messages, on whichever device."""
    return _event("receipt", state=state, ids=ids)


def message_read_receipt(user: str, ids: list[str]) -> bytes:
    """What has been read, once more, in the shape of a `message-read-receipt` (MESSAGE_READ_RECEIPTS)."""
    return msgspec.json.encode({"_type": "message-read-receipt", "userId": user, "messages-receipted": ids})


def unread(unread: int, unseen: int, unread_more: bool) -> bytes:
    """How many messages of the inbox wait; exactly, as long as there are no more."""
    return _event("unread", unread=unread, unseen=unseen, unread_more=unread_more)


def task(topic: str, id: str, type: str, state: str, progress: float, *, note: str = "", error: str = "") -> bytes:
    """Where a task stands; ephemeral. `progress` is from 0 to 1."""
    told = {name: text for name, text in (("note", note), ("error", error)) if text}
    return _event("task", topic=topic, task=id, type=type, state=state, progress=progress, **told)


def presence(topic: str, message: dict[str, Any], **state: Any) -> bytes:
    """How one user's presence is now, for the listeners of their topic; the `message` says it in short."""
    return _event("presence", topic=topic, type="presence", message=message, **state)


def presences(states: Sequence[bytes]) -> bytes:
    """How the users are now who have changed since the last one; each is JSON already."""
    return _event("presence", presences=[msgspec.Raw(state) for state in states])


def watching(states: Sequence[bytes], refused: Sequence[str], ref: Any = None) -> bytes:
    """The answer to `subscribe` with `users`."""
    snapshot = [msgspec.Raw(state) for state in states]
    return _event("subscribed", topic="watch", snapshot=snapshot, refused=refused, **_ref(ref))


def room(topic: str, version: int, **told: Any) -> bytes:
    """What has changed in a room: `joined` and `left`, or `count`, or everything: `epoch` and `snapshot` as JSON."""
    if "snapshot" in told:
        told["snapshot"] = msgspec.Raw(told["snapshot"])
    return _event("room", topic=topic, version=version, **told)


def board(topic: str, **told: Any) -> bytes:
    """How a leaderboard's top has changed: `set` and `removed`, or `snapshot` as JSON; or how `me` stands there."""
    if "snapshot" in told:
        told["snapshot"] = msgspec.Raw(told["snapshot"])
    return _event("board", topic=topic, **told)


def subscribed(
    topic: str, epoch: str | None, offset: int, recovered: bool, ref: Any = None, snapshot: bytes | None = None
) -> bytes:
    """`snapshot`: of a state, as JSON."""
    state = {} if snapshot is None else {"snapshot": msgspec.Raw(snapshot)}
    return _event("subscribed", topic=topic, epoch=epoch, offset=offset, recovered=recovered, **state, **_ref(ref))


def unsubscribed(topic: str, ref: Any = None) -> bytes:
    return _event("unsubscribed", topic=topic, **_ref(ref))


def reset(topic: str, epoch: str | None, offset: int) -> bytes:
    return _event("reset", topic=topic, epoch=epoch, offset=offset)


def closed(code: CloseCode, reason: str) -> bytes:
    """The end of a stream or poll, where there is no close frame to say it."""
    return _event("closed", code=int(code), reason=reason)


def pong(connection_id: str, ref: Any = None) -> bytes:
    return _event("pong", type="pong", statusCode=200, connectionId=connection_id, **_ref(ref))


def ok(ref: Any, **fields: Any) -> bytes:
    return _event("ok", ref=ref, **fields)


def error(code: str, message: str, ref: Any = None, topic: str | None = None) -> bytes:
    about = {} if topic is None else {"topic": topic}
    return _event("error", code=code, message=message, **about, **_ref(ref))


def _event(event: str, **fields: Any) -> bytes:
    return msgspec.json.encode({"event": event, **fields})


def _ref(ref: Any) -> dict[str, Any]:
    return {} if ref is None else {"ref": ref}
