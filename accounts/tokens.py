"""Tokens of our own: HS256 JWTs, signed with TOKEN_SIGNING_KEY by us or by an application that shares it.

Those that we make have a row each, so that they can be listed, and revoked by their id.
"""

import hashlib
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import jwt
from django.conf import settings
from django.db import transaction
from django.utils import timezone
from uuid_utils.compat import uuid7

from accounts import audit, revocations
from accounts.models import Token
from accounts.principals import ID_WANTED, Kind, Principal, valid_id
from accounts.revocations import Reason

ALGORITHM = "HS256"
ISSUER = "fanfare"
MAX_BYTES = 8192  # What a header line can carry; a longer one is not read at all.
LAST_SECOND = 253_402_300_799  # Of the year 9999.


class InvalidToken(Exception):
    """The token is not ours, or not whole. The reason is for the log."""


class ExpiredToken(InvalidToken):
    """The token was good once: come back with a fresh one."""


def issue(
    creator: Principal | None,
    *,
    ttl: int,
    user: str | None = None,
    account: str | None = None,
    subscribe: Iterable[str] = (),
    publish: Iterable[str] = (),
    scoped: bool = False,
) -> tuple[Token, str]:
    """Makes a token for `ttl` seconds -> (its row, its text). The text is not stored.

    A scoped one gives its topics and nothing else; else it lets its user act for themselves, as a JWT does, and the
    topics come on top. A topic is an exact name or a prefix that ends in `*`.
    """
    now = time.time()
    row = Token(
        id=uuid7(),
        user=user or "",
        account=account or "",
        subscribe=list(subscribe),
        publish=list(publish),
        created_by=str(creator) if creator else audit.SYSTEM,
        expires_at=datetime.fromtimestamp(int(now) + ttl, tz=UTC),
    )
    row.save(force_insert=True)
    claims: dict[str, Any] = {"iss": ISSUER, "jti": str(row.id), "iat": now, "exp": int(now) + ttl}
    named = {"sub": user, "account": account, "subscribe": row.subscribe, "publish": row.publish, "scoped": scoped}
    claims |= {claim: value for claim, value in named.items() if value}
    return row, jwt.encode(claims, settings.TOKEN_SIGNING_KEY, algorithm=ALGORITHM)


def revoke(actor: Principal | None, token: Token) -> None:
    """Ends a token: for requests at once, for connections within a second."""
    with transaction.atomic():
        if Token.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=timezone.now()):
            revocations.revoke(f"token:{token.pk}", Reason.REVOKED, expires_at=token.expires_at)
            audit.record(actor, "token.revoked", f"token:{token.pk}")


def purge() -> None:
    """Forgets tokens that have expired."""
    Token.objects.filter(expires_at__lte=timezone.now()).delete()


def verify(token: str) -> Principal:
    """The holder of one of our tokens. Raises ExpiredToken or InvalidToken."""
    if len(token) > MAX_BYTES:
        raise InvalidToken("too long")
    try:
        claims = jwt.decode(
            token,
            settings.TOKEN_SIGNING_KEY,
            algorithms=[ALGORITHM],
            issuer=ISSUER,
            options={"require": ["iss", "exp"], "verify_iat": False},  # The clock of who signs it may be ahead.
        )
    except jwt.ExpiredSignatureError as error:
        raise ExpiredToken("expired") from error
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InvalidToken(str(error)) from error
    return _principal(claims, token)


def _principal(claims: dict[str, Any], token: str) -> Principal:
    user, account, scoped = claims.get("sub"), claims.get("account"), claims.get("scoped", False)
    subscribe, publish = claims.get("subscribe", []), claims.get("publish", [])
    token_id = claims.get("jti")
    if not all(value is None or valid_id(value) for value in (user, account, token_id)):
        raise InvalidToken(f"sub, account and jti are {ID_WANTED}")
    if user is None and scoped is not True:
        raise InvalidToken("sub is missing")
    if not (_are_texts(subscribe) and _are_texts(publish)):
        raise InvalidToken("subscribe and publish are lists of topics")
    expires_at, issued_at = claims["exp"], claims.get("iat", 0.0)
    if not all(type(moment) in (int, float) and 0 <= moment <= LAST_SECOND for moment in (expires_at, issued_at)):
        raise InvalidToken("exp and iat are epoch seconds")
    now = time.time()
    if expires_at > now + settings.CREDENTIAL_MAX_DAYS * 86_400:
        raise InvalidToken("it lives longer than CREDENTIAL_MAX_DAYS")
    credential = f"token:{token_id}" if token_id else credential_of(token)
    return Principal(
        Kind.TOKEN if scoped else Kind.USER,
        credential.partition(":")[2] if scoped else str(user),
        account=account,
        subscribe=tuple(subscribe),
        publish=tuple(publish),
        expires_at=float(expires_at),
        issued_at=float(min(issued_at, now)),  # A clock that is ahead must not save it from being revoked.
        credential=credential,
        holder=user if scoped else None,
    )


def credential_of(token: str) -> str:
    """The name of a JWT that has no id of ours, for revocations.

    The signature is left out: it can be written in other ways that are as good, and must not make another credential.
    """
    return f"jwt:{hashlib.sha256(token.rpartition('.')[0].encode()).hexdigest()[:32]}"


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
