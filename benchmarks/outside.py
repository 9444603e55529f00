"""Deliveries: how fast they go out by webhook, what each costs, and whether a dead destination delays the others."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.fanfare import environment, prepare
from benchmarks.processes import CLIENT_CORE, ROOT, SERVER_CORE, free_port, listens, running, valkey, wait_until
from benchmarks.report import Table, ratio
from benchmarks.storing import postgres

EVENTS = 3000
PENDING = 100_000
OF_HTTPX, OF_BEFORE = 0.7, 1.5


def outside(folder: Path) -> Table:
    table = Table("Deliveries: events of 200 bytes to one receiver on the other core", ["what", "SQLite", "PostgreSQL"])
    with postgres(folder) as address:
        sqlite = _measure(folder, {})
        other = _measure(folder, {"DATABASE_URL": address}) if address else {}
    for key, name in FIGURES.items():
        table.add(name, sqlite[key], other.get(key))
    for name, found in (("SQLite", sqlite), ("PostgreSQL", other)):
        table.at_least(
            f"webhooks by one httpx loop: {name}", ratio(found.get("webhooks"), found.get("httpx")), OF_HTTPX
        )
        before, after = found.get("p95_alone"), found.get("p95_beside")
        table.at_most(f"p95 beside the dead one by that alone: {name}", ratio(after, before), OF_BEFORE)
    table.notes.append(
        "One worker's process without Celery. The httpx loop posts the same bodies, one after the other, and neither "
        "signs nor checks the address. Delays: from the commit to the arrival, 10 events a second."
    )
    return table


FIGURES = {
    "httpx": "httpx.AsyncClient in a loop, posts/s",
    "httpx_many": "httpx.AsyncClient, 16 at once, posts/s",
    "webhooks": "webhooks, deliveries/s",
    "batches": "webhooks, up to 100 events in a post, deliveries/s",
    "marking": "claiming and marking, microseconds for each delivery",
    "p50_alone": "delay, median, milliseconds",
    "p95_alone": "delay, 95 %, milliseconds",
    "p50_beside": f"delay beside {PENDING:,} events for a dead destination, median, milliseconds",
    "p95_beside": f"delay beside {PENDING:,} events for a dead destination, 95 %, milliseconds",
}


def _measure(folder: Path, env: Mapping[str, str]) -> dict[str, Any]:
    with valkey(folder) as redis_url:
        settings = {**environment(folder / f"home-{time.monotonic_ns()}", redis_url), **env}
        settings["WEBHOOK_NETWORKS"] = "127.0.0.0/8"
        prepare(settings)
        port = free_port()
        receiver = [sys.executable, "-m", "benchmarks.receiver", str(port)]
        with running(receiver, folder, core=CLIENT_CORE) as process:
            wait_until(lambda: listens(port), process)
            words = [sys.executable, "-m", "benchmarks.delivering", str(port), str(EVENTS), str(PENDING)]
            done = subprocess.run(
                ["taskset", "-c", str(SERVER_CORE), *words],
                cwd=ROOT,
                env={**os.environ, **settings},
                check=True,
                stdout=subprocess.PIPE,
            )
            return dict(json.loads(done.stdout))
