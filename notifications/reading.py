"""Reading many topics of the log at once, for many readers: few queries, however many there are."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import connection
from django.db.models import Q
from django.utils import timezone

from notifications.history import visible
from notifications.models import Message, Receipt, Topic

STRETCHES_A_QUERY = 250  # SQLite takes 500.


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a topic: what comes after an offset, up to another one, and is newer than a time."""

    topic: int
    after: int
    through: int
    since: datetime


def topics(names: Collection[str]) -> dict[str, Topic]:
    """Those of these that have had a message."""
    return {topic.name: topic for topic in Topic.objects.filter(name__in=names)}


def stretches(wanted: Collection[Stretch], limit: int) -> dict[Stretch, list[Message]]:
    """The visible messages of each, oldest first, `limit` at most; their `data` is not read yet."""
    found: dict[Stretch, list[Message]] = {stretch: [] for stretch in wanted}
    in_turn = list(found)
    for start in range(0, len(in_turn), STRETCHES_A_QUERY):
        some = in_turn[start : start + STRETCHES_A_QUERY]
        for message in _read(some, limit):
            found[some[message.stretch]].append(message)  # type: ignore[attr-defined]  # Of the query below.
    return found


def _read(wanted: Sequence[Stretch], limit: int) -> Iterator[Message]:
    quote, moment = connection.ops.quote_name, connection.ops.adapt_datetimefield_value
    offset, table = quote("offset"), quote(Message._meta.db_table)
    one = (  # What `visible` says; the ORM cannot limit each part of a union on SQLite.
        f"id, topic_id, {offset}, type, created_at, has_exclusions FROM {table} WHERE topic_id = %s "
        f"AND {offset} > %s AND {offset} <= %s AND created_at > %s AND recalled_at IS NULL "
        f"AND (expires_at IS NULL OR expires_at > %s) ORDER BY {offset} LIMIT %s"
    )
    parts = [
        f"SELECT * FROM (SELECT {number} AS stretch, {one}) AS s{number}"  # noqa: S608 (all of it is ours)
        for number in range(len(wanted))
    ]
    now = moment(timezone.now())
    values = [(w.topic, w.after, w.through, moment(w.since), now, limit) for w in wanted]
    yield from Message.objects.raw(" UNION ALL ".join(parts), [value for row in values for value in row])


def still_visible(ids: Collection[UUID]) -> list[Message]:
    """Those of these messages that readers may still see; their `data` is not read yet."""
    return list(Message.objects.filter(visible(), pk__in=ids).defer("data")) if ids else []


def not_live(messages: Iterable[Message], users: Collection[str]) -> set[tuple[UUID, str]]:
    """Which of these messages are not to go live to which of these users."""
    ids = [message.id for message in messages if message.has_exclusions]
    if not ids:
        return set()
    found = Receipt.objects.filter(Q(excluded=True) | Q(quiet=True), message__in=ids, user__in=users)
    return set(found.values_list("message_id", "user"))
