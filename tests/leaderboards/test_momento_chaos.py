"""The ranking at Momento while calls fail, come late and things get lost: no answer is wrong."""

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Event

import grpc
import pytest
from django.db import connection

from leaderboards import momento_index
from leaderboards.indexing import catch_up
from leaderboards.momento_ranking import MomentoRanking
from leaderboards.ranking import Change, Gap, Missing, Row, Unavailable, WindowKey
from leaderboards.verifying import verify
from tests.emulators.momento import Momento
from tests.leaderboards.oracle import Oracle

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("at_momento")]

CACHE = "fanfare-test"
SECONDS = 1.5
PEACE_SECONDS = 0.1  # Between two faults.
CALLS = [
    "Get", "SetIf", "SortedSetPut", "SortedSetRemove", "SortedSetFetch", "SortedSetGetRank", "SortedSetLength",
    "DictionaryGet", "DictionarySet", "DictionaryDelete", "DictionaryLength", "Delete",
]  # fmt: skip

ranking = MomentoRanking()


class History:
    """What the record was at each change."""

    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle
        self.rows: dict[int, Sequence[Row]] = {0: []}
        self.batches: list[list[Change]] = []

    def write(self, chance: random.Random) -> None:
        """One change at a time, for an index may be between those of a batch."""
        name = f"player {chance.randrange(30)}"
        result = (float(chance.randrange(5)), float(chance.randrange(2))) if chance.random() < 0.8 else None
        changes = self.oracle.write([(name, result)])
        self.rows[self.oracle.window.seq] = self.oracle.rows()
        self.batches.append(changes)

    def at(self, version: int) -> Sequence[Row]:
        until = time.monotonic() + 5
        while version not in self.rows and time.monotonic() < until:  # The writer is just about to note it.
            time.sleep(0.001)
        return self.rows[version]


@pytest.mark.parametrize("seed", range(2))
def test_no_answer_is_wrong_whatever_fails(momento: Momento, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr("adapters.momento.clients.ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(momento_index, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(momento_index, "WRITING_SECONDS", 0.2)
    monkeypatch.setattr(momento_index, "WAIT_SECONDS", 0.05)
    history, stop = History(Oracle()), Event()
    answers: list[str] = []

    def writer(chance: random.Random) -> None:
        history.write(chance)
        time.sleep(0.003)

    def applier(chance: random.Random) -> None:
        key, batches = history.oracle.key, history.batches[-3:]
        if not batches:
            return
        try:
            ranking.apply(key, chance.choice(batches))
        except Gap as gap:
            catch_up(ranking, key, gap.head, batches[-1][0].seq)
        except Missing:
            ranking.rebuild(key)

    def reader(chance: random.Random) -> None:
        key, start = history.oracle.key, chance.randrange(10)
        found = ranking.page(key, start, start + 10)
        rows = history.at(found.version)
        assert (list(found.rows), found.total) == (rows[start : start + 10], len(rows))
        names = [f"player {number}" for number in range(start, 30, 7)]
        found = ranking.standings(key, names, "competition")
        rows = [row for row in history.at(found.version) if row.name in names]
        assert [row.key for row in found.rows] == [row.key for row in rows]
        answers.append("read")

    def saboteur(chance: random.Random) -> None:
        call = chance.choice(CALLS)
        match chance.randrange(4):
            case 0 | 1:
                code = chance.choice([grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
                momento.fail(call, code, times=chance.randrange(1, 4), late=chance.random() < 0.5)
            case 2:
                momento.delay(call, 0.1)  # Carried out, after nobody waits for it any more.
                time.sleep(0.05)
                momento.heal()
            case 3:
                with momento.store.changed:
                    items = momento.store.caches[CACHE]
                    if items:
                        del items[chance.choice(list(items))]
        time.sleep(PEACE_SECONDS)

    def work(number: int, act: Callable[[random.Random], None]) -> None:
        chance = random.Random(seed * 100 + number)
        try:
            while not stop.is_set():
                with suppress(Missing, Unavailable, Gap):
                    act(chance)
        finally:
            connection.close()

    acts = [writer, applier, applier, reader, reader, saboteur]
    with ThreadPoolExecutor(len(acts)) as pool:
        running = [pool.submit(work, number, act) for number, act in enumerate(acts)]
        time.sleep(SECONDS)
        stop.set()
        for one in running:
            one.result(20)
    momento.heal()
    assert answers
    is_made_good(history.oracle.key)


def is_made_good(key: WindowKey) -> None:
    deadline = time.monotonic() + 5
    while True:
        try:
            ranking.rebuild(key)
            break
        except (Missing, Unavailable):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    while verify(ranking, key):  # Late calls may still come for another moment.
        assert time.monotonic() < deadline
        with suppress(Missing, Unavailable):
            ranking.rebuild(key)
