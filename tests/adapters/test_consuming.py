"""Sources beside each other: what one of them waits for, the others do not."""

import asyncio
import time

import pytest

from adapters.ingest_settings import Source
from adapters.sources import consuming
from adapters.sources.base import Take

pytestmark = pytest.mark.any_database

SLOW_SECONDS = 0.5


class Slow:
    """As an SDK that looks for credentials."""

    name = "slow"

    def __init__(self, _source: Source) -> None:
        time.sleep(SLOW_SECONDS)

    async def run(self, _take: Take) -> None:
        await asyncio.sleep(60)


async def test_a_consumer_that_is_slow_to_make_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(consuming.CONSUMERS, "stream", f"{__name__}.Slow")
    stopping = asyncio.Event()
    source = Source("slow", "notification", stream="s")
    task = asyncio.create_task(consuming.consume([source], stopping))
    began = before = time.monotonic()
    longest = 0.0
    while before < began + 2 * SLOW_SECONDS:
        await asyncio.sleep(0.01)
        now = time.monotonic()
        longest, before = max(longest, now - before), now
    stopping.set()
    await task
    assert longest < SLOW_SECONDS
