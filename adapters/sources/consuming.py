"""Runs what brings records from sources: side by side, each again when it fails, and all to a clean stop."""

import asyncio
import logging
from collections import Counter
from collections.abc import Collection, Sequence
from typing import cast

from django.utils.module_loading import import_string

from adapters import metrics
from adapters.ingest import Record, Result, ingest
from adapters.ingest_settings import Source
from adapters.sources.base import FINISH_SECONDS, Backoff, Consumer, abandonable
from realtime.database import in_database

logger = logging.getLogger(__name__)

CONSUMERS = {
    "queue": "adapters.sources.sqs.Queue",
    "stream": "adapters.sources.kinesis.Stream",
    "momento": "adapters.sources.momento.Topic",
}
AT_ONCE = {"queue": 4}  # Side by side in each process: while one waits for the database, others wait for the queue.


async def consume(sources: Collection[Source], stopping: asyncio.Event) -> None:
    """Takes what the sources bring until `stopping` is set; what is in flight then has FINISH_SECONDS."""
    tasks = [
        asyncio.create_task(_keep_running(source, stopping), name=f"consume {source.name}")
        for source in sources
        for _ in range(AT_ONCE.get(source.consumed, 1))
    ]
    await stopping.wait()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=2 * FINISH_SECONDS)


async def _keep_running(source: Source, stopping: asyncio.Event) -> None:
    taker = _Taker(source, stopping)
    wait = Backoff()
    while True:
        taker.took = False
        try:
            consumer = await abandonable(_consumer, source)
            await consumer.run(taker)
        except Exception as error:
            metrics.source_failures.labels(source.name).inc()
            logger.warning("The source %s cannot be read; again soon: %r", source.name, error)
        if taker.took:
            wait.reset()
        await asyncio.sleep(wait.next())


def _consumer(source: Source) -> Consumer:
    """It blocks: SDKs are imported, and look for credentials."""
    return cast(Consumer, import_string(CONSUMERS[source.consumed])(source))


class _Taker:
    """`Take` for one source; it counts."""

    def __init__(self, source: Source, stopping: asyncio.Event) -> None:
        self.took = False
        self._source = source
        self._stopping = stopping

    async def __call__(self, records: Sequence[Record]) -> list[Result]:
        wait = Backoff()
        while True:
            try:
                results = await in_database(ingest, self._source, records)
                break
            except Exception as error:  # None of it is about the records.
                if self._stopping.is_set():
                    raise
                logger.warning("Records of %s have to wait: %r", self._source.name, error)
            await self._pause(wait.next())
        self.took = True
        for status, count in Counter(result.status for result in results).items():
            metrics.records.labels(self._source.name, status).inc(count)
        return results

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return
