"""Uvicorn's WebSocket protocol, with the transport handed to the hub: `uvicorn --ws realtime.uvicorn_protocol:FrameProtocol`.

The extension `websocket.frames` in the scope has three verbs: `write(bytes)` puts finished frames on the transport
without waiting, `backlog()` says how many bytes the client has not taken, `close(code, reason)` ends the connection
also when its reader is stuck.
"""

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

CLOSE_SECONDS = 3.0  # For a client to take what is on its way, and to answer the close frame.


class FrameProtocol(WebSocketsSansIOProtocol):
    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if scope := getattr(self, "scope", None):  # Absent when the handshake was refused.
            scope["extensions"]["websocket.frames"] = {
                "write": self.write_frames,
                "backlog": self.transport.get_write_buffer_size,
                "close": self.close_frames,
            }

    def write_frames(self, frames: bytes) -> None:
        if not self.close_sent:
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


_USED = {"scope", "transport", "conn", "queue", "close_sent", "close_timer", "read_paused", "loop"}


def fits(protocol: Any = WebSocketsSansIOProtocol) -> bool:
    """Whether the installed Uvicorn still has what FrameProtocol builds on; the start-up check asks."""
    names = set(protocol.__init__.__code__.co_names) | set(protocol.handle_connect.__code__.co_names)
    return names >= _USED and callable(getattr(protocol, "connection_made", None))
