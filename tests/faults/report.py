"""What a run of the matrix says: a line for each fault, and a table in the end, as docs/reliability.md has it."""

import os
import time
from datetime import UTC, datetime

from tests.faults.checker import MIB
from tests.faults.nemesis import Fault
from tests.faults.runs import Outcome

HEAD = (
    "| fault | | accepted | deliveries | lost | duplicated | reordered | indeterminate | reloads "
    "| heal, s | max RSS, MiB | p50, ms | p99, ms |"
)


class Table:
    def __init__(self) -> None:
        self.rows: list[str] = []
        self._began = 0.0

    def begin(self, fault: Fault, seed: int) -> None:
        self._began = time.monotonic()
        print(f"\n{fault.id:4} {fault.title}, seed {seed} ...", flush=True)

    def add(self, fault: Fault, outcome: Outcome) -> None:
        found = outcome.summary
        cells = (
            *(fault.id, fault.title, found.accepted, found.deliveries, found.lost, found.duplicated, found.reordered),
            *(found.indeterminate, found.reloads, f"{found.heal:.1f}", round(found.rss / MIB)),
            *(f"{found.p50 * 1000:.0f}", f"{found.p99 * 1000:.0f}"),
        )
        self.rows.append(f"| {' | '.join(map(str, cells))} |")
        said = "broken" if outcome.violations else "kept"
        print(
            f"     {said} after {time.monotonic() - self._began:.0f} s: {found.accepted} accepted, {found.lost} lost, "
            f"{found.duplicated} duplicated, {found.indeterminate} indeterminate, healed in {found.heal:.1f} s",
            flush=True,
        )

    def __str__(self) -> str:
        database = os.environ.get("FANFARE_TEST_DATABASE", "sqlite")
        title = f"{database}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores"
        return "\n".join([title, "", HEAD, "|---|---|" + "---:|" * (HEAD.count("|") - 3), *self.rows])
