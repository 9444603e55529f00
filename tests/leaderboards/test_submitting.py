"""Submissions that come faster than a board lets pass, and those that are repeated."""

import pytest

from accounts.idempotency import Claim
from accounts.models import IdempotencyKey
from leaderboards import boards
from leaderboards.models import Board, Submission
from leaderboards.submitting import Refusal, Score, Standing, submit
from tests.leaderboards.boards_at_work import make

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis")]


def claim(key: str) -> Claim:
    return Claim("service:test", "scores", key, "digest")


def held(board: Board, *scores: float, key: str = "") -> list[bool]:
    some = [Score("ada", score) for score in scores]
    results = submit(board, some, "service:test", claim(key) if key else None).results
    return [isinstance(result, Standing) and result.held for result in results]


def test_of_many_at_once_those_beyond_the_rate_are_held_and_no_other() -> None:
    board = make(operator="set", rate="3/h")
    assert held(board, 1, 2, 3, 4, 5) == [False, False, False, True, True]
    assert Submission.objects.filter(state="held", reason="rate").count() == 2
    assert held(board, 6) == [True]


def test_a_repetition_does_not_count_against_the_rate() -> None:
    board = make(operator="set", rate="2/h")
    for _ in range(4):
        assert held(board, 1, key="k") == [False]
    assert held(board, 2) == [False]
    assert held(board, 3) == [True]


def test_what_is_refused_as_a_whole_may_be_sent_again_once_the_rules_are_others() -> None:
    board = make(max_score=5.0)
    for _ in range(2):
        (refusal,) = submit(board, [Score("ada", 6)], "service:test", claim("k")).results
        assert isinstance(refusal, Refusal)
    assert not IdempotencyKey.objects.exists()
    boards.put(board.name, {"max_score": 7.0}, None)
    (standing,) = submit(board, [Score("ada", 6)], "service:test", claim("k")).results
    assert isinstance(standing, Standing)
    assert (standing.rank, standing.changed) == (0, True)
    assert submit(board, [Score("ada", 6)], "service:test", claim("k")).replayed
