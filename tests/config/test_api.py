"""What holds for every route: how it refuses, how it survives its own faults, and what its log lines never say."""

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from django.conf import LazySettings
from django.db import IntegrityError, InterfaceError, OperationalError, connection
from django.test import Client
from rest_framework import exceptions

from accounts import api_keys
from accounts.errors import ApiError
from config.api import exception_handler
from config.limits import bounded
from config.logging import redact
from notifications import history
from realtime.asgi import Scope
from tests.credentials import mint

PATIENCE = 60.0
CANARY = "c4n4ry0f7h3m1n3"


@pytest.fixture
def alice() -> Client:
    """Her requests end in a reply, whatever happens behind it."""
    token = mint("alice", ttl=60)
    return Client(raise_request_exception=False, headers={"authorization": f"Bearer {token}"})


def error_of(reply: Any) -> dict[str, Any]:
    assert reply.headers["Content-Type"] == "application/json"
    body = json.loads(reply.content)
    assert set(body) == {"error"}
    error = body["error"]
    assert isinstance(error, dict)
    assert set(error) <= {"code", "message", "fields"}
    return error


# --- Faults of our own ----------------------------------------------------------------------------


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], None]:
    """Makes the history fail."""

    def breaks(error: Exception) -> None:
        def fail(*_: Any, **__: Any) -> None:
            secret = CANARY  # noqa: F841 (a debug page would show it)
            raise error

        monkeypatch.setattr(history, "search", fail)

    return breaks


@pytest.mark.django_db
@pytest.mark.parametrize(
    "error", [KeyError(CANARY), RecursionError(CANARY), IntegrityError(CANARY), StopIteration(CANARY)]
)
def test_a_bug_is_a_500_that_says_nothing_of_itself(
    alice: Client, broken: Callable[[Exception], None], error: Exception
) -> None:
    broken(error)
    reply = alice.get("/api/notifications")
    assert reply.status_code == 500
    assert error_of(reply)["code"] == "internal_error"
    for leak in (CANARY, "Traceback", type(error).__name__, ".py", "history"):
        assert leak not in reply.content.decode()


@pytest.mark.django_db
def test_a_bug_leaves_its_traceback_in_the_log(
    alice: Client, broken: Callable[[Exception], None], logged: io.StringIO
) -> None:
    broken(KeyError("what went wrong"))
    alice.get("/api/notifications", headers={"X-Request-Id": "r-1"})
    (line,) = [line for line in lines(logged) if line["level"] == "error"]
    assert "Traceback" in line["exception"]
    assert "what went wrong" in line["exception"]
    assert line["request_id"] == "r-1"


@pytest.mark.django_db
@pytest.mark.parametrize("error", [OperationalError("connection refused"), InterfaceError("connection closed")])
def test_a_database_that_is_down_is_a_503_that_says_when_to_come_again(
    alice: Client, broken: Callable[[Exception], None], error: Exception
) -> None:
    broken(error)
    reply = alice.get("/api/notifications")
    assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")
    assert error_of(reply)["code"] == "database_unavailable"
    assert "connection" not in error_of(reply)["message"]


@pytest.mark.django_db
def test_a_database_that_is_down_is_a_503_while_authenticating_too() -> None:
    def refuse(*_: Any) -> None:
        raise OperationalError("connection refused")

    api_keys._cache.clear()
    _, key = api_keys.create("acme-backend")
    with connection.execute_wrapper(refuse):
        reply = Client(headers={"authorization": f"Bearer {key}"}).get("/api/notifications?user=alice")
    assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")


ASK = """
from django.conf import settings
settings.DATABASES["default"]["OPTIONS"].get("pool", {})["timeout"] = 0.5
import django; django.setup()
from django.test import Client
from tests.credentials import mint
settings.ALLOWED_HOSTS = ["testserver"]
client = Client(headers={"authorization": "Bearer " + mint("alice", ttl=60, publish=["*"])})
replies = [
    client.get("/api/notifications"),
    client.post("/api/notifications", {"to": {"user": "bob"}, "data": 1}, content_type="application/json"),
    client.get("/readyz"),
    client.get("/livez"),
]
for reply in replies:
    print(reply.status_code, reply.headers.get("Retry-After"), reply.content.decode())
"""


@pytest.mark.parametrize("address", ["postgres://nobody:canary@127.0.0.1:9/none", "sqlite:////nowhere/at/all.sqlite3"])
def test_without_its_database_the_product_still_answers(tmp_path: Path, address: str) -> None:
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "DATABASE_URL": address,
        "FANFARE_HOME": str(tmp_path),
    }
    command = [sys.executable, "-W", "ignore", "-c", ASK]
    root = Path(__file__).parents[2]
    asked = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert asked.returncode == 0, asked.stderr
    history, send, ready, live = (line.split(" ", 2) for line in asked.stdout.splitlines())
    for status, retry_after, body in (history, send):
        assert (status, retry_after) == ("503", "1")
        assert json.loads(body)["error"]["code"] == "database_unavailable"
    assert ready[0] == "503"
    assert "DATABASE_URL" in ready[2]
    assert live[0] == "200"
    assert "canary" not in asked.stdout + asked.stderr


