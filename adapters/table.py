"""The adapter of what nobody fetches by push: a queue in the database, until a backend receives it (fetching)."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated

import msgspec
from django.conf import settings
from django.utils import timezone
from msgspec import Meta

from adapters import fetching
from adapters.base import Adapter, Misconfigured, Outcome, Parcel, Target
from realtime.database import in_database


class Table(Adapter):
    """Events as rows that backends receive and acknowledge.

    A batch is taken whole or not at all. A repetition of what is still there changes nothing; of what has been
    acknowledged meanwhile it comes again: at least once, as everywhere. Rows are in the order of the batches; who
    receives them finds the oldest first, but what was not acknowledged in time comes after what came meanwhile.
    """

    ordered = True

    class Options(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
        retention_days: Annotated[float, Meta(gt=0, le=14, description="What nobody fetches is deleted then.")] = 4.0
        fallback: Annotated[bool, Meta(description="It gets only what no other destination wants.")] = False

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        options = msgspec.convert(dict(target.options), self.Options)
        self._retention = timedelta(days=options.retention_days)

    @classmethod
    def validate(cls, address: str) -> None:
        if address:
            raise Misconfigured("address: leave it empty, for a table is in the database of this service")

    async def publish(self, batch: Sequence[Parcel]) -> Sequence[Outcome]:
        async with asyncio.timeout(settings.DELIVERY_TIMEOUT):
            await in_database(fetching.put, self.target.id, batch, self._retention)
        return [Outcome() for _ in batch]

    async def check(self) -> str:
        waiting, oldest = await in_database(fetching.backlog, self.target.id)
        if oldest is None:
            return "no event waits"
        return f"{waiting} events wait, the oldest for {(timezone.now() - oldest).total_seconds():.0f} s"
