"""Listeners of live boards, and a ticker that tells them, on a bus that loses events."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from leaderboards import boards, live, submitting, ticker
from leaderboards.models import Board
from leaderboards.submitting import Score
from leaderboards.ticker import Ticker
from leaderboards.topics import BoardLog
from realtime import bus, protocol
from realtime.database import in_database
from realtime.frames import Event
from realtime.hub import Hub
from tests.leaderboards.watchers import Watcher, fresh
from tests.presence.redis import TestRedis
from tests.presence.roommates import until
from tests.realtime.fakes import FakeMembership, Recorder

TOPIC = "board.arena"


class Process:
    """A web process's hub and ticker, on a bus that loses some of what it is to bring."""

    def __init__(self, loses: float = 0) -> None:
        self.loses, self.chance, self.lost = loses, random.Random(3), 0
        self.hub = Hub(
            BoardLog(),
            FakeMembership(),
            shared=lambda _name: False,
            recovery_events=100,
            recovery_bytes=1_000_000,
            is_state=lambda _name: True,
        )
        self.ticker = Ticker(self.hub)
        self._loop = asyncio.get_running_loop()

    def publish(self, events: list[Event]) -> None:
        self._loop.call_soon_threadsafe(self._bring, list(events))

    def _bring(self, events: list[Event]) -> None:
        for event in events:
            if self.chance.random() < self.loses:
                self.lost += 1
            else:
                self.hub.receive(event.topic, [event])

    async def connect(self, user: str = "ada", *, me: bool = False) -> Recorder:
        """What the consumer does."""
        connection = Recorder(user)
        (found,) = await self.hub.subscribe(connection, {TOPIC: None})
        connection.send(protocol.subscribed(TOPIC, found.epoch, found.offset, found.recovered, None, found.snapshot))
        self.hub.go_live(connection, [found])
        if me:
            self.ticker.follow(connection, TOPIC, user)
        return connection


@pytest.fixture
async def process(redis: TestRedis, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Process]:
    process = Process()
    monkeypatch.setattr(bus, "publish", process.publish)
    yield process
    await process.ticker.stop()
    live._windows.clear()
    boards._found.clear()


async def make(**changes: Any) -> Board:
    board, _created = await in_database(boards.put, "arena", changes, None)
    return board


async def submit(board: Board, *scores: tuple[str, float]) -> None:
    await in_database(submitting.submit, board, [Score(name, float(score)) for name, score in scores], "test")


def known_of(connection: Recorder) -> Watcher:
    watcher = Watcher()
    for event in connection.events:
        watcher.take(event)
    return watcher


@pytest.mark.django_db(transaction=True)
async def test_who_misses_versions_gets_a_snapshot_and_knows_what_is_there(process: Process) -> None:
    board = await make(operator="set")
    process.loses = 0.3
    process.ticker.start()
    watchers = [await process.connect(f"watcher-{n}") for n in range(3)]
    for _ in range(15):
        await submit(board, *((f"user-{process.chance.randrange(30)}", process.chance.randrange(9)) for _ in range(5)))
        await asyncio.sleep(live.TICK_SECONDS)
    process.loses = 0
    assert process.lost
    await submit(board, ("last", 100))
    await until(lambda: all(known_of(one).results[:1] == [("last", 100)] for one in watchers))
    end = await in_database(fresh, "arena")
    for one in watchers:
        known = known_of(one)
        assert (known.epoch, known.version, known.top) == (end.epoch, end.version, end.top)
        assert known.snapshots > 1
        assert known.diffs > 1


@pytest.mark.django_db(transaction=True)
async def test_users_are_told_how_they_stand_at_ticks_when_that_has_changed(process: Process) -> None:
    board = await make()
    await submit(board, ("ada", 5), ("bob", 3))
    ada, bob, cyd = [await process.connect(name, me=True) for name in ("ada", "bob", "cyd")]
    process.ticker.start()
    await until(lambda: all(known_of(one).mine for one in (ada, bob, cyd)))
    assert known_of(bob).mine == [{"score": 3, "subscore": 0, "rank": 1, "position": 2, "total": 2}]
    assert known_of(cyd).mine == [None]
    for score in range(6, 20):
        await submit(board, ("ada", score))
    await submit(board, ("cyd", 4))
    await until(lambda: known_of(cyd).mine[-1] is not None and known_of(ada).mine[-1]["score"] == 19)  # type: ignore[index]
    await until(lambda: known_of(bob).mine[-1]["rank"] == 2)  # type: ignore[index]
    assert len(known_of(bob).mine) == 2  # What ada did has changed nothing for him.
    assert len(known_of(ada).mine) < 14
    process.ticker.unfollow(ada, TOPIC)
    before = len(known_of(ada).mine)
    await submit(board, ("ada", 1000), ("cyd", 5))
    await until(lambda: known_of(cyd).mine[-1]["score"] == 5)  # type: ignore[index]
    assert len(known_of(ada).mine) == before
    process.hub.leave(bob)
    process.hub.leave(cyd)
    await until(lambda: not process.ticker._users)


@pytest.mark.django_db(transaction=True)
async def test_a_round_asks_for_so_many_users_and_each_has_a_turn(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ticker, "OWN_AT_ONCE", 10)
    asked: list[list[str]] = []

    def own_standings(wanted: dict[str, list[str]], real: Any = live.own_standings) -> Any:
        asked.extend(wanted.values())
        return real(wanted)

    monkeypatch.setattr(live, "own_standings", own_standings)
    board = await make()
    await submit(board, ("ada", 1))
    users = [f"user-{n:02}" for n in range(35)]
    connections = [await process.connect(user, me=True) for user in users]
    process.ticker.start()
    await until(lambda: all(known_of(one).mine == [None] for one in connections))
    assert [len(some) for some in asked] == [10, 10, 10, 5]
    await submit(board, ("bob", 1))
    await until(lambda: len(asked) == 8)
    assert sorted(name for some in asked[4:] for name in some) == users
    assert all(known_of(one).mine == [None] for one in connections)


@pytest.mark.django_db(transaction=True)
async def test_nobody_listens_nothing_is_asked(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[list[str]] = []

    def tick(names: list[str], real: Any = live.tick) -> Any:
        rounds.append(names)
        return real(names)

    monkeypatch.setattr(live, "tick", tick)
    process.ticker.start()
    await asyncio.sleep(3 * live.TICK_SECONDS)
    assert rounds == []
    connection = await process.connect()
    await until(lambda: len(rounds) > 2)
    process.hub.leave(connection)
    await asyncio.sleep(live.TICK_SECONDS)
    count = len(rounds)
    await asyncio.sleep(3 * live.TICK_SECONDS)
    assert len(rounds) == count
