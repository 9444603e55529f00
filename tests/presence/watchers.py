"""For tests of presence: who is connected, said to Redis directly; and connections that keep what they get."""

import json
import time
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from django.utils import timezone

from presence import registry
from presence.transitions import settle
from realtime.connections import Connection
from realtime.frames import bare_bodies
from realtime.protocol import CloseCode


def somebody(name: str = "u") -> str:
    """A user whom no other test knows: Redis is shared."""
    return f"{name}-{uuid4().hex[:12]}"


@dataclass
class Process:
    """Stands for a web process: what it has told Redis."""

    boot: str = field(default_factory=lambda: uuid4().hex)
    number: int = 0

    def connect(self, user: str, connections: int = 1) -> list[registry.LiveConnection]:
        """The user's connections are registered, and the status settled."""
        now = timezone.now()
        here = [
            registry.LiveConnection(uuid4().hex, user, None, None, "websocket", None, "", now, now, [])
            for _ in range(connections)
        ]
        self.number += 1
        registry.change(self.boot, self.number, here, [])
        settle([user])
        return here


class Collector(Connection):
    """A connection whose frames are kept, and which may be said to be behind."""

    encoding = staticmethod(bare_bodies)
    transport = "test"

    def __init__(self) -> None:
        super().__init__(user=None, max_backlog=10**6)
        self.frames: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.is_behind = False

    def write(self, data: list[bytes]) -> None:
        self.frames.extend(map(json.loads, data))
        self.times.append(time.monotonic())

    def behind(self) -> bool:
        return self.is_behind

    def _end(self, code: CloseCode, reason: str) -> None:
        self.frames.append({"event": "closed", "code": int(code)})
