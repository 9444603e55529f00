"""The bus between processes, receiving side: one Channels channel for the process, joined to each topic it listens to.

The channel layer reports neither lost connections nor failed joins, so the receiver watches it: a numbered beat to
its own channel each second. What was missed while it was down, the hub reads from the log.
"""

import asyncio
import itertools
import logging
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from channels.layers import get_channel_layer
from django.conf import settings

from realtime import metrics
from realtime.bus import group
from realtime.frames import Event
from realtime.hub import Hub

logger = logging.getLogger(__name__)

BEAT_SECONDS = 1.0
DOWN_AFTER = 2.5  # Two beats missed.
REBUILD_AFTER = 10.0  # Ten beats missed: new connections, new channel, all joined again.
CHECK_SECONDS_WHILE_DOWN = 2
CHECK_TOPICS = 1000
JOIN_RETRY_SECONDS = 0.5
MAX_WAITING = 20_000  # Bus messages; beyond, they are dropped and the log is read.


class Listener(Protocol):
    """Hears the events of one name itself, instead of the hub."""

    def heard(self, events: Sequence[Event]) -> None: ...

    async def check(self) -> None:
        """Some may have been lost: finds out. Raises any Exception while it cannot."""


class Receiver:
    """Keeps this process on the bus and the hub supplied. `start` in the running loop, `stop` in the same."""

    def __init__(self) -> None:
        self.hub: Hub
        self.up = False
        self._layer: Any = get_channel_layer()
        self._channel: str | None = None
        self._listeners: dict[str, Listener] = {}
        self._wanted: dict[str, asyncio.Future[None]] = {}
        self._joined: set[str] = set()
        self._changed: dict[str, None] = {}  # Topics to join or to leave, in order.
        self._to_do = asyncio.Event()
        self._fresh: list[str] = []
        self._heard_at = 0.0
        self._turned = asyncio.Event()  # Set when the bus goes up or down.
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, hub: Hub) -> None:
        self.hub = hub
        self._heard_at = asyncio.get_running_loop().time()
        self._tasks = [
            asyncio.create_task(_for_ever(loop), name=f"receiver {loop.__name__}")
            for loop in (self._receive, self._beat, self._keep_joined, self._check)
        ]

    async def stop(self) -> None:
        self.hub.bells.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._flush()

    # --- What the hub asks for (hub.Membership) ---------------------------------------------------

    def join(self, name: str) -> asyncio.Future[None]:
        if name not in self._wanted:
            self._wanted[name] = asyncio.get_running_loop().create_future()
            self._change(name)
        return self._wanted[name]

    def leave(self, name: str) -> None:
        if future := self._wanted.pop(name, None):
            future.cancel()
        self._change(name)

    def listen(self, name: str, listener: Listener) -> asyncio.Future[None]:
        """Joins a name for a listener of its own, until `ignore`."""
        self._listeners[name] = listener
        return self.join(name)

    def ignore(self, name: str) -> None:
        del self._listeners[name]
        self.leave(name)

    def _names(self) -> list[str]:
        return list(dict.fromkeys([*self.hub.names(), *self._listeners, *self.hub.bells.names()]))

    def _change(self, name: str) -> None:
        self._changed[name] = None
        self._to_do.set()

    async def _keep_joined(self) -> None:
        """Makes the joined topics those that are wanted; what fails is tried again."""
        while True:
            await self._to_do.wait()
            self._to_do.clear()
            while self._changed and self._channel:
                name = next(iter(self._changed))
                del self._changed[name]  # Now: it may change again while we wait.
                try:
                    await self._join_or_leave(name, self._channel)
                except Exception as error:  # Whatever Redis or the network raises.
                    logger.info("The bus does not let a topic join or leave yet: %r", error)
                    self._change(name)
                    await asyncio.sleep(JOIN_RETRY_SECONDS)
                    break
            if not self._channel:
                await asyncio.sleep(JOIN_RETRY_SECONDS)
                self._to_do.set()

    async def _join_or_leave(self, name: str, channel: str) -> None:
        joined = self._joined  # Those of this channel; while we wait there may come a new one.
        if (future := self._wanted.get(name)) is None:
            if name in joined:
                await self._layer.group_discard(group(name), channel)
                joined.discard(name)
            return
        if name not in joined:
            await self._layer.group_add(group(name), channel)
            joined.add(name)
            self._fresh.append(name)
        if not future.done():
            future.set_result(None)

    # --- What arrives -----------------------------------------------------------------------------

    async def _receive(self) -> None:
        if self._channel:
            self._channel = None
            await self._flush()
        try:
            self._channel = await self._layer.new_channel()
        except Exception as error:  # Whatever Redis or the network raises.
            logger.debug("No channel yet: %r", error)
            await asyncio.sleep(JOIN_RETRY_SECONDS)
            return
        self._joined = set()
        self._changed.update(dict.fromkeys(self._wanted))
        self._to_do.set()
        channel, inbox = self._channel, self._layer.channels[self._channel]
        while True:
            messages = [await self._layer.receive(channel)]
            if inbox.qsize() > MAX_WAITING:
                self._drop(inbox)
            # What is ready in this turn goes out together: one write for each connection and topic.
            while not inbox.empty():
                messages.append(self._layer.deserialize(inbox.get_nowait()))
            self._take(messages)

    def _drop(self, inbox: "asyncio.Queue[bytes]") -> None:
        metrics.drops.labels("bus_inbox").inc(inbox.qsize())
        while not inbox.empty():
            inbox.get_nowait()
        self._fresh.extend(self._joined)

    def _take(self, messages: Iterable[dict[str, Any]]) -> None:
        topics: dict[str, list[Event]] = {}
        for message in messages:
            if message["type"] == "bus.beat":
                self._heard()
            else:
                name = message["topic"]
                topics.setdefault(name, []).extend(Event.unpack(name, packed) for packed in message["events"])
        for name, events in topics.items():
            if listener := self._listeners.get(name):
                listener.heard(events)
            else:
                self.hub.receive(name, events)

    # --- Whether the bus is alive -----------------------------------------------------------------

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        for number in itertools.count():
            await asyncio.sleep(BEAT_SECONDS)
            silence = loop.time() - self._heard_at
            if self.up and silence > DOWN_AFTER:
                self._turn(up=False)
                logger.warning("The bus is down; events come from the log every %s s.", CHECK_SECONDS_WHILE_DOWN)
            if silence > REBUILD_AFTER:
                self._heard_at = loop.time()
                await self._rebuild()
            if self._channel:
                try:
                    await self._layer.send(self._channel, {"type": "bus.beat", "number": number})
                except Exception as error:  # Whatever Redis or the network raises: the silence counts.
                    logger.debug("No beat: %r", error)
            fresh, self._fresh = self._fresh, []
            await self._compare_all(fresh)  # Joined a second ago: what came before the join took effect.

    def _heard(self) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        if not self.up:
            self._turn(up=True)
            logger.info("The bus is up.")

    def _turn(self, *, up: bool) -> None:
        self.up = up
        metrics.bus_up.set(up)
        self._turned.set()

    async def _rebuild(self) -> None:
        self._tasks[0].cancel()
        await asyncio.gather(self._tasks[0], return_exceptions=True)
        self._tasks[0] = asyncio.create_task(_for_ever(self._receive), name="receiver _receive")

    async def _flush(self) -> None:
        try:
            async with asyncio.timeout(settings.REDIS_TIMEOUT * 2):
                await self._layer.flush()
        except Exception as error:  # Whatever Redis or the network raises: the connections go anyway.
            logger.info("The channel layer did not close well: %r", error)

    async def _check(self) -> None:
        """Compares every position with the log each POSITION_CHECK_SECONDS, spread over the time.

        While the bus is down, all of them each CHECK_SECONDS_WHILE_DOWN; and all of them at once when it turns.
        """
        for second in itertools.count():
            if await self._turns_within(BEAT_SECONDS):
                await self._compare_all(self._names(), doubt=True)
            elif self.up:
                slots = max(1, int(settings.POSITION_CHECK_SECONDS / BEAT_SECONDS))
                slot = second % slots
                await self._compare_all([name for name in self._names() if hash(name) % slots == slot])
            elif second % CHECK_SECONDS_WHILE_DOWN == 0:
                await self._compare_all(self._names(), doubt=True)  # A recall is heard of by the bus only.

    async def _compare_all(self, names: list[str], *, doubt: bool = False) -> None:
        for start in range(0, len(names), CHECK_TOPICS):
            await self._compare(names[start : start + CHECK_TOPICS], doubt=doubt)

    async def _compare(self, names: list[str], *, doubt: bool = False) -> None:
        try:
            for listener in filter(None, map(self._listeners.get, names)):
                await listener.check()
            await self.hub.check(names, doubt=doubt)
        except Exception as error:  # Whatever the database raises: the next check comes.
            metrics.drops.labels("log_unavailable").inc()
            logger.warning("The log cannot be read: %r", error)

    async def _turns_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._turned.wait()
        except TimeoutError:
            return False
        self._turned.clear()
        return True


async def _for_ever(loop: Any) -> None:
    """Runs one of the receiver's loops; should it fail, says so and begins it again."""
    while True:
        try:
            await loop()
        except Exception:
            metrics.drops.labels("receiver_failed").inc()
            logger.exception("A loop of the bus receiver failed and begins again.")
            await asyncio.sleep(1)
