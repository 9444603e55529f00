"""The hub: one for each process, from topics to local connections, in the order of the log.

Events come from the bus, which may lose, repeat and reorder them. The log has the truth: whenever offsets show a
gap, or a check shows that the log is ahead, the hub reads what is missing and goes on. So each connection gets each
message that it may see once and in order, or is told to reload (`reset`, `recovered: false`).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from realtime import metrics, protocol
from realtime.connections import Connection
from realtime.fanout import after, fan_out, send, visible
from realtime.frames import Event
from realtime.mutes import Mutes
from realtime.protocol import CloseCode, Since

REORDER_SECONDS = 0.05  # How long an event may overtake its predecessors before the log is read.
RECENT_EVENTS = 100  # Kept of each shared topic, so that a reconnect storm reads the log once.
AHEAD_EVENTS = 1000  # Kept of a topic while its gap is read; further ones come from the log.
HELD_EVENTS = 1000  # Kept for a connection that is catching up.
READ_EVENTS = 200  # Read from the log at once.
RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Position:
    """Where the log of a topic stands; a topic without messages is (None, 0)."""

    epoch: str | None
    head: int


@dataclass(frozen=True, slots=True)
class Page:
    """What the log holds after an offset: the visible messages up to and including `through`, in order.

    Of a state there are no messages to read again: `snapshot` is what it is at `head`, as JSON, and the one event
    tells it.
    """

    epoch: str | None
    head: int
    tail: int
    through: int
    events: Sequence[Event]
    snapshot: bytes | None = None


class Log(Protocol):
    """Where the hub reads the truth. Raises any Exception while the log cannot be read."""

    async def positions(self, names: Sequence[str]) -> Mapping[str, Position]: ...

    async def read(self, name: str, after: int, limit: int) -> Page: ...


class Membership(Protocol):
    """Which topics this process hears of on the bus; neither call waits, both keep their word later."""

    def join(self, name: str) -> asyncio.Future[None]: ...

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


@dataclass(slots=True)
class _CatchUp:
    """A connection that is not yet at the hub's own position. `after` is unknown while the log is read."""

    after: int | None = None
    held: list[Event] = field(default_factory=list)
    overflowed: bool = False


