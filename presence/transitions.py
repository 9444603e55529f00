"""Makes the database say what Redis says: who is ONLINE and who is OFFLINE."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import datetime

import msgspec
from django.db import transaction
from django.db.models import F, OuterRef, Subquery
from django.utils import timezone
from uuid_utils.compat import uuid7

from adapters import outbox
from presence import live, metrics, registry
from presence.models import Presence, Transition
from presence.registry import Census, Standing
from presence.states import HISTORY, INVISIBLE
from realtime.redis_scripts import RedisDown

USERS_AT_ONCE = 200

ONLINE, OFFLINE = Presence.Status.ONLINE, Presence.Status.OFFLINE


def settle(users: Collection[str]) -> None:
    """Gives each user the status that follows from their connections; one who has it already, nothing.

    A change, its number, its line in the history and what destinations are owed are one transaction; watchers are told
    after it. Whoever changes connections or the wish to be invisible settles afterwards: then every order of events,
    in however many processes, ends right. Raises RedisDown: nothing has changed then.
    """
    names = sorted(set(users))
    for first in range(0, len(names), USERS_AT_ONCE):
        some = names[first : first + USERS_AT_ONCE]
        with transaction.atomic():
            _make_rows(some)
            _settle(some)


def _make_rows(users: Sequence[str]) -> None:
    """For those who are connected: who was erased, and is gone by now, stays unknown."""
    missing = set(users) - set(Presence.objects.filter(pk__in=users).values_list("pk", flat=True))
    if missing:
        here = sorted(user for user, count in registry.counts(missing).items() if count)
        Presence.objects.bulk_create([Presence(user=user) for user in here], ignore_conflicts=True)


def _settle(users: Sequence[str]) -> None:
    # In one order, so that nobody waits in a circle; and Redis is asked while they are locked, so that nobody
    # writes what is older than what another one has written.
    rows = list(Presence.objects.select_for_update().filter(pk__in=users).order_by("pk"))
    found = registry.census(users)
    wanted = {row.user: _wanted(row, found) for row in rows}
    changed = [row for row in rows if wanted[row.user] not in (None, row.status)]
    if changed:
        _write(changed, found)
    # Who came after we had looked for rows has none, and stays due.
    unknown = [user for user in users if user not in wanted and not found.users[user].connections]
    done = [(user, found.users[user].due) for user in [*unknown, *(name for name in wanted if wanted[name])]]
    later = [user for user in wanted if wanted[user] is None]
    transaction.on_commit(lambda: _settled(done, later))


def _wanted(row: Presence, found: Census) -> Presence.Status | None:
    """None for who is gone, but may be back in time, or may just not have been registered again."""
    if row.availability == INVISIBLE:
        return OFFLINE
    if found.users[row.user].connections:
        return ONLINE
    gone = found.whole and not found.users[row.user].waits
    return OFFLINE if gone or row.status == OFFLINE else None


def _write(rows: Sequence[Presence], found: Census) -> None:
    now = timezone.now()
    leaving = [row for row in rows if row.status == ONLINE]
    coming = [row for row in rows if row.status == OFFLINE]
    _move(leaving, OFFLINE, since=now, last_seen=now)
    _move(coming, ONLINE, since=now)
    reasons = {row.user: _reason(row, found.users[row.user]) for row in rows}
    Transition.objects.bulk_create(
        [Transition(user=row.user, seq=row.seq, status=row.status, reason=reasons[row.user], at=now) for row in rows]
    )
    _forget([row.user for row in rows if row.seq > HISTORY])
    outbox.owe(_event(row, reasons[row.user], now) for row in rows)
    transaction.on_commit(lambda: live.publish(rows), robust=True)


def _move(rows: Sequence[Presence], status: Presence.Status, **times: datetime) -> None:
    if rows:
        names = [row.user for row in rows]
        Presence.objects.filter(pk__in=names).exclude(status=status).update(
            status=status, seq=F("seq") + 1, version=F("version") + 1, **times
        )
        metrics.transitions.labels(status).inc(len(rows))
    for row in rows:  # As they are now.
        row.status, row.seq, row.version = status, row.seq + 1, row.version + 1
        for name, time in times.items():
            setattr(row, name, time)


def _reason(row: Presence, standing: Standing) -> str:
    """Who hides does not say so."""
    if row.status == ONLINE:
        return "opened"
    return standing.reason or "closed"


def _forget(users: Sequence[str]) -> None:
    if users:
        last = Subquery(Presence.objects.filter(pk=OuterRef("user")).values("seq")[:1])
        Transition.objects.filter(user__in=users, seq__lte=last - HISTORY).delete()


def _event(row: Presence, reason: str, now: datetime) -> outbox.Event:
    data = {
        "type": "presence",
        "message": {"user_id": row.user, "status": row.status, "timestamp": int(now.timestamp())},
        "attributes": {"source": "presence", "user_id": row.user, "timestamp": int(now.timestamp() * 1000)},
        "seq": row.seq,
        "reason": reason,
    }
    return outbox.Event("presence", uuid7(), f"user.{row.user}", msgspec.json.encode(data), now)


def _settled(done: Sequence[tuple[str, str]], later: Sequence[str]) -> None:
    with suppress(RedisDown):  # They are due still, and settling twice changes nothing.
        registry.settled([one for one in done if one[1]], later)
