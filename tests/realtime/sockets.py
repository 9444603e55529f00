"""A WebSocket client for tests, by the `websockets` library: keeps what it got, waits with a limit."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.servers import Web

PATIENCE = 20.0  # Seconds; for what is not late on a machine that has other things to do.

_refs = itertools.count(1)


class Socket:
    """One socket. `events` are all that it got."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.events: list[dict[str, Any]] = []
        self._seen = 0

    async def next(self, event: str = "message", seconds: float = PATIENCE, **fields: Any) -> dict[str, Any]:
        """The next event of this kind with these fields; others before it are passed over."""
        async with asyncio.timeout(seconds):
            while True:
                while self._seen < len(self.events):
                    one = self.events[self._seen]
                    self._seen += 1
                    if one["event"] == event and fields.items() <= one.items():
                        return one
                self.events.append(json.loads(await self.connection.recv()))

    async def send(self, **frame: Any) -> None:
        await self.connection.send(json.dumps(frame))

    async def ask(self, answer: str, **frame: Any) -> dict[str, Any]:
        """Sends an action -> its answer, which is of this kind."""
        ref = next(_refs)
        await self.send(**frame, ref=ref)
        return await self.next(answer, ref=ref)

    async def end(self, seconds: float = PATIENCE) -> tuple[int | None, str]:
        """Waits until the server closes -> code and reason."""
        async with asyncio.timeout(seconds):
            try:
                while True:
                    self.events.append(json.loads(await self.connection.recv()))
            except ConnectionClosed:
                return self.connection.close_code, self.connection.close_reason or ""

    async def silence(self, seconds: float = 0.3) -> None:
        """Sees to it that nothing more is on its way, by asking: events and answers have one order."""
        await asyncio.sleep(seconds)
        await self.ask("pong", action="ping")

    def data(self, topic: str | None = None) -> list[Any]:
        """What the messages said so far, in order."""
        return [
            event["data"] for event in self.events if event["event"] == "message" and topic in (None, event["topic"])
        ]


@asynccontextmanager
async def dial(
    web: Web,
    token: str | None = None,
    *,
    topics: str | None = None,
    welcomed: bool = True,
    query: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    **options: Any,
) -> AsyncIterator[Socket]:
    """Opens a socket, and waits for its `welcome` unless told otherwise."""
    asked = {**(query or {}), **({} if topics is None else {"topics": topics})}
    sent = {**(headers or {}), **({} if token is None else {"Authorization": f"Bearer {token}"})}
    address = f"{web.socket_url}?{urlencode(asked)}" if asked else web.socket_url
    async with connect(
        address,
        additional_headers=sent,
        compression=None,
        proxy=None,
        open_timeout=PATIENCE,
        ping_interval=None,
        max_size=None,
        **options,
    ) as connection:
        socket = Socket(connection)
        if welcomed:
            await socket.next("welcome")
        yield socket
