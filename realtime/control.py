"""Control: what a credential has opened ends with it, when it expires, is revoked, or its holder is sent away.

Revocations come from the database, twice a second, to every process alike: the bus is not needed.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from accounts import credentials, revocations
from accounts.principals import Kind, Principal
from accounts.revocations import REFRESH_SECONDS, Ended, Reason
from realtime import metrics
from realtime.database import in_database
from realtime.protocol import LOGGED_OUT, CloseCode

logger = logging.getLogger(__name__)

ENDINGS = {
    Reason.MOVED: (CloseCode.TOKEN_EXPIRED, "the user is in another account now, come back"),
    Reason.CHANGED: (CloseCode.RESYNC, "the user's preferences have changed, come back"),
    Reason.KICKED: (CloseCode.KICKED, "sent away"),
    Reason.LOGGED_OUT: (CloseCode.REVOKED, LOGGED_OUT),
    Reason.REVOKED: (CloseCode.REVOKED, "the credential was revoked"),
    Reason.ERASED: (CloseCode.REVOKED, "the user was erased"),
}


@dataclass(eq=False, slots=True)
class Watch:
    """Something that a credential has opened, and how to end it."""

    principal: Principal
    end: Callable[[CloseCode, str], object]
    connection_id: str
    timer: asyncio.TimerHandle | None = None
    check: asyncio.Task[None] | None = None


@dataclass(slots=True)
class Control:
    """Watches over this process's connections. `start` in the running loop, `stop` in the same."""

    _watches: dict[str, set[Watch]] = field(default_factory=dict)  # By each subject that a revocation may name.
    _operators: set[Watch] = field(default_factory=set)
    _loop: asyncio.AbstractEventLoop | None = None
    _task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(self._refresh(), name="control")
        revocations.listen(self._heard)

    async def stop(self) -> None:
        revocations.ignore(self._heard)
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # --- What is watched --------------------------------------------------------------------------

    def watch(self, principal: Principal, end: Callable[[CloseCode, str], object], connection_id: str) -> Watch:
        """Has `end` called, once or more, when the credential ends, or the connection is to be closed."""
        watch = Watch(principal, end, connection_id)
        for subject in principal.subjects:
            self._watches.setdefault(subject, set()).add(watch)
        if principal.expires_at is not None:
            watch.timer = asyncio.get_running_loop().call_later(
                principal.expires_at - time.time(), end, CloseCode.TOKEN_EXPIRED, "the credential has expired"
            )
        if principal.kind is Kind.OPERATOR:
            self._operators.add(watch)
        if not credentials.is_settled(principal):  # Something may have happened since it was authenticated.
            watch.check = asyncio.create_task(self._check(watch))
        return watch

    def unwatch(self, watch: Watch) -> None:
        if watch.timer:
            watch.timer.cancel()
        if watch.check:
            watch.check.cancel()
        self._operators.discard(watch)
        for subject in watch.principal.subjects:
            same = self._watches.get(subject, set())
            same.discard(watch)
            if not same:
                self._watches.pop(subject, None)

    @contextmanager
    def watching(
        self, principal: Principal, end: Callable[[CloseCode, str], object], connection_id: str
    ) -> Iterator[None]:
        watch = self.watch(principal, end, connection_id)
        try:
            yield
        finally:
            self.unwatch(watch)

    # --- What ends --------------------------------------------------------------------------------

    async def _refresh(self) -> None:
        failing = False
        while True:
            await asyncio.sleep(REFRESH_SECONDS / 2)  # Requests read as well: a whole one would miss the next time.
            try:
                await in_database(revocations.refresh)
                await self._check_operators()
                failing = False
            except Exception as error:  # Whatever the database raises: nobody new comes in either.
                metrics.drops.labels("control_unavailable").inc()
                if not failing:
                    logger.warning("Revocations cannot be read: %r", error)
                failing = True

    async def _check(self, watch: Watch) -> None:
        """Asks once more who it is, now that nothing can go unheard."""
        try:
            now = await in_database(credentials.still_good, watch.principal)
            changed = now.account != watch.principal.account
        except Exception as error:  # Revoked, or nobody can say: then it may come back and try.
            logger.info("A connection is closed again: %r", error)
            changed = True
        if changed:
            watch.end(CloseCode.TOKEN_EXPIRED, "the credential has changed, come back")

    async def _check_operators(self) -> None:
        """Signed out, disabled or with a new password: Django's own tables say so."""
        watched = list(self._operators)
        sessions = {watch.principal.session for watch in watched}
        if not sessions:
            return
        gone = await in_database(lambda: {key for key in sessions if not credentials.still_signed_in(key)})
        for watch in watched:
            if watch.principal.session in gone:
                watch.end(CloseCode.REVOKED, "signed out")

    def _heard(self, news: Sequence[Ended]) -> None:
        """In the thread that has read it."""
        if self._loop and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end, news)

    def _end(self, news: Sequence[Ended]) -> None:
        for ended in news:
            code, reason = ENDINGS[ended.reason]
            for watch in self._named(ended.subject):
                if ended.reason is Reason.KICKED or watch.principal.issued_at <= ended.issued_until:
                    watch.end(code, reason)

    def _named(self, subject: str) -> list[Watch]:
        kind, _, key = subject.partition(":")
        if kind == "connection":  # Rare: not worth an index.
            return [watch for same in self._watches.values() for watch in same if watch.connection_id == key]
        return list(self._watches.get(subject, ()))
