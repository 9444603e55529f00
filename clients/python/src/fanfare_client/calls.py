"""One call of the API: what to ask, how to read the answer, and whether it may be repeated. No I/O."""

import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from fanfare_client.errors import FanfareError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP response; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """`repeatable`: to do it twice is to do it once. `key`: the Idempotency-Key that makes it so. `wait`: seconds for
    which the server itself may wait before it answers. `read` raises msgspec.MsgspecError for what is no such answer.
    """

    method: str
    path: str
    read: Callable[[Reply], T]
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    key: str | None = None
    repeatable: bool = True
    wait: float = 0.0

    @property
    def target(self) -> str:
        return f"{self.path}?{urlencode(self.query)}" if self.query else self.path


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    items: list[T]
    next: str | None


class Following(Generic[T]):
    """The calls that read a list to its end, one page after the other."""

    def __init__(self, first: Call[Page[T]]) -> None:
        self.call: Call[Page[T]] | None = first
        self._cursors: set[str] = set()

    def read(self, page: Page[T]) -> list[T]:
        """The items of a page; `call` is then the next one, None at the end. Raises FanfareError."""
        assert self.call
        if page.next in self._cursors:
            raise FanfareError(200, "bad_reply", f"The pages of {self.call.path} go round in a circle.")
        if page.next is not None:
            self._cursors.add(page.next)
        self.call = replace(self.call, query={**self.call.query, "cursor": page.next}) if page.next else None
        return page.items


def get(path: str, read: Callable[[Reply], T], **query: Any) -> Call[T]:
    return Call("GET", path, read, query=parameters(query))


def post(path: str, read: Callable[[Reply], T], body: Mapping[str, Any], *, wait: float = 0.0) -> Call[T]:
    """A POST that may be repeated: what it does twice is what it does once."""
    return Call("POST", path, read, body=encoded(body), wait=wait)


def post_once(path: str, read: Callable[[Reply], T], body: Any, key: str | None) -> Call[T]:
    """A POST that an Idempotency-Key makes repeatable; one is made where none is given."""
    return Call("POST", path, read, body=encoded(body), key=key or uuid.uuid4().hex)


def post_unsafe(path: str, read: Callable[[Reply], T], body: Mapping[str, Any], *, wait: float = 0.0) -> Call[T]:
    """A POST of which a repetition does more: repeated only where it was not carried out for certain."""
    return Call("POST", path, read, body=encoded(body), repeatable=False, wait=wait)


def put(path: str, read: Callable[[Reply], T], body: Mapping[str, Any]) -> Call[T]:
    return Call("PUT", path, read, body=encoded(body))


def delete(path: str, read: Callable[[Reply], T], **query: Any) -> Call[T]:
    return Call("DELETE", path, read, query=parameters(query))


# --- What is asked --------------------------------------------------------------------------------


def path(*segments: str) -> str:
    """`/api/…`, each segment encoded. Raises ValueError for an empty one: it would name something else."""
    if not all(segments):
        raise ValueError("An id or name must not be empty.")
    # A dot or two is a name like any other, and not the folder or its parent.
    encoded = (re.sub(r"^\.\.?$", lambda dots: "%2E" * len(dots[0]), quote(one, safe="")) for one in segments)
    return "/api/" + "/".join(encoded)


def given(**fields: Any) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def parameters(query: Mapping[str, Any]) -> dict[str, str]:
    """Query parameters as the API wants them; those that are None or false are left out."""
    return {name: _text(value) for name, value in query.items() if value is not None and value is not False}


def _text(value: Any) -> str:
    if value is True:
        return "1"
    if isinstance(value, datetime):
        return moment(value)
    return value if isinstance(value, str) else ",".join(value) if isinstance(value, list | tuple) else str(value)


def encoded(body: Any) -> bytes:
    """JSON; times in RFC 3339. Raises TypeError for what is no JSON."""
    return msgspec.json.encode(body, enc_hook=_unknown)


def _unknown(value: Any) -> Any:
    raise TypeError(f"{type(value).__name__} is no JSON: {value!r}")


def moment(time: datetime) -> str:
    """RFC 3339. Raises ValueError for a time without a zone, which could mean several moments."""
    if time.tzinfo is None:
        raise ValueError("A time needs its zone: datetime.now(UTC), for example.")
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def seconds(duration: timedelta | int | None) -> int | None:
    return int(duration.total_seconds()) if isinstance(duration, timedelta) else duration


# --- How the answer is read -----------------------------------------------------------------------


def nothing(reply: Reply) -> None:
    """Of a 204 there is nothing to read."""


def one(shape: type[T]) -> Callable[[Reply], T]:
    """The body is one of these."""
    return lambda reply: msgspec.json.decode(reply.body, type=shape)


def inside(name: str, shape: type[T]) -> Callable[[Reply], T]:
    """One field of the body, which is one of these."""

    def read(reply: Reply) -> T:
        fields = msgspec.json.decode(reply.body, type=dict[str, msgspec.Raw])
        if name not in fields:
            raise msgspec.ValidationError(f"there is no `{name}`")
        return msgspec.json.decode(fields[name], type=shape)

    return read


def page(name: str, item: type[T]) -> Callable[[Reply], Page[T]]:
    """A page of these, and where the next one begins."""

    def read(reply: Reply) -> Page[T]:
        fields = msgspec.json.decode(reply.body, type=dict[str, msgspec.Raw])
        items = msgspec.json.decode(fields.get(name, msgspec.Raw(b"null")), type=list[item])  # type: ignore[valid-type]
        return Page(items, msgspec.json.decode(fields.get("next", msgspec.Raw(b"null")), type=str | None))

    return read


def snake_case(raw: Any) -> Any:
    """An object with camelCase names, with ours."""
    if not isinstance(raw, dict):
        raise msgspec.ValidationError("an object is wanted")
    return {re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower(): value for name, value in raw.items()}
