"""A connection as the hub sees it: something to write to that never makes the hub wait."""

import asyncio
import uuid
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from realtime import metrics
from realtime.frames import Encoding, websocket_frames, websocket_texts
from realtime.protocol import CloseCode

SEND_TIMEOUT = 10.0  # Seconds that a client may take to make room for one write.


class Connection(ABC):
    """One live socket, stream or waiting poll with a bounded outbox.

    `write` takes what `encoding` made; at most once, in the order of the calls. A reader whose outbox passes
    `max_backlog` bytes is closed with SLOW_READER and resumes by its position when it comes back.
    """

    encoding: Encoding

    def __init__(self, *, user: str | None, max_backlog: int) -> None:
        self.id = uuid.uuid4().hex
        self.user = user
        self.topics: set[str] = set()
        self.closed = False
        self._max_backlog = max_backlog

    def send(self, *bodies: bytes) -> None:
        """Writes events for this connection alone."""
        self.write(self.encoding(bodies))

    @abstractmethod
    def write(self, data: Any) -> None: ...

    def close(self, code: CloseCode, reason: str) -> None:
        """Ends the connection, once; later writes go nowhere."""
        if not self.closed:
            self.closed = True
            metrics.closes.labels(int(code)).inc()
            self._end(code, reason)

    def _too_slow(self) -> None:
        metrics.drops.labels("slow_reader").inc()
        self.close(CloseCode.SLOW_READER, "slow reader, come back")

    @abstractmethod
    def _end(self, code: CloseCode, reason: str) -> None: ...


class DirectConnection(Connection):
    """Writes finished WebSocket frames to the transport: the fast path."""

    encoding = staticmethod(websocket_frames)

    def __init__(
        self,
        *,
        user: str | None,
        max_backlog: int,
        write: Callable[[bytes], None],
        backlog: Callable[[], int],
        close: Callable[[int, str], None],
    ) -> None:
        super().__init__(user=user, max_backlog=max_backlog)
        self._write, self._backlog, self._close = write, backlog, close

    def write(self, data: bytes) -> None:
        if self.closed:
            return
        self._write(data)
        if self._backlog() > self._max_backlog:
            self._too_slow()

    def _end(self, code: CloseCode, reason: str) -> None:
        self._close(code, reason)


class QueuedConnection(Connection):
    """Sends through ASGI's `send`, which may wait: an outbox and one writer task.

    `abort` ends the connection without a close frame, for a reader that takes nothing any more.
    """

    encoding = staticmethod(websocket_texts)

    def __init__(
        self,
        *,
        user: str | None,
        max_backlog: int,
        send: Callable[[dict[str, Any]], Awaitable[None]],
        abort: Callable[[], object],
    ) -> None:
        super().__init__(user=user, max_backlog=max_backlog)
        self._send, self._abort = send, abort
        self._outbox: deque[dict[str, Any]] = deque()
        self._waiting = 0  # Characters, near enough to bytes for a bound.
        self._ready = asyncio.Event()
        self._writer = asyncio.create_task(self._drain())

    def write(self, data: list[str]) -> None:
        if self.closed:
            return
        for text in data:
            self._outbox.append({"type": "websocket.send", "text": text})
            self._waiting += len(text)
        self._ready.set()
        if self._waiting > self._max_backlog:
            self._too_slow()

    def _end(self, code: CloseCode, reason: str) -> None:
        self._outbox.append({"type": "websocket.close", "code": int(code), "reason": reason})
        self._ready.set()

    async def stop(self) -> None:
        """Ends the writer; what it has not sent is dropped."""
        self.closed = True
        self._writer.cancel()
        await asyncio.gather(self._writer, return_exceptions=True)

    async def _drain(self) -> None:
        try:
            while True:
                await self._ready.wait()
                self._ready.clear()
                while self._outbox:
                    frame = self._outbox.popleft()
                    async with asyncio.timeout(SEND_TIMEOUT):
                        await self._send(frame)
                    self._waiting -= len(frame.get("text", ""))
        except (TimeoutError, OSError, RuntimeError):  # Stuck, gone, or closed by the server meanwhile.
            self.closed = True
            self._outbox.clear()
            self._abort()
