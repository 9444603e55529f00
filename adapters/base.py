"""The contract between deliveries and what carries them outside, and where adapters are found.

An adapter knows one kind of destination. It sends a batch and says what became of each event of it; when to send, in
what order and how often again is not its business (adapters.delivering).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar
from uuid import UUID

import msgspec
from django.conf import settings
from django.utils.module_loading import import_string


@dataclass(frozen=True, slots=True)
class Target:
    """A destination as its adapter sees it. `secrets`: the newest first; there are two while they are rotated."""

    id: UUID
    name: str
    address: str
    options: Mapping[str, Any] = field(default_factory=dict)
    secrets: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Parcel:
    """One event on its way to one destination.

    `id` is the same each time that it is sent: receivers know a repetition by it. `event` is its kind, such as
    `message`; what shares a `key` (a topic, a user) has an order. `body` is JSON: `{"type", "timestamp", "data"}`.
    """

    id: UUID
    event: str
    key: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one parcel. Without an `error` it was taken.

    `permanent`: to try again is of no use. `blames_event`: it says nothing about the destination, which takes others.
    `tried`: where it is false, nothing was sent, and the parcel stays as it was. `retry_after`: seconds that the other
    side asked for. `response`: what it answered, as far as that helps to find the fault.
    """

    error: str = ""
    permanent: bool = False
    blames_event: bool = False
    tried: bool = True
    retry_after: float = 0.0
    response: str = ""

    @property
    def delivered(self) -> bool:
        return not self.error


def with_id(parcel: Parcel) -> bytes:
    """The body with the parcel's id as its first member, for kinds that carry nothing beside the body."""
    rest = parcel.body[1:]
    comma = b"" if rest.lstrip().startswith(b"}") else b","
    return b'{"id":"%s"%s%s' % (str(parcel.id).encode(), comma, rest)


class Misconfigured(Exception):
    """A destination cannot work as it is set up; the text says what to change, a setting by its name."""


class Adapter(ABC):
    """Carries events to destinations of one kind. One is made for each destination, and used by one event loop.

    SDKs are imported in the constructor: who has no such destination needs none. It raises Misconfigured.
    """

    ordered: bool = False  # Takes what shares a key in the order of a batch.
    batch_size: ClassVar[int] = 100  # Parcels at once, at most.
    max_bytes: ClassVar[int] = 256 * 1024  # Of one parcel's body; a larger one is not even tried.
    signs: ClassVar[bool] = False  # Wants a secret, which is made with the destination and shown once.
    hidden: ClassVar[frozenset[str]] = frozenset()  # Options that are secret: sealed, and never shown.
    Options: ClassVar[type[msgspec.Struct]]  # The shape of a destination's `options`, with its defaults.

    def __init__(self, target: Target) -> None:
        self.target = target

    @classmethod  # noqa: B027 (some take any)
    def validate(cls, address: str) -> None:
        """Raises Misconfigured for an address that this adapter can never reach."""

    @abstractmethod
    async def publish(self, batch: Sequence[Parcel]) -> Sequence[Outcome]:
        """Sends up to `batch_size` parcels -> an outcome for each, in their order; at least once.

        It ends within DELIVERY_TIMEOUT for each attempt that it makes. What it raises counts as a temporary failure
        of every parcel. The first one is always tried. Of an ordered adapter: after a failure, the parcels of the same
        key are not.
        """

    async def check(self) -> str:
        """Calls the destination without an event of ours -> what was found. Raises Misconfigured."""
        return "not checked: this kind cannot be called without an event"

    async def close(self) -> None:  # noqa: B027 (some have nothing open)
        """Gives back what is open."""


def kinds() -> Sequence[str]:
    """The kinds of destinations that there are (ADAPTERS)."""
    return list(settings.ADAPTERS)


@cache
def adapter_class(kind: str) -> type[Adapter]:
    """Raises KeyError for a kind that is not in ADAPTERS."""
    found: type[Adapter] = import_string(settings.ADAPTERS[kind])
    return found
