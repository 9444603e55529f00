"""Browser sessions: a queue for each browser of a user."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec

from fanfare_client import calls
from fanfare_client.calls import Call, Page, Reply, given, path, seconds, snake_case
from fanfare_client.session_shapes import Session, SessionMessage


def create(
    user: str | None = None,
    account: str | None = None,
    *,
    session: str | None = None,
    transport: str = "poll",
    retention: timedelta | int | None = None,
) -> Call[Session]:
    """A session, or the same user's of this id, renewed. Services say whose it is. `transport`: poll or sqs.

    `retention`: for how long a message waits, in seconds. An id that is another user's is refused with 409.
    """
    whose = given(user=user, account=account, session=session, retention=seconds(retention))
    return calls.post(path("sessions"), _session, {**whose, "transport": transport})


def get(id: str) -> Call[Session]:
    """A session, without what gives access to its queue."""
    return calls.get(path("sessions", id), _session)


def every(*, user: str | None = None, account: str | None = None, page_size: int | None = None) -> Call[Page[Session]]:
    """Sessions of a user, of an account, or all; `page_size`: how many are fetched at a time."""
    return calls.get(path("sessions"), _page, user=user, account=account, limit=page_size)


def renew(id: str) -> Call[Session]:
    """Lets it live on -> it, with fresh access to its queue."""
    return calls.post(path("sessions", id, "renew"), _session, {})


def end(id: str) -> Call[None]:
    """Ends it: what waits for it is gone."""
    return calls.delete(path("sessions", id), calls.nothing)


def receive(id: str, *, wait: float = 20, max: int = 10, visibility: int = 30) -> Call[list[SessionMessage]]:
    """What waits for a session that polls, lent for `visibility` seconds; `wait`: seconds to wait for some."""
    body = {"wait": int(wait), "max": max, "visibility": visibility}
    return calls.post(path("sessions", id, "receive"), _messages, body, wait=wait)


def acknowledge(id: str, receipts: Sequence[str]) -> Call[list[str]]:
    """What is done with -> the receipts that held."""
    read = calls.inside("acknowledged", list[str])
    return calls.post(path("sessions", id, "ack"), read, {"receipts": list(receipts)})


def _session(reply: Reply) -> Session:
    return _shaped(calls.inside("session", Any)(reply))


def _shaped(raw: Any) -> Session:
    fields = snake_case(raw)
    if fields.get("credentials") is not None:
        fields["credentials"] = snake_case(fields["credentials"])
    return msgspec.convert(fields, Session)


def _page(reply: Reply) -> Page[Session]:
    page = calls.page("sessions", Any)(reply)
    return Page([_shaped(one) for one in page.items], page.next)


def _messages(reply: Reply) -> list[SessionMessage]:
    return [msgspec.convert(snake_case(one), SessionMessage) for one in calls.inside("messages", list[Any])(reply)]
