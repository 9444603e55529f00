"""The product as it runs: real web processes, worker and beat on a database and a Valkey of their own."""

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psycopg

from tests.services import start_valkey

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = "stack_template"
READY_SECONDS = 40
STOP_SECONDS = 15


def start_from_template(home: Path) -> str:
    """A home with secrets and a migrated database -> the API key in it. It is made once for all stacks of a run."""
    folder = Path(os.environ["FANFARE_TEST_FOLDER"]) / "template"
    folder.mkdir(exist_ok=True)
    key = folder / "key"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not key.exists():
            environment = {**os.environ, "FANFARE_HOME": str(folder / "home")}
            if "DATABASE_URL" in os.environ:
                environment["DATABASE_URL"] = create_database(TEMPLATE)
            manage(environment, "migrate", "-v0")
            key.write_text(manage(environment, "apikey", "create", "tests").strip())
    shutil.copytree(folder / "home", home, dirs_exist_ok=True)
    return key.read_text()


def create_database(name: str, options: str = "") -> str:
    """A database in the run's PostgreSQL -> its URL."""
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} {options}")
    address, _, query = os.environ["DATABASE_URL"].partition("?")
    return f"{address.rpartition('/')[0]}/{name}?{query}"


def manage(environment: dict[str, str], *arguments: str) -> str:
    """Runs a management command -> what it printed."""
    return subprocess.run(
        [sys.executable, ROOT / "manage.py", *arguments],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=READY_SECONDS,
    ).stdout


class Stack:
    """Use as a context manager; whatever it started is killed at its end, by process id."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        self.valkey = Valkey(folder / "redis")
        self.processes: list[subprocess.Popen[bytes]] = []
        self.web: list[Web] = []
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))},
            "FANFARE_HOME": str(self.home),
            "REDIS_URL": f"unix://{self.valkey.folder / 'valkey.sock'}",
            "ALLOWED_HOSTS": "127.0.0.1,localhost",
            **environment,
        }
        self._database: str | None = None

    def __enter__(self) -> Self:
        self.valkey.start()
        self.api_key = start_from_template(self.home)
        if "DATABASE_URL" in os.environ:
            self._database = f"stack_{uuid.uuid4().hex[:12]}"
            self.environment["DATABASE_URL"] = create_database(self._database, f"TEMPLATE {TEMPLATE}")
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_SECONDS)
        self.valkey.kill()
        if self._database:
            with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
                connection.execute(f"DROP DATABASE {self._database} WITH (FORCE)")

    def manage(self, *arguments: str) -> str:
        """Runs a management command -> what it printed."""
        return manage(self.environment, *arguments)

    def python(self, code: str) -> str:
        """Runs code with Django set up -> what it printed."""
        return subprocess.run(
            [sys.executable, "-c", f"import django; django.setup()\n{code}"],
            cwd=ROOT,
            env={**self.environment, "DJANGO_SETTINGS_MODULE": "config.settings"},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=READY_SECONDS,
        ).stdout

    def spawn(self, name: str, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """Starts a process in a group of its own; its output goes to `<name>.log`."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=ROOT,
                env={**self.environment, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def start_web(
        self,
        application: str = "config.asgi:application",
        *,
        server: str = "uvicorn",
        port: int | None = None,
        wait: bool = True,
        **environment: str,
    ) -> "Web":
        """One more web process -> it, ready. `server`: uvicorn (the fast path), plain-uvicorn or daphne."""
        web = Web(self, len(self.web), application, server, port or free_port(), environment)
        self.web.append(web)
        web.start()
        if wait:
            web.wait_until_ready()
        return web

    def start_worker(self) -> subprocess.Popen[bytes]:
        return self.spawn("worker", "celery", "-A", "config", "worker", "-c", "1", "-l", "INFO")

    def start_beat(self) -> subprocess.Popen[bytes]:
        return self.spawn("beat", "celery", "-A", "config", "beat", "-s", str(self.home / "beat"), "--pidfile=")

    def token(self, user: str, account: str | None = None, *, ttl: int = 300, **capabilities: list[str]) -> str:
        """A user's token, as this stack's server signs it."""
        import jwt

        key = (self.home / "token_signing_key").read_text()
        claims = {"iss": "fanfare", "sub": user, "iat": time.time(), "exp": int(time.time()) + ttl, **capabilities}
        return jwt.encode(claims | ({"account": account} if account else {}), key, algorithm="HS256")

    def client(self, web: "Web | None" = None, key: str | None = None) -> httpx.Client:
        """An HTTP client of a web process, with the API key (or another credential)."""
        headers = {"Authorization": f"Bearer {key or self.api_key}"}
        return httpx.Client(base_url=(web or self.web[0]).url, headers=headers, timeout=10)

    def send(self, to: dict[str, Any], data: Any, **more: Any) -> dict[str, Any]:
        """Sends a notification by the first web process -> the reply."""
        with self.client() as client:
            reply = client.post("/api/notifications", json={"to": to, "data": data, **more})
            assert reply.status_code == 202, reply.text
            return dict(reply.json())

    def logs(self) -> str:
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))


