"""Records that come in from outside: each is taken once, or tried again until it is dead, whatever its neighbours do.

What a record means, a handler of INGEST_HANDLERS knows. Who brings records (HTTP, queues) calls `ingest` and learns
of each whether to forget it or to bring it again.
"""

import hashlib
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, Protocol

from django.conf import settings
from django.db import InterfaceError, OperationalError, transaction
from django.db.models import F
from django.utils import timezone
from django.utils.module_loading import import_string

from accounts.errors import ApiError
from adapters.ingest_settings import Source
from adapters.models import FailedRecord

logger = logging.getLogger(__name__)

RECORD_MAX_BYTES = 256 * 1024  # What queues carry. A larger one is refused, and its body is not kept.
KEY_MAX, ERROR_MAX = 200, 500
REDRIVEN_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Record:
    """What a source hands in; `id` is the same each time that it does so."""

    id: str
    body: bytes

    @property
    def key(self) -> str:
        """The id, or a hash of it where it is too long or not printable: what it is known by here."""
        if len(self.id) <= KEY_MAX and self.id.isprintable():
            return self.id
        return "sha256:" + hashlib.sha256(self.id.encode(errors="backslashreplace")).hexdigest()


Outcome = Sequence[str] | ApiError  # The ids of what was made, or why not.


