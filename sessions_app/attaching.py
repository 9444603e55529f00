"""A socket, stream or poll that says whose session it is (`?session=<id>`)."""

from accounts.principals import Principal
from sessions_app import sessions
from sessions_app.views import allowed


def attach(principal: Principal, id: str) -> str:
    """The topic of the caller's session, which is seen with this (REALTIME_SESSION). Raises ApiError 403 and 404."""
    session = allowed(principal, id, "sessions:read")
    sessions.see(session)
    return session.topic
