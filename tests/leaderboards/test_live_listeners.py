"""Listeners of live boards: by a bus that loses events, and on the real stack with two web processes."""

import asyncio
import json
import os
import random
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from leaderboards import boards, live, submitting, ticker
from leaderboards.models import Board
from leaderboards.submitting import Score
from leaderboards.ticker import Ticker
from leaderboards.topics import BoardLog
from realtime import bus, protocol
from realtime.database import in_database
from realtime.frames import Event
from realtime.hub import Hub
from realtime.protocol import CloseCode
from tests.leaderboards.watchers import Watcher, fresh
from tests.presence.redis import TestRedis
from tests.presence.roommates import until
from tests.realtime.fakes import FakeMembership, Recorder
from tests.realtime.sockets import Socket, dial
from tests.servers import Stack

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


# --- Two processes --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def town() -> Iterator[Stack]:
    with (
        tempfile.TemporaryDirectory(prefix="t", dir=os.environ["FANFARE_TEST_FOLDER"]) as folder,
        Stack(Path(folder) / "town") as town,
    ):
        town.start_web()
        town.start_web()
        yield town


def put(town: Stack, board: str, scores: Mapping[str, float]) -> None:
    with town.client() as client:
        body = {"scores": [{"name": name, "score": score} for name, score in scores.items()]}
        reply = client.post(f"/api/leaderboards/{board}", json=body)
        assert reply.status_code == 202, reply.text


def top(town: Stack, board: str) -> list[tuple[str, float]]:
    with town.client() as client:
        reply = client.get(f"/api/leaderboards/{board}", params={"startRank": 0, "endRank": 100}).json()
        return [(row["name"], row["score"]) for row in reply["leaderboard"]]


@asynccontextmanager
async def watching(
    town: Stack, board: str, process: int, user: str | None = "ada"
) -> AsyncIterator[tuple[Socket, Watcher]]:
    """`user` None: a service."""
    async with dial(town.web[process], town.token(user) if user else town.api_key) as socket:
        watcher = Watcher()
        watcher.take(await socket.ask("subscribed", action="subscribe", topic=f"board.{board}"))
        yield socket, watcher


async def follow(socket: Socket, watcher: Watcher, until: list[tuple[str, float]]) -> None:
    while watcher.results != until:
        watcher.take(await socket.next("board"))


async def test_all_watchers_of_two_processes_get_the_same_events_one_a_tick(town: Stack) -> None:
    board, seconds = "race", 2.0
    await asyncio.to_thread(put, town, board, {"zed": 1})
    async with (
        watching(town, board, 0) as one,
        watching(town, board, 1, "bob") as two,
        watching(town, board, 1) as three,
    ):
        loop = asyncio.get_running_loop()
        began, sent = loop.time(), 0
        while loop.time() - began < seconds:
            scores = {f"user-{n}": sent + n for n in range(50)}
            await asyncio.to_thread(put, town, board, scores)
            sent += 50
        end = top(town, board)
        for socket, watcher in (one, two, three):
            await follow(socket, watcher, end)
        took = loop.time() - began
        told = [[event for event in socket.events if event["event"] == "board"] for socket, _ in (one, two, three)]
        assert told[0] == told[1] == told[2]
        assert all(watcher.snapshots == 1 for _, watcher in (one, two, three))
        assert 3 < len(told[0]) <= took / live.TICK_SECONDS + 1
        await one[0].silence()
        assert sum(event["event"] == "board" for event in one[0].events) == len(told[0])


async def test_a_reset_and_a_lost_redis_bring_snapshots(town: Stack) -> None:
    board = "arena"
    await asyncio.to_thread(put, town, board, {"ada": 5, "bob": 4})
    async with watching(town, board, 0) as one, watching(town, board, 1) as two:
        for socket, watcher in (one, two):
            await follow(socket, watcher, [("ada", 5), ("bob", 4)])
        with town.client() as client:
            assert client.post(f"/api/leaderboards/{board}/windows", json={}).is_success
        for socket, watcher in (one, two):
            await follow(socket, watcher, [])
            assert (watcher.window, watcher.snapshots) == ("2", 2)
        await asyncio.to_thread(put, town, board, {"cyd": 7})
        for socket, watcher in (one, two):
            await follow(socket, watcher, [("cyd", 7)])
        Redis.from_url(town.environment["REDIS_URL"]).flushall()
        await asyncio.to_thread(put, town, board, {"ada": 8})
        for socket, watcher in (one, two):
            await follow(socket, watcher, [("ada", 8), ("cyd", 7)])
            assert watcher.snapshots >= 3


