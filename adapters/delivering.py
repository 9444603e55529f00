"""Delivering: one event loop serves many destinations side by side, so that a slow one delays nobody else.

At least once, with the same id each time; in the order of a key where the adapter keeps it. A process that dies leaves
rows as they were: when its leases end, another goes on.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from django.conf import settings
from django.utils import timezone

from adapters import deliveries, destinations
from adapters.base import Adapter, Outcome, Parcel
from adapters.deliveries import FAILURES_MAX, LEASE
from adapters.models import Delivery, Destination
from realtime.database import in_database

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1
LINGER_SECONDS = 3.0  # After the last delivery: the next one does not wait for beat.
RENEWALS_A_LEASE = 3
REST = timedelta(seconds=1)


class Deliverer:
    """Serves destinations for a while, under claims of its own."""

    def __init__(self) -> None:
        self._claim = uuid4().hex
        self._serving: dict[UUID, asyncio.Task[None]] = {}
        self._adapters: dict[tuple[UUID, datetime], Adapter] = {}  # With their open connections.
        self._stopping = False

    async def run(self, seconds: float) -> bool:
        """Delivers what is due until there is nothing, or for so long -> whether there may be more to do."""
        end = time.monotonic() + seconds
        linger_until = 0.0
        renewing = asyncio.create_task(self._renew())
        try:
            while (now := time.monotonic()) < end:
                await self._start_serving()
                if self._serving:
                    linger_until = now + LINGER_SECONDS
                elif now >= linger_until:
                    return False
                await asyncio.sleep(POLL_SECONDS)
            return True
        finally:
            await self._stop()
            renewing.cancel()

    async def _start_serving(self, *, healthy: bool = False) -> None:
        room = settings.DESTINATIONS_AT_ONCE - len(self._serving)
        for destination in await in_database(deliveries.take_destinations, self._claim, room, healthy=healthy):
            task = asyncio.create_task(self._serve(destination), name=f"deliver to {destination.name}")
            self._serving[destination.pk] = task
            task.add_done_callback(lambda _task, pk=destination.pk: self._serving.pop(pk))  # type: ignore[misc]

    async def _stop(self) -> None:
        """Batches that are under way have the time of one attempt; what they leave goes out again.

        Meanwhile whatever works is served: nobody waits for the slow ones.
        """
        self._stopping = True
        end = time.monotonic() + settings.DELIVERY_TIMEOUT
        late = set(self._serving.values())
        while late and time.monotonic() < end:
            _done, late = await asyncio.wait(late, timeout=POLL_SECONDS)
            if late:
                await self._start_serving(healthy=True)
        tasks = list(self._serving.values())
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # What they raise, they have logged.
        for adapter in self._adapters.values():
            await adapter.close()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(LEASE.total_seconds() / RENEWALS_A_LEASE)
            serving = dict(self._serving)
            try:
                held = await in_database(deliveries.renew, self._claim, list(serving))
            except Exception as error:  # The database does not answer: others may take over when the lease ends.
                logger.warning("Claims of destinations cannot be renewed: %r", error)
                continue
            for pk in serving.keys() - held:
                serving[pk].cancel()

    async def _serve(self, destination: Destination) -> None:
        rest = REST  # Where all that is due stands behind something that has to wait, there is no hurry.
        try:
            if await self._deliver_all(destination):
                rest = timedelta(0)
        except Exception:
            logger.exception("Delivering to %s failed", destination.name)
        finally:
            await asyncio.shield(in_database(deliveries.release, self._claim, destination.pk, rest=rest))

    async def _deliver_all(self, destination: Destination) -> bool:
        """Batch after batch, small ones first, while it fails, and while it is slow: what fails together is not much.

        Batches grow only while one takes a small part of the time that `_stop` gives them. -> whether there was
        anything to send.
        """
        try:
            adapter = self._adapter(destination)
        except Exception as error:  # Its options, its secret or its SDK.
            await self._hold_back(destination, f"It cannot be set up: {error}")
            return False
        failures, size, sent = destination.failures, FAILURES_MAX, False
        while True:
            limit = min(size, adapter.batch_size) if not failures else max(1, FAILURES_MAX - failures)
            rows = await in_database(deliveries.due, destination.pk, limit, ordered=adapter.ordered)
            if not rows:
                return sent
            sent = True
            began = time.monotonic()
            outcomes = await self._publish(adapter, rows)
            slow = time.monotonic() - began > settings.DELIVERY_TIMEOUT / 4
            health = await in_database(deliveries.mark, self._claim, destination.pk, outcomes)
            if health is None or health.paused or self._stopping:
                return sent
            failures, size = health.failures, size if slow else size * 2

    def _adapter(self, destination: Destination) -> Adapter:
        version = (destination.pk, destination.changed_at)
        if version not in self._adapters:
            self._adapters[version] = destinations.adapter(destination)
        return self._adapters[version]

    async def _hold_back(self, destination: Destination, why: str) -> None:
        logger.warning("Nothing goes to %s. %s", destination.name, why)
        rows = await in_database(deliveries.due, destination.pk, 1, ordered=False)
        await in_database(deliveries.mark, self._claim, destination.pk, [(row, Outcome(why)) for row in rows])

    async def _publish(self, adapter: Adapter, rows: Sequence[Delivery]) -> list[tuple[Delivery, Outcome]]:
        """What became of each; what is left out was not tried, and stays due."""
        now = timezone.now()
        expired = [row for row in rows if row.expires_at and row.expires_at <= now]
        if expired:
            found = Delivery.objects.filter(pk__in=[row.pk for row in expired])
            await in_database(deliveries.expire, found)
        too_large = Outcome(
            f"It has more than the {adapter.max_bytes} bytes that this kind takes.", permanent=True, blames_event=True
        )
        fit, tried = [], []
        for row in rows:
            if row in expired:
                continue
            if len(row.body.encode()) > adapter.max_bytes:
                tried.append((row, too_large))
            else:
                fit.append(row)
        if fit:
            outcomes = await _outcomes(adapter, fit)
            tried += ((row, outcome) for row, outcome in zip(fit, outcomes, strict=True) if outcome.tried)
        return tried


async def _outcomes(adapter: Adapter, rows: Sequence[Delivery]) -> Sequence[Outcome]:
    parcels = [Parcel(row.event_id, row.event, row.key, row.body.encode()) for row in rows]
    try:
        outcomes = await adapter.publish(parcels)
        if len(outcomes) == len(parcels):
            return outcomes
        problem = f"{len(outcomes)} outcomes for {len(parcels)} events"
    except Exception as error:
        logger.exception("The adapter of %s failed", adapter.target.name)
        problem = f"{type(error).__name__}: {error}"
    return [Outcome(f"The adapter failed: {problem}")] * len(parcels)
