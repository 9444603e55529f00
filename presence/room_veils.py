"""Who of those in rooms hides: Redis shows nobody before the database was asked, and asks anew after changes.

So nobody comes into sight because Redis was emptied, or because a process died between the two.
"""

from collections.abc import Mapping

from django.db import transaction

from presence import rooms
from presence.models import Presence
from presence.states import INVISIBLE

ASKED_AT_ONCE = 200


def ask(unsure: Mapping[str, str]) -> int:
    """Shows users in their rooms, or not, as the database says; each with the token of `rooms.Changed`.

    -> how many counts are due. Raises RedisDown, and whatever the database raises: then they are not shown yet,
    and the sweep asks again.
    """
    users, due = sorted(unsure), 0
    for first in range(0, len(users), ASKED_AT_ONCE):
        some = users[first : first + ASKED_AT_ONCE]
        with transaction.atomic():
            _make_rows(some)
            # Redis is told while they are locked, as in `changed`: it hears of changes in the order of their commits.
            rows = Presence.objects.select_for_update().filter(pk__in=some).order_by("pk")
            due = rooms.unveil({row.user: (unsure[row.user], _seen_since(row)) for row in rows})
    return due


def _make_rows(users: list[str]) -> None:
    """Only a row can be locked."""
    known = set(Presence.objects.filter(pk__in=users).values_list("pk", flat=True))
    missing = [Presence(user=user) for user in users if user not in known]
    Presence.objects.bulk_create(missing, ignore_conflicts=True)


def _seen_since(row: Presence) -> int | None:
    """In milliseconds: in the eyes of others, nobody was in a room before they were ONLINE. None: they hide."""
    if row.availability == INVISIBLE:
        return None
    return int(row.since.timestamp() * 1000) if row.status == Presence.Status.ONLINE else 0


def changed(user: str) -> None:
    """For the transaction in which a user hides or shows themselves, with their row locked. Raises RedisDown.

    They are veiled at once, and shown after the commit if they do not hide then.
    """
    unsure = rooms.veil(user)
    transaction.on_commit(lambda: ask(unsure), robust=True)
