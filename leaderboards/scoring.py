"""What a submission makes of an entry: the rules of a board as pure functions."""

import math
from fractions import Fraction

from leaderboards.models import Board, Submission

SCORE_MAX = 2.0**53  # Up to here a float holds every integer.

Result = tuple[float, float]
"""A score and its subscore."""

Operator = Submission.Operator


class OutOfBounds(Exception):
    """The result is beyond what the board, or a score, may be; the text names the limit."""


def result(board: Board, operator: str, before: Result | None, given: Result) -> Result | None:
    """What an owner has who had `before`; None when nothing changes. Raises OutOfBounds.

    The pair counts as a whole: a better score brings its own subscore with it.
    """
    if operator not in (Operator.INCR, Operator.DECR):
        check(board, given)
        if operator == Operator.BEST and before is not None and not is_better(board, given, before):
            return None
        return None if given == before else given
    sign = 1 if operator == Operator.INCR else -1
    score, subscore = before or (0.0, 0.0)
    after = _sum(score, sign * given[0]), _sum(subscore, sign * given[1])
    check(board, after)
    return None if after == before else after


def check(board: Board, pair: Result) -> None:
    """Raises OutOfBounds for a result that may not be."""
    score, subscore = pair
    if board.min_score is not None and score < board.min_score:
        raise OutOfBounds(f"score: at least {board.min_score} on this board (min_score).")
    if board.max_score is not None and score > board.max_score:
        raise OutOfBounds(f"score: at most {board.max_score} on this board (max_score).")
    if not (abs(score) <= SCORE_MAX and abs(subscore) <= SCORE_MAX):
        raise OutOfBounds("score: from -2^53 to 2^53, where integers are exact; so is subscore.")


def is_better(board: Board, one: Result, other: Result) -> bool:
    return one > other if board.order == Board.Order.DESC else one < other


def is_leap(board: Board, before: Result | None, after: Result | None) -> bool:
    """Whether it is further from what the owner had than the board lets pass without a review."""
    if board.max_step is None or before is None or after is None:
        return False
    return abs(after[0] - before[0]) > board.max_step


def _sum(one: float, other: float) -> float:
    """What is beyond the bounds is not rounded to be within them: then it is infinite."""
    total = one + other
    if abs(total) == SCORE_MAX and abs(Fraction(one) + Fraction(other)) > SCORE_MAX:
        return math.copysign(math.inf, total)
    return total


def plain(value: float) -> int | float:
    """A number as people write it: without a fraction if there is none."""
    return int(value) if value.is_integer() else value
