"""One function that says who calls, for Django REST framework, the socket and the plain ASGI endpoints alike."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import import_module
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.contrib.auth.models import AbstractBaseUser
from django.db import transaction
from django.http import parse_cookie
from django.utils.crypto import constant_time_compare

from accounts import api_keys, audit, issuers, revocations, tickets, tokens, users
from accounts.errors import ApiError
from accounts.principals import SCOPES, Kind, Principal
from accounts.revocations import Reason

logger = logging.getLogger(__name__)

LEEWAY = timedelta(minutes=1)  # More than any clock's that a token is checked by.
READ_SCOPES = frozenset(scope for scope in SCOPES if scope.endswith(":read"))


class Unauthenticated(ApiError):
    """No credential, or none that is good. `expired`: it was good once, so a fresh one helps."""

    def __init__(self, message: str, *, expired: bool = False) -> None:
        super().__init__(401, "token_expired" if expired else "unauthenticated", message)
        self.expired = expired


def authenticate(
    headers: Mapping[str, str],
    query: Mapping[str, str] | None = None,
    subprotocols: Iterable[str] = (),
) -> Principal:
    """Who calls, from lower-case headers, query parameters and WebSocket subprotocols.

    The first credential found counts: `Authorization: Bearer`, a `bearer.<token>` subprotocol, `?ticket=`,
    `?authorization=` (as far as QUERY_CREDENTIALS allows), the Django session on a page of ours. Reads the database;
    call it off the event loop. Raises Unauthenticated, whose text is for people, never for guessing.
    """
    query = query or {}
    if text := _bearer(headers, subprotocols):
        return from_bearer(text)
    if ticket := query.get("ticket"):
        return _from_ticket(ticket)
    if settings.QUERY_CREDENTIALS and (text := query.get("authorization")):
        return from_bearer(text)
    return _from_session(headers)


def from_bearer(text: str) -> Principal:
    """The holder of an API key, JWT or token. Raises Unauthenticated."""
    if text.startswith(api_keys.PREFIX):
        if principal := api_keys.find(text):
            return still_good(principal)
        raise Unauthenticated("This API key is unknown, expired or revoked.")
    try:
        ours = issuers.issuer_of(text) == tokens.ISSUER
        principal = tokens.verify(text) if ours else issuers.verify(text)
    except tokens.ExpiredToken as error:
        raise Unauthenticated("This token has expired: get a fresh one.", expired=True) from error
    except tokens.InvalidToken as error:
        logger.info("A token was refused: %s", error)
        raise Unauthenticated("This token is not valid here.") from error
    return still_good(principal)


def from_bare(headers: Mapping[str, str], query: Mapping[str, str]) -> Principal:
    """Who calls as Momento's clients do: the credential alone in `Authorization`, or in `?token=`.

    `Bearer` before it may be there. `?token=` as far as QUERY_CREDENTIALS allows. Raises ApiError 400 for both at
    once, Unauthenticated.
    """
    header, token = headers.get("authorization"), query.get("token")
    if header is not None and token is not None:
        raise ApiError(400, "malformed", "Send the credential in the Authorization header or as token=, not in both.")
    scheme, _, rest = (header or "").strip().partition(" ")
    text = (rest if scheme.lower() == "bearer" else header or "").strip()
    if header is None and settings.QUERY_CREDENTIALS:
        text = token or ""
    if not text:
        raise Unauthenticated("Send a credential: 'Authorization: <key or token>'.")
    return from_bearer(text)


def from_operator(user: AbstractBaseUser, session: str) -> Principal:
    """An operator: superusers may all, other staff may read."""
    scopes = SCOPES if getattr(user, "is_superuser", False) else READ_SCOPES
    name = user.get_username()
    return Principal(Kind.OPERATOR, name, scopes=scopes, credential=f"operator:{name}", session=session)


def still_signed_in(session_key: str) -> AbstractBaseUser | None:
    """The operator whose session this is, as long as it lasts, and as they may be one."""
    session = import_module(settings.SESSION_ENGINE).SessionStore(session_key)
    if session.get(BACKEND_SESSION_KEY) not in settings.AUTHENTICATION_BACKENDS:
        return None
    users_found = get_user_model()._default_manager
    user = users_found.filter(pk=session.get(SESSION_KEY), is_active=True, is_staff=True).first()
    if user and constant_time_compare(session.get(HASH_SESSION_KEY, ""), user.get_session_auth_hash()):
        return user
    return None


def is_settled(principal: Principal) -> bool:
    """Whether nothing has happened to a credential since it was authenticated, as far as this process knows.

    Asks nobody: for the event loop, once it watches over the connection.
    """
    if principal.user is not None and not users.is_settled(principal.user, principal.account):
        return False
    return revocations.known(principal) is None


def log_out(principal: Principal) -> None:
    """Ends the credential that the caller came with: for requests at once, for connections within a second.

    Raises ApiError 403 for one that others rely on.
    """
    if principal.is_backend:
        raise ApiError(403, "denied", "Only users and tokens log out: keys are revoked, operators sign out.")
    expires_at = None
    if principal.expires_at is not None:
        expires_at = datetime.fromtimestamp(principal.expires_at, tz=UTC) + LEEWAY
    with transaction.atomic():
        revocations.revoke(principal.credential, Reason.LOGGED_OUT, expires_at=expires_at)
        audit.record(principal, "logged_out", principal.credential)


def still_good(principal: Principal) -> Principal:
    """The caller, with the account that they are in. Raises Unauthenticated for one that was revoked."""
    if ended := revocations.find(principal):
        logger.info("%s was refused: %s", principal, ended.reason)
        raise Unauthenticated("This credential has been revoked.")
    if principal.user is None:
        return principal
    try:
        return replace(principal, account=users.see(principal.user, principal.account, principal.issued_at))
    except users.StaleAccount as error:
        raise Unauthenticated("The user is in another account now: get a fresh token.", expired=True) from error


def _bearer(headers: Mapping[str, str], subprotocols: Iterable[str]) -> str | None:
    if "authorization" in headers:
        scheme, _, text = headers["authorization"].partition(" ")
        if scheme.lower() != "bearer" or not text.strip():
            raise Unauthenticated("Send the credential as 'Authorization: Bearer <key or token>'.")
        return text.strip()
    for protocol in subprotocols:
        if protocol.startswith("bearer."):
            return protocol.removeprefix("bearer.")
    return None


def _from_ticket(text: str) -> Principal:
    principal = tickets.redeem(text)
    if principal and (principal.kind is not Kind.OPERATOR or still_signed_in(principal.session)):
        return still_good(principal)
    raise Unauthenticated("This ticket is unknown, used or older than 30 s: get a fresh one.", expired=True)


def _from_session(headers: Mapping[str, str]) -> Principal:
    session_key = parse_cookie(headers.get("cookie", "")).get(settings.SESSION_COOKIE_NAME)
    if not session_key or not session_key.isprintable():
        raise Unauthenticated("Send a credential: 'Authorization: Bearer <key or token>'.")
    if not origin_allowed(headers):
        raise Unauthenticated("This Origin may not use the session: add it to ALLOWED_ORIGINS.")
    if user := still_signed_in(session_key):
        return from_operator(user, session_key)
    raise Unauthenticated("The session has ended: sign in again.")


def origin_allowed(headers: Mapping[str, str]) -> bool:
    """Whether the page that sends a cookie is ours: the same host, or one of ALLOWED_ORIGINS.

    Browsers send no Origin with a GET of the same origin; they say so by `Sec-Fetch-Site`, which no page can set.
    """
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site") == "same-origin"
    if origin in settings.ALLOWED_ORIGINS:
        return True
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc == (headers.get("host") or None)
