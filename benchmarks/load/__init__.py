"""The load client, wsload.c, driven from Python."""

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.processes import CLIENT_CORE, NotInstalled, stop

SOURCES = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Counts:
    """What the clients saw since `clear`. `gaps` and `repeats`: offsets that did not come, or came again."""

    seconds: float
    ready: int
    failed: int
    closed: int
    close_code: int
    messages: int
    gaps: int
    repeats: int
    bytes: int
    cpu: float


@dataclass(frozen=True, slots=True)
class Report(Counts):
    """And how late it was: milliseconds from publish to receipt. `last_*`: until the last client had it."""

    p50: float
    p99: float
    max: float
    last_p50: float
    last_p99: float
    last_max: float


class Load:
    """Many clients in one process. Each call returns when what it asks for is done."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def open(self, count: int) -> Counts:
        """Opens further clients. Raises RuntimeError unless all of them get ready."""
        found = Counts(**self._do(f"open {count}"))
        if found.failed:
            raise RuntimeError(f"{found.failed} of {count} clients were not let in (close code {found.close_code})")
        return found

    def count(self, messages: int, seconds: float) -> Counts:
        """Waits until so many messages have come, or the time is over."""
        return Counts(**self._do(f"count {messages} {seconds}"))

    def report(self) -> Report:
        return Report(**self._do("report"))

    def clear(self) -> None:
        self._do("clear")

    def drop(self) -> None:
        """Resets every connection at once."""
        self._do("drop")

    def back(self) -> Counts:
        """Opens again what is closed, each with the position it had."""
        return Counts(**self._do("back"))

    def _do(self, command: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"wsload ended at: {command}")
        found: dict[str, Any] = json.loads(answer)
        return found


@contextmanager
def clients(
    folder: Path,
    port: int,
    path: str,
    *,
    mode: str = "ws",
    headers: Sequence[str] = (),
    hello: str = "",
    ready: str = "",
    at_once: int = 128,
    mark: str = "",
    unit: int = 1,
) -> Iterator[Load]:
    """Clients of one server, as wsload.c describes them; none is open yet."""
    command = ["taskset", "-c", str(CLIENT_CORE), compiled(folder, "wsload"), "127.0.0.1", str(port), path]
    command += ["--mode", mode, "--at-once", str(at_once)]
    command += [word for header in headers for word in ("--header", header)]
    command += ["--hello", hello] if hello else []
    command += ["--ready", ready] if ready else []
    command += ["--mark", mark, "--unit", str(unit)] if mark else []
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Load(process)
    finally:
        stop(process)  # type: ignore[arg-type]  # Text or bytes: it only ends.


def compiled(folder: Path, name: str) -> str:
    """The program made from `name`.c, compiled once for each run."""
    program = folder / name
    if not program.exists():
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            raise NotInstalled("a C compiler, for the load client: apt-get install gcc libc6-dev")
        subprocess.run([compiler, "-O2", "-o", program, SOURCES / f"{name}.c"], check=True)
    return str(program)