# --- Refusals -------------------------------------------------------------------------------------


def test_a_refusal_becomes_the_apis_one_shape() -> None:
    reply = exception_handler(ApiError(409, "busy", "Wait.", fields={"a.b": "taken"}, retry_after=3), {})
    assert reply is not None
    assert (reply.status_code, reply.headers["Retry-After"]) == (409, "3")
    assert reply.data == {"error": {"code": "busy", "message": "Wait.", "fields": {"a.b": "taken"}}}


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (exceptions.NotAuthenticated(), 401, "unauthenticated"),
        (exceptions.PermissionDenied(), 403, "denied"),
        (exceptions.NotFound(), 404, "not_found"),
        (exceptions.MethodNotAllowed("PUT"), 405, "method_not_allowed"),
        (exceptions.NotAcceptable(), 406, "not_acceptable"),
        (exceptions.UnsupportedMediaType("a/b"), 415, "unsupported_media_type"),
        (exceptions.Throttled(wait=1.2), 429, "rate_limited"),
        (exceptions.ValidationError({"a": ["b"]}), 400, "malformed"),
    ],
)
def test_what_the_framework_refuses_has_that_shape_too(error: Exception, status: int, code: str) -> None:
    reply = exception_handler(error, {})
    assert reply is not None
    assert (reply.status_code, reply.data["error"]["code"]) == (status, code)
    assert reply.headers.get("Retry-After") == ("2" if status == 429 else None)


def test_what_is_no_refusal_is_left_to_be_a_500() -> None:
    assert exception_handler(KeyError("x"), {}) is None


@pytest.mark.django_db
def test_a_client_that_takes_no_json_is_a_406(alice: Client) -> None:
    assert alice.get("/api/notifications", headers={"accept": "text/html"}).status_code == 406
    assert alice.get("/api/notifications", headers={"accept": "*/*"}).status_code == 200


# --- Bodies are bounded before anything reads them ------------------------------------------------

MOST = 1000


async def put(headers: list[tuple[bytes, bytes]], *chunks: bytes) -> tuple[int, int]:
    """Sends a body in chunks to an application that reads it all -> (status, bytes that it got)."""
    read = 0

    async def application(_scope: Scope, receive: Any, send: Any) -> None:
        nonlocal read
        while (message := await receive())["type"] == "http.request":
            read += len(message["body"])
            if not message["more_body"]:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                return

    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages[-1]["more_body"] = False
    waiting, sent = iter(messages), []

    async def receive() -> Any:
        return next(waiting)

    async def send(message: Any) -> None:
        sent.append(message)

    await bounded(application, MOST)({"type": "http", "headers": headers}, receive, send)
    return sent[0]["status"], read


async def test_a_body_up_to_the_bound_comes_through() -> None:
    assert await put([(b"content-length", b"1000")], b"x" * 1000) == (200, 1000)
    assert await put([], b"x" * 500, b"x" * 500) == (200, 1000)


async def test_a_body_that_announces_more_is_refused_unread() -> None:
    assert await put([(b"content-length", b"1001")], b"x" * 1001) == (413, 0)
    assert await put([(b"content-length", b"9" * 40)], b"x") == (413, 0)


async def test_a_body_that_turns_out_to_be_more_is_refused_at_the_bound() -> None:
    assert await put([], b"x" * 600, b"x" * 600, b"x" * 600) == (413, 600)
    assert await put([(b"content-length", b"10")], b"x" * 600, b"x" * 600) == (413, 600)


# --- Request ids ----------------------------------------------------------------------------------


def test_every_reply_has_a_request_id_of_its_own() -> None:
    replies = [Client().get(path) for path in ("/livez", "/livez", "/api/nothing", "/nothing", "/api/notifications")]
    ids = {reply.headers["X-Request-Id"] for reply in replies}
    assert len(ids) == len(replies)
    assert all(len(each) == 32 for each in ids)


@pytest.mark.parametrize("given", ["r-1", "a.b_c-D", "x" * 64])
def test_a_sane_request_id_is_taken_over(given: str) -> None:
    assert Client().get("/livez", headers={"X-Request-Id": given}).headers["X-Request-Id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a\tb", "<script>", '"', "{}", "a=b"])
def test_any_other_is_replaced(given: str) -> None:
    reply = Client().get("/livez", headers={"X-Request-Id": given})
    assert reply.headers["X-Request-Id"] != given
    assert len(reply.headers["X-Request-Id"]) == 32


