"""How the hub reads the truth about a topic: what it asks, and what it is told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from realtime.frames import Event


@dataclass(frozen=True, slots=True)
class Position:
    """Where the log of a topic stands; a topic without messages is (None, 0)."""

    epoch: str | None
    head: int


@dataclass(frozen=True, slots=True)
class Page:
    """What the log holds after an offset: the visible messages up to and including `through`, in order.

    Of a state there are no messages to read again: `snapshot` is what it is at `head`, as JSON, and the one event
    tells it.
    """

    epoch: str | None
    head: int
    tail: int
    through: int
    events: Sequence[Event]
    snapshot: bytes | None = None


class Log(Protocol):
    """Raises any Exception while it cannot be read."""

    async def positions(self, names: Sequence[str]) -> Mapping[str, Position]: ...

    async def read(self, name: str, after: int, limit: int) -> Page: ...
