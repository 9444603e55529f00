"""Receiving, for sessions that poll: the log is their queue, in the manner of SQS, for many of them at a time.

What is handed out is lent: it comes again after its visibility time unless it is acknowledged. No message is lent twice
at once, whoever asks for a session.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import uuid4

import msgspec
from django.conf import settings
from django.db import connection, transaction
from django.db.models import QuerySet
from django.utils import timezone

from accounts.errors import ApiError
from notifications import preferences
from notifications.log import message_event
from notifications.models import Message
from realtime import bus, protocol
from sessions_app import notices
from sessions_app.models import BrowserSession
from sessions_app.notices import Taker
from sessions_app.offering import Queue, has_news, offer
from sessions_app.sessions import is_unseen
from sessions_app.shapes import ReceivedMessage
from sessions_app.state import dump, load
from sessions_app.topics import unknown

NO_RECEIPT = ""  # Of what is handed out at most once.


@dataclass(frozen=True, slots=True)
class Receive:
    """`visibility`: seconds until what is handed out comes again. `user`: who asks, unless it is a backend."""

    session: str
    most: int
    visibility: float
    user: str | None = None


@dataclass(frozen=True, slots=True)
class Settle:
    """What was handed out is done with; or, if not, it may be handed out again at once."""

    session: str
    receipts: Sequence[str]
    done: bool = True
    user: str | None = None


@dataclass(frozen=True, slots=True)
class Handed:
    """`user`: whose session it is. `at`: how far it has come in each of its topics.

    `due`: when something that is lent comes again. `full`: nothing new comes before something is acknowledged. `more`:
    not all was looked through.
    """

    messages: Sequence[ReceivedMessage]
    user: str
    at: Mapping[str, tuple[str | None, int]]
    due: float | None
    full: bool
    more: bool


Lent = tuple[str, str]
"""The id of a message, or a topic that owes a `reset`; and the receipt."""

Ask = Receive | Settle
Answer = Handed | list[str] | ApiError


def serve(asks: Sequence[Ask]) -> list[Answer]:
    """Carries all out in one transaction -> for each, in order: what is handed out, or the receipts that held.

    Or ApiError 404 where there is no such session of the user's that polls. What is settled counts before anything is
    handed out. Where there is nothing to do, nothing is locked.
    """
    idle = _idle(asks, timezone.now())
    with transaction.atomic() if any(ask.session not in idle for ask in asks) else nullcontext():
        now = timezone.now()
        queues = idle | _lock({ask.session for ask in asks if ask.session not in idle}, now)
        answers: list[Answer] = [_refusal(ask, queues.get(ask.session)) or [] for ask in asks]
        receives: list[tuple[int, Receive, Queue]] = []
        with_room: list[str] = []  # Again: who waits for it hears of it.
        for place, ask in enumerate(asks):
            if isinstance(answers[place], ApiError):
                continue
            if isinstance(ask, Settle):
                queue, was_full = queues[ask.session], queues[ask.session].full
                answers[place] = queue.state.settle(ask.receipts, done=ask.done)
                if was_full and not queue.full:
                    with_room.append(acknowledged(ask.session))
            else:
                receives.append((place, ask, queues[ask.session]))
        asking = {queue.row.pk: queue for _place, _ask, queue in receives if queue.row.pk not in idle}
        offer(asking.values(), now)
        lent = [queue.lend(ask.most, now.timestamp() + ask.visibility) for _place, ask, queue in receives]
        for queue in asking.values():
            queue.advance()
        bodies = _bodies(lent, asking.values())
        _write([queue for pk, queue in queues.items() if pk not in idle and _is_news(queue, pk in asking, now)], now)
    _see([queue for _place, _ask, queue in receives if queue.row.pk in idle], now)
    if with_room:
        bus.signal(with_room)
    notices = _notices([(queue, ask.most - len(some)) for (_, ask, queue), some in zip(receives, lent, strict=True)])
    for (place, _ask, queue), some, told in zip(receives, lent, notices, strict=True):
        answers[place] = _handed(queue, some, bodies, told)
    return answers


def acknowledge(session: BrowserSession, receipts: Sequence[str]) -> list[str]:
    """Is done with these messages -> the receipts that held. Raises ApiError 404."""
    (answer,) = serve([Settle(session.pk, receipts)])
    if isinstance(answer, ApiError):
        raise answer
    assert isinstance(answer, list)
    return answer


def acknowledged(session: str) -> str:
    """The signal that a session has room again."""
    return f"acknowledged.{session}"


def _idle(asks: Sequence[Ask], now: datetime) -> dict[str, Queue]:
    """Sessions that only ask, and for which there is nothing, as most who wait again: to read them is enough."""
    settling = {ask.session for ask in asks if isinstance(ask, Settle)}
    found = _queues({ask.session for ask in asks} - settling, now)
    queues = {row.pk: Queue(row, load(row.state)) for row in found}
    busy = has_news(queues.values(), now)
    return {pk: queue for pk, queue in queues.items() if pk not in busy and dump(queue.state) == queue.row.state}


def _lock(sessions: Collection[str], now: datetime) -> dict[str, Queue]:
    """In one order: two batches wait for each other instead of deadlocking."""
    if not sessions:
        return {}
    return {row.pk: Queue(row, load(row.state)) for row in _queues(sessions, now).order_by("pk").select_for_update()}


def _queues(sessions: Collection[str], now: datetime) -> QuerySet[BrowserSession]:
    return BrowserSession.objects.filter(pk__in=sessions, transport=BrowserSession.Transport.POLL, expires_at__gt=now)


def _refusal(ask: Ask, queue: Queue | None) -> ApiError | None:
    return unknown() if queue is None or ask.user not in (None, queue.row.user) else None


def _bodies(lent: Iterable[Sequence[Lent]], queues: Iterable[Queue]) -> dict[str, bytes]:
    """Messages as they are on a socket. One that was purged in this moment has none; it is not there next time."""
    ids = {id for some in lent for id, _receipt in some}.difference(*(queue.state.at for queue in queues))
    found = Message.objects.filter(pk__in=ids).select_related("topic") if ids else ()
    return {str(message.id): message_event(message, message.topic.name, None).body for message in found}


def _notices(rooms: Sequence[tuple[Queue, int]]) -> list[list[bytes]]:
    """What is not stored, for each of these sessions, as much as there is room for."""
    if not rooms:
        return []
    found = notices.take([Taker(_place(queue), list(queue.state.at), room) for queue, room in rooms])
    mutes = preferences.muted_by({queue.row.user for queue, _room in rooms}) if any(found) else {}
    return [
        [e.body for e in some if queue.row.user not in e.exclude and e.type not in mutes[queue.row.user]]
        for (queue, _room), some in zip(rooms, found, strict=True)
    ]


def _place(queue: Queue) -> str:
    """Under which a session's place is kept: one that is new of an id that was another's does not go on from there."""
    return f"{queue.row.pk} {queue.row.created_at.timestamp()}"


def _handed(queue: Queue, lent: Sequence[Lent], bodies: Mapping[str, bytes], told: Sequence[bytes]) -> Handed:
    at, loans = queue.state.at, queue.state.lent
    messages = [
        ReceivedMessage(id, receipt, msgspec.Raw(bodies.get(id) or protocol.reset(id, *at[id])))
        for id, receipt in lent
        if id in bodies or id in at
    ]
    messages += [ReceivedMessage(str(uuid4()), NO_RECEIPT, msgspec.Raw(body)) for body in told]
    due = min((loan.until for loan in loans.values()), default=None)
    return Handed(messages, queue.row.user, at, due, queue.full, queue.more)


def _is_news(queue: Queue, heard_of: bool, now: datetime) -> bool:
    """Whether a session is to be written. `heard_of`: that is news too, once a minute."""
    return dump(queue.state) != queue.row.state or (heard_of and is_unseen(queue.row, now))


def _see(queues: Sequence[Queue], now: datetime) -> None:
    """Sessions that were heard of, and no more: one statement, so that others who write do not have to wait."""
    if unseen := [queue.row.pk for queue in queues if is_unseen(queue.row, now)]:
        found = BrowserSession.objects.filter(pk__in=unseen, expires_at__gt=now)
        found.update(last_seen_at=now, expires_at=now + timedelta(seconds=settings.SESSION_TTL))


def _write(queues: Sequence[Queue], now: datetime) -> None:
    """One statement: all that differs is the state. These sessions live on."""
    if not queues:
        return
    table = connection.ops.quote_name(BrowserSession._meta.db_table)
    moments = [now, now + timedelta(seconds=settings.SESSION_TTL)]
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {table} SET state = rows.column2, last_seen_at = %s, expires_at = %s "  # noqa: S608 (it is ours)
            f"FROM (VALUES {', '.join(['(%s, %s)'] * len(queues))}) AS rows WHERE {table}.id = rows.column1",
            [connection.ops.adapt_datetimefield_value(moment) for moment in moments]
            + [value for queue in queues for value in (queue.row.pk, dump(queue.state))],
        )
