"""A server without WebSockets whose end of each request is held by the test."""

import base64
import json
import queue
import select
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.clients.pages import ALICE, STATIC

PATIENCE = 15.0


class Exchange:
    """The server's end of one request."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        self.method, self.path = handler.command, parts.path
        self.query = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.headers = handler.headers
        self.body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        self.over = threading.Event()
        self._handler = handler

    @property
    def since(self) -> dict[str, Any]:
        """The positions that the client sent."""
        return dict(json.loads(base64.urlsafe_b64decode(self.query["since"])))

    def start(self, status: int = 200, content_type: str = "text/event-stream", **headers: str) -> None:
        self._handler.send_response(status)
        for name, value in {"Content-Type": content_type, "Cache-Control": "no-store", **headers}.items():
            self._handler.send_header(name.replace("_", "-"), value)
        self._handler.end_headers()

    def write(self, data: bytes) -> None:
        self._handler.wfile.write(data)
        self._handler.wfile.flush()

    def reply(self, status: int, body: Any, **headers: str) -> None:
        self.start(status, "application/json", **headers)
        self.write(body if isinstance(body, bytes) else json.dumps(body).encode())
        self.over.set()

    def refuse(self, status: int, code: str, message: str = "No.", **headers: str) -> None:
        self.reply(status, {"error": {"code": code, "message": message}}, **headers)

    def wait_left(self) -> None:
        """Until the client has left."""
        assert select.select([self._handler.connection], [], [], PATIENCE)[0]
        assert self._handler.connection.recv(1) == b""
        self.over.set()

    def send(self, *events: dict[str, Any], place: dict[str, list[Any]] | None = None) -> None:
        """What a stream says; with a place, the events up to there."""
        blocks = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events]
        self.write(b"".join(blocks) + (b"id: " + placed(place) + b"\n\n" if place is not None else b""))

    def welcome(self, **places: Any) -> None:
        """The first words of a stream that starts with these topics, or all that a poll says."""
        if self.path == "/api/poll":
            return self.answer(place={topic: [p["epoch"], p["offset"]] for topic, p in places.items()})
        self.start()
        topics = {topic: [p["epoch"], p["offset"]] for topic, p in places.items()}
        self.send({"event": "welcome", "connectionId": "c", "user": "alice", "topics": places}, place=topics)

    def answer(self, *events: Any, place: dict[str, list[Any]]) -> None:
        """What a poll says."""
        self.reply(200, {"events": list(events), "since": placed(place).decode()})


class Server:
    """Serves an empty page and the client, refuses WebSockets, and leaves `/api/` to the test."""

    def __init__(self) -> None:
        self.alive = True
        self.seen: list[str] = []
        self._waiting: queue.Queue[Exchange] = queue.Queue()
        self._exchanges: list[Exchange] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.seen.append(self.path)
                exchange = Exchange(self)
                if exchange.path.startswith("/api/"):
                    server._exchanges.append(exchange)
                    server._waiting.put(exchange)
                    exchange.over.wait()
                elif (script := STATIC / exchange.path.strip("/")).is_file():
                    exchange.start(content_type="text/javascript")
                    exchange.write(script.read_bytes())
                else:
                    there = server.alive or exchange.path == "/"
                    exchange.start(404 if exchange.path == "/ws/" else 200 if there else 503, "text/html")
                self.close_connection = True

            do_POST = do_PUT = do_DELETE = do_GET

            def log_message(self, *_: object) -> None:
                pass

        class Threads(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 50

            def handle_error(self, *_: object) -> None:  # Clients leave.
                pass

        self._http = Threads(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def accept_any(self, within: float = PATIENCE) -> Exchange:
        return self._waiting.get(timeout=within)

    def accept(self, path: str, within: float = PATIENCE) -> Exchange:
        exchange = self.accept_any(within)
        assert exchange.path == f"/api/{path}"
        return exchange

    def accept_beyond(self, barred: str, path: str) -> Exchange:
        """Refuses one way as a proxy would, until the client takes another one."""
        while (exchange := self._waiting.get(timeout=PATIENCE)).path == f"/api/{barred}":
            exchange.reply(403, b"<html>The proxy does not like this.")
        assert exchange.path == f"/api/{path}"
        return exchange

    def nobody_comes(self, within: float) -> bool:
        time.sleep(within)
        return self._waiting.empty()

    def stop(self) -> None:
        for exchange in self._exchanges:
            exchange.over.set()
        self._http.shutdown()
        self._http.server_close()


def placed(place: dict[str, list[Any]]) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(place, ensure_ascii=False).encode()).rstrip(b"=")


def message(offset: int | None, topic: str = ALICE, **more: Any) -> dict[str, Any]:
    fields = {"id": f"id-{offset}", "type": "note", "data": offset, "created_at": "2026-01-01T00:00:00Z"}
    return {"event": "message", "topic": topic, "offset": offset, **fields, **more}
