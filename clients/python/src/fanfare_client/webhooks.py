"""Webhooks in the form of Standard Webhooks (standardwebhooks.com), as Fanfare signs what it sends."""

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from fanfare_client.errors import InvalidSignature

TOLERANCE = 300.0
_PREFIX = "whsec_"


def verify_webhook(
    headers: Mapping[str, str], body: bytes, secret: str | Sequence[str], *, tolerance: float = TOLERANCE
) -> Any:
    """What a webhook says, once it is sure who sent it, and that it was within `tolerance` seconds from now.

    `headers` in any case; `body`: its bytes, as they came; `secret`: `whsec_…`, or two while they are rotated. The same
    may come again: remember the header `webhook-id`. Raises InvalidSignature.
    """
    values = {name.lower(): value for name, value in headers.items()}
    id, timestamp = values.get("webhook-id", ""), values.get("webhook-timestamp", "")
    if not (id and id.isascii()) or not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        raise InvalidSignature("The headers webhook-id and webhook-timestamp are missing, or none.")
    if abs(time.time() - int(timestamp)) > tolerance:
        raise InvalidSignature("The webhook was signed too long ago, or the clocks do not agree.")
    signatures = values.get("webhook-signature", "").split(" ")
    secrets = [secret] if isinstance(secret, str) else secret
    right = [sign_webhook(one, id, int(timestamp), body).encode() for one in secrets]
    if not any(hmac.compare_digest(ours, theirs.encode(errors="replace")) for ours in right for theirs in signatures):
        raise InvalidSignature("No signature is by this secret.")
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidSignature(f"The body is no JSON: {error}") from error


def sign_webhook(secret: str, id: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature`, for tests of receivers. Raises ValueError for what is no secret."""
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True) if secret.startswith(_PREFIX) else secret
    except binascii.Error as error:
        raise ValueError("After whsec_, a secret is base64.") from error
    if not key:
        raise ValueError("The secret is empty.")
    key = key.encode() if isinstance(key, str) else key
    digest = hmac.digest(key, b"%s.%d.%s" % (id.encode(), timestamp, body), hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"