class Handler(Protocol):
    """A function of INGEST_HANDLERS: takes records of its kind -> an outcome for each, in their order.

    No two of them have the same key. It makes what a key stands for at most once, in one transaction with a note of
    that: the same record comes again after every kind of failure. An ApiError with `retry_after`, or the database's,
    says nothing about the records: all come again; as an outcome, this one does, and no try is counted. Anything else
    that it raises for many records is found out by trying each alone.
    """

    def __call__(self, source: Source, records: Sequence[Record], /) -> Sequence[Outcome]: ...


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a record: it made something, or `error` says why not; `dead` is one that is given up on."""

    id: str
    made: Sequence[str] = ()
    error: ApiError | None = None
    dead: bool = False

    @property
    def status(self) -> Literal["accepted", "refused", "dead"]:
        if self.error is None:
            return "accepted"
        return "dead" if self.dead else "refused"

    @property
    def done(self) -> bool:
        """Whether the source can forget the record. One that is refused should come again."""
        return self.status != "refused"


def ingest(source: Source, records: Sequence[Record], tries: int | None = None) -> list[Result]:
    """Takes records -> a result for each, in order. A bad one neither repeats nor blocks the others.

    A record takes effect once in IDEMPOTENCY_DAYS, however often it comes. One that fails counts a try; after `tries`,
    by default INGEST_TRIES, it is dead. Raises the database's errors, or an ApiError with `retry_after`: then no try is
    counted, all records have to come again, and what was taken already is not taken twice.
    """
    outcomes: dict[int, Outcome] = {}
    for places in _rounds(records):
        fitting = [place for place in places if len(records[place].body) <= RECORD_MAX_BYTES]
        taken = _handle(source, [records[place] for place in fitting])
        outcomes |= dict.fromkeys(places, _too_large()) | dict(zip(fitting, taken, strict=True))
    pairs = [(record, outcomes[place]) for place, record in enumerate(records)]
    dead = _remember(source, pairs, tries or settings.INGEST_TRIES)
    return [
        Result(record.id, error=outcome, dead=record.key in dead)
        if isinstance(outcome, ApiError)
        else Result(record.id, made=outcome)
        for record, outcome in pairs
    ]


# --- Dead records ---------------------------------------------------------------------------------


def redrive(source: Source, ids: Collection[str] = (), since: datetime | None = None) -> Iterator[list[Result]]:
    """Hands in dead records once more, oldest first: all, these ids, or those that died since -> results as they come.

    At most REDRIVES_PER_SECOND. What is taken now is dead no more: a second time finds nothing to do. What was too
    large has no body here, and stays.
    """
    found = FailedRecord.objects.filter(source=source.name, dead_at__isnull=False).exclude(body="")
    if ids:
        found = found.filter(record_id__in=[Record(id, b"").key for id in ids])
    if since:
        found = found.filter(dead_at__gte=since)
    waiting = list(found.order_by("pk").values_list("pk", flat=True))
    started, at_once = time.monotonic(), min(REDRIVEN_AT_ONCE, settings.REDRIVES_PER_SECOND)
    for place in range(0, len(waiting), at_once):
        time.sleep(max(0.0, started + place / settings.REDRIVES_PER_SECOND - time.monotonic()))
        rows = found.filter(pk__in=waiting[place : place + at_once]).order_by("pk")  # Those that still are.
        yield ingest(source, [Record(row.record_id, row.body.encode()) for row in rows])


def purge() -> int:
    """Deletes failed records after DEAD_LETTER_DAYS, dead or not -> how many."""
    old = timezone.now() - timedelta(days=settings.DEAD_LETTER_DAYS)
    return FailedRecord.objects.filter(last_at__lt=old).delete()[0]


# --- What happens to records ----------------------------------------------------------------------


def _rounds(records: Sequence[Record]) -> Iterable[list[int]]:
    """The places of records, each key once in a round: a repetition comes after what it repeats."""
    seen: Counter[str] = Counter()
    rounds: dict[int, list[int]] = defaultdict(list)
    for place, record in enumerate(records):
        rounds[seen[record.key]].append(place)
        seen[record.key] += 1
    return rounds.values()


def _handle(source: Source, records: Sequence[Record]) -> list[Outcome]:
    """The outcomes of records; when the handler fails with many, of each alone."""
    if not records:
        return []
    handler: Handler = import_string(settings.INGEST_HANDLERS[source.kind])
    try:
        return [outcome for _, outcome in zip(records, handler(source, records), strict=True)]
    except Exception as error:
        if _is_temporary(error):
            raise
        if len(records) > 1:
            return [outcome for record in records for outcome in _handle(source, [record])]
        if isinstance(error, ApiError):
            return [error]
        logger.exception("The handler %s failed with a record of %s: %s", source.kind, source.name, records[0].key)
        return [ApiError(500, "internal_error", "This failed here, not with you: the server's log says why.")]


def _is_temporary(error: Exception) -> bool:
    """Whether an error says nothing about the records."""
    return isinstance(error, OperationalError | InterfaceError) or getattr(error, "retry_after", None) is not None


def _remember(source: Source, pairs: Sequence[tuple[Record, Outcome]], tries: int) -> set[str]:
    """Forgets what was taken, counts the tries of what was refused -> the keys of those that are dead."""
    rows = FailedRecord.objects.filter(source=source.name)
    failed = {
        record.key: (record, outcome)
        for record, outcome in pairs
        if isinstance(outcome, ApiError) and not _is_temporary(outcome)
    }
    taken = {record.key for record, outcome in pairs if not isinstance(outcome, ApiError)} - failed.keys()
    mended = list(rows.filter(record_id__in=taken).values_list("pk", flat=True)) if taken else []
    if mended:
        rows.filter(pk__in=mended).delete()
    if not failed:
        return set()
    now = timezone.now()
    with transaction.atomic():
        keys = sorted(failed)  # Locked in one order, or two batches with the same records deadlock.
        FailedRecord.objects.bulk_create(
            [FailedRecord(source=source.name, record_id=key, first_at=now) for key in keys], ignore_conflicts=True
        )
        for key in keys:
            record, error = failed[key]
            rows.filter(record_id=key).update(
                tries=F("tries") + 1, kind=source.kind, body=_kept(record), error=_reason(error), last_at=now
            )
        ours = rows.filter(record_id__in=keys)
        died = ours.filter(tries__gte=tries, dead_at=None).update(dead_at=now)
        dead = set(ours.filter(dead_at__isnull=False).values_list("record_id", flat=True))
    if died:
        logger.warning("%d records of %s are dead: `manage.py ingest dead` shows them.", died, source.name)
    return dead


def _kept(record: Record) -> str:
    """The body as a text that every database takes. What is no JSON does not become some by that."""
    if len(record.body) > RECORD_MAX_BYTES:
        return ""
    return record.body.decode(errors="backslashreplace").replace("\0", "\\x00")


def _reason(error: ApiError) -> str:
    text = f"{error.code}: {error.message}".encode(errors="replace").decode()
    return text.replace("\0", "")[:ERROR_MAX]


def _too_large() -> ApiError:
    return ApiError(413, "too_large", f"A record has {RECORD_MAX_BYTES} bytes at most: send a link.")
