"""Delivers to a receiver on this machine, in this process, and prints figures as JSON. outside.py runs it."""

import asyncio
import json
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

import django

django.setup()

import httpx  # noqa: E402
from django.utils import timezone  # noqa: E402

from adapters import deliveries, delivering, destinations, outbox  # noqa: E402
from adapters.base import Outcome  # noqa: E402
from adapters.models import Delivery, Destination  # noqa: E402
from adapters.shapes import NewDestination  # noqa: E402
from benchmarks.fanfare import text  # noqa: E402

SAMPLES = 100
EVERY_SECONDS = 0.1
ROUNDS = 3


def main(port: int, events: int, pending: int) -> None:
    url = f"http://127.0.0.1:{port}/"
    bodies = [outbox._body(event()).encode() for _ in range(events)]
    figures = {"httpx": 0.0, "httpx_many": 0.0, "webhooks": 0.0, "batches": 0.0}
    for _ in range(ROUNDS):  # In turn, and the best of each: what disturbs one would count against it.
        for name, rate in (
            ("httpx", _rate(_post_all(url, bodies, 1), events)),
            ("httpx_many", _rate(_post_all(url, bodies, 16), events)),
            ("webhooks", _deliveries(url, events, batch=0)),
            ("batches", _deliveries(url, events, batch=100)),
        ):
            figures[name] = max(figures[name], rate)
    figures["marking"] = _marking(events)
    figures |= _delays(url, "alone")
    _make_dead(pending)
    figures |= _delays(url, "beside")
    print(json.dumps(figures))


def event() -> outbox.Event:
    return outbox.Event("message", uuid4(), "user.bench", text().encode(), timezone.now())


def _rate(work: Coroutine[Any, Any, Any], events: int) -> float:
    began = time.monotonic()
    asyncio.run(work)
    return events / (time.monotonic() - began)


async def _post_all(url: str, bodies: Sequence[bytes], at_once: int) -> None:
    waiting = iter(bodies)

    async def post(client: httpx.AsyncClient) -> None:
        for body in waiting:
            (await client.post(url, content=body)).raise_for_status()

    async with httpx.AsyncClient() as client:
        await asyncio.gather(*(post(client) for _ in range(at_once)))


def _destination(address: str, **options: int) -> Destination:
    Destination.objects.update(enabled=False)
    wanted = NewDestination(name=str(uuid4()), kind="webhook", address=address, options=options)
    return destinations.create(None, wanted)[0]


def _owe(events: int) -> None:
    outbox.forget_wants()
    outbox.owe(event() for _ in range(events))


def _deliveries(url: str, events: int, batch: int) -> float:
    row = _destination(url, batch=batch)
    _owe(events)

    delivering.LINGER_SECONDS = 0.0  # It ends when nothing is left.
    rate = _rate(delivering.Deliverer().run(60), events)
    assert not Delivery.objects.filter(destination=row.pk, state="pending").exists()
    return rate


def _marking(events: int) -> float:
    """Everything but the sending: batches are read, and marked as delivered."""
    row = _destination("https://example.com/")
    _owe(events)
    began = time.monotonic()
    deliveries.take_destinations("bench", 1)
    while found := deliveries.due(row.pk, 100, ordered=False):
        deliveries.mark("bench", row.pk, [(delivery, Outcome()) for delivery in found])
    return (time.monotonic() - began) / events * 1e6


def _make_dead(pending: int) -> None:
    """A destination that nobody listens at; some of what it is owed has been tried already."""
    row = _destination("http://127.0.0.1:9/")
    now = timezone.now()
    for start in range(0, pending, 5000):
        Delivery.objects.bulk_create(
            Delivery(
                destination=row, event_id=uuid4(), event="message", key="user.x", body="{}",
                due_at=now + timedelta(seconds=(start - pending / 2) / 1000),
            )
            for _ in range(min(5000, pending - start))
        )  # fmt: skip
    Destination.objects.filter(pk=row.pk).update(name="dead")


def _delays(url: str, when: str) -> dict[str, float]:
    """Single events, from the commit to the arrival, while a deliverer runs."""
    _destination(url)
    Destination.objects.filter(name="dead").update(enabled=True, topics=["nothing"])
    outbox.forget_wants()
    sent: dict[str, float] = {}
    over = threading.Event()
    running = threading.Thread(target=_run_until, args=[over.is_set])
    running.start()
    for _ in range(SAMPLES):
        one = event()
        outbox.owe([one])
        sent[str(one.id)] = time.monotonic()
        time.sleep(EVERY_SECONDS)
    time.sleep(2)
    over.set()
    running.join()
    with urllib.request.urlopen(url) as reply:
        arrived = json.load(reply)
    delays = sorted((arrived[id] - at) * 1000 for id, at in sent.items())
    return {f"p50_{when}": delays[len(delays) // 2], f"p95_{when}": delays[int(len(delays) * 0.95)]}


def _run_until(over: Callable[[], bool]) -> None:
    while not over():
        asyncio.run(delivering.Deliverer().run(5))


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))