@dataclass(slots=True)
class _Topic:
    name: str
    shared: bool
    joined: asyncio.Future[None]
    epoch: str | None = None
    position: int | None = None  # The last offset that went out; unknown until the log is read first.
    head: int = 0  # The newest offset heard of.
    live: dict[Connection, None] = field(default_factory=dict)  # In their order: memory is read in its order, too.
    catching_up: dict[Connection, _CatchUp] = field(default_factory=dict)
    ahead: dict[int, Event] = field(default_factory=dict)
    recent: deque[Event] = field(default_factory=deque)
    recent_after: int = 0  # `recent` holds every visible message after this offset.
    timer: asyncio.TimerHandle | None = None
    repair: asyncio.Task[None] | None = None
    idle: asyncio.TimerHandle | None = None  # Runs while it is kept for those who will soon be back.

    @property
    def behind(self) -> bool:
        return self.position is not None and self.position < self.head

    def listeners(self) -> list[Connection]:
        """Those who know where they stand in this topic."""
        return [*self.live, *(c for c, catch_up in self.catching_up.items() if catch_up.after is not None)]


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
        self._topics: dict[str, _Topic] = {}
        self._muted = Mutes()  # Of the connections that are in topics.

    def names(self) -> list[str]:
        """The topics that have a local listener."""
        return list(self._topics)

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
                    self._adopt(topic, positions[topic.name])
            # A topic found early may move on while a later one is read: what it sends meanwhile is held.
            return [await self._find(topic, connection, wants[topic.name]) for topic in topics]
        except BaseException:
            self.unsubscribe(connection, wants)
            raise

    def go_live(self, connection: Connection, subscriptions: Iterable[Subscription]) -> None:
        """Sends what came in while `subscribe` read, and from now on everything."""
        for subscription in subscriptions:
            topic = self._topics.get(subscription.topic)
            catch_up = topic.catching_up.get(connection) if topic else None
            if topic is None or catch_up is None:
                continue
            if catch_up.overflowed:
                metrics.drops.labels("catch_up").inc()
                connection.close(CloseCode.RESYNC, "too much came in while catching up, come back")
                return
            if subscription.epoch is None and topic.epoch is not None:  # Its first message came in between.
                connection.send(protocol.subscribed(topic.name, topic.epoch, subscription.offset, recovered=True))
            catch_up.after = subscription.offset
            held, catch_up.held = catch_up.held, []
            send(connection, after(held, subscription.offset))
            self._settle(topic, connection, catch_up)

    def unsubscribe(self, connection: Connection, names: Iterable[str]) -> None:
        left = connection.topics.intersection(names)
        if left and len(left) == len(connection.topics) and connection.muted:
            self._muted.remove(connection.muted)
        for name in left:
            connection.topics.discard(name)
            topic = self._topics[name]
            topic.live.pop(connection, None)
            topic.catching_up.pop(connection, None)
            if not topic.live and not topic.catching_up:
                self._put_down(topic, connection.linger)

    def places(self, connection: Connection) -> dict[str, Since]:
        """Where the connection stands in each of its topics, after all that has been written to it."""
        found = {}
        for name in connection.topics:
            topic = self._topics[name]
            catch_up = topic.catching_up.get(connection)
            offset = catch_up.after if catch_up else topic.position
            if offset is not None:
                found[name] = Since(topic.epoch, max(offset, topic.position or 0))
        return found

    def leave(self, connection: Connection) -> None:
        """Takes a connection out of all its topics."""
        self.unsubscribe(connection, connection.topics)

    def _enter(self, name: str, connection: Connection) -> _Topic:
        topic = self._topics.get(name)
        if topic is None:
            topic = self._topics[name] = _Topic(name, self._shared(name), self._membership.join(name))
            metrics.topics.inc()
        elif topic.idle:
            topic.idle.cancel()
            topic.idle = None
        if not connection.topics and connection.muted:
            self._muted.add(connection.muted)
        connection.topics.add(name)
        topic.live.pop(connection, None)
        topic.catching_up[connection] = _CatchUp()
        return topic

    def _put_down(self, topic: _Topic, linger: float) -> None:
        """Lets go of a topic that has no listener left, `linger` seconds from now."""
        if topic.idle:
            topic.idle.cancel()
        if linger:
            topic.idle = asyncio.get_running_loop().call_later(linger, self._forget, topic)
        else:
            self._forget(topic)

    def _forget(self, topic: _Topic) -> None:
        del self._topics[topic.name]
        metrics.topics.dec()
        for timer in filter(None, (topic.timer, topic.idle)):
            timer.cancel()
        if topic.repair:
            topic.repair.cancel()
        self._membership.leave(topic.name)

    def _adopt(self, topic: _Topic, position: Position) -> None:
        if topic.position is None:
            topic.epoch, topic.position = position.epoch, position.head
            topic.recent_after = position.head
            ahead, topic.ahead = topic.ahead, {}
            self.receive(topic.name, ahead.values())

    async def _find(self, topic: _Topic, connection: Connection, since: Since | None) -> Subscription:
        """Where a connection with this position goes on, and what it missed."""
        assert topic.position is not None
        is_there = since is not None and (since.epoch, since.offset) == (topic.epoch, topic.position)
        if self._is_state(topic.name) and not is_there:
            return await self._find_state(topic)
        if since is None or is_there:
            return Subscription(topic.name, topic.epoch, topic.position, recovered=True)
        known = since.epoch == topic.epoch or (since.epoch is None and since.offset == 0)
        if known and topic.shared and topic.recent_after <= since.offset < topic.position:
            missed = visible(after(topic.recent, since.offset), connection)
            if not self._is_too_much(missed):
                return Subscription(topic.name, topic.epoch, topic.position, recovered=True, missed=missed)
        return await self._find_in_log(topic, connection, since)

    async def _find_state(self, topic: _Topic) -> Subscription:
        """A state as it is; while it cannot be read, nothing: everybody gets it when it can."""
        try:
            page = await self._log.read(topic.name, 0, READ_EVENTS)
        except Exception:  # Whatever is down there: the connection's other topics have nothing to do with it.
            topic.epoch, topic.position = None, 0
            self._start_repair(topic)
            return Subscription(topic.name, None, 0, recovered=False)
        if page.epoch != topic.epoch:
            self._start_repair(topic)
        return Subscription(topic.name, page.epoch, page.head, recovered=True, snapshot=page.snapshot)

    async def _find_in_log(self, topic: _Topic, connection: Connection, since: Since) -> Subscription:
        missed: list[Event] = []
        offset = since.offset
        while True:
            page = await self._log.read(topic.name, offset, READ_EVENTS)
            if page.epoch != topic.epoch:
                self._start_repair(topic)
            known = since.epoch == page.epoch or (since.epoch is None and since.offset == 0)
            missed += visible(page.events, connection)
            if not known or self._is_too_much(missed) or not page.tail - 1 <= offset <= page.head:
                return Subscription(topic.name, page.epoch, page.head, recovered=False)
            if page.through == page.head:
                return Subscription(topic.name, page.epoch, page.head, recovered=True, missed=missed)
            offset = page.through

    def _is_too_much(self, missed: Sequence[Event]) -> bool:
        size = sum(len(event.body) for event in missed)
        return len(missed) > self._recovery_events or size > self._recovery_bytes

    def _settle(self, topic: _Topic, connection: Connection, catch_up: _CatchUp) -> None:
        """Moves a connection to the plain set once the hub has come as far as it."""
        if catch_up.after is not None and topic.position is not None and topic.position >= catch_up.after:
            topic.catching_up.pop(connection, None)
            topic.live[connection] = None

    # --- Events from the bus ----------------------------------------------------------------------

    def receive(self, name: str, events: Iterable[Event]) -> None:
        """Takes events of one topic in the order of their arrival, and sends on what is due."""
        topic = self._topics.get(name)
        if topic is None:
            return
        due: list[Event] = []
        for event in events:
            if event.offset is None:
                if event.recalls is not None:
                    topic.recent = deque(e for e in topic.recent if e.offset != event.recalls)
                    topic.ahead.pop(event.recalls, None)  # It waits for its turn: the log does not show it any more.
                due.append(event)
                continue
            if topic.epoch is None and topic.position == 0:
                self._name_epoch(topic, event.epoch)
            if topic.position is not None and event.epoch != topic.epoch:
                self._start_repair(topic)  # The log says which numbering counts.
            elif topic.position is None or event.offset > topic.position:
                self._keep_ahead(topic, event, event.offset)
        if due:
            self._deliver(topic, due)
        self._advance(topic, (), topic.position)

    @staticmethod
    def _keep_ahead(topic: _Topic, event: Event, offset: int) -> None:
        topic.head = max(topic.head, offset)
        if len(topic.ahead) < AHEAD_EVENTS:
            topic.ahead[offset] = event
        else:
            metrics.drops.labels("ahead").inc()  # Late, not lost: `head` knows of it, and the log has it.

    def _name_epoch(self, topic: _Topic, epoch: str | None) -> None:
        """The first message of a topic that had none: its listeners learn the name of the numbering."""
        topic.epoch = epoch
        at_the_beginning = [c for c, catch_up in topic.catching_up.items() if catch_up.after == 0]  # Others know it.
        for connection in [*topic.live, *at_the_beginning]:
            connection.send(protocol.subscribed(topic.name, epoch, 0, recovered=True))

    def _advance(self, topic: _Topic, events: Sequence[Event], through: int | None) -> None:
        """Sends what was read, up to `through`, then what waited ahead as far as it is without a gap."""
        if topic.position is None or through is None:
            return
        due = after(events, topic.position)
        topic.position = max(topic.position, through)
        while (event := topic.ahead.pop(topic.position + 1, None)) is not None:
            topic.position += 1
            due.append(event)
        if due:
            self._deliver(topic, due)
        for offset in [offset for offset in topic.ahead if offset <= topic.position]:
            del topic.ahead[offset]
        if topic.behind:
            self._wait_for_order(topic)

    def _deliver(self, topic: _Topic, events: Sequence[Event]) -> None:
        if topic.shared:
            self._remember(topic, events)
        fan_out(topic.live, events, self._muted)
        for connection, catch_up in list(topic.catching_up.items()):
            if catch_up.after is not None:
                send(connection, after(events, catch_up.after))
                self._settle(topic, connection, catch_up)
            elif len(catch_up.held) + len(events) <= HELD_EVENTS:
                catch_up.held.extend(events)
            else:
                catch_up.held.clear()
                catch_up.overflowed = True

    @staticmethod
    def _remember(topic: _Topic, events: Sequence[Event]) -> None:
        topic.recent.extend(event for event in events if event.offset is not None)
        while len(topic.recent) > RECENT_EVENTS:
            topic.recent_after = topic.recent.popleft().offset or 0

    # --- The log closes gaps ----------------------------------------------------------------------

    async def check(self, names: Sequence[str], *, doubt: bool = False) -> None:
        """Compares positions with the log, and repairs the topics that are behind it.

        `doubt`: events may have been lost, so recent ones are not served from memory any more.
        """
        topics = [self._topics[name] for name in names if name in self._topics]
        before = {topic.name: topic.position for topic in topics if topic.position is not None}
        for topic in topics if doubt else ():
            topic.recent.clear()
            topic.recent_after = topic.position or 0
        if not before:
            return
        positions = await self._log.positions(list(before))
        for topic in topics:
            was, position = before.get(topic.name), positions.get(topic.name)
            if was is None or position is None or topic.position is None or self._topics.get(topic.name) is not topic:
                continue
            if position.epoch != topic.epoch or position.head < was:
                self._start_repair(topic)
            elif position.head > topic.position:
                topic.head = max(topic.head, position.head)
                self._wait_for_order(topic)  # Its event may be on the way.

    def _wait_for_order(self, topic: _Topic) -> None:
        if topic.timer is None and topic.repair is None:
            loop = asyncio.get_running_loop()
            topic.timer = loop.call_later(REORDER_SECONDS, self._out_of_patience, topic)

    def _out_of_patience(self, topic: _Topic) -> None:
        topic.timer = None
        if topic.behind:
            self._start_repair(topic)

    def _start_repair(self, topic: _Topic) -> None:
        if topic.timer:
            topic.timer.cancel()
            topic.timer = None
        if topic.repair is None and topic.position is not None and topic.name in self._topics:
            topic.repair = asyncio.create_task(self._repair(topic))
            topic.repair.add_done_callback(lambda _: self._repaired(topic))

    def _repaired(self, topic: _Topic) -> None:
        topic.repair = None
        if topic.behind and self._topics.get(topic.name) is topic:
            self._wait_for_order(topic)

    async def _repair(self, topic: _Topic) -> None:
        """Reads the log from the hub's position to its head."""
        metrics.repairs.inc()
        while True:
            was, heard = topic.position or 0, topic.head
            try:
                page = await self._log.read(topic.name, was, READ_EVENTS)
            except Exception:  # The log is down: nothing is lost by trying again.
                metrics.drops.labels("log_unavailable").inc()
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if page.epoch != topic.epoch and topic.epoch is None and was == 0:
                self._name_epoch(topic, page.epoch)
            if page.epoch != topic.epoch or page.head < was or page.tail > was + 1:
                self._reset(topic, page)
                continue  # Events of the new numbering that came meanwhile were not kept.
            self._advance(topic, page.events, page.through)
            if page.through >= page.head:
                if topic.head == heard:  # Heard of before the log was read: what it lacks is no message of it.
                    topic.head = topic.position or 0
                return

    def _reset(self, topic: _Topic, page: Page) -> None:
        """What was missed cannot be sent: listeners reload, or get a state as it is, and go on from the head."""
        metrics.resets.inc()
        topic.epoch, topic.position, topic.head = page.epoch, page.head, page.head
        topic.ahead = {offset: event for offset, event in topic.ahead.items() if event.epoch == page.epoch}
        topic.recent.clear()
        topic.recent_after = page.head
        body = protocol.reset(topic.name, page.epoch, page.head)
        if page.snapshot is not None and page.events:
            body = page.events[-1].body
        for connection in topic.listeners():
            connection.send(body)
        for connection, catch_up in list(topic.catching_up.items()):
            if catch_up.after is None:  # It compares with a numbering that is gone.
                catch_up.overflowed = True
            else:
                catch_up.after = page.head
                self._settle(topic, connection, catch_up)
        self._advance(topic, (), page.head)
