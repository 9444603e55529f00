"""Indexes made anew while others write, or die of it; and what `manage.py leaderboards` says of them."""

import io
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from threading import Event

import pytest
from django.conf import LazySettings
from django.core.management import CommandError, call_command
from django.db import connection

from leaderboards import rebuilding
from leaderboards.database_ranking import DatabaseRanking
from leaderboards.models import Board, Entry, Owner, Submission, Window
from leaderboards.ranking import Gap, Missing, Unavailable
from leaderboards.rebuilding import rebuild, rebuild_wanted, recorded, want
from leaderboards.redis_index import Index
from leaderboards.redis_ranking import RedisRanking
from leaderboards.verifying import verify
from tests.leaderboards.oracle import Oracle, Wish
from tests.presence.redis import TestRedis

pytestmark = pytest.mark.django_db(transaction=True)

ranking = RedisRanking()


@pytest.fixture
def oracle(redis: TestRedis) -> Oracle:
    return Oracle()


def players(count: int) -> list[Wish]:
    return [(f"player {number}", (float(number % 77), 0.0)) for number in range(count)]


def some(count: int) -> list[Wish]:
    """Some come, some move, some leave."""
    chosen = random.Random().choices(range(4000), k=count)
    return [(f"player {one}", random.choice([None, (float(one % 50), 1.0)])) for one in chosen]


def catch_up(oracle: Oracle) -> None:
    while changes := recorded(oracle.window.pk, ranking.head(oracle.key), 1000):
        ranking.apply(oracle.key, changes)


def is_exact(oracle: Oracle) -> bool:
    return ranking.page(oracle.key, 0, 10_000) == DatabaseRanking().page(oracle.key, 0, 10_000)


def write_until(stop: Event, oracle: Oracle) -> int:
    """As submissions do: the record, then the index, as far as it is there."""
    count = 0
    try:
        while not stop.is_set():
            changes = oracle.write(some(20))
            count += len(changes)
            with suppress(Gap, Missing):
                ranking.apply(oracle.key, changes)
    finally:
        connection.close()
    return count


def wait_for_change(after: int, _done: int) -> None:
    deadline = time.monotonic() + 20
    while Window.objects.get().seq <= after:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_an_index_is_made_anew_while_two_writers_go_on(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuilding, "ROWS_A_STATEMENT", 100)
    oracle.write(players(3000))
    stop = Event()
    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write_until, stop, oracle) for _ in range(2)]
        try:
            for _ in range(5):
                before = Window.objects.get().seq
                rebuild(oracle.key, partial(wait_for_change, before))
                assert ranking.head(oracle.key) > before
        finally:
            stop.set()
        assert all(writer.result(30) > 0 for writer in writers)
    catch_up(oracle)
    assert is_exact(oracle)
    assert verify(ranking, oracle.key) == []


def test_an_owner_who_is_erased_meanwhile_is_not_in_it(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuilding, "ROWS_A_STATEMENT", 10)
    oracle.write(players(30))

    def erase(done: int) -> None:
        if done == 20 and Owner.objects.filter(name="player 3").exists():
            oracle.write([("player 3", None)])
            Submission.objects.filter(owner__name="player 3").delete()
            Owner.objects.filter(name="player 3").delete()

    rebuild(oracle.key, erase)
    assert is_exact(oracle)
    assert ranking.standings(oracle.key, ["player 3"]).rows == []


def test_one_process_at_a_time_makes_it(oracle: Oracle) -> None:
    oracle.write(players(10))

    def try_too(_done: int) -> None:
        with pytest.raises(Unavailable):
            rebuild(oracle.key)

    rebuild(oracle.key, try_too)
    assert is_exact(oracle)
    rebuild(oracle.key)


def test_who_has_lost_the_lease_changes_nothing(oracle: Oracle, redis: TestRedis) -> None:
    oracle.write(players(10))
    rebuild(oracle.key)
    made = ranking.page(oracle.key, 0, 100)
    oracle.write(players(5))

    def lose(_done: int) -> None:
        redis.client.set(Index(oracle.key).lease, "somebody else's")

    with pytest.raises(Unavailable):
        rebuild(oracle.key, lose)
    assert ranking.page(oracle.key, 0, 100) == made
    assert redis.client.get(Index(oracle.key).lease) == "somebody else's"


def test_a_window_that_is_dropped_meanwhile_stays_dropped(oracle: Oracle) -> None:
    oracle.write(players(10))
    with pytest.raises(Unavailable):
        rebuild(oracle.key, lambda _done: ranking.drop(oracle.key))
    with pytest.raises(Missing):
        ranking.head(oracle.key)


KILLED = """
import os, signal, django
django.setup()
from leaderboards.models import Window
from leaderboards.rankings import key_of
from leaderboards.rebuilding import rebuild
rebuild(key_of(Window.objects.get()), lambda done: done >= 3000 and os.kill(os.getpid(), signal.SIGKILL))
"""


