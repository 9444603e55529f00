"""The rows behind dispatching: which sessions a message is owed to, who sends it to them, and what became of that.

A chunk of sessions is claimed under a lease, by the clock of the database: where it is not renewed, another process
goes on with the same sessions, so that a message may come twice, with the same id.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from django.conf import settings
from django.db import connection, transaction
from django.db.models import DateTimeField, Exists, ExpressionWrapper, F, Model, OuterRef, Q, QuerySet, Sum, Value
from django.db.models.expressions import Combinable
from django.db.models.functions import Now
from django.utils import timezone

from notifications.models import Message
from sessions_app import notices
from sessions_app.models import BrowserSession, Chunk, Dispatch

Row = TypeVar("Row", bound=Model)

LEASE = timedelta(seconds=15)
OWED = timedelta(hours=1)  # For so long a message is tried.
LATE = timedelta(seconds=10)  # What was finished just before a session was made, it gets too.
BACKOFF_MAX = 60.0  # Seconds.
ROWS_AT_ONCE = 500
SENDS_SPREAD_AT_ONCE = 200_000  # Or those of one dispatch: all of them are in memory.
COUNTS = ("sent", "gone", "failed")

LOOKED_UP_BY = {"session": "topic", "user": "user", "account": "account"}  # The column, by the kind of a topic.


class Notice(msgspec.Struct):
    """An event that is not in the log, as a dispatch keeps it."""

    body: str
    exclude: frozenset[str]
    type: str


# --- Owing ----------------------------------------------------------------------------------------


def owe(messages: Sequence[Message]) -> None:
    """One of MESSAGE_SINKS: what is owed is stored with the messages, or neither is."""
    if not settings.SESSION_ROLE_ARN:
        return
    rows = []
    for message in messages:
        name, until = message.topic.name, message.created_at + OWED
        if name == "all" or name.partition(".")[0] in LOOKED_UP_BY:
            until = min(until, message.expires_at or until)
            at = message.created_at
            rows.append(Dispatch(id=message.id, topic=name, offset=message.offset, created_at=at, expires_at=until))
    Dispatch.objects.bulk_create(rows, batch_size=ROWS_AT_ONCE)


def owe_notices() -> None:
    """Of events that are not stored, those that sessions with queues hear; for a short time, and once at most."""
    events = notices.take_owed(ROWS_AT_ONCE)
    listeners = _listeners({event.topic for event in events}) if events else {}
    now = timezone.now()
    Dispatch.objects.bulk_create(
        Dispatch(
            topic=event.topic,
            notice=msgspec.json.encode(Notice(event.body.decode(), event.exclude, event.type)).decode(),
            created_at=now,
            expires_at=now + timedelta(seconds=notices.KEPT_SECONDS),
        )
        for event in events
        if listeners.get(event.topic)
    )


def join(session: BrowserSession, topics: Iterable[str]) -> None:
    """A session gets what is under way, too; in the transaction that makes it."""
    now = timezone.now()
    under_way = Q(finished_at=None) | Q(finished_at__gt=now - LATE)
    found = Dispatch.objects.filter(under_way, topic__in=topics, expires_at__gt=now).order_by("id")
    rows = [row for row in found.select_for_update() if row.spread_at]  # The others wait for us, then see the session.
    Chunk.objects.bulk_create(_chunk(row, [session.pk], now) for row in rows)
    Dispatch.objects.filter(pk__in=[row.pk for row in rows]).update(finished_at=None)


def spread() -> int:
    """Looks up to which sessions new dispatches go -> how many dispatches these were."""
    if not Dispatch.objects.filter(spread_at=None).exists():
        return 0
    with transaction.atomic():
        now = timezone.now()
        rows = list(_unlocked(Dispatch.objects.filter(spread_at=None)).order_by("id")[:ROWS_AT_ONCE])
        listeners = _listeners({row.topic for row in rows})
        rows = list(_bounded(rows, listeners))
        chunks = [_chunk(row, ids, now) for row in rows for ids in _parts(listeners[row.topic], settings.SESSION_CHUNK)]
        Chunk.objects.bulk_create(chunks, batch_size=ROWS_AT_ONCE)
        Dispatch.objects.filter(pk__in=[row.pk for row in rows]).update(spread_at=now)
        unheard = [row.pk for row in rows if not listeners[row.topic]]
        Dispatch.objects.filter(pk__in=unheard).update(finished_at=now)
    return len(rows)


def _bounded(rows: Iterable[Dispatch], listeners: Mapping[str, Sequence[str]]) -> Iterator[Dispatch]:
    sends = 0
    for row in rows:
        sends += len(listeners[row.topic])
        if sends <= SENDS_SPREAD_AT_ONCE or sends == len(listeners[row.topic]):
            yield row
        else:
            return


def _listeners(topics: Collection[str]) -> Mapping[str, list[str]]:
    """The ids of the sessions that hear each, in their order; those too that have no queue yet."""
    live = BrowserSession.objects.filter(transport=BrowserSession.Transport.SQS, expires_at__gt=timezone.now())
    live = live.order_by("pk")
    found: dict[str, list[str]] = defaultdict(list)
    if "all" in topics:
        found["all"] = list(live.values_list("pk", flat=True))
    for kind, column in LOOKED_UP_BY.items():
        names = [name for name in topics if name.startswith(f"{kind}.")]
        keys = {name if column == "topic" else name.partition(".")[2]: name for name in names}
        for key, id in live.filter(**{f"{column}__in": keys}).values_list(column, "pk") if keys else ():
            found[keys[key]].append(id)
    return found


def _chunk(dispatch: Dispatch, sessions: Sequence[str], now: datetime) -> Chunk:
    return Chunk(dispatch=dispatch, sessions=sessions, size=len(sessions), due_at=now)


def _parts(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (ids[start : start + size] for start in range(0, len(ids), size))


# --- Claims ---------------------------------------------------------------------------------------


def take(claim: str, sends: int, *, small_first: bool = False) -> list[Chunk]:
    """Claims chunks that are due, old or small ones first, until they have so many sessions -> what is ours now."""
    free = Q(claimed_until=None) | Q(claimed_until__lte=Now())
    due = Chunk.objects.filter(free, due_at__lte=timezone.now())
    due = due.order_by("size", "due_at", "id") if small_first else due.order_by("due_at", "id")
    if not due.exists():
        return []
    with transaction.atomic():
        ids: list[int] = []
        for pk, size in _unlocked(due).values_list("pk", "size")[:sends]:
            if sends > 0:
                ids.append(pk)
                sends -= size
        Chunk.objects.filter(pk__in=ids).update(claim=claim, claimed_until=_after(LEASE))
        return list(Chunk.objects.filter(pk__in=ids).select_related("dispatch").order_by("due_at", "id"))


def renew(claim: str) -> None:
    """Keeps what is claimed for another lease; what others have taken over is theirs."""
    Chunk.objects.filter(claim=claim).update(claimed_until=_after(LEASE))


def _unlocked(rows: QuerySet[Row]) -> QuerySet[Row]:
    """Locks those that nobody else has locked."""
    return rows.select_for_update(skip_locked=connection.features.has_select_for_update_skip_locked)


def _after(time: timedelta) -> Combinable:
    return ExpressionWrapper(Now() + Value(time), output_field=DateTimeField())


# --- What became of it ----------------------------------------------------------------------------


@dataclass(slots=True)
class Result:
    """What became of a chunk: counts, and the sessions that are left for later.

    `retry_after`: seconds that the other side asked for. Where nothing was `tried`, the chunk stays as it was.
    """

    chunk: Chunk
    sent: int = 0
    gone: int = 0
    failed: int = 0
    left: list[str] = field(default_factory=list)
    tried: bool = False
    retry_after: float = 0.0


def mark(claim: str, results: Collection[Result]) -> None:
    """Stores results and gives the chunks back, except those that others have taken over meanwhile."""
    now = timezone.now()
    with transaction.atomic():
        dispatches = Dispatch.objects.filter(pk__in={result.chunk.dispatch_id for result in results})
        list(dispatches.order_by("pk").select_for_update().values_list("pk"))
        chunks = Chunk.objects.filter(pk__in=[result.chunk.pk for result in results], claim=claim)
        held = set(chunks.values_list("pk", flat=True))
        counts: Counter[tuple[UUID, str]] = Counter()
        for result in results:
            if result.chunk.pk not in held:
                continue
            if result.left and now >= result.chunk.dispatch.expires_at:
                result.failed, result.left = result.failed + len(result.left), []
            if result.left:
                held.remove(result.chunk.pk)
                _put_off(result, now)
            for name in COUNTS:
                counts[result.chunk.dispatch_id, name] += getattr(result, name)
        Chunk.objects.filter(pk__in=held).delete()
        _count(counts)
        unfinished = Chunk.objects.filter(dispatch=OuterRef("pk"))
        dispatches.exclude(Exists(unfinished)).update(finished_at=now)


def _count(counts: Mapping[tuple[UUID, str], int]) -> None:
    """One statement for all dispatches to which the same is added."""
    same: dict[tuple[str, int], list[UUID]] = defaultdict(list)
    for (dispatch, name), number in counts.items():
        if number:
            same[name, number].append(dispatch)
    for (name, number), some in same.items():
        Dispatch.objects.filter(pk__in=some).update(**{name: F(name) + number})


def _put_off(result: Result, now: datetime) -> None:
    """Later again, with full jitter: up to a second after the first attempt, up to a minute after the seventh."""
    chunk = result.chunk
    if result.tried:
        chunk.attempts += 1
        wait = random.uniform(0.0, min(BACKOFF_MAX, 2.0 ** (chunk.attempts - 1)))  # noqa: S311 (no secret)
        chunk.due_at = now + timedelta(seconds=max(wait, min(result.retry_after, BACKOFF_MAX)))
    chunk.sessions, chunk.size, chunk.claim, chunk.claimed_until = result.left, len(result.left), "", None
    chunk.save(update_fields=["sessions", "size", "attempts", "due_at", "claim", "claimed_until"])


def end(session: BrowserSession) -> None:
    """Its queue is gone, and so is the session, unless it has another queue by now."""
    BrowserSession.objects.filter(pk=session.pk, queue_url=session.queue_url).delete()


def purge() -> int:
    """Forgets dispatches that nobody heard, after LATE, and the others after DELIVERED_DAYS -> how many."""
    now = timezone.now()
    old = Q(finished_at__lt=now - timedelta(days=settings.DELIVERED_DAYS))
    finished = Dispatch.objects.filter(finished_at__lt=now - LATE)
    deleted, _by_model = finished.filter(old | Q(sent=0, gone=0, failed=0)).delete()
    return deleted


# --- What is shown --------------------------------------------------------------------------------


def steps(message: Message) -> Iterator[dict[str, Any]]:
    """One of TIMELINE_STEPS: how far a message has come to the queues of sessions."""
    row = Dispatch.objects.filter(pk=message.pk).first()
    if row is None:
        return
    left: int = row.chunk_set.aggregate(left=Sum("size"))["left"] or 0
    counts = {"sent": row.sent, "gone": row.gone, "failed": row.failed, "left": left}
    if any(counts.values()):
        yield {"what": "dispatched", "at": row.finished_at or timezone.now(), **counts}


def backlog() -> int:
    """How many sends there are still to do, of what has been looked up."""
    found: int | None = Chunk.objects.aggregate(left=Sum("size"))["left"]
    return found or 0
