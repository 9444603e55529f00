"""One run: the product under load, a fault, time to heal, and what the checker says."""

import asyncio
import random
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.faults.checker import Run, Summary, Violation, check, summary
from tests.faults.ledger import Sample, dump
from tests.faults.listeners import GONE
from tests.faults.load import Door, Load, Size, eventually, sample_of
from tests.faults.nemesis import Fault, Ground
from tests.faults.proxy import Proxy
from tests.servers import Stack, Web

WEB_PROCESSES = 2
CONNECTED_SECONDS = 40
FAULT_SECONDS = 120
LEFT_SECONDS = 15


@dataclass(frozen=True, slots=True)
class Outcome:
    summary: Summary
    violations: list[Violation]
    run: Run


def carry_out(stack: Stack, fault: Fault, size: Size, *, seed: int, before: float, after: float) -> Outcome:
    """`before` and `after`: seconds of load round the fault. The stack has no processes yet."""
    for _ in range(WEB_PROCESSES):
        stack.start_web(
            fault.application,
            port=_port(),
            wait=False,
            FANFARE_SHUFFLE_SEED=str(seed),
            FANFARE_CRASH_FILE=str(stack.folder / "crash-web"),
        )
    if size.scheduled:
        _start_worker(stack, fault)
        stack.start_beat()
    for web in stack.web:
        web.wait_until_ready()
    return asyncio.run(_carry_out(stack, fault, size, seed, before, after))


async def _carry_out(stack: Stack, fault: Fault, size: Size, seed: int, before: float, after: float) -> Outcome:
    chance = random.Random(seed)
    proxies = [await Proxy(web.port, chance).start() for web in stack.web]
    doors = [Door(web.port, proxy.port) for web, proxy in zip(stack.web, proxies, strict=True)]
    load = Load(stack, doors, size, seed, behind_proxy=fault.behind_proxy)
    ground = Ground(stack, load, proxies, chance)
    try:
        load.start()
        await _until_connected(load)
        load.start_sending()
        await asyncio.sleep(before)
        used = _samples(stack)
        began = time.time()
        async with asyncio.timeout(FAULT_SECONDS):
            await fault.act(ground)
        faults = None if fault.lasts else (began, time.time())
        await asyncio.sleep(after)
        await load.stop_sending()
        left = await load.settle(fault.limits.heal_seconds)
        left["processes that are not ready"] = sum([not await _is_ready(web) for web in stack.web])
        history = await asyncio.to_thread(dump, stack)
        await load.leave()
        left["connections that nobody has"] = int(await _connections_left(ground))
        left["tracebacks of web processes"] = _tracebacks(stack)
        run = Run(load.ledger, history, fault.limits, faults, used, _samples(stack), left, load.ends)
    finally:
        await load.close()
        for proxy in proxies:
            await proxy.stop()
    violations = [*ground.notes, *check(run), *fault.also(run)]
    return Outcome(summary(run, violations), violations, run)


def _port() -> int:
    """One that the kernel does not give to clients meanwhile: a process that is restarted needs it again."""
    while True:
        port = random.randrange(10_000, 32_000)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def _start_worker(stack: Stack, fault: Fault) -> None:
    if "crashing" in fault.application:
        command = ("celery", "-A", "tests.faults.crashing", "worker", "-c", "1", "-l", "INFO")
        stack.spawn("worker", *command, FANFARE_CRASH_FILE=str(stack.folder / "crash-worker"))
    else:
        stack.start_worker()


def _samples(stack: Stack) -> dict[int, Sample]:
    found = (sample_of(web.process.pid) for web in stack.web)
    return {sample.process: sample for sample in found if sample}


async def _until_connected(load: Load) -> None:
    connected = await eventually(lambda: all(one.connected for one in load.listeners), CONNECTED_SECONDS)
    assert connected, f"not all clients could connect within {CONNECTED_SECONDS} s"


async def _is_ready(web: Web) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(15):
            while True:
                if (await asyncio.to_thread(web.ready)).get("status") == "ok":
                    return True
                await asyncio.sleep(0.2)
    return False


def _tracebacks(stack: Stack) -> int:
    return sum(path.read_text(errors="replace").count("Traceback") for path in stack.folder.glob("web*.log"))


async def _connections_left(ground: Ground) -> float:
    deadline = time.monotonic() + LEFT_SECONDS
    while True:
        with suppress(*GONE):
            left = sum([await ground.metric(web, "fanfare_connections{") for web in ground.stack.web])
            if not left or time.monotonic() > deadline:
                return left
        await asyncio.sleep(0.2)


def keep(outcome: Outcome, stack: Stack, folder: Path) -> Path:
    """Writes down what a failed run saw -> where."""
    folder.mkdir(parents=True, exist_ok=True)
    outcome.run.ledger.save(folder / "ledger.jsonl")
    (folder / "history.txt").write_text("\n".join(map(str, outcome.run.history.rows)))
    (folder / "violations.txt").write_text("\n".join(map(str, outcome.violations)))
    (folder / "logs.txt").write_text(stack.logs())
    return folder
