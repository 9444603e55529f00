"""Watching up to 500 users at once: one for each process, from users to the connections that watch them.

Every change comes to every process that watches anybody, under one name on the bus. A connection gets what has changed
of its users at most each FRAME_SECONDS, the newest only, and never an older version after a newer one. The bus may lose
a change: `check` compares the versions with the database's and sends what lacks.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from accounts import revocations
from accounts.principals import Principal
from accounts.revocations import Ended, Reason
from presence import live, rights, states
from presence.shapes import Seen
from realtime import metrics, protocol
from realtime.connections import Connection
from realtime.database import in_database
from realtime.frames import Event
from realtime.hub import Hub
from realtime.protocol import CloseCode
from realtime.receiver import Receiver

logger = logging.getLogger(__name__)

FRAME_SECONDS = 0.25
JOIN_SECONDS = 0.25  # The bus is not waited for longer: a join that comes late is followed by a check.
CHECK_USERS = 1000


class _State(msgspec.Struct, frozen=True):
    """A user's state as the bus carries it, and what of it has to be known here."""

    user: str
    version: int


@dataclass(eq=False, slots=True)
class _Watcher:
    connection: Connection
    principal: Principal
    users: dict[str, None]
    live: bool = False  # It has its snapshot.
    changed: dict[str, None] = field(default_factory=dict)  # Since its last frame.
    sent_at: float = 0.0
    timer: asyncio.TimerHandle | None = None


