"""The caches of EVENTS_CACHES on a real Valkey: bytes as they are, changes of a key in the order of their causes."""

import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import grpc
import pytest
from django.conf import LazySettings
from django.core.exceptions import ImproperlyConfigured
from redis import Redis

from accounts.errors import ApiError
from adapters import caches
from adapters.caches import Cache, Cause
from adapters.checks import check_events_caches
from tests.emulators.momento import Momento
from tests.services import start_valkey

pytestmark = pytest.mark.any_database

THEN = 1_700_000_000.0
VALUES = [b"", b"\0", b"123", b"\xff\xfe", bytes(range(256)), "grüße".encode(), b"x" * caches.VALUE_MAX_BYTES]


@pytest.fixture
def cache(settings: LazySettings) -> Cache:
    """One of its own for each test."""
    name = f"c{uuid.uuid4().hex}"
    settings.EVENTS_CACHES = {name: {}}
    return caches.find(name)


def value(cache: Cache, key: bytes = b"k") -> bytes | None:
    item = caches.get(cache, key)
    return item.value if item else None


# --- Bytes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", VALUES, ids=lambda value: repr(value[:8]))
def test_every_value_is_kept_as_it_is_under_every_key(cache: Cache, wanted: bytes) -> None:
    for key in (b"k", b"\0\xff", b"a:b c", b"x" * caches.KEY_MAX_BYTES):
        assert caches.put(cache, key, wanted, 60)
        item = caches.get(cache, key)
        assert item is not None
        assert item.value == wanted
        assert 58 < item.ttl <= 60
        assert caches.delete(cache, key)
        assert caches.get(cache, key) is None


def test_a_value_that_is_too_large_is_refused_and_leaves_the_other(cache: Cache) -> None:
    caches.put(cache, b"k", b"old", 60)
    with pytest.raises(ApiError) as refused:
        caches.put(cache, b"k", b"x" * (caches.VALUE_MAX_BYTES + 1), 60)
    assert refused.value.status == 413
    assert value(cache) == b"old"


def test_a_value_is_gone_when_its_time_is_over(cache: Cache) -> None:
    caches.put(cache, b"k", b"v", 1)
    assert value(cache) == b"v"
    deadline = time.monotonic() + 5
    while value(cache) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    caches.put(cache, b"k", b"v", caches.TTL_MAX)
    item = caches.get(cache, b"k")
    assert item is not None
    assert caches.TTL_MAX - 10 < item.ttl <= caches.TTL_MAX


def test_caches_have_nothing_in_common(settings: LazySettings) -> None:
    settings.EVENTS_CACHES = {"a": {}, "b": {}}
    one, other = caches.find("a"), caches.find("b")
    caches.put(one, b"k", b"1", 60)
    assert caches.get(other, b"k") is None
    caches.delete(one, b"k")


# --- Keys and settings ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "key_base64", "wanted"),
    [
        ("k", None, b"k"),
        ("ü", None, b"\xc3\xbc"),
        (None, "aw==", b"k"),
        (None, "aw", b"k"),
        (None, "__79", b"\xff\xfe\xfd"),
        (None, "//79", b"\xff\xfe\xfd"),
    ],
)
def test_a_key_is_text_or_base64(key: str | None, key_base64: str | None, wanted: bytes) -> None:
    assert caches.key_of(key, key_base64) == wanted


@pytest.mark.parametrize(
    ("key", "key_base64"),
    [(None, None), ("k", "aw"), ("", None), (None, ""), (None, "a"), (None, "a w="), (None, "ü"), (None, "a=w"),
     ("x" * 1025, None), ("", "aw")],
)  # fmt: skip
def test_what_is_no_key_is_refused(key: str | None, key_base64: str | None) -> None:
    with pytest.raises(ApiError) as refused:
        caches.key_of(key, key_base64, "detail.")
    assert refused.value.status == 400
    assert str(refused.value).startswith("detail.key")


@pytest.mark.parametrize(
    "written",
    [[], {"a b": {}}, {"": {}}, {"a": []}, {"a": {"backend": "memcached"}}, {"a": {"topics": "all"}}, {"a": {"x": 1}}],
    ids=str,
)
def test_a_setting_that_is_half_right_is_refused(written: Any, settings: LazySettings) -> None:
    with pytest.raises(ImproperlyConfigured, match="EVENTS_CACHES"):
        caches.read(written)
    settings.EVENTS_CACHES = written
    assert [error.id for error in check_events_caches()] == ["adapters.E005"]


