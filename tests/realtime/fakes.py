"""What the hub needs, without I/O: a loop whose time is not ours, a log, a membership, and clients that record."""

import asyncio
import functools
import json
import selectors
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ParamSpec

from realtime import protocol
from realtime.connections import Connection
from realtime.frames import Event
from realtime.log import Page, Position
from realtime.protocol import CloseCode

P = ParamSpec("P")


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop in which waiting takes no time: when nothing is ready, its clock jumps to the next timer."""

    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self.now


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everybody waits, and nothing will ever happen"
            self._loop.now += max(timeout, 0)
        return ready


def in_virtual_time(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Runs an async test in a VirtualLoop."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def main() -> None:
            await test(*args, **kwargs)

        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(main())

    return run


@dataclass(slots=True)
class Stored:
    """A message of the fake log."""

    event: Event
    hidden: bool = False  # Recalled.


@dataclass(slots=True)
class StoredTopic:
    epoch: str = "one"
    head: int = 0
    tail: int = 1
    messages: list[Stored] = field(default_factory=list)


class FakeLog:
    """A log in memory (log.Log). Each answer takes `seconds`, and is true in the middle of them."""

    def __init__(self) -> None:
        self.topics: dict[str, StoredTopic] = {}
        self.seconds = 0.0
        self.down = False
        self.reads = 0
        self.checks = 0
        self.before_read: Callable[[], None] = lambda: None

    def append(
        self,
        topic: str = "all",
        *,
        exclude: Iterable[str] = (),
        expires_at: float | None = None,
        data: bytes | None = None,
    ) -> Event:
        """Stores a message -> its event, not published."""
        stored = self.topics.setdefault(topic, StoredTopic())
        stored.head += 1
        offset = stored.head
        body = protocol.message(topic=topic, offset=offset, id="i", type="t", data=data or b"0", created_at=0)
        event = Event(topic, body, stored.epoch, offset, frozenset(exclude), expires_at=expires_at, published_at=0)
        stored.messages.append(Stored(event))
        return event

    def recall(self, topic: str, offset: int) -> Event:
        """Hides a message -> the event that says so."""
        for message in self.topics[topic].messages:
            if message.event.offset == offset:
                message.hidden = True
        return Event(topic, protocol.recalled(topic, offset, "i"), recalls=offset, published_at=0)

    def retain_from(self, topic: str, tail: int) -> None:
        """Ends retention of what is before `tail`."""
        stored = self.topics[topic]
        stored.tail = tail
        stored.messages = [m for m in stored.messages if (m.event.offset or 0) >= tail]

    def visible(self, topic: str) -> list[Event]:
        """What a reader may find now, in order."""
        now = asyncio.get_event_loop().time()
        return [
            message.event
            for message in self.topics[topic].messages
            if not message.hidden and (message.event.expires_at is None or message.event.expires_at > now)
        ]

    async def positions(self, names: Sequence[str]) -> Mapping[str, Position]:
        self.checks += 1
        await self._wait()
        found = {
            name: Position(self.topics[name].epoch, self.topics[name].head)
            if name in self.topics
            else Position(None, 0)
            for name in names
        }
        await asyncio.sleep(self.seconds / 2)
        return found

    async def read(self, name: str, after: int, limit: int) -> Page:
        self.reads += 1
        self.before_read()
        await self._wait()
        page = self._page(name, after, limit)
        await asyncio.sleep(self.seconds / 2)
        return page

    async def _wait(self) -> None:
        await asyncio.sleep(self.seconds / 2)
        if self.down:
            raise ConnectionError("the log is down")

    def _page(self, name: str, after: int, limit: int) -> Page:
        if name not in self.topics:
            return Page(None, 0, 1, 0, ())
        topic = self.topics[name]
        events = [replace(e, epoch=topic.epoch) for e in self.visible(name) if (e.offset or 0) > after][:limit]
        through = (events[-1].offset or 0) if len(events) == limit else topic.head
        return Page(topic.epoch, topic.head, topic.tail, through, events)


class FakeMembership:
    """A bus that lets a topic join after `seconds` (hub.Membership)."""

    def __init__(self) -> None:
        self.joined: set[str] = set()
        self.wanted: set[str] = set()
        self.seconds = 0.0
        self.on_join: Callable[[str], None] = lambda _name: None

    def join(self, name: str) -> asyncio.Future[None]:
        assert name not in self.wanted, "joined twice"
        self.wanted.add(name)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(self.seconds, self._joined, name, future)
        return future

    def leave(self, name: str) -> None:
        self.wanted.remove(name)
        self.joined.discard(name)

    def _joined(self, name: str, future: asyncio.Future[None]) -> None:
        if name in self.wanted and name not in self.joined:
            self.joined.add(name)
            self.on_join(name)
        if not future.done():
            future.set_result(None)


class Recorder(Connection):
    """A connection that keeps what is written to it."""

    transport = "test"
    encodings = 0

    def __init__(self, user: str | None = "alice", max_backlog: int = 1_000_000) -> None:
        super().__init__(user=user, max_backlog=max_backlog)
        self.events: list[dict[str, Any]] = []
        self.writes: list[int] = []
        self.code: CloseCode | None = None

    @staticmethod
    def encoding(bodies: Sequence[bytes]) -> Sequence[bytes]:
        Recorder.encodings += 1
        return list(bodies)

    def write(self, data: Sequence[bytes]) -> None:
        if not self.closed:
            self.writes.append(len(data))
            self.events += [json.loads(body) for body in data]

    def _end(self, code: CloseCode, reason: str) -> None:
        self.code = code

    def offsets(self, topic: str = "all") -> list[int | None]:
        """The offsets of the messages it got, in order."""
        return [one["offset"] for one in self.events if one["event"] == "message" and one["topic"] == topic]

    def notices(self) -> list[dict[str, Any]]:
        """What it got that is not a message."""
        return [one for one in self.events if one["event"] != "message"]
