"""Pages of other origins: those that are allowed read every answer, refusals too; nobody sends cookies."""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
from pytest_django import Settings

from config.cors import cors
from realtime.asgi import Receive, Scope, Send
from tests.config.test_proxies import run
from tests.servers import Stack

pytestmark = pytest.mark.any_database

PAGE, STRANGER = "https://app.example.com", "https://evil.example"
ALLOW = "access-control-allow-origin"


async def unavailable(_scope: Scope, _receive: Receive, send: Send) -> None:
    headers = [(b"retry-after", b"1"), (b"vary", b"Cookie")]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": b"busy"})


def answer(path: str, origin: str | None, method: str = "GET", **headers: str) -> tuple[int, httpx.Headers]:
    """Status and headers of an application that is always too busy."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    raw += [(b"origin", origin.encode())] if origin is not None else []
    run(cors(unavailable), {"type": "http", "method": method, "path": path, "headers": raw}, receive, send)
    return sent[0]["status"], httpx.Headers(sent[0]["headers"])


@pytest.fixture(autouse=True)
def _allowed(settings: Settings) -> None:
    settings.ALLOWED_ORIGINS = [PAGE, "http://localhost:3000"]


def test_an_allowed_page_may_read_even_a_503() -> None:
    status, headers = answer("/api/notifications", PAGE)
    assert status == 503
    assert headers[ALLOW] == PAGE
    assert headers["access-control-expose-headers"] == "Retry-After, X-Request-Id, Idempotent-Replayed"
    assert headers.get_list("vary", split_commas=True) == ["Cookie", "Origin"]
    assert "access-control-allow-credentials" not in headers


@pytest.mark.parametrize(
    "origin",
    [
        None,
        STRANGER,
        "",
        "null",
        "*",
        f"{PAGE}.evil.example",
        f"{PAGE}:8443",
        f"{PAGE}/",
        PAGE.upper(),
        "http://localhost",
    ],
)
def test_others_may_not_and_caches_know_that_it_depends(origin: str | None) -> None:
    _, headers = answer("/api/notifications", origin)
    assert "Origin" in headers.get_list("vary", split_commas=True)
    assert not [name for name in headers if name.startswith("access-control-")]


@pytest.mark.parametrize("path", ["/admin/", "/metrics", "/accounts/login/x", "/demo/", "/apiary", "/"])
def test_only_the_api_is_shared(path: str) -> None:
    _, headers = answer(path, PAGE)
    assert not [name for name in headers if name.startswith("access-control-")]


def test_nobody_is_allowed_by_default(settings: Settings) -> None:
    settings.ALLOWED_ORIGINS = []
    assert ALLOW not in answer("/api/notifications", PAGE)[1]


def test_preflights_are_answered_before_anything_else() -> None:
    status, headers = answer("/api/notifications", PAGE, "OPTIONS", access_control_request_method="POST")
    assert status == 204
    assert headers[ALLOW] == PAGE
    assert {"GET", "POST", "PUT", "PATCH", "DELETE"} <= set(headers["access-control-allow-methods"].split(", "))
    names = {"Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "X-Request-Id"}
    assert set(headers["access-control-allow-headers"].split(", ")) == names
    assert headers["access-control-max-age"] == "600"
    assert headers["vary"] == "Origin"
    assert "access-control-allow-credentials" not in headers


def test_a_strangers_preflight_is_refused_and_another_options_passes() -> None:
    status, headers = answer("/api/notifications", STRANGER, "OPTIONS", access_control_request_method="POST")
    assert status == 403
    assert headers["vary"] == "Origin"
    assert not [name for name in headers if name.startswith("access-control-")]
    assert answer("/api/notifications", PAGE, "OPTIONS")[0] == 503


def test_sockets_and_lifespan_pass_untouched() -> None:
    got: list[Any] = []

    async def application(*parts: Any) -> None:
        got.extend(parts)

    async def nothing(*_message: Any) -> Any:
        raise AssertionError

    scope = {"type": "websocket", "path": "/api/x", "headers": []}
    run(cors(application), scope, nothing, nothing)
    assert got == [scope, nothing, nothing]


# --- On the running server ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    folder = TemporaryDirectory(prefix="s", dir=os.environ["FANFARE_TEST_FOLDER"])
    limits = {"RATE_SERVICE": "5/h", "BATCH_MAX_BYTES": "1000"}
    with folder as path, Stack(Path(path) / "cors", ALLOWED_ORIGINS=PAGE, **limits) as stack:
        stack.start_web()
        yield stack


def token(stack: Stack) -> str:
    code = "from accounts import tokens; print(tokens.issue(None, ttl=300, user='alice')[1])"
    return stack.python(code).strip()


def ask(stack: Stack, path: str, key: str | None = None, method: str = "GET", **more: Any) -> httpx.Response:
    headers = {"Origin": PAGE} | ({"Authorization": f"Bearer {key}"} if key else {})
    return httpx.request(method, f"{stack.web[0].url}{path}", headers=headers, timeout=10, **more)


@pytest.mark.parametrize("path", ["/api/notifications?user=alice", "/api/stream", "/api/poll"])
def test_a_page_can_read_why_it_is_refused(stack: Stack, path: str) -> None:
    for key in (None, "ff_guess_x"):
        reply = ask(stack, path, key)
        assert (reply.status_code, reply.headers[ALLOW]) == (401, PAGE)
        assert reply.json()["error"]["code"] == "unauthenticated"


def test_a_page_can_use_the_api_and_sees_when_it_is_too_fast(stack: Stack) -> None:
    replies = [ask(stack, "/api/notifications?user=alice", stack.api_key) for _ in range(6)]
    assert [reply.status_code for reply in replies] == [200] * 5 + [429]
    assert all(reply.headers[ALLOW] == PAGE for reply in replies)
    assert "X-Request-Id" in replies[0].headers
    assert replies[-1].headers["Retry-After"] == "720"


def test_a_body_that_is_too_large_and_a_route_that_is_not_there_can_be_read(stack: Stack) -> None:
    for status, reply in (
        (413, ask(stack, "/api/notifications", stack.api_key, "POST", content=b" " * 1001)),
        (404, ask(stack, "/api/nothing")),
        (405, ask(stack, "/api/stream", token(stack), "POST")),
    ):
        assert (reply.status_code, reply.headers[ALLOW]) == (status, PAGE)


def test_a_page_can_poll_and_listen_to_a_stream(stack: Stack) -> None:
    credential = token(stack)
    reply = ask(stack, "/api/poll?wait=0", credential)
    assert (reply.status_code, reply.headers[ALLOW]) == (200, PAGE)
    headers = {"Origin": PAGE, "Authorization": f"Bearer {credential}"}
    with httpx.stream("GET", f"{stack.web[0].url}/api/stream", headers=headers, timeout=10) as stream:
        assert (stream.status_code, stream.headers[ALLOW]) == (200, PAGE)
        assert "welcome" in next(stream.iter_lines())


def test_a_preflight_needs_no_credential_and_a_login_page_is_not_shared(stack: Stack) -> None:
    url = stack.web[0].url
    preflight = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    for path in ("/api/notifications", "/api/stream", "/api/poll"):
        assert httpx.options(f"{url}{path}", headers=preflight).status_code == 204
    assert httpx.options(f"{url}/api/poll", headers=preflight | {"Origin": STRANGER}).status_code == 403
    assert ALLOW not in httpx.get(f"{url}/admin/login/", headers={"Origin": PAGE}).headers
