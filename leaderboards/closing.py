"""What becomes of windows whose time is over: closed, archived, told of, and in the end deleted.

Each step is a claim or does nothing the second time, so however many do it at once, and wherever one dies, it happens
once.
"""

import logging
import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial

import msgspec
from django.db import connection, transaction
from django.db.models import Max, Q, QuerySet
from django.utils import timezone
from uuid_utils.compat import uuid7

from accounts import audit
from accounts.principals import Principal
from adapters import outbox
from leaderboards import windows
from leaderboards.bulk import chunks
from leaderboards.models import Board, Entry, Submission, Window
from leaderboards.ranking import Ranking, Unavailable, WindowKey
from leaderboards.rankings import key_of, ranking_of
from leaderboards.scoring import plain

logger = logging.getLogger(__name__)

LEASE = timedelta(seconds=60)  # A step of archiving takes less, also reading SORTED_AT_ONCE of many millions.
SORTED_AT_ONCE = 100_000
ROWS_AT_ONCE = 2000  # In one transaction: SQLite lets nobody else write meanwhile.
TOP = 100
DELETED_KEPT = timedelta(minutes=1)  # Until every process knows that the board is gone.


def roll_over(seconds: float) -> None:
    """Closes the windows whose time is over and opens the present ones; for so long at most."""
    until = time.monotonic() + seconds
    due = Window.objects.filter(closed_at=None, ends_at__lte=timezone.now(), board__deleted_at=None)
    for board in Board.objects.filter(pk__in=due.values("board")).order_by("pk"):
        if time.monotonic() >= until:
            break
        try:
            with transaction.atomic():
                windows.lock_open(board)
        except Exception:  # What stands in the way of one must not keep the others.
            logger.exception("The windows of %s are not rolled over.", board)


def reset(board: Board, actor: Principal | None, schedule: str = "") -> Window:
    """Closes the window of a schedule, the main one's by default, which is open now -> the one opened instead.

    Twice at once is once. Raises ApiError 404.
    """
    was = windows.current(board, schedule)
    with transaction.atomic():
        opened = windows.lock_open(board)
        closed = [window for window in opened if window.pk == was.pk]
        if closed:
            windows.close(closed, timezone.now())
            opened = windows.lock_open(board)
        present = next((window for window in opened if window.schedule == was.schedule), opened[0])
        if closed:
            before, after = ({"window": window.label} for window in (was, present))
            audit.record(actor, "board.reset", f"board:{board.name}", before=before, after=after)
    return present


# --- Archiving ------------------------------------------------------------------------------------


def archive(seconds: float) -> None:
    """Gives the entries of closed windows their final ranks, and tells of each window once; for so long at most."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and (window := _claim()):
        while time.monotonic() < until:
            if not _rank(window, until):
                break
        else:
            Window.objects.filter(pk=window.pk, leased_until=window.leased_until).update(leased_until=None)


def _claim() -> Window | None:
    """A window to archive, which nobody else does now."""
    now = timezone.now()
    free = Q(leased_until=None) | Q(leased_until__lte=now)
    found = Window.objects.filter(free, closed_at__isnull=False, archived_at=None, board__deleted_at=None)
    for window in found.select_related("board").order_by("closed_at", "pk")[:10]:
        if Window.objects.filter(free, pk=window.pk, archived_at=None).update(leased_until=now + LEASE):
            window.leased_until = now + LEASE
            return window
    return None


def _renew(window: Window) -> bool:
    """In the caller's transaction: nobody takes it over before that ends. False: somebody has."""
    lease = timezone.now() + LEASE
    renewed = Window.objects.filter(pk=window.pk, leased_until=window.leased_until).update(leased_until=lease)
    window.leased_until = lease
    return bool(renewed)


def _rank(window: Window, until: float) -> bool:
    """Ranks the next entries -> whether there may be more, and they are still ours."""
    entries = Entry.objects.filter(window=window)
    unranked = in_order(window.board, entries.filter(hidden=False, rank=None)).values_list("owner_id", flat=True)
    owners = list(unranked[:SORTED_AT_ONCE])
    last = entries.aggregate(last=Max("rank"))["last"]
    rank = 0 if last is None else last + 1
    for some in chunks(owners, ROWS_AT_ONCE):
        with transaction.atomic():
            if not _renew(window):
                return False
            _write_ranks(window, some, rank)
        rank += len(some)
        if time.monotonic() >= until:
            return True
    if len(owners) < SORTED_AT_ONCE:
        _finish(window)
        return False
    return True


