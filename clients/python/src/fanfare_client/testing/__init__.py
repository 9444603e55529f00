"""A Fanfare for tests of programs that use the client: a real server on a port of its own, all of it in memory."""

import json
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import MSG_PEEK
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from fanfare_client.client import Client
from fanfare_client.testing.refusals import Refusal
from fanfare_client.testing.sockets import Sockets
from fanfare_client.testing.world import World


class FakeFanfare:
    """Use as a context manager. `key` is a service's API key; `token(user)` is a user's token.

    It knows notifications, the inbox, tasks, presence, leaderboards that keep the best, users, tokens, sessions that
    poll, and the live connection; other routes answer 501 `not_faked`. It keeps no retention, rights, rates or windows.
    """

    key = "ff_fake"

    def __init__(self) -> None:
        self.world = World()
        self._sockets = Sockets(self.world)
        self._clients: list[Client] = []
        self._failures: deque[tuple[int, str, float | None]] = deque()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def sent(self) -> list[dict[str, Any]]:
        """Every message that was sent, in their order: `topic`, `type`, `data`, `id` and the rest."""
        return self.world.sent()

    def client(self, user: str | None = None) -> Client:
        """A client of a service, or of a user; it is closed with the fake."""
        client = Client(self.url, self.token(user) if user else self.key)
        self._clients.append(client)
        return client

    def token(self, user: str) -> str:
        return f"user:{user}"

    def fail(self, status: int = 503, code: str = "busy", *, times: int = 1, retry_after: float | None = 0) -> None:
        """The next requests get this answer instead of their own."""
        self._failures.extend([(status, code, retry_after)] * times)

    def drop(self, code: int = 1012) -> None:
        """Closes all live connections, as a restart does."""
        self._sockets.drop(code)

    def finish(self, task: str, result: Any = None, *, error: str | None = None) -> None:
        """What a worker would do with a task."""
        self.world.finish(task, result, error)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for client in self._clients:
            client.close()
        self._sockets.drop(1001)
        self._sockets.close()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def answer(
        self, method: str, target: str, authorization: str, key: str, body: bytes
    ) -> tuple[int, Any, float | None]:
        """What a request gets: status, JSON, and when to come back."""
        if self._failures:
            status, code, pause = self._failures.popleft()
            return status, {"error": {"code": code, "message": "The fake was told to fail."}}, pause
        parts = urlsplit(target)
        try:
            user = self.world.user_of(authorization)
            segments = [unquote(one) for one in parts.path.removeprefix("/api/").split("/")]
            given = json.loads(body) if body else {}
            status, reply = self.world.do(method, segments, dict(parse_qsl(parts.query)), given, user, key)
        except Refusal as refusal:
            return refusal.status, {"error": {"code": refusal.code, "message": str(refusal)}}, None
        return status, reply, None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle(self) -> None:
                if self.connection.recv(8, MSG_PEEK).startswith(b"GET /ws/"):
                    fake._sockets.pass_on(self.connection)
                else:
                    super().handle()

            def parse_request(self) -> bool:
                good = super().parse_request()
                setattr(self, f"do_{self.command}", self._reply)
                return good

            def _reply(self) -> None:
                content = self.rfile.read(int(self.headers.get("content-length", 0)))
                authorization, key = self.headers.get("authorization", ""), self.headers.get("idempotency-key", "")
                status, reply, pause = fake.answer(self.command, self.path, authorization, key, content)
                encoded = b"" if reply is None else json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(encoded)))
                if pause is not None:
                    self.send_header("retry-after", f"{pause:.0f}")
                self.end_headers()
                self.wfile.write(encoded)

            def log_message(self, format: str, *args: Any) -> None:
                """Tests are quiet."""

        return Handler
