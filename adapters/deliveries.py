"""The rows behind delivering: who serves a destination, what is due to it, and what became of that.

Whoever holds a destination's claim serves it alone. A claim has a lease, by the clock of the database: where it is not
renewed, another process goes on with the same rows, so that an event may come twice, with the same id.
"""

import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import DateTimeField, Exists, ExpressionWrapper, F, OuterRef, Q, QuerySet, Value
from django.db.models.expressions import Combinable
from django.db.models.functions import Now
from django.utils import timezone

from adapters.base import Outcome
from adapters.models import Delivery, Destination

LEASE = timedelta(seconds=15)
FAILURES_MAX = 10  # In a row; then the destination has a pause.
PAUSE_MAX = 60.0  # Seconds: how late a destination that works again is noticed.
BACKOFF_MAX = 3600.0
RETRY_AFTER_MAX = 3600.0
ROWS_AT_ONCE = 1000

State = Delivery.State


# --- Claims ---------------------------------------------------------------------------------------


def take_destinations(claim: str, limit: int, *, healthy: bool = False) -> list[Destination]:
    """Claims destinations to which something is due, and that nobody serves -> those that are ours now.

    `healthy`: only those that did not fail last.
    """
    if limit <= 0:
        return []
    due = Delivery.objects.filter(destination=OuterRef("pk"), state=State.PENDING, due_at__lte=timezone.now())
    free = Destination.objects.filter(_is_free(), Exists(due), enabled=True)
    if healthy:
        free = free.filter(failures=0)
    ids = [
        pk
        for pk in free.order_by(F("claimed_until").asc(nulls_first=True)).values_list("pk", flat=True)[:limit]
        if Destination.objects.filter(_is_free(), pk=pk).update(claim=claim, claimed_until=_after(LEASE))
    ]
    return list(Destination.objects.filter(pk__in=ids))


def renew(claim: str, ids: Collection[UUID]) -> set[UUID]:
    """Keeps claims for another lease -> those that are still ours."""
    held = Destination.objects.filter(pk__in=ids, claim=claim, enabled=True)
    held.update(claimed_until=_after(LEASE))
    return set(held.values_list("pk", flat=True))


def release(claim: str, destination: UUID, *, rest: timedelta) -> None:
    """Gives a claim back; nobody takes it for so long, and whoever has waited longest is served next."""
    Destination.objects.filter(pk=destination, claim=claim).update(claim="", claimed_until=_after(rest))


def _is_free() -> Q:
    rested = Q(paused_until=None) | Q(paused_until__lte=timezone.now())
    return rested & (Q(claimed_until=None) | Q(claimed_until__lte=Now()))


def _after(time: timedelta) -> Combinable:
    return ExpressionWrapper(Now() + Value(time), output_field=DateTimeField())


# --- What is due ----------------------------------------------------------------------------------


def due(destination: UUID, limit: int, *, ordered: bool) -> list[Delivery]:
    """What goes out next; where order counts, nothing that stands behind a delivery of its key that has to wait."""
    now = timezone.now()
    pending = Delivery.objects.filter(destination=destination, state=State.PENDING)
    found = pending.filter(due_at__lte=now)
    if ordered:
        waiting_keys = pending.filter(due_at__gt=now, attempts__gt=0).values("key")  # Dead letters come late anyway.
        return list(found.exclude(key__in=waiting_keys).order_by("id")[:limit])
    return list(found.order_by("due_at", "id")[:limit])


# --- What became of it ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Health:
    """How a destination stands after a batch. `paused`: nothing is sent to it for a while."""

    failures: int
    paused: bool


def mark(claim: str, destination: UUID, tried: Sequence[tuple[Delivery, Outcome]]) -> Health | None:
    """Stores what became of deliveries, and how the destination does -> None where the claim is lost meanwhile.

    What was delivered is stored in any case.
    """
    now = timezone.now()
    with transaction.atomic():
        row = Destination.objects.select_for_update().filter(pk=destination).first()
        if row is None:
            return None
        ends = {
            State.DELIVERED: _deliver([delivery.pk for delivery, outcome in tried if outcome.delivered], now),
            State.DEAD: 0,
        }
        held = row.claim == claim
        if held:
            for delivery, outcome in tried:
                if not outcome.delivered and _fail(delivery, outcome, now):
                    ends[State.DEAD] += 1
            _judge(row, [outcome for _delivery, outcome in tried if not outcome.blames_event], now)
        row.delivered += ends[State.DELIVERED]
        row.dead += ends[State.DEAD]
        row.save(update_fields=["delivered", "dead", "failures", "failing_since", "paused_until", "last_error"])
    return Health(row.failures, row.paused_until is not None and row.paused_until > now) if held else None


