"""A worker with short leases that dies while it delivers, once, at the place that FANFARE_CRASH_FILE names."""

import os
import signal
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from config.asgi import application
from config.celery import app

# isort: split
from adapters import deliveries, delivering  # Only now are there models.
from adapters.base import Outcome
from adapters.models import Delivery

__all__ = ["app", "application"]

CLAIMED, SENT, MARKED = "claimed", "sent", "marked"


def _die(place: str, batch: Sequence[Any]) -> None:
    """The file has the place, who dies (a `process` of the pool, or the `group`), and over how large a batch."""
    path = Path(os.environ["FANFARE_CRASH_FILE"])
    try:
        where, who, least = path.read_text().split()
        if where != place or len(batch) < int(least):
            return
        path.unlink()  # Who fails here is not the first.
    except (FileNotFoundError, ValueError):
        return
    if who == "group":
        os.killpg(0, signal.SIGKILL)
    os._exit(9)


def _due(*args: Any, **kwargs: Any) -> list[Delivery]:
    rows = due(*args, **kwargs)
    _die(CLAIMED, rows)
    return rows


def _mark(claim: str, destination: UUID, tried: Sequence[tuple[Delivery, Outcome]]) -> deliveries.Health | None:
    _die(SENT, tried)
    health = mark(claim, destination, tried)
    _die(MARKED, tried)
    return health


for module in (deliveries, delivering):
    setattr(module, "LEASE", timedelta(seconds=float(os.environ["FANFARE_LEASE_SECONDS"])))  # noqa: B010
due, mark = deliveries.due, deliveries.mark
deliveries.due, deliveries.mark = _due, _mark