def _write_ranks(window: Window, owners: Sequence[int], rank: int) -> None:
    """One statement; both databases call the columns of VALUES so."""
    table = connection.ops.quote_name(Entry._meta.db_table)
    values = ", ".join(f"({owner}, {rank + number})" for number, owner in enumerate(map(int, owners)))
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {table} SET rank = given.column2 FROM (VALUES {values}) AS given "  # noqa: S608 (ours: integers)
            f"WHERE {table}.window_id = %s AND {table}.owner_id = given.column1",
            [window.pk],
        )


def _finish(window: Window) -> None:
    """Together with what destinations are owed of it; nobody else has, or will."""
    with transaction.atomic():
        now = timezone.now()
        if not _renew(window):
            return
        Window.objects.filter(pk=window.pk).update(archived_at=now, leased_until=None)
        window.refresh_from_db(fields=["entries"])  # Somebody may have been erased.
        outbox.owe([_event(window, now)])
        drop_after_commit([window])


def _event(window: Window, now: datetime) -> outbox.Event:
    found = Entry.objects.filter(window=window, rank__lt=TOP).order_by("rank")
    fields = ("owner__name", "score", "subscore", "rank")
    data = {
        "board": window.board.name,
        "window": {
            "label": window.label,
            "schedule": window.schedule,
            "starts_at": window.starts_at,
            "ends_at": window.ends_at,
            "closed_at": window.closed_at,
        },
        "total": window.entries,
        "top": [
            {"name": name, "score": plain(score), "subscore": plain(subscore), "rank": rank}
            for name, score, subscore, rank in found.values_list(*fields)
        ],
    }
    return outbox.Event("board.closed", uuid7(), f"board.{window.board.name}", msgspec.json.encode(data), now)


def in_order(board: Board, entries: QuerySet[Entry], *, best_first: bool = True) -> QuerySet[Entry]:
    """Entries as the board ranks them."""
    better_is_more = board.order == Board.Order.DESC
    result, place = ("-" if better_is_more == best_first else ""), ("" if best_first else "-")
    return entries.order_by(f"{result}score", f"{result}subscore", f"{place}place")


# --- Deleting -------------------------------------------------------------------------------------


def purge(seconds: float) -> None:
    """Deletes archived windows when their board's retention is over, and all of deleted boards; for so long at most."""
    now, until = timezone.now(), time.monotonic() + seconds
    archived = Window.objects.filter(archived_at__isnull=False)
    for days in set(Board.objects.filter(deleted_at=None).values_list("retention", flat=True).distinct()):
        _delete(archived.filter(board__retention=days, closed_at__lte=now - timedelta(days=days)), until)
    for board in Board.objects.filter(deleted_at__lte=now - DELETED_KEPT):
        if _delete(Window.objects.filter(board=board), until):
            board.delete()


def _delete(found: QuerySet[Window], until: float) -> bool:
    """In small transactions -> whether all are gone."""
    for window in found.select_related("board").order_by("pk"):
        _drop(ranking_of(window.board), key_of(window))  # Where that failed when it was archived.
        for model, column in ((Entry, "owner_id"), (Submission, "pk")):
            rows = model.objects.filter(window=window)
            while some := list(rows.values_list(column, flat=True)[:ROWS_AT_ONCE]):
                rows.filter(**{f"{column}__in": some}).delete()
                if time.monotonic() >= until:
                    return False
        window.delete()
    return True


def drop_after_commit(some: Iterable[Window]) -> None:
    """Nobody asks the indexes of these any more."""
    for window in some:
        transaction.on_commit(partial(_drop, ranking_of(window.board), key_of(window)), robust=True)


def _drop(ranking: Ranking, key: WindowKey) -> None:
    try:
        ranking.drop(key)
    except Unavailable as error:  # Retention tries again.
        logger.warning("The index of window %s is not dropped: %s", key.id, error)
