"""Background work of boards; beat says when. Each is a claim, or does nothing the second time."""

import logging

from celery import shared_task

from leaderboards import closing, curating, rebuilding
from leaderboards.ranking import Unavailable

logger = logging.getLogger(__name__)

RUN_SECONDS = 5.0  # So that a worker that is to stop need not wait for long.
REBUILD_SECONDS = 3600  # For many millions of entries.


# Acknowledged early, as are the others: what a dead worker leaves is found by the next run.
@shared_task(acks_late=False)
def roll_over() -> None:
    closing.roll_over(RUN_SECONDS)


@shared_task(acks_late=False)
def archive() -> None:
    closing.archive(RUN_SECONDS)


@shared_task(acks_late=False, time_limit=REBUILD_SECONDS)
def rebuild() -> None:
    """Makes indexes anew that somebody has missed."""
    try:
        rebuilding.rebuild_wanted()
    except Unavailable as error:
        logger.warning("Indexes are not made anew until Redis answers: %s", error)


@shared_task(acks_late=False)
def tidy() -> None:
    for step in (curating.evict, closing.purge):
        try:
            step(RUN_SECONDS)
        except Exception:  # What stands in the way of one must not keep the other.
            logger.exception("Boards: %s failed", step.__name__)
