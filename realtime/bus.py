"""The bus between processes, sending side: `publish` never waits and never fails.

At most once, in order for each topic and process. What is lost here is repaired from the log; what has no offset is
gone. The receiving side is receiver.py.
"""

import asyncio
import atexit
import hashlib
import logging
import os
import re
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from channels.layers import get_channel_layer
from django.conf import settings
from django.utils.module_loading import import_string

from realtime import metrics
from realtime.bells import signalled
from realtime.frames import Event

logger = logging.getLogger(__name__)

EVENTS_A_SEND = 500
EVENTS_A_ROUND = 5000
RETRY_SECONDS = 0.5
EXIT_SECONDS = 2.0

Keeper = Callable[[Sequence[Event]], Awaitable[None]]
"""BUS_KEEPER: gets events that are in no log before the bus does. It neither raises, nor waits for long."""

_GROUP_SAFE = re.compile(r"[A-Za-z0-9_.-]{1,80}\Z")


def publish(events: Iterable[Event]) -> None:
    """Hands events to the bus, from any thread; call it after commit.

    Beyond BUS_QUEUE_EVENTS waiting events, further ones are dropped and counted.
    """
    _publisher().put(list(events))


def signal(keys: Iterable[str]) -> None:
    """Rings the bells of these names (`bells.signalled`) in all processes. What is not heard is lost."""
    publish(Event(signalled(key), b"") for key in keys)


def group(topic: str) -> str:
    """The Channels group of a topic: its name, or a hash of it where Channels would refuse the name."""
    if _GROUP_SAFE.match(topic):
        return topic
    return "h-" + hashlib.sha256(topic.encode()).hexdigest()[:40]


class Publisher:
    """A bounded queue, and one task that drains it: one send for each topic with all its events, pipelined."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._failing = False
        self._task = asyncio.run_coroutine_threadsafe(self._drain(), loop)

    def put(self, events: list[Event]) -> None:
        if len(self._queue) + len(events) > settings.BUS_QUEUE_EVENTS:
            metrics.drops.labels("bus_queue").inc(len(events))
            return
        self._queue.extend(events)
        self._loop.call_soon_threadsafe(self._begin)

    def flush(self, timeout: float) -> None:
        """Waits, in another thread than the loop's, until all that was put has been sent or dropped.

        Raises TimeoutError.
        """
        asyncio.run_coroutine_threadsafe(self._idle.wait(), self._loop).result(timeout)

    def stop(self) -> None:
        self._task.cancel()

    def _begin(self) -> None:
        self._idle.clear()
        self._wake.set()

    async def _drain(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                await self._send(self._take())
            if not self._wake.is_set():
                self._idle.set()

    def _take(self) -> dict[str, list[Event]]:
        topics: dict[str, list[Event]] = {}
        for _ in range(min(len(self._queue), EVENTS_A_ROUND)):
            event = self._queue.popleft()
            topics.setdefault(event.topic, []).append(event)
        return topics

    async def _send(self, topics: dict[str, list[Event]]) -> None:
        count = sum(len(events) for events in topics.values())
        try:
            await _keep([event for events in topics.values() for event in events if event.offset is None])
            await _send_pipelined(
                {"type": "bus.events", "topic": topic, "events": [event.pack() for event in some]}
                for topic, events in topics.items()
                for some in _chunks(events)
            )
        except Exception as error:  # Whatever Redis or the network raises: the log repairs what this loses.
            metrics.drops.labels("bus_send").inc(count)
            if not self._failing:
                logger.warning("The bus does not take events; the log repairs them: %r", error)
            self._failing = True
            await asyncio.sleep(RETRY_SECONDS)
        else:
            metrics.published.inc(count)
            self._failing = False


async def _keep(events: Sequence[Event]) -> None:
    """What is in no log, for those who are not here yet: kept first, so that who hears of it finds it."""
    if notices := [event for event in events if not event.state]:
        keep: Keeper = import_string(settings.BUS_KEEPER)
        await keep(notices)


def _chunks(events: list[Event]) -> Iterable[list[Event]]:
    return (events[start : start + EVENTS_A_SEND] for start in range(0, len(events), EVENTS_A_SEND))


async def _send_pipelined(messages: Iterable[dict[str, Any]]) -> None:
    """Channels' `group_send` for many groups, in one round trip for each Redis host."""
    layer: Any = get_channel_layer()
    pipelines: dict[Any, Any] = {}
    for message in messages:
        channel = layer._get_group_channel_name(group(message["topic"]))
        shard = layer._get_shard(channel)
        if shard not in pipelines:
            shard._ensure_redis()
            pipelines[shard] = shard._redis.pipeline(transaction=False)
        pipelines[shard].publish(channel, layer.serialize(message))
    await asyncio.gather(*(pipeline.execute() for pipeline in pipelines.values()))


# --- One publisher for each process ---------------------------------------------------------------

_lock = threading.Lock()
_current: Publisher | None = None


def attach(loop: asyncio.AbstractEventLoop) -> Publisher:
    """Publishes from this running loop: for a process that has one, such as a web server."""
    global _current
    with _lock:
        if _current is not None:
            _current.stop()
        _current = Publisher(loop)
        return _current


def detach(publisher: Publisher) -> None:
    global _current
    with _lock:
        publisher.stop()
        if _current is publisher:
            _current = None


def _publisher() -> Publisher:
    """The process's publisher; without `attach`, on a background thread with a loop of its own."""
    global _current
    if _current is None:
        with _lock:
            if _current is None:
                loop = asyncio.new_event_loop()
                threading.Thread(target=loop.run_forever, name="bus", daemon=True).start()
                _current = Publisher(loop)
                atexit.register(_flush_at_exit, _current)
    return _current


def _flush_at_exit(publisher: Publisher) -> None:
    """A command that ends right after it has published: its events still go out."""
    with suppress(TimeoutError):
        publisher.flush(EXIT_SECONDS)


def _after_fork() -> None:
    global _current, _lock
    _current, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
