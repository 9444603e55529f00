"""`manage.py up`: the whole product with one command."""

import fcntl
import io
import json
import os
import shutil
import socket
import sys
import time
import urllib.error
import urllib.request
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, SystemCheckError
from django.db import OperationalError, connections

from accounts import api_keys
from accounts.operators import login_link
from adapters.ingest_settings import sources
from config import processes
from config.valkey import ValkeyFailed, valkey

OPERATOR = "operator"
READY_SECONDS = 60
BUS_SECONDS = 10  # For the bus to come up too, once requests are served.


class Command(BaseCommand):
    help = "Starts everything: Valkey unless REDIS_URL is set, migrations, web, worker and beat. Ctrl-C ends it."
    requires_system_checks = []  # They run below: production's with their warnings as reasons not to start.

    def handle(self, *_args: Any, **_options: Any) -> None:
        started = time.monotonic()
        run_checks()
        lock = take_home(settings.FANFARE_HOME)
        check_port()
        private: AbstractContextManager[Any] = nullcontext()
        if not os.environ.get("REDIS_URL"):
            private = valkey(settings.FANFARE_HOME, lock.fileno())
        try:
            with private as server:
                found = prepare()
                status = processes.run(
                    commands(),
                    environment(),
                    server=server,
                    when_started=lambda: self._announce(found, started),
                )
        except ValkeyFailed as error:
            raise CommandError(str(error)) from None
        except KeyboardInterrupt:
            status = 130
        sys.exit(status)

    def _announce(self, found: list[str], started: float) -> None:
        """Says where to look and what to try first, once it can be tried."""
        problems = wait_until_ready()
        if problems is not None:
            lines = ["", *found, "", *problems, f"ready in {time.monotonic() - started:.1f} s"]
            print("\n".join(lines), flush=True)


def run_checks() -> None:
    """Raises CommandError with the reasons not to start."""
    level = "WARNING" if settings.PRODUCTION else "ERROR"
    try:
        call_command("check", deploy=settings.PRODUCTION, fail_level=level, stdout=io.StringIO())
    except SystemCheckError as error:
        raise CommandError(str(error)) from None


def take_home(home: Path) -> IO[str]:
    """Only one `up` for each home -> the lock; it goes with the processes that hold it, however they end."""
    lock = (home / "up.lock").open("a+")
    deadline = time.monotonic() + processes.STOP_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read()
            if Path("/proc", holder).is_dir() or time.monotonic() > deadline:  # Else it was killed: the rest is ending.
                raise CommandError(
                    f"Another `up` runs in {home} (process {holder}): stop it, or set FANFARE_HOME."
                ) from None
            time.sleep(0.1)
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def check_port() -> None:
    family = socket.AF_INET6 if ":" in settings.HOST else socket.AF_INET
    try:
        socket.create_server((settings.HOST, settings.PORT), family=family).close()
    except (OSError, OverflowError) as error:
        raise CommandError(
            f"HOST {settings.HOST}, PORT {settings.PORT}: cannot listen there ({error}). Set PORT or HOST to others."
        ) from None


def prepare() -> list[str]:
    """Database, static files and the first credentials -> the lines that tell about them."""
    try:
        call_command("migrate", verbosity=0, interactive=False)
        call_command("check", tags=["database"], databases=["default"], stdout=io.StringIO())
    except OperationalError as error:
        raise CommandError(f"The database does not answer: check DATABASE_URL. {error}") from None
    call_command("collectstatic", verbosity=0, interactive=False)
    users = get_user_model().objects
    if not users.filter(username=OPERATOR).exists():
        users.create_superuser(OPERATOR, password=None)
    lines = production_lines() if settings.PRODUCTION else development_lines()
    for connection in connections.all():
        connection.close()
        if close_pool := getattr(connection, "close_pool", None):  # Of PostgreSQL: its threads do not go with forks.
            close_pool()
    return lines


