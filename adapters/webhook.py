"""Webhooks: events posted to a URL, signed in the form of Standard Webhooks; docs/webhooks.md says how to take them."""

import asyncio
import hashlib
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Annotated

import httpcore
import msgspec
from django.conf import settings
from django.utils import timezone
from uuid_utils.compat import uuid7

from accounts.signatures import PREFIX, sign
from adapters import guarded
from adapters.base import Adapter, Misconfigured, Outcome, Parcel, Target

REQUESTS_AT_ONCE = 16
BATCH_BYTES = 512 * 1024  # Many servers refuse more than a megabyte.
REPLY_MAX_BYTES = 4096
RESPONSE_CHARACTERS = 500
RETRY_AFTER_MAX = 3600.0
SECRET_CHARACTERS = 6  # What is shorter in a header hides nothing, and is found in every text.

TEMPORARY = {408, 425, 429}  # And all from 500.
ABOUT_CONTENT = {400, 413, 422}  # One event of a batch may be to blame.
HINTS = {
    401: "the receiver has another secret, or wants a header that `headers` in the options does not have",
    403: "the receiver has another secret, or wants a header that `headers` in the options does not have",
    404: "the address has a wrong path, or nobody is there any more",
    405: "nothing takes POST at this address",
    410: "nobody is there any more",
    413: "it takes no bodies of this size",
}
REDIRECT = "it redirects, which is not followed: the address has to be where that leads"
OURS = re.compile(
    "webhook-.*|content-.*|proxy-.*|host|connection|keep-alive|transfer-encoding|te|trailer|upgrade|expect"
    "|user-agent|accept-encoding"
)


class Options(msgspec.Struct, forbid_unknown_fields=True):
    """`batch`: up to so many events in one request, as an array; with 0 each has its own. `headers` go with each."""

    batch: Annotated[int, msgspec.Meta(ge=0, le=100)] = 0
    headers: Annotated[dict[str, str], msgspec.Meta(max_length=20)] = {}

    def __post_init__(self) -> None:
        for name, value in self.headers.items():
            if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", name) or OURS.fullmatch(name.lower()):
                raise ValueError(f"{name[:100]!r} is not a header that can be set")
            if not re.fullmatch(r"[!-~]([ -~]{0,1998}[!-~])?", value):
                raise ValueError(f"the value of {name} has to be 1 to 2000 printable ASCII characters")


