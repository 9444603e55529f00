"""A connection as the hub sees it: something to write to that never makes the hub wait."""

import asyncio
import secrets
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from realtime import metrics
from realtime.asgi import Send
from realtime.frames import Encoding, bare_bodies, stream_blocks, websocket_frames, websocket_texts
from realtime.mutes import NOTHING, Mute
from realtime.protocol import CloseCode, closed

SEND_TIMEOUT = 10.0  # Seconds that a client may take to make room for one write.
BEHIND_BYTES = 64 * 1024  # From here a reader gets no state update but the newest.
BEHIND_SECONDS = 10.0  # A reader that lacks what was written so long ago is too slow.


class Closable(Protocol):
    """What draining and revocation end."""

    def close(self, code: CloseCode, reason: str) -> None: ...


class Connection(ABC):
    """One live socket, stream or waiting poll with a bounded outbox.

    `write` takes what `encoding` made; at most once, in the order of the calls. A reader that is `max_backlog` bytes
    or BEHIND_SECONDS behind is closed with SLOW_READER, and resumes by its position when it comes back.
    `linger`: seconds for which its topics stay joined after it has gone, because it will soon be back.
    """

    # One for each of many sockets, all touched for each event: slots keep what is read of it together.
    __slots__ = (
        "_mark",
        "_max_backlog",
        "_newest",
        "_too_slow",
        "_written",
        "closed",
        "ended",
        "id",
        "infos",
        "muted",
        "session",
        "topics",
        "user",
    )

    encoding: Encoding
    transport: str
    linger = 0.0

    def __init__(self, *, user: str | None, max_backlog: int, muted: Mute = NOTHING) -> None:
        self.id = secrets.token_hex(16)
        self.user, self.muted = user, muted
        self.topics: set[str] = set()
        self.session: str | None = None  # Of which browser session it is, where it says so.
        self.infos: dict[str, bytes] = {}  # What it has said with its topics, as JSON.
        self.closed = False
        self.ended: tuple[CloseCode, str] | None = None  # Why, where it was the server who closed it.
        self._max_backlog = max_backlog
        self._too_slow = False
        self._newest: dict[str, Any] = {}
        self._written = 0
        self._mark = (0.0, 0)  # A time, and what was written until then.

    def send(self, *bodies: bytes) -> None:
        """Writes events for this connection alone."""
        if bodies:
            self.write(self.encoding(bodies))

    @abstractmethod
    def write(self, data: Any) -> None: ...

    def write_newest(self, topic: str, data: Any) -> None:
        """Writes a state update, or keeps it until the reader has caught up: the newest of each topic only."""
        if self.behind():
            if topic in self._newest:
                metrics.drops.labels("superseded").inc()
            self._newest[topic] = data
        else:
            self.write(data)

    def caught_up(self) -> None:
        """The reader has taken what was waiting: now the state of the topics that went on meanwhile."""
        newest, self._newest = self._newest, {}
        for data in newest.values():
            self.write(data)

    def behind(self) -> bool:
        """Whether so much waits for the reader that state updates are kept back; `caught_up` is called after it."""
        return False

    def close(self, code: CloseCode, reason: str) -> None:
        """Ends the connection, once; later writes go nowhere."""
        if not self.closed:
            self.closed, self.ended = True, (code, reason)
            metrics.closes.labels(int(code)).inc()
            self._end(code, reason)

    def _check_pace(self, backlog: int) -> None:
        """Ends the connection when it is too far behind; called with what it has not taken yet."""
        if backlog <= self._max_backlog:
            marked_at, written = self._mark
            if self._written - backlog >= written:  # It has all that was written until the mark: a new one.
                self._mark = (time.monotonic(), self._written)
                return
            if time.monotonic() - marked_at < BEHIND_SECONDS:
                return
        if not self._too_slow:
            self._too_slow = True
            metrics.drops.labels("slow_reader").inc()
            # Not before the hub has written all that it is writing, or the place where it stands would not be true.
            asyncio.get_running_loop().call_soon(self.close, CloseCode.SLOW_READER, "slow reader, come back")

    @abstractmethod
    def _end(self, code: CloseCode, reason: str) -> None: ...


class DirectConnection(Connection):
    """Writes finished WebSocket frames to the transport: the fast path."""

    __slots__ = ("_backlog", "_behind", "_close", "_write")

    encoding = staticmethod(websocket_frames)
    transport = "websocket"

    def __init__(
        self,
        *,
        user: str | None,
        max_backlog: int,
        write: Callable[[bytes], None],
        backlog: Callable[[], int],
        behind: Callable[[], bool],
        when_drained: Callable[[Callable[[], None]], None],
        close: Callable[[int, str], None],
        muted: Mute = NOTHING,
    ) -> None:
        super().__init__(user=user, max_backlog=max_backlog, muted=muted)
        self._write, self._backlog, self._behind, self._close = write, backlog, behind, close
        when_drained(self.caught_up)

    def behind(self) -> bool:
        return self._behind()

    def write(self, data: bytes) -> None:
        if self.closed:
            return
        self._write(data)
        self._written += len(data)
        if (backlog := self._backlog()) > len(data):  # Some of what came before is still here.
            self._check_pace(backlog)

    def _end(self, code: CloseCode, reason: str) -> None:
        self._close(code, reason)


