"""Messages of one topic at Momento, in order, from a position that is kept in the database.

A subscription goes on where the one before has stopped, as far as Momento still has what came since; where it has not,
it says so, and that is counted. One consumer reads, and another one goes on when that one stops or dies.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import uuid4

from adapters import metrics
from adapters.ingest import Record
from adapters.ingest_settings import Source
from adapters.momento.clients import Access, access, failed
from adapters.secret_values import secret_value
from adapters.sources import checkpoints
from adapters.sources.base import Backoff, Take, finish, take_all
from realtime.database import in_database

logger = logging.getLogger(__name__)

KEY = "MOMENTO_API_KEY"
SHARE_SECONDS = 5.0  # A third of a lease, which this renews.
SILENCE_SECONDS = 60.0  # Without even a heartbeat. To subscribe again loses nothing.
AT_ONCE = 500


class Position(NamedTuple):
    """The number of the last message that was taken, and the page that its number is of."""

    page: int
    number: int

    def __str__(self) -> str:
        return f"{self.page}:{self.number}"


class Topic:
    """A message counts once, by its page and number. The first subscription begins with what comes after it."""

    def __init__(self, source: Source) -> None:
        assert source.momento is not None
        self.name = source.name
        self._cache, self._topic = source.momento.cache, source.momento.topic
        self._part = f"{self._cache}/{self._topic}"
        self._claim = uuid4().hex
        self._position: Position | None = None

    async def run(self, take: Take) -> None:
        wait = Backoff()
        await in_database(checkpoints.add, self.name, [self._part])
        try:
            while True:
                held = await in_database(checkpoints.share, self._claim, self.name, [self._part])
                if self._part not in held:
                    await asyncio.sleep(SHARE_SECONDS)
                    continue
                self._position = position_of(held[self._part])
                try:
                    await self._read(take, wait)
                except Exception as error:
                    metrics.source_failures.labels(self.name).inc()
                    logger.warning("The topic of %s cannot be read; again soon: %s", self.name, error)
                    await asyncio.sleep(wait.next())
        finally:
            await finish(in_database(checkpoints.release, self._claim, self.name))

    async def _read(self, take: Take, wait: Backoff) -> None:
        """Until another consumer has the topic, or there is another key. Raises what ends the subscription."""
        key = await asyncio.to_thread(_key)
        subscription = _Subscription(access(key), self._cache, self._topic, self._position)
        try:
            while True:
                items = await subscription.items(SHARE_SECONDS)
                wait.reset()
                if not await finish(self._take(items, take)) or await asyncio.to_thread(_key) != key:
                    return
        finally:
            await subscription.close()

    async def _take(self, items: Sequence[Any], take: Take) -> bool:
        """-> whether the topic is still ours."""
        records = []
        for item in items:
            if item.WhichOneof("kind") == "discontinuity":
                self._note_gap(item.discontinuity)
            else:
                self._position = Position(item.item.sequence_page, item.item.topic_sequence_number)
                records.append(Record(f"{self._part}:{self._position}", _body(item.item.value)))
        await take_all(take, records)
        position = "" if self._position is None else str(self._position)
        return await in_database(checkpoints.save, self._claim, self.name, self._part, position)

    def _note_gap(self, gap: Any) -> None:
        metrics.source_gaps.labels(self.name).inc()
        logger.warning(
            "Messages of %s are missing: those between %s and %d:%d.",
            self.name,
            self._position,
            gap.new_sequence_page,
            gap.new_topic_sequence,
        )
        self._position = Position(gap.new_sequence_page, max(0, gap.new_topic_sequence - 1))


class _Subscription:
    """What comes on a topic after a position, read ahead.

    On the wire, not with Momento's SDK: that hides gaps, ends a subscription after seconds, and then stops the loop.
    """

    def __init__(self, way: Access, cache: str, topic: str, position: Position | None) -> None:
        from grpc import aio
        from momento_wire_types import cachepubsub_pb2 as wire
        from momento_wire_types import cachepubsub_pb2_grpc as services

        request = wire._SubscriptionRequest(cache_name=cache, topic=topic)
        if position is not None:
            request.sequence_page = position.page
            request.resume_at_topic_sequence_number = position.number + 1
        self._cache = cache
        self._channel = way.channel(way.cache, aio)
        self._stream = services.PubsubStub(self._channel).Subscribe(request, metadata=way.metadata)
        self._heard_at = time.monotonic()
        self._waiting: asyncio.Queue[Any] = asyncio.Queue(AT_ONCE)
        self._reading = asyncio.create_task(self._read_ahead())

    async def items(self, seconds: float) -> list[Any]:
        """Messages and gaps: the next one, and those that wait behind it; none in so many seconds. Raises its end."""
        try:
            async with asyncio.timeout(seconds):
                found = [await self._waiting.get()]
        except TimeoutError:
            if time.monotonic() > self._heard_at + SILENCE_SECONDS:
                raise ConnectionError("not even a heartbeat has come") from None
            return []
        while not self._waiting.empty():
            found.append(self._waiting.get_nowait())
        if isinstance(found[-1], Exception):
            end = found.pop()
            if not found:
                raise end
            self._waiting.put_nowait(end)
        return found

    async def close(self) -> None:
        self._reading.cancel()
        await self._channel.close()

    async def _read_ahead(self) -> None:
        from grpc import RpcError

        try:
            async for item in self._stream:
                self._heard_at = time.monotonic()
                if item.WhichOneof("kind") != "heartbeat":
                    await self._waiting.put(item)
            end: Exception = ConnectionError("Momento has ended the subscription")
        except RpcError as error:
            end = failed(error, KEY, self._cache)
        except Exception as error:
            end = error
        await self._waiting.put(end)


def position_of(text: str) -> Position | None:
    """None where nothing has been taken yet."""
    if not text:
        return None
    page, number = text.split(":")
    return Position(int(page), int(number))


def _key() -> str:
    """It blocks."""
    return secret_value(KEY).get()


def _body(value: Any) -> bytes:
    return bytes(value.binary) if value.WhichOneof("kind") == "binary" else str(value.text).encode()