def test_what_a_killed_process_leaves_behind_expires(oracle: Oracle, redis: TestRedis, settings: LazySettings) -> None:
    oracle.write(players(3000))
    rebuild(oracle.key)
    live = set(redis.client.keys("*"))
    name = connection.settings_dict["NAME"]
    database = os.environ.get("DATABASE_URL", "").replace("@/postgres?", f"@/{name}?") or f"sqlite:///{name}"
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "DATABASE_URL": database,
        "REDIS_URL": settings.REDIS_URL,
    }
    done = subprocess.run([sys.executable, "-c", KILLED], env=environment, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    left = set(redis.client.keys("*")) - live
    assert len(left) == 4  # The lease, and three keys of an index.
    assert all(0 < redis.client.pttl(key) <= rebuilding.LEFT_BEHIND_MS for key in left)
    with pytest.raises(Unavailable):
        rebuild(oracle.key)
    assert is_exact(oracle)
    redis.client.pexpire(Index(oracle.key).lease, 1)
    deadline = time.monotonic() + 10
    while redis.client.exists(Index(oracle.key).lease) and time.monotonic() < deadline:
        pass
    rebuild(oracle.key)
    assert is_exact(oracle)
    assert all(redis.client.pttl(key) == -1 for key in live)


def test_what_is_wanted_is_made_once(oracle: Oracle, redis: TestRedis) -> None:
    oracle.write(players(10))
    want(oracle.window.pk)
    want(oracle.window.pk)
    want(99_999)  # Deleted meanwhile.
    assert rebuild_wanted() == 1
    assert is_exact(oracle)
    assert rebuild_wanted() == 0
    want(oracle.window.pk)
    redis.client.set(Index(oracle.key).lease, "another process")
    assert rebuild_wanted() == 0
    redis.client.delete(Index(oracle.key).lease)
    assert rebuild_wanted() == 1


def test_a_board_that_is_broken_keeps_no_other_waiting(
    oracle: Oracle, redis: TestRedis, caplog: pytest.LogCaptureFixture
) -> None:
    oracle.write(players(10))
    broken = Oracle()
    Board.objects.filter(pk=broken.window.board_id).update(ranking="that was once")
    want(broken.window.pk)
    want(oracle.window.pk)
    assert rebuild_wanted() == 1
    assert is_exact(oracle)
    assert f"The index of {broken.window} cannot be made" in caplog.text
    assert not redis.client.exists("fanfare:boards:todo")


def test_who_knows_an_older_epoch_makes_no_index(oracle: Oracle) -> None:
    old = oracle.key
    oracle.write(players(10))
    Window.objects.update(epoch="another")
    with pytest.raises(Unavailable):
        rebuild(old)
    oracle.window.refresh_from_db()
    rebuild(oracle.key)
    assert is_exact(oracle)


# --- The command ----------------------------------------------------------------------------------


def command(*args: str) -> str:
    out = io.StringIO()
    try:
        call_command("leaderboards", *args, stdout=out)
    except CommandError as error:
        return f"{out.getvalue()}Error: {error}"
    return out.getvalue()


def test_an_index_that_is_as_the_record_says_is_verified(oracle: Oracle) -> None:
    oracle.write(players(1200))
    name = oracle.window.board.name
    assert "There is no index of it." in command("verify", name)
    assert command("rebuild", name) == f"{name} 1: rebuild done, 1200 entries.\n"
    assert command("verify") == f"{name} 1: verify done, 1200 entries.\n"
    assert "There is no such window" in command("verify", "another board")
    assert "There is no such window" in command("rebuild", name, "--window", "2")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("Z:ZREM", "There is no index of it."),
        ("Z:DEL", "There is no index of it."),
        ("M:DEL", "There is no index of it."),
        ("ZM:left out", "It has 9 entries, the record 10."),
        ("Z:ZADD", "otherwise in the record: 1, such as player 4."),
        ("M:HSET", "otherwise in the record: 1, such as player 4."),
        ("I:HSET", "It is at change 5, the record at 10."),
        ("record", "otherwise in the record: 1, such as player 4."),
        ("count", "The record says that it has 9 entries, but has 10."),
    ],
)
def test_what_is_wrong_with_an_index_is_said(
    oracle: Oracle, redis: TestRedis, monkeypatch: pytest.MonkeyPatch, fault: str, words: str
) -> None:
    monkeypatch.setattr("leaderboards.verifying.LOOKS", 2)
    oracle.write(players(10))
    rebuild(oracle.key)
    index = Index(oracle.key)
    z, m, i, _d = index.keys
    find = "local x = redis.call('HGET', KEYS[2], 'player 4') .. 'player 4' "
    spoil = {
        "Z:ZREM": find + "redis.call('ZREM', KEYS[1], x)",
        "Z:ZADD": find + "redis.call('ZADD', KEYS[1], 5, x)",
        "Z:DEL": "redis.call('DEL', KEYS[1])",
        "M:DEL": "redis.call('DEL', KEYS[2])",
        "M:HSET": "redis.call('HDEL', KEYS[2], 'player 4') redis.call('HSET', KEYS[2], 'another', 'x')",
        "ZM:left out": find
        + "redis.call('ZREM', KEYS[1], x) redis.call('HDEL', KEYS[2], 'player 4') "
        + "redis.call('HSET', KEYS[3], 'size', 9)",
        "I:HSET": "redis.call('HSET', KEYS[3], 'head', 5)",
    }
    if fault == "record":
        Entry.objects.filter(owner__name="player 4").update(score=99)
    elif fault == "count":
        Window.objects.update(entries=9)
    else:
        redis.client.eval(spoil[fault], 3, z, m, i)
    said = command("verify")
    assert words in said
    assert "Error: 1 of 1 windows" in said
    Window.objects.update(entries=10)
    command("rebuild")
    assert "verify done" in command("verify")
