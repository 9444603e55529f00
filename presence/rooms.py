"""Rooms: who listens to the topic `presence.<room>`, and what they say about themselves.

A user is in a room as long as one of their connections listens to it. Redis knows them (room_scripts.py); each
process tells it what its own connections do (room_tracker.py, which presence.tracker hands each connection that was
opened, changed or closed), and `sweep` takes out those of processes whose lease is over. Every change goes out as a
numbered event; what the bus loses of them, the hub reads from `snapshot`. Who hides is in rooms, but nothing here says
so: room_veils.py sees to that.
"""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from django.conf import settings

from presence import registry, room_scripts
from presence.room_shapes import RoomMember
from realtime import bus, protocol
from realtime.frames import Event
from realtime.log import Position

KIND = "presence"
threads = ThreadPoolExecutor(2, thread_name_prefix="rooms")  # For the functions here, in the event loop.
SWEEP_AT_ONCE = 200


def topic_of(room: str) -> str:
    return f"{KIND}.{room}"


def room_of(topic: str) -> str | None:
    """The room that a topic is; None for other topics."""
    return topic[len(KIND) + 1 :] if topic.startswith(f"{KIND}.") else None


@dataclass(frozen=True, slots=True)
class Stay:
    """A connection in a room. Times in milliseconds; `info` is JSON."""

    connection: str
    room: str
    user: str
    joined_at: int
    said_at: int
    info: bytes


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A room as it is at a version; `state` is what clients see, as JSON."""

    epoch: str | None
    version: int
    state: bytes


@dataclass(frozen=True, slots=True)
class Changed:
    """`due`: how many counts are to be told within COUNT_MS.

    `unsure`: users who are not shown before `unveil` has said whether they hide, each with its token.
    """

    due: int
    unsure: dict[str, str]


# --- Changes --------------------------------------------------------------------------------------


def change(
    boot: str, joins: Iterable[Stay], leaves: Iterable[tuple[str, str]], *, again: bool = False
) -> Changed | None:
    """What the connections of one process do: stays begin or say something new, `(connection, room)` end.

    Done once or many times, it is the same; `again`: it was tried before, and may have gone unheard.
    -> None when the process has no lease: then nothing was done. Raises RedisDown.
    """
    args: list[str | int | bytes] = [settings.PRESENCE_LEASE, boot, _fresh_token(), int(again)]
    for stay in joins:
        args += [stay.connection, stay.room, stay.user, stay.joined_at, stay.said_at, stay.info]
    for connection, room in leaves:
        args += [connection, room, "", 0, 0, b""]
    found = _run(room_scripts.CHANGE, args)
    if found is None:
        return None
    _publish(found[0])
    return Changed(int(found[1]), dict(_pairs(found[2])))


def veil(user: str) -> dict[str, str]:
    """Others do not see a user in any room, until `unveil` says that they may.

    -> the user and the token for that; nothing for who is in no room. Raises RedisDown.
    """
    told, _due, unsure = _run(room_scripts.VEIL, [settings.PRESENCE_LEASE, _fresh_token(), user])
    _publish(told)
    return dict(_pairs(unsure))


def unveil(answers: Mapping[str, tuple[str, int | None]]) -> int:
    """What the database says of users: the token with which it was asked, and since when others may see them.

    That is in milliseconds, None for who hides. An answer to an older question counts for nothing.
    -> how many counts are due. Raises RedisDown.
    """
    args: list[str | int | bytes] = [settings.PRESENCE_LEASE, _fresh_token()]
    for user, (token, since) in answers.items():
        args += [user, token, "" if since is None else since]
    told, due = _run(room_scripts.UNVEIL, args)
    _publish(told)
    return int(due)


def unsure(limit: int) -> dict[str, str]:
    """Some of the users whom `unveil` is to say something about, each with its token. Raises RedisDown."""
    return dict(_pairs(_run(room_scripts.UNSURE, [limit])))


def sweep() -> bool:
    """Takes out what processes without a lease had in rooms, and tells the counts that are due.

    -> whether there is more to take out. Several at once do no harm. Raises RedisDown.
    """
    told, _due, more = _run(room_scripts.SWEEP, [settings.PRESENCE_LEASE, _fresh_token(), SWEEP_AT_ONCE])
    _publish(told)
    return bool(more)


def tell_counts() -> int:
    """Tells the counts that are due -> how many will be later. Raises RedisDown."""
    told, due, _more = _run(room_scripts.SWEEP, [settings.PRESENCE_LEASE, _fresh_token(), 0])
    _publish(told)
    return int(due)


def held(boot: str) -> int:
    """How many stays Redis knows of a process. Raises RedisDown."""
    return int(_run(room_scripts.HELD, [boot]))


def _publish(told: Sequence[Any]) -> None:
    bus.publish([_event(*one) for one in told])


def _event(
    room: str, epoch: str, version: int, size: int, what: str, found: Sequence[str] = (), left: Sequence[str] = ()
) -> Event:
    topic = topic_of(room)
    if what == "snapshot":
        return snapshot_event(topic, Snapshot(epoch, version, _state(version, size, found)))
    if what == "count":
        body = protocol.room(topic, version, count=size)
    else:
        body = protocol.room(topic, version, joined=[_named(*one) for one in _pairs(found)], left=left)
    return Event(topic, body, epoch, version)


def snapshot_event(topic: str, at: Snapshot) -> Event:
    """Everything about a room, for listeners who have missed something."""
    body = protocol.room(topic, at.version, epoch=at.epoch, snapshot=at.state)
    return Event(topic, body, at.epoch, at.version)


# --- What there is --------------------------------------------------------------------------------


def positions(rooms: Sequence[str]) -> dict[str, Position]:
    """Where the versions of rooms stand; (None, 0) for one in which nobody was lately. Raises RedisDown."""
    found = _run(room_scripts.POSITIONS, rooms)
    return {room: _position(epoch, version) for room, (epoch, version) in zip(rooms, found, strict=True)}


def snapshot(room: str) -> Snapshot:
    """A room as it is. Raises RedisDown."""
    epoch, version, size, found = _run(room_scripts.SNAPSHOT, [room, room_scripts.MEMBERS_MAX])
    at = _position(epoch, version)
    return Snapshot(at.epoch, at.head, _state(at.head, size, found))


def page(room: str, after: str | None, limit: int) -> tuple[int, list[RoomMember]]:
    """How many are in a room, and who, in the order of their ids, from the one after a user. Raises RedisDown."""
    size, found = _run(room_scripts.PAGE, [room, "-" if after is None else f"({after}", limit])
    return int(size), [_member(*one) for one in found]


def _state(version: int, size: int, found: Sequence[str] | None) -> bytes:
    state: dict[str, Any] = {"count": size, "version": version}
    if found is not None:
        state["members"] = [_named(user, _parts(value)[3]) for user, value in sorted(_pairs(found))]
    return msgspec.json.encode(state)


def _named(user: str, info: str) -> dict[str, Any]:
    return {"user": user, "info": msgspec.Raw(info.encode())}


def _position(epoch: str | None, version: str | None) -> Position:
    return Position(epoch, int(version or 0)) if epoch else Position(None, 0)


def _member(user: str, value: str, shown_since: str) -> RoomMember:
    connections, joined_at, _said_at, info = _parts(value)
    moment = datetime.fromtimestamp(max(int(joined_at), int(shown_since)) / 1000, tz=UTC)
    return RoomMember(user, msgspec.json.decode(info), int(connections), moment)


def _parts(value: str) -> list[str]:
    return value.split(" ", 3)


def _pairs(flat: Sequence[str]) -> list[tuple[str, str]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _fresh_token() -> str:
    """A room's epoch where it has none, and what questions are told apart by."""
    return secrets.token_urlsafe(9)


def _run(text: str, args: Sequence[str | int | bytes]) -> Any:
    return registry.script(text, args)
