"""Destinations that keep what they get in memory, and a receiver of webhooks."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.conf import LazySettings
from django.utils import timezone

from adapters import deliveries, delivering, outbox
from adapters.base import adapter_class
from adapters.delivering import Deliverer
from adapters.models import Delivery, Destination
from tests.adapters.memory import Memory
from tests.adapters.receivers import Receiver

Owe = Callable[..., Sequence[UUID]]


@pytest.fixture(autouse=True)
def memory(settings: LazySettings) -> Iterator[None]:
    module = "tests.adapters.memory"
    settings.ADAPTERS = settings.ADAPTERS | {"memory": f"{module}.Memory", "ordered": f"{module}.OrderedMemory"}
    adapter_class.cache_clear()
    Memory.reset()
    yield
    adapter_class.cache_clear()


@pytest.fixture(autouse=True)
def _no_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run ends when there is nothing to do, and what failed does not come again in it."""
    monkeypatch.setattr(delivering, "LINGER_SECONDS", 0.0)
    monkeypatch.setattr(deliveries, "_backoff", lambda _attempts: 30.0)


@pytest.fixture
def loopback_allowed(settings: LazySettings) -> None:
    """Webhooks may go to receivers on this machine."""
    settings.WEBHOOK_NETWORKS = ["127.0.0.0/8"]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def destination(name: str = "crm", kind: str = "memory", **fields: Any) -> Destination:
    row = Destination.objects.create(name=name, kind=kind, **fields)
    outbox.forget_wants()
    return row


def owe(*keys: str, kind: str = "message", data: bytes = b"1", **fields: Any) -> list[UUID]:
    """An event for each of these keys -> their ids."""
    events = [outbox.Event(kind, uuid4(), key, data, timezone.now(), **fields) for key in keys]
    outbox.owe(events)
    return [event.id for event in events]


def deliver(seconds: float = 10.0) -> None:
    """One run of a deliverer, without waiting for more than there is."""
    asyncio.run(Deliverer().run(seconds))


def states(name: str = "crm") -> dict[str, int]:
    found: dict[str, int] = {}
    for state in Delivery.objects.filter(destination__name=name).values_list("state", flat=True):
        found[state] = found.get(state, 0) + 1
    return found


def conserved(name: str = "crm") -> bool:
    """What was accepted for a destination is what is pending, and what its counts say of each end."""
    row = Destination.objects.get(name=name)
    rows = Delivery.objects.filter(destination=row.pk)
    pending = rows.filter(state="pending").count()
    return rows.count() + row.purged == pending + row.delivered + row.dead + row.expired


def make_due(before: datetime | None = None) -> None:
    """As if the time had passed: what waits is due, and pauses are over."""
    Delivery.objects.filter(state="pending").update(due_at=before or timezone.now())
    Destination.objects.update(paused_until=None, claimed_until=None)
