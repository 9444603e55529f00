"""A window as CSV, best first, for people who open it in a spreadsheet."""

import csv
import re
from collections.abc import AsyncIterator, Sequence

from leaderboards import standings
from leaderboards.models import Window
from leaderboards.ranking import Row
from leaderboards.scoring import plain
from realtime.database import in_database

ROWS_AT_ONCE = 1000
_FORMULA = re.compile(r"(^|[;\t|])(['=+@\uff1d\uff0b\uff0d\uff20-])")
COLUMNS = ("position", "name", "score", "subscore")


class _Echo:
    """What csv.writer writes to: it hands each line back."""

    def write(self, line: str) -> str:
        return line


async def lines(window: Window) -> AsyncIterator[str]:
    """The lines of the file. Whoever moves meanwhile may be there twice or not at all, in a window that is open."""
    writer = csv.writer(_Echo())
    yield writer.writerow(COLUMNS)
    rows: Sequence[Row] = (await in_database(standings.page, window, 0, ROWS_AT_ONCE, "ordinal")).rows
    while rows:
        for row in rows:
            yield writer.writerow((row.rank + 1, _harmless(row.name), plain(row.score), plain(row.subscore)))
        last = rows[-1]
        rows = (await in_database(standings.after, window, last.key, last.name, ROWS_AT_ONCE, "ordinal")).rows


def _harmless(text: str) -> str:
    """A quote before what spreadsheets take for a formula, and would run: also behind what separates cells in some."""
    return _FORMULA.sub(r"\1'\2", text)
