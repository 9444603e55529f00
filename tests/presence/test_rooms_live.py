"""Rooms on the real stack: two web processes, by every way in."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.presence.roommates import KEY, Room, until
from tests.realtime.sockets import Socket, dial
from tests.servers import Stack


@pytest.fixture(scope="module")
def town() -> Iterator[Stack]:
    with (
        tempfile.TemporaryDirectory(prefix="t", dir=os.environ["FANFARE_TEST_FOLDER"]) as folder,
        Stack(Path(folder) / "town", PRESENCE_LEASE="4") as town,
    ):
        town.start_web()
        town.start_web()
        yield town


def token(town: Stack, user: str) -> str:
    return town.token(user, subscribe=["presence.*"])


def asked(town: Stack, room: str, key: str | None = None, **query: Any) -> Any:
    with town.client(key=key) as client:
        return client.get(f"/api/presence/rooms/{room}", params=query)


async def told(socket: Socket, known: Room, *, count: int) -> None:
    while known.count != count:
        known.take(await socket.next("room", topic="presence.lobby"))


async def test_who_subscribes_is_in_the_room_until_the_last_connection_leaves(town: Stack) -> None:
    here, there = town.web
    async with AsyncExitStack() as open_sockets:
        service = await open_sockets.enter_async_context(dial(there, town.api_key))
        known = Room()
        known.take(await service.ask("subscribed", action="subscribe", topic="presence.lobby"))
        assert known.known == (0, 0, {})
        alice = await open_sockets.enter_async_context(dial(here, token(town, "alice")))
        await alice.ask("subscribed", action="subscribe", topic="presence.lobby", info={"color": "red"})
        await told(service, known, count=1)
        assert known.members == {"alice": {"color": "red"}}
        async with dial(there, token(town, "alice"), topics="presence.lobby") as second:
            assert second.events[0]["topics"]["presence.lobby"]["snapshot"]["members"][0]["user"] == "alice"
            bob = await open_sockets.enter_async_context(dial(there, token(town, "bob"), topics="presence.lobby"))
            await told(service, known, count=2)
            reply = asked(town, "lobby", limit=1).json()
            assert (reply["count"], [(one["user"], one["connections"]) for one in reply["members"]]) == (
                2,
                [("alice", 2)],
            )
            following = asked(town, "lobby", limit=1, cursor=reply["next"]).json()
            assert ([one["user"] for one in following["members"]], following["next"]) == (["bob"], None)
        await alice.ask("unsubscribed", action="unsubscribe", topic="presence.lobby")
        await told(service, known, count=1)
        assert known.members == {"bob": None}
        await bob.connection.close()
        await told(service, known, count=0)
        assert asked(town, "lobby").json() == {"count": 0, "members": [], "next": None}


async def test_a_room_is_for_those_to_whom_it_was_opened(town: Stack) -> None:
    web = town.web[0]
    plain, other = town.token("mallory"), town.token("mallory", subscribe=["presence.other"])
    for credential in (plain, other):
        assert asked(town, "lobby", credential).json()["error"]["code"] == "denied"
        async with dial(web, credential) as mallory:
            answer = await mallory.ask("error", action="subscribe", topic="presence.lobby")
            assert answer["code"] == "denied"
    assert asked(town, "other", other).status_code == 200
    async with dial(web, token(town, "alice")) as alice:
        for wrong in ({"topic": "presence.a", "info": "x" * 1023}, {"topic": "user.alice", "info": 1}):
            assert (await alice.ask("error", action="subscribe", **wrong))["code"] == "malformed"
        await alice.ask("subscribed", action="subscribe", topic="presence.a", info="x" * 1022)
        assert (await alice.ask("error", action="publish", topic="presence.a", data=1))["code"] == "denied"


async def test_a_stream_and_a_poll_are_in_the_room_too_and_a_poll_lingers(town: Stack) -> None:
    with town.client(key=token(town, "polly")) as client:
        with client.stream("GET", "/api/stream", params={"topics": "presence.streams"}) as stream:
            lines = stream.iter_lines()
            welcome = json.loads(next(lines).removeprefix("data: "))
            assert welcome["topics"]["presence.streams"]["snapshot"]["count"] == 0
            await until(lambda: asked(town, "streams").json()["count"] == 1)
        await until(lambda: asked(town, "streams").json()["count"] == 0)
        first = client.get("/api/poll", params={"topics": "presence.polls", "wait": 0}).json()
        await until(lambda: asked(town, "polls").json()["count"] == 1)
        second = client.get("/api/poll", params={"topics": "presence.polls", "since": first["since"], "wait": 5}).json()
        known = Room()
        for event in second["events"]:
            known.take(event)
        assert known.members == {"polly": None}
        third = client.get("/api/poll", params={"topics": "presence.polls", "since": second["since"], "wait": 0})
        assert third.json()["events"] == []
        (polly,) = asked(town, "polls").json()["members"]
        assert (polly["user"], polly["connections"]) == ("polly", 1)


async def test_redis_is_emptied_and_all_are_back_for_those_who_listen(town: Stack) -> None:
    here, there = town.web
    async with (
        dial(here, token(town, "alice"), topics="presence.lobby") as alice,
        dial(there, token(town, "bob")) as bob,
    ):
        known = Room()
        known.take({"event": "subscribed", **alice.events[0]["topics"]["presence.lobby"]})
        await bob.ask("subscribed", action="subscribe", topic="presence.lobby", info="here")
        await told(alice, known, count=2)
        Redis.from_url(town.environment["REDIS_URL"]).flushall()
        epoch = known.epoch
        while known.epoch == epoch or known.count != 2:
            known.take(await alice.next("room", topic="presence.lobby"))
        assert known.members == {"alice": None, "bob": "here"}
        assert {one["user"] for one in asked(town, "lobby").json()["members"]} == {"alice", "bob"}


async def test_who_was_in_a_room_on_a_killed_process_is_out_once_its_lease_is_over(town: Stack) -> None:
    here, there = town.web
    doomed = town.start_web()
    async with dial(here, town.api_key, topics="presence.lobby") as service, AsyncExitStack() as open_sockets:
        known = Room()
        known.take({"event": "subscribed", **service.events[0]["topics"]["presence.lobby"]})
        for web, user in ((doomed, "alice"), (doomed, "bob"), (there, "bob")):
            await open_sockets.enter_async_context(dial(web, token(town, user), topics="presence.lobby"))
        await told(service, known, count=2)
        doomed.kill()
        redis: Any = Redis.from_url(town.environment["REDIS_URL"], decode_responses=True)
        for name in redis.smembers(f"{KEY}room-nodes"):
            if len(redis.hkeys(f"{KEY}room-node:{name}")) == 2:
                redis.zadd(f"{KEY}nodes", {name: 1})  # Fifteen seconds later.
        redis.set(f"{KEY}since", 1)
        town.python("from presence import rooms\nrooms.sweep()")
        await told(service, known, count=1)
        assert known.members == {"bob": None}
