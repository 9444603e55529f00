"""Dead letters, sent again on request; and what beat settles: what to give up on, to turn off, to forget."""

import logging
from collections.abc import Collection
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from accounts import audit
from adapters import deliveries, outbox
from adapters.models import Delivery, Destination, QueuedEvent

logger = logging.getLogger(__name__)

ROWS_AT_ONCE = 1000
ROUNDS_MAX = 1000

State = Delivery.State


# --- Redrive --------------------------------------------------------------------------------------


def redrive(
    *, ids: Collection[int] | None = None, destination: UUID | None = None, since: datetime | None = None
) -> int:
    """Owes dead letters again, as new, REDRIVES_PER_SECOND for each destination -> how many.

    What is not dead stays as it is, so twice is once. Those that died first go first.
    """
    found = Delivery.objects.filter(state=State.DEAD)
    if ids is not None:
        found = found.filter(pk__in=ids)
    if destination is not None:
        found = found.filter(destination=destination)
    if since is not None:
        found = found.filter(finished_at__gte=since)
    some = set(found.order_by().values_list("destination", flat=True).distinct())
    return sum(_redrive(found.filter(destination=pk), pk) for pk in some)


def _redrive(found: QuerySet[Delivery], destination: UUID) -> int:
    """A second's worth at a time, each due a second after the one before."""
    due_at, last, redriven = timezone.now(), 0, 0
    while ids := list(
        found.filter(pk__gt=last).order_by("id").values_list("pk", flat=True)[: settings.REDRIVES_PER_SECOND]
    ):
        with transaction.atomic():
            row = Destination.objects.select_for_update().filter(pk=destination).first()
            if row is None:
                return redriven
            count = Delivery.objects.filter(pk__in=ids, state=State.DEAD).update(
                state=State.PENDING, attempts=0, due_at=due_at, owed_since=due_at, finished_at=None
            )
            Destination.objects.filter(pk=destination).update(dead=F("dead") - count)
        last, redriven, due_at = ids[-1], redriven + count, due_at + timedelta(seconds=1)
    return redriven


# --- What beat settles ----------------------------------------------------------------------------


def settle() -> None:
    """Ends what nobody can wait for any more, turns off what has failed for days, and forgets what is old."""
    now = timezone.now()
    pending = Delivery.objects.filter(state=State.PENDING)
    deliveries.expire(pending.filter(expires_at__lte=now))
    deliveries.give_up(pending.filter(owed_since__lte=now - timedelta(hours=settings.DELIVERY_HOURS)))
    turn_off(now)
    delivered, dead = (now - timedelta(days=days) for days in (settings.DELIVERED_DAYS, settings.DEAD_LETTER_DAYS))
    _purge(Q(state__in=(State.DELIVERED, State.EXPIRED), finished_at__lte=delivered))
    _purge(Q(state=State.DEAD, finished_at__lte=dead))
    _purge_deleted(now)


def turn_off(now: datetime) -> None:
    """Turns off destinations that have only failed for DESTINATION_FAILING_DAYS, and says so."""
    since = now - timedelta(days=settings.DESTINATION_FAILING_DAYS)
    for row in Destination.objects.filter(enabled=True, failing_since__lte=since):
        reason = f"It has failed since {row.failing_since:%Y-%m-%d %H:%M} UTC: {row.last_error}"[:200]
        with transaction.atomic():
            if not Destination.objects.filter(pk=row.pk, enabled=True, failing_since=row.failing_since).update(
                enabled=False, disabled_reason=reason
            ):
                continue
            audit.record(None, "destination.turned_off", f"destination:{row.pk}", after={"reason": reason})
        logger.error("The destination %s is turned off. %s", row.name, reason)
        outbox.forget_wants()


def erase_user(user: str) -> None:
    """Nothing of a user's own topic goes out any more, nor is kept (USER_ERASERS); the rows stay, to be counted."""
    keys = (user, f"user.{user}")
    QueuedEvent.objects.filter(key__in=keys).delete()
    found = Delivery.objects.filter(key__in=keys)
    deliveries.expire(found)
    found.update(body="{}", key="", response="")


def _purge(old: Q) -> None:
    for destination in Destination.objects.filter(deleted_at=None).values_list("pk", flat=True):
        gone = _delete(Delivery.objects.filter(old, destination=destination))
        Destination.objects.filter(pk=destination).update(purged=F("purged") + gone)


def _purge_deleted(now: datetime) -> None:
    """Deleted destinations, with all that they were owed; not before every process knows of it."""
    for destination in Destination.objects.filter(deleted_at__lte=now - timedelta(minutes=1)):
        _delete(Delivery.objects.filter(destination=destination.pk))
        if not Delivery.objects.filter(destination=destination.pk).exists():
            destination.delete()


def _delete(found: QuerySet[Delivery]) -> int:
    gone = 0
    for _ in range(ROUNDS_MAX):
        ids = list(found.order_by("id").values_list("pk", flat=True)[:ROWS_AT_ONCE])
        gone += Delivery.objects.filter(pk__in=ids).delete()[0]
        if len(ids) < ROWS_AT_ONCE:
            break
    return gone
