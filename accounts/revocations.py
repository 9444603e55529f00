"""Ending credentials before their time, in every process within a second, whether Redis runs or not.

What is revoked is a row. Every process reads the new rows twice a second and keeps in memory what still counts: HTTP
requests and handshakes are checked against that, and the live connections of what was revoked are closed.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from accounts.models import Revocation
from accounts.principals import Principal

REFRESH_SECONDS = 0.5
SETTLED_SECONDS = 60.0  # Ids are given out before commit, so a lower one may show later; not after so long.
SETTLED_ROWS = 1000  # The same for a process that has just started.
CLOSING_KEPT = timedelta(minutes=5)


class Reason(StrEnum):
    LOGGED_OUT = "logged_out"
    REVOKED = "revoked"
    ERASED = "erased"
    KICKED = "kicked"
    MOVED = "moved"
    CHANGED = "changed"  # What the user gets live.


ONLY_CLOSING = (Reason.KICKED, Reason.MOVED, Reason.CHANGED)  # Live connections end, credentials stay good.


@dataclass(frozen=True, slots=True)
class Ended:
    """What is ended, why, and the last moment of issue that it applies to, in epoch seconds."""

    subject: str
    reason: Reason
    issued_until: float
    expires_at: float


def revoke(
    subject: str, reason: Reason, *, issued_until: datetime | None = None, expires_at: datetime | None = None
) -> None:
    """Ends what the subject names: a credential (`key:…`, `token:…`, `jwt:…`), or all that a user has (`user:…`).

    `expires_at`: when the credential would have ended anyway; by default the longest that one can live. It takes
    effect with the caller's transaction.
    """
    now = timezone.now()
    Revocation.objects.create(
        subject=subject,
        reason=reason,
        issued_until=issued_until or now,
        expires_at=expires_at or now + timedelta(days=settings.CREDENTIAL_MAX_DAYS),
    )
    transaction.on_commit(_known.expect)


def close(subject: str, reason: Reason, *, issued_until: datetime | None = None) -> None:
    """Ends the live connections of a user (`user:…`), or one (`connection:…`), and no credential."""
    now = timezone.now()
    Revocation.objects.create(
        subject=subject, reason=reason, issued_until=issued_until or now, expires_at=now + CLOSING_KEPT
    )
    transaction.on_commit(_known.expect)


def find(principal: Principal) -> Ended | None:
    """What ended this credential, if anything. Asks the database once in REFRESH_SECONDS at most, for everybody."""
    _known.refresh()
    return known(principal)


def known(principal: Principal) -> Ended | None:
    """What ended this credential, as far as this process has read."""
    for subject in principal.subjects:
        ended = _known.in_force.get(subject)
        if ended and principal.issued_at <= ended.issued_until:
            return ended
    return None


def refresh() -> None:
    """Reads what was ended meanwhile, unless that was just done. Raises what the database raises."""
    _known.refresh()


Listener = Callable[[Sequence[Ended]], None]


def listen(listener: Listener) -> None:
    """Calls it with everything new, in the thread that happens to read it."""
    _known.listeners.append(listener)


def ignore(listener: Listener) -> None:
    _known.listeners.remove(listener)


def purge() -> None:
    """Deletes what ends nothing any more."""
    Revocation.objects.filter(expires_at__lte=timezone.now()).delete()


@dataclass(slots=True)
class _Known:
    """What this process has read."""

    in_force: dict[str, Ended] = field(default_factory=dict)
    listeners: list[Listener] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _read_at: float | None = None
    _ids: set[int] = field(default_factory=set)  # Those read after `_settled`.
    _settled: int = 0
    _mark: int = 0  # What `_settled` will be.
    _marked_at: float = 0.0

    def expect(self) -> None:
        """There is something new: the next one who asks reads it."""
        if self._read_at is not None:
            self._read_at = -math.inf

    def refresh(self) -> None:
        if self._read_at is not None and time.monotonic() - self._read_at < REFRESH_SECONDS:
            return
        # Only the first reading is waited for: later, while one thread reads, the others know enough.
        if self._lock.acquire(blocking=self._read_at is None):
            try:
                self._read()
            finally:
                self._lock.release()

    def _read(self) -> None:
        began = time.monotonic()
        if self._read_at is not None and began - self._read_at < REFRESH_SECONDS:
            return  # Somebody did while we waited.
        rows = Revocation.objects.filter(id__gt=self._settled, expires_at__gt=timezone.now()).order_by("id")
        new = {row.id: _ended(row) for row in rows if row.id not in self._ids}
        for ended in new.values():
            self._enforce(ended)
        self._ids |= new.keys()
        if self._read_at is None:
            self._settled = max(0, max(new, default=0) - SETTLED_ROWS)
        if self._read_at is None or began - self._marked_at > SETTLED_SECONDS:
            self._settled, self._mark, self._marked_at = (
                max(self._settled, self._mark),
                max(self._ids, default=0),
                began,
            )
            self._ids = {number for number in self._ids if number > self._settled}
            self.in_force = {s: e for s, e in self.in_force.items() if e.expires_at > time.time()}
        self._read_at = began
        if new:
            for listener in list(self.listeners):
                listener(list(new.values()))

    def _enforce(self, ended: Ended) -> None:
        before = self.in_force.get(ended.subject)
        if ended.reason not in ONLY_CLOSING and (before is None or before.issued_until <= ended.issued_until):
            self.in_force[ended.subject] = ended


def _ended(row: Revocation) -> Ended:
    return Ended(row.subject, Reason(row.reason), row.issued_until.timestamp(), row.expires_at.timestamp())


_known = _Known()
