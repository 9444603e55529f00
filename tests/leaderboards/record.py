"""What tests of faults do in the database and the index of a stack: for a process of the stack's own."""

import json

from django.db import connection, transaction
from django.db.models import Count, Max

from leaderboards import windows
from leaderboards.bulk import chunks, insert
from leaderboards.models import Board, Entry, Owner, Submission, Window
from leaderboards.ranking import Change, Key
from leaderboards.rankings import key_of, ranking_of

BATCH = 10_000


def base(number: int) -> str:
    return f"base-{number:06}"


def fill(name: str, scores: range) -> None:
    """A board as if all of these had been submitted, without the submissions; prints its window and its epoch."""
    board = Board.objects.create(name=name, operator="incr", schedules=["none"])
    with transaction.atomic():
        (window,) = windows.lock_open(board)
        for some in chunks(range(len(scores)), BATCH):
            insert(Owner, ["name"], [[base(number)] for number in some], "ON CONFLICT DO NOTHING")
            numbers = dict(Owner.objects.filter(name__in=map(base, some)).values_list("name", "pk"))
            rows = [(window.pk, numbers[base(at)], float(scores[at]), 0.0, at + 1, False, "") for at in some]
            insert(Entry, ["window_id", "owner_id", "score", "subscore", "place", "hidden", "metadata"], rows)
        Window.objects.filter(pk=window.pk).update(seq=len(scores), entries=len(scores))
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    print(json.dumps([window.pk, window.epoch]))


def tell(window: int) -> None:
    """Prints what the record has: who is not of the base, and counts."""
    entries = Entry.objects.filter(window=window)
    others = entries.exclude(owner__name__startswith="base-")
    submissions = Submission.objects.filter(window=window).aggregate(count=Count("seq"), last=Max("seq"))
    row = Window.objects.get(pk=window)
    told = {"scores": dict(others.values_list("owner__name", "score")), "seq": row.seq, "entries": row.entries}
    print(json.dumps(told | submissions))


def spoil(window: int, lost: int) -> None:
    """The index has changes that the database has lost: the last of the base lead the board."""
    row = Window.objects.select_related("board").get(pk=window)
    changes = [Change(row.seq + n, base(n), Key(1e9 + n, 0.0, row.seq + n)) for n in range(1, lost + 1)]
    ranking_of(row.board).apply(key_of(row), changes)
