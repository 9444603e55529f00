"""Uvicorn's protocols, hardened, and with the transport handed to the hub.

`uvicorn --ws realtime.uvicorn_protocol:FrameProtocol --http realtime.uvicorn_protocol:PromptHttpProtocol`

The extension `websocket.frames` in the scope has three verbs: `write(bytes)` puts finished frames on the transport
without waiting, `backlog()` says how many bytes the client has not taken, `close(code, reason)` ends the connection
also when its reader is stuck.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Request

CLOSE_SECONDS = 3.0  # For a client to take what is on its way, and to answer the close frame.
HEADER_SECONDS = 10.0  # For a client to send the head of a request.
PINGS_PER_SECOND, PINGS_BURST = 1, 30
MAX_FRAGMENTS = 256  # Of one message; empty ones cost no size.

POLICY_VIOLATION, INVALID_DATA = 1008, 1007


class FrameProtocol(WebSocketsSansIOProtocol):
    _pings_full_at = 0.0

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if FITS and (scope := getattr(self, "scope", None)):  # Absent when the handshake was refused.
            scope["extensions"]["websocket.frames"] = {
                "write": self.write_frames,
                "backlog": self.transport.get_write_buffer_size,
                "close": self.close_frames,
            }

    def write_frames(self, frames: bytes) -> None:
        # uvloop raises when the client has reset the connection, and its `disconnect` is still on the way.
        if not self.close_sent and not self.transport.is_closing():
            self.transport.write(frames)

    def close_frames(self, code: int, reason: str) -> None:
        if self.close_sent or self.transport.is_closing():
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

    def handle_ping(self) -> None:
        """A flood of pings makes as many pongs, and a client that does not read them fills our memory."""
        now = self.loop.time()
        self._pings_full_at = max(self._pings_full_at, now) + 1 / PINGS_PER_SECOND
        if self._pings_full_at - now > PINGS_BURST / PINGS_PER_SECOND:
            self.conn.data_to_send()  # The pong that was made.
            self.close_frames(POLICY_VIOLATION, "too many pings")
        else:
            super().handle_ping()

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) >= MAX_FRAGMENTS:
            self.close_frames(POLICY_VIOLATION, "too many fragments")
        else:
            super().handle_cont(event)

    def send_receive_event_to_app(self) -> None:
        """Uvicorn answers invalid UTF-8 with a traceback in the log."""
        if self.curr_msg_data_type == "text":
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self.close_frames(INVALID_DATA, "invalid UTF-8")
                return
        super().send_receive_event_to_app()


class PromptHttpProtocol(HttpToolsProtocol):
    """Ends connections that do not send the head of their request within HEADER_SECONDS."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEADER_SECONDS, self.transport.abort)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEADER_SECONDS, self.transport.abort)

    def on_headers_complete(self) -> None:
        self._stop_timer()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _stop_timer(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None


_USED = {"scope", "transport", "conn", "queue", "close_sent", "close_timer", "read_paused", "loop", "frames"}


def fits(protocol: Any = WebSocketsSansIOProtocol) -> bool:
    """Whether the installed Uvicorn still has what FrameProtocol builds on; without it, hubs use ASGI's `send`."""
    names = set(protocol.__init__.__code__.co_names) | set(protocol.handle_connect.__code__.co_names)
    return names >= _USED and all(
        hasattr(protocol, name) for name in ("handle_ping", "handle_cont", "send_receive_event_to_app")
    )


FITS = fits()
