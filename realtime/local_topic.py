"""One topic in one process: what the bus brings goes out in the order of the log, to all who listen here.

The bus may lose, repeat and reorder events. The log has the truth: whenever offsets show a gap, or a check shows that
the log is ahead, what is missing is read, and then it goes on. What cannot be sent any more is told by `reset`.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from realtime import metrics, protocol
from realtime.connections import Connection
from realtime.fanout import after, fan_out, send
from realtime.frames import Event
from realtime.log import Log, Page, Position
from realtime.mutes import Mutes
from realtime.protocol import Since

REORDER_SECONDS = 0.05  # How long an event may overtake its predecessors before the log is read.
RECENT_EVENTS = 100  # Kept of each shared topic, so that a reconnect storm reads the log once.
AHEAD_EVENTS = 1000  # Kept of a topic while its gap is read; further ones come from the log.
HELD_EVENTS = 1000  # Kept for a connection that is catching up.
READ_EVENTS = 200  # Read from the log at once.
RETRY_SECONDS = 1.0


@dataclass(slots=True)
class CatchUp:
    """A connection that is not yet at the topic's own position. `after` is unknown while the log is read."""

    after: int | None = None
    held: list[Event] = field(default_factory=list)
    overflowed: bool = False


@dataclass(slots=True, eq=False)
class LocalTopic:
    name: str
    shared: bool
    joined: asyncio.Future[None]
    log: Log
    muted: Mutes  # Of all connections of the process.
    epoch: str | None = None
    position: int | None = None  # The last offset that went out; unknown until the log is read first.
    head: int = 0  # The newest offset heard of.
    live: dict[Connection, None] = field(default_factory=dict)  # In their order: memory is read in its order, too.
    catching_up: dict[Connection, CatchUp] = field(default_factory=dict)
    ahead: dict[int, Event] = field(default_factory=dict)
    recent: list[Event] = field(default_factory=list)  # An empty deque takes more than all the rest here.
    recent_after: int = 0  # `recent` holds every visible message after this offset.
    timer: asyncio.TimerHandle | None = None
    repair: asyncio.Task[None] | None = None
    closed: bool = False

    @property
    def behind(self) -> bool:
        return self.position is not None and self.position < self.head

    @property
    def deserted(self) -> bool:
        return not self.live and not self.catching_up

    def close(self) -> None:
        """Ends its timer and its repair: nobody listens any more."""
        self.closed = True
        if self.timer:
            self.timer.cancel()
        if self.repair:
            self.repair.cancel()

    # --- Listeners come and go --------------------------------------------------------------------

    def enter(self, connection: Connection) -> None:
        """From now on events are held for the connection, until `go_live` or `leave`."""
        self.live.pop(connection, None)
        self.catching_up[connection] = CatchUp()

    def go_live(self, connection: Connection, at: Since) -> bool:
        """Sends what was held and comes after this position, and from now on everything; False if it was too much."""
        catch_up = self.catching_up.get(connection)
        if catch_up is None:
            return True
        if catch_up.overflowed:
            metrics.drops.labels("catch_up").inc()
            return False
        if at.epoch is None and self.epoch is not None:  # Its first message came in between.
            connection.send(protocol.subscribed(self.name, self.epoch, at.offset, recovered=True))
        catch_up.after = at.offset
        held, catch_up.held = catch_up.held, []
        send(connection, after(held, at.offset))
        self._settle(connection, catch_up)
        return True

    def leave(self, connection: Connection) -> None:
        self.live.pop(connection, None)
        self.catching_up.pop(connection, None)

    def place(self, connection: Connection) -> Since | None:
        """Where the connection stands after all that has been written to it; None as long as nobody knows."""
        catch_up = self.catching_up.get(connection)
        offset = catch_up.after if catch_up else self.position
        return None if offset is None else Since(self.epoch, max(offset, self.position or 0))

    def _settle(self, connection: Connection, catch_up: CatchUp) -> None:
        """Moves a connection to the plain set once the topic has come as far as it."""
        if catch_up.after is not None and self.position is not None and self.position >= catch_up.after:
            self.catching_up.pop(connection, None)
            self.live[connection] = None

    # --- Events from the bus ----------------------------------------------------------------------

    def receive(self, events: Iterable[Event]) -> None:
        """Takes events in the order of their arrival, and sends on what is due."""
        due: list[Event] = []
        for event in events:
            if event.offset is None:
                if event.recalls is not None:
                    self.recent = [e for e in self.recent if e.offset != event.recalls]
                    self.ahead.pop(event.recalls, None)  # It waits for its turn: the log does not show it any more.
                due.append(event)
                continue
            if self.epoch is None and self.position == 0:
                self._name_epoch(event.epoch)
            if self.position is not None and event.epoch != self.epoch:
                self.start_repair()  # The log says which numbering counts.
            elif self.position is None or event.offset > self.position:
                self._keep_ahead(event, event.offset)
        if due:
            self._deliver(due)
        self._advance((), self.position)

    def _keep_ahead(self, event: Event, offset: int) -> None:
        self.head = max(self.head, offset)
        if len(self.ahead) < AHEAD_EVENTS:
            self.ahead[offset] = event
        else:
            metrics.drops.labels("ahead").inc()  # Late, not lost: `head` knows of it, and the log has it.

    def _name_epoch(self, epoch: str | None) -> None:
        """The first message of a topic that had none: its listeners learn the name of the numbering."""
        self.epoch = epoch
        at_the_beginning = [c for c, catch_up in self.catching_up.items() if catch_up.after == 0]  # Others know it.
        for connection in [*self.live, *at_the_beginning]:
            connection.send(protocol.subscribed(self.name, epoch, 0, recovered=True))

    def _advance(self, events: Sequence[Event], through: int | None) -> None:
        """Sends what was read, up to `through`, then what waited ahead as far as it is without a gap."""
        if self.position is None or through is None:
            return
        due = after(events, self.position)
        self.position = max(self.position, through)
        while (event := self.ahead.pop(self.position + 1, None)) is not None:
            self.position += 1
            due.append(event)
        if due:
            self._deliver(due)
        for offset in [offset for offset in self.ahead if offset <= self.position]:
            del self.ahead[offset]
        if self.behind:
            self._wait_for_order()

    def _deliver(self, events: Sequence[Event]) -> None:
        if self.shared:
            self._remember(events)
        fan_out(self.live, events, self.muted)
        for connection, catch_up in list(self.catching_up.items()):
            if catch_up.after is not None:
                send(connection, after(events, catch_up.after))
                self._settle(connection, catch_up)
            elif len(catch_up.held) + len(events) <= HELD_EVENTS:
                catch_up.held.extend(events)
            else:
                catch_up.held.clear()
                catch_up.overflowed = True

    # --- What went out last -----------------------------------------------------------------------

    def recent_since(self, offset: int) -> list[Event] | None:
        """What went out after this offset, in order; None where that is not in memory."""
        if self.shared and self.position is not None and self.recent_after <= offset < self.position:
            return after(self.recent, offset)
        return None

    def forget_recent(self) -> None:
        self.recent.clear()
        self.recent_after = self.position or 0

    def _remember(self, events: Sequence[Event]) -> None:
        self.recent.extend(event for event in events if event.offset is not None)
        if surplus := self.recent[:-RECENT_EVENTS]:
            self.recent_after = surplus[-1].offset or 0
            del self.recent[: len(surplus)]

    # --- The log closes gaps ----------------------------------------------------------------------

    def adopt(self, position: Position) -> None:
        """Begins where the log stands, unless it has begun."""
        if self.position is None:
            self.epoch, self.position = position.epoch, position.head
            self.recent_after = position.head
            ahead, self.ahead = self.ahead, {}
            self.receive(ahead.values())

    def compare(self, position: Position, was: int) -> None:
        """Repairs what the log, read when the topic stood at `was`, shows to be missing."""
        if self.position is None:
            return
        if position.epoch != self.epoch or position.head < was:
            self.start_repair()
        elif position.head > self.position:
            self.head = max(self.head, position.head)
            self._wait_for_order()  # Its event may be on the way.

    async def read(self, offset: int) -> Page:
        """What the log holds after an offset. Raises what the log raises; another numbering starts a repair."""
        page = await self.log.read(self.name, offset, READ_EVENTS)
        if page.epoch != self.epoch:
            self.start_repair()
        return page

    def start_repair(self) -> None:
        """Reads the log from the position to its head, in the background, if nobody does so already."""
        if self.timer:
            self.timer.cancel()
            self.timer = None
        if self.repair is None and self.position is not None and not self.closed:
            self.repair = asyncio.create_task(self._repair())
            self.repair.add_done_callback(self._repaired)

    def start_over(self) -> None:
        """Forgets where it stands: all listeners get what the log says when it can be read."""
        self.epoch, self.position = None, 0
        self.start_repair()

    def _wait_for_order(self) -> None:
        if self.timer is None and self.repair is None and not self.closed:
            self.timer = asyncio.get_running_loop().call_later(REORDER_SECONDS, self._out_of_patience)

    def _out_of_patience(self) -> None:
        self.timer = None
        if self.behind:
            self.start_repair()

    def _repaired(self, _repair: asyncio.Task[None]) -> None:
        self.repair = None
        if self.behind:
            self._wait_for_order()

    async def _repair(self) -> None:
        metrics.repairs.inc()
        while True:
            was, heard = self.position or 0, self.head
            try:
                page = await self.log.read(self.name, was, READ_EVENTS)
            except Exception:  # The log is down: nothing is lost by trying again.
                metrics.drops.labels("log_unavailable").inc()
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if page.epoch != self.epoch and self.epoch is None and was == 0:
                self._name_epoch(page.epoch)
            if page.epoch != self.epoch or page.head < was or page.tail > was + 1:
                self._reset(page)
                continue  # Events of the new numbering that came meanwhile were not kept.
            self._advance(page.events, page.through)
            if page.through >= page.head:
                if self.head == heard:  # Heard of before the log was read: what it lacks is no message of it.
                    self.head = self.position or 0
                return

    def _reset(self, page: Page) -> None:
        """What was missed cannot be sent: listeners reload, or get a state as it is, and go on from the head."""
        metrics.resets.inc()
        self.epoch, self.position, self.head = page.epoch, page.head, page.head
        self.ahead = {offset: event for offset, event in self.ahead.items() if event.epoch == page.epoch}
        self.forget_recent()
        body = protocol.reset(self.name, page.epoch, page.head)
        if page.snapshot is not None and page.events:
            body = page.events[-1].body
        for connection in [*self.live, *(c for c, catch_up in self.catching_up.items() if catch_up.after is not None)]:
            connection.send(body)
        for connection, catch_up in list(self.catching_up.items()):
            if catch_up.after is None:  # It compares with a numbering that is gone.
                catch_up.overflowed = True
            else:
                catch_up.after = page.head
                self._settle(connection, catch_up)
        self._advance((), page.head)
