"""Receiving over HTTP: at once or within the wait, and nothing is lost with a client that leaves."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest

from accounts.errors import ApiError
from adapters import fetching, waiting
from adapters.fetch_endpoint import receive_messages
from adapters.waiting import Waiter, room
from realtime import runtime
from realtime.database import in_database
from tests.accounts.calling import service
from tests.adapters.tables import APPLICATION, lend, make, put
from tests.realtime.raw import Raw, http, request
from tests.servers import Stack, eventually

# --- Whoever has left -----------------------------------------------------------------------------


@pytest.fixture
async def loop_of_a_web_process() -> AsyncIterator[None]:
    yield
    await runtime.stop()


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("loop_of_a_web_process")
@pytest.mark.parametrize("wait", [0, 5])
async def test_what_was_lent_for_a_client_that_left_is_there_again_at_once(wait: int) -> None:
    table = await in_database(make)
    (id,) = await in_database(put, table)
    key = (await in_database(service, "deliveries:write")).credential
    body = msgspec.json.encode({"wait": wait})
    messages: Iterator[dict[str, Any]] = iter([{"type": "http.request", "body": body}, {"type": "http.disconnect"}])
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return next(messages)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"authorization", f"Bearer {key}".encode()), (b"content-type", b"application/json")]
    await receive_messages({"type": "http", "method": "POST", "headers": headers, "client": None}, receive, send)
    assert sent == []
    (again,) = await in_database(lend, table)
    assert (again.id, again.received) == (id, 1)


@pytest.mark.django_db(transaction=True)
async def test_what_was_lent_for_one_who_left_in_that_moment_is_there_again_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = await in_database(make)
    loop, receive = asyncio.get_running_loop(), fetching.receive
    waiter, lent = Waiter(frozenset([table.id]), 10, 30), asyncio.Event()

    def receive_and_be_left(*args: Any) -> list[fetching.Fetched]:
        found = receive(*args)
        loop.call_soon_threadsafe(waiter.found.cancel)
        loop.call_soon_threadsafe(lent.set)
        return found

    monkeypatch.setattr(fetching, "receive", receive_and_be_left)
    with room().waiting(waiter):
        (id,) = await in_database(put, table)
        await asyncio.wait_for(lent.wait(), 5)
    monkeypatch.undo()
    found: list[fetching.Fetched] = []
    async with asyncio.timeout(5):
        while not found:
            found = await in_database(lend, table)
    assert [(one.id, one.received) for one in found] == [(id, 1)]


@pytest.mark.django_db(transaction=True)
async def test_those_who_wait_are_looked_out_for_together_and_served_in_their_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks, ready = [], fetching.ready

    def look(tables: Collection[UUID]) -> list[UUID]:
        looks.append(tables)
        return ready(tables)

    monkeypatch.setattr(fetching, "ready", look)
    monkeypatch.setattr(waiting, "WAITING_MAX", 50)
    table, other = await in_database(make, "a"), await in_database(make, "b")
    waiters = [Waiter(frozenset([table.id if number else other.id]), 1, 30) for number in range(50)]
    with ExitStack() as waits:
        for waiter in waiters:
            waits.enter_context(room().waiting(waiter))
        with pytest.raises(ApiError) as refused:
            waits.enter_context(room().waiting(Waiter(frozenset(), 1, 30)))
        assert (refused.value.status, refused.value.retry_after) == (503, 5)
        await asyncio.sleep(1)
        assert 1 <= len(looks) <= 1 / waiting.LOOK_SECONDS
        ids = await in_database(put, table, 3)
        await asyncio.wait_for(waiters[3].found, 2)
        assert [waiter.found.result()[0].id for waiter in waiters[1:4]] == ids
        assert [number for number, waiter in enumerate(waiters) if waiter.found.done()] == [1, 2, 3]
    assert all(waiter.found.done() for waiter in waiters)


# --- Receiving over HTTP, on the real stack -------------------------------------------------------


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    folder = TemporaryDirectory(prefix="t", dir=os.environ["FANFARE_TEST_FOLDER"])
    with folder as path, Stack(Path(path) / "0") as stack:
        stack.start_web(APPLICATION)
        yield stack
        assert "Traceback" not in stack.logs(), stack.logs()[-3000:]


@pytest.fixture
def table(request: pytest.FixtureRequest) -> str:
    return f"t{abs(hash(request.node.name))}"


def ask(stack: Stack, body: Any = None, *, key: str | None = None, method: str = "POST", **more: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key or stack.api_key}", **more.pop("headers", {})}
    url = f"{stack.web[0].url}/api/client-messages/receive"
    return http.request(method, url, json=body, headers=headers, **more)


def fetch(stack: Stack, **body: Any) -> list[dict[str, Any]]:
    reply = ask(stack, body)
    assert reply.status_code == 200, reply.text
    return list(reply.json()["messages"])


def inside(stack: Stack, deed: str, **asked: Any) -> Any:
    return http.get(f"{stack.web[0].url}/test/{deed}", params=asked).raise_for_status().json()


def add(stack: Stack, table: str, number: int = 1) -> list[str]:
    return list(inside(stack, "put", table=table, number=number))


def await_waiting(stack: Stack, number: int) -> None:
    eventually(lambda: bool(inside(stack, "waiting") == number), 5)


def test_messages_are_received_and_acknowledged_over_http(stack: Stack, table: str) -> None:
    ids = add(stack, table, 12)
    first = fetch(stack, destination=table)
    assert [one["messageId"] for one in first] == ids[:10]
    assert first[0].keys() == {"messageId", "receipt", "received", "body"}
    assert first[0]["body"] == {"type": "client.send", "timestamp": "2026-01-31T12:00:00Z", "data": {}}
    rest = fetch(stack, destination=table, max=10, visibility=5)
    assert [(one["messageId"], one["received"]) for one in rest] == [(id, 1) for id in ids[10:]]
    assert fetch(stack, destination=table) == []
    receipts = [one["receipt"] for one in first + rest]
    with stack.client() as client:
        reply = client.post("/api/client-messages/ack", json={"receipts": receipts})
    assert (reply.status_code, reply.json()) == (200, {"acknowledged": 12})


def test_a_receiver_that_waits_has_an_answer_as_soon_as_something_comes(stack: Stack, table: str) -> None:
    gone = fetch(stack, max=10)  # Also without a body's worth of wishes, and of all tables.
    assert {one["received"] for one in gone} <= {1}
    add(stack, table)
    fetch(stack, destination=table)
    with ThreadPoolExecutor(1) as threads:
        waiting: Future[list[dict[str, Any]]] = threads.submit(fetch, stack, destination=table, wait=15)
        await_waiting(stack, 1)
        start = time.monotonic()
        ids = add(stack, table)
        assert [one["messageId"] for one in waiting.result(10)] == ids
        assert time.monotonic() - start < 2


def test_a_receiver_that_waits_for_nothing_is_told_so_in_time(stack: Stack, table: str) -> None:
    add(stack, table)
    assert len(fetch(stack, destination=table)) == 1
    start = time.monotonic()
    assert fetch(stack, destination=table, wait=0.7) == []
    assert 0.6 < time.monotonic() - start < 3


def test_a_receiver_that_leaves_takes_nothing_with_it(stack: Stack, table: str) -> None:
    add(stack, table)
    fetch(stack, destination=table)
    body = msgspec.json.encode({"destination": table, "wait": 20})
    with Raw(stack.web[0].port) as raw:
        headers = [f"Authorization: Bearer {stack.api_key}", "Content-Type: application/json"]
        head = request("/api/client-messages/receive", *headers, f"Content-Length: {len(body)}", method="POST")
        raw.socket.sendall(head + body)
        await_waiting(stack, 1)
    await_waiting(stack, 0)
    ids = add(stack, table)
    time.sleep(0.4)
    assert [(one["messageId"], one["received"]) for one in fetch(stack, destination=table)] == [(ids[0], 1)]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"max": 0}', 400, "malformed"),
        (b'{"max": 11}', 400, "malformed"),
        (b'{"wait": 20.5}', 400, "malformed"),
        (b'{"wait": true}', 400, "malformed"),
        (b'{"visibility": 4}', 400, "malformed"),
        (b'{"visibility": 43201}', 400, "malformed"),
        (b'{"destination": ""}', 400, "malformed"),
        (b'{"destinations": "a"}', 400, "malformed"),
        (b"[]", 400, "malformed"),
        (b'{"wait": 1e999}', 400, "malformed_json"),
        (b'{"max": 1, "max": 2}', 400, "malformed_json"),
        (b"{", 400, "malformed_json"),
        (b'{"destination": "nobody"}', 404, "unknown_destination"),
        (b" " * 16 * 1024 + b"{}", 413, "too_large"),
    ],
)
def test_what_is_no_good_request_is_refused(stack: Stack, body: bytes, status: int, code: str) -> None:
    for content in (body, iter([body[:1], body[1:]])):  # With its length, and in chunks.
        reply = ask(stack, content=content, headers={"Content-Type": "application/json; charset=utf-8"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (status, code), reply.text
        assert reply.headers["content-type"] == "application/json"


def test_others_than_services_with_the_scope_are_refused(stack: Stack, table: str) -> None:
    add(stack, table)
    reader = inside(stack, "key", scope="deliveries:read")
    refused = [
        (ask(stack, {"wait": 5}, key="nonsense"), 401, "unauthenticated"),
        (ask(stack, {"wait": 5}, key=stack.token("alice")), 403, "scope_missing"),
        (ask(stack, {"wait": 5}, key=reader), 403, "scope_missing"),
        (ask(stack, method="GET"), 405, "method_not_allowed"),
        (ask(stack, content=b"max=1", headers={"Content-Type": "text/plain"}), 415, "unsupported_media_type"),
    ]
    for reply, status, code in refused:
        assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
    assert refused[0][0].headers["www-authenticate"] == "Bearer"
    assert refused[3][0].headers["allow"] == "POST"
    assert ask(stack, params={"authorization": stack.api_key}, key="nonsense").status_code == 401
    assert len(fetch(stack, destination=table)) == 1


def test_a_key_that_is_revoked_waits_no_longer_and_gets_nothing(stack: Stack, table: str) -> None:
    add(stack, table)
    fetch(stack, destination=table)
    key = inside(stack, "key", scope="deliveries:write")
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(ask, stack, {"destination": table, "wait": 20}, key=key)
        await_waiting(stack, 1)
        assert inside(stack, "revoke", key=key)
        reply = waiting.result(5)
    assert (reply.status_code, reply.json()["error"]["code"]) == (401, "unauthenticated")


def test_a_process_that_shuts_down_lets_nobody_wait(stack: Stack, table: str) -> None:
    """The last one: it ends the process."""
    add(stack, table)
    fetch(stack, destination=table)
    with ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(fetch, stack, destination=table, wait=20) for _ in range(3)]
        await_waiting(stack, 3)
        start = time.monotonic()
        stack.web[0].stop()
        assert [one.result(1) for one in waiting] == [[], [], []]
    assert time.monotonic() - start < 8
