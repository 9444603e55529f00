"""Keeping boards clean: names removed, hidden and shown again, surplus evicted, held submissions reviewed.

Each change of an entry is numbered and recorded as a submission is, with who made it.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from accounts import audit
from accounts.errors import ApiError
from accounts.principals import Principal
from leaderboards import boards, indexing, owners, submitting, windows
from leaderboards.book import Book, Line
from leaderboards.closing import in_order
from leaderboards.models import Board, Entry, Submission, Window
from leaderboards.submitting import Refusal, Score

LIMIT_ACTOR = "system:limit"
ROWS_AT_ONCE = 2000

Operator, State = Submission.Operator, Submission.State
_UNGIVEN = (None, None)


def remove(board: Board, name: str, actor: str) -> None:
    """Takes an owner out of every open window; who is in none stays so."""
    _change(board, name, Operator.REMOVE, lambda line: None, actor)


def hide(board: Board, name: str, actor: str) -> None:
    """Keeps an owner out of the rankings of every open window; scores still count. Raises ApiError 404."""
    if not _change(board, name, Operator.HIDE, lambda line: line._replace(hidden=True), actor):
        raise _not_ranked(name)


def unhide(board: Board, name: str, actor: str) -> None:
    """Ranks an owner again; who has not scored since is where they were. Raises ApiError 404."""
    if not _change(board, name, Operator.UNHIDE, lambda line: line._replace(hidden=False), actor):
        raise _not_ranked(name)


def _change(board: Board, name: str, operator: str, change: Callable[[Line], Line | None], actor: str) -> bool:
    """Whether the owner is in any window."""
    numbers = owners.numbers([name])
    with transaction.atomic():
        books = [Book(window) for window in windows.lock_open(board)]
        now = timezone.now()
        for book in books:
            book.read(numbers)
            line = book.lines.get(name)
            if line and (after := change(line)) != line:
                book.record(name, operator, _UNGIVEN, book.put(name, after))
                book.write(numbers, actor, now)
    _tell(books)
    return any(book.lines or book.changes for book in books)


def _not_ranked(name: str) -> ApiError:
    return ApiError(404, "not_ranked", f"{name} has no score on this board.")


def _tell(books: list[Book]) -> None:
    for book in books:
        indexing.apply(book.window, book.changes)


# --- Entry limits ---------------------------------------------------------------------------------


def evict(seconds: float) -> None:
    """Removes those behind their board's `entry_limit`, in small transactions; for so long at most."""
    until = time.monotonic() + seconds
    full = Window.objects.filter(closed_at=None, entries__gt=F("board__entry_limit"), board__deleted_at=None)
    for board in Board.objects.filter(pk__in=full.values("board")):
        with suppress(ApiError):  # When it has just been deleted.
            while time.monotonic() < until and _evict_some(board):
                pass


def _evict_some(board: Board) -> bool:
    """Whether there may be more."""
    with transaction.atomic():
        books = [Book(window) for window in windows.lock_open(board)]
        now = timezone.now()
        evicted = [_evict_worst(book, now) for book in books]
    _tell(books)
    return ROWS_AT_ONCE in evicted


def _evict_worst(book: Book, now: datetime) -> int:
    window, limit = book.window, book.window.board.entry_limit
    surplus = 0 if limit is None else min(window.entries - limit, ROWS_AT_ONCE)
    if surplus <= 0:
        return 0
    worst = in_order(window.board, Entry.objects.filter(window=window, hidden=False), best_first=False)
    numbers = dict(worst.values_list("owner__name", "owner_id")[:surplus])
    book.read(numbers)
    for name in numbers:
        book.record(name, Operator.REMOVE, _UNGIVEN, book.put(name, None))
    book.write(numbers, LIMIT_ACTOR, now)
    return len(numbers)


# --- Held submissions -----------------------------------------------------------------------------


def approve(held: int, actor: Principal | None) -> None:
    """Submits what was held, as it was given, into the windows that are open now; twice is once.

    Raises ApiError 404 when the board has been deleted, 409 for what is held no more, 422 where a rule of the board
    is against it.
    """
    _tell(owners.despite_erasures(lambda: _approve(held, actor)))


def reject(held: int, actor: Principal | None) -> None:
    """Raises ApiError 409 for what is held no more."""
    with transaction.atomic():
        row = _find(held)
        _decide(row, State.REJECTED)
        audit.record(actor, "score.rejected", boards.subject(row.window.board), after={"submission": held})


def _approve(held: int, actor: Principal | None) -> list[Book]:
    row = _find(held)
    board = row.window.board
    score = Score(row.owner.name, row.given or 0.0, row.given_sub or 0.0, row.operator, row.metadata)
    with transaction.atomic():
        windows.lock_open(board)  # First, as everybody does, or two deadlock.
        _decide(row, State.APPROVED)
        audit.record(actor, "score.approved", boards.subject(board), after={"submission": held})
        books, (taken,) = submitting.store(board, [score], str(actor or audit.SYSTEM), late=(), reviewed=True)
        if isinstance(taken, Refusal):
            raise taken.error()
    return books


def _find(held: int) -> Submission:
    row = Submission.objects.select_related("owner", "window__board").filter(pk=held).first()
    if row is None:
        raise _reviewed()
    return row


def _decide(row: Submission, state: str) -> None:
    """Whoever comes first decides."""
    if not Submission.objects.filter(pk=row.pk, state=State.HELD).update(state=state):
        raise _reviewed()


def _reviewed() -> ApiError:
    return ApiError(409, "wrong_state", "This submission has been reviewed, or is not there any more.")
