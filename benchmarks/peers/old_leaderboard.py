"""The PyPI library `leaderboard` in an environment of its own: it needs a redis-py older than 3."""

import json
import random
import sys
import time
from collections.abc import Callable

from leaderboard.leaderboard import Leaderboard
from redis import Redis

SECONDS = 3.0
PAGE = 20


def main(socket: str, entries: int) -> None:
    rng = random.Random(20260101)
    board = Leaderboard("bench:peer", connection=Redis(unix_socket_path=socket), page_size=PAGE)
    for start in range(0, entries, 1000):
        pairs = []
        for number in range(start, min(start + 1000, entries)):
            pairs += [name_of(number), rng.randrange(10**9)]
        board.rank_members(pairs)

    def name() -> str:
        return name_of(rng.randrange(entries))

    def page() -> None:
        start = rng.randrange(1, max(2, entries - PAGE))
        board.members_from_rank_range(start, start + PAGE - 1)

    figures = {
        "peer add": rate(lambda: board.rank_member(name(), rng.randrange(10**9))),
        "peer rank": rate(lambda: board.score_and_rank_for(name())),
        "peer page": rate(page),
        "peer around": rate(lambda: board.around_me(name())),
    }
    print(json.dumps(figures))


def name_of(number: int) -> str:
    return f"player-{number:07}"


def rate(work: Callable[[], object]) -> float:
    work()
    began, done = time.perf_counter(), 0
    while time.perf_counter() < began + SECONDS:
        work()
        done += 1
    return done / (time.perf_counter() - began)


main(sys.argv[1], int(sys.argv[2]))
