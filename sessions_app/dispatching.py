"""Dispatching: messages go into the queues of the sessions that are to get them, many at once.

At least once, with the same id each time. A process that dies leaves chunks of sessions as they were: when its leases
end, another goes on.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from queue import Empty, SimpleQueue
from uuid import UUID, uuid4

import msgspec
from django.conf import settings
from django.utils import timezone

from adapters.aws import clients
from adapters.base import Outcome
from adapters.sealing import Unsealable
from notifications import preferences
from notifications.history import visible
from notifications.log import message_event, with_exclusions
from notifications.models import Message
from realtime.frames import Event
from sessions_app import dispatches, metrics
from sessions_app.access import key_of
from sessions_app.dispatches import Notice, Result
from sessions_app.envelopes import Letter, sealed
from sessions_app.models import BrowserSession, Chunk, Dispatch
from sessions_app.sessions import topics_of

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1
LINGER_SECONDS = 3.0  # After the last send: the next one does not wait for beat.
RENEWALS_A_LEASE = 3
LOADS_AT_ONCE = 3  # While one waits for its last answers, others are under way.
FAILURES_MAX = 50  # In a row; then the rest of a load is left for later.

NEW = timedelta(seconds=10)

QUEUE_MAX_BYTES = 256 * 1024  # Of a message, and of all in one call.
BODY_MAX_BYTES = 188 * 1024  # As large is a message when it is encrypted and in its envelope.
ENVELOPE_BYTES = 2048  # More than the rest of it has.
ENTRIES_MAX = 10

DELIVERED = Outcome()
GONE = Outcome("the queue is gone", permanent=True)
NO_QUEUE = Outcome("there is no queue yet")
NOT_TRIED = Outcome("its turn has not come", tried=False)
TOO_LARGE = Outcome("it does not fit into a queue, and is not in the log", permanent=True)
UNREADABLE = Outcome("SECRETS_KEY does not open the session's key", permanent=True)


@dataclass(frozen=True, slots=True)
class Mail:
    """A letter, and who does not get it."""

    letter: Letter
    exclude: frozenset[str] = frozenset()
    type: str = ""  # Which users may mute.


@dataclass(frozen=True, slots=True)
class Call:
    """What goes into one queue at once: a letter for each of these chunks."""

    session: BrowserSession
    chunks: Sequence[int]
    letters: Sequence[Letter]


@dataclass(slots=True)
class Load:
    """Some chunks that are worked through together. `open`: calls without an answer; `failures`: in a row."""

    results: dict[int, Result]
    open: int = 0
    failures: int = 0

    def take_in(self, call: Call, outcomes: Sequence[Outcome]) -> None:
        self.open -= 1
        for chunk, outcome in zip(call.chunks, outcomes, strict=True):
            self.note(chunk, call.session.pk, outcome)
        if GONE in outcomes:
            dispatches.end(call.session)

    def note(self, chunk: int, session: str, outcome: Outcome) -> None:
        result = self.results[chunk]
        if outcome.delivered:
            result.sent += 1
        elif outcome is GONE:
            result.gone += 1
        elif outcome.permanent:
            result.failed += 1
        else:
            result.left.append(session)
            result.tried |= outcome.tried
            result.retry_after = max(result.retry_after, outcome.retry_after)


class Dispatcher:
    """Sends for a while, under claims of its own. Threads wait for queues; only the caller's asks the database."""

    def __init__(self) -> None:
        self._claim = uuid4().hex
        self._loads: list[Load] = []
        self._answers: SimpleQueue[tuple[Load, Call, Sequence[Outcome]]] = SimpleQueue()
        self._small_first = False
        self._stopping = False
        self._renewed = time.monotonic()

    def run(self, seconds: float) -> bool:
        """Sends what is due until there is nothing, or for so long -> whether there may be more to do."""
        end = time.monotonic() + seconds
        linger_until = 0.0
        with ThreadPoolExecutor(settings.SESSION_SENDS_AT_ONCE, thread_name_prefix="dispatch") as threads:
            try:
                while (now := time.monotonic()) < end:
                    self._take(threads)
                    if self._loads:
                        linger_until = now + LINGER_SECONDS
                        self._settle()
                    elif now < linger_until:
                        time.sleep(POLL_SECONDS)
                    else:
                        return False
                return True
            finally:
                self._stopping = True  # What is under way has the time of one attempt; the rest is left as it was.
                while self._loads:
                    self._settle()

    def _take(self, threads: ThreadPoolExecutor) -> None:
        dispatches.owe_notices()
        dispatches.spread()
        while len(self._loads) < LOADS_AT_ONCE:
            self._small_first = not self._small_first  # A message for one does not wait behind one for everybody.
            chunks = dispatches.take(self._claim, settings.SESSION_CHUNK, small_first=self._small_first)
            if not chunks:
                return
            load = Load({chunk.pk: Result(chunk) for chunk in chunks})
            calls = list(_calls(load))  # All, before any is made: what is not called is done with.
            load.open = len(calls)
            self._loads.append(load)
            for call in calls:
                threads.submit(self._send, load, call)

    def _settle(self) -> None:
        """Takes in answers for a moment, or until a load is through, and stores what became of it."""
        until = time.monotonic() + POLL_SECONDS
        while all(load.open for load in self._loads):
            try:
                load, call, outcomes = self._answers.get(timeout=max(0.0, until - time.monotonic()))
            except Empty:
                break
            load.take_in(call, outcomes)
        through = [load for load in self._loads if not load.open]
        self._loads = [load for load in self._loads if load.open]
        if through:
            self._store(through)
        if time.monotonic() - self._renewed > dispatches.LEASE.total_seconds() / RENEWALS_A_LEASE:
            self._renewed = time.monotonic()
            dispatches.renew(self._claim)

    def _store(self, through: Sequence[Load]) -> None:
        results = []
        for load in through:
            for result in load.results.values():
                result.tried |= load.failures >= FAILURES_MAX  # Nobody hurries to where nothing is taken.
                results.append(result)
        dispatches.mark(self._claim, results)
        metrics.count(results)

    def _send(self, load: Load, call: Call) -> None:
        """One call, in a thread."""
        outcomes: Sequence[Outcome] = [NOT_TRIED] * len(call.letters)
        try:
            if not self._stopping and load.failures < FAILURES_MAX:
                outcomes = _sent(call)
                taken = any(outcome.delivered or outcome is GONE for outcome in outcomes)
                load.failures = 0 if taken else load.failures + 1
        except Exception as error:
            logger.exception("Sending to the queue of a session failed")
            outcomes = [Outcome(repr(error))] * len(call.letters)
        finally:
            self._answers.put((load, call, outcomes))


