"""Live boards on the real stack: two web processes, by every way in."""

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis import Redis

from leaderboards import live
from realtime.protocol import CloseCode
from tests.leaderboards.watchers import Watcher
from tests.realtime.sockets import Socket, dial
from tests.servers import Stack


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
