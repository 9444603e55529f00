"""Live boards in one process: what is told, when, and of what."""

import json
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import LazySettings
from hypothesis import given
from hypothesis import strategies as st

from accounts.principals import Kind, Principal
from leaderboards import boards, live, standings, submitting, windows
from leaderboards.models import Board
from leaderboards.shapes import Ranked
from leaderboards.submitting import Score
from realtime import bus
from realtime.authorizers import refusals_now
from realtime.frames import Event
from tests.leaderboards.watchers import Watcher, fresh
from tests.presence.redis import TestRedis


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """What is published."""
    told: list[Event] = []
    monkeypatch.setattr(bus, "publish", told.extend)
    return told


@pytest.fixture
def any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A board may be told of again at once."""
    monkeypatch.setattr(live, "TICK_SECONDS", 0)


@pytest.fixture(autouse=True)
def _nothing_is_known(redis: TestRedis) -> Iterator[None]:
    yield
    live._windows.clear()
    boards._found.clear()


def make(name: str = "arena", **changes: Any) -> Board:
    board, _created = boards.put(name, changes, None)
    boards._found.clear()
    live._windows.clear()
    return board


def submit(board: Board, *scores: tuple[str, float], **how: Any) -> None:
    submitting.submit(board, [Score(name, float(score), **how) for name, score in scores], "test")


tops = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 3)), unique_by=lambda row: row[0])


@given(tops, tops)
def test_a_difference_makes_one_top_of_any_other(before: list[tuple[str, int]], after: list[tuple[str, int]]) -> None:
    rows = [[Ranked(name, score, 0, rank) for rank, (name, score) in enumerate(top)] for top in (before, after)]
    there, removed = live.difference(*rows)
    gone = {*removed, *(row.name for row in there)}
    top = [row for row in rows[0] if row.name not in gone]
    for row in there:
        top.insert(row.rank, row)
    assert [(row.name, row.score) for row in top] == after


def test_a_difference_names_only_what_has_changed() -> None:
    before = [
        Ranked(name, score, 0, rank) for rank, (name, score) in enumerate(zip("abcdef", range(9, 3, -1), strict=True))
    ]
    after = [Ranked("x", 10, 0, 0), *(Ranked(row.name, row.score, 0, row.rank + 1) for row in before[:-1])]
    assert live.difference(before, after) == ([after[0]], ["f"])


@pytest.mark.django_db
@pytest.mark.parametrize("ranking", ["redis", "database"])
@pytest.mark.parametrize("order", ["desc", "asc"])
def test_snapshot_and_differences_make_a_fresh_snapshot(
    told: list[Event], any_time: None, monkeypatch: pytest.MonkeyPatch, order: str, ranking: str
) -> None:
    monkeypatch.setattr(live, "TOP", 7)
    chance = random.Random(f"{order} {ranking}")
    board = make(order=order, ranking=ranking, operator="set")
    watcher = Watcher()
    for _ in range(60):
        scores = [
            Score(f"user-{chance.randrange(15)}", float(chance.randrange(6)), float(chance.randrange(2)))
            for _ in range(chance.choice((1, 1, 2, 20)))
        ]
        submitting.submit(board, scores, "test")
        if chance.random() < 0.7:
            live.tick([board.name])
            watcher.take_all(told)
            told.clear()
            assert watcher.top == fresh(board.name).top
            page = standings.page(windows.current(board), 0, 7, "ordinal")
            assert watcher.results == [(row.name, row.score) for row in page.rows]
    assert watcher.snapshots == 1
    assert watcher.diffs > 10


@pytest.mark.django_db
def test_nothing_is_told_while_the_top_stays(told: list[Event], any_time: None) -> None:
    board = make()
    submit(board, *((f"user-{n}", n) for n in range(150)))
    live.tick([board.name])
    assert len(told) == 1
    submit(board, ("user-3", 40), ("newcomer", 20), ("user-149", 100))
    marks = live.tick([board.name]).marks
    assert (len(told), live.positions([board.name])[board.name].head) == (1, 1)
    assert marks[board.name].head == windows.current(board).seq
    submit(board, ("user-3", 50.5))
    live.tick([board.name])
    assert json.loads(told[-1].body) == {
        "event": "board",
        "topic": "board.arena",
        "epoch": told[0].epoch,
        "version": 2,
        "window": "1",
        "total": 151,
        "set": [{"name": "user-3", "score": 50.5, "subscore": 0, "rank": 99}],
        "removed": ["user-50"],
    }


@pytest.mark.django_db
def test_a_tick_tells_once_of_whatever_was_submitted_and_whoever_comes_first(
    told: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "TICK_SECONDS", 1.5)
    board = make()
    submit(board, ("ada", 1))
    live.tick([board.name])
    for score in range(2, 30):
        submit(board, ("ada", score))
    watcher = Watcher()
    deadline = time.monotonic() + 10
    while live.positions([board.name])[board.name].head == 1:
        wait = live.tick([board.name]).wait  # Of one process,
        live.tick([board.name])  # and of another.
        assert 0 < wait <= live.TICK_SECONDS
        assert time.monotonic() < deadline
    watcher.take_all(told)
    assert (watcher.diffs, watcher.results) == (1, [("ada", 29)])
    submit(board, ("ada", 30))
    wait = live.tick([board.name]).wait
    assert (len(told), wait < live.TICK_SECONDS) == (2, True)


@pytest.mark.django_db
def test_the_bytes_of_a_tick_do_not_grow_with_the_submissions(told: list[Event], any_time: None) -> None:
    board = make(operator="set")
    chance = random.Random(7)

    def bytes_of_ticks(submissions: int) -> int:
        told.clear()
        for _ in range(3):
            scores = ((f"user-{chance.randrange(200)}", chance.randrange(100_000)) for _ in range(submissions))
            submit(board, *scores)
            live.tick([board.name])
        assert len(told) == 3
        return sum(len(event.body) for event in told)

    submit(board, *((f"user-{n}", chance.randrange(100_000)) for n in range(200)))
    live.tick([board.name])
    few, many, most = (bytes_of_ticks(count) for count in (10, 800, 2400))
    assert few < many
    assert most < 1.2 * many
    assert most < 3 * 100 * 80


@pytest.mark.django_db
def test_a_new_window_begins_anew_with_a_snapshot(told: list[Event], any_time: None) -> None:
    board = make()
    submit(board, ("ada", 5), ("bob", 4))
    live.tick([board.name])
    watcher = Watcher()
    windows.close([windows.current(board)], board.created_at)
    live.tick([board.name])  # It is known for a second still.
    live._windows.clear()
    live.tick([board.name])
    submit(board, ("bob", 1))
    live.tick([board.name])
    watcher.take_all(told)
    assert (watcher.window, watcher.results, watcher.snapshots, watcher.diffs) == ("2", [("bob", 1)], 2, 1)
    assert watcher.epoch != told[0].epoch


@pytest.mark.django_db
def test_who_knows_an_old_window_does_not_bring_it_back(told: list[Event], any_time: None) -> None:
    board = make()
    submit(board, ("ada", 5))
    live.tick([board.name])
    old = dict(live._windows)
    windows.close([windows.current(board)], board.created_at)
    live._windows.clear()
    live.tick([board.name])
    live._windows.update(old)  # As in another process.
    live.tick([board.name])
    assert fresh(board.name).window == "2"
    assert len(told) == 2


@pytest.mark.django_db
def test_a_board_that_there_is_not_is_empty_until_there_is_one(told: list[Event], any_time: None) -> None:
    live.tick(["arena"])
    assert (fresh("arena").window, fresh("arena").top) == (None, [])
    board = make()
    submit(board, ("ada", 5))
    live.tick(["arena"])
    assert fresh("arena").results == [("ada", 5)]
    boards.delete("arena", None)
    boards._found.clear()
    live._windows.clear()
    live.tick(["arena"])
    assert (fresh("arena").window, fresh("arena").top) == (None, [])
    assert [event.offset for event in told] == [1, 1, 1]


@pytest.mark.django_db
def test_after_redis_was_emptied_the_versions_begin_anew(told: list[Event], any_time: None, redis: TestRedis) -> None:
    board = make()
    submit(board, ("ada", 5))
    live.tick([board.name])
    epoch = fresh(board.name).epoch
    redis.empty()
    assert live.positions([board.name])[board.name].epoch is None
    live.tick([board.name])
    watcher = fresh(board.name)
    assert (watcher.results, watcher.version) == ([("ada", 5)], 1)
    assert watcher.epoch != epoch


@pytest.mark.django_db
def test_a_late_page_does_not_bring_old_rows_back_but_a_restored_database_does(
    told: list[Event], any_time: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = make(operator="set")
    submit(board, ("ada", 5))
    live.tick([board.name])
    late = standings.page(windows.current(board), 0, 9, "ordinal")
    submit(board, ("ada", 6))
    live.tick([board.name])
    monkeypatch.setattr(standings, "page", lambda *_args: late)
    assert live._advance(board.name, windows.current(board)) == []
    assert fresh(board.name).results == [("ada", 6)]
    monkeypatch.setattr(live, "AHEAD_SECONDS", 0)
    (event,) = live._advance(board.name, windows.current(board))
    assert fresh(board.name).results == [("ada", 5)]
    assert event.epoch != told[0].epoch


@pytest.mark.django_db
def test_who_is_behind_the_entry_limit_is_not_shown(told: list[Event], any_time: None) -> None:
    board = make(entry_limit=2)
    submit(board, ("ada", 5), ("bob", 4), ("cyd", 3))
    live.tick([board.name])
    assert fresh(board.name).results == [("ada", 5), ("bob", 4)]
    found = live.own_standings({board.name: ["bob", "cyd"]})[board.name]
    assert list(found) == ["bob"]
    assert (found["bob"].rank, found["bob"].total) == (1, 2)


@pytest.mark.django_db(transaction=True)
def test_who_may_read_a_board_may_listen_to_it(settings: LazySettings) -> None:
    make("open", read="public")
    make("users", read="user")
    make("backend", read="service")
    asked = ["board.open", "board.users", "board.backend", "board.none"]
    read = frozenset({"leaderboards:read"})

    def refused(principal: Principal) -> list[str]:
        return sorted(refusals_now(principal, "subscribe", asked))

    assert refused(Principal(Kind.USER, "ada")) == ["board.backend"]
    assert refused(Principal(Kind.USER, "ada", subscribe=("board.b*",))) == []
    assert refused(Principal(Kind.TOKEN, "t", subscribe=("board.users",))) == [
        "board.backend",
        "board.none",
        "board.open",
    ]
    assert refused(Principal(Kind.SERVICE, "s", scopes=read)) == []
    assert refused(Principal(Kind.SERVICE, "s")) == sorted(asked)
    publish = refusals_now(Principal(Kind.SERVICE, "s", scopes=read), "publish", asked)
    assert sorted(publish) == sorted(asked)