def test_djangos_cache_at_momento_is_none_of_them(settings: LazySettings) -> None:
    """It unpickles what it finds."""
    momento = {"BACKEND": "adapters.momento.cache.MomentoCache"}
    settings.CACHES = {"default": momento | {"LOCATION": "a"}, "other": momento | {"LOCATION": "b"}}
    settings.EVENTS_CACHES = {"a": {"backend": "momento"}, "b": {}, "c": {"backend": "momento"}}
    [error] = check_events_caches()
    assert "EVENTS_CACHES, 'a'" in error.msg


def test_a_cache_that_is_not_named_is_not_there(settings: LazySettings) -> None:
    settings.EVENTS_CACHES = {"default": {}, "people": {"topics": "user"}}
    assert caches.find("default").topic("news") == "topic.news"
    assert caches.find("people").topic("alice") == "user.alice"
    with pytest.raises(ApiError) as refused:
        caches.find("other")
    assert (refused.value.status, refused.value.code) == (404, "unknown_cache")


# --- Order ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
@pytest.mark.parametrize("step", [1.0, 0.001])
def test_the_last_to_happen_counts_in_whatever_order_they_come(
    cache: Cache, order: tuple[int, ...], step: float
) -> None:
    """INSERT, REMOVE, INSERT of one key."""
    changes = [
        lambda: caches.put(cache, b"k", b"first", 60, Cause(THEN, "a")),
        lambda: caches.delete(cache, b"k", Cause(THEN + step, "b")),
        lambda: caches.put(cache, b"k", b"last", 60, Cause(THEN + 2 * step, "c")),
    ]
    for place in order:
        changes[place]()
    assert value(cache) == b"last"


def test_a_change_that_is_late_is_passed_over_also_after_a_delete(cache: Cache) -> None:
    assert caches.delete(cache, b"k", Cause(THEN + 5, "b"))
    assert not caches.put(cache, b"k", b"late", 60, Cause(THEN, "a"))
    assert value(cache) is None
    assert caches.put(cache, b"other", b"v", 60, Cause(THEN, "a"))
    assert caches.put(cache, b"k", b"later", 60, Cause(THEN + 6, "c"))
    assert value(cache) == b"later"


def test_changes_of_one_moment_come_in_the_order_of_their_arrival_and_each_once(cache: Cache) -> None:
    """EventBridge's times are whole seconds."""
    assert caches.put(cache, b"k", b"first", 60, Cause(THEN, "a"))
    assert caches.delete(cache, b"k", Cause(THEN, "b"))
    assert not caches.put(cache, b"k", b"first", 60, Cause(THEN, "a"))
    assert value(cache) is None
    assert caches.put(cache, b"k", b"last", 60, Cause(THEN, "c"))
    assert value(cache) == b"last"


def test_a_direct_change_counts_and_an_event_of_the_same_second_after_it(cache: Cache) -> None:
    assert caches.put(cache, b"k", b"direct", 60)
    assert not caches.put(cache, b"k", b"late", 60, Cause(THEN, "a"))
    assert caches.put(cache, b"k", b"event", 60, Cause(float(int(time.time())), "b"))
    assert caches.put(cache, b"k", b"direct", 60)
    assert value(cache) == b"direct"


def test_a_clock_that_is_fast_shuts_nobody_out(cache: Cache) -> None:
    assert caches.put(cache, b"k", b"of 2100", 60, Cause(4_102_444_800.0, "a"))
    assert caches.put(cache, b"k", b"of now", 60, Cause(time.time() + 60, "b"))
    assert value(cache) == b"of now"


def test_what_is_known_of_a_key_lasts_a_day_or_as_long_as_its_value(cache: Cache, settings: LazySettings) -> None:
    redis = Redis.from_url(settings.REDIS_URL)
    mark = f"fanfare:cache-mark:{cache.name}:{b'k'.hex()}"
    caches.delete(cache, b"k")
    assert 86_300 < redis.ttl(mark) <= 86_400
    caches.put(cache, b"k", b"v", 1_000_000)
    assert 999_900 < redis.ttl(mark) <= 1_000_000


