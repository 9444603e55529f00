"""Presence of real clients on real processes that are killed, restarted and cut off, with a Redis that is lost."""

import asyncio
import json
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from presence.shapes import USERS_MAX
from realtime.protocol import CloseCode
from tests.faults.proxy import Proxy
from tests.realtime.inside import APPLICATION
from tests.realtime.raw import Raw, request
from tests.realtime.sockets import Socket, dial
from tests.servers import Stack, Web, free_port

pytestmark = pytest.mark.any_database

LEASE, GRACE, SLACK = 3.0, 1.0, 2.0
PING = PONG = 1.0
HERE = 200  # Users on each process.


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Beat and a worker; web processes come with each test."""
    with tempfile.TemporaryDirectory(prefix="s", dir=os.environ["FANFARE_TEST_FOLDER"]) as folder:
        limits = {"RATE_SERVICE": "", "RATE_ADDRESS": "", "DRAIN_SECONDS": "1"}
        times = {"PRESENCE_LEASE": str(LEASE), "PRESENCE_GRACE": str(GRACE), "PRESENCE_RESTART_GRACE": "30"}
        with Stack(Path(folder) / "0", **limits, **times) as made:
            made.start_worker()
            made.start_beat()
            made.start_web()
            yield made


@pytest.fixture
def web(stack: Stack) -> Web:
    """The first process, which every test finds alive."""
    return stack.web[0]


@asynccontextmanager
async def there(stack: Stack, web: Web, users: Sequence[str]) -> AsyncIterator[list[Socket]]:
    """A socket of each user on a process."""
    async with AsyncExitStack() as sockets:
        opened = []
        for some in (users[first : first + 50] for first in range(0, len(users), 50)):
            dialled = (sockets.enter_async_context(dial(web, stack.token(user), topics="")) for user in some)
            opened += await asyncio.gather(*dialled)
        yield opened


async def presences(stack: Stack, users: Sequence[str]) -> dict[str, dict[str, Any]]:
    def ask() -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        with stack.client(stack.web[0]) as client:
            for some in (users[first : first + USERS_MAX] for first in range(0, len(users), USERS_MAX)):
                reply = client.post("/api/presence/query", json={"users": some})
                assert reply.status_code == 200, reply.text
                found |= {one["user"]: one for one in reply.json()["presences"]}
        return found

    return await asyncio.to_thread(ask)


async def statuses(stack: Stack, users: Sequence[str]) -> Counter[tuple[str, int]]:
    """How many have which status, and which number."""
    return Counter((one["status"], one["seq"]) for one in (await presences(stack, users)).values())


async def reach(stack: Stack, users: Sequence[str], status: str, seq: int, seconds: float = 15) -> float:
    """Waits until all have a status of this number, and no further one -> the seconds that it took."""
    began = time.monotonic()
    while (now := await statuses(stack, users)) != {(status, seq): len(users)}:
        assert time.monotonic() - began < seconds, now
        await asyncio.sleep(0.1)
    return time.monotonic() - began


def history(stack: Stack, user: str) -> list[tuple[str, str]]:
    with stack.client(stack.web[0]) as client:
        rows = client.get(f"/api/presence/{user}/history").json()["transitions"]
    return [(row["status"], row["reason"]) for row in reversed(rows)]


def names(prefix: str, count: int = HERE) -> list[str]:
    return [f"{prefix}-{number}" for number in range(count)]


async def test_three_devices_are_one_online_and_one_offline(stack: Stack, web: Web) -> None:
    async with dial(web, stack.token("ada")), dial(web, stack.token("ada")):
        async with dial(web, stack.token("ada")):
            await reach(stack, ["ada"], "ONLINE", 1)
        await asyncio.sleep(GRACE + 1)
    await asyncio.sleep(GRACE / 2)
    async with dial(web, stack.token("ada")):  # Back in time.
        await asyncio.sleep(GRACE + 1.5)
        assert await statuses(stack, ["ada"]) == {("ONLINE", 1): 1}
    assert await reach(stack, ["ada"], "OFFLINE", 2) < GRACE + SLACK
    assert history(stack, "ada") == [("ONLINE", "opened"), ("OFFLINE", "closed")]


async def test_logging_out_waits_for_no_grace(stack: Stack, web: Web) -> None:
    async with dial(web, stack.token("leaver")) as socket:
        await reach(stack, ["leaver"], "ONLINE", 1)
        await socket.send(action="logout")
        assert (await socket.end())[0] == CloseCode.REVOKED
        await reach(stack, ["leaver"], "OFFLINE", 2)
    assert history(stack, "leaver")[-1] == ("OFFLINE", "logout")


async def test_connections_are_listed_and_closed_on_whichever_process(stack: Stack, web: Web) -> None:
    other = await asyncio.to_thread(stack.start_web)
    async with dial(web, stack.token("lily", "acme")) as here, dial(other, stack.token("lily", "acme")) as far:
        await reach(stack, ["lily"], "ONLINE", 1)

        def listed(token: str | None = None, **query: str) -> list[dict[str, Any]]:
            with stack.client(web, token) as client:
                return list(client.get("/api/connections", params=query).json()["connections"])

        ids = {socket.events[0]["connectionId"] for socket in (here, far)}
        await asyncio.sleep(0.2)
        for found in (
            listed(user="lily"),
            listed(account="acme", transport="websocket"),
            listed(stack.token("lily", "acme")),
        ):
            assert {one["id"] for one in found} == ids
            assert all(one["topics"] == ["account.acme", "all", "user.lily"] for one in found)
            assert all("websockets" in one["agent"] and one["address"] == "127.0.0.1" for one in found)
        with stack.client(web) as client:
            assert client.delete(f"/api/connections/{far.events[0]['connectionId']}").status_code == 204
            assert client.get("/api/connections", params={"transport": "pigeon"}).status_code == 400
        with stack.client(web, stack.token("rose")) as client:
            assert client.get("/api/connections", params={"user": "lily"}).status_code == 403
        assert (await far.end())[0] == CloseCode.KICKED
        await asyncio.sleep(0.2)
        assert [one["id"] for one in listed(user="lily")] == [here.events[0]["connectionId"]]
    await asyncio.to_thread(other.stop)


async def test_a_killed_process_takes_only_those_offline_who_are_nowhere_else(stack: Stack, web: Web) -> None:
    doomed = await asyncio.to_thread(stack.start_web)
    alone, safe, both = names("doomed", 1000), names("safe", 1000), names("both", 20)
    async with there(stack, web, safe + both):
        async with AsyncExitStack() as dying:
            await dying.enter_async_context(there(stack, doomed, alone + both))
            await reach(stack, alone + safe + both, "ONLINE", 1)
            doomed.kill()
            took = await reach(stack, alone, "OFFLINE", 2)
            assert took < LEASE + GRACE + SLACK
        assert await statuses(stack, safe + both) == {("ONLINE", 1): len(safe + both)}
    assert history(stack, alone[0])[-1] == ("OFFLINE", "node_lost")
    await reach(stack, safe + both, "OFFLINE", 2)


async def test_a_redis_that_loses_everything_or_stands_still_takes_nobody_offline(stack: Stack, web: Web) -> None:
    other = await asyncio.to_thread(stack.start_web)
    users, more = names("kept"), names("coming", 60)
    async with there(stack, web, users[: HERE // 2]), there(stack, other, users[HERE // 2 :]):
        await reach(stack, users, "ONLINE", 1)
        await asyncio.to_thread(flush, stack)
        async with there(stack, web, more):  # Meanwhile.
            await everybody_registered(stack, users + more, 10)
            with stack.valkey.stopped():
                await asyncio.sleep(3)
            await everybody_registered(stack, users + more, 10)
            await asyncio.sleep(LEASE + GRACE)
            assert await statuses(stack, users + more) == {("ONLINE", 1): len(users + more)}
    await asyncio.to_thread(other.stop)


async def everybody_registered(stack: Stack, users: Sequence[str], seconds: float) -> None:
    began = time.monotonic()
    while {one["connections"] for one in (await presences(stack, users)).values()} != {1}:
        assert time.monotonic() - began < seconds
        await asyncio.sleep(0.1)


def flush(stack: Stack) -> None:
    from redis import Redis

    with Redis.from_url(stack.environment["REDIS_URL"]) as client:
        client.flushall()


async def test_a_rolling_restart_takes_nobody_offline(stack: Stack, web: Web) -> None:
    old = await asyncio.to_thread(stack.start_web)
    users = names("rolling", 100)
    ways = {user: [old, web] for user in users}
    done = asyncio.Event()

    async def stay(user: str) -> None:
        """As a client: comes back where somebody is, a moment later."""
        while not done.is_set():
            with suppress(ConnectionClosed, OSError):
                async with dial(ways[user][0], stack.token(user), topics="") as socket:
                    await asyncio.wait(
                        [asyncio.create_task(done.wait()), asyncio.create_task(socket.end(60))],
                        return_when=asyncio.FIRST_COMPLETED,
                    )
            ways[user].reverse()
            await asyncio.sleep(random.uniform(0, 2 * GRACE))

    clients = [asyncio.create_task(stay(user)) for user in users]
    await reach(stack, users, "ONLINE", 1)
    await asyncio.to_thread(old.stop)
    await everybody_registered(stack, users, 15)
    await asyncio.sleep(LEASE + GRACE + 1)
    assert await statuses(stack, users) == {("ONLINE", 1): len(users)}
    done.set()
    await asyncio.gather(*clients)


async def test_a_socket_that_is_half_open_is_found_by_its_pings(stack: Stack) -> None:
    web = await asyncio.to_thread(with_quick_pings, stack)
    proxy = await Proxy(web.port, random.Random(1)).start()
    through = Web(stack, 0, "", "uvicorn", proxy.port, {})
    try:
        async with dial(through, stack.token("mobile")):
            await reach(stack, ["mobile"], "ONLINE", 1)
            proxy.running.clear()
            assert await reach(stack, ["mobile"], "OFFLINE", 2) < PING + PONG + GRACE + SLACK
            proxy.running.set()
    finally:
        await proxy.stop()
    assert history(stack, "mobile")[-1] == ("OFFLINE", "timeout")
    await asyncio.to_thread(web.stop)


@pytest.mark.parametrize(
    ("limit", "messages"), [("realtime.uvicorn_protocol.STUCK_SECONDS", 20), ("realtime.connections.SEND_TIMEOUT", 120)]
)
async def test_a_stream_that_is_not_read_has_not_just_left(stack: Stack, limit: str, messages: int) -> None:
    """By the limit of the kernel, which has taken all, or by our own, when there is more."""
    limits = {"realtime.uvicorn_protocol.STUCK_SECONDS": 60.0, "realtime.connections.SEND_TIMEOUT": 60.0, limit: 1.0}
    web = await asyncio.to_thread(stack.start_web, APPLICATION, CONSTANTS=json.dumps(limits))
    user = f"stuck-{limit.split('.')[1]}"
    with Raw(web.port, small=True) as raw:
        raw.send(request("/api/stream", f"Authorization: Bearer {stack.token(user)}"))
        await reach(stack, [user], "ONLINE", 1)
        for _ in range(messages):
            await asyncio.to_thread(stack.send, {"user": user}, "x" * 50_000, store=False)
        await reach(stack, [user], "OFFLINE", 2, seconds=10 + GRACE + SLACK)
    assert history(stack, user)[-1] == ("OFFLINE", "timeout")
    await asyncio.to_thread(web.stop)


def with_quick_pings(stack: Stack) -> Web:
    web = Web(stack, len(stack.web), "config.asgi:application", "uvicorn", free_port(), {})
    command = ["uvicorn", web.application, "--port", str(web.port), *Web.SERVERS["uvicorn"], "--no-access-log"]
    command += ["--ws-ping-interval", str(PING), "--ws-ping-timeout", str(PONG)]
    web.process = stack.spawn(f"web{web.number}", *command)
    web.wait_until_ready()
    return web
