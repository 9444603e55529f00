"""A Fanfare server of its own for a measurement, and the requests that publish to it."""

import http.client
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import jwt

from benchmarks.processes import CLIENT_CORE, ROOT, SERVER_CORE, free_port, listens, running, valkey, wait_until

FAST_PATH = "realtime.uvicorn_protocol:FrameProtocol"
ORDINARY_SEND = "websockets-sansio"
SIGNING_KEY = "only-for-benchmarks-0123456789-0123456789"
MESSAGE_BYTES = 200

NO_LIMITS = {"HANDSHAKES_PER_SECOND": "1000000", "CONNECTIONS_PER_USER": "100000", "RATE_USER": "", "RATE_SERVICE": ""}
"""All clients here are one user, and come as fast as they can: what these guard against is not what is measured."""


@dataclass(frozen=True, slots=True)
class Server:
    port: int
    pid: int
    api_port: int  # Where requests go that publish; another process's, or the same.
    key: str
    home: Path
    redis_url: str

    def publisher(self, topic: str) -> "Publisher":
        return Publisher(self.api_port, self.key, f'{{"topic":"{topic}"}}')

    def poster(self, path: str) -> Callable[[str], None]:
        """Posts bodies to one route, over one connection that stays open."""
        post = Publisher(self.api_port, self.key, "").post
        return lambda body: post(path, body)

    @property
    def user_headers(self) -> list[str]:
        """For a user who may listen to every named topic."""
        claims = {"iss": "fanfare", "sub": "bench", "exp": int(time.time()) + 3600, "subscribe": ["topic.*"]}
        return [f"Authorization: Bearer {jwt.encode(claims, SIGNING_KEY, 'HS256')}"]

    def get(self, path: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", path)
        text = connection.getresponse().read().decode()
        connection.close()
        return text


class Publisher:
    """Sends notifications to one target through the API, over one connection that stays open."""

    def __init__(self, port: int, key: str, target: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._target = target

    def __call__(self, texts: Sequence[str]) -> None:
        """One request: one message, or a batch."""
        items = [f'{{"to":{self._target},"data":{text}}}' for text in texts]
        if len(items) == 1:
            self.post("/api/notifications", items[0])
        else:
            self.post("/api/notifications/batch", f'{{"notifications":[{",".join(items)}]}}')

    def post(self, path: str, body: str) -> None:
        self._connection.request("POST", path, body, self._headers)
        reply = self._connection.getresponse()
        answer = reply.read()
        if reply.status != 202:
            raise RuntimeError(f"{path}: {reply.status} {answer[:300]!r}")


@contextmanager
def fanfare(
    folder: Path,
    *,
    protocol: str = FAST_PATH,
    application: str = "config.asgi:application",
    env: Mapping[str, str] | None = None,
    second_for_requests: bool = False,
) -> Iterator[Server]:
    """One web process with a fresh database and a Valkey of its own, all on the server's core.

    `second_for_requests`: another web process, on the other core, serves the requests that publish.
    """
    home = folder / f"home-{time.monotonic_ns()}"
    with ExitStack() as stack:
        settings = {**environment(home, stack.enter_context(valkey(folder))), **NO_LIMITS, **(env or {})}
        key = prepare(settings)

        def web(core: int) -> tuple[int, int]:
            port = free_port()
            command = uvicorn(application, port, protocol, "--http", "realtime.uvicorn_protocol:PromptHttpProtocol")
            process = stack.enter_context(running(command, folder, core=core, env=settings))
            wait_until(lambda: listens(port), process)
            return port, process.pid

        port, pid = web(SERVER_CORE)
        api_port = web(CLIENT_CORE)[0] if second_for_requests else port
        yield Server(port, pid, api_port, key, home, settings["REDIS_URL"])


def uvicorn(application: str, port: int, protocol: str, *more: str) -> list[str]:
    """Uvicorn as in production, for Fanfare and for those that are compared with it on the same server."""
    return [
        *(sys.executable, "-m", "uvicorn", application, "--port", str(port), "--ws", protocol, *more),
        *("--loop", "uvloop", "--no-access-log", "--log-level", "warning", "--ws-per-message-deflate", "false"),
        *("--no-proxy-headers", "--timeout-keep-alive", "60"),  # Publishers may pause.
        *("--ws-ping-interval", "25", "--ws-ping-timeout", "10", "--ws-max-size", "65536"),
    ]


def environment(home: Path, redis_url: str) -> dict[str, str]:
    return {
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "FANFARE_HOME": str(home),
        "REDIS_URL": redis_url,
        "TOKEN_SIGNING_KEY": SIGNING_KEY,
        "DEBUG": "0",
        "LOG_LEVEL": "WARNING",
        "DRAIN_SECONDS": "0.1",
        "DATABASE_URL": f"sqlite:///{home}/fanfare.sqlite3",
    }


def prepare(settings: Mapping[str, str]) -> str:
    """Makes the tables, and a key for services -> its text."""
    manage(settings, "migrate", "--verbosity", "0")
    return manage(settings, "apikey", "create", "bench").strip()


def manage(settings: Mapping[str, str], *words: str) -> str:
    command = ["taskset", "-c", str(CLIENT_CORE), sys.executable, "manage.py", *words]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **settings}, check=True, capture_output=True, text=True)
    return done.stdout


def text() -> str:
    """A message of MESSAGE_BYTES with the time in it, by which clients see how late it is."""
    return f'{{"t":{time.time_ns()},"pad":"{"x" * (MESSAGE_BYTES - 34)}"}}'


def steadily(publish: Callable[[Sequence[str]], None], batch: int, per_second: int, seconds: int) -> int:
    """Publishes at a steady rate -> how many messages. One that is late does not move the next ones."""
    began = time.monotonic()
    for number in range(per_second * seconds):
        time.sleep(max(0.0, began + number / per_second - time.monotonic()))
        publish([text() for _ in range(batch)])
    return per_second * seconds * batch
