"""`/cache/{cache}` as Momento's clients call it."""

import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from django.conf import LazySettings
from django.test import Client

from accounts import api_keys, throttles, tokens
from adapters import caches
from tests.services import start_valkey

pytestmark = pytest.mark.django_db

BINARY = bytes(range(256))


@pytest.fixture
def name(settings: LazySettings) -> str:
    name = f"c{uuid.uuid4().hex}"
    settings.EVENTS_CACHES = {name: {}}
    return name


@pytest.fixture
def key() -> str:
    return api_keys.create("acme", ["cache:read", "cache:write"])[1]


def call(method: str, name: str, query: str, credential: str | None, body: bytes = b"", **headers: str) -> Any:
    if credential is not None:
        headers["authorization"] = credential
    type = headers.pop("content_type", "application/octet-stream")
    return Client().generic(method, f"/cache/{name}?{query}", body, type, headers=headers)


def put(name: str, query: str, credential: str, body: bytes, **headers: str) -> Any:
    return call("PUT", name, f"{query}&ttl_seconds=60", credential, body, **headers)


@pytest.mark.parametrize("query", ["key=a%20b", "key_base64=__79AA==", "key_base64=__79AA", f"key={quote('ü/ +')}"])
@pytest.mark.parametrize("type", ["application/octet-stream", "text/plain", "application/json", ""])
def test_bytes_come_back_as_they_were_sent(name: str, key: str, query: str, type: str) -> None:
    stored = put(name, query, key, BINARY, content_type=type)
    assert (stored.status_code, stored.content) == (204, b"")
    got = call("GET", name, query, key, accept="text/html")
    assert (got.status_code, got.content) == (200, BINARY)
    assert got["Content-Type"] == "application/octet-stream"
    assert got["X-Content-Type-Options"] == "nosniff"
    assert got["Cache-Control"] == "no-store"
    assert call("HEAD", name, query, key).content == b""
    assert call("DELETE", name, query, key).status_code == 204
    gone = call("GET", name, query, key)
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "unknown_key")
    assert call("DELETE", name, query, key).status_code == 204


def test_both_forms_of_a_key_are_the_same_key(name: str, key: str) -> None:
    put(name, "key=k", key, b"v")
    assert call("GET", name, "key_base64=aw", key).content == b"v"


@pytest.mark.parametrize(
    "query", ["", "key=", "key_base64=", "key=k&key_base64=aw", "key_base64=a", "key=%ff", f"key={'x' * 1025}"]
)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_exactly_one_form_of_the_key_is_given(name: str, key: str, query: str, method: str) -> None:
    reply = call(method, name, f"{query}&ttl_seconds=60", key)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "malformed")


@pytest.mark.parametrize("ttl", ["", "ttl_seconds=", "ttl_seconds=0", "ttl_seconds=-1", "ttl_seconds=1.5",
                                 "ttl_seconds=31536001", "ttl_seconds=999999999999999999999"])  # fmt: skip
def test_a_ttl_is_from_a_second_to_a_year(name: str, key: str, ttl: str) -> None:
    assert call("PUT", name, f"key=k&{ttl}", key, b"v").status_code == 400
    assert call("GET", name, "key=k", key).status_code == 404
    for good in ("1", "31536000"):
        assert call("PUT", name, f"key=k&ttl_seconds={good}", key, b"v").status_code == 204


def test_a_value_that_is_too_large_is_refused(name: str, key: str) -> None:
    assert put(name, "key=k", key, b"x" * caches.VALUE_MAX_BYTES).status_code == 204
    assert put(name, "key=k", key, b"x" * (caches.VALUE_MAX_BYTES + 1)).status_code == 413
    assert put(name, "key=k", key, b"x" * (9 * 1024 * 1024)).status_code == 413


def test_a_cache_that_is_not_named_is_not_there(name: str, key: str) -> None:
    for method in ("GET", "PUT", "DELETE"):
        reply = call(method, "default", "key=k&ttl_seconds=60", key)
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "unknown_cache")
    assert call("GET", f"{name}/more", "key=k", key).status_code == 404


