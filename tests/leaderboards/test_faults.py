"""Boards whose processes die, and whose index is lost, stopped, old or another one's: no score is lost, no rank wrong.

The truth is what the API has accepted: docs/reliability.md says what is shown here, and what was measured.
"""

import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from leaderboards import rebuilding
from tests.leaderboards.hall import SCORES, Hall, Ledger, Told
from tests.leaderboards.record import base
from tests.servers import STOP_SECONDS, Stack, eventually

ANSWER_MAX = 4.0
LOST = 5


class Staff:
    """Worker and beat of a stack, which come and go."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._there: list[subprocess.Popen[bytes]] = []

    def come(self) -> None:
        if not self._there:
            self._there = [self._stack.start_worker(), self._stack.start_beat()]

    def go(self) -> None:
        """kill -9 of both with all their processes."""
        for process in self._there:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_SECONDS)
        self._there.clear()


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="s", dir=os.environ["FANFARE_TEST_FOLDER"]) as folder:
        limits = {"RATE_SERVICE": "", "RATE_ADDRESS": "", "FANFARE_CRASH_FILE": f"{folder}/crash"}
        with Stack(Path(folder) / "0", **limits) as made:
            made.start_web(wait=False)
            made.start_web("tests.leaderboards.dying:application")
            made.web[0].wait_until_ready()
            yield made


@pytest.fixture(scope="module")
def staff(stack: Stack) -> Staff:
    return Staff(stack)


@pytest.fixture(scope="module")
def everywhere(stack: Stack, staff: Staff) -> Hall:
    """100,000 entries, and their index."""
    staff.come()
    hall = Hall(stack)
    hall.healed()
    return hall


@pytest.fixture
def hall(everywhere: Hall, staff: Staff) -> Hall:
    """Whole, with worker and beat."""
    staff.come()
    everywhere.ledger.stale, everywhere.slowest = 0, 0.0
    return everywhere


def note(text: str) -> None:
    """Shown by `pytest -s`; docs/reliability.md has the numbers of a run."""
    print(f"\n    {text}", flush=True)


def loaded(hall: Hall) -> None:
    """Lets the load go on until it has done something."""
    seq = hall.ledger.seq
    eventually(lambda: hall.ledger.seq > seq + 30, 20, hall.stack.logs)


# --- Processes ------------------------------------------------------------------------------------


def test_killed_processes_lose_no_score(hall: Hall) -> None:
    with hall.load():
        for _ in range(3):
            loaded(hall)
            web = random.choice(hall.stack.web)
            web.kill()
            loaded(hall)
            web.start()
            web.wait_until_ready()
    seconds = hall.healed()
    hall.expect()
    note(f"killed: {hall.ledger.seq - len(SCORES)} accepted, {seconds:.1f} s")


def test_what_dies_between_commit_and_index_counts_at_once(hall: Hall, stack: Stack) -> None:
    sound, doomed = stack.web
    crash = Path(stack.environment["FANFARE_CRASH_FILE"])
    for _ in range(2):
        crash.touch()
        (answer,) = hall.submit({"doomed": 1_000_000}, doomed)  # By the other one, in the end.
        assert (answer["rank"], answer["stale"]) == (None, True)  # As it was kept before the process died.
        assert hall.read("doomed", sound) == 0
        crash.unlink()
        doomed.process.wait(STOP_SECONDS)
        doomed.start()
        doomed.wait_until_ready()
        (answer,) = hall.submit({"doomed": 1}, doomed)
        assert (answer["rank"], answer["stale"]) == (0, False)
    hall.expect()


def test_without_worker_and_beat_answers_are_exact(hall: Hall, staff: Staff) -> None:
    staff.go()
    with hall.load():
        loaded(hall)
        hall.redis.flushall()
        loaded(hall)
    assert hall.ledger.stale > 0
    assert not hall.redis.exists(*hall.keys)
    hall.expect(index=False)
    began = time.monotonic()
    staff.come()
    seconds = hall.healed(began)
    hall.expect()
    note(f"no worker: {hall.ledger.stale} stale; whole {seconds:.1f} s after it came")


KILLED = f"""
import os, signal, django
django.setup()
from leaderboards.models import Window
from leaderboards.rankings import key_of
from leaderboards.rebuilding import rebuild
half = {len(SCORES) // 2}
rebuild(key_of(Window.objects.get()), lambda done: done >= half and os.kill(os.getpid(), signal.SIGKILL))
"""


def test_another_takes_over_from_a_process_that_dies_over_a_rebuild(hall: Hall) -> None:
    hall.redis.flushall()  # Nobody asks, so nobody else begins.
    with pytest.raises(subprocess.CalledProcessError) as died:
        hall.stack.python(KILLED)
    assert died.value.returncode == -signal.SIGKILL
    with hall.load():
        seconds = hall.healed()
    hall.healed()
    hall.expect()
    note(f"died over a rebuild: {seconds:.1f} s, of which the lease is {rebuilding.LEASE_MS / 1000} s")


# --- Redis ----------------------------------------------------------------------------------------


def test_an_index_that_is_lost_under_load_is_whole_again(hall: Hall) -> None:
    with hall.load():
        loaded(hall)
        hall.redis.flushall()
        seconds = hall.healed()
        loaded(hall)
    hall.healed()
    hall.expect()
    note(f"lost: {seconds:.1f} s, {hall.ledger.stale} stale")


def test_a_redis_that_stands_still_keeps_nobody_from_submitting(hall: Hall) -> None:
    with hall.load():
        loaded(hall)
        with hall.stack.valkey.stopped():
            stale = hall.ledger.stale
            eventually(lambda: hall.ledger.stale > stale + 3, 20, hall.stack.logs)
        seconds = hall.healed()
        loaded(hall)
    hall.healed()
    hall.expect()
    assert hall.slowest < ANSWER_MAX
    note(f"stopped: {seconds:.1f} s, {hall.ledger.stale} stale, slowest {hall.slowest:.1f} s")


def test_a_redis_that_comes_back_empty_is_filled_again(hall: Hall) -> None:
    with hall.load():
        loaded(hall)
        hall.stack.valkey.kill()
        stale = hall.ledger.stale
        eventually(lambda: hall.ledger.stale > stale + 10, 20, hall.stack.logs)
        hall.stack.valkey.start()
        seconds = hall.healed()
        loaded(hall)
    hall.healed()
    hall.expect()
    note(f"emptied: {seconds:.1f} s, {hall.ledger.stale} stale")


# --- An index of another time ---------------------------------------------------------------------


def test_an_older_index_is_brought_up_to_date(hall: Hall) -> None:
    with hall.load():
        loaded(hall)
        keys = [key for key in hall.keys if hall.redis.exists(key)]
        with hall.redis.pipeline() as together:
            for key in keys:
                together.copy(key, f"{key}.old")
            together.execute()
        loaded(hall)
        with hall.redis.pipeline() as together:
            for key in keys:
                together.rename(f"{key}.old", key)
            together.execute()
        assert hall.read(base(7)) is not None
        loaded(hall)
    hall.healed()
    hall.expect()


def test_an_index_of_another_epoch_is_made_anew(hall: Hall) -> None:
    with hall.load():
        loaded(hall)
        hall.redis.hset(hall.keys[2], "epoch", "another")
        seconds = hall.healed()
    hall.healed()
    hall.expect()
    note(f"foreign: {seconds:.1f} s")


def test_an_index_ahead_of_a_database_that_lost_something_is_made_anew(hall: Hall, stack: Stack) -> None:
    """Whoever submits finds out, also before anybody has looked."""
    hall.record(f"spoil({hall.window}, {LOST})")
    hall.submit({"first": 50_000}, stack.web[0])
    with hall.load():
        seconds = hall.healed()
    hall.healed()
    hall.expect()
    note(f"ahead: {seconds:.1f} s")


# --- The ledger -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "right"),
    [
        (Told(5, 6, "ann", 999_985, 0), False),
        (Told(5, 6, "ann", 999_985, 1), True),
        (Told(5, 6, "ann", 999_985, 2), True),  # Bob's better score is on its way.
        (Told(5, 6, "ann", 999_985, 3), False),
        (Told(7, 8, "ann", 999_985, 1), False),
        (Told(7, 8, "ann", 999_985, 2), True),
        (Told(7, 8, "ann", 999_975, 4), False),  # As if her second score had not come.
        (Told(5, 6, "bob", 0, None), True),
        (Told(7, 8, "bob", 0, None), False),
        (Told(7, 8, "base-099999", 999_990, 0), False),
        (Told(7, 8, "base-099999", 999_990, 1), True),
    ],
)
def test_the_ledger_finds_wrong_ranks(told: Told, right: bool) -> None:
    ledger = Ledger()
    ledger.sent = {"ann": [(1, 999_975), (2, 999_985)], "bob": [(3, 999_995)]}
    ledger.accepted = {"ann": [(2, 999_975), (3, 999_985)], "bob": [(6.5, 999_995)]}
    ledger.told = [told]
    if right:
        assert ledger.check() == 1
    else:
        with pytest.raises(AssertionError):
            ledger.check()
