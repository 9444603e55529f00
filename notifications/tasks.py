"""Background work of the log; beat says when. Each is a claim, so running twice does no harm."""

from celery import shared_task

from notifications import log, retention


@shared_task
def publish_due() -> None:
    while log.publish_due():
        pass


@shared_task
def purge() -> None:
    retention.purge()