class Web:
    """A web process."""

    SERVERS = {
        "uvicorn": ["--ws", "realtime.uvicorn_protocol:FrameProtocol"],
        "plain-uvicorn": ["--ws", "websockets-sansio"],
    }

    def __init__(
        self, stack: Stack, number: int, application: str, server: str, port: int, environment: dict[str, str]
    ) -> None:
        self.stack, self.number, self.application, self.server, self.port = stack, number, application, server, port
        self.environment = environment
        self.url = f"http://127.0.0.1:{port}"
        self.socket_url = f"ws://127.0.0.1:{port}/ws/"
        self.process: subprocess.Popen[bytes]

    def start(self) -> None:
        if self.server == "daphne":
            command = ["daphne", "-b", "127.0.0.1", "-p", str(self.port), "--ping-interval", "25", self.application]
        else:
            command = ["uvicorn", self.application, "--port", str(self.port), *self.SERVERS[self.server]]
            command += ["--http", "realtime.uvicorn_protocol:PromptHttpProtocol", "--no-access-log"]
            command += ["--no-proxy-headers"]
            command += ["--ws-ping-interval", "25", "--ws-ping-timeout", "10", "--ws-max-size", "65536"]
            command += ["--ws-per-message-deflate", "false", "--timeout-graceful-shutdown", "10"]
        self.process = self.stack.spawn(f"web{self.number}", *command, **self.environment)

    def wait_until_ready(self) -> None:
        """Ready means: it serves, and where the bus is there, it hears it."""
        eventually(lambda: self.ready().get("status") == "ok", READY_SECONDS, lambda: self.stack.logs()[-3000:])

    def ready(self) -> dict[str, Any]:
        """What /readyz says; empty while nobody answers."""
        assert self.process.poll() is None, self.stack.logs()[-3000:]
        try:
            return dict(json.loads(httpx.get(f"{self.url}/readyz", timeout=5).content))
        except (httpx.HTTPError, ValueError):
            return {}

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait(STOP_SECONDS)

    def stop(self) -> None:
        """SIGTERM, and wait."""
        self.process.terminate()
        self.process.wait(STOP_SECONDS)

    def restart(self) -> None:
        self.stop()
        self.start()
        self.wait_until_ready()


class Valkey:
    """A Valkey that can be stopped, killed and started again, empty."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = start_valkey(self.folder)

    def signal(self, number: signal.Signals) -> None:
        assert self.process
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait(STOP_SECONDS)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """SIGSTOP for the time of the block: it accepts connections and never answers."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(condition: Callable[[], bool], seconds: float, explain: Callable[[], str] = str) -> None:
    """Waits until the condition holds; fails with the explanation when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {explain()}"
        time.sleep(0.05)
