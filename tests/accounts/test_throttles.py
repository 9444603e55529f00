"""So often and no more, by all processes together; and without Redis nobody is refused, and nobody waits."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from django.core.exceptions import ImproperlyConfigured
from django.test import Client
from pytest_django import Settings

from accounts import api_keys, checks, throttles, tokens
from accounts.errors import ApiError
from accounts.principals import Kind, Principal
from accounts.throttles import Rate, parse, take, throttle, throttle_address
from tests.servers import ROOT, Stack, Valkey, eventually

pytestmark = pytest.mark.any_database

PATIENCE = 20.0
SERVICE = Principal(Kind.SERVICE, "acme")
ALICE = Principal(Kind.USER, "alice")
ADDRESS = "198.51.100.7"


@pytest.fixture(autouse=True)
def valkey(settings: Settings, stack_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Valkey]:
    """One for each test, so that nobody else counts."""
    server = Valkey(stack_folder / "rates")
    server.start()
    settings.REDIS_URL = f"unix://{server.folder / 'valkey.sock'}"
    settings.RATE_SERVICE, settings.RATE_USER, settings.RATE_ADDRESS = "3/h", "2/h", "2/h"
    monkeypatch.setattr(throttles, "_outage", throttles._Outage())
    yield server
    server.kill()


def admitted(call: Callable[[], None]) -> int:
    """How often it may be done at once, of ten times."""
    count = 0
    for _ in range(10):
        with suppress(ApiError):
            call()
            count += 1
    return count


# --- Counting -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rate"),
    [("20/s", Rate(20, 1)), ("50/10s", Rate(50, 10)), ("5/2m", Rate(5, 120)), ("9/h", Rate(9, 3600)), ("", None)],
)
def test_a_rate_is_read(text: str, rate: Rate | None) -> None:
    assert parse(text) == rate


@pytest.mark.parametrize("text", ["20", "0/s", "20/0s", "-1/s", "1.5/s", "20/day", "20/s ", "2000000/s", "٢/s", "a/s"])
def test_what_is_no_rate_is_refused_at_the_start_with_its_setting(text: str, settings: Settings) -> None:
    with pytest.raises(ImproperlyConfigured, match="is no rate: write it as 20/s"):
        parse(text)
    settings.RATE_USER = text
    (problem,) = checks.check_rates()
    assert problem.msg.startswith("RATE_USER: ")


def test_the_count_is_let_in_and_the_next_one_told_when_to_come(settings: Settings) -> None:
    settings.RATE_USER = "5/10s"
    assert [take("RATE_USER", "user:alice") for _ in range(5)] == [None] * 5
    wait = take("RATE_USER", "user:alice")
    assert wait is not None
    assert 1.5 < wait <= 2.0
    with pytest.raises(ApiError, match=r"At most 5/10s \(RATE_USER\): again in 2 s") as refused:
        throttle(ALICE)
    assert (refused.value.status, refused.value.code, refused.value.retry_after) == (429, "rate_limited", 2)


def test_who_waits_as_told_is_let_in(settings: Settings) -> None:
    settings.RATE_USER = "2/s"
    assert take("RATE_USER", "user:alice") is take("RATE_USER", "user:alice") is None
    wait = take("RATE_USER", "user:alice")
    assert wait is not None
    time.sleep(wait + 0.001)
    assert take("RATE_USER", "user:alice") is None


def test_no_rate_is_no_limit(settings: Settings, valkey: Valkey) -> None:
    settings.RATE_USER = settings.RATE_SERVICE = settings.RATE_ADDRESS = ""
    assert admitted(lambda: throttle(ALICE)) == admitted(lambda: throttle(SERVICE)) == 10
    assert admitted(lambda: throttle_address(ADDRESS)) == 10
    assert not redis.Redis.from_url(settings.REDIS_URL).keys()


def test_many_at_once_are_counted_exactly(settings: Settings) -> None:
    settings.RATE_SERVICE = "100/h"
    with ThreadPoolExecutor(16) as pool:
        waits = list(pool.map(lambda _: take("RATE_SERVICE", "service:acme"), range(400)))
    assert waits.count(None) == 100


def test_processes_count_together(settings: Settings) -> None:
    code = "import django; django.setup()\nfrom accounts.throttles import take\n"
    code += "print([take('RATE_SERVICE', 'service:acme') for _ in range(80)].count(None))"
    own = {"DJANGO_SETTINGS_MODULE": "config.settings", "REDIS_URL": settings.REDIS_URL, "RATE_SERVICE": "100/h"}
    command, env = [sys.executable, "-c", code], {**os.environ, **own}
    started = [subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE) for _ in range(2)]
    counts = [int(process.communicate(timeout=60)[0]) for process in started]
    assert sum(counts) == 100
    assert min(counts) >= 20


def test_a_clock_that_was_set_back_locks_nobody_out_for_longer_than_the_rate(settings: Settings) -> None:
    settings.RATE_USER = "10/10s"
    ahead = int((time.time() + 9 * 3600) * 1_000_000)
    redis.Redis.from_url(settings.REDIS_URL).set("fanfare:rate:user:alice", ahead)
    wait = take("RATE_USER", "user:alice")
    assert wait is not None
    assert wait <= 1.0


def test_keys_go_when_they_mean_nothing_any_more(settings: Settings) -> None:
    throttle(ALICE)
    client = redis.Redis.from_url(settings.REDIS_URL)
    assert client.keys() == [b"fanfare:rate:user:alice"]
    assert 0 < client.pttl("fanfare:rate:user:alice") <= 1_800_000


# --- Who ------------------------------------------------------------------------------------------


def test_callers_do_not_use_up_each_others_rate() -> None:
    others = [
        Principal(Kind.USER, "bob"),
        Principal(Kind.OPERATOR, "alice"),
        Principal(Kind.TOKEN, "alice"),
        Principal(Kind.USER, "token:alice"),
    ]
    assert admitted(lambda: throttle(ALICE)) == 2
    for other in others:
        assert admitted(lambda other=other: throttle(other)) == 2  # type: ignore[misc]
    for name in ("acme", "shop"):
        assert admitted(lambda name=name: throttle(Principal(Kind.SERVICE, name))) == 3  # type: ignore[misc]


def test_all_that_one_user_has_counts_together() -> None:
    throttle(ALICE)
    throttle(Principal(Kind.TOKEN, "0197", holder="alice"))
    assert admitted(lambda: throttle(ALICE)) == 0


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_free_in_development_only(address: str, settings: Settings) -> None:
    assert admitted(lambda: throttle_address(address)) == 10
    settings.PRODUCTION = True
    assert admitted(lambda: throttle_address(address)) == 2


@pytest.mark.parametrize("address", [None, "", "unix:", "testclient", "1.2.3", "x" * 5000, "\0"])
def test_what_is_no_address_is_let_in(address: str | None) -> None:
    assert admitted(lambda: throttle_address(address)) == 10


def test_an_ipv6_network_counts_as_one_client() -> None:
    throttle_address("2001:db8::1")
    throttle_address("2001:db8::2:3%eth0")
    assert admitted(lambda: throttle_address("2001:db8:0:0:ffff::4")) == 0
    assert admitted(lambda: throttle_address("2001:db8:0:1::1")) == 2


def test_an_ipv4_address_is_the_same_on_a_socket_for_both_families() -> None:
    throttle_address(ADDRESS)
    throttle_address(f"::ffff:{ADDRESS}")
    assert admitted(lambda: throttle_address(ADDRESS)) == 0


# --- HTTP -----------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_service_beyond_its_rate_gets_429_in_the_apis_shape() -> None:
    _, key = api_keys.create("acme")
    client = Client(headers={"authorization": f"Bearer {key}"})
    assert [client.get("/api/notifications?user=alice").status_code for _ in range(3)] == [200] * 3
    reply = client.get("/api/notifications?user=alice")
    assert (reply.status_code, reply.headers["Retry-After"]) == (429, "1200")
    error = reply.json()["error"]
    assert error["code"] == "rate_limited"
    assert "3/h (RATE_SERVICE)" in error["message"]
    _, other = api_keys.create("shop")
    assert client.get("/api/notifications?user=alice", headers={"authorization": f"Bearer {other}"}).status_code == 200


@pytest.mark.django_db
def test_a_user_is_counted_whatever_the_answer_is() -> None:
    def ask(user: str) -> int:
        _, token = tokens.issue(None, ttl=60, user=user)
        return Client(headers={"authorization": f"Bearer {token}"}).get("/api/notifications?user=zoe").status_code

    first, *_, last = [ask("alice") for _ in range(3)]
    assert (first != 429, last) == (True, 429)
    assert ask("bob") == first


@pytest.mark.django_db
def test_who_guesses_credentials_is_slowed_down_and_nobody_else() -> None:
    _, key = api_keys.create("acme")

    def ask(credential: str, address: str) -> int:
        client = Client(headers={"authorization": f"Bearer {credential}"}, REMOTE_ADDR=address)
        return client.get("/api/notifications?user=alice").status_code

    assert [ask(f"ff_guess{number}_x", ADDRESS) for number in range(4)] == [401, 401, 429, 429]
    assert ask("ff_guess_x", "198.51.100.8") == 401
    assert ask(key, ADDRESS) == 200


# --- Without Redis --------------------------------------------------------------------------------


def test_a_stopped_redis_refuses_nobody_slows_only_one_and_is_told_once(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "accounts.throttles")
    assert admitted(lambda: throttle(ALICE)) == 2
    with valkey.stopped():
        assert _seconds(lambda: throttle(ALICE)) < 0.25 + 0.25
        took, until = [], time.monotonic() + 2.5
        while time.monotonic() < until:  # It is looked for in this time, but not by who calls.
            took.append(_seconds(lambda: throttle(ALICE)))
            time.sleep(0.005)
        took.sort()
        assert took[len(took) * 9 // 10] < 0.003
        assert took[-1] < throttles.ANSWER_SECONDS  # The machine has other things to do.
        assert not throttles.is_counting()
    eventually(throttles.is_counting, PATIENCE)
    assert admitted(lambda: throttle(ALICE)) == 0
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_redis_that_is_not_there_refuses_nobody(settings: Settings, stack_folder: Path) -> None:
    settings.REDIS_URL = f"unix://{stack_folder}/none.sock"
    before = throttles.uncounted._value.get()
    assert admitted(lambda: throttle(ALICE)) == 10
    assert throttles.uncounted._value.get() - before == 10


def test_a_redis_that_started_again_counts_at_once(valkey: Valkey, settings: Settings) -> None:
    throttle(SERVICE)
    valkey.kill()
    valkey.start()
    assert admitted(lambda: throttle(SERVICE)) == 3
    assert throttles.is_counting()


def test_a_redis_that_cannot_be_written_is_as_good_as_none(settings: Settings) -> None:
    client: Any = redis.Redis.from_url(settings.REDIS_URL)
    client.execute_command("REPLICAOF", "127.0.0.1", "1")
    assert admitted(lambda: throttle(ALICE)) == 10
    time.sleep(throttles.PAUSE_SECONDS + 0.1)
    assert not throttles.is_counting()
    time.sleep(0.3)
    assert not throttles.is_counting()
    client.execute_command("REPLICAOF", "NO", "ONE")
    eventually(throttles.is_counting, PATIENCE)


def test_the_running_server_serves_without_redis_and_says_so(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(RATE_SERVICE="2/h")
    web = stack.start_web()
    with stack.client() as client:

        def ask() -> int:
            return client.get("/api/notifications?user=alice").status_code

        assert [ask() for _ in range(3)] == [200, 200, 429]
        with stack.valkey.stopped():
            assert ask() == 200
            assert min(_seconds(lambda: ask()) for _ in range(5)) < 0.2
            assert any("Nobody is throttled" in problem for problem in web.ready()["problems"])
            assert "fanfare_throttle_uncounted_total 6.0" in client.get("/metrics").text
        eventually(lambda: not any("throttled" in problem for problem in web.ready()["problems"]), PATIENCE)
        assert ask() == 429


def _seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
