"""What a run of the matrix says: a line for each fault, and a table in the end, as docs/reliability.md has it."""

import os
import time
from datetime import UTC, datetime
from pathlib import Path

from tests.faults.checker import MIB
from tests.faults.nemesis import Fault
from tests.faults.runs import Outcome

DATABASE = os.environ.get("FANFARE_TEST_DATABASE", "sqlite")
KEEP = Path(os.environ.get("FANFARE_FAULTS_KEEP", "/tmp"))
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
        self._keep()
        said = "broken" if outcome.violations else "kept"
        print(
            f"     {said} after {time.monotonic() - self._began:.0f} s: {found.accepted} accepted, {found.lost} lost, "
            f"{found.duplicated} duplicated, {found.indeterminate} indeterminate, healed in {found.heal:.1f} s",
            flush=True,
        )

    def _keep(self) -> None:
        """The table so far, should the run not come to its end."""
        (KEEP / f"faults-{DATABASE}.md").write_text(str(self))

    def __str__(self) -> str:
        title = f"{DATABASE}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores"
        return "\n".join([title, "", HEAD, "|---|---|" + "---:|" * (HEAD.count("|") - 3), *self.rows])
