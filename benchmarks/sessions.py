"""Browser sessions that poll: what one that waits costs, and how late messages are for one of them and for all."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import jwt

from benchmarks.fanfare import SIGNING_KEY, Server, environment, fanfare, prepare, text
from benchmarks.polling import Pollers
from benchmarks.processes import CLIENT_CORE, ROOT, memory, valkey
from benchmarks.report import Table, quantile

WAITING, WARM = 10_000, 500
ROWS = 100_000
TO_ONE, TO_ALL = 200, 2
OPENING_SECONDS = 75.0  # The first time costs most: users become known, and topics are joined.
SETTLE_SECONDS = 22.0  # All have asked again meanwhile.


def sessions(folder: Path) -> Table:
    table = Table(
        f"Browser sessions: {WAITING:,} users wait by long poll in one process",
        ["", "p50 ms", "p95 ms", "p99 ms", "max ms"],
    )
    with fanfare(folder) as server:
        _script(_settings(server), "make", str(WAITING))
        each, one, all_of_them, refused = asyncio.run(_wait(server))
    for name, late in (("a message to one user", one), ("a broadcast to all", all_of_them)):
        table.add(name, *(quantile(late, share) for share in (0.5, 0.95, 0.99)), max(late))
    table.at_most("memory of one that waits", each / 1024, 20, " KB")
    table.at_most("refused, in all", refused, 0)
    table.at_most("a message to one user, p99", quantile(one, 0.99), 2000, " ms")
    opened, row, purged = _rows(folder)
    table.notes.append(
        f"{ROWS:,} sessions: {row:,.0f} bytes each; {opened:,.0f} opened a second, {purged:,.0f} purged."
    )
    table.notes.append(
        "On SQLite, with indexes. All ask again at once, after 20 s without a message: 500 times a second."
    )
    return table


async def _wait(server: Server) -> tuple[float, list[float], list[float], int]:
    """Bytes for each, milliseconds of a message to one, and to all, and how many requests were refused."""
    expires = int(time.time()) + 3600
    claims = [{"iss": "fanfare", "sub": f"u{number}", "account": "acme", "exp": expires} for number in range(WAITING)]
    tokens = [(f"s{number}", jwt.encode(claim, SIGNING_KEY, "HS256")) for number, claim in enumerate(claims)]
    pollers, post = Pollers(server.port, tokens), server.poster("/api/notifications")
    try:
        await pollers.open(WARM)
        await asyncio.sleep(2.0)
        before, _ = memory(server.pid)
        await pollers.open(WAITING - WARM, OPENING_SECONDS)
        await asyncio.sleep(SETTLE_SECONDS)
        each = (memory(server.pid)[0] - before) / (WAITING - WARM)
        one: list[float] = []
        for number in range(TO_ONE):
            body = f'{{"to":{{"user":"u{number * 31 % WAITING}"}},"data":{text()}}}'
            await asyncio.to_thread(post, body)
            one += await pollers.until_arrived(1, 10.0)
        all_of_them: list[float] = []
        for _ in range(TO_ALL):
            await asyncio.to_thread(post, f'{{"to":{{"all":true}},"data":{text()}}}')
            all_of_them += await pollers.until_arrived(WAITING, 60.0)
            await asyncio.sleep(SETTLE_SECONDS)
        return each, one, all_of_them, sum(poller.refused for poller in pollers.all)
    finally:
        pollers.close()


def _rows(folder: Path) -> tuple[float, float, float]:
    """Opened a second, bytes of a row, purged a second."""
    with valkey(folder) as url:
        settings = environment(folder / f"home-{time.monotonic_ns()}", url)
        prepare(settings)
        opened, row, purged = map(float, _script(settings, "measure", str(ROWS)).split())
        return opened, row, purged


def _settings(server: Server) -> Mapping[str, str]:
    return environment(server.home, server.redis_url)


def _script(settings: Mapping[str, str], *words: str) -> str:
    command = ["taskset", "-c", str(CLIENT_CORE), sys.executable, "-m", "benchmarks.many_sessions", *words]
    env = {**os.environ, **settings}
    return subprocess.run(command, cwd=ROOT, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
