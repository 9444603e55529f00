"""Accepting messages: one function, one transaction, a result for each item."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Protocol

import msgspec
from django.conf import settings
from django.db import connection, transaction
from django.db.models import Q
from django.utils import timezone
from django.utils.module_loading import import_string

from accounts import idempotency, users
from accounts.errors import ApiError
from accounts.idempotency import Claim
from accounts.models import IdempotencyKey
from notifications import preferences
from notifications.models import Message, Receipt, Topic, new_epoch
from realtime import bus, protocol
from realtime.frames import Event

TOPICS_A_STATEMENT = 5000
ROWS_A_STATEMENT = 1000


@dataclass(frozen=True, slots=True)
class Draft:
    """One item to accept: the same message for each of `topics`. It is well-formed and allowed already.

    `data` is JSON. `ttl` is in seconds from when it is sent. `store=False`: it goes to who listens now, at most
    once, and is not kept. Drafts that share a `claim` are one request.
    """

    topics: Sequence[str]
    data: bytes
    type: str = "message"
    sender: str = ""
    key: str = ""
    ttl: int | None = None
    send_at: datetime | None = None
    store: bool = True
    exclude_users: frozenset[str] = frozenset()
    claim: Claim | None = None


class Accepted(msgspec.Struct, frozen=True):
    """Where a message stands: no offset for one that is scheduled (yet) or not stored."""

    id: str
    topic: str
    epoch: str | None
    offset: int | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """An item that was refused before it came here; with a claim, its repetition is refused in the same words."""

    error: ApiError
    claim: Claim | None = None
    topics: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """What became of an item: one entry for each of its topics, or why it was refused.

    `replayed`: it was carried out before, and this is what became of it then.
    """

    accepted: Sequence[Accepted] = ()
    refused: ApiError | None = None
    replayed: bool = False


class MessageSink(Protocol):
    """A function of MESSAGE_SINKS: writes rows of its own for messages that enter the log, inside their transaction.

    The messages have their offset, and their topic with its name. Those that are scheduled come when they are due.
    """

    def __call__(self, messages: Sequence[Message]) -> None: ...


def accept(items: Sequence[Draft | Refusal]) -> list[Result]:
    """Stores drafts and publishes them after commit -> a result for each item, in order.

    All or nothing is stored; only an item whose claim does not hold is left out, and says why. When this returns,
    what was accepted is in the database; live delivery follows, in the order of offsets. Raises ApiError 409 while
    an equal claim is being carried out elsewhere, 413 for more than BATCH_MAX_MESSAGES messages.
    """
    if sum(len(item.topics) for item in items) > settings.BATCH_MAX_MESSAGES:
        raise ApiError(
            413, "too_many_messages", f"At most {settings.BATCH_MAX_MESSAGES} messages at once (BATCH_MAX_MESSAGES)."
        )
    if not any(item.claim or (isinstance(item, Draft) and item.store) for item in items):
        entries = _entries(items)
        _publish_after_commit([entry.event() for entry in entries])
        return _results(items, {}, entries)
    with transaction.atomic():
        claims = idempotency.take(item.claim for item in items if item.claim)
        entries = _entries([item for item in items if _is_fresh(item, claims)])
        _store([entry for entry in entries if entry.draft.store])
        results = _results(items, claims, entries)
        _keep_replies(items, claims, results)
        events = [entry.event() for entry in entries if entry.draft.send_at is None]
        _publish_after_commit(events)
    return results


def publish_due(limit: int = ROWS_A_STATEMENT) -> int:
    """Gives scheduled messages that are due their offsets, and publishes them -> how many.

    At most once each, whoever else does the same at the same time.
    """
    with transaction.atomic():
        due = list(
            Message.objects.filter(offset=None, recalled_at=None, send_at__lte=timezone.now())
            .select_related("topic")
            .select_for_update(of=("self",), skip_locked=connection.features.has_select_for_update_skip_locked)
            .order_by("send_at", "id")[:limit]
        )
        heads = _move_heads(Counter(message.topic.name for message in due))
        now = timezone.now()
        to_users = [(name[5:], message) for message in due if (name := message.topic.name).startswith("user.")]
        Receipt.objects.bulk_create(preferences.withhold(to_users))
        events = []
        for message in due:
            message.offset, message.created_at = next(heads[message.topic.name].offsets), now
            events.append(message_event(message, message.topic.name, message.topic.epoch))
        Message.objects.bulk_update(due, ["offset", "created_at", "has_exclusions"], batch_size=200)
        _tell_sinks(due)
        events = with_exclusions(due, events)
        _publish_after_commit(events)
    return len(due)


def message_event(message: Message, topic: str, epoch: str | None, exclude: frozenset[str] = frozenset()) -> Event:
    """The event that carries a message to those who listen."""
    return Event(
        topic,
        protocol.message(
            topic=topic,
            offset=message.offset,
            id=str(message.id),
            type=message.type,
            data=message.data.encode(),
            created_at=message.created_at,
            expires_at=message.expires_at,
            sender=message.sender,
        ),
        epoch=epoch if message.offset is not None else None,
        offset=message.offset,
        exclude=exclude,
        expires_at=message.expires_at.timestamp() if message.expires_at else None,
        type=message.type if topic == "all" or topic.startswith(("user.", "account.")) else "",
    )


def with_exclusions(messages: Sequence[Message], events: Sequence[Event]) -> list[Event]:
    """The events of these messages, each with the users that do not get it: one query where any has some."""
    excluded: dict[Any, set[str]] = {message.id: set() for message in messages if message.has_exclusions}
    if excluded:
        found = Receipt.objects.filter(Q(excluded=True) | Q(quiet=True), message__in=excluded)
        for message_id, user in found.values_list("message_id", "user"):
            excluded[message_id].add(user)
    return [
        replace(event, exclude=frozenset(excluded[message.id])) if message.has_exclusions else event
        for message, event in zip(messages, events, strict=True)
    ]


def _publish_after_commit(events: Sequence[Event]) -> None:
    """At once where there is no transaction: what is not stored needs no database."""
    if connection.in_atomic_block:
        transaction.on_commit(lambda: bus.publish(events), robust=True)  # What is stored is accepted.
    else:
        bus.publish(events)


# --- Inside the transaction -----------------------------------------------------------------------

Claims = Mapping[Claim, IdempotencyKey | ApiError]


@dataclass(slots=True)
class _Entry:
    """One message of a draft on its way into one topic."""

    draft: Draft
    topic: str
    message: Message
    exclude: frozenset[str]
    epoch: str | None = None

    def accepted(self) -> Accepted:
        return Accepted(str(self.message.id), self.topic, self.epoch, self.message.offset)

    def event(self) -> Event:
        return message_event(self.message, self.topic, self.epoch, self.exclude)


@dataclass(frozen=True, slots=True)
class _Head:
    topic: Topic
    offsets: Iterator[int]  # Those that are ours now.


def _is_fresh(item: Draft | Refusal, claims: Claims) -> bool:
    if item.claim is None:
        return True
    row = claims[item.claim]
    return isinstance(row, IdempotencyKey) and not row.reply


def _entries(items: Iterable[Draft | Refusal]) -> list[_Entry]:
    now = timezone.now()
    entries = []
    for draft in items:
        if isinstance(draft, Refusal):
            continue
        data = draft.data.decode()
        expires_at = (draft.send_at or now) + timedelta(seconds=draft.ttl) if draft.ttl else None
        for topic in draft.topics:
            message = Message(
                type=draft.type,
                data=data,
                sender=draft.sender,
                key=draft.key,
                created_at=now,
                send_at=draft.send_at,
                expires_at=expires_at,
                has_exclusions=bool(draft.exclude_users),
            )
            entries.append(_Entry(draft, topic, message, draft.exclude_users))
    return entries


def _store(entries: Sequence[_Entry]) -> None:
    users.ensure(entry.topic[5:] for entry in entries if entry.topic.startswith("user."))
    counts = Counter({entry.topic: 0 for entry in entries})  # A scheduled message needs its topic, not yet an offset.
    counts.update(entry.topic for entry in entries if entry.draft.send_at is None)
    heads = _move_heads(counts)
    now = timezone.now()  # After the locks: within a topic, time does not run against the offsets.
    for entry in entries:
        head = heads[entry.topic]
        entry.message.topic = head.topic
        if entry.draft.send_at is None:
            entry.epoch, entry.message.offset, entry.message.created_at = head.topic.epoch, next(head.offsets), now
    withheld = _withheld(entries)
    messages = [entry.message for entry in entries]
    Message.objects.bulk_create(messages, batch_size=ROWS_A_STATEMENT)
    excluded = [
        Receipt(message=entry.message, user=user, excluded=True)
        for entry in entries
        for user in sorted(entry.draft.exclude_users)
    ]
    Receipt.objects.bulk_create([*excluded, *withheld], batch_size=ROWS_A_STATEMENT)
    _tell_sinks([message for message in messages if message.offset is not None])


def _tell_sinks(messages: Sequence[Message]) -> None:
    for path in settings.MESSAGE_SINKS if messages else ():
        sink: MessageSink = import_string(path)
        sink(messages)


def _withheld(entries: Sequence[_Entry]) -> list[Receipt]:
    """Receipts of what users do not want, or not live; what is scheduled is judged when it is due."""
    now = {e.message.id: e for e in entries if e.draft.send_at is None and e.topic.startswith("user.")}
    receipts = preferences.withhold((entry.topic[5:], entry.message) for entry in now.values())
    for receipt in receipts:
        entry = now[receipt.message_id]
        entry.exclude = entry.exclude | {receipt.user}
    return receipts


def _move_heads(counts: Mapping[str, int]) -> dict[str, _Head]:
    """Locks topics in the order of their names, makes those that are missing, and takes `counts` offsets of each."""
    heads: dict[str, _Head] = {}
    names = sorted(counts)
    for start in range(0, len(names), TOPICS_A_STATEMENT):
        some = names[start : start + TOPICS_A_STATEMENT]
        table = connection.ops.quote_name(Topic._meta.db_table)
        with connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO {table} (name, epoch, head, tail) "  # noqa: S608 (the table is ours)
                f"VALUES {', '.join(['(%s, %s, %s, 1)'] * len(some))} "
                f"ON CONFLICT (name) DO UPDATE SET head = {table}.head + excluded.head RETURNING name, id, epoch, head",
                [value for name in some for value in (name, new_epoch(), counts[name])],
            )
            for name, topic_id, epoch, head in cursor.fetchall():
                topic = Topic(id=topic_id, name=name, epoch=epoch, head=head)
                heads[name] = _Head(topic, iter(range(head - counts[name] + 1, head + 1)))
    return heads


class _Refused(msgspec.Struct):
    """A refusal as it is kept."""

    status: int
    code: str
    message: str
    fields: dict[str, str] | None


_Reply = list[list[Accepted] | _Refused]


def _results(items: Iterable[Draft | Refusal], claims: Claims, entries: Iterable[_Entry]) -> list[Result]:
    made = iter(entries)
    replays = {
        claim: iter(msgspec.json.decode(row.reply, type=_Reply))
        for claim, row in claims.items()
        if isinstance(row, IdempotencyKey) and row.reply
    }
    results: list[Result] = []
    for item in items:
        row = claims.get(item.claim) if item.claim else None
        if isinstance(row, ApiError):
            results.append(Result(refused=row))
        elif item.claim in replays:
            results.append(_replayed(next(replays[item.claim])))
        elif isinstance(item, Refusal):
            results.append(Result(refused=item.error))
        else:
            results.append(Result([entry.accepted() for entry in islice(made, len(item.topics))]))
    return results


def _replayed(outcome: list[Accepted] | _Refused) -> Result:
    if isinstance(outcome, _Refused):
        error = ApiError(outcome.status, outcome.code, outcome.message, fields=outcome.fields)
        return Result(refused=error, replayed=True)
    return Result(outcome, replayed=True)


def _keep_replies(items: Iterable[Draft | Refusal], claims: Claims, results: Iterable[Result]) -> None:
    replies: dict[Claim, _Reply] = {}
    for item, result in zip(items, results, strict=True):
        if item.claim and _is_fresh(item, claims):
            error = result.refused
            kept = _Refused(error.status, error.code, error.message, error.fields) if error else [*result.accepted]
            replies.setdefault(item.claim, []).append(kept)
    rows = []
    for claim, reply in replies.items():
        row = claims[claim]
        assert isinstance(row, IdempotencyKey)
        row.reply = msgspec.json.encode(reply).decode()
        rows.append(row)
    idempotency.keep(rows)