async def test_me_is_for_users_and_boards_and_comes_when_it_changes(town: Stack) -> None:
    board = "mine"
    await asyncio.to_thread(put, town, board, {"zed": 5})
    async with dial(town.web[0], town.token("ada")) as ada, dial(town.web[1], town.api_key) as service:
        about = {"action": "subscribe", "topic": f"board.{board}"}
        assert (await service.ask("error", **about, me=True))["code"] == "denied"
        assert (await service.ask("subscribed", **about))["snapshot"]["total"] == 1
        for wrong in ({"topic": "user.ada"}, {"topic": "watch", "users": ["bob"]}):
            assert (await ada.ask("error", action="subscribe", **wrong, me=True))["code"] == "malformed"
        answer = await ada.ask("subscribed", **about, me=True)
        assert [row["name"] for row in answer["snapshot"]["leaderboard"]] == ["zed"]
        assert (await ada.next("board", me=None))["topic"] == f"board.{board}"
        await asyncio.to_thread(put, town, board, {"ada": 3})
        mine = {"score": 3, "subscore": 0, "rank": 1, "position": 2, "total": 2}
        assert await ada.next("board", me=mine)
        await asyncio.to_thread(put, town, board, {"zed": 6})
        await ada.next("board", version=3)
        await ada.silence()
        assert [event["me"] for event in ada.events if "me" in event] == [None, mine]
        await ada.ask("subscribed", **about)
        await asyncio.to_thread(put, town, board, {"ada": 30})
        await ada.next("board", version=4)
        await ada.silence()
        assert [event["me"] for event in ada.events if "me" in event] == [None, mine]


async def test_a_board_that_is_closed_to_users_sends_them_away_and_services_stay(town: Stack) -> None:
    put(town, "secret", {"ada": 1})
    opened = town.token("bob", subscribe=["board.secret"])
    async with (
        watching(town, "secret", 0) as (ada, _),
        dial(town.web[0], opened, topics="board.secret") as bob,
        watching(town, "secret", 0, None) as (service, known),
    ):
        with town.client() as client:
            assert client.put("/api/leaderboards/secret", json={"read": "service"}).is_success
        for socket in (ada, bob):
            assert (await socket.end())[0] == CloseCode.RESYNC
        put(town, "secret", {"ada": 2})
        await follow(service, known, [("ada", 2)])
    async with dial(town.web[1], town.token("ada")) as ada, dial(town.web[1], opened) as bob:
        assert (await ada.ask("error", action="subscribe", topic="board.secret"))["code"] == "denied"
        await bob.ask("subscribed", action="subscribe", topic="board.secret")


def test_a_stream_and_a_poll_have_the_board_too(town: Stack) -> None:
    put(town, "ways", {"ada": 1})
    with town.client(key=town.token("ada")) as client:
        with client.stream("GET", "/api/stream", params={"topics": "board.ways"}) as stream:
            lines = (line.removeprefix("data: ") for line in stream.iter_lines() if line.startswith("data: "))
            watcher = Watcher()
            watcher.take(json.loads(next(lines))["topics"]["board.ways"])
            put(town, "ways", {"bob": 2})
            watcher.take(json.loads(next(lines)))
            assert watcher.results == [("bob", 2), ("ada", 1)]
        first = client.get("/api/poll", params={"topics": "board.ways", "wait": 0}).json()
        put(town, "ways", {"cyd": 3})
        second = client.get("/api/poll", params={"topics": "board.ways", "since": first["since"], "wait": 10}).json()
        polled = Watcher()
        for event in (*first["events"], *second["events"]):
            polled.take(event)
        assert polled.results == [("cyd", 3), ("bob", 2), ("ada", 1)]


async def test_while_redis_is_stopped_boards_wait_and_then_go_on(town: Stack) -> None:
    board = "calm"
    await asyncio.to_thread(put, town, board, {"ada": 5})
    async with watching(town, board, 0) as (socket, watcher):
        with town.valkey.stopped():
            await asyncio.to_thread(put, town, board, {"bob": 6})
        await follow(socket, watcher, [("bob", 6), ("ada", 5)])
