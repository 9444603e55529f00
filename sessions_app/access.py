"""What a session's owner is given to reach its queue, and how sessions are shown."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec
from django.conf import settings
from msgspec import UNSET

from accounts.errors import ApiError
from adapters import sealing
from adapters.aws import clients
from adapters.base import Misconfigured
from sessions_app import envelopes, queues, shapes
from sessions_app.models import BrowserSession
from sessions_app.topics import unknown

logger = logging.getLogger(__name__)

RETRY_AFTER = 2  # Seconds.

SQS = BrowserSession.Transport.SQS


@dataclass(frozen=True, slots=True)
class Access:
    """To a queue outside. It is shown once, and in no log."""

    credentials: shapes.Credentials
    key: shapes.Key


def check(transport: str) -> None:
    """Raises ApiError 422 where there can be no session of this transport."""
    if transport == SQS and not settings.SESSION_ROLE_ARN:
        raise ApiError(
            422,
            "provider_not_configured",
            "transport: sqs needs the setting SESSION_ROLE_ARN here; poll needs nothing.",
        )


def give(session: BrowserSession) -> Access | None:
    """Fresh credentials and a fresh key for a session with a queue outside, which is made if it is not there.

    Raises ApiError 503 while AWS does not give them: the session is there, and to ask again goes on. It blocks.
    """
    if session.transport != SQS:
        return None
    check(session.transport)
    with _aws_asked():
        session.queue_url = _queue(session)
        credentials = queues.credentials(session.queue_url)
    key = envelopes.new_key()
    found = BrowserSession.objects.filter(pk=session.pk, queue_name=session.queue_name)
    if not found.update(queue_url=session.queue_url, key=sealing.seal(msgspec.json.encode(key).decode())):
        raise unknown()
    return Access(credentials, key)


def key_of(session: BrowserSession) -> shapes.Key:
    """Raises Unsealable."""
    return msgspec.json.decode(sealing.unseal(session.key), type=shapes.Key)


def take_away(sessions: Sequence[BrowserSession]) -> None:
    """Deletes the queues of sessions that have ended. Those that AWS does not delete now, `forgotten` finds."""
    queues.delete([session.queue_url for session in sessions if session.queue_url])


def _queue(session: BrowserSession) -> str:
    """The URL of the session's queue. Its name is stored before there is one: what no session names is nobody's."""
    if session.queue_url and queues.keep(session.queue_url, session.retention):
        return session.queue_url
    if session.queue_url or not session.queue_name:  # A name that is gone cannot be taken again at once.
        name, before = queues.new_name(), session.queue_name
        row = BrowserSession.objects.filter(pk=session.pk)
        if not row.filter(queue_name=before).update(queue_name=name, queue_url=""):  # Two at once: both make the same.
            name = row.values_list("queue_name", flat=True).first() or ""
        if not name:
            raise unknown()
        session.queue_name = name
    return queues.make(session.queue_name, session.retention)


@contextmanager
def _aws_asked() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        from botocore.exceptions import BotoCoreError, ClientError

        if not isinstance(error, BotoCoreError | ClientError | Misconfigured):
            raise
        outcome = clients.failure(error, f"make {queues.prefix()}* and assume {settings.SESSION_ROLE_ARN}")
        logger.warning("A session gets no queue: %s. %s", outcome.error, outcome.response)
        raise ApiError(
            503, "unavailable", "The session's queue cannot be reached now: try again.", retry_after=RETRY_AFTER
        ) from None


def shown(session: BrowserSession, access: Access | None = None) -> shapes.Session:
    return shapes.Session(
        sessionId=session.pk,
        accountId=session.account or None,
        userId=session.user,
        transport="sqs" if session.transport == BrowserSession.Transport.SQS else "poll",
        topic=session.topic,
        retention=session.retention,
        created_at=session.created_at,
        last_seen_at=session.last_seen_at,
        expires_at=session.expires_at,
        address=session.address,
        agent=session.agent,
        sqsUrl=session.queue_url or UNSET,
        credentials=access.credentials if access else UNSET,
        key=access.key if access else UNSET,
    )