# --- Log lines ------------------------------------------------------------------------------------


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What the process writes to its log, in the format in which it writes it."""
    root = logging.getLogger()
    ours = next(h for h in root.handlers if isinstance(h.formatter, structlog.stdlib.ProcessorFormatter))
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(ours.formatter)
    level, root.level = root.level, logging.DEBUG
    root.addHandler(handler)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


def lines(logged: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in logged.getvalue().splitlines()]


def test_a_log_line_is_json_with_its_context(logged: io.StringIO) -> None:
    with structlog.contextvars.bound_contextvars(request_id="r-1"):
        logging.getLogger("a.room").warning("%s of %d\nfailed", "one", 7)
        structlog.get_logger("another.room").info("done", count=3)
    first, second = lines(logged)
    assert (
        first.items()
        >= {
            "message": "one of 7\nfailed",
            "level": "warning",
            "logger": "a.room",
            "request_id": "r-1",
        }.items()
    )
    assert second.items() >= {"message": "done", "level": "info", "count": 3, "request_id": "r-1"}.items()
    assert first["timestamp"].endswith("Z")


KEY = f"ff_{CANARY[:12]}_{CANARY}"
JWT = f"eyJ{CANARY}.eyJ{CANARY}.{CANARY}-_{CANARY}"
SAID = [
    f"GET /ws/?authorization={KEY}&topics=all",
    f"GET /ws/?topics=all&authorization={CANARY}",
    f"GET /ws/?ticket={CANARY}",
    f"GET /api/stream?access_token={CANARY} HTTP/1.1",
    f"wss://fanfare.example/ws/?token={JWT}",
    f"Sec-WebSocket-Protocol: fanfare.v1, bearer.{JWT}",
    f"subprotocols=['fanfare.v1', 'bearer.{CANARY}']",
    f"Authorization: Bearer {JWT}",
    f"authorization: bearer {CANARY}==",
    f"{{'authorization': 'Bearer {KEY}'}}",
    f"(b'authorization', b'Bearer {CANARY}')",
    f"key {KEY} is unknown",
    f"token {JWT} has expired",
    f'curl -H "Authorization: Bearer {KEY}"',
    f"AUTHORIZATION={CANARY}",
    f"/accounts/login/{CANARY}:1tZx3Q:{CANARY}",
]


@pytest.mark.parametrize("said", SAID, ids=range(len(SAID)))
def test_a_credential_is_cut_out_of_whatever_is_logged(said: str, logged: io.StringIO) -> None:
    assert CANARY not in redact(said)
    logger = logging.getLogger("a.room")
    logger.warning(said)
    logger.warning("%s", said)
    logger.warning("%r", [said])
    logger.warning("%(said)s", {"said": said})
    structlog.get_logger("another.room").warning("said", what=said)
    structlog.get_logger("another.room").warning("said", what={"deep": [said]})
    try:
        raise ValueError(said)
    except ValueError:
        logger.exception("failed")
        structlog.get_logger("another.room").exception("failed")
    assert len(lines(logged)) == 8
    assert CANARY not in logged.getvalue()


@pytest.mark.parametrize(
    "said", ["user.alice has 3 tokens", "the bearer of good news", "buffer_size=7", "off_by_one", "a topic= b"]
)
def test_what_is_no_credential_is_kept(said: str) -> None:
    assert redact(said) == said or ("[redacted]" in redact(said) and "bearer" in said)


@pytest.mark.django_db
def test_no_log_line_of_a_request_has_its_credential_or_its_payload(
    logged: io.StringIO, broken: Callable[[Exception], None], settings: LazySettings
) -> None:
    _, key = api_keys.create("acme-backend")
    token = mint(CANARY, ttl=60)
    payload = {"to": {"user": "alice"}, "data": {"text": f"payload {CANARY}"}, "type": CANARY, "key": CANARY}
    broken(KeyError("a bug"))
    for credential in (key, key[:-1], token, token[:-1], f"ff_{CANARY}", f"eyJ{CANARY}.{CANARY}.{CANARY}", CANARY):
        client = Client(raise_request_exception=False, headers={"authorization": f"Bearer {credential}"})
        client.post("/api/notifications", payload, content_type="application/json")
        client.post("/api/notifications", f'{{"a": {CANARY}', content_type="application/json")
        client.get(f"/api/notifications?user=alice&authorization={credential}")
        client.get(f"/api/nothing?token={credential}")
        client.get("/metrics", headers={"x-forwarded-for": "192.0.2.1"})
    text = logged.getvalue()
    assert "a bug" in text
    for secret in (CANARY, key, key.rpartition("_")[2], token, token.rpartition(".")[2], settings.TOKEN_SIGNING_KEY):
        assert secret not in text
