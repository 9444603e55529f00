"""Uvicorn's protocols, hardened, and with the transport handed to the hub.

`uvicorn --ws realtime.uvicorn_protocol:FrameProtocol --http realtime.uvicorn_protocol:PromptHttpProtocol`

The extension `websocket.frames` in the scope: `write(bytes)` puts finished frames on the transport without waiting,
`backlog()` says how many bytes the client has not taken, `behind()` whether they are more than the transport's high
water mark, `when_drained(function)` has the function called when they are few again, `close(code, reason)` ends the
connection also when its reader is stuck. The extension `http.lost` of requests is a function: whether the client has
ceased to answer, and has not just left.
"""

import asyncio
import random
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Request
from websockets.protocol import OPEN

from realtime import metrics

CLOSE_SECONDS = 3.0  # For a client to take what is on its way, and to answer the close frame.
HEADER_SECONDS = 10.0  # For a client to send the head of a request.
HEADER_BYTES = 64 * 1024  # Of such a head.
STUCK_SECONDS = 20.0  # For a client to take anything of what is on its way; beyond, the kernel ends the connection.
PINGS_PER_SECOND, PINGS_BURST = 1, 30
PING_SPREAD = 0.5  # Our own pings come after this share of Uvicorn's interval at the earliest.
MAX_FRAGMENTS = 256  # Of one message; empty ones cost no size.

INVALID_DATA, POLICY_VIOLATION, KEEPALIVE_TIMEOUT = 1007, 1008, 1011

TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class FrameProtocol(WebSocketsSansIOProtocol):
    _pings_full_at = 0.0
    _drained: Callable[[], None] | None = None

    def data_received(self, data: bytes) -> None:
        if self.handshake_initiated and not self.handshake_complete:
            self.transport.abort()  # RFC 6455 §4.1: before it is answered, a client sends nothing; Uvicorn would fail.
            return
        super().data_received(data)
        if self.conn.handshake_exc and not self.handshake_initiated:
            self._refuse_handshake()

    def _refuse_handshake(self) -> None:
        """The head came through HTTP's parser but not through this one: Uvicorn would keep silent, for ever."""
        answer = b"".join(self.conn.data_to_send())
        self.transport.write(answer or b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        self.transport.close()

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if FITS and (scope := getattr(self, "scope", None)):  # Absent when the handshake was refused.
            scope["extensions"]["websocket.frames"] = {
                "write": self.write_frames,
                "backlog": self.transport.get_write_buffer_size,
                "behind": lambda: not self.writable.is_set(),
                "when_drained": self.when_drained,
                "close": self.close_frames,
            }

    def write_frames(self, frames: bytes) -> None:
        # uvloop raises when the client has reset the connection, and its `disconnect` is still on the way.
        if not self.close_sent and not self.transport.is_closing():
            self.transport.write(frames)

    def when_drained(self, function: Callable[[], None]) -> None:
        self._drained = function

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._drained:
            self._drained()

    def close_frames(self, code: int, reason: str) -> None:
        if self.close_sent or self.transport.is_closing() or self.conn.state is not OPEN:  # The client was first.
            return
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        if self.read_paused:  # To hear the answer.
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(CLOSE_SECONDS, self.transport.abort)

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            self.handshake_complete = True  # Refused, that is; Uvicorn would log that it never was.

    def schedule_ping(self) -> None:
        """Sockets that came at once, after a restart, are not all pinged at once ever after."""
        assert self.ping_interval is not None
        delay = self.ping_interval * random.uniform(PING_SPREAD, 1)  # noqa: S311 (no secret)
        self.ping_timer = self.loop.call_later(delay, self.send_keepalive_ping)

    def handle_ping(self) -> None:
        """A flood of pings makes as many pongs, and a client that does not read them fills our memory."""
        now = self.loop.time()
        self._pings_full_at = max(self._pings_full_at, now) + 1 / PINGS_PER_SECOND
        if self._pings_full_at - now > PINGS_BURST / PINGS_PER_SECOND:
            self.conn.data_to_send()  # The pong that was made.
            self._violation(POLICY_VIOLATION, "too many pings")
        else:
            super().handle_ping()

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) >= MAX_FRAGMENTS:
            self._violation(POLICY_VIOLATION, "too many fragments")
        else:
            super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        """Uvicorn answers invalid UTF-8 with a traceback in the log."""
        if self.curr_msg_data_type == "text":
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self._violation(INVALID_DATA, "invalid UTF-8")
                return
        super().send_receive_event_to_app()

    def _violation(self, code: int, reason: str) -> None:
        if not self.close_sent:
            metrics.closes.labels(code).inc()
        self.close_frames(code, reason)

    def handle_parser_exception(self) -> None:
        if not self.close_sent and self.conn.close_sent:
            metrics.closes.labels(int(self.conn.close_sent.code)).inc()
        super().handle_parser_exception()

    def keepalive_timeout(self) -> None:
        """A client that takes nothing holds up the end of the connection, too, and nobody would be told."""
        if not self.close_sent and not self.transport.is_closing():
            metrics.closes.labels(KEEPALIVE_TIMEOUT).inc()
            self.queue.put_nowait({"type": "websocket.disconnect", "code": KEEPALIVE_TIMEOUT})
            self.close_timer = self.loop.call_later(CLOSE_SECONDS, self.transport.abort)
        super().keepalive_timeout()


