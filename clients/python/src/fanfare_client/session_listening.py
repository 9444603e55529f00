"""Listening to a session: what to ask next, what to hand over, what is done with. No I/O.

`steps` is a generator that says what to do next and is sent what came of it, for both transports. The shells in
session_live.py and async_session_live.py do the doing.
"""

import logging
import random
import time
from collections import OrderedDict
from collections.abc import Generator
from typing import Any, TypeVar

from fanfare_client import sqs
from fanfare_client.calls import Call
from fanfare_client.conversation import Exchange, Wait
from fanfare_client.envelopes import Cipher, Undecipherable, cipher, envelope_of, opened
from fanfare_client.errors import FanfareError
from fanfare_client.events import Connected, Disconnected, Event, event_of
from fanfare_client.listening import FIRST_PAUSE, LONGEST_PAUSE
from fanfare_client.routes import notifications, sessions
from fanfare_client.session_shapes import Session, SessionMessage
from fanfare_client.shapes import Message

WAIT_SECONDS = 20
PACE_SECONDS = 0.1  # Between two receives that brought nothing.
RENEWED = 0.8  # Of the life of what gives access to a queue.
IDS_KEPT, KEYS_KEPT = 1000, 100
SQS = "sqs"

logger = logging.getLogger("fanfare_client.sessions")

Step = Call[Any] | Exchange | Wait | Event
T = TypeVar("T")


class SessionListening:
    """What was handed over is done with once the next one is asked for: `handled`, then `acknowledgement`."""

    def __init__(self, session: str | Session, visibility: int) -> None:
        self._id = session if isinstance(session, str) else session.session_id
        self._visibility = visibility
        self._session: Session | None = None
        self._ahead = 0.0  # Seconds that the server's clock is.
        self._renew_at = 0.0
        self._keys: OrderedDict[str, Cipher] = OrderedDict()  # Also older ones: what waits may be sealed by them.
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._current: tuple[str, str] | None = None  # Message id and receipt.
        self._done: list[str] = []
        if isinstance(session, Session):
            self._take(session)

    def steps(self) -> Generator[Step, Any, None]:
        """What to do next: a Call or an Exchange, whose outcome is sent, with errors as values; to wait; or an Event
        to hand over. Raises FanfareError where there is no sense in going on."""
        online, failures = False, 0
        while True:
            try:
                if self._now() >= self._renew_at:
                    self._take((yield from _outcome(sessions.renew(self._id))), renewed=True)
                received = yield from self._receive(WAIT_SECONDS if online else 0)
                if not online:
                    online = True
                    yield Connected(user=self._session.user_id if self._session else None)
                elif not received:
                    yield Wait(PACE_SECONDS)
                for one in received:
                    yield from self._hand_over(one)
                if step := self.acknowledgement():
                    outcome = yield from _outcome(step)
                    if isinstance(step, Exchange):
                        sqs.answered(outcome)
                failures = 0
            except FanfareError as error:
                if _is_final(error):
                    raise
                online = False
                if error.code == sqs.REFUSED and error.status < 500:
                    self._renew_at = 0.0
                bound = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures, 10))
                failures += 1
                pause = min(error.retry_after or 0.0, LONGEST_PAUSE) + random.uniform(0, bound)  # noqa: S311 (no secret)
                yield Disconnected(code=error.status, reason=str(error), pause=pause)
                yield Wait(pause)

    def handled(self) -> None:
        """What was handed over last is done with."""
        if self._current:
            message_id, receipt = self._current
            self._current = None
            _remember(self._ids, message_id, None, IDS_KEPT)
            self._settle(receipt)

    def acknowledgement(self) -> Call[Any] | Exchange | None:
        """What tells the server what is done with, if there is anything to tell. What gets lost, comes again."""
        receipts, self._done = self._done, []
        if not receipts:
            return None
        if not (self._session and self._session.credentials):
            return sessions.acknowledge(self._id, receipts)
        return sqs.delete(self._session.sqs_url or "", self._session.credentials, self._now(), receipts)

    def _take(self, session: Session, *, renewed: bool = False) -> None:
        """Goes on with the session as the server has told it; `renewed`: just now."""
        self._session = session
        if renewed:
            self._ahead = session.last_seen_at.timestamp() - time.time()
        self._renew_at = 0.0 if session.transport == SQS else float("inf")  # Who polls, renews.
        if session.credentials and session.key:
            _remember(self._keys, session.key.id, cipher(session.key.value), KEYS_KEPT)
            begin = session.last_seen_at.timestamp()
            end = min(session.expires_at, session.credentials.expiration).timestamp()
            self._renew_at = begin + RENEWED * (end - begin)

    def _receive(self, wait: int) -> Generator[Step, Any, list[SessionMessage] | list[sqs.Received]]:
        if not (self._session and self._session.credentials):
            return (yield from _outcome(sessions.receive(self._id, wait=wait, visibility=self._visibility)))
        url, credentials = self._session.sqs_url or "", self._session.credentials
        return sqs.received((yield sqs.receive(url, credentials, self._now(), wait=wait, visibility=self._visibility)))

    def _hand_over(self, one: SessionMessage | sqs.Received) -> Generator[Step, Any, None]:
        if isinstance(one, sqs.Received):
            message_id, receipt, event = yield from self._unsealed(one)
        else:
            message_id, receipt, event = one.message_id, one.receipt, event_of(one.body)
        if event is None or (isinstance(event, Message) and message_id in self._ids):
            self._settle(receipt)
            return
        self._current = (message_id, receipt)
        yield event
        self.handled()

    def _unsealed(self, one: sqs.Received) -> Generator[Step, Any, tuple[str, str, Event | None]]:
        """Message id, receipt, and the event if there is one."""
        try:
            envelope = envelope_of(one.body)
            body = opened(envelope, self._id, self._keys)
        except Undecipherable:
            logger.warning("In the queue of session %s lay a message that was not sealed for it.", self._id)
            return "", one.receipt_handle, None
        if body is not None or not envelope.offset:
            return envelope.message_id, one.receipt_handle, event_of(body)
        try:
            found = yield from _outcome(notifications.log(envelope.topic, since=envelope.offset - 1, limit=1))
        except FanfareError as error:
            if not _is_final(error):
                raise
            logger.warning("A message for session %s cannot be read in the log: %s", self._id, error)
            found = []
        event = next((message for message in found if message.id == envelope.message_id), None)
        return envelope.message_id, one.receipt_handle, event

    def _settle(self, receipt: str) -> None:
        if receipt:
            self._done.append(receipt)

    def _now(self) -> float:
        """By the server's clock."""
        return time.time() + self._ahead


def _outcome(step: Call[T] | Exchange) -> Generator[Step, Any, T]:
    """Raises the FanfareError that came of it."""
    outcome = yield step
    if isinstance(outcome, FanfareError):
        raise outcome
    return outcome  # type: ignore[no-any-return]


def _is_final(error: FanfareError) -> bool:
    passing = error.status in (408, 429) or error.code in ("bad_reply", sqs.REFUSED)
    return 400 <= error.status < 500 and not passing


def _remember(known: OrderedDict[str, T], name: str, value: T, most: int) -> None:
    known[name] = value
    if len(known) > most:
        known.popitem(last=False)
