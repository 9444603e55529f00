"""How a call is carried out: attempts, pauses, fresh credentials, a deadline for all of it. No I/O.

`converse` is a generator that says what to do next and is sent what came of it. The shells in client.py and
async_client.py do the doing.
"""

import random
import time
import uuid
from collections.abc import Generator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import msgspec

from fanfare_client.calls import Call, Reply
from fanfare_client.errors import FanfareError

T = TypeVar("T")

BODY_MAX_BYTES = 32 * 1024 * 1024
_REFUSED_FOR_NOW = (429, 503)
_NO_WORD = (408, 502, 504)  # From something between: the server may have done it.


@dataclass(frozen=True, slots=True)
class Policy:
    """`timeout`: seconds for one attempt; `deadline`: for all of a call, with pauses; `attempts`: at most so many.

    Pauses are random, from 0 to `first_pause`, then to twice as long each time, up to `longest_pause`.
    """

    timeout: float = 10.0
    deadline: float = 30.0
    attempts: int = 10
    first_pause: float = 0.25
    longest_pause: float = 8.0

    def pause(self, failures: int) -> float:
        bound = self.first_pause * 2.0 ** min(failures, 20)
        return random.uniform(0, min(self.longest_pause, bound))  # noqa: S311 (no secret)


@dataclass(frozen=True, slots=True)
class GetToken:
    """Say what to authenticate with -> str. `stale` was refused as expired: another one, if there is one."""

    stale: str | None = None


@dataclass(frozen=True, slots=True)
class Exchange:
    """Send this, and read the answer to its end, within `seconds` -> Reply or Failure. `origin`: to another server
    than Fanfare."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes | None
    seconds: float
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """No answer. `sent`: the server may have got the request."""

    sent: bool
    text: str


@dataclass(frozen=True, slots=True)
class Wait:
    seconds: float


Step = GetToken | Exchange | Wait


def converse(call: Call[T], policy: Policy) -> Generator[Step, Any, T]:
    """The steps of a call -> what it returns. Raises FanfareError."""
    ends_at = time.monotonic() + policy.deadline + call.wait
    request_id = uuid.uuid4().hex
    token = yield GetToken()
    renewed = False
    failures = 0
    while True:
        left = ends_at - time.monotonic()
        seconds = min(policy.timeout + call.wait, max(left, 0.001))
        headers = _headers(call, token, request_id)
        outcome: Reply | Failure = yield Exchange(call.method, call.target, headers, call.body, seconds)
        if isinstance(outcome, Reply) and outcome.status < 300:
            return _read(call, outcome, request_id)
        error = _unanswered(outcome, request_id) if isinstance(outcome, Failure) else refusal(outcome, request_id)
        if error.code == "token_expired" and not renewed:
            fresh = yield GetToken(stale=token)
            if fresh == token:
                raise error
            token, renewed = fresh, True
            continue
        failures += 1
        pause = max(policy.pause(failures - 1), error.retry_after or 0.0)
        if failures >= policy.attempts or not _again(call, outcome, error) or time.monotonic() + pause >= ends_at:
            raise error
        yield Wait(pause)


def _again(call: Call[Any], outcome: Reply | Failure, error: FanfareError) -> bool:
    """Whether to repeat the call can do no harm, and may help."""
    if isinstance(outcome, Failure):
        return call.repeatable or not outcome.sent
    if outcome.status in _REFUSED_FOR_NOW:  # By something between, the server may have done it.
        return call.repeatable or error.code != "bad_reply"
    return call.repeatable and (outcome.status in _NO_WORD or error.code == "idempotency_in_progress")


def _headers(call: Call[Any], token: str, request_id: str) -> dict[str, str]:
    headers = {
        "authorization": f"Bearer {token}",
        "accept": "application/json",
        "accept-encoding": "identity",  # A small body cannot become a huge one.
        "user-agent": "fanfare-client",
        "x-request-id": request_id,
    }
    if call.body is not None:
        headers["content-type"] = "application/json"
    if call.key is not None:
        headers["idempotency-key"] = call.key
    return headers


def _read(call: Call[T], reply: Reply, request_id: str) -> T:
    try:
        return call.read(reply)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        message = f"The answer to {call.method} {call.path} is not what Fanfare says: {error}. Is the URL right?"
        raise FanfareError(reply.status, "bad_reply", message, request_id=request_id) from error


def _unanswered(failure: Failure, request_id: str) -> FanfareError:
    code = "no_answer" if failure.sent else "unreachable"
    return FanfareError(0, code, failure.text, request_id=request_id)


class _Problem(msgspec.Struct):
    code: str
    message: str
    fields: dict[str, str] = {}


class _Refusal(msgspec.Struct):
    error: _Problem


def refusal(reply: Reply, request_id: str = "") -> FanfareError:
    """What a reply that is not 2xx means."""
    request_id = reply.headers.get("x-request-id", request_id)[:64]
    pause = retry_after(reply.headers.get("retry-after", ""))
    if 300 <= reply.status < 400:
        to = reply.headers.get("location", "nowhere")[:200]
        message = f"The server redirects to {to}. Redirects are not followed: give the client the right URL."
        return FanfareError(reply.status, "bad_reply", message, request_id=request_id)
    try:
        problem = msgspec.json.decode(reply.body, type=_Refusal).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        message = "The answer is not Fanfare's: it comes from something before it, or the URL is another server's."
        return FanfareError(reply.status, "bad_reply", message, request_id=request_id, retry_after=pause)
    return FanfareError(
        reply.status,
        problem.code,
        problem.message,
        fields=problem.fields,
        request_id=request_id,
        retry_after=pause,
    )


def retry_after(text: str) -> float | None:
    """Seconds, of a header that has seconds or a date; None for anything else."""
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text).astimezone(UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None