class PromptHttpProtocol(HttpToolsProtocol):
    """Ends connections whose client is slow: with the head of a request, or to take what it is sent."""

    _head_timer: asyncio.TimerHandle | None = None
    _head_size = 0
    _lost = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        _slim(self.flow._is_writable_event)
        self._await_head()
        with suppress(AttributeError, OSError):  # Not this kind of system, not this kind of socket.
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(STUCK_SECONDS * 1000))

    def data_received(self, data: bytes) -> None:
        awaited = self._head_timer
        super().data_received(data)
        if awaited and self._head_timer is awaited:  # The head is not whole yet.
            self._head_size += len(data)
            if self._head_size > HEADER_BYTES and not self.transport.is_closing():
                metrics.refused.labels("large_head").inc()
                self.transport.write(TOO_LARGE)
                self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {"http.lost": lambda: self._lost}  # type: ignore[dict-item]
        if self._head_timer is None:
            self._await_head()

    def _await_head(self) -> None:
        self._head_size = 0
        self._head_timer = self.loop.call_later(HEADER_SECONDS, self._too_late)

    def _too_late(self) -> None:
        metrics.refused.labels("slow_head").inc()
        self.transport.abort()

    def on_headers_complete(self) -> None:
        self._stop_timer()
        super().on_headers_complete()
        if self.cycle:
            _slim(self.cycle.message_event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._lost = isinstance(exc, TimeoutError)  # STUCK_SECONDS are over.
        super().connection_lost(exc)

    def _stop_timer(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None


def _slim(event: asyncio.Event) -> None:
    """Of what an idle connection takes, two deques that are empty or have one element are a tenth."""
    if not event._waiters:
        event._waiters = []  # type: ignore[assignment]  # All that it does with it, lists do, too.


_USED = {
    "scope",
    "transport",
    "conn",
    "queue",
    "close_sent",
    "close_timer",
    "read_paused",
    "loop",
    "frames",
    "writable",
    "ping_interval",
    "ping_timer",
}


def fits(protocol: Any = WebSocketsSansIOProtocol) -> bool:
    """Whether the installed Uvicorn still has what FrameProtocol builds on; without it, hubs use ASGI's `send`."""
    names = set(protocol.__init__.__code__.co_names) | set(protocol.handle_connect.__code__.co_names)
    return names >= _USED and all(
        hasattr(protocol, name)
        for name in (
            "handle_ping",
            "handle_cont",
            "send_receive_event_to_app",
            "handle_parser_exception",
            "keepalive_timeout",
            "schedule_ping",
            "send_keepalive_ping",
        )
    )


FITS = fits()
