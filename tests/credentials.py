"""Credentials for tests, as applications make them."""

import time
from collections.abc import Iterable
from typing import Any

import jwt
from django.conf import settings


def mint(
    user: str, account: str | None = None, *, ttl: int, subscribe: Iterable[str] = (), publish: Iterable[str] = ()
) -> str:
    """A token that an application has signed with our key."""
    claims: dict[str, Any] = {"iss": "fanfare", "sub": user, "iat": time.time(), "exp": int(time.time()) + ttl}
    named = {"account": account, "subscribe": list(subscribe), "publish": list(publish)}
    claims |= {claim: value for claim, value in named.items() if value}
    return jwt.encode(claims, settings.TOKEN_SIGNING_KEY, algorithm="HS256")