class Watching:
    """`start` in the running loop, `stop` in the same; the other functions are for that loop, too."""

    def __init__(self, receiver: Receiver, hub: Hub) -> None:
        self._receiver, self._hub = receiver, hub
        self._loop = asyncio.get_running_loop()
        self._joined: asyncio.Future[None] | None = None
        self._watchers: dict[Connection, _Watcher] = {}
        self._of: dict[str, dict[_Watcher, None]] = {}
        self._known: dict[str, tuple[int, bytes]] = {}  # Of watched users: the newest version, as JSON.
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        revocations.listen(self._ended)

    async def stop(self) -> None:
        revocations.ignore(self._ended)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- Connections come and go ------------------------------------------------------------------

    async def watch(
        self, connection: Connection, principal: Principal, users: Sequence[str]
    ) -> tuple[list[bytes], list[str]]:
        """Watches these users instead of those before -> how they are, and who of them may not be watched.

        The connection gets no frame of theirs before it has been sent that, if that is done without awaiting.
        """
        allowed = await in_database(rights.visible, principal, users)
        watcher = _Watcher(connection, principal, {user: None for user in users if user in allowed})
        joined = self._enter(watcher)
        try:
            await asyncio.wait([joined], timeout=JOIN_SECONDS)
            rows = await in_database(states.find, list(watcher.users))
            self._learn(map(states.seen, rows))
        except BaseException:
            self._remove(watcher)
            raise
        self.unwatch(connection)
        self._watchers[connection] = watcher
        watcher.live = True
        return [self._known[user][1] for user in watcher.users], [user for user in users if user not in allowed]

    def unwatch(self, connection: Connection) -> None:
        if watcher := self._watchers.pop(connection, None):
            self._remove(watcher)

    async def refresh(self, connection: Connection, principal: Principal) -> None:
        """A fresh credential: the connection goes on, less the users whom it does not open."""
        if watcher := self._watchers.get(connection):
            watcher.principal = principal
            allowed = await in_database(rights.visible, principal, list(watcher.users))
            self._drop(watcher, watcher.users.keys() - allowed)

    def _enter(self, watcher: _Watcher) -> asyncio.Future[None]:
        for user in watcher.users:
            self._of.setdefault(user, {})[watcher] = None
        if self._joined is None:
            self._joined = self._receiver.listen(live.CHANGES, self)
        return self._joined

    def _remove(self, watcher: _Watcher) -> None:
        if watcher.timer:
            watcher.timer.cancel()
        for user in watcher.users:
            self._leave(watcher, user)
        if not self._of and self._joined:
            self._joined = None
            self._receiver.ignore(live.CHANGES)

    def _leave(self, watcher: _Watcher, user: str) -> None:
        watcher.changed.pop(user, None)
        others = self._of[user]
        del others[watcher]
        if not others:
            del self._of[user]
            self._known.pop(user, None)

    def _drop(self, watcher: _Watcher, users: Iterable[str]) -> None:
        for user in users:
            if user in watcher.users:
                del watcher.users[user]
                self._leave(watcher, user)
                watcher.connection.send(protocol.unsubscribed(rights.topic_of(user)))

    # --- What changes -----------------------------------------------------------------------------

    def heard(self, events: Sequence[Event]) -> None:
        """From the bus, which may repeat and reorder. Version 0: the user is erased, and numbered anew."""
        for event in events:
            state = msgspec.json.decode(event.body, type=_State)
            if state.user in self._of:
                known, _ = self._known.get(state.user, (-1, b""))
                if state.version > known or not state.version:
                    self._tell(state.user, state.version, event.body)

    def _learn(self, found: Iterable[Seen], before: Mapping[str, int] | None = None) -> list[str]:
        """Takes what the database says -> who was not known so. Where it is behind `before`, it began anew."""
        news = []
        for state in found:
            if state.user in self._of:
                known, _ = self._known.get(state.user, (-1, b""))
                anew = before is not None and state.version < before[state.user] == known
                if state.version > known or anew:
                    self._tell(state.user, state.version, msgspec.json.encode(state))
                    news.append(state.user)
        return news

    def _tell(self, user: str, version: int, body: bytes) -> None:
        self._known[user] = version, body
        for watcher in self._of[user]:
            if watcher.live:
                watcher.changed[user] = None
                if watcher.timer is None:
                    self._plan(watcher, watcher.sent_at + FRAME_SECONDS - self._loop.time())

    def _plan(self, watcher: _Watcher, delay: float) -> None:
        watcher.timer = self._loop.call_later(max(0.0, delay), self._flush, watcher)

    def _flush(self, watcher: _Watcher) -> None:
        watcher.timer = None
        if watcher.connection.behind():
            self._plan(watcher, FRAME_SECONDS)  # It gets the newest when it has taken what waits.
        elif watcher.changed and not watcher.connection.closed:
            watcher.connection.send(protocol.presences([self._known[user][1] for user in watcher.changed]))
            watcher.changed.clear()
            watcher.sent_at = self._loop.time()

    async def check(self) -> None:
        """Reads the versions of all watched users, and tells what was not heard of."""
        users = list(self._known)
        for start in range(0, len(users), CHECK_USERS):
            chunk = users[start : start + CHECK_USERS]
            before = {user: self._known[user][0] for user in chunk if user in self._known}
            found = await in_database(states.versions, chunk)
            if behind := [user for user, version in before.items() if found.get(user, 0) != version]:
                rows = await in_database(states.find, behind)
                if news := self._learn(map(states.seen, rows), before):
                    metrics.repairs.inc()
                    logger.info("The bus had not told of %s changes of presence.", len(news))

    # --- Who is moved to another account ----------------------------------------------------------

    def _ended(self, news: Sequence[Ended]) -> None:
        """In the thread that has read it."""
        moved = [ended.subject.removeprefix("user:") for ended in news if ended.reason is Reason.MOVED]
        if moved and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._moved, moved)

    def _moved(self, users: Sequence[str]) -> None:
        for user in users:
            for connection in self._hub.listeners(rights.topic_of(user)):
                connection.close(CloseCode.RESYNC, "somebody whom you watch is in another account now, come back")
            if user in self._of:
                task = asyncio.create_task(self._review(user))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _review(self, user: str) -> None:
        """Those who watched the user as one of their account may not do so any more."""
        for watcher in list(self._of.get(user, ())):
            if not rights.freely(watcher.principal, user):
                try:
                    allowed = await in_database(rights.visible, watcher.principal, [user])
                except Exception as error:  # Whatever the database raises: nobody can say that they may.
                    logger.warning("Who may watch a user cannot be looked up: %r", error)
                    allowed = set()
                self._drop(watcher, {user} - allowed)
