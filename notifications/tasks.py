"""Background work of the log; beat says when. Each is a claim, so running twice does no harm."""

from uuid import UUID

from celery import shared_task
from django.conf import settings

from notifications import handoff, log, retention, running, work

HANDED_AT_ONCE = 500


@shared_task
def publish_due() -> None:
    while log.publish_due():
        pass


@shared_task
def purge() -> None:
    retention.purge()
    work.purge()


# Acknowledged early: the row's lease, not the broker, says whether it runs, and so the worker does not kill it when
# it loses the broker for a moment.
@shared_task(acks_late=False, time_limit=settings.TASK_TIMEOUT + running.KILL_SECONDS)
def run_task(task_id: str) -> None:
    """Runs one of the users' tasks."""
    running.run(UUID(task_id))


@shared_task
def sweep_tasks() -> None:
    """Takes tasks from dead workers, and hands on those that nobody has started."""
    work.release_dead()
    if handoff.backlog() < HANDED_AT_ONCE:  # Else workers have enough to do, and repeats would only pile up.
        for task_id in work.waiting(HANDED_AT_ONCE):
            handoff.hand(task_id)
