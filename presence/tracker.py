"""Tells Redis of this process's connections, a batch at a time, and settles the users whom that moves."""

import asyncio
import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from django.conf import settings
from django.utils import timezone

from accounts import revocations
from accounts.principals import Principal
from accounts.revocations import Ended
from presence import connections, metrics, registry
from presence.registry import Answer, Gone, LiveConnection
from presence.room_tracker import RESTART_SECONDS, RoomTracker
from presence.transitions import settle
from realtime.connections import Connection
from realtime.database import in_database
from realtime.observing import Reason

logger = logging.getLogger(__name__)

FLUSH_SECONDS, FLUSH_SECONDS_MAX = 0.025, 0.25  # For which news is gathered.
FLUSH_SHARE = 4  # It is gathered so much longer than the last telling took: with much to do, less often.
FLUSH_CONNECTIONS = 500  # At most, in one call.
GONE_MAX = 10_000  # Closed connections that wait to be told of while Redis does not answer.
AGAIN_SECONDS = 1.0  # After a failure.
ACTIVE_SECONDS = 60.0  # That a client was heard of is told so often.
STOP_SECONDS = 2.0
AGENT_MAX = 200
ENDINGS = {
    revocations.Reason.KICKED: Reason.KICKED,
    revocations.Reason.LOGGED_OUT: Reason.LOGOUT,
    revocations.Reason.REVOKED: Reason.CLOSED,
    revocations.Reason.ERASED: Reason.CLOSED,
}

Poller = tuple[str, str | None, str, str | None, frozenset[str]]  # Also session and topics: two tabs are two.


@dataclass(eq=False, slots=True)
class _Entry:
    """A connection, or a poll between two requests of its client."""

    about: LiveConnection
    poller: Poller | None
    subjects: frozenset[str]  # What a revocation may name to end it.
    heard_at: float  # When it was last told that the client was heard of, by the loop's clock.
    known: bool = False  # Redis may have it.
    owed: str = ""  # The last of its events that destinations are owed.
    gone: Gone | None = None
    linger: asyncio.TimerHandle | None = None


