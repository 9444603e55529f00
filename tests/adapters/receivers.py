"""A receiver of webhooks for tests: a real HTTP server in threads of its own, well or as servers are on bad days."""

import ssl
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from adapters.base import Outcome, Target
from adapters.webhook import Webhook
from tests.adapters.contract import parcel

SECRET, OLD_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_b2xkIHNlY3JldCBvZiB0aGUgaG9vaw=="


@dataclass(frozen=True, slots=True)
class Call:
    """One request; names of headers are in lower case. `port` is the caller's: the same for each on one connection."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    port: int


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    receiver: "Receiver"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        call = Call(self.path, headers, body, self.client_address[1])
        with self.receiver.lock:
            self.receiver.calls.append(call)
        self.receiver.answer(self, call)

    do_GET = do_POST

    def log_message(self, format: str, *args: Any) -> None: ...


Answer = Callable[[Handler, Call], None]


class Receiver:
    """Use as a context manager. `answer` is what it does with a call; each call is in `calls` before."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.calls: list[Call] = []
        self.lock = threading.Lock()
        self.answer: Answer = status(200)
        self._server = _Server(("127.0.0.1", 0), type("Handler", (Handler,), {"receiver": self}))
        self._server.context = context
        self.port = int(self._server.server_address[1])
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    context: ssl.SSLContext | None

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread: a handshake that fails stops nobody else."""
        if self.context:
            with self.context.wrap_socket(request, server_side=True) as wrapped:
                super().finish_request(wrapped, client_address)
        else:
            super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Callers that hang up are what many tests are about."""


# --- Calling it ---------------------------------------------------------------------------------


@asynccontextmanager
async def webhook(url: str, *secrets: str, **options: Any) -> AsyncIterator[Webhook]:
    adapter = Webhook(Target(uuid4(), "shop", url, options, secrets or (SECRET,)))
    try:
        yield adapter
    finally:
        await adapter.close()


async def outcome_of(url: str, **options: Any) -> Outcome:
    """What becomes of one event."""
    async with webhook(url, **options) as adapter:
        [outcome] = await adapter.publish([parcel()])
        return outcome


# --- Answers --------------------------------------------------------------------------------------


def status(code: int, text: bytes = b"", **headers: str) -> Answer:
    def answer(handler: Handler, call: Call) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)

    return answer


def cut(handler: Handler, call: Call) -> None:
    """Hangs up without an answer."""
    handler.close_connection = True
    handler.connection.close()


def drip(start: bytes, every: float = 0.05) -> Answer:
    """Begins so, and goes on byte by byte for as long as somebody listens."""

    def answer(handler: Handler, call: Call) -> None:
        handler.close_connection = True
        handler.wfile.write(start)
        while True:
            handler.wfile.write(b"x")
            handler.wfile.flush()
            threading.Event().wait(every)

    return answer


def flood(handler: Handler, call: Call) -> None:
    """An answer without end, as fast as it goes."""
    handler.close_connection = True
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        handler.wfile.write(b"x" * 65536)


# --- Certificates ---------------------------------------------------------------------------------


class Authority:
    """A certificate authority; `pem` is the file of what to trust."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name.from_rfc4514_string("CN=tests")
        basic = x509.BasicConstraints(ca=True, path_length=None)
        self.pem = self._write("authority.pem", self._certificate(self._name, self._key, basic))

    def context(self, *names: str) -> ssl.SSLContext:
        """What a server needs to be one of these names."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name.from_rfc4514_string(f"CN={names[0]}")
        certificate = self._certificate(subject, key, x509.SubjectAlternativeName([_general(name) for name in names]))
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._write(f"{names[0]}.pem", certificate + private))
        return context

    def _certificate(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType) -> bytes:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        certificate = builder.add_extension(extension, critical=False).sign(self._key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM)

    def _write(self, name: str, content: bytes) -> Path:
        path = self._folder / name
        path.write_bytes(content)
        return path


def _general(name: str) -> x509.GeneralName:
    return x509.DNSName(name) if name[-1].isalpha() else x509.IPAddress(ip_address(name))
