"""What waits for one user, and what the user has done with it. The first argument is the user."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from fanfare_client import calls
from fanfare_client.calls import Call, Page, given, moment, path
from fanfare_client.shapes import Counts, InboxMessage, Receipted


def messages(
    user: str,
    *,
    unread: bool = False,
    archived: bool = False,
    types: Sequence[str] | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    page_size: int | None = None,
) -> Call[Page[InboxMessage]]:
    """Newest first; `unread`: only what is not read; `archived`: what is archived, instead of what is not.

    `page_size`: how many are fetched at a time.
    """
    return calls.get(
        path("inbox"),
        calls.page("messages", InboxMessage),
        user=user,
        unread=unread,
        archived=archived,
        type=types,
        start=start,
        end=end,
        limit=page_size,
    )


def counts(user: str) -> Call[Counts]:
    """How many messages wait."""
    return calls.get(path("inbox"), calls.one(Counts), user=user, limit=1)


def read(
    user: str, ids: Sequence[str] | None = None, *, as_of: datetime | None = None, all: bool = False
) -> Call[Receipted]:
    """Marks messages as read: exactly one of `ids`, `as_of` (those until then) and `all`."""
    return _receipt(user, "read", ids, as_of, all)


def seen(
    user: str, ids: Sequence[str] | None = None, *, as_of: datetime | None = None, all: bool = False
) -> Call[Receipted]:
    """Marks messages as seen, as `read` does."""
    return _receipt(user, "seen", ids, as_of, all)


def archive(
    user: str, ids: Sequence[str] | None = None, *, as_of: datetime | None = None, all: bool = False
) -> Call[Receipted]:
    """Puts messages away, as `read` does."""
    return _receipt(user, "archive", ids, as_of, all)


def unread(user: str, ids: Sequence[str]) -> Call[Receipted]:
    """Marks messages as not read."""
    return _receipt(user, "unread", ids, None, False)


def acknowledge(user: str, ids: Sequence[str]) -> Call[int]:
    """Says that the user was shown these -> how many of them are messages for this user."""
    body = {"user": user, "ids": list(ids)}
    return calls.post(path("inbox", "ack"), calls.inside("acknowledged", int), body)


def preferences(user: str) -> Call[dict[str, str]]:
    """Type of messages -> live, inbox or off."""
    return calls.get(path("users", user, "preferences"), calls.one(dict[str, str]))


def set_preferences(user: str, choices: Mapping[str, str]) -> Call[dict[str, str]]:
    """Replaces all that was chosen; nothing makes every type live again."""
    return calls.put(path("users", user, "preferences"), calls.one(dict[str, str]), choices)


def _receipt(
    user: str, deed: str, ids: Sequence[str] | None, as_of: datetime | None, everything: bool
) -> Call[Receipted]:
    which: dict[str, Any] = given(
        ids=None if ids is None else list(ids),
        as_of=moment(as_of) if as_of else None,
        all=True if everything else None,
    )
    return calls.post(path("inbox", deed), calls.one(Receipted), {"user": user, **which})
