"""Reading what callers send: bodies into shapes, query parameters into values; what does not fit is a clear 400."""

import base64
import re
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

import msgspec
from rest_framework.request import Request

from accounts.errors import ApiError
from accounts.principals import Principal

T = TypeVar("T")

PAGE_DEFAULT, PAGE_MAX = 25, 100


def caller(request: Request) -> Principal:
    """Who sent the request; the permission classes have seen to it that somebody did."""
    return cast(Principal, request.user)


def shaped(value: Any, shape: type[T], at: str = "") -> T:
    """The decoded JSON as a msgspec shape. Raises ApiError 400 that names the field."""
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$")
        field = (at + path.rstrip("`")).lstrip(".")
        message = f"{field}: {what}." if field else f"{what}."
        raise ApiError(400, "malformed", message, fields={field: what} if field else None) from error


def integer(request: Request, name: str, default: int, *, least: int, most: int | None = None) -> int:
    """A whole number from the query; above `most` it is capped. Raises ApiError 400."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) < least:
        raise wrong(name, f"a whole number from {least}")
    return int(text) if most is None else min(int(text), most)


def page_limit(request: Request) -> int:
    return integer(request, "limit", PAGE_DEFAULT, least=1, most=PAGE_MAX)


def moment(request: Request, name: str) -> datetime | None:
    """A time from the query: RFC 3339 or epoch seconds. Raises ApiError 400."""
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,6})?", text):
            return datetime.fromtimestamp(float(text), tz=UTC)
        value = datetime.fromisoformat(text)
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        raise wrong(name, "a time as 2026-01-31T12:00:00Z or in epoch seconds") from None


def seal_cursor(*place: Any) -> str:
    """Where the next page begins, as an opaque text."""
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def cursor(request: Request, shape: type[T]) -> T | None:
    """Where this page begins. Raises ApiError 400 for a cursor that is not one of ours."""
    text = request.query_params.get("cursor")
    if text is None:
        return None
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4)), type=shape)
    except (ValueError, msgspec.DecodeError):
        raise wrong("cursor", "the `next` of an earlier page") from None


def wrong(name: str, wanted: str) -> ApiError:
    """The 400 for a parameter or field that is not what it has to be."""
    return ApiError(400, "malformed", f"{name}: {wanted}.", fields={name: wanted})
