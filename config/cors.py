"""Which pages of other origins may use the API (CORS): those of ALLOWED_ORIGINS, with tokens, never with cookies."""

from typing import Any

import msgspec
from django.conf import settings

from realtime.asgi import Application, Receive, Scope, Send

Headers = list[tuple[bytes, bytes]]

API = ("/api/", "/cache/", "/topics/")

VARY = (b"vary", b"Origin")
EXPOSED = (b"access-control-expose-headers", b"Retry-After, X-Request-Id, Idempotent-Replayed")
REFUSAL: Headers = [(b"content-type", b"application/json"), (b"x-content-type-options", b"nosniff")]
PREFLIGHT: Headers = [
    (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE"),
    (b"access-control-allow-headers", b"Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-Request-Id"),
    (b"access-control-max-age", b"600"),
]


def cors(application: Application) -> Application:
    """The application, but its replies under API, refusals too, tell browsers which pages may read them."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(API):
            await application(scope, receive, send)
            return
        allowed = _allowed(scope)
        if _is_preflight(scope):
            await _answer_preflight(send, allowed)
            return

        async def telling(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                more = [VARY, *allowed, *([EXPOSED] if allowed else [])]
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            await send(message)

        await application(scope, receive, telling)

    return guarded


def _allowed(scope: Scope) -> Headers:
    origin = dict(scope["headers"]).get(b"origin", b"")
    is_ours = origin.decode("latin-1") in settings.ALLOWED_ORIGINS
    return [(b"access-control-allow-origin", origin)] if is_ours else []


def _is_preflight(scope: Scope) -> bool:
    if scope["method"] != "OPTIONS":
        return False
    headers = dict(scope["headers"])
    return bool(headers.get(b"origin")) and b"access-control-request-method" in headers


async def _answer_preflight(send: Send, allowed: Headers) -> None:
    status, headers, body = 204, [VARY, *allowed, *PREFLIGHT], b""
    if not allowed:  # Browsers show this to developers only.
        text = "Pages of this origin may not use the API: add it to ALLOWED_ORIGINS."
        body = msgspec.json.encode({"error": {"code": "denied", "message": text}})
        length = str(len(body)).encode()
        status, headers = 403, [VARY, *REFUSAL, (b"content-length", length)]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
