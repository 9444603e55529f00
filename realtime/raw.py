"""The format `raw`: frames are the `data` of messages alone, for clients that know nothing of events and positions.

Of events, only messages and the answer to `ping` are written; what a client has missed, nobody tells it.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from realtime.connections import DirectConnection, SocketConnection
from realtime.frames import websocket_frames, websocket_texts


class _Event(msgspec.Struct):
    """What is looked at of an event's body."""

    event: str = ""
    data: msgspec.Raw = msgspec.Raw(b"null")
    connectionId: str = ""


_decoder = msgspec.json.Decoder(_Event)


def raw_bodies(bodies: Sequence[bytes]) -> list[bytes]:
    """The `data` of messages, byte for byte, and pongs; all else is left out."""
    found: list[bytes] = []
    for event in map(_decoder.decode, bodies):
        if event.event == "message":
            found.append(bytes(event.data))
        elif event.event == "pong":
            pong = {"type": "pong", "statusCode": 200, "connectionId": event.connectionId}
            found.append(msgspec.json.encode(pong))
    return found


def raw_frames(bodies: Sequence[bytes]) -> bytes:
    return websocket_frames(raw_bodies(bodies))


def raw_texts(bodies: Sequence[bytes]) -> bytes:
    return websocket_texts(raw_bodies(bodies))


class RawDirectConnection(DirectConnection):
    __slots__ = ()

    encoding = staticmethod(raw_frames)

    def write(self, data: bytes) -> None:
        if data:  # Empty: nothing of it was for clients of this kind.
            super().write(data)


class RawSocketConnection(SocketConnection):
    encoding = staticmethod(raw_texts)

    def write(self, data: Any) -> None:
        if data:
            super().write(data)