# --- What goes where ------------------------------------------------------------------------------


def _calls(load: Load) -> Iterator[Call]:
    """What there is to send; what need not or cannot be sent is noted."""
    mails = _mails([result.chunk.dispatch for result in load.results.values()])
    owed: dict[str, list[Chunk]] = defaultdict(list)
    for result in load.results.values():
        for id in result.chunk.sessions:
            owed[id].append(result.chunk)
    live = BrowserSession.objects.filter(expires_at__gt=timezone.now())
    sessions = live.only("user", "account", "topic", "queue_url", "key", "last_seen_at").in_bulk(list(owed))
    mutes = preferences.muted_by({session.user for session in sessions.values()})
    for id, chunks in owed.items():
        session = sessions.get(id)
        wanted = []
        for chunk in chunks:
            mail = mails.get(chunk.dispatch_id)
            if mail is None or (session and (session.user in mail.exclude or mail.type in mutes[session.user])):
                continue
            if session is None or mail.letter.topic not in topics_of(session):  # Or it is another one of this id.
                load.note(chunk.pk, id, GONE)
            elif not session.key:
                load.note(chunk.pk, id, NO_QUEUE)
            elif len(mail.letter.body) > BODY_MAX_BYTES:
                load.note(chunk.pk, id, TOO_LARGE)
            else:
                wanted.append((chunk.pk, mail.letter))
        for some in _fitting(wanted):
            assert session
            yield Call(session, *zip(*some, strict=True))


def _fitting(wanted: Sequence[tuple[int, Letter]]) -> Iterator[list[tuple[int, Letter]]]:
    """In parts for one call each."""
    part: list[tuple[int, Letter]] = []
    size = 0
    for chunk, letter in wanted:
        more = len(letter.body) * 4 // 3 + ENVELOPE_BYTES
        if part and (len(part) == ENTRIES_MAX or size + more > QUEUE_MAX_BYTES):
            yield part
            part, size = [], 0
        part.append((chunk, letter))
        size += more
    if part:
        yield part


def _mails(rows: Collection[Dispatch]) -> Mapping[UUID, Mail]:
    """Of what may still be seen."""
    now = timezone.now()
    mails = {row.pk: _notice(row) for row in rows if row.notice and row.expires_at > now}
    messages = list(Message.objects.filter(visible(), pk__in={row.pk for row in rows}).select_related("topic"))
    events = with_exclusions(messages, [message_event(message, message.topic.name, None) for message in messages])
    for message, event in zip(messages, events, strict=True):
        mails[message.id] = Mail(_letter(str(message.id), event), event.exclude, event.type)
    return mails


def _notice(row: Dispatch) -> Mail:
    notice = msgspec.json.decode(row.notice, type=Notice)
    return Mail(Letter(str(row.pk), row.topic, None, notice.body.encode()), notice.exclude, notice.type)


def _letter(id: str, event: Event) -> Letter:
    """What does not fit into a queue is to be fetched from the log."""
    body = event.body
    if len(body) > BODY_MAX_BYTES:
        pointer = {"event": "pointer", "topic": event.topic, "offset": event.offset, "messageId": id}
        body = msgspec.json.encode(pointer)
    return Letter(id, event.topic, event.offset, body)


# --- Sending --------------------------------------------------------------------------------------


def _sent(call: Call) -> Sequence[Outcome]:
    try:
        key = key_of(call.session)
    except Unsealable:
        return [UNREADABLE] * len(call.letters)
    entries = [
        {"Id": str(place), "MessageBody": sealed(letter, call.session.pk, key).decode()}
        for place, letter in enumerate(call.letters)
    ]
    wanted = "sqs:SendMessage on the queues of sessions"
    try:
        answer = clients.client("sqs").send_message_batch(QueueUrl=call.session.queue_url, Entries=entries)
    except Exception as error:
        if not clients.is_missing(error):
            return [clients.failure(error, wanted)] * len(entries)
        is_new = timezone.now() - call.session.last_seen_at < NEW  # SQS may need a moment.
        return [NO_QUEUE if is_new else GONE] * len(entries)
    outcomes = [DELIVERED] * len(entries)
    for refused in answer.get("Failed", ()):
        outcomes[int(refused["Id"])] = clients.refused(refused["Code"], refused.get("Message", ""), wanted)
    return outcomes
