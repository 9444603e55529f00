"""A server whose end of each socket is held by the test: it says what no server should."""

import json
import queue
import threading
from typing import Any

import pytest
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve
from websockets.typing import Subprotocol

from tests.clients.pages import ALICE, STATIC

PATIENCE = 5.0


class Connection:
    """The server's end of one socket."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        assert socket.request is not None
        self.path = socket.request.path
        self.subprotocols = socket.request.headers["Sec-WebSocket-Protocol"]

    def send(self, **event: Any) -> None:
        self.socket.send(json.dumps(event))

    def welcome(self, **topics: Any) -> None:
        self.send(event="welcome", connectionId="c1", user="alice", topics=topics)

    def message(self, offset: int | None, topic: str = ALICE, **more: Any) -> None:
        event = {"id": f"id-{offset}", "type": "note", "data": offset, "created_at": "2026-01-01T00:00:00Z", **more}
        self.send(event="message", topic=topic, offset=offset, **event)

    def receive(self) -> dict[str, Any]:
        frame = json.loads(self.socket.recv(PATIENCE))
        assert isinstance(frame, dict)
        return frame

    def close(self, code: int, reason: str = "") -> None:
        self.socket.close(code, reason)

    def wait_closed(self) -> None:
        with pytest.raises(ConnectionClosed):
            self.socket.recv(PATIENCE)


class Fake:
    """A server that serves an empty page, the client, and sockets that the test holds the other end of."""

    def __init__(self) -> None:
        self._accepted: queue.Queue[ServerConnection] = queue.Queue()
        self._over = threading.Event()
        self._server = serve(
            self._hold,
            "127.0.0.1",
            0,
            process_request=self._page,
            select_subprotocol=lambda _connection, _offered: Subprotocol("fanfare.v1"),
            ping_interval=None,
            close_timeout=1,
        )
        self.url = f"http://127.0.0.1:{self._server.socket.getsockname()[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def accept(self, within: float = PATIENCE) -> Connection:
        return Connection(self._accepted.get(timeout=within))

    def nobody_comes(self, within: float) -> bool:
        try:
            self._accepted.get(timeout=within)
        except queue.Empty:
            return True
        return False

    def stop(self) -> None:
        self._over.set()
        self._server.shutdown()

    def _hold(self, socket: ServerConnection) -> None:
        self._accepted.put(socket)
        self._over.wait()

    def _page(self, _connection: ServerConnection, request: Request) -> Response | None:
        if request.path.startswith("/ws/"):
            return None
        script = STATIC / request.path.strip("/")
        body = script.read_bytes() if script.is_file() else b"<!doctype html><title>A page</title>"
        kind = "text/javascript" if script.is_file() else "text/html"
        headers = Headers({"Content-Type": kind, "Connection": "close"})
        headers["Content-Length"] = str(len(body))
        return Response(200, "OK", headers, body)