class QueuedConnection(Connection):
    """Sends through ASGI's `send`, which may wait: an outbox and one writer task.

    `abort` ends the connection without a word, for a reader that takes nothing any more.
    """

    def __init__(self, *, send: Send, abort: Callable[[], object], **rest: Any) -> None:
        super().__init__(**rest)
        self._send, self._abort = send, abort
        self._outbox: deque[bytes] = deque()
        self._waiting = 0
        self._ready = asyncio.Event()
        self._last: tuple[CloseCode, str] | None = None
        self._writer = asyncio.create_task(self._drain())

    def write(self, data: bytes) -> None:
        if self.closed:
            return
        self._outbox.append(data)
        self._waiting += len(data)
        self._written += len(data)
        self._ready.set()
        if self._waiting > len(data):  # Some of what came before is still here.
            self._check_pace(self._waiting)

    def behind(self) -> bool:
        return self._waiting > BEHIND_BYTES

    def _end(self, code: CloseCode, reason: str) -> None:
        self._last = code, reason
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
                    await self._flush()
                    if self._newest and not self.behind():
                        self.caught_up()
                if self._last:
                    await self._put(self._goodbye(*self._last))
                    return
        except (OSError, RuntimeError) as error:  # Stuck, gone, or closed by the server meanwhile.
            if isinstance(error, TimeoutError) and self.ended is None:
                self.ended = CloseCode.SLOW_READER, "it takes nothing any more"
            self.closed = True
            self._outbox.clear()
            self._abort()

    async def _put(self, message: dict[str, Any]) -> None:
        async with asyncio.timeout(SEND_TIMEOUT):
            await self._send(message)

    @abstractmethod
    async def _flush(self) -> None:
        """Sends some or all of the outbox."""

    @abstractmethod
    def _goodbye(self, code: CloseCode, reason: str) -> dict[str, Any]:
        """The ASGI message that ends the connection."""


class SocketConnection(QueuedConnection):
    """A WebSocket on a server that frames by itself."""

    encoding = staticmethod(websocket_texts)
    transport = "websocket"

    async def _flush(self) -> None:
        texts = self._outbox.popleft()
        for text in texts.split(b"\n"):
            await self._put({"type": "websocket.send", "text": text.decode()})
        self._waiting -= len(texts)

    def _goodbye(self, code: CloseCode, reason: str) -> dict[str, Any]:
        return {"type": "websocket.close", "code": int(code), "reason": reason}


class StreamConnection(QueuedConnection):
    """Server-sent events: shared data blocks, and after each flush one that says where the reader stands."""

    encoding = staticmethod(stream_blocks)
    transport = "stream"

    def __init__(self, *, place: Callable[[], bytes], **rest: Any) -> None:
        super().__init__(**rest)
        self._place = place

    def _end(self, code: CloseCode, reason: str) -> None:
        place = self._place()
        self._place = lambda: place  # What comes from now on is not written any more.
        super()._end(code, reason)

    async def _flush(self) -> None:
        blocks = [*self._outbox, b"id: ", self._place(), b"\n\n"]
        size = sum(map(len, self._outbox))
        self._outbox.clear()
        await self._put({"type": "http.response.body", "body": b"".join(blocks), "more_body": True})
        self._waiting -= size

    def comment(self) -> None:
        """Keeps proxies from closing a silent stream."""
        self.write(b":\n\n")

    def _goodbye(self, code: CloseCode, reason: str) -> dict[str, Any]:
        return {"type": "http.response.body", "body": stream_blocks([closed(code, reason)]), "more_body": False}


class PollConnection(Connection):
    """A waiting poll: keeps what comes until the reply."""

    encoding = staticmethod(bare_bodies)
    transport = "poll"
    linger = 30.0

    def __init__(self, *, place: Callable[[], bytes], **rest: Any) -> None:
        super().__init__(**rest)
        self.place = place
        self.events: list[bytes] = []
        self.something = asyncio.Event()

    def write(self, data: list[bytes]) -> None:
        if self.closed:
            return
        self.events.extend(data)
        self._written += sum(map(len, data))
        self._check_pace(self._written)
        self.something.set()

    def _end(self, code: CloseCode, reason: str) -> None:
        place = self.place()
        self.place = lambda: place  # What comes from now on is not kept any more.
        self.events.append(closed(code, reason))
        self.something.set()