class Tracker:
    """REALTIME_OBSERVER: notes what it hears, and tells Redis within FLUSH_SECONDS_MAX, or once it answers again.

    Redis knows this process by a boot id. Is what it has of it not what it was told, then it has lost something, or
    took us for dead: under a new boot id, all are registered again. So they are when more than GONE_MAX closed
    connections wait: these are forgotten here, and swept there with the old boot id.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._boot, self._number = secrets.token_hex(8), 0
        self._since = ""  # As Redis said last.
        self._old_boots: list[str] = []
        self._open: dict[Connection, _Entry] = {}
        self._entries: dict[str, _Entry] = {}
        self._news: dict[str, _Entry] = {}
        self._lingering: dict[Poller, list[_Entry]] = {}
        self._lost = self._failing = False
        self._rooms = RoomTracker(self._boot, self._lose)
        self._wake = asyncio.Event()
        revocations.listen(self._heard)
        self._tasks = [asyncio.create_task(self._tell_all_along()), asyncio.create_task(self._renew_all_along())]

    # --- What is heard ----------------------------------------------------------------------------

    def opened(self, connection: Connection, principal: Principal, address: str | None, agent: str) -> None:
        """A poll that comes back while it lingers goes on under its id: nobody left, nobody came."""
        agent = agent[:AGENT_MAX]
        who = principal.user or str(principal)
        poller = (who, address, agent, connection.session, frozenset(connection.topics)) if connection.linger else None
        if poller and (entry := self._take_up(poller)):
            connection.id = entry.about.id
            entry.subjects = _subjects(principal, connection.id)
            self._open[connection] = entry
            self.changed(connection)
            return
        now = timezone.now()
        about = LiveConnection(
            id=connection.id,
            user=principal.user,
            account=principal.account,
            session=connection.session,
            transport=connection.transport,
            address=address,
            agent=agent,
            connected_at=now,
            last_active=now,
            topics=sorted(connection.topics),
        )
        entry = _Entry(about, poller, _subjects(principal, about.id), self._loop.time())
        self._open[connection] = self._entries[about.id] = entry
        self._tell(entry)
        self._rooms.changed(connection)

    def changed(self, connection: Connection) -> None:
        self._rooms.changed(connection)
        if entry := self._open.get(connection):
            about, now = entry.about, self._loop.time()
            about.last_active = timezone.now()
            if len(connection.topics) != len(about.topics) or not connection.topics.issuperset(about.topics):
                about.topics = sorted(connection.topics)
            elif now - entry.heard_at < ACTIVE_SECONDS:
                return
            entry.heard_at = now
            self._tell(entry)

    def closed(self, connection: Connection, reason: Reason) -> None:
        self._rooms.closed(connection, reason)
        entry = self._open.pop(connection, None)
        if entry is None:
            return
        if entry.poller and reason is Reason.CLOSED:
            entry.linger = self._loop.call_later(connection.linger, self._give_up, entry)
            self._lingering.setdefault(entry.poller, []).append(entry)
        else:
            self._end(entry, reason)

    async def stop(self) -> None:
        revocations.ignore(self._heard)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for entry in list(self._entries.values()):
            if entry.linger:
                entry.linger.cancel()
            self._end(entry, Reason.RESTART)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._rooms.stop()
                while self._news:
                    await self._flush()
                await asyncio.to_thread(registry.retire, self._boot, RESTART_SECONDS)
        except Exception as error:  # Whatever Redis or the database raise: our lease runs out.
            logger.warning("Presence could not be told that this process stops: %r", error)

    # --- What is noted ----------------------------------------------------------------------------

    def _take_up(self, poller: Poller) -> _Entry | None:
        same = self._lingering.get(poller)
        if not same:
            return None
        entry = same.pop()
        self._stop_lingering(entry)
        return entry

    def _give_up(self, entry: _Entry) -> None:
        assert entry.poller
        self._lingering[entry.poller].remove(entry)
        self._stop_lingering(entry)
        self._end(entry, Reason.CLOSED)

    def _heard(self, news: Sequence[Ended]) -> None:
        """In the thread that has read it."""
        ends = {ended.subject: ENDINGS[ended.reason] for ended in news if ended.reason in ENDINGS}
        if ends and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end_lingering, ends)

    def _end_lingering(self, ends: Mapping[str, Reason]) -> None:
        """A poll between two requests of its client can be sent away, too; nobody else would hear of it."""
        for entry in [entry for same in self._lingering.values() for entry in same]:
            if named := next((ends[subject] for subject in entry.subjects if subject in ends), None):
                assert entry.poller
                self._lingering[entry.poller].remove(entry)
                self._stop_lingering(entry)
                self._rooms.leave(entry.about.id)
                self._end(entry, named)

    def _stop_lingering(self, entry: _Entry) -> None:
        if entry.linger:
            entry.linger.cancel()
            entry.linger = None
        if entry.poller and not self._lingering[entry.poller]:
            del self._lingering[entry.poller]

    def _end(self, entry: _Entry, reason: Reason) -> None:
        about = entry.about
        if self._entries.pop(about.id, None) is None:  # We have stopped meanwhile.
            return
        if reason is Reason.RESTART:
            entry.gone = Gone(about.id, about.user, Reason.CLOSED, settings.PRESENCE_RESTART_GRACE)
        else:
            grace = 0.0 if reason is Reason.LOGOUT else settings.PRESENCE_GRACE
            entry.gone = Gone(about.id, about.user, reason, grace)
        self._tell(entry)
        if len(self._news) > len(self._entries) + GONE_MAX:
            self._news = {key: entry for key, entry in self._news.items() if entry.gone is None}
            self._lose()

    def _tell(self, entry: _Entry) -> None:
        self._news[entry.about.id] = entry
        self._wake.set()

    def _lose(self) -> None:
        """What Redis has of this process, and what we would tell it, do not make up what is there."""
        self._lost = True
        self._wake.set()

    # --- What is told -----------------------------------------------------------------------------

    async def _tell_all_along(self) -> None:
        took = 0.0
        while True:
            await self._wake.wait()
            await asyncio.sleep(min(max(FLUSH_SECONDS, FLUSH_SHARE * took), FLUSH_SECONDS_MAX))
            self._wake.clear()
            began = self._loop.time()
            try:
                await self._flush()
                self._failing, took = False, self._loop.time() - began
            except Exception as error:  # Whatever Redis or the database raise.
                self._note_failure(error)
                await asyncio.sleep(AGAIN_SECONDS)
                self._wake.set()

    async def _flush(self) -> None:
        if self._lost:
            self._begin_anew()
        batch = [self._news.pop(key) for key in list(self._news)[:FLUSH_CONNECTIONS]]
        if self._news:
            self._wake.set()
        number = self._number + 1
        try:
            with metrics.flushes.time():
                answer = await in_database(_register, self._boot, number, batch)
                self._number = number
                self._compare(answer, number - 1, number)
                if answer.moved:
                    await self._settle(answer.moved)
        finally:
            if self._number != number:
                for entry in batch:
                    self._news.setdefault(entry.about.id, entry)
        if self._old_boots and not self._news and self._rooms.all_told:
            await asyncio.to_thread(registry.retire, self._old_boots[-1])
            self._old_boots.pop()

    async def _settle(self, users: Sequence[str]) -> None:
        try:
            await in_database(settle, users)
        except Exception as error:  # They are due in Redis: the sweep settles them.
            self._note_failure(error)

    async def _renew_all_along(self) -> None:
        pause = settings.PRESENCE_LEASE / 3
        while True:
            await asyncio.sleep(min(pause, AGAIN_SECONDS) if self._failing else pause)
            try:
                await self._renew()
            except Exception as error:  # Without this loop, a quiet process would be taken for dead.
                self._note_failure(error)

    async def _renew(self) -> None:
        """In a thread of its own: the lease must not wait for a database that has much to do."""
        boot, number = self._boot, self._number
        answer = await asyncio.to_thread(registry.renew, boot)
        if not self._news:
            self._failing = False
        if boot == self._boot:
            self._compare(answer, number, self._number + 1)  # One may be on its way.

    def _compare(self, answer: Answer, least: int, most: int) -> None:
        if answer.since != (self._since or answer.since) or not least <= answer.number <= most:
            self._lose()
        self._since = answer.since

    def _begin_anew(self) -> None:
        self._lost = False
        self._old_boots.append(self._boot)
        self._boot, self._number = secrets.token_hex(8), 0
        self._rooms.begin_anew(self._boot)
        self._news = {**self._entries, **self._news}
        metrics.registered_again.inc()
        logger.info("All %s connections of this process are registered again.", len(self._entries))

    def _note_failure(self, error: Exception) -> None:
        if not self._failing:
            logger.warning("Presence does not follow until Redis and the database answer: %r", error)
        self._failing = True


def _subjects(principal: Principal, connection_id: str) -> frozenset[str]:
    return frozenset({*principal.subjects, f"connection:{connection_id}"})


def _register(boot: str, number: int, batch: Sequence[_Entry]) -> Answer:
    """What destinations are owed comes first: whoever dies in between leaves the rest to the sweep."""
    opened = [entry for entry in batch if not entry.owed]
    connections.owe(connections.OPENED, ((entry.about, "opened") for entry in opened))
    for entry in opened:
        entry.owed = connections.OPENED
    closed = [(entry, entry.gone) for entry in batch if entry.gone and entry.owed != connections.CLOSED]
    connections.owe(connections.CLOSED, ((entry.about, gone.reason) for entry, gone in closed))
    for entry, _gone in closed:
        entry.owed = connections.CLOSED
    here = [entry for entry in batch if entry.gone is None]
    gone = [entry.gone for entry in batch if entry.gone and entry.known]
    for entry in here:
        entry.known = True
    return registry.change(boot, number, [entry.about for entry in here], gone)
