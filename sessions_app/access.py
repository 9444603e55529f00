"""What a session's owner is given to reach its queue, and how sessions are shown."""

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec import UNSET

from sessions_app import shapes
from sessions_app.models import BrowserSession


@dataclass(frozen=True, slots=True)
class Access:
    """To a queue outside. It is shown once, and in no log."""

    credentials: shapes.Credentials
    key: shapes.Key


def give(session: BrowserSession) -> Access | None:
    """Fresh credentials and a fresh key for a session with a queue outside, which is made if it is not there."""
    return None


def take_away(sessions: Sequence[BrowserSession]) -> None:
    """Deletes the queues of sessions that end."""


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
