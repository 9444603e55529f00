"""Users, and the tokens that they and their browsers get."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from fanfare_client import calls
from fanfare_client.calls import Call, Page, Reply, given, path
from fanfare_client.shapes import ListeningToken, NewToken, Ticket, Token, User


def put(
    id: str, *, account: str | None = None, name: str | None = None, attributes: Mapping[str, Any] | None = None
) -> Call[User]:
    """Makes a user known, or changes what is given; another account moves the user."""
    return calls.put(path("users", id), calls.one(User), given(account=account, name=name, attributes=attributes))


def get(id: str) -> Call[User]:
    return calls.get(path("users", id), calls.one(User))


def erase(id: str) -> Call[None]:
    """Deletes all that is held of a user. 404 `unknown_user`: there was none."""
    return calls.delete(path("users", id), calls.nothing)


def listening_token(user: str | None = None) -> Call[ListeningToken]:
    """A token for a browser to listen with to the user's own topics, for 30 minutes. Services say for whom."""
    return calls.get(path("token"), _listening, user=user)


def create_token(
    *,
    user: str | None = None,
    account: str | None = None,
    topics: Sequence[str] | None = None,
    allow: Sequence[str] = ("subscribe",),
    ttl: int = 3600,
) -> Call[NewToken]:
    """With `topics` a token for these and nothing else; without, one with which its user acts."""
    body = given(user=user, account=account, topics=None if topics is None else list(topics))
    return calls.post_unsafe(path("tokens"), calls.one(NewToken), {**body, "allow": list(allow), "ttl": ttl})


def tokens(*, user: str | None = None, page_size: int | None = None) -> Call[Page[Token]]:
    """Those that are still good, newest first; `page_size`: how many are fetched at a time."""
    return calls.get(path("tokens"), calls.page("tokens", Token), user=user, limit=page_size)


def revoke_token(id: str) -> Call[None]:
    """Ends a token: requests at once, connections within a second."""
    return calls.delete(path("tokens", id), calls.nothing)


def ticket() -> Call[Ticket]:
    """What lets a browser connect, once, within 30 s."""
    return calls.post_unsafe(path("tickets"), calls.one(Ticket), {})


class _Listening(msgspec.Struct):
    endpoint: str
    token: str
    expiresAt: int


def _listening(reply: Reply) -> ListeningToken:
    raw = msgspec.json.decode(reply.body, type=_Listening)
    expires_at = datetime.fromtimestamp(raw.expiresAt, UTC)
    return ListeningToken(endpoint=raw.endpoint, token=raw.token, expires_at=expires_at)
