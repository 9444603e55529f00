"""Background work for sessions; beat says when. Running twice does no harm."""

from celery import shared_task

from sessions_app import sessions


@shared_task
def purge() -> None:
    sessions.purge()
