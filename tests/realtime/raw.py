"""A client that may break every rule: a plain TCP connection, and WebSocket frames made by hand."""

import json
import socket
import struct
from contextlib import suppress
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode

import httpx

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
MASK = b"\x37\xfa\x21\x3d"
PATIENCE = 20.0

http = httpx.Client(timeout=PATIENCE, limits=httpx.Limits(max_keepalive_connections=0))  # Costly to make.


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    final: bool = True,
    reserved: int = 0,
    mask: bytes | None = MASK,
    length_bytes: int | None = None,
    length: int | None = None,
) -> bytes:
    """RFC 6455 §5.2. `length_bytes` 0, 2 or 8 and `length` override what would be right."""
    length = len(payload) if length is None else length
    if length_bytes is None:
        length_bytes = 0 if length < 126 else 2 if length < 65536 else 8
    short = {0: length, 2: 126, 8: 127}[length_bytes]
    head = bytes((final << 7 | reserved << 4 | opcode, (mask is not None) << 7 | short))
    head += length.to_bytes(length_bytes) if length_bytes else b""
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def text(value: Any) -> bytes:
    """A text frame with this JSON."""
    return frame(TEXT, json.dumps(value).encode())


def request(path: str, *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""]).encode("latin-1")


def upgrade(path: str, *headers: str, method: str = "GET", version: str = "13") -> bytes:
    """The head of a good handshake, RFC 6455 §4.1."""
    return request(
        path,
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        f"Sec-WebSocket-Version: {version}",
        *headers,
        method=method,
    )


class Raw:
    """A TCP connection. `small` makes its receive buffer as small as can be, for a reader that does not read."""

    def __init__(self, port: int, *, small: bool = False, seconds: float = PATIENCE) -> None:
        self.socket = socket.socket()
        if small:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        self.socket.settimeout(seconds)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect(("127.0.0.1", port))
        self._got = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Leaves without even a FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def send(self, *pieces: bytes) -> None:
        self.socket.sendall(b"".join(pieces))

    def head(self) -> tuple[int, dict[str, str]]:
        """The head of an HTTP answer -> status, headers with lower-case names."""
        while b"\r\n\r\n" not in self._got:
            self._more()
        head, _, rest = bytes(self._got).partition(b"\r\n\r\n")
        self._got = bytearray(rest)
        first, *lines = head.decode("latin-1").split("\r\n")
        return int(first.split()[1]), {name.lower(): value for name, _, value in (s.partition(": ") for s in lines)}

    def try_to_read(self, seconds: float) -> None:
        """Waits a moment for an answer, which there may be or not."""
        patience = self.socket.gettimeout()
        self.socket.settimeout(seconds)
        with suppress(TimeoutError, EOFError):
            self._more()
        self.socket.settimeout(patience)

    def frame(self) -> tuple[int, bytes]:
        """The next frame of the server -> opcode, payload; CLOSE and nothing when it went without one."""
        try:
            short = self._take(2)
            length = short[1]
            if length >= 126:
                length = int.from_bytes(self._take(2 if length == 126 else 8))
            return short[0] & 0xF, self._take(length)
        except (EOFError, ConnectionError):
            return CLOSE, b""

    def event(self, *names: str) -> dict[str, Any]:
        """The next event, or the next of these; others are passed over."""
        while True:
            opcode, payload = self.frame()
            assert opcode == TEXT, (opcode, payload)
            event = json.loads(payload)
            if not names or event["event"] in names:
                return dict(event)

    def close_code(self) -> int | None:
        """Reads to the close frame -> its code; None when there was none, or it was empty."""
        while True:
            opcode, payload = self.frame()
            if opcode == CLOSE:
                return int.from_bytes(payload[:2]) if payload else None

    def rest(self) -> bytes:
        """What comes until the server ends the connection."""
        try:
            while True:
                self._more()
        except (EOFError, ConnectionError):
            return bytes(self._got)

    def _take(self, count: int) -> bytes:
        while len(self._got) < count:
            self._more()
        taken = bytes(self._got[:count])
        del self._got[:count]
        return taken

    def _more(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise EOFError
        self._got += data


def live(port: int, credential: str, topics: str | None = None, **options: Any) -> Raw:
    """A WebSocket of the product, after its `welcome`."""
    raw = Raw(port, **options)
    path = "/ws/" if topics is None else "/ws/?" + urlencode({"topics": topics}, quote_via=quote)
    raw.send(upgrade(path, f"Authorization: Bearer {credential}"))
    assert raw.head()[0] == 101
    raw.event("welcome")
    return raw
