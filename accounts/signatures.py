"""Signatures of calls from one server to another, in the form of Standard Webhooks (standardwebhooks.com)."""

import base64
import hashlib
import hmac
import time
from collections.abc import Iterable, Mapping

PREFIX = "whsec_"
TOLERANCE = 300  # Seconds, as the specification's own libraries have it.


def sign(secret: str, id: str, timestamp: int, body: bytes) -> str:
    """`v1,<base64>`, the HMAC-SHA256 of `id.timestamp.body`, for the header `webhook-signature`.

    The key is the text of the secret; of one that begins with `whsec_` it is what the rest means in base64. Raises
    ValueError where that is no base64, or nothing.
    """
    digest = hmac.digest(_key(secret), b"%s.%d.%s" % (id.encode(), timestamp, body), hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


def verify(secret: str, id: str, timestamp: str, body: bytes, signatures: str, *, tolerance: float = TOLERANCE) -> bool:
    """Whether one of the signatures, separated by spaces as in the header, is good and not older than `tolerance`.

    `timestamp` is the header's text. A call may be repeated within the tolerance: who minds remembers its id.
    """
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        return False
    if abs(time.time() - int(timestamp)) > tolerance:
        return False
    right = sign(secret, id, int(timestamp), body).encode()
    # As bytes: for texts beyond ASCII, compare_digest raises.
    return any(hmac.compare_digest(right, one.encode()) for one in signatures.split(" "))


def verify_request(
    secrets: Iterable[str], headers: Mapping[str, str], body: bytes, *, tolerance: float = TOLERANCE
) -> bool:
    """Whether a request is signed with one of the secrets: two, while they are rotated.

    `body`: its bytes, as they came. Names of headers may be in any case.
    """
    values = {name.lower(): value for name, value in headers.items()}
    id, timestamp, signatures = (values.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature"))
    return bool(id) and any(verify(one, id, timestamp, body, signatures, tolerance=tolerance) for one in secrets)


def _key(secret: str) -> bytes:
    if not secret.startswith(PREFIX):
        key = secret.encode()
    else:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    if not key:
        raise ValueError("the secret is empty")
    return key
