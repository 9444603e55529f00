"""Key sets: fetched seldom, kept over outages, and never for longer than a caller can wait."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from accounts import jwks
from tests.accounts.jwks_server import JwksServer, SigningKey, signing_key

pytestmark = pytest.mark.any_database

SECRET = b"a secret of 32 bytes, for the tests"


@pytest.fixture
def key() -> SigningKey:
    return signing_key("one")


@pytest.fixture
def server(key: SigningKey) -> Iterator[JwksServer]:
    server = JwksServer(key)
    yield server
    if not server.ending.is_set():
        server.stop()


def part(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def key_set(server: JwksServer, clock: Clock) -> jwks.KeySet:
    return jwks.KeySet(server.url, clock)


def test_a_set_is_fetched_once_in_five_minutes(server: JwksServer, key_set: jwks.KeySet, clock: Clock) -> None:
    for seconds, requests in ((0, 1), (1, 1), (290, 1), (20, 2), (1, 2)):
        clock.now += seconds
        assert len(key_set.find("one")) == 1
        assert server.requests == requests


def test_a_new_key_is_fetched_when_the_first_token_names_it(server: JwksServer, key_set: jwks.KeySet) -> None:
    key_set.find("one")
    server.show(signing_key("one"), signing_key("two"))
    assert len(key_set.find("two")) == 1
    assert server.requests == 2


def test_a_key_that_was_withdrawn_ends_with_the_next_fetch(
    server: JwksServer, key_set: jwks.KeySet, clock: Clock
) -> None:
    assert key_set.find("one")
    server.show(signing_key("two"))
    clock.now += jwks.FRESH_SECONDS + 1
    assert not key_set.find("one")


def test_unknown_ids_cost_one_fetch_in_half_a_minute(server: JwksServer, key_set: jwks.KeySet, clock: Clock) -> None:
    key_set.find("one")
    for number in range(50):
        assert key_set.find(f"nobody {number}") == ()
    assert server.requests == 2
    clock.now += jwks.PAUSE_SECONDS + 1
    with ThreadPoolExecutor(16) as pool:
        assert not any(pool.map(key_set.find, (f"none {number}" for number in range(200))))
    assert server.requests == 3


def test_unknown_ids_of_a_server_that_fails_cost_no_more(
    server: JwksServer, key_set: jwks.KeySet, clock: Clock
) -> None:
    key_set.find("one")
    server.mood = "refusing"
    for number in range(50):
        key_set.find(f"nobody {number}")
    assert server.requests == 2
    clock.now += jwks.FRESH_SECONDS + 1
    for _ in range(50):
        assert len(key_set.find("one")) == 1
    assert server.requests == 3
    clock.now += jwks.PAUSE_SECONDS - 1
    key_set.find("one")
    assert server.requests == 3


def test_the_last_good_set_serves_for_a_day(server: JwksServer, key_set: jwks.KeySet, clock: Clock) -> None:
    key_set.find("one")
    server.stop()
    clock.now += jwks.KEPT_SECONDS - 1
    assert len(key_set.find("one")) == 1
    clock.now += 2
    with pytest.raises(jwks.KeysUnavailable):
        key_set.find("one")


BAD = {
    "garbage": b"<html>",
    "nothing": b"",
    "no object": b"[]",
    "an error that says 200": b'{"message": "try again"}',
    "an empty object": b"{}",
    "keys that are no list": b'{"keys": {"one": 1}}',
    "very deep": b'{"keys":' + b"[" * 200_000,
    "too long": b'{"keys": []}' + b" " * jwks.MAX_BYTES,
}


@pytest.mark.parametrize("which", BAD)
def test_a_bad_document_does_not_replace_a_good_set(
    server: JwksServer, key_set: jwks.KeySet, clock: Clock, which: str
) -> None:
    key_set.find("one")
    server.document = BAD[which]
    clock.now += jwks.FRESH_SECONDS + 1
    assert len(key_set.find("one")) == 1
    assert server.requests == 2


@pytest.mark.parametrize("mood", ["refusing", "moved", "hanging", "dripping", "dripping_headers"])
def test_a_bad_server_costs_two_seconds_at_most_and_leaves_no_thread(server: JwksServer, mood: str) -> None:
    server.mood = mood
    key_set = jwks.KeySet(server.url)
    began = time.monotonic()
    with pytest.raises(jwks.KeysUnavailable):
        key_set.find("one")
    assert time.monotonic() - began < jwks.TIMEOUT_SECONDS + 0.5
    began = time.monotonic()
    with pytest.raises(jwks.KeysUnavailable):
        key_set.find("one")
    assert time.monotonic() - began < 0.1
    assert server.requests == 1
    assert all("elsewhere" not in path for path in server.paths)
    deadline = time.monotonic() + 5
    while any(thread.name == "key-set" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_name_server_that_hangs_costs_two_seconds_too(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *_args: answer.wait(20) and [])
    began = time.monotonic()
    with pytest.raises(jwks.FetchFailed):
        jwks.fetch("http://keys.example.com/")
    assert time.monotonic() - began < jwks.TIMEOUT_SECONDS + 0.5
    answer.set()


def test_many_threads_share_the_first_fetch(server: JwksServer, key_set: jwks.KeySet) -> None:
    server.mood = "slow"
    with ThreadPoolExecutor(16) as pool:
        assert all(len(found) == 1 for found in pool.map(key_set.find, ["one"] * 100))
    assert server.requests == 1


def test_while_one_thread_fetches_the_others_use_the_old_set(
    server: JwksServer, key_set: jwks.KeySet, clock: Clock
) -> None:
    key_set.find("one")
    server.mood = "hanging"
    clock.now += jwks.FRESH_SECONDS + 1
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(key_set.find, "one")
        while server.requests < 2:
            time.sleep(0.01)
        began = time.monotonic()
        assert all(len(key_set.find("one")) == 1 for _ in range(100))
        assert time.monotonic() - began < 0.5
        assert not slow.done()
        assert len(slow.result()) == 1
    assert server.requests == 2


def test_while_one_thread_tries_again_the_others_are_told_at_once(
    server: JwksServer, key_set: jwks.KeySet, clock: Clock
) -> None:
    server.mood = "refusing"
    with pytest.raises(jwks.KeysUnavailable):
        key_set.find("one")
    server.mood = "slow"
    clock.now += jwks.RETRY_SECONDS
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(key_set.find, "one")
        while server.requests < 2:
            time.sleep(0.01)
        with pytest.raises(jwks.KeysUnavailable):
            key_set.find("one")
        assert not slow.done()
        assert len(slow.result()) == 1


def test_a_server_that_comes_back_is_asked_again_after_two_seconds(
    server: JwksServer, key_set: jwks.KeySet, clock: Clock
) -> None:
    server.mood = "refusing"
    for _ in range(10):
        with pytest.raises(jwks.KeysUnavailable):
            key_set.find("one")
    assert server.requests == 1
    server.mood = "well"
    clock.now += jwks.RETRY_SECONDS
    assert len(key_set.find("one")) == 1


def test_only_keys_that_sign_and_are_public_are_taken() -> None:
    key = signing_key("one")
    private = {**key.jwk(), "d": "AQAB"}
    odd: list[Any] = [
        key.jwk(kid="encrypts", use="enc"),
        key.jwk(kid="encrypts too", alg="RSA-OAEP"),
        {**private, "kid": "private"},
        {"kty": "oct", "k": part(SECRET), "kid": "shared"},
        {"kty": "RSA", "kid": "half"},
        {"kty": ["RSA"], "kid": "odd"},
        {"kty": "RSA", "alg": {}, "kid": "odder"},
        "text",
        7,
        None,
    ]
    plain = {name: value for name, value in key.jwk().items() if name not in ("alg", "use")}
    (found,) = jwks.parse(json.dumps({"keys": [*odd, plain]}).encode())
    assert found.id == "one"
    assert [name for name in jwks.FAMILIES if found.suits(name)] == [n for n in jwks.FAMILIES if n[:2] in ("RS", "PS")]


def test_a_server_whose_certificate_nobody_vouches_for_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: SigningKey
) -> None:
    (tmp_path / "certificate").write_text(key.certificate())
    (tmp_path / "key").write_bytes(key.private_pem())
    server = JwksServer(key, certificate=(tmp_path / "certificate", tmp_path / "key"))
    try:
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        with pytest.raises(jwks.FetchFailed, match="certificate"):
            jwks.fetch(server.url)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate"))
        assert jwks.fetch(server.url) == server.document
    finally:
        server.stop()


def test_only_the_web_is_asked() -> None:
    for url in ("file:///etc/passwd", "ftp://127.0.0.1/keys", "data:,{}", "/etc/passwd"):
        with pytest.raises(jwks.FetchFailed):
            jwks.fetch(url)
