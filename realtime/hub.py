"""The hub: one for each process, from topics to local connections, in the order of the log.

It lets connections into topics, each from the position that it knows, and finds what it missed in memory or in the
log. From then on the topic sends (realtime.local_topic). So each connection gets each message that it may see once and
in order, or is told to reload (`reset`, `recovered: false`).
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from realtime import metrics
from realtime.bells import Bells
from realtime.connections import Connection
from realtime.fanout import visible
from realtime.frames import Event
from realtime.local_topic import LocalTopic
from realtime.log import Log
from realtime.mutes import Mutes
from realtime.protocol import CloseCode, Since


class Membership(Protocol):
    """Which topics this process hears of on the bus; neither call waits, both keep their word later."""

    def join(self, name: str) -> asyncio.Future[None]:
        """The same again for one that is joined, or about to be."""
        ...

    def leave(self, name: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Subscription:
    """Where a connection stands in a topic, and what it missed before."""

    topic: str
    epoch: str | None
    offset: int
    recovered: bool
    missed: Sequence[Event] = ()
    snapshot: bytes | None = None  # Of a state, unless the connection has it already.

    def place(self) -> dict[str, object]:
        """As `welcome` tells it."""
        state = {} if self.snapshot is None else {"snapshot": msgspec.Raw(self.snapshot)}
        return {"epoch": self.epoch, "offset": self.offset, **state}


class Hub:
    def __init__(
        self,
        log: Log,
        membership: Membership,
        *,
        shared: Callable[[str], bool],
        recovery_events: int,
        recovery_bytes: int,
        join_seconds: float = 0.25,
        is_state: Callable[[str], bool] = lambda _name: False,
    ) -> None:
        self._log = log
        self._membership = membership
        self._shared = shared
        self._recovery_events = recovery_events
        self._recovery_bytes = recovery_bytes
        self._join_seconds = join_seconds
        self._is_state = is_state
        self._topics: dict[str, LocalTopic] = {}
        self._of_kind: dict[str, dict[str, None]] = {}
        self._lingering: dict[str, asyncio.TimerHandle] = {}  # Of topics kept for those who will soon be back.
        self._muted = Mutes()  # Of the connections that are in topics.
        self.bells = Bells(log, membership.join, self._leave)

    def names(self) -> list[str]:
        """The topics that have a local listener."""
        return list(self._topics)

    def names_of(self, kind: str) -> list[str]:
        """Those of one kind."""
        return list(self._of_kind.get(kind, ()))

    def listeners(self, name: str) -> list[Connection]:
        """Who is in a topic, or about to be."""
        topic = self._topics.get(name)
        return [*topic.live, *topic.catching_up] if topic else []

    # --- Connections come and go ------------------------------------------------------------------

    async def subscribe(self, connection: Connection, wants: Mapping[str, Since | None]) -> list[Subscription]:
        """Enters the connection into topics, each from its position or else from now.

        The connection gets nothing of them until `go_live`, which the caller calls without awaiting in between,
        after it has sent what it has to say first. Raises what the log raises; the connection is then out again.
        """
        topics = [self._enter(name, connection) for name in wants]
        try:
            if new := [topic for topic in topics if topic.position is None]:
                # The bus is not waited for longer: a join that comes late is followed by a check.
                await asyncio.wait([topic.joined for topic in new], timeout=self._join_seconds)
                positions = await self._log.positions([topic.name for topic in new])
                for topic in new:
                    topic.adopt(positions[topic.name])
            # A topic found early may move on while a later one is read: what it sends meanwhile is held.
            return [await self._find(topic, connection, wants[topic.name]) for topic in topics]
        except BaseException:
            self.unsubscribe(connection, wants)
            raise

    def go_live(self, connection: Connection, subscriptions: Iterable[Subscription]) -> None:
        """Sends what came in while `subscribe` read, and from now on everything."""
        for subscription in subscriptions:
            topic = self._topics.get(subscription.topic)
            if topic and not topic.go_live(connection, Since(subscription.epoch, subscription.offset)):
                connection.close(CloseCode.RESYNC, "too much came in while catching up, come back")
                return

    def unsubscribe(self, connection: Connection, names: Iterable[str]) -> None:
        left = connection.topics.intersection(names)
        if left and len(left) == len(connection.topics) and connection.muted:
            self._muted.remove(connection.muted)
        for name in left:
            connection.topics.discard(name)
            topic = self._topics[name]
            topic.leave(connection)
            if topic.deserted:
                self._put_down(name, connection.linger)

    def leave(self, connection: Connection) -> None:
        """Takes a connection out of all its topics."""
        self.unsubscribe(connection, connection.topics)

    def places(self, connection: Connection) -> dict[str, Since]:
        """Where the connection stands in each of its topics, after all that has been written to it."""
        places = {name: self._topics[name].place(connection) for name in connection.topics}
        return {name: place for name, place in places.items() if place is not None}

    def _enter(self, name: str, connection: Connection) -> LocalTopic:
        topic = self._topics.get(name)
        if topic is None:
            joined = self._membership.join(name)
            topic = self._topics[name] = LocalTopic(name, self._shared(name), joined, self._log, self._muted)
            self._of_kind.setdefault(name.partition(".")[0], {})[name] = None
            metrics.topics.inc()
        elif timer := self._lingering.pop(name, None):
            timer.cancel()
        if not connection.topics and connection.muted:
            self._muted.add(connection.muted)
        connection.topics.add(name)
        topic.enter(connection)
        return topic

    def _put_down(self, name: str, linger: float) -> None:
        """Lets go of a topic that has no listener left, `linger` seconds from now."""
        if linger:
            self._lingering[name] = asyncio.get_running_loop().call_later(linger, self._forget, name)
        else:
            self._forget(name)

    def _forget(self, name: str) -> None:
        self._lingering.pop(name, None)
        self._topics.pop(name).close()
        del self._of_kind[name.partition(".")[0]][name]
        metrics.topics.dec()
        self._leave(name)

    def _leave(self, name: str) -> None:
        if name not in self._topics and name not in self.bells:
            self._membership.leave(name)

    # --- What a connection missed -----------------------------------------------------------------

    async def _find(self, topic: LocalTopic, connection: Connection, since: Since | None) -> Subscription:
        """Where a connection with this position goes on, and what it missed."""
        assert topic.position is not None
        is_there = since is not None and (since.epoch, since.offset) == (topic.epoch, topic.position)
        if self._is_state(topic.name) and not is_there:
            return await self._find_state(topic)
        if since is None or is_there:
            return Subscription(topic.name, topic.epoch, topic.position, recovered=True)
        recent = topic.recent_since(since.offset) if _counts(since, topic.epoch) else None
        if recent is not None:
            missed = visible(recent, connection)
            if not self._is_too_much(missed):
                return Subscription(topic.name, topic.epoch, topic.position, recovered=True, missed=missed)
        return await self._find_in_log(topic, connection, since)

    @staticmethod
    async def _find_state(topic: LocalTopic) -> Subscription:
        """A state as it is; while it cannot be read, nothing: everybody gets it when it can."""
        try:
            page = await topic.read(0)
        except Exception:  # Whatever is down there: the connection's other topics have nothing to do with it.
            topic.start_over()
            return Subscription(topic.name, None, 0, recovered=False)
        return Subscription(topic.name, page.epoch, page.head, recovered=True, snapshot=page.snapshot)

    async def _find_in_log(self, topic: LocalTopic, connection: Connection, since: Since) -> Subscription:
        missed: list[Event] = []
        offset = since.offset
        while True:
            page = await topic.read(offset)
            missed += visible(page.events, connection)
            is_here = _counts(since, page.epoch) and page.tail - 1 <= offset <= page.head
            if not is_here or self._is_too_much(missed):
                return Subscription(topic.name, page.epoch, page.head, recovered=False)
            if page.through == page.head:
                return Subscription(topic.name, page.epoch, page.head, recovered=True, missed=missed)
            offset = page.through

    def _is_too_much(self, missed: Sequence[Event]) -> bool:
        size = sum(len(event.body) for event in missed)
        return len(missed) > self._recovery_events or size > self._recovery_bytes

    # --- What comes in ----------------------------------------------------------------------------

    def receive(self, name: str, events: Iterable[Event]) -> None:
        """Takes events of one topic in the order of their arrival, and sends on what is due."""
        if topic := self._topics.get(name):
            topic.receive(events)
        self.bells.ring(name)

    async def check(self, names: Sequence[str], *, doubt: bool = False) -> None:
        """Compares positions with the log, and repairs the topics that are behind it.

        `doubt`: events may have been lost, so recent ones are not served from memory any more, and bells are checked.
        """
        topics = [self._topics[name] for name in names if name in self._topics]
        for topic in topics if doubt else ():
            topic.forget_recent()
        if doubt:
            await self.bells.check(names)
        before = {topic: topic.position for topic in topics if topic.position is not None}
        if not before:
            return
        positions = await self._log.positions([topic.name for topic in before])
        for topic, was in before.items():
            if position := positions.get(topic.name):
                topic.compare(position, was)


def _counts(since: Since, epoch: str | None) -> bool:
    """Whether a position is one of this numbering."""
    return since.epoch == epoch or (since.epoch is None and since.offset == 0)
