"""Background work for presence; beat says when. Running twice does no harm."""

import logging

from celery import shared_task

from presence.sweeping import sweep as sweep_for
from realtime.redis_scripts import RedisDown

logger = logging.getLogger(__name__)

RUN_SECONDS = 5.0  # So that a worker that is to stop need not wait for long.


# Acknowledged early: what a dead worker leaves is found by the next run.
@shared_task(acks_late=False)
def sweep() -> None:
    try:
        sweep_for(RUN_SECONDS)
    except RedisDown as error:
        logger.warning("Presence is not swept until Redis answers: %s", error)
