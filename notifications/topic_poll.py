"""`GET /topics/{cache}/{topic}`, as plain ASGI: a long poll in Momento's shape. Whoever waits holds no thread."""

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import msgspec

from accounts.credentials import Unauthenticated, from_bare
from accounts.errors import ApiError
from accounts.principals import Principal
from accounts.requests import wrong
from accounts.throttles import throttle, throttle_address
from adapters import caches
from notifications import sequences
from notifications.event_shapes import Element, Items
from realtime import metrics, runtime
from realtime.admission import address_of, headers_of, query_of
from realtime.asgi import Receive, Scope, Send
from realtime.authorizers import require
from realtime.connections import Connection
from realtime.database import in_database
from realtime.frames import bare_bodies
from realtime.hub import Subscription
from realtime.protocol import CloseCode
from realtime.streams import refuse, reply

P = ParamSpec("P")
T = TypeVar("T")

WAIT_SECONDS = 20.0
GATHER_SECONDS = 0.002


async def poll_topic(scope: Scope, receive: Receive, send: Send) -> None:
    """-> `{items}`: at once when something is there, else what comes within WAIT_SECONDS; empty for nothing."""
    try:
        gate = runtime.current().gate
        gate.knock()
        principal = await _in_database(_authenticate, scope)
        query = query_of(scope)
        number, page = _number(query, "sequence_number"), _number(query, "sequence_page")
        _, _, cache, name = scope["path"].split("/", 3)
        topic = caches.find(cache).topic(name)
        await require(principal, "subscribe", topic)
        gate.enter(principal.user)
        metrics.connections.labels("poll").inc()
        try:
            items = await _wait(principal, topic, number, page, receive)
        finally:
            metrics.connections.labels("poll").dec()
            gate.leave(principal.user)
        await reply(send, 200, msgspec.json.encode(Items(items)))
    except ApiError as error:
        await refuse(send, error)


def _authenticate(scope: Scope) -> Principal:
    try:
        principal = from_bare(headers_of(scope), query_of(scope))
    except Unauthenticated:
        throttle_address(address_of(scope))  # Who guesses is slowed down.
        raise
    throttle(principal)
    return principal


def _number(query: dict[str, str], name: str) -> int:
    text = query.get(name, "0")
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise wrong(name, "a whole number from 0")
    return int(text)


async def _wait(principal: Principal, topic: str, number: int, page: int, receive: Receive) -> list[Element]:
    """Events only wake it up: what is there, the log tells. Raises ApiError 401 when the credential ends meanwhile."""
    here, listener = runtime.current(), _Listener(principal.user)
    reader = principal.user if topic.startswith("user.") else None  # Named topics have nothing that is not for all.
    until = time.monotonic() + WAIT_SECONDS
    gone = asyncio.create_task(_until_gone(receive))
    try:
        # Entered before the log is read: what comes in between is not missed.
        here.hub.go_live(listener, await _subscribe(listener, topic))
        here.gate.connections.add(listener)
        with here.control.watching(principal, listener.close, listener.id):
            while True:
                listener.something.clear()
                over = listener.closed or gone.done() or time.monotonic() >= until
                items = await _read(_Asked(asyncio.get_running_loop(), topic, number, page, reader))
                if items or over:
                    break
                await _something(listener, gone, until - time.monotonic())
    finally:
        gone.cancel()
        here.gate.connections.discard(listener)
        here.hub.leave(listener)
        with suppress(asyncio.CancelledError):
            await gone
    if listener.ended and listener.ended[0] not in (CloseCode.SERVICE_RESTART, CloseCode.RESYNC):
        raise Unauthenticated("This credential has ended.")
    return items


@dataclass(frozen=True, slots=True)
class _Asked:
    loop: asyncio.AbstractEventLoop
    topic: str
    number: int
    page: int
    reader: str | None


_reads: dict[_Asked, asyncio.Task[list[Element]]] = {}  # Those that have not begun.


async def _read(asked: _Asked) -> list[Element]:
    """What the log holds; those who are woken together and ask the same share one look at it."""
    if asked not in _reads:
        _reads[asked] = asyncio.create_task(_read_soon(asked))
    return await asyncio.shield(_reads[asked])


async def _read_soon(asked: _Asked) -> list[Element]:
    await asyncio.sleep(GATHER_SECONDS)
    del _reads[asked]  # Who comes now may know of something newer.
    return await _in_database(sequences.read, asked.topic, asked.number, asked.page, asked.reader)


async def _subscribe(listener: Connection, topic: str) -> Sequence[Subscription]:
    try:
        return await runtime.current().hub.subscribe(listener, {topic: None})
    except ApiError:
        raise
    except Exception as error:  # Whatever the database raises.
        raise _unavailable() from error


class _Listener(Connection):
    """Somebody who waits for anything to happen in a topic: nothing is kept for them."""

    __slots__ = ("something",)

    encoding = staticmethod(bare_bodies)
    transport = "poll"
    linger = 30.0

    def __init__(self, user: str | None) -> None:
        super().__init__(user=user, max_backlog=0)
        self.something = asyncio.Event()

    def write(self, data: Any) -> None:
        self.something.set()

    def _end(self, code: CloseCode, reason: str) -> None:
        self.something.set()


async def _something(listener: _Listener, gone: asyncio.Task[None], seconds: float) -> None:
    woken = asyncio.create_task(listener.something.wait())
    try:
        await asyncio.wait({woken, gone}, timeout=max(seconds, 0), return_when=asyncio.FIRST_COMPLETED)
    finally:
        woken.cancel()
        with suppress(asyncio.CancelledError):
            await woken


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _in_database(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Raises ApiError 503 for whatever the database raises."""
    try:
        return await in_database(function, *args, **kwargs)
    except ApiError:
        raise
    except Exception as error:
        raise _unavailable() from error


def _unavailable() -> ApiError:
    return ApiError(503, "unavailable", "The log cannot be read now: try again.", retry_after=2)
