"""Dead letters, sent again on request; and what beat settles: what to give up on, to turn off, to forget."""

import logging
from collections import Counter
from collections.abc import Collection
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from accounts import audit
from accounts.principals import Principal
from adapters import deliveries, outbox
from adapters.models import Delivery, Destination, QueuedEvent

logger = logging.getLogger(__name__)

ROWS_AT_ONCE = 1000
ROUNDS_MAX = 1000
REDRIVEN_MAX = 10_000  # By one call: further ones take another.

State = Delivery.State


# --- Redrive --------------------------------------------------------------------------------------


def redrive(
    actor: Principal | None,
    *,
    ids: Collection[int] | None = None,
    destination: UUID | None = None,
    since: datetime | None = None,
) -> int:
    """Owes dead letters again, as new, REDRIVES_PER_SECOND to each destination -> how many, REDRIVEN_MAX at most.

    What is not dead stays as it is, so twice is once. The oldest go first.
    """
    found = Delivery.objects.filter(state=State.DEAD).exclude(key="")  # Without a key: its user was erased.
    if ids is not None:
        found = found.filter(pk__in=ids)
    if destination is not None:
        found = found.filter(destination=destination)
    if since is not None:
        found = found.filter(finished_at__gte=since)
    redriven = 0
    for pk in sorted(set(found.order_by().values_list("destination", flat=True).distinct())):
        redriven += _redrive(actor, found.filter(destination=pk), pk, REDRIVEN_MAX - redriven)
    return redriven


def _redrive(actor: Principal | None, found: QuerySet[Delivery], destination: UUID, most: int) -> int:
    """A second's worth at a time, each due a second after the one before, and after those of an earlier call."""
    redriven, last = 0, 0
    while redriven < most:
        some = found.filter(pk__gt=last).order_by("id").values_list("pk", flat=True)
        ids = list(some[: min(settings.REDRIVES_PER_SECOND, most - redriven)])
        if not ids:
            break
        with transaction.atomic():
            row = Destination.objects.select_for_update().filter(pk=destination).first()
            if row is None:
                break
            due_at = max(row.redriven_until or timezone.now(), timezone.now())
            count = found.filter(pk__in=ids).update(
                state=State.PENDING, attempts=0, due_at=due_at, owed_since=due_at, finished_at=None
            )
            row.redriven_until, row.dead = due_at + timedelta(seconds=1), row.dead - count
            row.save(update_fields=["redriven_until", "dead"])
        last, redriven = ids[-1], redriven + count
    if redriven:
        audit.record(actor, "deliveries.redriven", f"destination:{destination}", after={"redriven": redriven})
    return redriven


# --- What beat settles ----------------------------------------------------------------------------


def settle() -> None:
    """Ends what nobody can wait for any more, turns off what has failed for days, and forgets what is old."""
    for step in (end_late, turn_off, purge, purge_deleted):
        try:
            step(timezone.now())
        except Exception:  # What stands in the way of one must not keep the others.
            logger.exception("Deliveries: %s failed", step.__name__)


def end_late(now: datetime) -> None:
    pending = Delivery.objects.filter(state=State.PENDING)
    deliveries.expire(pending.filter(expires_at__lte=now))
    deliveries.give_up(pending.filter(owed_since__lte=now - timedelta(hours=settings.DELIVERY_HOURS)))


def turn_off(now: datetime) -> None:
    """Turns off destinations that have only failed for DESTINATION_FAILING_DAYS, and still do; and says so."""
    ended_lately = Q(state=State.DEAD, finished_at__gte=now - timedelta(days=1))
    tried = Delivery.objects.filter(Q(state=State.PENDING) | ended_lately, destination=OuterRef("pk"), attempts__gt=0)
    since = now - timedelta(days=settings.DESTINATION_FAILING_DAYS)
    failing = Destination.objects.filter(Exists(tried), enabled=True, failing_since__lte=since)
    for row in failing.filter(failures__gte=deliveries.FAILURES_MAX):
        reason = f"It has failed since {row.failing_since:%Y-%m-%d %H:%M} UTC: {row.last_error}"[:200]
        with transaction.atomic():
            if not Destination.objects.filter(pk=row.pk, enabled=True, failing_since=row.failing_since).update(
                enabled=False, disabled_reason=reason
            ):
                continue
            audit.record(None, "destination.turned_off", f"destination:{row.pk}", after={"reason": reason})
        logger.error("The destination %s is turned off. %s", row.name, reason)
        outbox.forget_wants()


def purge(now: datetime) -> None:
    """Forgets what ended long ago; how much that was stays counted."""
    delivered, dead = (now - timedelta(days=days) for days in (settings.DELIVERED_DAYS, settings.DEAD_LETTER_DAYS))
    _delete(Delivery.objects.filter(state__in=(State.DELIVERED, State.EXPIRED), finished_at__lte=delivered))
    _delete(Delivery.objects.filter(state=State.DEAD, finished_at__lte=dead))


def purge_deleted(now: datetime) -> None:
    """Deleted destinations, with all that they were owed; not before every process knows of it."""
    for destination in Destination.objects.filter(deleted_at__lte=now - timedelta(minutes=1)):
        _delete(Delivery.objects.filter(destination=destination.pk))
        _delete(QueuedEvent.objects.filter(destination=destination.pk))
        if not Delivery.objects.filter(destination=destination.pk).exists():
            destination.delete()


def _delete(found: QuerySet[Delivery] | QuerySet[QueuedEvent]) -> None:
    """In small transactions, each with its count; what has changed meanwhile stays."""
    for _ in range(ROUNDS_MAX):
        rows = list(found.values_list("pk", "destination")[:ROWS_AT_ONCE])
        with transaction.atomic():
            deliveries.lock({destination for _pk, destination in rows})
            some = found.filter(pk__in=[pk for pk, _destination in rows])
            if found.model is Delivery:
                deliveries.count(Counter(some.values_list("destination", flat=True)), "purged")
            some.delete()
        if len(rows) < ROWS_AT_ONCE:
            break


# --- Users ----------------------------------------------------------------------------------------


def erase_user(user: str) -> bool:
    """Nothing of a user's own topic goes out any more, nor is kept (USER_ERASERS); the rows stay, to be counted."""
    key = f"user.{user}"
    queued, _ = QueuedEvent.objects.filter(key=key).delete()
    found = Delivery.objects.filter(key=key)
    deliveries.expire(found, "Its user was erased.")
    return bool(queued + found.update(body="{}", key="", response=""))
