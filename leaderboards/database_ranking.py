"""Rankings without an index: every answer is one statement about the entries. Exact, and slow for very many of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from django.db import connection
from django.db.models import Max, QuerySet

from leaderboards.models import Entry, Window
from leaderboards.ranking import Change, Found, Key, Row, Ties, Told, WindowKey, nobody

NAMES_COUNTED = 3  # For so few, counting who is better is quicker than sorting all.

_MINE = "FROM leaderboards_entry mine WHERE window_id = %(window)s AND NOT hidden"
_RANKS = {
    "ordinal": "ROW_NUMBER() OVER places - 1",
    "competition": "RANK() OVER results - 1",
    "modified": "COUNT(*) OVER results - 1",
    "dense": "DENSE_RANK() OVER results - 1",
}
# What is better than `mine`, for the ranks that are a number of entries.
_BETTER = {
    "ordinal": "(score, subscore, {sign}place) {better} (mine.score, mine.subscore, {sign}mine.place)",
    "competition": "(score, subscore) {better} (mine.score, mine.subscore)",
    "modified": "(score, subscore) {better}= (mine.score, mine.subscore)",
}
_SORTED = """
SELECT owner_id, score, subscore, place, ROW_NUMBER() OVER places - 1 AS ordinal, {rank} AS rank {mine}
WINDOW places AS (ORDER BY score {way}, subscore {way}, place), results AS (ORDER BY score {way}, subscore {way})
"""
# Some neighbours, of whom the first is at {start}.
_SOME = """
SELECT owner_id, score, subscore, place, ROW_NUMBER() OVER places - 1 + {start} AS rank
FROM (
  SELECT owner_id, score, subscore, place {mine} {only}
  ORDER BY score {way}, subscore {way}, place LIMIT %(limit)s OFFSET {offset}
) chosen
WINDOW places AS (ORDER BY score {way}, subscore {way}, place)
"""
_COUNTED = """
SELECT owner_id, score, subscore, place, {count} AS rank
{mine} AND owner_id IN (SELECT id FROM leaderboards_owner WHERE name IN ({names}))
"""
_ANSWER = """
WITH ranked AS ({source}), chosen AS (
  SELECT ranked.*, name FROM ranked JOIN leaderboards_owner ON leaderboards_owner.id = owner_id {which}
)
SELECT seq, entries, {size}, name, score, subscore, place, chosen.rank
FROM leaderboards_window LEFT JOIN chosen ON 1 = 1 WHERE leaderboards_window.id = %(window)s
ORDER BY score {way}, subscore {way}, place
"""
_NAMED = f"{_MINE} AND owner_id = (SELECT id FROM leaderboards_owner WHERE name = %(name)s)"  # noqa: S608 (ours)
_SCORES = "score BETWEEN %(low)s AND %(high)s"
_SIZE = f"(SELECT COUNT(*) {_MINE} AND {_SCORES})"
_NEAR = """
COALESCE((
  SELECT CASE WHEN least < 0 THEN 0 ELSE least END FROM (
    SELECT CASE WHEN at - %(half)s > total - %(limit)s THEN total - %(limit)s ELSE at - %(half)s END AS least
    FROM (SELECT {at} AS at, (SELECT entries FROM leaderboards_window WHERE id = %(window)s) AS total {named}) middle
  ) first
), 0)
"""
_COUNT = """
(SELECT COUNT(*) FROM leaderboards_entry WHERE window_id = %(window)s AND NOT hidden AND {better_than_mine})
"""


class DatabaseRanking:
    """What the record says. Of archived windows it has the final ranks."""

    indexed = False

    def refuses(self, entry_limit: int | None) -> str:
        return ""

    def apply(self, window: WindowKey, changes: Sequence[Change]) -> tuple[None, list[int | None]]:
        names = [change.name for change in changes]
        ranks = {row.name: row.rank for row in self.standings(window, names).rows}
        return None, [ranks.get(name) for name in names]

    def head(self, window: WindowKey) -> int:
        return Window.objects.filter(pk=window.id).values_list("seq", flat=True).first() or 0

    def standings(self, window: WindowKey, names: Sequence[str], ties: Ties = "ordinal") -> Found:
        some = list(dict.fromkeys(names))
        if window.archived and ties == "ordinal":
            return _archived(window, _final(window).filter(owner__name__in=some))
        marks = {f"name{number}": name for number, name in enumerate(some)}
        listed = ", ".join(f"%({mark})s" for mark in marks) or "NULL"
        if len(some) <= NAMES_COUNTED and ties != "dense":
            count = _COUNT.format(better_than_mine=_better(window, ties)) + (" - 1" if ties == "modified" else "")
            return _ask(window, ties, _COUNTED, "", marks, count=count, names=listed)[0]
        return _ask(window, ties, _SORTED, f"WHERE name IN ({listed})", marks)[0]

    def page(self, window: WindowKey, start: int, stop: int, ties: Ties = "ordinal") -> Found:
        if window.archived and ties == "ordinal":
            return _archived(window, _final(window).filter(rank__gte=start, rank__lt=stop))
        limit = {"start": start, "limit": max(stop - start, 0)}
        if ties == "ordinal":
            return _ask(window, ties, _SOME, "", limit, only="", offset="%(start)s", start="%(start)s")[0]
        return _ask(window, ties, _SORTED, "ORDER BY ordinal LIMIT %(limit)s OFFSET %(start)s", limit)[0]

    def after(self, window: WindowKey, key: Key, name: str, limit: int, ties: Ties = "ordinal") -> Found:
        if window.archived and ties == "ordinal":
            # Entries stay, unless their owners are erased.
            here = _final(window).filter(owner__name=name, place=key.place).values_list("rank", flat=True).first()
            if here is not None:
                return _archived(window, _final(window).filter(rank__gt=here)[:limit])
        place, worse = ("score, subscore, -place", "<") if window.descending else ("score, subscore, place", ">")
        behind = f"({place}) {worse} (%(score)s, %(subscore)s, %(place)s)"
        cursor = {
            "score": key.score,
            "subscore": key.subscore,
            "place": -key.place if window.descending else key.place,
            "limit": limit,
        }
        if ties == "ordinal":
            start = f"(SELECT COUNT(*) {_MINE} AND NOT {behind})"
            return _ask(window, ties, _SOME, "", cursor, only=f"AND {behind}", offset="0", start=start)[0]
        return _ask(window, ties, _SORTED, f"WHERE {behind} ORDER BY ordinal LIMIT %(limit)s", cursor)[0]

    def around(self, window: WindowKey, name: str, size: int, ties: Ties = "ordinal") -> Found:
        if window.archived and ties == "ordinal":
            return self._around_archived(window, name, size)
        values = {"name": name, "limit": size, "half": size // 2}
        only = f"EXISTS (SELECT 1 {_NAMED})"
        start = _NEAR.format(at=_COUNT.format(better_than_mine=_better(window, "ordinal")), named=_NAMED)
        if ties == "ordinal":
            return _ask(window, ties, _SOME, "", values, only=f"AND {only}", offset=start, start=start)[0]
        return _ask(window, ties, _SORTED, f"WHERE {only} ORDER BY ordinal LIMIT %(limit)s OFFSET {start}", values)[0]

    def _around_archived(self, window: WindowKey, name: str, size: int) -> Found:
        whole = self.standings(window, [name])
        if not whole.rows:
            return whole
        start = max(min(whole.rows[0].rank - size // 2, whole.total - size), 0)
        return self.page(window, start, start + size)

    def between(
        self, window: WindowKey, low: float, high: float, start: int, limit: int, ties: Ties = "ordinal"
    ) -> tuple[Found, int]:
        values = {"low": low, "high": high, "start": start, "limit": limit}
        if ties == "ordinal":
            before = "score > %(high)s" if window.descending else "score < %(low)s"
            first = f"%(start)s + (SELECT COUNT(*) {_MINE} AND {before})"
            parts = {"only": f"AND {_SCORES}", "offset": "%(start)s", "start": first}
            return _ask(window, ties, _SOME, "", values, _SIZE, **parts)
        which = f"WHERE {_SCORES} ORDER BY ordinal LIMIT %(limit)s OFFSET %(start)s"
        return _ask(window, ties, _SORTED, which, values, _SIZE)

    def rebuild(self, window: WindowKey, told: Told = nobody) -> None:
        """There is nothing to do: the record is the ranking."""

    def drop(self, window: WindowKey) -> None:
        """There is nothing to do, either."""


def _better(window: WindowKey, ties: Ties) -> str:
    """What is true of those who count for the rank of `mine`."""
    sign, better = ("-", ">") if window.descending else ("", "<")
    return _BETTER[ties].format(sign=sign, better=better)


def _ask(
    window: WindowKey,
    ties: Ties,
    source: str,
    which: str,
    values: Mapping[str, Any],
    size: str = "0",
    **parts: str,
) -> tuple[Found, int]:
    """One statement, so one consistent read -> what is found, and `size`."""
    way = "DESC" if window.descending else "ASC"
    ranked = source.format(mine=_MINE, way=way, rank=_RANKS[ties], **parts)
    with connection.cursor() as cursor:
        statement = _ANSWER.format(source=ranked, which=which, size=size, way=way)
        cursor.execute(statement, {"window": window.id, **values})
        rows = cursor.fetchall()
    if not rows:
        return Found([], 0, 0), 0
    seq, total, count = rows[0][:3]
    return Found([Row(*row) for _seq, _total, _count, *row in rows if row[0] is not None], total, seq), count


def _final(window: WindowKey) -> QuerySet[Entry]:
    return Entry.objects.filter(window=window.id, rank__isnull=False).order_by("rank")


def _archived(window: WindowKey, entries: QuerySet[Entry]) -> Found:
    """In a window in which nothing changes any more; of who was erased, the rank stays, with nobody at it."""
    seq = Window.objects.filter(pk=window.id).values_list("seq", flat=True).first() or 0
    last = _final(window).aggregate(last=Max("rank"))["last"]
    total = 0 if last is None else last + 1
    found = entries.values_list("owner__name", "score", "subscore", "place", "rank")
    rows = [Row(name, score, subscore, place, rank or 0) for name, score, subscore, place, rank in found]
    return Found(rows, total, seq)