def test_changes_of_a_key_from_many_threads_are_made_one_by_one(cache: Cache) -> None:
    def change(number: int) -> None:
        caches.put(cache, b"k", b"%d" % number, 60, Cause(THEN + number, str(number)))

    threads = [threading.Thread(target=change, args=[number]) for number in (3, 1, 7, 2, 6, 0, 5, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value(cache) == b"7"


# --- Failures -------------------------------------------------------------------------------------


def test_a_key_that_somebody_holds_is_busy_for_now_and_the_others_are_not(
    cache: Cache, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caches, "LOCK_WAIT_SECONDS", 0.05)
    lock = Redis.from_url(settings.REDIS_URL).lock(f"fanfare:cache-lock:{cache.name}:{b'k'.hex()}", timeout=5)
    assert lock.acquire()
    with pytest.raises(ApiError) as refused:
        caches.put(cache, b"k", b"v", 60)
    assert (refused.value.status, refused.value.code, refused.value.retry_after) == (503, "busy", 1)
    assert caches.put(cache, b"other", b"v", 60)
    lock.release()
    assert caches.put(cache, b"k", b"v", 60)


@pytest.fixture
def valkey(stack_folder: Path, settings: LazySettings) -> Iterator[Any]:
    """One that can be stopped."""
    process = start_valkey(stack_folder)
    settings.REDIS_URL = f"unix://{stack_folder / 'valkey.sock'}"
    yield process
    process.kill()
    process.wait(10)


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGSTOP])
def test_a_redis_that_does_not_answer_is_said_so_and_waited_for_once(cache: Cache, valkey: Any, stop: int) -> None:
    caches.put(cache, b"k", b"v", 60)
    os.kill(valkey.pid, stop)
    started = time.monotonic()
    for deed in (lambda: caches.get(cache, b"k"), lambda: caches.put(cache, b"k", b"v", 60)) * 5:
        with pytest.raises(ApiError) as refused:
            deed()
        assert (refused.value.status, refused.value.code, refused.value.retry_after) == (503, "unavailable", 2)
    assert time.monotonic() - started < 2 * caches.ANSWER_SECONDS


# --- At Momento -----------------------------------------------------------------------------------


@pytest.fixture
def outside(momento: Momento, settings: LazySettings) -> Cache:
    """A cache of that name at Momento."""
    settings.MOMENTO_API_KEY = momento.api_key
    settings.MOMENTO_ENDPOINT, settings.MOMENTO_PLAINTEXT = momento.endpoint, True
    name = f"c{uuid.uuid4().hex}"
    momento.create_cache(name)
    settings.EVENTS_CACHES = {name: {"backend": "momento"}}
    return caches.find(name)


@pytest.mark.parametrize("wanted", [*VALUES, b"\x80\x05N."], ids=lambda value: repr(value[:8]))
def test_momento_has_the_very_bytes_that_its_other_clients_read(
    outside: Cache, momento: Momento, wanted: bytes
) -> None:
    assert caches.put(outside, b"\0\xff", wanted, 60)
    item = caches.get(outside, b"\0\xff")
    assert item is not None
    assert item.value == wanted
    assert 55 < item.ttl <= 60
    assert list(momento.items(outside.name)) == [b"\0\xff"]
    assert caches.delete(outside, b"\0\xff")
    assert caches.get(outside, b"\0\xff") is None


def test_at_momento_a_ttl_ends_at_its_limit(outside: Cache, settings: LazySettings) -> None:
    caches.put(outside, b"k", b"v", caches.TTL_MAX)
    item = caches.get(outside, b"k")
    assert item is not None
    assert settings.MOMENTO_TTL_MAX - 10 < item.ttl <= settings.MOMENTO_TTL_MAX


def test_changes_at_momento_keep_the_order_of_their_causes(outside: Cache) -> None:
    assert caches.put(outside, b"k", b"last", 60, Cause(THEN + 2, "c"))
    assert not caches.delete(outside, b"k", Cause(THEN + 1, "b"))
    assert not caches.put(outside, b"k", b"first", 60, Cause(THEN, "a"))
    assert value(outside) == b"last"


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED]
)
def test_whatever_momento_says_against_us_is_for_now_and_nothing_is_lost(
    outside: Cache, momento: Momento, code: grpc.StatusCode
) -> None:
    deeds: dict[str, Callable[[], Any]] = {
        "Set": lambda: caches.put(outside, b"k", b"v", 60, Cause(THEN, "a")),
        "Get": lambda: caches.get(outside, b"k"),
        "Delete": lambda: caches.delete(outside, b"k", Cause(THEN, "b")),
    }
    for rpc, deed in deeds.items():
        momento.fail(rpc, code)
        with pytest.raises(ApiError) as refused:
            deed()
        assert (refused.value.status, refused.value.code, refused.value.retry_after) == (503, "unavailable", 2)
        momento.heal()
        assert deed()


def test_at_momento_nobody_comes_at_the_indexes_of_boards(outside: Cache, momento: Momento) -> None:
    for act in (caches.get, caches.delete, lambda cache, key: caches.put(cache, key, b"x", 60)):
        with pytest.raises(ApiError, match="fanfare:"):
            act(outside, b"fanfare:board:1")
    assert not momento.items(outside.name)
