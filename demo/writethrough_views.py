"""`/demo/writethrough/`: a table, and the cache and the topic that follow it."""

from typing import Annotated

import msgspec
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_GET, require_http_methods
from msgspec import Meta

from accounts.errors import ApiError
from demo import writethrough
from demo.models import Weather

Degrees = Annotated[int, Meta(ge=-90, le=60)]


class Row(msgspec.Struct):
    location: Annotated[str, Meta(min_length=1, max_length=60)]
    maxTemp: Degrees
    minTemp: Degrees
    rain: Annotated[int, Meta(ge=0, le=100)]
    ttl: Annotated[int, Meta(ge=1, le=86_400)] = 300


class Removal(msgspec.Struct):
    location: str


@require_GET
@never_cache
@ensure_csrf_cookie
def page(request: HttpRequest) -> HttpResponse:
    return render(request, "demo_writethrough.html", {"topic": f"topic.{writethrough.TOPIC}"})


@require_http_methods(["GET", "POST", "DELETE"])
@never_cache
def weather(request: HttpRequest) -> JsonResponse:
    """GET `?location=…`, several -> the table, and what the cache has of it and of these. POST and DELETE change it."""
    try:
        if request.method == "POST":
            _put(msgspec.json.decode(request.body, type=Row))
        elif request.method == "DELETE":
            writethrough.remove(_place(msgspec.json.decode(request.body, type=Removal).location))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _refusal(400, "malformed", f"{error}.")
    except writethrough.Full:
        return _refusal(422, "refused", f"The table has {writethrough.ROWS_MAX} rows at most: remove one first.")
    owed = writethrough.carry()
    rows = list(Weather.objects.order_by("location"))
    known = [*(row.location for row in rows), *request.GET.getlist("location")[: writethrough.ROWS_MAX]]
    shown = [
        {"location": row.location, "maxTemp": row.max_temp, "minTemp": row.min_temp, "rain": row.rain, "ttl": row.ttl}
        for row in rows
    ]
    return JsonResponse({"rows": shown, "cached": _cached(known), "owed": owed})


def _put(row: Row) -> None:
    location = _place(row.location)
    if row.maxTemp < row.minTemp:
        raise msgspec.ValidationError("The highest temperature is below the lowest")
    writethrough.put(location, row.maxTemp, row.minTemp, row.rain, row.ttl)


def _place(location: str) -> str:
    if not location.strip() or not location.isprintable():
        raise msgspec.ValidationError("location: printable text")
    return location.strip()


def _cached(locations: list[str]) -> list[dict[str, object]] | None:
    """None while the cache does not answer."""
    try:
        found = {location: writethrough.cached(location) for location in dict.fromkeys(locations)}
    except ApiError:
        return None
    return [{"location": location, **item} for location, item in found.items() if item]


def _refusal(status: int, code: str, message: str) -> JsonResponse:
    return JsonResponse({"error": {"code": code, "message": message}}, status=status)
