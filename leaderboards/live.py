"""Live boards: the top of each as listeners know it, numbered by versions, and what makes one of the one before.

Redis has it once for all processes (live_scripts.py): whoever finds first that a ranking has gone on brings the top up
to date and publishes what has changed; the others find that done. The versions are those of one window: another one
begins anew, under another epoch, and listeners get all of it.
"""

import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from django.db import DatabaseError
from django.utils import timezone
from msgspec import UNSET

from accounts.errors import ApiError
from leaderboards import boards, indexing, live_scripts, shapes, standings, windows
from leaderboards.models import Board, Window
from leaderboards.ranking import Found, Ranking, WindowKey
from leaderboards.rights import topic_of
from leaderboards.scoring import plain
from leaderboards.shapes import Number, Ranked
from realtime import bus, protocol
from realtime.frames import Event
from realtime.log import Position
from realtime.redis_scripts import Argument, RedisDown, run

logger = logging.getLogger(__name__)

TOP = 100
TICK_SECONDS = 0.1  # No board is told of more often.
AHEAD_SECONDS = 10.0  # So long a head that is ahead of the ranking is believed: then the database was restored.
KEPT_SECONDS = 7 * 24 * 3600
WINDOW_SECONDS = 1.0  # A process goes by what it knows of a board's window.
WINDOWS_REMEMBERED = 10_000

Rows = list[Ranked]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A board's top at a version; `state` is what clients see, as JSON."""

    epoch: str
    version: int
    state: bytes


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a board's ranking has come. The window is nothing where the board has none."""

    window: str
    head: int


@dataclass(slots=True)
class Round:
    """How far the rankings of boards are, of those that can be read now, and when the next of them may be told of.

    `closed`: boards that are for backends only.
    """

    marks: dict[str, Mark] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    wait: float = TICK_SECONDS


class Own(msgspec.Struct, frozen=True):
    """How one user stands in a board."""

    score: Number
    subscore: Number
    rank: int
    position: int
    total: int


# --- Ticks ----------------------------------------------------------------------------------------


def tick(names: Sequence[str]) -> Round:
    """Brings boards up to date, and publishes what has changed of those that nobody has told of for TICK_SECONDS.

    Raises RedisDown, and what the database raises.
    """
    this = Round(wait=TICK_SECONDS)
    found = run(live_scripts.LOOK, list(map(_key, names)), [_ms(TICK_SECONDS)], decode=True) if names else []
    for name, (identity, head, due) in zip(names, found, strict=True):
        known = Mark(identity, int(head))
        try:
            mark, window = _mark(name, known)
            this.marks[name] = mark
            if window and window.board.read == Board.Read.SERVICE:
                this.closed.add(name)
            if due and mark != known and mark.window == known.window:
                this.wait = min(this.wait, due / 1000)
            elif mark != known:
                bus.publish(_advance(name, window))
        except ApiError:  # It is being made anew, and too large to be asked of the database.
            continue
        except (RedisDown, DatabaseError):
            raise
        except Exception:  # One that is broken, as by a ranking that RANKINGS names no more, holds up no other.
            logger.exception("The live board %s cannot be brought up to date", name)
    return this


def own_standings(wanted: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Own]]:
    """How users stand in the main windows of boards, by board and user; who is not ranked is left out."""
    found: dict[str, dict[str, Own]] = {}
    for name, users in wanted.items():
        window = _window(name)
        if window is None:
            found[name] = {}
            continue
        try:
            standing = standings.of(window, users, "ordinal")
        except ApiError:
            continue
        found[name] = {
            row.name: Own(plain(row.score), plain(row.subscore), row.rank, row.rank + 1, standing.total)
            for row in standing.rows
        }
    return found


def _mark(name: str, known: Mark) -> tuple[Mark, Window | None]:
    """How far the ranking of a board's window is. Where another window is known, this process is perhaps late."""
    window = _window(name)
    if _identity(window) != known.window:
        window = _window(name, fresh=True)
    if window is None:
        return Mark("", 0), None
    return Mark(_identity(window), indexing.ask(window, _head).version), window


