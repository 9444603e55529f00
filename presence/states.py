"""What is known of users' presence, as they are shown: to others, and to those who may know the truth."""

import json
from collections.abc import Collection, Sequence
from datetime import datetime

from django.db import connection

from accounts.models import User
from presence import registry, shapes
from presence.models import Presence, Transition
from realtime.redis_scripts import RedisDown

HISTORY = 100  # Changes that are kept of each user.
OFFLINE = Presence.Status.OFFLINE.value
AVAILABLE, INVISIBLE = Presence.Availability.AVAILABLE.value, Presence.Availability.INVISIBLE.value


def find(users: Sequence[str]) -> list[Presence]:
    """The users' rows in the order asked, in one query; of an unknown user, one that is not stored."""
    rows = {row.user: row for row in Presence.objects.filter(pk__in=users)}
    return [rows.get(user) or Presence(user=user) for user in users]


def versions(users: Collection[str]) -> dict[str, int]:
    """How far each of the known users is."""
    return dict(Presence.objects.filter(pk__in=users).values_list("user", "version"))


def seen(row: Presence) -> shapes.Seen:
    """A user as others see them: who hides looks like somebody who has gone OFFLINE, and said nothing since."""
    hidden = row.availability == INVISIBLE
    return shapes.Seen(
        user=row.user,
        status=OFFLINE if hidden else row.status,
        availability=row.last_availability if hidden else row.availability,
        text=row.last_text if hidden else row.text,
        since=row.since if row.version else None,
        last_seen=row.last_seen,
        version=row.version,
        seq=row.seq,
    )


def look(users: Sequence[str], knowing: Collection[str] | None) -> list[shapes.Presence]:
    """The users in the order asked, for a caller who may know the truth about some, or about all of them: None.

    One query, and one call that asks Redis for their connections; while it does not answer, these are null.
    """
    rows, counts = _rows(users), _counts(users)
    return [
        _shown(user, rows.get(user), None if counts is None else counts[user], knowing is None or user in knowing)
        for user in users
    ]


_Row = tuple[str, str, str, str, str, str, str, str | None, int, int]
_SELECT = """
SELECT "user", status, availability, text, last_availability, last_text,
  CAST(since AS text), CAST(last_seen AS text), seq, version
FROM presence_presence WHERE "user" IN (SELECT value FROM {each}(%s))
"""
_EACH = {"sqlite": "json_each", "postgresql": "json_array_elements_text"}


def _rows(users: Sequence[str]) -> dict[str, _Row]:
    """By the cursor, the users as one parameter and times as texts.

    Of a thousand rows, the ORM, as many parameters, or the drivers' times would take longer than all the rest.
    """
    with connection.cursor() as cursor:
        cursor.execute(_SELECT.format(each=_EACH[connection.vendor]), [json.dumps(list(users))])
        return {row[0]: row for row in cursor.fetchall()}


def _shown(user: str, row: _Row | None, connections: int | None, knows: bool) -> shapes.Presence:
    if row is None:
        row = (user, OFFLINE, AVAILABLE, "", AVAILABLE, "", "", None, 0, 0)
    _, status, availability, text, last_availability, last_text, since, last_seen, seq, version = row
    if not knows and availability == INVISIBLE:  # As in `seen`.
        status, availability, text = OFFLINE, last_availability, last_text
    if not knows and status == OFFLINE:  # Also of who has just come, or a number would tell who hides.
        connections = connections and 0
    began, seen_at = _moment(since) if version else None, _moment(last_seen)
    return shapes.Presence(user, status, availability, text, connections, began, seen_at, seq, version)  # type: ignore[arg-type]


def _moment(text: str | None) -> datetime | None:
    """In UTC, which PostgreSQL writes behind it, and SQLite does not."""
    return None if text is None else datetime.fromisoformat(text if "+" in text else text + "+00:00")


def _counts(users: Sequence[str]) -> dict[str, int] | None:
    try:
        return registry.counts(users) if users else {}
    except RedisDown:
        return None


def of_account(account: str, after: str, limit: int) -> list[str]:
    """The next users of an account, by their ids."""
    found = User.objects.filter(account_id=account, pk__gt=after).order_by("pk")
    return list(found.values_list("pk", flat=True)[:limit])


def history(user: str) -> list[shapes.Transition]:
    """The last changes of a user's status, newest first."""
    rows = Transition.objects.filter(user=user).order_by("-seq")[:HISTORY]
    return [shapes.Transition(row.status, row.reason, row.seq, row.at) for row in rows]  # type: ignore[arg-type]
