"""Background work for sessions; beat says when. Running twice does no harm."""

from celery import shared_task

from sessions_app import dispatches, sessions
from sessions_app.dispatching import Dispatcher

RUN_SECONDS = 5.0  # So that a worker that is to stop need not wait for long.


@shared_task
def purge() -> None:
    sessions.purge()
    dispatches.purge()


@shared_task
def delete_orphans() -> None:
    sessions.delete_orphans()


# Acknowledged early: what a dead worker leaves is found by the next run.
@shared_task(acks_late=False)
def dispatch() -> None:
    """Sends until there is nothing to do; where there may be more, the next run follows at once."""
    if Dispatcher().run(RUN_SECONDS):
        dispatch.apply_async(expires=1)
