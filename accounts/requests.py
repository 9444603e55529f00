"""Reading what callers send: bodies into shapes, query parameters into values; what does not fit is a clear 400."""

import base64
import re
from datetime import UTC, datetime
from typing import Any, TypeVar, cast
from uuid import UUID

import msgspec
from django.db.models import Model, QuerySet
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.errors import ApiError
from accounts.idempotency import Claim
from accounts.principals import ID_WANTED, Principal, valid_id
from accounts.shapes import query

T = TypeVar("T")
Row = TypeVar("Row", bound=Model)

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


IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key", str, OpenApiParameter.HEADER, description="Repeats with it get the first reply, for 14 days."
)


def claimed(request: Request, route: str, *parts: str) -> Claim | None:
    """What the Idempotency-Key claims, if there is one; `parts` of the path count like the body.

    Raises ApiError 400.
    """
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    body = b"".join(part.encode() + b"\0" for part in parts) + request._request.body
    return Claim.of(caller(request), route, key, body)


def replied(body: Any, replayed: bool) -> Response:
    """The 202 for what was accepted now or, as its header then says, when it was first asked for."""
    return Response(body, status=202, headers={"Idempotent-Replayed": "true"} if replayed else None)


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
        place = msgspec.json.decode(base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4)), type=shape)
    except (ValueError, msgspec.DecodeError):
        place = None
    if place is None or any(isinstance(part, str) and "\0" in part for part in cast(tuple[Any, ...], place)):
        raise wrong("cursor", "the `next` of an earlier page")
    return place


PAGES = [
    query("cursor", "The `next` of the page before."),
    query("limit", f"{PAGE_DEFAULT} by default, {PAGE_MAX} at most.", int),
]


def newest_first(request: Request, found: QuerySet[Row], key: Any = UUID) -> tuple[list[Row], str | None]:
    """The page that is asked for, of rows whose ids grow with time -> (its rows, its `next`). Raises ApiError 400."""
    if place := cursor(request, tuple[key]):
        found = found.filter(pk__lt=place[0])
    limit = page_limit(request)
    rows = list(found.order_by("-pk")[: limit + 1])
    return rows[:limit], seal_cursor(rows[limit - 1].pk) if len(rows) > limit else None


def require_id(name: str, value: str) -> str:
    """Raises ApiError 400 for what cannot be a user's or account's id."""
    if not valid_id(value):
        raise wrong(name, ID_WANTED)
    return value


def on_behalf(principal: Principal, named: str | None, scope: str) -> str:
    """The user whose things a request is about: a backend with the scope names one, a user is one.

    Raises ApiError 400 and 403.
    """
    if principal.is_backend:
        principal.require_scope(scope)
        return require_id("user", named or "")
    user = principal.require_user()
    if named not in (None, user):
        raise ApiError(403, "denied", "A user has what is their own only.")
    return user


def wrong(name: str, wanted: str) -> ApiError:
    """The 400 for a parameter or field that is not what it has to be."""
    return ApiError(400, "malformed", f"{name}: {wanted}.", fields={name: wanted})
