"""The adapter for Momento beside loops of its SDK that publish the same, to a server that answers at once."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.fanfare import environment
from benchmarks.processes import CLIENT_CORE, ROOT, SERVER_CORE, free_port, listens, running, wait_until
from benchmarks.report import Table, ratio

EVENTS = 2000
OF_SDK = 0.7
WAYS = {"one": "one topic, one after the other", "many": "a topic for each, 16 at once"}


def momento(folder: Path) -> Table:
    title = "Events of 200 bytes to Momento, answered at once by a stub on the other core"
    table = Table(title, ["events/s", *WAYS.values()])
    found = _measure(folder)
    for by, name in (("sdk", "momento.TopicClientAsync"), ("adapter", "the adapter")):
        table.add(name, *(found[f"{way} {by}"] for way in WAYS))
    for way, name in WAYS.items():
        table.at_least(f"{name}, by the SDK alone", ratio(found[f"{way} adapter"], found[f"{way} sdk"]), OF_SDK)
    return table


def _measure(folder: Path) -> dict[str, float]:
    port = free_port()
    settings = {
        **environment(folder / f"home-{time.monotonic_ns()}", "redis://127.0.0.1:9"),
        "MOMENTO_API_KEY": "bench",
        "MOMENTO_ENDPOINT": f"127.0.0.1:{port}",
        "MOMENTO_PLAINTEXT": "1",
    }
    with running([sys.executable, "-m", "benchmarks.momento_stub", str(port)], folder, core=CLIENT_CORE) as process:
        wait_until(lambda: listens(port), process)
        words = [sys.executable, "-m", "benchmarks.momento_publishing", str(port), str(EVENTS)]
        done = subprocess.run(
            ["taskset", "-c", str(SERVER_CORE), *words],
            cwd=ROOT,
            env={**os.environ, **settings},
            check=True,
            stdout=subprocess.PIPE,
        )
    return dict(json.loads(done.stdout))
