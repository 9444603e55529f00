"""Owing: an event becomes a row for each destination that wants it, in the transaction of the event."""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import msgspec
from django.utils import timezone

from adapters.models import Delivery, Destination

EVENTS = (
    "message",
    "presence",
    "client.send",
    "client.publish",
    "connection.opened",
    "connection.closed",
    "task.finished",
    "board.closed",
)
WANTS_SECONDS = 1.0  # So long a process goes by what it has read of destinations.
ROWS_A_STATEMENT = 1000


@dataclass(frozen=True, slots=True)
class Event:
    """Something that destinations may want.

    `kind` is one of EVENTS, `key` the topic or user within which events have an order, `type` the message's, if it is
    one. `data` is JSON.
    """

    kind: str
    id: UUID
    key: str
    data: bytes
    created_at: datetime
    type: str = ""
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Want:
    """What one destination wants; what is empty, it wants all of. `fallback`: only what nobody else wants."""

    destination: UUID
    events: frozenset[str]
    topics: tuple[str, ...]
    types: frozenset[str]
    fallback: bool

    def __contains__(self, event: Event) -> bool:
        return (
            (not self.events or event.kind in self.events)
            and (not self.topics or event.key.startswith(self.topics))
            and (not self.types or not event.type or event.type in self.types)
        )


def owe(events: Iterable[Event]) -> int:
    """Writes what is owed, in the caller's transaction -> how many rows. Without destinations, events are not made.

    A destination that was made or changed in another process counts from at most WANTS_SECONDS later on.
    """
    wants = _wants.current()
    if not wants:
        return 0
    now = timezone.now()
    rows = []
    for event in events:
        body = None
        for destination in _takers(event, wants):
            body = body or _body(event)
            rows.append(
                Delivery(
                    destination_id=destination,
                    event_id=event.id,
                    event=event.kind,
                    key=event.key,
                    body=body,
                    due_at=now,
                    owed_since=now,
                    expires_at=event.expires_at,
                    created_at=now,
                )
            )
    Delivery.objects.bulk_create(rows, batch_size=ROWS_A_STATEMENT)
    return len(rows)


def forget_wants() -> None:
    """A destination has changed: it is read again at the next event."""
    _wants.forget()


def _takers(event: Event, wants: Iterable[_Want]) -> list[UUID]:
    wanted = [want for want in wants if event in want]
    return [want.destination for want in wanted if not want.fallback] or [want.destination for want in wanted]


def _body(event: Event) -> str:
    """The payload that Standard Webhooks recommends."""
    return msgspec.json.encode(
        {"type": event.kind, "timestamp": event.created_at, "data": msgspec.Raw(event.data)}
    ).decode()


class _Wants:
    """What destinations want, as this process has read it last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read: list[_Want] = []
        self._until = 0.0

    def current(self) -> list[_Want]:
        with self._lock:  # Whoever comes first reads, and the others wait for it: nothing read yet is not "nobody".
            if time.monotonic() >= self._until:
                self._until = time.monotonic() + WANTS_SECONDS  # Before reading: who forgets meanwhile wins.
                found = Destination.objects.filter(enabled=True).values_list(
                    "pk", "events", "topics", "types", "options"
                )
                try:
                    self._read = [
                        _Want(pk, frozenset(events), tuple(topics), frozenset(types), options.get("fallback") is True)
                        for pk, events, topics, types, options in found
                    ]
                except BaseException:
                    self._until = 0.0
                    raise
            return self._read

    def forget(self) -> None:
        self._until = 0.0


_wants = _Wants()
