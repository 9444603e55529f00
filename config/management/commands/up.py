"""`manage.py up`: the whole product with one command."""

import fcntl
import os
import shutil
import socket
import sys
import time
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, SystemCheckError

from accounts import api_keys
from accounts.operators import login_link
from config import processes

SOCKET_PATH_MAX = 107  # What the kernel takes for a unix socket.
OPERATOR = "operator"


class Command(BaseCommand):
    help = "Starts everything: Valkey unless REDIS_URL is set, migrations, web, worker and beat. Ctrl-C ends it."
    requires_system_checks = []  # Production's are run below, with their warnings as reasons not to start.

    def handle(self, *_args: Any, **_options: Any) -> None:
        started = time.monotonic()
        lock = self._take_home()
        self._check_port()
        if settings.PRODUCTION:
            self._check_production()
        with processes.valkey(settings.FANFARE_HOME, wanted="REDIS_URL" not in os.environ) as valkey:
            call_command("migrate", verbosity=0, interactive=False)
            call_command("collectstatic", verbosity=0, interactive=False)
            self._make_operator()
            key = None if settings.PRODUCTION else development_key()
            returncode = processes.run(
                commands(), environment(), watch=valkey, when_ready=lambda: self._announce(started, key)
            )
        lock.close()
        sys.exit(returncode)

    def _take_home(self) -> Any:
        """Only one `up` for each home; the lock goes with the process, however it ends."""
        path = settings.FANFARE_HOME / "up.lock"
        lock = path.open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CommandError(f"Another `up` runs in {settings.FANFARE_HOME}: stop it, or set FANFARE_HOME.") from None
        if "REDIS_URL" not in os.environ and len(settings.REDIS_URL.removeprefix("unix://")) > SOCKET_PATH_MAX:
            raise CommandError(f"The path of FANFARE_HOME is too long for a unix socket: {settings.FANFARE_HOME}")
        return lock

    def _check_port(self) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.HOST, settings.PORT))
            except OSError as error:
                raise CommandError(
                    f"{settings.HOST}:{settings.PORT} is not free ({error.strerror}): set PORT or HOST."
                ) from None

    def _check_production(self) -> None:
        try:
            call_command("check", deploy=True, fail_level="WARNING")
        except SystemCheckError as error:
            raise CommandError(f"These settings are not safe for production.\n{error}") from None

    def _make_operator(self) -> None:
        users = get_user_model().objects
        if not users.filter(username=OPERATOR).exists():
            users.create_superuser(OPERATOR, password=None)

    def _announce(self, started: float, key: str | None) -> None:
        """Where to look, and what to try first; the curl line works as it stands."""
        base = f"http://{settings.HOST}:{settings.PORT}"
        lines = [""]
        if key:
            lines += [
                f"  Demo       {base}/demo/",
                f"  Dashboard  {login_link(OPERATOR, base)}",
                "",
                f"  curl -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\",
                f"""    -d '{{"to": {{"user": "bob"}}, "data": {{"text": "Hello, Bob"}}}}' {base}/api/notifications""",
            ]
        else:
            lines += ["  Dashboard  manage.py loginlink prints a one-time link", f"  API        {base}/api/docs"]
        lines += ["", f"  ready in {time.monotonic() - started:.0f} s", ""]
        print("\n".join(lines), flush=True)


def development_key() -> str:
    """The same key at every start, as long as its database knows it."""
    path: Path = settings.FANFARE_HOME / "development_key"
    if path.exists() and api_keys.find(text := path.read_text()):
        return text
    _, text = api_keys.create("development")
    with open(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    return text


def commands() -> dict[str, list[str]]:
    """What runs, by name."""
    python = [sys.executable, "-m"]
    web = [*python, "uvicorn", "config.asgi:application"]
    web += ["--host", settings.HOST, "--port", str(settings.PORT), "--workers", str(settings.WEB_PROCESSES)]
    web += ["--ws", "realtime.uvicorn_protocol:FrameProtocol"]
    web += ["--http", "realtime.uvicorn_protocol:PromptHttpProtocol"]
    web += ["--loop", "uvloop", "--no-access-log", "--log-level", "warning"]
    web += ["--ws-ping-interval", "25", "--ws-ping-timeout", "10"]
    web += ["--ws-max-size", str(settings.FRAME_MAX_BYTES), "--ws-per-message-deflate", "false"]
    web += ["--timeout-graceful-shutdown", "10"]
    celery = [*python, "celery", "--quiet", "--app", "config"]
    schedule = str(settings.FANFARE_HOME / "beat")
    return {
        "web": web,
        "worker": [*celery, "worker", "--concurrency", str(settings.WORKER_PROCESSES), "--loglevel", "WARNING"],
        "beat": [*celery, "beat", "--schedule", schedule, "--pidfile=", "--loglevel", "WARNING"],
    }


def environment() -> dict[str, str]:
    """The children's environment: with several web processes, each counts into its own files of one folder."""
    counts = settings.FANFARE_HOME / "metrics"
    shutil.rmtree(counts, ignore_errors=True)
    counts.mkdir()
    return {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(counts), "PYTHONUNBUFFERED": "1"}