def _head(ranking: Ranking, key: WindowKey) -> Found:
    """Nobody: only how far it is, which is cheaper to ask than who is where."""
    return Found([], 0, ranking.head(key))


def _advance(name: str, window: Window | None) -> list[Event]:
    rows: Rows = []
    total = head = 0
    if window is not None:
        found = standings.page(window, 0, TOP, "ordinal")
        rows, total, head = [shapes.ranked(row, UNSET) for row in found.rows], found.total, found.version
    label = "" if window is None else window.label
    times = map(_ms, (TICK_SECONDS, AHEAD_SECONDS, KEPT_SECONDS))
    body = msgspec.json.encode(rows)
    args: list[Argument] = [_identity(window), label, head, total, body, secrets.token_urlsafe(9), *times]
    answer = run(live_scripts.ADVANCE, [_key(name)], args, decode=True)
    if not answer:
        return []
    epoch, version, before = answer
    if before is None:
        return [snapshot_event(name, Snapshot(epoch, version, _state(label, total, version, body)))]
    there, removed = difference(msgspec.json.decode(before, type=Rows), rows)
    topic = topic_of(name)
    told = protocol.board(topic, epoch=epoch, version=version, window=label, total=total, set=there, removed=removed)
    return [Event(topic, told, epoch, version)]


def difference(before: Sequence[Ranked], after: Sequence[Ranked]) -> tuple[Rows, list[str]]:
    """What makes one top of another: rows to put in at their ranks, best first, once all of their names and the removed
    ones are out.
    """
    results = {row.name: (row.score, row.subscore) for row in after}
    kept = {row.name for row in before if results.get(row.name) == (row.score, row.subscore)}
    if [row.name for row in before if row.name in kept] != [row.name for row in after if row.name in kept]:
        kept.clear()  # Somebody got the same result once more, later than others.
    return [row for row in after if row.name not in kept], [row.name for row in before if row.name not in results]


# --- What there is --------------------------------------------------------------------------------


def positions(names: Sequence[str]) -> dict[str, Position]:
    """Where the versions of boards stand; (None, 0) for one that nobody has listened to lately. Raises RedisDown."""
    found = run(live_scripts.POSITIONS, list(map(_key, names)), [], decode=True) if names else []
    return {
        name: Position(epoch, int(version)) if epoch else Position(None, 0)
        for name, (epoch, version) in zip(names, found, strict=True)
    }


def snapshot(name: str) -> Snapshot | None:
    """A board's top as its listeners know it; None while it has none. Raises RedisDown."""
    epoch, version, label, total, rows = run(live_scripts.SNAPSHOT, [_key(name)], [], decode=True)
    if not epoch:
        return None
    return Snapshot(epoch, int(version), _state(label, int(total), int(version), rows.encode()))


def snapshot_event(name: str, at: Snapshot) -> Event:
    """Everything about a board, for listeners who have missed something."""
    topic = topic_of(name)
    return Event(
        topic, protocol.board(topic, epoch=at.epoch, version=at.version, snapshot=at.state), at.epoch, at.version
    )


def _state(label: str, total: int, version: int, rows: bytes) -> bytes:
    state: dict[str, Any] = {
        "window": label or None,
        "total": total,
        "version": version,
        "leaderboard": msgspec.Raw(rows),
    }
    return msgspec.json.encode(state)


def _key(name: str) -> str:
    return f"fanfare:live:{name}"


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


# --- Windows --------------------------------------------------------------------------------------

_windows: dict[str, tuple[float, Window]] = {}  # Until when each is gone by, by the monotonic clock.


def _window(name: str, *, fresh: bool = False) -> Window | None:
    """The main window of a board; None where there is no such board."""
    until, window = _windows.get(name, (0.0, None))
    if window and not fresh and time.monotonic() < until and not (window.ends_at and window.ends_at <= timezone.now()):
        return window
    board = boards.find(name)
    if board is None:
        return None
    window = windows.current(board)
    if len(_windows) >= WINDOWS_REMEMBERED:
        _windows.clear()
    _windows[name] = time.monotonic() + WINDOW_SECONDS, window
    return window


def _identity(window: Window | None) -> str:
    return f"{window.pk}.{window.epoch}" if window else ""
