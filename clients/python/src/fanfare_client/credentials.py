"""What a client authenticates with: a key, a token, or a function that gets a fresh token."""

import base64
import binascii
import os
import time
from urllib.parse import urlsplit

import msgspec

_EARLY_SECONDS = 30.0
_EARLY_SHARE = 0.2  # Of the life of a token that lives shorter.


def from_environment() -> tuple[str, str]:
    """FANFARE_URL and FANFARE_KEY. Raises ValueError where one is missing."""
    values = [os.environ.get(name, "") for name in ("FANFARE_URL", "FANFARE_KEY")]
    if not all(values):
        raise ValueError("Set FANFARE_URL (such as http://127.0.0.1:8000) and FANFARE_KEY (an API key, or a token).")
    return values[0], values[1]


def base_url(url: str) -> str:
    """Without a slash at its end. Raises ValueError for what is no http(s) URL."""
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ValueError("The URL of a server has no user or password in it: the key says who asks.")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{url!r} is not the URL of a server, such as https://fanfare.example.")
    return url.rstrip("/")


def usable(token: str) -> str:
    """The token. Raises ValueError for what no header can carry: it would be told in the error of who tries."""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("The key or token is empty, or has a space, a line break or another such character in it.")
    return token


def socket_url(url: str) -> str:
    """The WebSocket of a server."""
    return f"ws{url.removeprefix('http')}/ws/"


class _Claims(msgspec.Struct):
    exp: float
    iat: float | None = None


def fresh_until(token: str) -> float | None:
    """When to get another token, in epoch seconds: half a minute before this one ends, or after four fifths of a
    shorter life. None where it does not say: an API key, for example. Nothing is verified."""
    try:
        payload = token.split(".")[1]
        claims = msgspec.json.decode(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)), type=_Claims)
    except (IndexError, ValueError, binascii.Error, msgspec.MsgspecError, RecursionError):
        return None
    life = claims.exp - (time.time() if claims.iat is None else claims.iat)
    return claims.exp - min(_EARLY_SECONDS, max(life, 0.0) * _EARLY_SHARE)


def is_fresh(token: str) -> bool:
    until = fresh_until(token)
    return until is None or time.time() < until
