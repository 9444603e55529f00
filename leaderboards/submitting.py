"""Submitting scores: one function over many, one transaction, a result for each."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import msgspec
from django.db import transaction
from django.utils import timezone

from accounts import idempotency
from accounts.errors import ApiError
from accounts.idempotency import Claim
from leaderboards import indexing, owners, rates, scoring, windows
from leaderboards.book import Book, Line
from leaderboards.indexing import Moves
from leaderboards.models import Board, Submission
from leaderboards.scoring import OutOfBounds


@dataclass(frozen=True, slots=True)
class Score:
    """One score to submit, well-formed: finite numbers. `metadata` is JSON; no operator: the board's."""

    name: str
    score: float
    subscore: float = 0.0
    operator: str = ""
    metadata: str = ""

    @property
    def pair(self) -> scoring.Result:
        return float(self.score), float(self.subscore)


class Standing(msgspec.Struct, frozen=True, tag=True):
    """What became of a score: the owner's standing in the board's main window.

    `rank` is null where the owner is not ranked and, with `stale`, where the index does not answer. `held`: the score
    waits for a review, and the standing is as it was before. `previous_rank` is null where it is not known, too.
    """

    board: str
    name: str
    score: float | None
    subscore: float | None
    rank: int | None
    position: int | None
    previous_rank: int | None
    changed: bool
    held: bool = False
    stale: bool = False


class Refusal(msgspec.Struct, frozen=True, tag=True):
    """A score that a rule of the board refuses, and what to do about it."""

    name: str
    code: str
    message: str

    def error(self) -> ApiError:
        return ApiError(422, self.code, self.message)


class Submitted(msgspec.Struct, frozen=True):
    """A result for each score; `replayed`: it was carried out before, and this is what became of it then."""

    results: list[Standing | Refusal]
    replayed: bool = False


def submit(
    board: Board, scores: Sequence[Score], actor: str, claim: Claim | None = None, *, reviewed: bool = False
) -> Submitted:
    """Takes scores into every open window of the board, in their order.

    When this returns, what was accepted is in the database; the ranks are those after all of it. `reviewed`: nothing
    is held for a review. Raises ApiError 404 when the board is deleted meanwhile, 409 while an equal claim is being
    carried out elsewhere, 422 for a claim that was used for something else.
    """
    return owners.despite_erasures(lambda: _submit(board, scores, actor, claim, reviewed))


def _submit(board: Board, scores: Sequence[Score], actor: str, claim: Claim | None, reviewed: bool) -> Submitted:
    with transaction.atomic():
        kept = idempotency.take_one(claim) if claim else None
        if kept and kept.reply:
            return Submitted(msgspec.json.decode(kept.reply, type=list[Standing | Refusal]), replayed=True)
        late = set() if reviewed else rates.too_fast(board, [score.name for score in scores])
        books, taken = store(board, scores, actor, late, reviewed)
        if kept and all(isinstance(one, Refusal) for one in taken):
            kept.delete()  # Nothing has been made of it: the rules may be others next time.
            kept = None
        if kept:
            idempotency.keep_one(kept, _results(books[0], scores, taken, Moves()))  # Should we die before we know more.
    main, *others = books
    moves = indexing.apply(main.window, main.changes, asking=[score.name for score in scores])
    for book in others:
        indexing.apply(book.window, book.changes)
    results = _results(main, scores, taken, moves)
    if kept:
        idempotency.keep_one(kept, results)
    return Submitted(results)


_Taken = bool | str | Refusal
"""Whether a score changed something, why it is held, or why it is refused."""


def store(
    board: Board, scores: Sequence[Score], actor: str, late: Collection[int], reviewed: bool
) -> tuple[list[Book], list[_Taken]]:
    """In the caller's transaction."""
    numbers = owners.ensure(score.name for score in scores)
    books = [Book(window) for window in windows.lock_open(board)]
    board = books[0].window.board  # As it is now.
    for book in books:
        book.read(numbers)
    taken: list[_Taken] = []
    for place, score in enumerate(scores):
        reason = "rate" if place in late else ""
        taken.append(_take(board, books, score, reason, reviewed))
    now = timezone.now()  # After the locks: within a window, time does not run against the numbers.
    for book in books:
        book.write(numbers, actor, now)
    return books, taken


def _take(board: Board, books: Sequence[Book], score: Score, reason: str, reviewed: bool) -> _Taken:
    """All windows take a score, or none does."""
    operator = score.operator or board.operator
    before = [line.pair if (line := book.lines.get(score.name)) else None for book in books]
    try:
        after = [scoring.result(board, operator, pair, score.pair) for pair in before]
    except OutOfBounds as error:
        return Refusal(score.name, "score_out_of_bounds", str(error))
    if not reviewed and any(scoring.is_leap(board, *step) for step in zip(before, after, strict=True)):
        reason = "max_step"
    if reason:
        state = Submission.State.HELD
        books[0].record(score.name, operator, score.pair, None, state, reason, score.metadata)
        return reason
    for book, pair in zip(books, after, strict=True):
        seq = None
        if pair is not None:
            line = book.lines.get(score.name)
            hidden = line is not None and line.hidden
            seq = book.put(score.name, Line(*pair, book.next_place(), hidden, score.metadata))
        book.record(score.name, operator, score.pair, seq)
    return after[0] is not None


def _results(book: Book, scores: Sequence[Score], taken: Sequence[_Taken], moves: Moves) -> list[Standing | Refusal]:
    board = book.window.board.name
    results: list[Standing | Refusal] = []
    for score, what in zip(scores, taken, strict=True):
        if isinstance(what, Refusal):
            results.append(what)
            continue
        line = book.lines.get(score.name)
        rank = moves.after.get(score.name)
        standing = Standing(
            board=board,
            name=score.name,
            score=line.score if line else None,
            subscore=line.subscore if line else None,
            rank=rank,
            position=None if rank is None else rank + 1,
            previous_rank=moves.before.get(score.name) if what is True else rank,
            changed=what is True,
            held=isinstance(what, str),
            stale=not moves.known,
        )
        results.append(standing)
    return results
