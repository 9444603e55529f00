"""What the tests of boards do with them."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import time_machine
from django.db import connections, transaction

from leaderboards import boards, windows
from leaderboards.models import Board, Window
from leaderboards.submitting import Score, Submitted, submit

PATIENCE = 60.0
SERVICE = "service:tests"

T = TypeVar("T")


def make(name: str = "arena", **changes: Any) -> Board:
    board, _ = boards.put(name, changes, None)
    return board


def score(board: Board, *scores: tuple[str, float], **rest: Any) -> Submitted:
    return submit(board, [Score(name, value) for name, value in scores], SERVICE, **rest)


def opened(board: Board) -> list[Window]:
    """As a submission finds them."""
    with transaction.atomic():
        return windows.lock_open(board)


def labels(board: Board) -> list[str]:
    """Of all windows, the newest first; those that are open with a star."""
    return [window.label + "*" * (window.closed_at is None) for window in windows.listing(board)]


@contextmanager
def at(text: str) -> Iterator[time_machine.Traveller]:
    """Time goes on from this moment, in UTC."""
    with time_machine.travel(datetime.fromisoformat(text).replace(tzinfo=UTC)) as traveller:
        yield traveller


def at_once(times: int, work: Callable[[], T]) -> list[T]:
    """In threads, each with a connection of its own."""

    def run() -> T:
        try:
            return work()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(times) as threads:
        return [future.result(PATIENCE) for future in [threads.submit(run) for _ in range(times)]]


def names(rows: Sequence[Any]) -> list[str]:
    return [row.name for row in rows]
