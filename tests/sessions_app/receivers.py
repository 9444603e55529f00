"""Sessions that poll, and what they are sent."""

import itertools
from collections.abc import Sequence
from typing import Any

import msgspec

from accounts.errors import ApiError
from notifications.log import Draft, accept
from sessions_app import sessions
from sessions_app.models import BrowserSession
from sessions_app.receiving import Handed, Receive, Settle, serve
from sessions_app.shapes import ReceivedMessage

_numbers = itertools.count()


def open_one(user: str = "alice", account: str = "acme", id: str | None = None, retention: int = 3600) -> str:
    session, _new = sessions.open_session(
        id or f"s{next(_numbers)}", user, account, BrowserSession.Transport.POLL, retention, "", ""
    )
    return session.pk


def send(*topics: str, data: Any = 1, **more: Any) -> list[str]:
    """One message for each of these -> their ids."""
    (result,) = accept([Draft(topics, msgspec.json.encode(data), **more)])
    assert not result.refused
    return [one.id for one in result.accepted]


def receive(session: str, most: int = 10, visibility: float = 30) -> list[ReceivedMessage]:
    (answer,) = serve([Receive(session, most, visibility)])
    assert isinstance(answer, Handed), answer
    return list(answer.messages)


def ids(messages: Sequence[ReceivedMessage]) -> list[str]:
    return [message.messageId for message in messages]


def received(session: str, most: int = 10, visibility: float = 30) -> list[str]:
    return ids(receive(session, most, visibility))


def settle(session: str, *receipts: str, done: bool = True) -> list[str]:
    (answer,) = serve([Settle(session, receipts, done)])
    assert isinstance(answer, list), answer
    return answer


def refusal(session: str) -> tuple[int, str]:
    (answer,) = serve([Receive(session, 10, 30)])
    assert isinstance(answer, ApiError)
    return answer.status, answer.code


def body(message: ReceivedMessage) -> dict[str, Any]:
    return dict(msgspec.json.decode(message.body))
