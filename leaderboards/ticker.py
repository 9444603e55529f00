"""The ticker: one for each web process, which brings live boards up to date as long as somebody here listens to them.

Two loops, so that neither holds up the other: one for the tops of boards, which go to all by the bus, and one for how
single users stand, which goes to their connections. Neither works for each submission, however many there are.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from itertools import islice

from leaderboards import live, rights
from leaderboards.live import Mark, Own, Round
from realtime import protocol
from realtime.connections import Connection
from realtime.database import in_threads
from realtime.hub import Hub
from realtime.protocol import CloseCode
from realtime.redis_scripts import RedisDown

logger = logging.getLogger(__name__)

PAUSE_MAX_SECONDS = 1.0
BUSY = 0.5  # Of the time at most, unless that makes ticks rarer than PAUSE_MAX_SECONDS.
OWN_AT_ONCE = 500  # Users of a board of whom one round tells.

_Result = tuple[float, float, int] | None
"""What has to change for a user to be told; None: not ranked."""


@dataclass(slots=True, eq=False)
class _User:
    """`told`: what each connection knows; `at`: how far the ranking was when they were looked up last."""

    told: dict[Connection, _Result | bool] = field(default_factory=dict)  # False: nothing so far.
    at: Mark | None = None


class Ticker:
    """`start` in the running loop, `stop` in the same; the other functions are for that loop, too."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._last = Round()
        self._users: dict[str, OrderedDict[str, _User]] = {}  # By board; who was looked up longest ago comes first.
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        rounds = (self._bring_up_to_date, self._tell_users)
        self._tasks = [asyncio.create_task(_tick(work), name=f"ticker {work.__name__}") for work in rounds]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- Boards -----------------------------------------------------------------------------------

    async def _bring_up_to_date(self) -> float:
        names = [rights.board_of(topic) for topic in self._hub.names_of("board")]
        last, self._last = self._last, await in_threads(_threads(), live.tick, names) if names else Round()
        for name in (self._last.closed - last.closed) & last.marks.keys():
            self._send_users_away(name)
        return self._last.wait

    def _send_users_away(self, name: str) -> None:
        """They may not read the board any more, unless they find a way to come back."""
        for connection in self._hub.listeners(rights.topic_of(name)):
            if connection.user is not None:
                connection.close(CloseCode.RESYNC, "who may read this board has changed, come back")

    # --- Users ------------------------------------------------------------------------------------

    def follow(self, connection: Connection, topic: str, user: str) -> None:
        """The connection is told how the user stands: soon, and whenever that has changed at a tick."""
        users = self._users.setdefault(rights.board_of(topic), OrderedDict())
        found = users.setdefault(user, _User())
        found.told[connection], found.at = False, None
        users.move_to_end(user, last=False)

    def unfollow(self, connection: Connection, topic: str) -> None:
        users = self._users.get(rights.board_of(topic))
        if users and (found := users.get(connection.user or "")):
            found.told.pop(connection, None)

    async def _tell_users(self) -> float:
        wanted = {name: self._due(name) for name in list(self._users)}
        wanted = {name: users for name, users in wanted.items() if users}
        if wanted:
            marks = self._last.marks
            found = await in_threads(_threads(), live.own_standings, wanted)
            for name, standings in found.items():
                for user in wanted[name]:
                    self._tell(name, user, marks[name], standings.get(user))
        return live.TICK_SECONDS

    def _due(self, name: str) -> list[str]:
        """Those whose standing may have changed since they were looked up; who follows no more is forgotten."""
        users, mark = self._users[name], self._last.marks.get(name)
        first = list(islice(users.items(), OWN_AT_ONCE))
        topic = rights.topic_of(name)
        for user, found in first:
            found.told = {one: known for one, known in found.told.items() if topic in one.topics}
            if not found.told:
                del users[user]
        if not users:
            del self._users[name]
        return [user for user, found in first if found.told and mark and found.at != mark]

    def _tell(self, name: str, user: str, at: Mark, own: Own | None) -> None:
        users = self._users.get(name)
        found = users.get(user) if users else None
        if users is None or found is None:
            return
        result: _Result = (own.score, own.subscore, own.rank) if own else None
        topic = rights.topic_of(name)
        body = protocol.board(topic, me=own)
        behind = False
        for connection, known in found.told.items():
            if known == result or topic not in connection.topics:
                continue
            if connection.behind():
                behind = True  # It is told of the newest once it has taken what waits.
            else:
                connection.send(body)
                found.told[connection] = result
        if not behind:
            found.at = at
            users.move_to_end(user)


async def _tick(work: Callable[[], Awaitable[float]]) -> None:
    """Works each tick, or less often where that takes long or fails."""
    loop = asyncio.get_running_loop()
    while True:
        started = loop.time()
        try:
            pause = await work()
        except RedisDown as error:
            logger.info("Live boards wait for Redis: %r", error)
            pause = PAUSE_MAX_SECONDS
        except Exception as error:  # Whatever the database raises, or a mistake of ours: the next round comes.
            logger.warning("Live boards could not be brought up to date: %r", error, exc_info=True)
            pause = PAUSE_MAX_SECONDS
        spent = loop.time() - started
        pause = max(pause, min(PAUSE_MAX_SECONDS, spent / BUSY))
        await asyncio.sleep(max(0.0, pause - spent))


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(2, thread_name_prefix="ticker")
