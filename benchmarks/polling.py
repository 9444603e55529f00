"""Clients that receive for browser sessions: each waits, and asks again as soon as it has an answer."""

import asyncio
import re
import time
from collections.abc import Sequence
from functools import partial

SENT = re.compile(rb'"t":(\d+)')
OPENING_AT_ONCE = 50
PAUSE_SECONDS = 1.0  # After a refusal.


class Poller(asyncio.Protocol):
    """One client. `arrived`: milliseconds from when a message was sent, of all clients."""

    def __init__(self, request: bytes, arrived: list[float]) -> None:
        self._request, self._arrived = request, arrived
        self._buffer = b""
        self.answers, self.refused = 0, 0
        self.first: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.time_ns()
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator or len(body) < int(re.search(rb"content-length: (\d+)", head)[1]):  # type: ignore[index]
            return
        self._buffer = b""
        self.answers += 1
        self._arrived += [(now - int(sent)) / 1e6 for sent in SENT.findall(body)]
        if head.startswith(b"HTTP/1.1 200"):
            self.transport.write(self._request)
        else:
            self.refused += 1
            asyncio.get_running_loop().call_later(PAUSE_SECONDS, self.transport.write, self._request)


class Pollers:
    """As many as there are sessions, on this process's event loop."""

    def __init__(self, port: int, credentials: Sequence[tuple[str, str]]) -> None:
        self._port = port
        self._requests = [_request(session, token) for session, token in credentials]
        self.arrived: list[float] = []
        self.all: list[Poller] = []

    async def open(self, count: int, seconds: float = 0.0) -> None:
        """So many more, spread over this time."""
        loop = asyncio.get_running_loop()
        until = len(self.all) + count
        while len(self.all) < until:
            some = self._requests[len(self.all) : min(until, len(self.all) + OPENING_AT_ONCE)]
            made = [
                loop.create_connection(partial(Poller, request, self.arrived), "127.0.0.1", self._port)
                for request in some
            ]
            self.all += [poller for _transport, poller in await asyncio.gather(*made)]
            await asyncio.sleep(seconds * len(some) / count)

    async def until_arrived(self, count: int, seconds: float) -> list[float]:
        """How late so many messages were. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while len(self.arrived) < count:  # noqa: ASYNC110 (an event would cost each that arrives)
                await asyncio.sleep(0.002)
        late, self.arrived[:] = sorted(self.arrived), []
        return late

    def close(self) -> None:
        for poller in self.all:
            poller.transport.abort()


def _request(session: str, token: str) -> bytes:
    body = b'{"wait":20}'
    return (
        f"POST /api/sessions/{session}/receive HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
        f"User-Agent: benchmark\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
