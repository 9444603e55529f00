"""Events, and the bytes that carry them: built once for each transport, shared by every receiver."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

Encoding = Callable[[Sequence[bytes]], Any]
"""Turns the bodies of some events into what one kind of connection writes."""


@dataclass(frozen=True, slots=True)
class Event:
    """What travels: a message of a log (epoch and offset), or an ephemeral notice (neither).

    `body` is the JSON object that clients see, encoded. `exclude` names users who must not get it. `recalls` is the
    offset of a message that no longer counts. `state`: it replaces earlier ones of its topic, so a reader who is
    behind gets the newest only. `type` is there where users may mute it. Times are epoch seconds.
    """

    topic: str
    body: bytes
    epoch: str | None = None
    offset: int | None = None
    exclude: frozenset[str] = frozenset()
    recalls: int | None = None
    expires_at: float | None = None
    state: bool = False
    type: str = ""
    published_at: float = field(default_factory=time.time)

    def pack(self) -> list[Any]:
        """The event without its topic, as the bus carries it."""
        return [
            self.body,
            self.epoch,
            self.offset,
            list(self.exclude),
            self.recalls,
            self.expires_at,
            self.state,
            self.type,
            self.published_at,
        ]

    @classmethod
    def unpack(cls, topic: str, packed: Sequence[Any]) -> "Event":
        body, epoch, offset, exclude, *rest = packed
        return cls(topic, body, epoch, offset, frozenset(exclude), *rest)


def websocket_frames(bodies: Sequence[bytes]) -> bytes:
    """RFC 6455 text frames, final and unmasked as a server sends them, ready for the transport."""
    return b"".join([_header(len(body)) + body for body in bodies])


def websocket_texts(bodies: Sequence[bytes]) -> bytes:
    """The texts for a server that frames by itself, one a line: JSON has no raw line feed."""
    return b"\n".join(bodies)


def stream_blocks(bodies: Sequence[bytes]) -> bytes:
    """Blocks of server-sent events."""
    return b"".join([b"data: " + body + b"\n\n" for body in bodies])


def bare_bodies(bodies: Sequence[bytes]) -> Sequence[bytes]:
    """What a poll puts into its reply."""
    return bodies


def _header(length: int) -> bytes:
    if length < 126:
        return bytes((0x81, length))
    if length < 65536:
        return b"\x81\x7e" + length.to_bytes(2)
    return b"\x81\x7f" + length.to_bytes(8)
