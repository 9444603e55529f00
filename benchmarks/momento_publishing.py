"""Publishes to the stub by the adapter for Momento and by loops of its SDK; momento.py runs it."""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from uuid import uuid4

import django

django.setup()

from momento import CredentialProvider, TopicClientAsync  # noqa: E402
from momento.config import TopicConfigurations  # noqa: E402
from momento.responses import TopicPublish  # noqa: E402

from adapters.base import Parcel, Target, with_id  # noqa: E402
from adapters.momento.topic import AT_ONCE, MomentoTopic  # noqa: E402
from benchmarks.fanfare import text  # noqa: E402

ROUNDS = 5
CACHE = "bench"

Work = Callable[[int, Sequence[Parcel]], Awaitable[None]]


async def main(port: int, events: int) -> None:
    rates: dict[str, float] = {}  # Printed as JSON.
    for _ in range(ROUNDS):  # In turn, and the best of each: what disturbs one would count against it.
        for way in ("one", "many"):
            parcels = [parcel(number if way == "many" else 0) for number in range(events)]
            for by, work in (("sdk", _by_sdk), ("adapter", _by_adapter)):
                rate = await _rate(work, port, parcels)
                rates[f"{way} {by}"] = max(rates.get(f"{way} {by}", 0.0), rate)
    print(json.dumps(rates))


def parcel(number: int) -> Parcel:
    body = json.dumps({"type": "message", "timestamp": "2026-01-31T12:00:00Z", "data": text()})
    return Parcel(uuid4(), "message", f"user.{number}", body.encode())


async def _rate(
    work: Callable[[int, Sequence[Parcel]], Awaitable[None]], port: int, parcels: Sequence[Parcel]
) -> float:
    began = time.monotonic()
    await work(port, parcels)
    return len(parcels) / (time.monotonic() - began)


async def _by_adapter(_port: int, parcels: Sequence[Parcel]) -> None:
    adapter = MomentoTopic(Target(uuid4(), "bench", CACHE))
    for start in range(0, len(parcels), adapter.batch_size):
        outcomes = await adapter.publish(parcels[start : start + adapter.batch_size])
        assert all(outcome.delivered for outcome in outcomes)
    await adapter.close()


async def _by_sdk(port: int, parcels: Sequence[Parcel]) -> None:
    """The loop that one writes without an adapter: as many at once as there are topics, up to AT_ONCE."""
    credentials = CredentialProvider("bench", "127.0.0.1", "127.0.0.1", "127.0.0.1", port)
    waiting = iter(parcels)
    topics = len({one.key for one in parcels})
    async with TopicClientAsync(TopicConfigurations.Default.latest(), credentials) as client:

        async def publish() -> None:
            for one in waiting:
                answer = await client.publish(CACHE, one.key.removeprefix("user."), with_id(one).decode())
                assert isinstance(answer, TopicPublish.Success)

        await asyncio.gather(*(publish() for _ in range(min(AT_ONCE, topics))))


if __name__ == "__main__":
    asyncio.run(main(*(int(word) for word in sys.argv[1:])))