class Webhook(Adapter):
    """Posts each event by itself, or several in an array; the status of the answer says what became of them.

    2xx: taken. 408, 425, 429, 5xx and no answer: later again. Any other: never again.
    """

    signs = True
    hidden = frozenset({"headers"})
    Options = Options

    @classmethod
    def validate(cls, address: str) -> None:
        guarded.validate(address)

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        if not target.secrets:
            raise Misconfigured("The destination has no secret: rotate it.")
        self._options = msgspec.convert(target.options, Options)
        address = guarded.parse(target.address)
        self._url = httpcore.URL(scheme=address.scheme, host=address.host, port=address.port, target=address.target)
        self._headers = {
            "host": address.authority,
            "user-agent": "fanfare",
            "accept-encoding": "identity",
            "content-type": "application/json",
            **self._options.headers,
        }
        self._connections = guarded.Connections(address)
        self._turns = asyncio.Semaphore(REQUESTS_AT_ONCE)

    async def publish(self, batch: Sequence[Parcel]) -> Sequence[Outcome]:
        return await self._publish(list(self._requests(batch)), _Run())

    async def check(self) -> str:
        """Posts an event `fanfare.check`: nothing less shows that path and secret are right."""
        body = msgspec.json.encode({"type": "fanfare.check", "timestamp": timezone.now(), "data": {}})
        [outcome] = await self.publish([Parcel(uuid7(), "fanfare.check", "", body)])
        if outcome.error:
            raise Misconfigured(f"{outcome.error}{outcome.response and f' (it says: {outcome.response})'}")
        return f"it answers {outcome.response}"

    async def close(self) -> None:
        await self._connections.close()

    def _requests(self, batch: Sequence[Parcel]) -> Iterator[list[Parcel]]:
        """What goes out together."""
        request: list[Parcel] = []
        size = 0
        for parcel in batch:
            if request and (len(request) >= self._options.batch or size + len(parcel.body) > BATCH_BYTES):
                yield request
                request, size = [], 0
            request.append(parcel)
            size += len(parcel.body)
        if request:
            yield request

    async def _publish(self, requests: Sequence[list[Parcel]], run: "_Run") -> list[Outcome]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._deliver(parcels, run)) for parcels in requests]
        return [outcome for task in tasks for outcome in task.result()]

    async def _deliver(self, parcels: list[Parcel], run: "_Run") -> list[Outcome]:
        async with self._turns:
            if run.over:
                return [replace(run.over, tried=False)] * len(parcels)
            started = time.monotonic()
            outcome, status = await self._attempt(parcels)
            if status is not None:
                run.answered_at = time.monotonic()
            if outcome.retry_after or run.answered_at < started:
                run.over = outcome
        if len(parcels) > 1 and status in ABOUT_CONTENT:
            return await self._publish([[parcel] for parcel in parcels], run)
        return [outcome] * len(parcels)

    async def _attempt(self, parcels: list[Parcel]) -> tuple[Outcome, int | None]:
        """One request -> what became of its parcels, and the status; 0 where there was none, None where time was up."""
        try:
            reply = await self._post(*_message(parcels, in_array=self._options.batch > 0))
        except TimeoutError:
            return Outcome(f"no answer within {settings.DELIVERY_TIMEOUT:g} s (DELIVERY_TIMEOUT)"), None
        except Misconfigured as error:
            return Outcome(str(error)), 0
        except httpcore.ConnectError as error:
            return Outcome(f"cannot connect: {error}"[:500]), 0
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
            return Outcome(f"the connection broke before an answer: {type(error).__name__} {error}"[:500]), 0
        return self._outcome(reply), reply.status

    async def _post(self, id: str, body: bytes) -> "_Reply":
        """Sends once. Once the status is known, a body that is late, cut or long changes nothing.

        Raises TimeoutError, Misconfigured and what httpcore raises.
        """
        reply = None
        try:
            async with (
                asyncio.timeout(settings.DELIVERY_TIMEOUT),  # In all, however slowly the other side goes on.
                self._connections.one() as connection,
                connection.stream("POST", self._url, headers=self._signed(id, body), content=body) as response,
            ):
                reply = _Reply(response.status, _retry_after(response.headers))
                async for chunk in response.aiter_stream():
                    reply.body += chunk
                    if len(reply.body) >= REPLY_MAX_BYTES:
                        break
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError):
            if reply is None:
                raise
        return reply

    def _signed(self, id: str, body: bytes) -> Sequence[tuple[str, str]]:
        """The headers. While secrets are rotated there are two signatures: the receiver may have either."""
        timestamp = int(time.time())
        return [
            *self._headers.items(),
            ("webhook-id", id),
            ("webhook-timestamp", str(timestamp)),
            ("webhook-signature", " ".join(sign(secret, id, timestamp, body) for secret in self.target.secrets)),
        ]

    def _outcome(self, reply: "_Reply") -> Outcome:
        status = reply.status
        response = f"{status} {self._readable(reply.body)}".strip()
        if 200 <= status < 300:
            return Outcome(response=response)
        hint = REDIRECT if 300 <= status < 400 else HINTS.get(status)
        error = f"HTTP status {status}" + (f": {hint}" if hint else "")
        if status in TEMPORARY or status >= 500:
            return Outcome(error, retry_after=reply.retry_after, response=response)
        return Outcome(error, permanent=True, blames_event=status in ABOUT_CONTENT, response=response)

    def _readable(self, body: bytes) -> str:
        """A reply as text to look at. It may repeat what it was sent: secrets are taken out."""
        text = body[:REPLY_MAX_BYTES].decode(errors="replace")
        for secret in self._secrets():
            text = text.replace(secret, "…")
        return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:RESPONSE_CHARACTERS]

    def _secrets(self) -> Iterator[str]:
        """Headers' values also without a scheme such as `Bearer`, secrets also without their prefix."""
        for value in self._options.headers.values():
            yield from (text for text in (value, *value.split()) if len(text) >= SECRET_CHARACTERS)
        for secret in self.target.secrets:
            yield from (secret, secret.removeprefix(PREFIX))


@dataclass(slots=True)
class _Run:
    """One batch. `over`: the side asks for time, or has answered to nothing for as long as a request may take.

    What it has not been sent by then waits as well, so that a dead side holds a batch up once, not for each request.
    """

    answered_at: float = 0.0
    over: Outcome | None = None


@dataclass(slots=True)
class _Reply:
    status: int
    retry_after: float
    body: bytes = b""


def _message(parcels: list[Parcel], *, in_array: bool) -> tuple[str, bytes]:
    """The id and the body of a request; the same parcels have the same."""
    if not in_array:
        return str(parcels[0].id), parcels[0].body
    ids = b"".join(parcel.id.bytes for parcel in parcels)
    events = [{"id": parcel.id, "event": msgspec.Raw(parcel.body)} for parcel in parcels]
    return f"batch_{hashlib.sha256(ids).hexdigest()[:32]}", msgspec.json.encode(events)


def _retry_after(headers: Sequence[tuple[bytes, bytes]]) -> float:
    """The seconds that the other side asks for, or the time until its date; 0 if it asks for nothing we understand."""
    text = next((value.decode("latin-1").strip() for name, value in headers if name.lower() == b"retry-after"), "")
    if re.fullmatch(r"[0-9]+", text):
        return RETRY_AFTER_MAX if len(text) > 6 else min(float(text), RETRY_AFTER_MAX)
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return 0.0
    aware = date if date.tzinfo else date.replace(tzinfo=UTC)
    return min(max((aware - datetime.now(UTC)).total_seconds(), 0.0), RETRY_AFTER_MAX)
