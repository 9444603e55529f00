"""Background work for what is owed outside; beat says when. Each is a claim, so running twice does no harm."""

import asyncio

from celery import shared_task

from adapters import dead_letters, fetching, ingest
from adapters.delivering import Deliverer

RUN_SECONDS = 5.0  # So that a worker that is to stop need not wait for long.


# Acknowledged early: what a dead worker leaves is found by the next run.
@shared_task(acks_late=False)
def deliver() -> None:
    """Delivers until there is nothing to do; where there may be more, the next run follows at once."""
    if asyncio.run(Deliverer().run(RUN_SECONDS)):
        deliver.apply_async(expires=1)


@shared_task
def settle() -> None:
    dead_letters.settle()


@shared_task
def purge() -> None:
    fetching.purge()
    ingest.purge()
