"""What sessions forget of a user who is erased."""

from django.db import transaction

from notifications.erasure import forget
from sessions_app import access
from sessions_app.models import BrowserSession, Dispatch


def erase_user(user: str) -> bool:
    """Ends their sessions, and deletes what was for these.

    One of USER_ERASERS: inside the transaction that erases the user.
    """
    theirs = list(BrowserSession.objects.filter(user=user))
    BrowserSession.objects.filter(pk__in=[session.pk for session in theirs]).delete()
    forget([session.topic for session in theirs])
    Dispatch.objects.filter(topic__in=[f"user.{user}", *(session.topic for session in theirs)]).delete()
    transaction.on_commit(lambda: access.take_away(theirs), robust=True)
    return bool(theirs)
