"""Acknowledgements: "delivered" means that a client says that it has shown a message.

Of a user's own messages there is a row for each connection that says so. Of what many get there is only a count for
each message: kept in the memory of each process, and written about once a second, at most once; what a process has
counted in its last second is lost when it is killed. A connection counts once for each message, as far as the process
remembers (REMEMBERED).
"""

import atexit
import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.db import connections, transaction
from django.db.models import Case, F, Value, When
from django.utils import timezone

from accounts.models import User
from accounts.principals import Principal
from accounts.requests import wrong
from notifications.models import Acknowledgement, Message, Receipt
from realtime import protocol

logger = logging.getLogger(__name__)

IDS_MAX = 1000
FLUSH_SECONDS = 1.0
REMEMBERED = 100_000  # Acknowledgements of broadcasts, so that none counts twice.
BROADCASTS = 10_000  # In memory, so that they are not read for each user.


def perform(action: protocol.Ack, principal: Principal, connection: str) -> dict[str, Any]:
    """The socket's action `ack` (REALTIME_ACTIONS). Raises ApiError 400 and 403."""
    return {"acknowledged": acknowledge(principal.require_user(), action.ids, connection)}


def acknowledge(user: str, ids: Collection[UUID], connection: str = "") -> int:
    """The user's client has shown these -> how many of them are messages of the user's inbox topics, and for the user.

    Others change nothing. It does not matter whether they have expired or been recalled meanwhile: they were shown.
    Raises ApiError 400 for more than IDS_MAX.
    """
    if len(ids) > IDS_MAX:
        raise wrong("ids", f"{IDS_MAX} at most")
    found = _find(user, frozenset(ids))
    own = [Acknowledgement(message_id=pk, connection=connection, at=timezone.now()) for pk in found if found[pk]]
    if own:
        Acknowledgement.objects.bulk_create(own, ignore_conflicts=True)
    for pk, is_own in found.items():
        if not is_own:
            _tally.count(pk, connection or user)
    return len(found)


def flush() -> None:
    """Writes what this process has counted."""
    _tally.flush()


def _find(user: str, ids: Collection[UUID]) -> Mapping[UUID, bool]:
    """Those of the messages that are for the user -> whether they are for nobody else."""
    own = f"user.{user}"
    known = {pk: fact for pk in ids if (fact := _broadcasts.get(pk))}
    if unknown := [pk for pk in ids if pk not in known]:
        rows = Message.objects.filter(pk__in=unknown, offset__isnull=False)
        for pk, topic, has_exclusions in rows.values_list("pk", "topic__name", "has_exclusions"):
            known[pk] = _Fact(topic, has_exclusions)
            if not topic.startswith("user."):
                _broadcasts[pk] = known[pk]
        while len(_broadcasts) > BROADCASTS:
            _broadcasts.popitem(last=False)
    mine = {own, "all"}
    if any(fact.topic.startswith("account.") for fact in known.values()):
        account = User.objects.filter(pk=user).values_list("account_id", flat=True).first()
        mine |= set() if account is None else {f"account.{account}"}
    found = {pk: fact for pk, fact in known.items() if fact.topic in mine}
    if doubtful := [pk for pk, fact in found.items() if fact.has_exclusions]:
        excluded = Receipt.objects.filter(message__in=doubtful, user=user, excluded=True)
        for pk in excluded.values_list("message", flat=True):
            del found[pk]
    return {pk: fact.topic == own for pk, fact in found.items()}


@dataclass(frozen=True, slots=True)
class _Fact:
    """What never changes of a message that is in the log."""

    topic: str
    has_exclusions: bool


_broadcasts: OrderedDict[UUID, _Fact] = OrderedDict()


@dataclass(slots=True)
class _Tally:
    """What is counted and not yet written; a timer's thread writes it, so that nobody waits."""

    counts: Counter[UUID] = field(default_factory=Counter)
    _seen: OrderedDict[tuple[UUID, str], None] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _timer: threading.Timer | None = None

    def count(self, message: UUID, who: str) -> None:
        with self._lock:
            if (message, who) in self._seen:
                return
            self._seen[message, who] = None
            if len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)
            self.counts[message] += 1
            self._schedule()

    def flush(self) -> None:
        with self._lock:
            counts, self.counts, self._timer = self.counts, Counter(), None
        if counts:
            try:
                _write(counts)
            except BaseException:
                with self._lock:
                    self.counts.update(counts)
                raise

    def _schedule(self) -> None:
        if self._timer is None:
            self._timer = threading.Timer(FLUSH_SECONDS, self._flush_in_background)
            self._timer.daemon = True
            self._timer.start()

    def _flush_in_background(self) -> None:
        try:
            self.flush()
        except Exception as error:  # Whatever the database raises: it is tried again with the next ones.
            logger.warning("Acknowledgements are not counted yet: %r", error)
            with self._lock:
                self._schedule()
        finally:
            connections.close_all()


def _write(counts: Mapping[UUID, int]) -> None:
    with transaction.atomic():
        # Locked in the order of ids, as all do who lock messages, or two processes deadlock.
        rows = Message.objects.filter(pk__in=counts).select_for_update().order_by("pk").values_list("pk", flat=True)
        found = list(rows)
        added = Case(*(When(pk=pk, then=Value(counts[pk])) for pk in found), default=Value(0))
        if found:
            Message.objects.filter(pk__in=found).update(acknowledged=F("acknowledged") + added)


_tally = _Tally()


def _flush_at_exit() -> None:
    if _tally.counts:
        _tally._flush_in_background()


atexit.register(_flush_at_exit)
