"""Too many requests at once: some work, some wait, the rest is sent away soon; slow clients occupy nothing."""

import asyncio
import time
from typing import Any

import pytest

from config import limits
from config.limits import queued
from realtime.asgi import Receive, Scope, Send

pytestmark = pytest.mark.any_database


class Slow:
    """An application that reads the body, works until it is told to stop, and answers."""

    def __init__(self) -> None:
        self.at_work = 0
        self.done = asyncio.Event()

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        self.at_work += 1
        await self.done.wait()
        self.at_work -= 1
        await send({"type": "http.response.start", "status": 202, "headers": []})
        await send({"type": "http.response.body", "body": b""})


class Request:
    def __init__(self, application: Any, path: str = "/api/notifications", *, body: bool = True) -> None:
        self.sent: list[dict[str, Any]] = []
        self._body = asyncio.Event()
        if body:
            self._body.set()
        self.task = asyncio.create_task(application({"path": path}, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        await self._body.wait()
        return {"type": "http.request", "body": b"", "more_body": False}

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int | None:
        return self.sent[0]["status"] if self.sent else None


async def a_moment() -> None:
    await asyncio.sleep(0.02)


@pytest.fixture(autouse=True)
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WAIT_SECONDS", 0.2)


async def test_those_beyond_the_limit_wait_and_are_sent_away_when_that_takes_too_long() -> None:
    slow = Slow()
    application = queued(slow, 2)
    requests = [Request(application) for _ in range(3)]
    await a_moment()
    assert slow.at_work == 2
    began = time.monotonic()
    await asyncio.wait_for(requests[2].task, 2)
    assert time.monotonic() - began < 1
    assert requests[2].status == 503
    assert (b"retry-after", b"1") in requests[2].sent[0]["headers"]
    assert b'"busy"' in requests[2].sent[1]["body"]
    slow.done.set()
    await asyncio.gather(*(request.task for request in requests))
    assert [request.status for request in requests] == [202, 202, 503]


async def test_the_next_one_works_as_soon_as_there_is_a_place() -> None:
    slow = Slow()
    application = queued(slow, 1)
    requests = [Request(application) for _ in range(3)]
    await a_moment()
    slow.done.set()
    await asyncio.gather(*(request.task for request in requests))
    assert [request.status for request in requests] == [202, 202, 202]


async def test_a_client_that_is_slow_with_its_body_keeps_nobody_waiting() -> None:
    slow = Slow()
    slow.done.set()
    application = queued(slow, 1)
    stuck = Request(application, body=False)
    await a_moment()
    quick = Request(application)
    await asyncio.wait_for(quick.task, 1)
    assert (quick.status, stuck.status) == (202, None)
    stuck.task.cancel()


async def test_probes_do_not_wait() -> None:
    slow = Slow()
    application = queued(slow, 1)
    requests = [Request(application), Request(application, "/livez")]
    await a_moment()
    assert slow.at_work == 2
    slow.done.set()
    await asyncio.gather(*(request.task for request in requests))


async def test_a_place_comes_back_when_a_request_fails_or_is_given_up() -> None:
    async def failing(_scope: Scope, receive: Receive, _send: Send) -> None:
        await receive()
        raise RuntimeError("a bug")

    application = queued(failing, 1)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="a bug"):
            await Request(application).task
    waiting = Request(queued(Slow(), 1))
    await a_moment()
    waiting.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting.task
