"""Fetching from a table: events are lent for a time, and gone for good once whoever has them says that they are done.

No event is lent to two receivers at once. What is not acknowledged in time is there again, for anybody; its old
receipt is worth nothing as soon as it has been lent again. All times are by the clock of the database.
"""

import logging
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import (
    CharField,
    Count,
    DateTimeField,
    ExpressionWrapper,
    F,
    Min,
    OuterRef,
    QuerySet,
    Subquery,
    Value,
)
from django.db.models.expressions import Combinable
from django.db.models.functions import Cast, Concat, Now

from accounts.errors import ApiError
from adapters.base import Parcel
from adapters.models import Destination, QueuedEvent

logger = logging.getLogger(__name__)

KIND = "table"
TOKEN_BYTES = 15
ROWS_AT_ONCE = 1000
MAX_ROUNDS = 1000
ID_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Fetched:
    """An event that is lent, for the `received`-th time. `body` is JSON: `{"type", "timestamp", "data"}`."""

    id: UUID
    receipt: str
    received: int
    body: str


def put(destination: UUID, parcels: Sequence[Parcel], retention: timedelta) -> None:
    """Adds events in their order, all or none; one that is there already stays as it is."""
    rows = [
        QueuedEvent(
            destination_id=destination,
            event_id=parcel.id,
            key=parcel.key,
            body=parcel.body.decode(),
            visible_at=Now(),
            expires_at=_in(retention),
            created_at=Now(),
        )
        for parcel in parcels
    ]
    QueuedEvent.objects.bulk_create(rows, ignore_conflicts=True)


def tables(name: str | None = None) -> list[UUID]:
    """All destinations of this kind that are enabled, or the one of this name, enabled or not. Raises ApiError 404."""
    found = Destination.objects.filter(kind=KIND)
    if name is None:
        return list(found.filter(enabled=True).values_list("pk", flat=True))
    if named := list(found.filter(name=name).values_list("pk", flat=True)):
        return named
    raise ApiError(404, "unknown_destination", f"There is no destination of the kind {KIND} with this name.")


def ready(destinations: Collection[UUID]) -> list[UUID]:
    """Those that have something to fetch now; first the one where it has waited for longest."""
    oldest = _visible().filter(destination=OuterRef("pk")).order_by("visible_at", "id")
    found = Destination.objects.filter(pk__in=destinations).annotate(oldest=Subquery(oldest.values("visible_at")[:1]))
    return list(found.filter(oldest__isnull=False).order_by("oldest").values_list("pk", flat=True))


def receive(destinations: Collection[UUID], most: int, visibility: float) -> list[Fetched]:
    """Lends up to `most` events for `visibility` seconds, of each destination the oldest first.

    Others who receive at the same time are not waited for: there may be fewer than there could be.
    """
    filled = ready(destinations)
    if not filled:
        return []  # Without a transaction, which on SQLite would keep writers waiting.
    found: list[Fetched] = []
    with transaction.atomic():
        for destination in filled:
            found += _lend(destination, most - len(found), timedelta(seconds=visibility))
            if len(found) == most:
                break
    return found


def acknowledge(receipts: Collection[str]) -> int:
    """Deletes the events that these are the newest receipts of -> how many; a receipt used again does nothing."""
    return _lent(receipts).delete()[0]


def give_back(receipts: Collection[str]) -> None:
    """Whoever was to get these has left: they are there again at once, in their old place, as if never lent."""
    _lent(receipts).update(visible_at=F("created_at"), received=F("received") - 1, receipt="")


def backlog(destination: UUID) -> tuple[int, datetime | None]:
    """How many events a table holds, lent or not, and since when the oldest."""
    held = QueuedEvent.objects.filter(destination=destination, expires_at__gt=Now())
    found = held.aggregate(number=Count("pk"), oldest=Min("created_at"))
    return found["number"], found["oldest"]


def purge() -> int:
    """Deletes what nobody has fetched in the time that its destination gives, in small transactions -> how many."""
    gone = 0
    late = QueuedEvent.objects.filter(expires_at__lte=Now()).order_by("expires_at")
    for _ in range(MAX_ROUNDS):
        ids = list(late.values_list("pk", flat=True)[:ROWS_AT_ONCE])
        gone += QueuedEvent.objects.filter(pk__in=ids).delete()[0]
        if len(ids) < ROWS_AT_ONCE:
            break
    if gone:
        logger.warning("%d events were deleted from tables: nobody had fetched them within retention_days", gone)
    return gone


def _visible() -> QuerySet[QueuedEvent]:
    return QueuedEvent.objects.filter(visible_at__lte=Now(), expires_at__gt=Now())


def _in(time: timedelta) -> Combinable:
    return ExpressionWrapper(Now() + Value(time), output_field=DateTimeField())


def _lend(destination: UUID, most: int, visibility: timedelta) -> list[Fetched]:
    """In the caller's transaction: rows that others are about to lend are locked, and passed over."""
    first = _visible().filter(destination=destination).order_by("visible_at", "id")[:most]
    rows = list(first.select_for_update(skip_locked=True).values_list("pk", "event_id", "received", "body"))
    token = secrets.token_urlsafe(TOKEN_BYTES)
    QueuedEvent.objects.filter(pk__in=[row[0] for row in rows]).update(
        visible_at=_in(visibility),
        received=F("received") + 1,
        receipt=Concat(Value(f"{token}."), Cast("pk", CharField())),
    )
    return [Fetched(id, f"{token}.{pk}", received + 1, body) for pk, id, received, body in rows]


def _lent(receipts: Collection[str]) -> QuerySet[QueuedEvent]:
    return QueuedEvent.objects.filter(pk__in=_ids(receipts), receipt__in=receipts)


def _ids(receipts: Collection[str]) -> Sequence[int]:
    """A receipt ends with the row's id, so that it is found by that, with no index to keep for receipts."""
    ends = (receipt.rpartition(".")[2] for receipt in receipts)
    return [int(end) for end in ends if end.isascii() and end.isdigit() and int(end) <= ID_MAX]