def value(name: str, key: str) -> bytes:
    return bytes(call("GET", name, "key=k", key).content)


def test_events_of_a_rule_count_by_when_they_happened_and_each_once(name: str, key: str) -> None:
    first, second = "key=k&time=2026-01-31T12:00:00Z", "key=k&time=2026-01-31T12:00:01Z"
    assert put(name, second, key, b"second", idempotency_key="2").status_code == 204
    assert put(name, first, key, b"first", idempotency_key="1").status_code == 204
    assert call("DELETE", name, first, key, idempotency_key="0").status_code == 204
    assert value(name, key) == b"second"
    assert put(name, second, key, b"same second", idempotency_key="3").status_code == 204
    assert put(name, second, key, b"second", idempotency_key="2").status_code == 204
    assert value(name, key) == b"same second"
    assert put(name, second, key, b"without a key").status_code == 204
    assert put(name, second, key, b"another one").status_code == 204
    assert value(name, key) == b"another one"


@pytest.mark.parametrize("query", ["key=k&time=yesterday", "key=k&time="])
def test_a_time_that_is_none_is_refused(name: str, key: str, query: str) -> None:
    assert put(name, query, key, b"x").status_code == 400
    assert call("DELETE", name, query, key).status_code == 400


# --- Who may --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["{}", "Bearer {}", "bearer  {}", " {} "])
def test_the_credential_is_alone_or_after_bearer(name: str, key: str, form: str) -> None:
    assert call("GET", name, "key=k", form.format(key)).status_code == 404


def test_the_credential_may_be_in_the_query_but_not_in_both(name: str, key: str, settings: LazySettings) -> None:
    assert call("GET", name, f"key=k&token={key}", None).status_code == 404
    assert call("GET", name, f"key=k&token={key}", key).status_code == 400
    assert call("GET", name, "key=k&token=", key).status_code == 400
    settings.QUERY_CREDENTIALS = False
    assert call("GET", name, f"key=k&token={key}", None).status_code == 401


@pytest.mark.parametrize(
    "credential", [None, "", "Bearer", "Bearer ", "nonsense", "Basic abc", "ff_nonsense", "\u00fc"]
)
def test_without_a_good_credential_there_is_401(name: str, credential: str | None) -> None:
    reply = call("GET", name, "key=k", credential)
    assert reply.status_code == 401
    assert reply["WWW-Authenticate"] == "Bearer"


def test_reading_and_writing_have_a_scope_each_and_users_none(name: str) -> None:
    reads, writes = (api_keys.create("acme", [scope])[1] for scope in ("cache:read", "cache:write"))
    alice = tokens.issue(None, ttl=60, user="alice")[1]
    allowed = {
        ("GET", reads): 404, ("GET", writes): 403, ("GET", alice): 403,
        ("PUT", reads): 403, ("PUT", writes): 204, ("PUT", alice): 403,
        ("DELETE", reads): 403, ("DELETE", writes): 204, ("DELETE", alice): 403,
    }  # fmt: skip
    for (method, credential), status in allowed.items():
        assert call(method, name, "key=k&ttl_seconds=60", credential).status_code == status, method


def test_a_session_is_no_credential_here(name: str, admin_client: Client) -> None:
    assert admin_client.get(f"/cache/{name}?key=k").status_code == 401
    assert admin_client.put(f"/cache/{name}?key=k&ttl_seconds=9").status_code == 401


# --- Redis stopped --------------------------------------------------------------------------------


@pytest.fixture
def valkey(stack_folder: Path, settings: LazySettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(throttles, "_outage", throttles._Outage())
    process = start_valkey(stack_folder)
    settings.REDIS_URL = f"unix://{stack_folder / 'valkey.sock'}"
    yield process
    process.kill()
    process.wait(10)


def test_while_redis_does_not_answer_there_is_503(name: str, key: str, valkey: Any) -> None:
    os.kill(valkey.pid, signal.SIGSTOP)
    for method in ("GET", "PUT", "DELETE"):
        reply = call(method, name, "key=k&ttl_seconds=60", key)
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "unavailable")
        assert reply["Retry-After"] == "2"
