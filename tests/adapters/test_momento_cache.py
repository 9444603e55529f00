"""Django's cache at Momento: what every backend of Django's does, and what this one does its own way."""

import asyncio
import math
import time
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
import pytest
from django.conf import LazySettings
from django.core.cache import caches
from django.core.cache.backends.base import BaseCache

from adapters import secret_values
from adapters.momento.cache import MomentoCache
from adapters.momento.clients import Failed
from tests.emulators.momento import Momento

pytestmark = [pytest.mark.any_database, pytest.mark.usefixtures("at_momento")]

NAME = "fanfare-test"


@pytest.fixture
def cache(settings: LazySettings) -> BaseCache:
    """As Django makes it by its settings."""
    settings.CACHES = {"momento": {"BACKEND": "adapters.momento.cache.MomentoCache", "LOCATION": NAME}}
    found = caches.create_connection("momento")
    assert isinstance(found, MomentoCache)
    return found


def made(**params: Any) -> MomentoCache:
    return MomentoCache(NAME, params)


def stored(momento: Momento) -> list[object]:
    return list(momento.items(NAME).values())


VALUES = [
    0, 1, -7, 2**53, -(2**63), 2**100, True, False, None, 1.5, math.inf, "", "text", "ü 🎉", "5", b"", b"bytes", b"5",
    b"-0", b"007", b"\x80", b"\x80\x05N.", b"\x00\xff", [1, (2, {3})], {"a": {"b": [None]}}, Decimal("1.10"),
    datetime(2026, 1, 31, 12, 0), frozenset({1}), range(3),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_comes_back_as_it_was(cache: BaseCache, value: Any) -> None:
    cache.set("key", value)
    for found in (cache.get("key"), cache.get_many(["key"])["key"], asyncio.run(cache.aget("key"))):
        assert found == value
        assert type(found) is type(value)
    assert not cache.add("key", "another")


@pytest.mark.parametrize(("value", "there"), [(7, b"7"), (-1, b"-1"), (b"abc", b"abc")])
def test_numbers_and_bytes_are_there_for_others_to_read(
    cache: BaseCache, momento: Momento, value: object, there: bytes
) -> None:
    cache.set("key", value)
    assert stored(momento) == [there]


KEYS = ["a", "with space", "with\nnewline", "ü🎉", "x" * 5000, "y" * 250, ":1:", "%s", "\x00", "\ud800"]


@pytest.mark.parametrize("key", KEYS, ids=ascii)
def test_any_key_will_do_and_is_a_key_of_its_own(cache: BaseCache, key: str) -> None:
    cache.set(key, "here")
    cache.set(f"{key}!", "there")
    assert cache.get(key) == "here"
    assert cache.get_many([key, f"{key}!", "nowhere"]) == {key: "here", f"{key}!": "there"}
    assert cache.delete(key)
    assert cache.get(key) is None
    assert cache.get(f"{key}!") == "there"


def test_get_and_has_key(cache: BaseCache) -> None:
    assert cache.get("key") is None
    assert cache.get("key", "default") == "default"
    assert "key" not in cache
    cache.set("key", None)
    assert cache.get("key", "default") is None
    assert "key" in cache
    cache.set("key", 2)
    assert cache.get("key") == 2


def test_add_is_for_what_is_not_there(cache: BaseCache) -> None:
    assert cache.add("key", 1)
    assert not cache.add("key", 2)
    assert cache.get("key") == 1
    assert not cache.add("key", 2, timeout=0)
    assert cache.add("other", 2, timeout=0)
    assert "other" not in cache


def test_delete(cache: BaseCache) -> None:
    cache.set_many({"a": 1, "b": 2, "c": 3})
    assert cache.delete("a")
    assert not cache.delete("a")
    cache.delete_many(["b", "nowhere"])
    assert cache.get_many(["a", "b", "c"]) == {"c": 3}
    assert cache.set_many({}) == []
    assert cache.get_many([]) == {}


def test_many_at_once(cache: BaseCache, momento: Momento) -> None:
    many = {f"key {number}": number for number in range(1200)}
    assert cache.set_many(many) == []
    assert cache.get_many([*many, "nowhere"]) == many
    assert momento.calls("SetBatch") == momento.calls("GetBatch") == 3


def test_large_values_go_in_calls_that_momento_takes(cache: BaseCache, momento: Momento) -> None:
    many = {f"key {number}": bytes([number]) * 1_500_000 for number in range(6)}
    assert cache.set_many(many) == []
    assert momento.calls("SetBatch") == 3
    assert cache.get_many(many) == many


def test_get_or_set(cache: BaseCache) -> None:
    assert cache.get_or_set("key", lambda: 5) == 5
    assert cache.get_or_set("key", 6) == 5
    assert cache.get_or_set("none", None) is None
    assert "none" in cache


def test_numbers_go_up_and_down(cache: BaseCache) -> None:
    cache.set("n", 41)
    assert cache.incr("n") == 42
    assert cache.incr("n", 10) == 52
    assert cache.decr("n", 60) == -8
    assert cache.get("n") == -8
    for missing in (cache.incr, cache.decr):
        with pytest.raises(ValueError, match="not found"):
            missing("nowhere")
    cache.set("text", "abc")
    with pytest.raises(ValueError, match="no whole number"):
        cache.incr("text")


def test_threads_count_together(cache: BaseCache) -> None:
    cache.set("n", 0)
    threads = [Thread(target=lambda: [cache.incr("n") for _ in range(25)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert cache.get("n") == 100


def test_versions_and_prefixes_are_apart() -> None:
    plain, other, second = made(), made(KEY_PREFIX="other"), made(VERSION=2)
    for number, cache in enumerate((plain, other, second)):
        cache.set("key", number)
    assert [cache.get("key") for cache in (plain, other, second)] == [0, 1, 2]
    assert plain.get("key", version=2) == 2
    assert plain.incr_version("key", 4) == 5
    assert plain.get("key") is None
    assert plain.get("key", version=5) == 0
    with pytest.raises(ValueError, match="not found"):
        plain.incr_version("key")
    assert plain.get_many(["key"], version=5) == {"key": 0}
    plain.delete_many(["key"], version=5)
    assert "key" not in made(VERSION=5)


def test_things_expire(cache: BaseCache, momento: Momento) -> None:
    cache.set("default", 1)
    cache.set("soon", 1, timeout=10)
    cache.set("long", 1, timeout=10**9)
    cache.set("never", 1, timeout=None)
    cache.set_many({"many": 1}, timeout=20)
    cache.add("added", 1, timeout=20)
    cache.set("fraction", 1, timeout=10.5)
    for seconds, there in (
        (9, "default soon long never many added fraction"),
        (2, "default long never many added"),
        (10, "default long never"),
        (280, "long never"),
        (86_000, "long never"),
        (200, ""),  # A day, which is the longest.
    ):
        momento.advance(seconds)
        names = ["default", "soon", "long", "never", "many", "added", "fraction"]
        assert " ".join(name for name in names if name in cache) == there


@pytest.mark.parametrize("timeout", [0, -1])
def test_what_is_over_already_is_not_there(cache: BaseCache, timeout: int) -> None:
    cache.set_many({"a": 1, "b": 1, "c": 1})
    cache.set("a", 2, timeout=timeout)
    cache.set_many({"b": 2}, timeout=timeout)
    assert cache.touch("c", timeout=timeout)
    assert not cache.touch("c", timeout=timeout)
    assert cache.get_many(["a", "b", "c"]) == {}


def test_ttl(cache: MomentoCache) -> None:
    assert cache.ttl("key") is None
    cache.set("key", 1, timeout=100)
    assert 90 < (cache.ttl("key") or 0) <= 100


def test_touch(cache: BaseCache, momento: Momento) -> None:
    assert not cache.touch("key")
    cache.set("key", "value", timeout=10)
    assert cache.touch("key", timeout=100)
    momento.advance(50)
    assert cache.touch("key", timeout=None)
    momento.advance(5000)
    assert cache.touch("key")
    momento.advance(301)
    assert "key" not in cache


def test_counting_does_not_change_when_a_number_expires(cache: BaseCache, momento: Momento) -> None:
    cache.set("n", 1, timeout=100)
    momento.advance(60)
    assert cache.incr("n") == 2
    momento.advance(41)
    assert "n" not in cache


def test_the_longest_time_is_a_setting_and_an_option(momento: Momento, settings: LazySettings) -> None:
    settings.MOMENTO_TTL_MAX = 1000
    made().set("a", 1, timeout=None)
    made(OPTIONS={"ttl_max": 100}).set("b", 1, timeout=None)
    momento.advance(101)
    assert made().get_many(["a", "b"]) == {"a": 1}
    momento.advance(900)
    assert "a" not in made()


def test_clear_empties_this_cache_and_no_other(cache: BaseCache, momento: Momento) -> None:
    momento.create_cache("other")
    MomentoCache("other", {}).set("key", 1)
    cache.set("key", 1)
    cache.clear()
    assert "key" not in cache
    assert "key" in MomentoCache("other", {})


async def test_async_methods_do_the_same_and_hold_up_nobody(cache: BaseCache, momento: Momento) -> None:
    assert await cache.aadd("n", 1)
    assert await cache.aincr("n") == 2
    await cache.aset_many({"a": "x", "b": b"y"})
    assert await cache.aget_many(["n", "a", "b"]) == {"n": 2, "a": "x", "b": b"y"}
    assert await cache.atouch("a")
    assert await cache.adelete("a")
    momento.delay("Get", 0.3)
    began, reading = time.monotonic(), asyncio.create_task(cache.aget("n"))
    await asyncio.sleep(0.05)
    assert time.monotonic() - began < 0.25
    assert await reading == 2
    await cache.aclear()
    assert not await cache.ahas_key("n")


@pytest.mark.parametrize(
    ("code", "says"), [("UNAVAILABLE", "MOMENTO_ENDPOINT"), ("NOT_FOUND", "momento init"), ("UNAUTHENTICATED", "_KEY")]
)
def test_a_failure_is_raised_and_says_what_to_change(cache: BaseCache, momento: Momento, code: str, says: str) -> None:
    momento.fail("*", grpc.StatusCode[code])
    for act in (cache.get, cache.has_key, cache.touch, cache.delete):
        with pytest.raises(Failed, match=says):
            act("key")
    with pytest.raises(Failed, match=says):
        cache.get_many(["key"])


def test_a_key_that_changes_is_taken_over_within_five_minutes(
    cache: BaseCache, momento: Momento, settings: LazySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, clock = tmp_path / "key", [0.0]
    file.write_text(momento.api_key)
    settings.MOMENTO_API_KEY = f"file:{file}"
    monkeypatch.setattr(secret_values, "now", lambda: clock[0])
    cache.set("key", 1)
    file.write_text(momento.new_key())
    momento.revoke(momento.api_key)
    with pytest.raises(Failed, match="MOMENTO_API_KEY"):
        cache.get("key")
    clock[0] = 301.0
    for _ in range(20):
        assert cache.get("key") == 1
        clock[0] += 30.0
