"""Background work of identity; beat says when."""

from celery import shared_task

from accounts import audit, idempotency, revocations, tickets, tokens


@shared_task
def purge() -> None:
    """Deletes what has ended by itself. Running twice at once does no harm."""
    revocations.purge()
    tickets.purge()
    tokens.purge()
    audit.purge()
    idempotency.purge()
