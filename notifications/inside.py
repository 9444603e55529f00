"""Notifications from the code of the same Django project, without a request."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from accounts.principals import Kind, Principal
from accounts.requests import shaped
from notifications.drafts import draft
from notifications.log import Accepted, accept
from notifications.shapes import Notification

_HERE = Principal(Kind.SERVICE, "in-process", scopes=frozenset({"notifications:write"}))


def notify(
    to: str | Mapping[str, Any],
    type: str,
    data: Any = None,
    *,
    ttl: int | timedelta | None = None,
    send_at: datetime | None = None,
    key: str = "",
    store: bool = True,
    exclude_users: Iterable[str] = (),
) -> list[Accepted]:
    """Sends a notification to a user, or to what `to` of the API names -> the messages, one for each of its topics.

    It is stored in the caller's transaction: together with what else that stores, or not at all. It goes out after the
    commit. Raises ApiError, with the words of the API, before anything is stored.
    """
    fields = {
        "to": {"user": to} if isinstance(to, str) else dict(to),
        "type": type,
        "data": data,
        "ttl": int(ttl.total_seconds()) if isinstance(ttl, timedelta) else ttl,
        "send_at": send_at,
        "key": key,
        "store": store,
        "exclude_users": list(exclude_users),
    }
    (result,) = accept([draft(shaped(fields, Notification), _HERE)])
    return list(result.accepted)
