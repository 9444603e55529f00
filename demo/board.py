"""The demo's leaderboard: everybody may score on it, and a crowd that is not there does."""

import random
import time
from collections.abc import Iterator

from leaderboards import boards, closing, submitting
from leaderboards.models import Board
from leaderboards.submitting import Score

NAME = "demo"
ACTOR = "demo"
POINTS = 100  # Of one score, at most.
SCORES_AT_ONCE = 1000
PAUSE_SECONDS = 0.02
PLAYERS = (
    "ada", "alan", "annie", "barbara", "blaise", "carol", "charles", "claude", "dennis", "donald", "dorothy", "edsger",
    "emmy", "frances", "grace", "hedy", "ivan", "jean", "joan", "john", "karen", "katherine", "kathleen", "ken",
    "leslie", "linus", "margaret", "mary", "niklaus", "radia", "sophie", "tim", "tony", "vint", "whitfield", "yukihiro",
)  # fmt: skip


def ensure() -> Board:
    """The board, made if there is none: scores are points that add up, and users send their own."""
    if board := boards.find(NAME):
        return board
    board, _created = boards.put(NAME, {"operator": "incr", "submit": "self", "read": "user"}, None)
    return board


def play(seconds: float, rate: float) -> Iterator[int]:
    """Empties the board, and lets the players score so many times a second -> how many scores there were so far."""
    board = ensure()
    closing.reset(board, None)
    began, sent = time.monotonic(), 0
    while (passed := time.monotonic() - began) < seconds:
        if count := min(int(passed * rate) - sent, SCORES_AT_ONCE):
            submitting.submit(board, _scores(count), ACTOR)
            sent += count
        yield sent
        time.sleep(PAUSE_SECONDS)


def _scores(count: int) -> list[Score]:
    names = random.choices(PLAYERS, k=count)  # noqa: S311 (a game)
    return [Score(name, float(random.randint(1, POINTS))) for name in names]  # noqa: S311