def development_lines() -> list[str]:
    """The curl line works as it stands."""
    base = address()
    return [
        f"Demo       {base}/demo/",
        f"Dashboard  {login_link(OPERATOR, base)}",
        "",
        f"curl -H 'Authorization: Bearer {development_key()}' -H 'Content-Type: application/json' "
        f"""-d '{{"to": {{"user": "bob"}}, "data": {{"text": "Hello, Bob"}}}}' {base}/api/notifications""",
    ]


def production_lines() -> list[str]:
    """Without credentials: what is printed in production ends up in logs."""
    return [
        f"API        {address()}/api/docs",
        f"Dashboard  manage.py loginlink {OPERATOR} --url https://{settings.ALLOWED_HOSTS[0]} prints a one-time link",
        "API key    manage.py apikey create NAME",
    ]


def address() -> str:
    """Where a client on this machine finds the service."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.HOST, settings.HOST)  # noqa: S104
    return f"http://[{host}]:{settings.PORT}" if ":" in host else f"http://{host}:{settings.PORT}"


def wait_until_ready() -> list[str] | None:
    """Waits until requests are served, and for a moment until live events are -> what is wrong still; None = never."""
    known = settings.ALLOWED_HOSTS[0].lstrip(".") if settings.ALLOWED_HOSTS else "localhost"
    request = urllib.request.Request(f"{address()}/readyz", headers={"Host": known})  # noqa: S310 (our own address)
    deadline = time.monotonic() + READY_SECONDS
    patience = None
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(request, timeout=5) as reply:  # noqa: S310
                problems: list[str] = json.load(reply)["problems"]
        except (OSError, ValueError):
            time.sleep(0.1)
            continue
        patience = patience or time.monotonic() + BUS_SECONDS
        if not problems or time.monotonic() > patience:
            return problems
        time.sleep(0.1)
    return None


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
    web += ["--no-proxy-headers"]  # It would trust this machine; TRUSTED_PROXIES says whom we trust.
    web += ["--loop", "uvloop", "--no-access-log", "--log-level", "warning"]
    web += ["--ws-ping-interval", "25", "--ws-ping-timeout", "10"]
    web += ["--ws-max-size", str(settings.FRAME_MAX_BYTES), "--ws-per-message-deflate", "false"]
    web += ["--timeout-graceful-shutdown", "10"]
    celery = [*python, "celery", "--quiet", "--app", "config"]
    worker = [*celery, "worker", "--loglevel", "WARNING"]
    worker += ["--without-gossip", "--without-mingle"] if settings.SQS_BROKER else []
    sessions = [*worker, "--queues", "sessions", "--concurrency", str(settings.SESSION_PROCESSES), "-n", "sessions@%h"]
    consumed = any(source.consumed for source in sources().values())
    schedule = str(settings.FANFARE_HOME / "beat")
    return {
        "web": web,
        "worker": [*worker, "--queues", "celery", "--concurrency", str(settings.WORKER_PROCESSES)],
        "tasks": [*worker, "--queues", "tasks", "--concurrency", str(settings.TASK_PROCESSES), "-n", "tasks@%h"],
        "outside": [
            *worker,
            "--queues",
            "outside",
            "--concurrency",
            str(settings.DELIVERY_PROCESSES),
            "-n",
            "outside@%h",
        ],
        **({"sessions": sessions} if settings.SESSION_ROLE_ARN else {}),
        "beat": [*celery, "beat", "--schedule", schedule, "--pidfile=", "--loglevel", "WARNING"],
        **({"consume": [sys.executable, str(settings.BASE_DIR / "manage.py"), "consume"]} if consumed else {}),
    }


def environment() -> dict[str, str]:
    """The commands' environment: each process counts into its own files of one folder."""
    counts = settings.FANFARE_HOME / "metrics"
    shutil.rmtree(counts, ignore_errors=True)
    counts.mkdir()
    paths = [str(settings.BASE_DIR), *filter(None, [os.environ.get("PYTHONPATH")])]
    calm = {} if settings.PRODUCTION else {"PYTHONWARNINGS": "ignore:You're running the worker with superuser"}
    return {
        **calm,
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "PROMETHEUS_MULTIPROC_DIR": str(counts),
    }
