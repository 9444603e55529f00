"""`python -m benchmarks [TABLE ...] [--json FILE]`: measures, and prints tables."""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from benchmarks.connecting import connecting
from benchmarks.delays import delays
from benchmarks.fanout import fanout
from benchmarks.processes import workspace
from benchmarks.report import Table, machine, render
from benchmarks.storing import storing
from benchmarks.storm import storm

TABLES: Mapping[str, Callable[[Path], Table]] = {
    "fanout": fanout,
    "delays": delays,
    "connecting": connecting,
    "storing": storing,
    "storm": storm,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"default: all of {', '.join(TABLES)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    if unknown := set(options.tables) - set(TABLES):
        parser.error(f"no such table: {', '.join(sorted(unknown))}")
    about = machine()
    print("\n".join(f"{name}: {value}" for name, value in about.items()), flush=True)
    tables = [_measure(name) for name in options.tables or TABLES]
    if options.json:
        options.json.write_text(json.dumps({"machine": about, "tables": [asdict(table) for table in tables]}, indent=1))


def _measure(name: str) -> Table:
    began = time.monotonic()
    print(f"\n... measuring {name}", flush=True)
    with workspace() as folder:
        table = TABLES[name](folder)
    print(render(table))
    print(f"  ({time.monotonic() - began:.0f} s)", flush=True)
    return table


main()
