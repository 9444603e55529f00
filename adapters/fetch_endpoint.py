"""`POST /api/client-messages/receive`, as plain ASGI: whoever waits for messages holds no thread."""

import asyncio
from collections.abc import Collection
from contextlib import suppress
from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET

from accounts.credentials import Unauthenticated
from accounts.errors import ApiError
from accounts.principals import Principal
from accounts.requests import shaped
from adapters import fetching
from adapters.fetch_shapes import ClientMessage, ClientMessages, ReceiveRequest
from adapters.fetching import Fetched
from adapters.waiting import Waiter, room
from realtime import runtime
from realtime.asgi import Receive, Scope, Send
from realtime.connections import Connection
from realtime.frames import bare_bodies
from realtime.protocol import CloseCode
from realtime.requests import Left, authenticated, from_database, json_body, until_gone
from realtime.streams import refuse, reply

SCOPE = "deliveries:write"  # To receive takes messages away from others, so it is no reading.


async def receive_messages(scope: Scope, receive: Receive, send: Send) -> None:
    """-> `{messages}`: at once when there are some, or else within `wait` seconds."""
    try:
        runtime.current().gate.knock()
        principal = await from_database(authenticated, scope)
        principal.require_scope(SCOPE)
        asked = shaped(await json_body(scope, receive), ReceiveRequest)
        tables = await from_database(fetching.tables, None if asked.destination is UNSET else asked.destination)
        found = await _receive(principal, asked, tables, receive)
        messages = [ClientMessage(one.id, one.receipt, one.received, msgspec.Raw(one.body.encode())) for one in found]
        await reply(send, 200, msgspec.json.encode(ClientMessages(messages)))
    except ApiError as error:
        await refuse(send, error, allow="POST")
    except Left:
        pass


async def _receive(
    principal: Principal, asked: ReceiveRequest, tables: Collection[UUID], receive: Receive
) -> list[Fetched]:
    """Raises Left for a client that is gone; what was lent for it is there again at once."""
    gone = asyncio.create_task(until_gone(receive))
    try:
        found = await from_database(fetching.receive, tables, asked.max, asked.visibility)
        if not found and asked.wait:
            found = await _wait(principal, Waiter(frozenset(tables), asked.max, asked.visibility), asked.wait, gone)
        if gone.done():
            await _give_back(found)
            raise Left
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


async def _give_back(found: Collection[Fetched]) -> None:
    if found:
        await from_database(fetching.give_back, [one.receipt for one in found])
