"""Servers that are slow, lie, or mean harm: what they say is written byte by byte."""

import json
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

Say = Callable[[socket.socket], None]


class Hostile:
    """Answers the n-th connection with the n-th of `answers`, and all further ones with the last.

    `requests` is what came, head and body.
    """

    def __init__(self, *answers: Say) -> None:
        self.answers = answers
        self.requests: list[bytes] = []
        self.over = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(0.1)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join(10)
        self._socket.close()

    def headers(self, number: int = -1) -> dict[str, str]:
        lines = self.requests[number].partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
        return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}

    def _accept(self) -> None:
        count = 0
        while not self.over.is_set():
            try:
                peer, _ = self._socket.accept()
            except TimeoutError:
                continue
            say = self.answers[min(count, len(self.answers) - 1)]
            count += 1
            self._threads.append(threading.Thread(target=self._serve, args=(peer, say)))
            self._threads[-1].start()

    def _serve(self, peer: socket.socket, say: Say) -> None:
        with peer, suppress(OSError):
            peer.settimeout(3)
            head = b""
            while b"\r\n\r\n" not in head:
                head += peer.recv(65536)
            head, _, body = head.partition(b"\r\n\r\n")
            lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
            while lengths and len(body) < int(lengths[0].partition(b":")[2]):
                body += peer.recv(65536)
            self.requests.append(head + b"\r\n\r\n" + body)
            say(peer)

    def forever(self, first: bytes, then: bytes, pause: float) -> Say:
        """Says something, and something more each `pause` seconds."""

        def say(peer: socket.socket) -> None:
            peer.sendall(first)
            while not self.over.wait(pause):
                peer.sendall(then)

        return say


def answer(status: int, body: Any = None, **headers: str) -> Say:
    """An HTTP response; what is no bytes goes out as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    def say(peer: socket.socket) -> None:
        lines = [f"HTTP/1.1 {status} X", f"content-length: {len(content)}", "connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        peer.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + content)

    return say


def refusal(status: int, code: str, **headers: str) -> Say:
    return answer(status, {"error": {"code": code, "message": "No."}}, **headers)


def hang_up(_peer: socket.socket) -> None:
    """Closes without a word."""


class HostileSocket:
    """A WebSocket server that says these frames to each client, and then waits; None closes with 1012."""

    def __init__(self, *frames: Any) -> None:
        self.frames: Sequence[Any] = frames
        self.connections = 0
        self.got: list[Any] = []
        self._server: Server = serve(self._talk, "127.0.0.1", 0, compression=None, max_size=None)
        self.url = f"http://127.0.0.1:{self._server.socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join(10)

    def _talk(self, connection: ServerConnection) -> None:
        self.connections += 1
        with suppress(ConnectionClosed):
            for frame in self.frames:
                if frame is None:
                    return connection.close(1012, "restart")
                connection.send(frame if isinstance(frame, str | bytes) else json.dumps(frame))
            while True:
                self.got.append(json.loads(connection.recv()))
        return None
