"""A dispatch whose workers are killed under way: every session gets the message all the same.

The queues are a server that answers at once and writes down what came, for a real one would not hold so many.
"""

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

import pytest

from sessions_app.dispatching import LOADS_AT_ONCE
from tests.servers import STOP_SECONDS, Stack, eventually

pytestmark = pytest.mark.any_database

SESSIONS = int(os.environ.get("FANFARE_DISPATCH_SESSIONS", "2000"))
CHUNK = 200
LEASE_SECONDS = 2.0
ROLE_ARN = "arn:aws:iam::123456789012:role/browser-sessions"
MAKE = f"""
import msgspec
from datetime import timedelta
from django.utils import timezone
from adapters.sealing import seal
from sessions_app import envelopes
from sessions_app.models import BrowserSession
key = seal(msgspec.json.encode(envelopes.new_key()).decode())
BrowserSession.objects.bulk_create(
    (
        BrowserSession(id=f"s{{n}}", topic=f"session.s{{n}}", user=f"u{{n}}", account="acme", transport="sqs",
                       retention=3600, expires_at=timezone.now() + timedelta(hours=1), queue_name=f"q{{n}}",
                       queue_url=f"https://sqs.us-east-1.amazonaws.com/123456789012/s{{n}}", key=key)
        for n in range({SESSIONS})
    ),
    batch_size=500,
)
"""


class Queues:
    """Takes everything, and knows which message came to which session, and how often."""

    def __init__(self) -> None:
        self.came: Counter[tuple[str, str]] = Counter()
        self._lock = Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                call = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                session = call["QueueUrl"].rpartition("/")[2]
                with outer._lock:
                    outer.came.update((session, json.loads(e["MessageBody"])["messageId"]) for e in call["Entries"])
                answer = b'{"Successful":[],"Failed":[]}'
                self.send_response(200)
                self.send_header("Content-Type", "application/x-amz-json-1.0")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_args: object) -> None:
                """Whoever called was killed."""

        self._server = Server(("127.0.0.1", 0), Handler)
        Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def queues() -> Iterator[Queues]:
    queues = Queues()
    yield queues
    queues.close()


def employ(stack: Stack) -> subprocess.Popen[bytes]:
    words = ("worker", "-l", "INFO", "-Q", "sessions", "-c", "1", "--without-gossip", "--without-mingle")
    return stack.spawn("worker", "celery", "-A", "tests.sessions_app.dying", *words)


def dismiss(worker: subprocess.Popen[bytes]) -> None:
    """kill -9, with all its processes."""
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait(STOP_SECONDS)


def test_workers_that_are_killed_cost_repetitions_only(queues: Queues, make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(
        SESSION_ROLE_ARN=ROLE_ARN,
        SESSION_CHUNK=str(CHUNK),
        FANFARE_LEASE_SECONDS=str(LEASE_SECONDS),
        AWS_ENDPOINT_URL=queues.url,
        AWS_REGION="us-east-1",
        AWS_ACCESS_KEY_ID="k",
        AWS_SECRET_ACCESS_KEY="s",
    )
    accept = "from notifications.log import Draft, accept; print(accept([Draft(['all'], b'1')])[0].accepted[0].id)"
    id = stack.python(f"{MAKE}\n{accept}").strip()
    stack.start_beat()
    deaths = []
    for part in (0.3, 0.7):
        worker = employ(stack)
        eventually(lambda: len(queues.came) >= part * SESSIONS, 60, stack.logs)  # noqa: B023 (it is called here)
        dismiss(worker)
        deaths.append(len(queues.came))
    began = time.monotonic()
    employ(stack)
    eventually(lambda: len(queues.came) == SESSIONS, 60 + SESSIONS / 100, lambda: stack.logs()[-3000:])
    shown = "from sessions_app.models import *; d = Dispatch.objects.get(); print(d.finished_at is not None, d.sent)"
    eventually(lambda: stack.python(shown).startswith("True"), 30, lambda: stack.logs()[-3000:])
    seconds = time.monotonic() - began
    repeated = sum(queues.came.values()) - SESSIONS
    print(f"\n    killed at {deaths} of {SESSIONS}: all arrived {seconds:.1f} s later, {repeated} twice", flush=True)
    assert {came for _session, came in queues.came} == {id}
    assert stack.python(shown).strip() == f"True {SESSIONS}"
    assert repeated <= 2 * LOADS_AT_ONCE * CHUNK  # What was under way with each that died.
