"""`python -m benchmarks [TABLE ...] [--json FILE]`: measures, and prints tables."""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from benchmarks import peers
from benchmarks.aws import aws
from benchmarks.connecting import connecting
from benchmarks.delays import delays
from benchmarks.dispatch import dispatch
from benchmarks.fanout import fanout
from benchmarks.inbox import inbox
from benchmarks.leaderboards import boards_live, leaderboards
from benchmarks.load import compiled
from benchmarks.momento import momento
from benchmarks.outside import outside
from benchmarks.presence import presence
from benchmarks.presence_watch import watching
from benchmarks.processes import NotInstalled, watched, workspace
from benchmarks.report import Table, machine, render
from benchmarks.sessions import sessions
from benchmarks.storing import storing
from benchmarks.storm import storm

TABLES: Mapping[str, Callable[[Path], Table]] = {
    "fanout": fanout,
    "delays": delays,
    "connecting": connecting,
    "storing": storing,
    "storm": storm,
    "inbox": inbox,
    "outside": outside,
    "aws": aws,
    "momento": momento,
    "dispatch": dispatch,
    "presence": presence,
    "watching": watching,
    "leaderboards": leaderboards,
    "board": boards_live,
    "sessions": sessions,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"default: all of {', '.join(TABLES)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    if unknown := set(options.tables) - set(TABLES):
        parser.error(f"no such table: {', '.join(sorted(unknown))}")
    about = {**machine(), "peers": peers.versions()}
    print("\n".join(f"{name}: {value}" for name, value in about.items()), flush=True)
    names = options.tables or list(TABLES)
    with workspace() as folder:
        try:
            compiled(folder, "wsload")
        except NotInstalled as error:
            print(f"Needed: {error}")
            return 2
        tables = [table for name in names if (table := _measured(name, folder))]
    if options.json:
        options.json.write_text(json.dumps({"machine": about, "tables": [asdict(table) for table in tables]}, indent=1))
    return 0 if len(tables) == len(names) else 1


def _measured(name: str, folder: Path) -> Table | None:
    """A table, printed; or, where that failed, the reason: the other tables are still worth having."""
    print(f"\n... measuring {name}", flush=True)
    began = time.monotonic()
    try:
        with watched() as disturbance:
            table = TABLES[name](folder)
    except Exception:
        traceback.print_exc()
        return None
    table.notes.append(
        f"Took {time.monotonic() - began:.0f} s. Of the machine, other programs used {disturbance.others:.0%} "
        f"meanwhile, its host {disturbance.stolen:.0%}: near 0, or measure again."
    )
    print(render(table), flush=True)
    return table


if __name__ == "__main__":
    sys.exit(main())
