"""Who is connected: what the web processes tell Redis of their connections, and what it says of users.

It is never the only copy: processes know their connections, and tell again when Redis has lost them. Everything here
raises RedisDown when Redis does not answer in time.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from django.conf import settings

from presence import scripts
from realtime.redis_scripts import Argument, run


class LiveConnection(msgspec.Struct):
    """A live connection, as it is kept and as the API shows it. Times are by the clock of its process.

    `last_active`: when its client last said something, to the minute.
    """

    id: str
    user: str | None
    account: str | None
    session: str | None
    transport: str
    address: str | None
    agent: str
    connected_at: datetime
    last_active: datetime
    topics: list[str]


def counts(users: Collection[str]) -> dict[str, int]:
    """How many live connections each of these users has."""
    names = list(users)
    found = msgspec.json.decode(script(scripts.COUNTS, [msgspec.json.encode(names)]), type=list[int])
    return dict(zip(names, found, strict=True))


def script(text: str, args: Sequence[Argument]) -> Any:
    """Runs a Lua script, which Redis keeps compiled -> its answer, with texts in `str`."""
    return run(text, [], args, decode=True)


# --- For web processes ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Gone:
    """A connection that was closed: the user is due so many seconds after the last one."""

    id: str
    user: str | None
    reason: str
    grace: float


@dataclass(frozen=True, slots=True)
class Answer:
    """`since` changes when Redis has lost something, or did not answer for long: then everybody registers again.

    `number`: of the last changes that came from this process, before these.
    `moved`: who has a first connection now, or none and no grace.
    """

    since: str
    number: int
    moved: list[str]


def change(boot: str, number: int, here: Iterable[LiveConnection], gone: Iterable[Gone]) -> Answer:
    """Registers connections of a process, or what is new of them, and takes closed ones out; renews its lease."""
    put = [(one.id, one.user or "", msgspec.json.encode(one).decode()) for one in here]
    out = [(one.id, one.user or "", one.reason, one.grace) for one in gone]
    since, before, moved = _call(scripts.CHANGE, boot, number, msgspec.json.encode(put), msgspec.json.encode(out))
    return Answer(since, int(before), moved)


def renew(boot: str) -> Answer:
    """Renews a process's lease: it lives for PRESENCE_LEASE seconds more."""
    since, number = _call(scripts.RENEW, boot)
    return Answer(since, int(number), [])


def retire(boot: str, rooms_for: float = 0.0) -> None:
    """Ends a process's lease, so many seconds later if it has anybody in rooms. Who is registered still is swept."""
    script(scripts.RETIRE, [boot, rooms_for])


# --- For settling ---------------------------------------------------------------------------------


class Standing(msgspec.Struct, array_like=True, frozen=True):
    """What Redis says of a user. `due` as it is there, to see whether it has moved; `waits`: the time is to come."""

    connections: int
    due: str
    waits: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Census:
    """`whole`: whether those without a connection have none, or may just not have been registered again."""

    whole: bool
    users: dict[str, Standing]


def census(users: Collection[str]) -> Census:
    names = list(users)
    whole, found = _call(scripts.CENSUS, _longest(), *names)
    standings = msgspec.json.decode(found, type=list[Standing])
    return Census(bool(whole), dict(zip(names, standings, strict=True)))


def settled(done: Iterable[tuple[str, str]], later: Iterable[str]) -> None:
    """Users who need not be settled again, unless they have become due anew; and those who wait until all is whole."""
    _call(scripts.SETTLED, msgspec.json.encode(list(done)), msgspec.json.encode(list(later)))


def due(limit: int) -> tuple[list[str], int]:
    """Some of the users who are due, and how many are waiting in all, due or not."""
    users, waiting = _call(scripts.DUE, limit, _longest())
    return users, waiting


def _longest() -> float:
    """Seconds; nothing is due later, unless Redis' clock was set back."""
    return 2 * max(map(float, (settings.PRESENCE_GRACE, settings.PRESENCE_RESTART_GRACE, settings.PRESENCE_LEASE)))


def forget(user: str) -> None:
    """Nothing is to be settled for a user who was erased."""
    script(scripts.FORGET, [user])


# --- For sweeping ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lost:
    """Connections of a process whose lease is over. `moved` are registered by another one by now."""

    boot: str
    connections: list[LiveConnection]
    moved: list[str]


def lost(sweeper: str, limit: int) -> Lost | None:
    """Some of the connections that are to be taken out, for one sweeper at a time; None where there are none."""
    boot, found = _call(scripts.LOST, sweeper, limit)
    if not boot:
        return None
    connections = [msgspec.json.decode(about, type=LiveConnection) for _id, about, only in found if only]
    return Lost(boot, connections, [name for name, _about, only in found if not only])


def take(found: Lost, grace: float) -> int:
    """Takes them out, each once whoever tries -> how many. Their users are due after the lease and the grace."""
    return int(_call(scripts.TAKE, found.boot, grace, *(one.id for one in found.connections), *found.moved))


@dataclass(frozen=True, slots=True)
class Look:
    """How far users who are ONLINE were looked at. `all_seen`: once to the end, since Redis has lost anything."""

    since: str
    whole: bool
    all_seen: bool
    user: str


def look() -> Look:
    since, whole, seen, user = _call(scripts.LOOK)
    return Look(since, bool(whole), seen == since, user)


def looked(at: Look) -> None:
    """Where the next look goes on."""
    script(scripts.LOOKED, [at.since if at.all_seen else "", at.since, at.user])


# --- For lists ------------------------------------------------------------------------------------


def connections_of(user: str) -> list[LiveConnection]:
    """All of a user's live connections, by id."""
    return sorted(_read(script(scripts.OF_USER, [user])), key=lambda one: one.id)


def connections(after: str, limit: int) -> tuple[list[LiveConnection], str | None]:
    """Live connections in the order of their ids, beginning after one -> some, and the last that was looked at.

    What is there all the time is found once, whatever comes and goes meanwhile.
    """
    found = script(scripts.PAGE, [f"({after};" if after else "-", limit])
    last = found[-1][0] if len(found) == limit else None
    return list({one.id: one for one in _read(found)}.values()), last


def _read(found: Iterable[tuple[str, str]]) -> list[LiveConnection]:
    return [msgspec.json.decode(about, type=LiveConnection) for _id, about in found if about]


# --- Calls ----------------------------------------------------------------------------------------


def _call(text: str, *args: Argument) -> Any:
    return script(text, [settings.PRESENCE_LEASE, *args])
