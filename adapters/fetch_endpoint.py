"""`POST /api/client-messages/receive`, as plain ASGI: whoever waits for messages holds no thread."""

import asyncio
import logging
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

import msgspec
from msgspec import UNSET

from accounts.credentials import Unauthenticated, authenticate
from accounts.errors import ApiError
from accounts.principals import Principal
from accounts.requests import shaped
from accounts.throttles import throttle, throttle_address
from adapters import fetching
from adapters.fetch_shapes import ClientMessage, ClientMessages, ReceiveRequest
from adapters.fetching import Fetched
from adapters.waiting import Waiter, room
from realtime import runtime
from realtime.admission import address_of, headers_of
from realtime.asgi import Receive, Scope, Send
from realtime.connections import Connection
from realtime.database import in_database
from realtime.frames import bare_bodies
from realtime.protocol import CloseCode
from realtime.streams import refuse, reply
from realtime.strict_json import RefusedJSON, loads

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

SCOPE = "deliveries:write"  # To receive takes messages away from others, so it is no reading.
BODY_MAX_BYTES = 16 * 1024
BODY_SECONDS = 10.0


class _Left(Exception):
    """The client is not there any more."""


async def receive_messages(scope: Scope, receive: Receive, send: Send) -> None:
    """-> `{messages}`: at once when there are some, or else within `wait` seconds."""
    try:
        runtime.current().gate.knock()
        principal = await _in_database(_authenticate, headers_of(scope), address_of(scope))
        if scope["method"] != "POST":
            raise ApiError(405, "method_not_allowed", "This is for POST.")
        principal.require_scope(SCOPE)
        asked = shaped(_parse(scope, await _body(scope, receive)), ReceiveRequest)
        tables = await _in_database(fetching.tables, None if asked.destination is UNSET else asked.destination)
        found = await _receive(principal, asked, tables, receive)
        messages = [ClientMessage(one.id, one.receipt, one.received, msgspec.Raw(one.body.encode())) for one in found]
        await reply(send, 200, msgspec.json.encode(ClientMessages(messages)))
    except ApiError as error:
        await refuse(send, error, allow="POST")
    except _Left:
        pass


# --- Who asks, and for what -----------------------------------------------------------------------


def _authenticate(headers: dict[str, str], address: str | None) -> Principal:
    try:
        principal = authenticate(headers)
    except Unauthenticated:
        throttle_address(address)  # Who guesses is slowed down.
        raise
    throttle(principal)
    return principal


async def _body(scope: Scope, receive: Receive) -> bytes:
    announced = headers_of(scope).get("content-length", "0")
    if not (announced.isascii() and announced.isdigit()) or int(announced) > BODY_MAX_BYTES:
        raise _too_large()
    body, more = b"", True
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _Left
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > BODY_MAX_BYTES:
                    raise _too_large()
    except TimeoutError:
        raise ApiError(400, "malformed", f"The body did not come within {BODY_SECONDS:.0f} s.") from None
    return body


def _too_large() -> ApiError:
    return ApiError(413, "too_large", f"The body has at most {BODY_MAX_BYTES} bytes here.")


def _parse(scope: Scope, body: bytes) -> Any:
    if not body:
        return {}
    if headers_of(scope).get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "unsupported_media_type", "Send JSON, as application/json.")
    try:
        return loads(body)
    except RefusedJSON as error:
        raise ApiError(400, "malformed_json", f"The body is not JSON that is taken here: {error}.") from error


# --- Receiving ------------------------------------------------------------------------------------


async def _receive(
    principal: Principal, asked: ReceiveRequest, tables: Collection[UUID], receive: Receive
) -> list[Fetched]:
    """Raises _Left for a client that is gone; what was lent for it is there again at once."""
    gone = asyncio.create_task(_until_gone(receive))
    try:
        found = await _in_database(fetching.receive, tables, asked.max, asked.visibility)
        if not found and asked.wait:
            found = await _wait(principal, Waiter(frozenset(tables), asked.max, asked.visibility), asked.wait, gone)
        if gone.done():
            await _give_back(found)
            raise _Left
        return found
    finally:
        gone.cancel()
        with suppress(asyncio.CancelledError):
            await gone


async def _wait(principal: Principal, waiter: Waiter, seconds: float, gone: asyncio.Task[None]) -> list[Fetched]:
    """What comes in this time. Raises ApiError 401 when the credential ends meanwhile, and 503."""
    here, place = runtime.current(), _Place()
    with room().waiting(waiter), here.control.watching(principal, place.close, place.id):
        here.gate.connections.add(place)
        try:
            ends: set[asyncio.Future[Any]] = {gone, waiter.found, place.over}
            await asyncio.wait(ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            here.gate.connections.discard(place)
        found = waiter.found.result() if waiter.found.done() else []
    if place.over.done() and place.over.result() is not CloseCode.SERVICE_RESTART:
        await _give_back(found)
        raise Unauthenticated("This credential has ended.")
    return found


class _Place(Connection):
    """Somebody who waits, as draining and revocation know them: nothing is written to it, it is only ended."""

    __slots__ = ("over",)

    encoding = staticmethod(bare_bodies)
    transport = "receive"

    def __init__(self) -> None:
        super().__init__(user=None, max_backlog=0)
        self.over: asyncio.Future[CloseCode] = asyncio.get_running_loop().create_future()

    def write(self, data: Any) -> None:
        raise TypeError("It subscribes to nothing.")

    def _end(self, code: CloseCode, reason: str) -> None:
        self.over.set_result(code)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _give_back(found: Collection[Fetched]) -> None:
    if found:
        await _in_database(fetching.give_back, [one.receipt for one in found])


async def _in_database(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Raises ApiError 503 for whatever the database raises."""
    try:
        return await in_database(function, *args, **kwargs)
    except ApiError:
        raise
    except Exception as error:
        logger.warning("The database failed: %r", error)
        raise ApiError(503, "unavailable", "The database does not answer: try again.", retry_after=2) from error
