"""Rankings and the record: whatever is late, held back, or of a past that the database has lost, ranks are right."""

import itertools
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import transaction

from leaderboards import boards, closing, indexing, standings, submitting
from leaderboards.database_ranking import DatabaseRanking
from leaderboards.models import Board
from leaderboards.ranking import Change, Key
from leaderboards.rankings import key_of, ranking_of
from leaderboards.redis_index import Index
from leaderboards.redis_ranking import RedisRanking
from leaderboards.submitting import Refusal, Score, Standing
from tests.leaderboards.boards_at_work import SERVICE, at_once, make, names, opened, score
from tests.presence.redis import TestRedis

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def board(redis: TestRedis) -> Board:
    indexing._checked.clear()
    board = make("arena", operator="set")
    score(board, ("ada", 5), ("bob", 7), ("cy", 6))
    return board


def is_exact(board: Board) -> bool:
    (window,) = opened(board)
    answers = [ranking.page(key_of(window), 0, 100) for ranking in (ranking_of(board), DatabaseRanking())]
    return answers[0] == answers[1]


def test_changes_that_were_held_back_come_too_late_and_do_no_harm(board: Board) -> None:
    with transaction.atomic():
        (late,), _ = submitting.store(board, [Score("ada", 9)], SERVICE, late=(), reviewed=False)
    (bob,) = score(board, ("bob", 8)).results
    assert isinstance(bob, Standing)
    assert (bob.previous_rank, bob.rank, bob.stale) == (1, 1, False)
    assert indexing.apply(late.window, late.changes) == indexing.Moves({}, {"ada": 0}, known=True)
    assert is_exact(board)


def test_workers_that_apply_in_any_order_tell_ranks(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    at_its_pace = RedisRanking.apply

    def apply(*args: Any) -> Any:
        time.sleep(random.choice([0, 0, 0.005, 0.02]))
        return at_its_pace(*args)

    monkeypatch.setattr(RedisRanking, "apply", apply)
    numbers = itertools.count(10)

    def work() -> list[Standing | Refusal]:
        return [result for _ in range(10) for result in score(board, (f"{next(numbers)}", next(numbers))).results]

    answers = [answer for some in at_once(4, work) for answer in some]
    assert all(isinstance(answer, Standing) and answer.rank is not None for answer in answers)
    assert is_exact(board)


def test_the_first_ones_of_a_window_are_all_told_their_ranks(board: Board) -> None:
    for _ in range(5):
        closing.reset(board, None)
        numbers = itertools.count(1)

        def work(numbers: Iterator[int] = numbers) -> Standing | Refusal:
            number = next(numbers)
            return score(board, (f"{number}", number)).results[0]

        answers = at_once(8, work)
        assert [answer for answer in answers if not isinstance(answer, Standing) or answer.rank is None] == []
        assert is_exact(board)


@pytest.mark.parametrize("kept", [True, False])
def test_who_changes_nothing_is_told_a_rank_after_the_index_was_lost(
    board: Board, redis: TestRedis, *, kept: bool
) -> None:
    board = boards.put("arena", {"max_step": 10}, None)[0]
    redis.empty()
    (answer,) = score(board, ("cy", 6 if kept else 6000)).results
    assert isinstance(answer, Standing)
    assert (answer.rank, answer.changed, answer.held, answer.stale) == (1, False, not kept, False)
    assert is_exact(board)


@pytest.mark.parametrize("some", [["ada"], ["cy", "dan", "bob"]])
@pytest.mark.parametrize("lost", [[0], [1], [2], [3], [0, 1], [1, 2, 3]])
def test_an_index_of_which_redis_has_thrown_out_a_part_tells_no_wrong_rank(
    board: Board, redis: TestRedis, lost: list[int], some: list[str]
) -> None:
    (window,) = opened(board)
    assert [row.rank for row in standings.page(window, 0, 10, "dense").rows] == [0, 1, 2]

    def lose() -> None:
        keys = Index(key_of(window)).keys
        assert redis.client.delete(*(keys[at] for at in lost)) == len(lost)

    lose()
    assert names(standings.of(window, ["ada", "bob", "cy"], "dense").rows) == ["bob", "cy", "ada"]
    assert is_exact(board)
    standings.of(window, ["ada"], "dense")
    lose()
    answers = score(board, *((name, 10) for name in some)).results
    ranks = [(answer.rank, answer.stale) for answer in answers if isinstance(answer, Standing)]
    assert ranks == [(at, False) for at in range(len(some))]
    assert is_exact(board)


@pytest.mark.parametrize("some", [["ada"], ["dan"], ["ada", "bob", "cy", "dan"]])
def test_who_submits_finds_out_that_the_database_has_lost_something(board: Board, some: list[str]) -> None:
    (window,) = opened(board)
    lost = [Change(window.seq + 1, "bob", Key(1, 0, window.seq + 1)), Change(window.seq + 2, "cy", None)]
    ranking_of(board).apply(key_of(window), lost)
    answers = score(board, *((name, 10) for name in some)).results
    assert [(answer.rank, answer.stale) for answer in answers if isinstance(answer, Standing)] == [
        (at, False) for at in range(len(some))
    ]
    assert is_exact(board)


def test_who_reads_finds_out_soon(board: Board) -> None:
    (window,) = opened(board)
    ranking_of(board).apply(key_of(window), [Change(window.seq + 1, "bob", None)])
    indexing._checked.clear()  # As if a second had passed.
    assert names(standings.page(window, 0, 10, "ordinal").rows) == ["bob", "cy", "ada"]


def test_what_is_accepted_is_read_although_no_index_has_it_yet(board: Board) -> None:
    """By who has looked at the index just before, too; and by who submits what changes nothing."""
    (window,) = opened(board)
    assert names(standings.page(window, 0, 1, "ordinal").rows) == ["bob"]
    with transaction.atomic():
        submitting.store(board, [Score("ada", 9)], SERVICE, late=(), reviewed=False)
    (window,) = opened(board)
    assert names(standings.page(window, 0, 1, "ordinal").rows) == ["ada"]
    with transaction.atomic():
        submitting.store(board, [Score("cy", 10)], SERVICE, late=(), reviewed=False)
    (same,) = score(board, ("ada", 9)).results
    assert isinstance(same, Standing)
    assert (same.rank, same.changed, same.stale) == (1, False, False)
