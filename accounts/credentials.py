"""One function that says who calls, for Django REST framework, the socket and the plain ASGI endpoints alike."""

from collections.abc import Iterable, Mapping
from importlib import import_module
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.contrib.auth.models import AbstractBaseUser
from django.http import parse_cookie
from django.utils.crypto import constant_time_compare

from accounts import api_keys, tokens
from accounts.principals import SCOPES, Kind, Principal

READ_SCOPES = frozenset(scope for scope in SCOPES if scope.endswith(":read"))


class Unauthenticated(Exception):
    """No credential, or none that is good. `expired`: it was good once, so a fresh one helps."""

    def __init__(self, message: str, *, expired: bool = False) -> None:
        super().__init__(message)
        self.expired = expired


def authenticate(
    headers: Mapping[str, str],
    query: Mapping[str, str] | None = None,
    subprotocols: Iterable[str] = (),
) -> Principal:
    """Who calls, from lower-case headers, query parameters and WebSocket subprotocols.

    The first credential found counts: `Authorization: Bearer`, a `bearer.<token>` subprotocol, `?authorization=`
    (as far as QUERY_CREDENTIALS allows), the Django session with an allowed Origin. May read the database.
    Raises Unauthenticated; the reason is for people, never for guessing.
    """
    if text := _bearer(headers, query or {}, subprotocols):
        return from_bearer(text)
    return _from_session(headers)


def from_bearer(text: str) -> Principal:
    """The holder of an API key or token. Raises Unauthenticated."""
    if text.startswith(api_keys.PREFIX):
        if principal := api_keys.find(text):
            return principal
        raise Unauthenticated("This API key is unknown, expired or revoked.")
    try:
        return tokens.verify(text)
    except tokens.ExpiredToken as error:
        raise Unauthenticated("This token has expired: get a fresh one.", expired=True) from error
    except tokens.InvalidToken as error:
        raise Unauthenticated("This token is not valid here.") from error


def from_operator(user: AbstractBaseUser) -> Principal:
    """An operator: superusers may all, other staff may read."""
    scopes = SCOPES if getattr(user, "is_superuser", False) else READ_SCOPES
    return Principal(Kind.OPERATOR, user.get_username(), scopes=scopes)


def _bearer(headers: Mapping[str, str], query: Mapping[str, str], subprotocols: Iterable[str]) -> str | None:
    if "authorization" in headers:
        scheme, _, text = headers["authorization"].partition(" ")
        if scheme.lower() != "bearer" or not text.strip():
            raise Unauthenticated("Send the credential as 'Authorization: Bearer <key or token>'.")
        return text.strip()
    for protocol in subprotocols:
        if protocol.startswith("bearer."):
            return protocol.removeprefix("bearer.")
    if settings.QUERY_CREDENTIALS:
        return query.get("authorization") or None
    return None


def _from_session(headers: Mapping[str, str]) -> Principal:
    session_key = parse_cookie(headers.get("cookie", "")).get(settings.SESSION_COOKIE_NAME)
    if not session_key or not session_key.isprintable():
        raise Unauthenticated("Send a credential: 'Authorization: Bearer <key or token>'.")
    if not origin_allowed(headers):
        raise Unauthenticated("This Origin may not use the session: add it to ALLOWED_ORIGINS.")
    session = import_module(settings.SESSION_ENGINE).SessionStore(session_key)
    if session.get(BACKEND_SESSION_KEY) in settings.AUTHENTICATION_BACKENDS:
        users = get_user_model()._default_manager
        user = users.filter(pk=session.get(SESSION_KEY), is_active=True, is_staff=True).first()
        if user and constant_time_compare(session.get(HASH_SESSION_KEY, ""), user.get_session_auth_hash()):
            return from_operator(user)
    raise Unauthenticated("The session has ended: sign in again.")


def origin_allowed(headers: Mapping[str, str]) -> bool:
    """Whether the page that opens a socket with a cookie is ours: the same host, or one of ALLOWED_ORIGINS."""
    origin = headers.get("origin", "")
    if origin in settings.ALLOWED_ORIGINS:
        return True
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc == (headers.get("host") or None)
