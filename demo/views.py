"""The demo page: two users beside each other, each with a short credential of its own. Never in production."""

from typing import Literal, get_args

import msgspec
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_GET, require_POST

from accounts import tokens
from demo import board, writethrough

User = Literal["alice", "bob"]
USERS: tuple[User, ...] = get_args(User)
ROOM = "topic.demo-room"
TOKEN_SECONDS = 15 * 60


class TokenRequest(msgspec.Struct):
    user: User


@require_GET
@never_cache
@ensure_csrf_cookie
def page(request: HttpRequest) -> HttpResponse:
    """The page; its script asks for the tokens. `?only=alice`: with one of the two, the other is elsewhere."""
    shown = [user for user in USERS if request.GET.get("only", user) == user] or USERS
    origin = f"{request.scheme}://{request.get_host()}"
    names = {"users": USERS, "shown": shown, "room": ROOM, "board": board.NAME}
    return render(request, "demo.html", {**names, "origin": origin})


@require_POST
@never_cache
def token(request: HttpRequest) -> JsonResponse:
    """`{user}` -> `{token, expires_at}`: acts for that user, may watch and write to the other one and the room.

    Who comes first finds the board made.
    """
    try:
        user = msgspec.json.decode(request.body, type=TokenRequest).user
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        message = f'Send {{"user": …}} with one of: {", ".join(USERS)}.'
        return JsonResponse({"error": {"code": "malformed", "message": message}}, status=400)
    board.ensure()
    others = [other for other in USERS if other != user]
    row, text = tokens.issue(
        None,
        ttl=TOKEN_SECONDS,
        user=user,
        subscribe=[ROOM, f"topic.{writethrough.TOPIC}", *(f"watch.{other}" for other in others)],
        publish=[*(f"user.{other}" for other in others), ROOM],
    )
    return JsonResponse({"token": text, "expires_at": row.expires_at.isoformat(timespec="seconds")})
