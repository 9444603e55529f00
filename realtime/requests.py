"""What endpoints in plain ASGI share: who asks and for what, whether they are still there, and the database."""

import logging
from asyncio import timeout
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from accounts.credentials import Unauthenticated, authenticate
from accounts.errors import ApiError
from accounts.principals import Principal
from accounts.throttles import throttle, throttle_address
from realtime.admission import address_of, headers_of
from realtime.asgi import Receive, Scope
from realtime.database import in_database
from realtime.strict_json import RefusedJSON, loads

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

BODY_MAX_BYTES = 16 * 1024
BODY_SECONDS = 10.0


class Left(Exception):
    """The client is not there any more."""


def authenticated(scope: Scope) -> Principal:
    """For threads. Raises Unauthenticated, or ApiError 429 for who asks too often."""
    try:
        principal = authenticate(headers_of(scope))
    except Unauthenticated:
        throttle_address(address_of(scope))  # Who guesses is slowed down.
        raise
    throttle(principal)
    return principal


async def json_body(scope: Scope, receive: Receive) -> Any:
    """The JSON of a POST; `{}` where there is none. Raises ApiError 400, 405, 413 and 415, and Left."""
    if scope["method"] != "POST":
        raise ApiError(405, "method_not_allowed", "This is for POST.")
    body = await _body(scope, receive)
    if not body:
        return {}
    if headers_of(scope).get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "unsupported_media_type", "Send JSON, as application/json.")
    try:
        return loads(body)
    except RefusedJSON as error:
        raise ApiError(400, "malformed_json", f"The body is not JSON that is taken here: {error}.") from error


async def until_gone(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def from_database(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs a function that uses the ORM. Raises ApiError 503 for whatever the database raises."""
    try:
        return await in_database(function, *args, **kwargs)
    except ApiError:
        raise
    except Exception as error:
        logger.warning("The database failed: %r", error)
        raise ApiError(503, "unavailable", "The database does not answer: try again.", retry_after=2) from error


async def _body(scope: Scope, receive: Receive) -> bytes:
    announced = headers_of(scope).get("content-length", "0")
    if not (announced.isascii() and announced.isdigit()) or int(announced) > BODY_MAX_BYTES:
        raise _too_large()
    body, more = b"", True
    try:
        async with timeout(BODY_SECONDS):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Left
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > BODY_MAX_BYTES:
                    raise _too_large()
    except TimeoutError:
        raise ApiError(400, "malformed", f"The body did not come within {BODY_SECONDS:.0f} s.") from None
    return body


def _too_large() -> ApiError:
    return ApiError(413, "too_large", f"The body has at most {BODY_MAX_BYTES} bytes here.")
