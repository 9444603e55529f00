"""Short user tokens: HS256 JWTs signed with the server's own key."""

import time
from collections.abc import Iterable
from typing import Any

import jwt
from django.conf import settings

from accounts.principals import Kind, Principal

ALGORITHM = "HS256"
MAX_EXP = 253_402_300_799  # The last second of the year 9999.
MAX_BYTES = 8192  # What a header line can carry; a longer one is not read at all.


class InvalidToken(Exception):
    """The token is not ours, or not whole."""


class ExpiredToken(InvalidToken):
    """The token was good once: come back with a fresh one."""


def mint(
    user: str,
    account: str | None = None,
    *,
    ttl: int,
    subscribe: Iterable[str] = (),
    publish: Iterable[str] = (),
) -> str:
    """A token that lets `user` act for itself for `ttl` seconds, with capabilities beyond its own topics."""
    claims: dict[str, Any] = {"sub": user, "exp": int(time.time()) + ttl}
    if account is not None:
        claims["account"] = account
    if subscribe := list(subscribe):
        claims["subscribe"] = subscribe
    if publish := list(publish):
        claims["publish"] = publish
    return jwt.encode(claims, settings.TOKEN_SIGNING_KEY, algorithm=ALGORITHM)


def verify(token: str) -> Principal:
    """The user that the token names. Raises ExpiredToken or InvalidToken."""
    if len(token) > MAX_BYTES:
        raise InvalidToken("too long")
    try:
        claims = jwt.decode(
            token,
            settings.TOKEN_SIGNING_KEY,
            algorithms=[ALGORITHM],
            options={"require": ["sub", "exp"]},
        )
    except jwt.ExpiredSignatureError as error:
        raise ExpiredToken("expired") from error
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        raise InvalidToken(str(error)) from error
    account = claims.get("account")
    if not _is_id(claims["sub"]) or not (account is None or _is_id(account)):
        raise InvalidToken("sub and account are 1-200 bytes of printable text without comma")
    if int(claims["exp"]) > MAX_EXP:
        raise InvalidToken("exp is beyond any clock")
    return Principal(
        Kind.USER,
        claims["sub"],
        account=account,
        subscribe=_patterns(claims.get("subscribe", [])),
        publish=_patterns(claims.get("publish", [])),
        expires_at=float(claims["exp"]),
    )


def _is_id(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and "," not in value and 1 <= len(value.encode()) <= 200


def _patterns(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(pattern, str) for pattern in value):
        raise InvalidToken("subscribe and publish are lists of topics")
    return tuple(value)
