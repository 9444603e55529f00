"""A session's own queue at SQS: requests, signed as AWS Signature Version 4 has it, and their answers. No I/O."""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec

from fanfare_client.calls import Reply
from fanfare_client.conversation import Exchange, Failure
from fanfare_client.errors import FanfareError
from fanfare_client.session_shapes import QueueCredentials

REFUSED = "queue_refused"
_JSON = "application/x-amz-json-1.0"
_SECONDS = 10.0


class Received(msgspec.Struct, rename="pascal"):
    """What lies in the queue."""

    receipt_handle: str
    body: str


class _Messages(msgspec.Struct, rename="pascal"):
    messages: list[Received] = []


def receive(url: str, credentials: QueueCredentials, now: float, *, wait: int, visibility: int) -> Exchange:
    wanted = {"MaxNumberOfMessages": 10, "WaitTimeSeconds": wait, "VisibilityTimeout": visibility}
    return _request(url, credentials, now, "ReceiveMessage", wanted, wait + _SECONDS)


def delete(url: str, credentials: QueueCredentials, now: float, receipts: Sequence[str]) -> Exchange:
    """Ten at most."""
    entries = [{"Id": str(number), "ReceiptHandle": receipt} for number, receipt in enumerate(receipts)]
    return _request(url, credentials, now, "DeleteMessageBatch", {"Entries": entries}, _SECONDS)


def received(outcome: Reply | Failure) -> list[Received]:
    """Raises FanfareError; `code` is REFUSED where other credentials may help."""
    reply = answered(outcome)
    try:
        return msgspec.json.decode(reply.body, type=_Messages).messages
    except msgspec.MsgspecError as error:
        raise FanfareError(reply.status, "bad_reply", f"What answered for the queue is not SQS: {error}.") from error


def answered(outcome: Reply | Failure) -> Reply:
    """Raises FanfareError, as `received`."""
    if isinstance(outcome, Failure):
        raise FanfareError(0, "no_answer" if outcome.sent else "unreachable", outcome.text)
    if outcome.status != 200:
        said = outcome.body[:200].decode(errors="replace")
        raise FanfareError(outcome.status, REFUSED, f"SQS answers {outcome.status}: {said}")
    return outcome


def _request(
    url: str, credentials: QueueCredentials, now: float, action: str, wanted: Mapping[str, Any], seconds: float
) -> Exchange:
    parts = urlsplit(url)
    body = msgspec.json.encode({"QueueUrl": url, **wanted})
    moment = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    headers = {
        "content-type": _JSON,
        "host": parts.netloc,
        "x-amz-date": moment,
        "x-amz-security-token": credentials.session_token,
        "x-amz-target": f"AmazonSQS.{action}",
    }
    signed = {"authorization": _authorization(credentials, headers, body, moment), "accept-encoding": "identity"}
    return Exchange("POST", "/", headers | signed, body, seconds, f"{parts.scheme}://{parts.netloc}")


def _authorization(credentials: QueueCredentials, headers: Mapping[str, str], body: bytes, moment: str) -> str:
    """The headers are in the order of their names."""
    names = ";".join(headers)
    lines = [f"{name}:{value}" for name, value in headers.items()]
    request = "\n".join(["POST", "/", "", *lines, "", names, hashlib.sha256(body).hexdigest()])
    scope = f"{moment[:8]}/{credentials.region}/sqs/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{credentials.secret_access_key}".encode()
    for step in [*scope.split("/"), text]:
        key = hmac.digest(key, step.encode(), "sha256")
    who = f"Credential={credentials.access_key_id}/{scope}"
    return f"AWS4-HMAC-SHA256 {who}, SignedHeaders={names}, Signature={key.hex()}"
