"""An issuer for tests: its keys, and a real HTTP server that shows them, or does what servers do on bad days."""

import json
import ssl
import threading
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

MAKERS: dict[str, Callable[[], Any]] = {
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}


class SigningKey:
    """A private key of an issuer, and its public face as a JWK, a PEM or a certificate."""

    def __init__(self, kid: str, algorithm: str = "RS256", private: Any = None) -> None:
        self.kid, self.algorithm = kid, algorithm
        self.private = private or MAKERS[algorithm]()

    def sign(self, claims: dict[str, Any], **header: Any) -> str:
        headers = {"kid": self.kid} | header
        return jwt.encode(
            claims, self.private, algorithm=self.algorithm, headers={k: v for k, v in headers.items() if v is not None}
        )

    def jwk(self, **changes: Any) -> dict[str, Any]:
        maker: Any = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}[self.algorithm]
        return {**maker.to_jwk(self.private.public_key(), as_dict=True), "kid": self.kid, "use": "sig"} | changes

    def pem(self) -> bytes:
        public: bytes = self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return public

    def private_pem(self) -> bytes:
        private: bytes = self.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return private

    def certificate(self) -> str:
        name, now = x509.Name.from_rfc4514_string("CN=localhost"), datetime.now(UTC)
        builder = x509.CertificateBuilder(name, name, self.private.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        certificate = builder.sign(self.private, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM).decode()


@cache
def signing_key(kid: str, algorithm: str = "RS256") -> SigningKey:
    """Made once for all tests: RSA takes its time."""
    return SigningKey(kid, algorithm)


class JwksServer:
    """Shows `document`; `mood` is how: well, slow, refusing, moved, hanging, dripping or dripping_headers."""

    def __init__(self, *keys: SigningKey, certificate: tuple[Path, Path] | None = None) -> None:
        self.show(*keys)
        self.mood = "well"
        self.requests = 0
        self.paths: list[str] = []
        self.ending = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"jwks": self}))
        self._server.daemon_threads = True
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self._server.handle_error = lambda *_args: None  # type: ignore[method-assign]
        scheme, host = ("https", "localhost") if certificate else ("http", "127.0.0.1")
        self.port = self._server.server_address[1]
        self.url = f"{scheme}://{host}:{self.port}/{uuid.uuid4()}"  # Never the key set of another test.
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def show(self, *keys: SigningKey) -> None:
        self.document = json.dumps({"keys": [key.jwk() for key in keys]}).encode()

    def stop(self) -> None:
        """From now on, connections are refused."""
        self.ending.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    jwks: JwksServer

    def do_GET(self) -> None:
        self.jwks.requests += 1
        self.jwks.paths.append(self.path)
        match self.jwks.mood:
            case "well":
                self._answer(200, self.jwks.document)
            case "slow":
                self.jwks.ending.wait(0.5)
                self._answer(200, self.jwks.document)
            case "refusing":
                self._answer(500, self.jwks.document)
            case "moved":
                self._answer(302, b"", Location=f"/elsewhere{self.path}")
            case "hanging":
                self.jwks.ending.wait(20)
            case "dripping":
                self._drip(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", self.jwks.document)
            case "dripping_headers":
                self._drip(b"HTTP/1.1 200 OK\r\n", b"X: 1\r\n" * 1000)

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            pass  # The reader has had enough.

    def _drip(self, head: bytes, rest: bytes) -> None:
        try:
            self.wfile.write(head)
            for byte in rest:
                if self.jwks.ending.wait(0.1):
                    return
                self.wfile.write(bytes([byte]))
        except OSError:
            pass  # The reader hung up.

    def log_message(self, *_args: Any) -> None:
        pass
