"""What is known of users' presence, as they are shown: to others, and to those who may know the truth."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from django.db import connection

from accounts.models import User
from presence import registry, shapes
from presence.models import Presence, Transition

HISTORY = 100  # Changes that are kept of each user.
INVISIBLE = Presence.Availability.INVISIBLE.value


def find(users: Sequence[str]) -> list[Presence]:
    """The users' rows in the order asked, in one query; of an unknown user, one that is not stored."""
    rows = {row.user: row for row in Presence.objects.filter(pk__in=users)}
    return [rows.get(user) or Presence(user=user) for user in users]


def versions(users: Collection[str]) -> dict[str, int]:
    """How far each of the known users is."""
    return dict(Presence.objects.filter(pk__in=users).values_list("user", "version"))


def seen(row: Presence) -> shapes.Seen:
    """A user as others see them."""
    hidden = row.availability == INVISIBLE
    return shapes.Seen(
        user=row.user,
        status=Presence.Status.OFFLINE.value if hidden else row.status,
        availability=Presence.Availability.AVAILABLE.value if hidden else row.availability,
        text="" if hidden else row.text,
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
        _shown(
            user,
            rows.get(user),
            connections=None if counts is None else counts.get(user, 0),
            knows=knowing is None or user in knowing,
        )
        for user in users
    ]


_Row = tuple[str, str, str, str, datetime | None, datetime | None, int, int]


def _rows(users: Sequence[str]) -> dict[str, _Row]:
    """By the cursor: of a thousand rows, the ORM's converters would take longer than all the rest."""
    marks = ",".join(["%s"] * len(users)) or "NULL"
    with connection.cursor() as cursor:
        cursor.execute(
            'SELECT "user", status, availability, text, since, last_seen, seq, version'  # noqa: S608 (marks only)
            f' FROM presence_presence WHERE "user" IN ({marks})',
            list(users),
        )
        return {row[0]: row for row in cursor.fetchall()}


def _shown(user: str, row: _Row | None, *, connections: int | None, knows: bool) -> shapes.Presence:
    if row is None:
        return shapes.Presence(user, "OFFLINE", "available", "", connections, None, None, 0, 0)
    _, status, availability, text, since, last_seen, seq, version = row
    if availability == INVISIBLE and not knows:
        status, availability, text, connections = "OFFLINE", "available", "", connections and 0
    times = _moment(since) if version else None, _moment(last_seen)
    return shapes.Presence(user, status, availability, text, connections, *times, seq, version)  # type: ignore[arg-type]


def _moment(value: datetime | None) -> datetime | None:
    """SQLite's times are without a zone."""
    return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


def _counts(users: Sequence[str]) -> dict[str, int] | None:
    try:
        return registry.counts(users) if users else {}
    except registry.RegistryDown:
        return None


def of_account(account: str, after: str, limit: int) -> list[str]:
    """The next users of an account, by their ids."""
    found = User.objects.filter(account_id=account, pk__gt=after).order_by("pk")
    return list(found.values_list("pk", flat=True)[:limit])


def history(user: str) -> list[shapes.Transition]:
    """The last changes of a user's status, newest first."""
    rows = Transition.objects.filter(user=user).order_by("-seq")[:HISTORY]
    return [shapes.Transition(row.status, row.reason, row.seq, row.at) for row in rows]  # type: ignore[arg-type]