def expire(rows: QuerySet[Delivery], why: str = "Its message has expired.") -> int:
    """Ends deliveries that are of no use any more, and counts them for their destinations -> how many."""
    return _end(rows.filter(state=State.PENDING), State.EXPIRED, error=why)


def give_up(rows: QuerySet[Delivery]) -> int:
    """Ends pending deliveries that were tried for long enough -> how many dead letters."""
    return _end(rows.filter(state=State.PENDING), State.DEAD)


def _end(rows: QuerySet[Delivery], state: Delivery.State, **changes: str) -> int:
    """Some at a time, under the locks of their destinations, as `mark` has it."""
    ended = 0
    while found := list(rows.values_list("pk", "destination")[:ROWS_AT_ONCE]):
        with transaction.atomic():
            lock({destination for _pk, destination in found})
            some = rows.filter(pk__in=[pk for pk, _destination in found])
            counts = Counter(some.values_list("destination", flat=True))
            ended += some.update(state=state, finished_at=timezone.now(), **changes)
            count(counts, state)
    return ended


def lock(destinations: Collection[UUID]) -> None:
    """Locks destinations, in one order: what is counted for them changes in the transactions of who holds them."""
    list(Destination.objects.select_for_update().filter(pk__in=destinations).order_by("pk").values_list("pk"))


def count(counts: Mapping[UUID, int], name: str) -> None:
    """Adds to one of the counters of destinations that are locked."""
    for destination, number in counts.items():
        Destination.objects.filter(pk=destination).update(**{name: F(name) + number})


def _deliver(ids: Collection[int], now: datetime) -> int:
    rows = Delivery.objects.filter(pk__in=ids, state=State.PENDING)
    return (
        rows.update(state=State.DELIVERED, attempts=F("attempts") + 1, finished_at=now, error="", response="")
        if ids
        else 0
    )


def _fail(delivery: Delivery, outcome: Outcome, now: datetime) -> bool:
    """Later again, or never -> whether it is a dead letter now."""
    attempts = delivery.attempts + 1
    error, response = outcome.error[:500], outcome.response[:1000]
    pending = Delivery.objects.filter(pk=delivery.pk, state=State.PENDING)
    if outcome.permanent or now - delivery.owed_since >= timedelta(hours=settings.DELIVERY_HOURS):
        return bool(
            pending.update(state=State.DEAD, attempts=attempts, error=error, response=response, finished_at=now)
        )
    wait = max(_backoff(attempts), min(outcome.retry_after, RETRY_AFTER_MAX))
    pending.update(attempts=attempts, error=error, response=response, due_at=now + timedelta(seconds=wait))
    return False


def _backoff(attempts: int) -> float:
    """Full jitter: from nothing to a second after the first attempt, to an hour after the twelfth."""
    return random.uniform(0.0, min(BACKOFF_MAX, 2.0 ** (attempts - 1)))  # noqa: S311 (no secret)


def _judge(row: Destination, outcomes: Sequence[Outcome], now: datetime) -> None:
    """Counts failures in a row; after too many, or where the other side asks for it, the destination has a pause."""
    row.paused_until = None
    for outcome in outcomes:
        if outcome.delivered:
            row.failures, row.failing_since, row.last_error = 0, None, ""
        else:
            row.failures, row.failing_since = row.failures + 1, row.failing_since or now
            row.last_error = outcome.error[:500]
    asked = max((outcome.retry_after for outcome in outcomes if not outcome.delivered), default=0.0)
    pause = min(asked, RETRY_AFTER_MAX)
    if row.failures >= FAILURES_MAX:
        failing = (now - (row.failing_since or now)).total_seconds()
        longest = min(PAUSE_MAX, max(1.0, failing / 4))  # A long outage is probed rarely, a short one often.
        pause = max(pause, random.uniform(longest / 2, longest))  # noqa: S311 (no secret)
    if pause:
        row.paused_until = now + timedelta(seconds=pause)
