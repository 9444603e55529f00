"""Watching presence: how late watchers hear of transitions at a steady rate, and how long a thousand users take."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import jwt
import msgspec
from websockets.asyncio.client import ClientConnection, connect

from benchmarks.fanfare import SIGNING_KEY, environment, fanfare
from benchmarks.processes import CLIENT_CORE, ROOT, cpu_seconds, valkey
from benchmarks.report import Table
from benchmarks.storing import postgres

USERS = 1000
RATE = 1000
SECONDS = 10
WATCHERS, WATCHED = 50, 500
LISTENERS, TOPICS = 50, 100
LATE_MS, QUERY_MS = 300, 5
LAST_SECONDS = 2.0  # For what is on its way at the end.


def watching(folder: Path) -> Table:
    table = Table(
        f"Presence: {RATE:,} transitions/s of {USERS:,} users for {SECONDS} s, from the transition to the watcher",
        ["what", "database", "transitions/s", "told", "lost", "p50 ms", "p99 ms", "server's CPU"],
    )
    queries: dict[str, float] = {}
    with postgres(folder) as address:
        for database, env in (("SQLite", {}), *([("PostgreSQL", {"DATABASE_URL": address})] if address else [])):
            for case, users, topics in (
                (f"{WATCHERS} watch {WATCHED} users each", WATCHED, False),
                (f"{LISTENERS} in {TOPICS} topics watch.<user>", TOPICS, True),
            ):
                found = _measure(folder, env, users, topics)
                table.add(case, database, *(found[name] for name in ("rate", "told", "lost", "p50", "p99", "cpu")))
                table.at_most(f"p99, {case}: {database}", found["p99"], LATE_MS, " ms")
                table.at_most(f"not as in the database at the end: {database}", found["lost"], 0)
                queries[database] = found["query"]
    for database, milliseconds in queries.items():
        table.at_most(f"{USERS:,} users queried, the median of 51: {database}", milliseconds, QUERY_MS, " ms")
    table.notes.append(
        f"Settled {RATE // 20} users at a time in a process of its own; delays are from `since`. Who watches many gets "
        "a frame each 250 ms at most, with the newest of each user. The query is in the process, without HTTP."
    )
    return table


def _measure(folder: Path, env: Mapping[str, str], users: int, topics: bool) -> dict[str, Any]:
    with valkey(folder) as redis_url:
        more = {"REDIS_URL": redis_url, "TOPICS_PER_CONNECTION": "1000", **env}
        with fanfare(folder, env=more) as server:
            settings = {**environment(server.home, redis_url), **more}
            if "DATABASE_URL" in env:
                _empty(settings)
            return asyncio.run(_listen(server.port, server.pid, settings, users, topics))


def _empty(settings: Mapping[str, str]) -> None:
    """One PostgreSQL serves all cases."""
    code = (
        "import django; django.setup()\n"
        "from presence.models import Presence, Transition\n"
        "Presence.objects.all().delete(); Transition.objects.all().delete()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **settings}, check=True)


async def _listen(port: int, pid: int, settings: Mapping[str, str], users: int, topics: bool) -> dict[str, Any]:
    delays: list[float] = []
    known: dict[tuple[int, str], int] = {}
    async with AsyncExitStack() as stack:
        sockets = []
        for number in range(LISTENERS if topics else WATCHERS):
            # Everybody is watched by somebody.
            names = [f"u{(number * users + place) % USERS}" for place in range(users)]
            sockets.append(await stack.enter_async_context(_socket(port, names if topics else None)))
            if not topics:
                await sockets[-1].send(json.dumps({"action": "subscribe", "topic": "watch", "users": names, "ref": 1}))
        readers = [asyncio.create_task(_read(socket, number, delays, known)) for number, socket in enumerate(sockets)]
        await asyncio.sleep(1)
        cpu, began = cpu_seconds(pid), time.monotonic()
        report = await _drive(settings)
        await asyncio.sleep(LAST_SECONDS)
        used = (cpu_seconds(pid) - cpu) / (time.monotonic() - began)
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
    lost = sum(version != report["versions"].get(user) for (_, user), version in known.items())
    delays.sort()
    p50, p99 = (delays[int(len(delays) * share)] for share in (0.5, 0.99))
    return {"p50": p50, "p99": p99, "told": len(delays), "lost": lost, "cpu": f"{used:.0%}", **report}


def _socket(port: int, names: list[str] | None) -> Any:
    claims = {"iss": "fanfare", "sub": "bench", "exp": int(time.time()) + 3600, "subscribe": ["watch.*"]}
    query = ",".join(f"watch.{name}" for name in names or [])
    return connect(
        f"ws://127.0.0.1:{port}/ws/?topics={query}",
        additional_headers={"Authorization": f"Bearer {jwt.encode(claims, SIGNING_KEY, 'HS256')}"},
        compression=None,
        max_size=None,
        proxy=None,
    )


async def _read(socket: ClientConnection, number: int, delays: list[float], known: dict[tuple[int, str], int]) -> None:
    async for text in socket:
        event = msgspec.json.decode(text)
        if event["event"] == "presence":
            for one in event.get("presences", [event]):
                delays.append((time.time() - datetime.fromisoformat(one["since"]).timestamp()) * 1000)
                known[number, one["user"]] = one["version"]


async def _drive(settings: Mapping[str, str]) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *("taskset", "-c", str(CLIENT_CORE), sys.executable, "-m", "benchmarks.transitions"),
        *(str(USERS), str(RATE), str(SECONDS)),
        cwd=ROOT,
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"benchmarks.transitions ended with {process.returncode}")
    return dict(json.loads(output))
