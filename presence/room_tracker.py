"""What the connections of this process do in rooms, told to Redis in batches: one call for all that has changed."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from presence import room_veils, rooms
from presence.room_scripts import COUNT_MS
from presence.rooms import Stay
from realtime.connections import Connection
from realtime.database import in_database, in_threads
from realtime.observing import Reason

logger = logging.getLogger(__name__)

BATCH_SECONDS = 0.025
BATCH_MOST = 200
COMPARE_SECONDS = 5.0
COUNT_SECONDS = COUNT_MS / 1000
RETRY_SECONDS = 0.5
NEWS_MAX = 10_000  # Leaves that wait while Redis does not answer.
RESTART_SECONDS = 5.0  # For which those whom a restart sends away are in their rooms for a while yet.


class RoomTracker:
    """Hears of connections in the event loop; no call waits or fails. `boot` names the process in Redis.

    While Redis does not answer, or the process has no lease, changes wait here. What Redis has lost is told again.
    Are there more than NEWS_MAX leaves, they are forgotten, and `lost` is called: it is to call `begin_anew`, and under
    the boot id before, all is swept.
    """

    def __init__(self, boot: str, lost: Callable[[], object]) -> None:
        self._boot, self._lost = boot, lost
        self._stays: dict[str, dict[str, Stay]] = {}  # By connection and room.
        self._count_of_stays = 0
        self._news: dict[tuple[str, str], None] = {}  # Connections and rooms of which Redis is to hear.
        self._lingering: dict[str, asyncio.TimerHandle] = {}
        self._wake = asyncio.Event()
        self._again = self._failing = False
        self._count_timer: asyncio.TimerHandle | None = None
        self._counting: asyncio.Task[None] | None = None
        self._unsure: dict[str, str] = {}  # Users about whom the database is to be asked.
        self._asking: asyncio.Task[None] | None = None
        self._compare_at = 0.0
        self._task = asyncio.create_task(self._run(), name="rooms")

    def begin_anew(self, boot: str) -> None:
        """Redis has lost something: all is told again under another boot id."""
        self._boot = boot
        self._tell_all_again()

    @property
    def all_told(self) -> bool:
        return not self._news

    async def stop(self) -> None:
        """What has closed lately is told; the rest is swept once the lease is over."""
        await _end(self._task, self._counting)
        for timer in (*self._lingering.values(), *([self._count_timer] if self._count_timer else [])):
            timer.cancel()
        with suppress(Exception):
            while self._news and await self._tell():
                pass
        await _end(self._asking)

    # --- What realtime says -----------------------------------------------------------------------

    def changed(self, connection: Connection) -> None:
        """It was opened, or its topics have changed. Those without a user are in no room, they only listen."""
        if connection.user is None or connection.closed:
            return
        if timer := self._lingering.pop(connection.id, None):
            timer.cancel()
        before = self._stays.get(connection.id, {})
        after = {
            room: self._stay(connection, connection.user, topic, room, before.get(room))
            for topic in connection.topics
            if (room := rooms.room_of(topic)) is not None
        }
        if before or after:
            self._take(connection.id, before, after)

    @staticmethod
    def _stay(connection: Connection, user: str, topic: str, room: str, known: Stay | None) -> Stay:
        info, now = connection.infos.get(topic, b"null"), time.time_ns() // 1_000_000
        if known and known.info == info:
            return known
        return Stay(connection.id, room, user, known.joined_at if known else now, now, info)

    def closed(self, connection: Connection, reason: Reason) -> None:
        """It has gone; a poll, and one that a restart has sent away, is in its rooms for a while yet."""
        if connection.id not in self._stays:
            return
        linger = connection.linger if reason is Reason.CLOSED else 0.0
        if reason is Reason.RESTART:
            linger = RESTART_SECONDS
        if linger:
            loop = asyncio.get_running_loop()
            self._lingering[connection.id] = loop.call_later(linger, self.leave, connection.id)
        else:
            self.leave(connection.id)

    def leave(self, connection_id: str) -> None:
        """At once, also where it lingers."""
        if timer := self._lingering.pop(connection_id, None):
            timer.cancel()
        self._take(connection_id, self._stays.get(connection_id, {}), {})

    def _take(self, connection_id: str, before: dict[str, Stay], after: dict[str, Stay]) -> None:
        for room in before.keys() | after.keys():
            if before.get(room) is not after.get(room):
                self._news[connection_id, room] = None
        self._count_of_stays += len(after) - len(before)
        if after:
            self._stays[connection_id] = after
        else:
            self._stays.pop(connection_id, None)
        if len(self._news) > self._count_of_stays + NEWS_MAX:
            self._news = {key: None for key in self._news if self._stay_of(*key)}
            self._lost()
        if self._news:
            self._wake.set()

    def _stay_of(self, connection_id: str, room: str) -> Stay | None:
        return self._stays.get(connection_id, {}).get(room)

    # --- What Redis hears -------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            pause = BATCH_SECONDS  # Without a lease: it comes at any moment.
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(COMPARE_SECONDS):
                        await self._wake.wait()
                await asyncio.sleep(BATCH_SECONDS)
                self._wake.clear()
                while self._news and await self._tell():
                    pass
                await self._compare()
                self._failing = False
            except Exception as error:  # Whatever Redis raises: what there is to tell is still here.
                if not self._failing:
                    logger.warning("What happens in rooms is not told until Redis answers: %r", error)
                self._again, self._failing, pause = True, True, RETRY_SECONDS
            if self._news:
                self._wake.set()
                await asyncio.sleep(pause)

    async def _tell(self) -> bool:
        """One batch -> whether it was taken."""
        keys = list(self._news)[:BATCH_MOST]
        stays = [self._stay_of(*key) for key in keys]
        joins = [stay for stay in stays if stay]
        leaves = [key for key, stay in zip(keys, stays, strict=True) if stay is None]
        for key in keys:
            del self._news[key]
        taken = False
        try:
            changed = await in_threads(rooms.threads, rooms.change, self._boot, joins, leaves, again=self._again)
            taken = changed is not None
        finally:
            if not taken:
                self._news = dict.fromkeys(keys) | self._news
        if changed and changed.due:
            self._count_soon()
        if changed and changed.unsure:
            self._ask_about(changed.unsure)
        if taken and not self._news:
            self._again = False
        return taken

    async def _compare(self) -> None:
        """Whether Redis has what we have; if not, because it was emptied or we stood still, all is told again."""
        now = asyncio.get_running_loop().time()
        if not self._stays or self._news or now < self._compare_at:
            return
        self._compare_at = now + COMPARE_SECONDS
        ours = self._count_of_stays
        if await in_threads(rooms.threads, rooms.held, self._boot) != ours and not self._news:
            self._tell_all_again()

    def _tell_all_again(self) -> None:
        everything = {(connection, room): None for connection, stays in self._stays.items() for room in stays}
        self._news = everything | self._news
        self._again = True
        if self._news:
            self._wake.set()

    def _ask_about(self, unsure: dict[str, str]) -> None:
        self._unsure |= unsure
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())

    async def _ask(self) -> None:
        """Whether those who have come hide; should this fail, the sweep asks."""
        while self._unsure:
            unsure, self._unsure = self._unsure, {}
            with suppress(Exception):
                if await in_database(room_veils.ask, unsure):
                    self._count_soon()

    def _count_soon(self) -> None:
        if self._count_timer is None:
            loop = asyncio.get_running_loop()
            self._count_timer = loop.call_later(COUNT_SECONDS, self._count)

    def _count(self) -> None:
        self._counting = asyncio.create_task(self._tell_counts())

    async def _tell_counts(self) -> None:
        """The large rooms that have changed since they were told of last; should this fail, the sweep does it."""
        self._count_timer = None
        with suppress(Exception):
            if await in_threads(rooms.threads, rooms.tell_counts):
                self._count_soon()


async def _end(*tasks: asyncio.Task[None] | None) -> None:
    there = [task for task in tasks if task]
    for task in there:
        task.cancel()
    await asyncio.gather(*there, return_exceptions=True)
