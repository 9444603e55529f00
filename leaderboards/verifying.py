"""Comparing the index of a window with the record, entry by entry, while others read and write."""

import time
from collections.abc import Mapping
from itertools import pairwise

from leaderboards.models import Entry, Window
from leaderboards.ranking import Key, Missing, Ranking, Told, WindowKey, nobody

ROWS_AT_ONCE = 1000
LOOKS = 50  # At what differs: it may just be changing.
PAUSE_SECONDS = 0.1
EXAMPLES = 5

_COLUMNS = ("owner__name", "hidden", "score", "subscore", "place")


def verify(ranking: Ranking, window: WindowKey, told: Told = nobody) -> list[str]:
    """What is wrong with an index, in a few sentences. Nothing: it has every entry as it is, no other, and in order.

    Tells how many entries it has looked at. Raises Unavailable.
    """
    try:
        return [*_total(ranking, window), *_entries(ranking, window, told), *_order(ranking, window)]
    except Missing:
        return ["There is no index of it."]


def _total(ranking: Ranking, window: WindowKey) -> list[str]:
    for look in range(LOOKS):
        time.sleep(PAUSE_SECONDS if look else 0)
        found = ranking.page(window, 0, 0)
        before = Window.objects.get(pk=window.id)
        count = Entry.objects.filter(window=window.id, hidden=False).count()
        if found.version == before.seq == ranking.head(window) == _seq(window):
            break
    wrong = []
    if found.version != before.seq:
        wrong.append(f"It is at change {found.version}, the record at {before.seq}.")
    if found.total != count:
        wrong.append(f"It has {found.total} entries, the record {count}.")
    if before.entries != count:
        wrong.append(f"The record says that it has {before.entries} entries, but has {count}.")
    return wrong


def _seq(window: WindowKey) -> int:
    return Window.objects.values_list("seq", flat=True).get(pk=window.id)


def _entries(ranking: Ranking, window: WindowKey, told: Told) -> list[str]:
    wrong: list[str] = []
    done = last = 0
    while True:
        entries = Entry.objects.filter(window=window.id, owner__gt=last).order_by("owner_id")
        some = list(entries.values_list("owner_id", *_COLUMNS)[:ROWS_AT_ONCE])
        if not some:
            break
        record = dict(_line(*line) for _id, *line in some)
        if differing := _differing(ranking, window, record):
            wrong += _differing_always(ranking, window, differing)
        last = some[-1][0]
        done += len(some)
        told(done)
    if not wrong:
        return []
    return [f"Entries that are otherwise in the record: {len(wrong)}, such as {', '.join(wrong[:EXAMPLES])}."]


def _differing_always(ranking: Ranking, window: WindowKey, names: list[str]) -> list[str]:
    """Those that the index has otherwise than the record, whenever one looks."""
    for _ in range(LOOKS):
        time.sleep(PAUSE_SECONDS)
        seq = _seq(window)
        entries = Entry.objects.filter(window=window.id, owner__name__in=names).values_list(*_COLUMNS)
        names = _differing(ranking, window, dict.fromkeys(names) | dict(_line(*line) for line in entries))
        if not names or seq == ranking.head(window) == _seq(window):
            break
    return names


def _line(name: str, hidden: bool, score: float, subscore: float, place: int) -> tuple[str, Key | None]:
    return name, None if hidden else Key(score, subscore, place)


def _differing(ranking: Ranking, window: WindowKey, record: Mapping[str, Key | None]) -> list[str]:
    index = {row.name: row.key for row in ranking.standings(window, list(record)).rows}
    return [name for name, key in record.items() if key != index.get(name)]


def _order(ranking: Ranking, window: WindowKey) -> list[str]:
    """Goes through it from the best to the worst."""
    rows = ranking.page(window, 0, ROWS_AT_ONCE).rows
    while rows:
        for one, other in pairwise(rows):
            if window.order(one) >= window.order(other) or one.rank + 1 != other.rank:
                return [f"Out of order: {one.name} and {other.name}, at {one.rank} and {other.rank}."]
        rows = ranking.after(window, rows[-1].key, rows[-1].name, ROWS_AT_ONCE).rows
    return []
