"""Scripts in Redis, over connections that are kept, closed from the other side, or of another process."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from redis import Redis
from redis.connection import AbstractConnection

from realtime import redis_scripts
from realtime.redis_scripts import ANSWER_SECONDS, RedisDown, run
from tests.services import start_valkey

ECHO = "return {ARGV[1], KEYS[1], #ARGV}"
pytestmark = pytest.mark.any_database


@pytest.fixture(autouse=True)
def redis(stack_folder: Path, settings: LazySettings) -> Iterator[Redis]:
    """One of this test's own: others should not wait when it is paused."""
    process = start_valkey(stack_folder)
    settings.REDIS_URL = f"unix://{stack_folder / 'valkey.sock'}"
    with Redis.from_url(settings.REDIS_URL) as client:
        yield client
    process.kill()
    process.wait(10)


def test_it_answers_in_texts_or_in_bytes() -> None:
    assert run(ECHO, ["key"], ["ö", 1, 0.5], decode=True) == ["ö", "key", 3]
    assert run(ECHO, ["key"], [b"\xff"], decode=False) == [b"\xff", b"key", 1]


def test_a_redis_that_has_forgotten_the_script_is_told_it_again(redis: Redis) -> None:
    run(ECHO, ["key"], [1], decode=True)
    redis.script_flush()
    assert run(ECHO, ["key"], [1], decode=True) == ["1", "key", 1]


def test_after_an_error_the_next_answer_is_its_own() -> None:
    with pytest.raises(RedisDown):
        run("return redis.call('NONSENSE')", [], [], decode=True)
    assert run(ECHO, ["key"], ["next"], decode=True) == ["next", "key", 1]


def test_after_one_has_waited_in_vain_nobody_waits_for_a_while(redis: Redis) -> None:
    run(ECHO, ["key"], [1], decode=True)
    redis.client_pause(int(ANSWER_SECONDS * 1200))
    with pytest.raises(RedisDown):
        run(ECHO, ["key"], [2], decode=True)
    redis.client_unpause()
    began = time.monotonic()
    with pytest.raises(RedisDown, match="a moment ago"):
        run(ECHO, ["key"], [3], decode=False)
    assert time.monotonic() - began < 0.1
    while time.monotonic() < began + redis_scripts.PAUSE_SECONDS:
        time.sleep(0.05)
    assert run(ECHO, ["key"], ["next"], decode=True) == ["next", "key", 1]


def test_connections_that_redis_has_closed_are_not_used(redis: Redis) -> None:
    run(ECHO, ["key"], [1], decode=True)
    redis.client_kill_filter(_type="normal", skipme=True)
    assert run(ECHO, ["key"], [1], decode=True) == ["1", "key", 1]


def test_an_answer_that_comes_too_late_is_not_taken_for_another(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_scripts, "PAUSE_SECONDS", 0.0)
    run(ECHO, ["key"], [1], decode=True)
    redis.client_pause(int(ANSWER_SECONDS * 1200))
    with pytest.raises(RedisDown):
        run(ECHO, ["key"], ["late"], decode=True)
    redis.client_unpause()
    assert run(ECHO, ["key"], ["next"], decode=True) == ["next", "key", 1]


def test_an_answer_that_an_interrupt_did_not_wait_for_is_not_taken_for_another(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    send: Any = AbstractConnection.send_command

    def interrupted(connection: AbstractConnection, *args: Any) -> None:
        send(connection, *args)
        raise KeyboardInterrupt

    run(ECHO, ["key"], [1], decode=True)
    redis.client_pause(200)
    monkeypatch.setattr(AbstractConnection, "send_command", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(ECHO, ["key"], ["interrupted"], decode=True)
    monkeypatch.undo()
    assert run(ECHO, ["key"], ["next"], decode=True) == ["next", "key", 1]


def test_a_redis_that_is_away_is_down(settings: LazySettings) -> None:
    settings.REDIS_URL = "unix:///nowhere/valkey.sock"
    with pytest.raises(RedisDown):
        run(ECHO, ["key"], [1], decode=True)


def test_threads_get_their_own_answers() -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: run(ECHO, ["key"], [number], decode=True), range(400)))
    assert answers == [[str(number), "key", 1] for number in range(400)]


def test_a_process_that_was_forked_has_connections_of_its_own() -> None:
    run(ECHO, ["key"], [1], decode=True)
    child = os.fork()
    if child == 0:
        os._exit(0 if run(ECHO, ["key"], ["child"], decode=True) == ["child", "key", 1] else 1)
    assert run(ECHO, ["key"], ["parent"], decode=True) == ["parent", "key", 1]
    assert os.waitpid(child, 0)[1] == 0
