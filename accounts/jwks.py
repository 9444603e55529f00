"""The public keys of outside issuers: one set for each address and process, fetched on use, kept over outages.

Fetching waits for the network: call from a worker thread, never on the event loop.
"""

import http.client
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import jwt
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

logger = logging.getLogger(__name__)

FRESH_SECONDS = 300.0  # An older set is fetched again when it is used.
KEPT_SECONDS = 24 * 3600.0  # For so long the last good set serves while its address does not answer.
PAUSE_SECONDS = 30.0  # Between fetches for unknown key ids, and after a failed one.
RETRY_SECONDS = 2.0  # After a failed one while there is no set to serve.
TIMEOUT_SECONDS = 2.0  # From the host name to the last byte.
MAX_BYTES = 256 * 1024

FAMILIES = {
    **dict.fromkeys(("HS256", "HS384", "HS512"), "HMAC"),
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "RSA"),
    **dict.fromkeys(("ES256", "ES384", "ES512"), "EC"),
    "EdDSA": "EdDSA",
}
_KEY_TYPES: dict[type[Any] | tuple[type[Any], ...], str] = {
    RSAPublicKey: "RSA",
    EllipticCurvePublicKey: "EC",
    (Ed25519PublicKey, Ed448PublicKey): "EdDSA",
}


class KeysUnavailable(Exception):
    """The keys cannot be fetched, and none are at hand. It may help to come back in RETRY_SECONDS."""


class FetchFailed(Exception):
    """The address did not give a document in time. The reason is for the log."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One key; `algorithm` is the only one that it is for, where its issuer says so."""

    id: str | None
    key: Any
    family: str
    algorithm: str | None = None

    def suits(self, algorithm: str) -> bool:
        return self.family == FAMILIES[algorithm] and self.algorithm in (None, algorithm)


@dataclass(frozen=True, slots=True)
class _Held:
    keys: tuple[PublicKey, ...]
    fetched_at: float

    def find(self, key_id: str | None) -> tuple[PublicKey, ...]:
        return self.keys if key_id is None else tuple(key for key in self.keys if key.id == key_id)


class KeySet:
    """The keys behind one address. Any thread may ask; one fetches at a time."""

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.url = url
        self._clock = clock
        self._held: _Held | None = None
        self._lock = threading.Lock()
        self._failed = False  # The last fetch.
        self._no_fetch_before = float("-inf")
        self._no_search_before = float("-inf")

    def find(self, key_id: str | None) -> tuple[PublicKey, ...]:
        """The keys with this id; all of them for a token that names none.

        An id that the set does not know makes it fetch, once in PAUSE_SECONDS. Raises KeysUnavailable.
        """
        held = self._held
        if held is None:
            # Only the first fetch is waited for: while one that failed is repeated, the others are told at once.
            held = self._fetch_again(held, wait=not self._failed)
        elif self._age(held) > FRESH_SECONDS:
            held = self._fetch_again(held, wait=False)
        if held is None or self._age(held) > KEPT_SECONDS:
            raise KeysUnavailable(self.url)
        found = held.find(key_id)
        if found or key_id is None:
            return found
        held = self._fetch_again(held, wait=True, search=True) or held
        return held.find(key_id)

    def _age(self, held: _Held) -> float:
        return self._clock() - held.fetched_at

    def _fetch_again(self, seen: _Held | None, *, wait: bool, search: bool = False) -> _Held | None:
        """What is held after a fetch; or without one, where another thread was quicker or it is too soon."""
        if not self._lock.acquire(blocking=wait):
            return self._held
        try:
            too_soon = self._no_search_before if search else self._no_fetch_before
            if self._held is seen and self._clock() >= max(too_soon, self._no_fetch_before):
                self._fetch()
                if search:
                    self._no_search_before = self._clock() + PAUSE_SECONDS
            return self._held
        finally:
            self._lock.release()

    def _fetch(self) -> None:
        try:
            self._held = _Held(tuple(parse(fetch(self.url))), self._clock())
            self._failed = False
        except (FetchFailed, ValueError, RecursionError) as error:
            self._failed = True
            serves = self._held is not None and self._age(self._held) <= KEPT_SECONDS
            self._no_fetch_before = self._clock() + (PAUSE_SECONDS if serves else RETRY_SECONDS)
            state = "the last good ones serve" if serves else "there are none to serve"
            logger.warning("The keys at %s cannot be fetched (%s): %s.", self.url, error, state)


_key_sets: dict[str, KeySet] = {}


def key_set(url: str) -> KeySet:
    """The one of this process for the address."""
    return _key_sets.get(url) or _key_sets.setdefault(url, KeySet(url))


def parse(document: bytes) -> Iterable[PublicKey]:
    """The keys of a JWK set, or of a map of ids to certificates as Google serves it; unusable ones are left out.

    Raises ValueError or RecursionError for anything else.
    """
    value = msgspec.json.decode(document)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    if isinstance(value.get("keys"), list):
        found = [_from_jwk(entry) for entry in value["keys"]]
    elif value and all(isinstance(text, str) and "BEGIN CERTIFICATE" in text for text in value.values()):
        found = [_from_certificate(key_id, text) for key_id, text in value.items()]
    else:
        raise ValueError("neither a JWK set nor a map of certificates")
    return [key for key in found if key is not None]


def _from_jwk(jwk: Any) -> PublicKey | None:
    """None for keys for encryption, and for what is no public key: nothing that they sign may count."""
    try:
        if jwk.get("use", "sig") != "sig":
            return None
        key_id = jwk.get("kid")
        return _public_key(key_id if isinstance(key_id, str) else None, jwt.PyJWK(jwk).key, jwk.get("alg"))
    except Exception as error:  # PyJWT and OpenSSL raise this and that; one odd key must not cost the others.
        logger.info("A key was left out: %s", type(error).__name__)
        return None


def _from_certificate(key_id: str, text: str) -> PublicKey | None:
    try:
        return _public_key(key_id, x509.load_pem_x509_certificate(text.encode()).public_key())
    except Exception as error:  # As above.
        logger.info("A certificate was left out: %s", type(error).__name__)
        return None


def _public_key(key_id: str | None, key: Any, algorithm: str | None = None) -> PublicKey | None:
    """None for private and shared keys: they are of other types."""
    for types, family in _KEY_TYPES.items():
        if isinstance(key, types):
            return PublicKey(key_id, key, family, algorithm)
    return None


def fetch(url: str) -> bytes:
    """The document at an http(s) address, in TIMEOUT_SECONDS at most. Raises FetchFailed."""
    download = _Download(url)
    download.start()
    download.join(TIMEOUT_SECONDS)
    if download.is_alive():
        download.hang_up()
        raise FetchFailed("no whole answer in time")
    if download.body is None:
        raise FetchFailed(download.problem)
    return download.body


class _Download(threading.Thread):
    """A thread of its own: a timeout on a socket bounds each read, but neither their sum nor the name server."""

    def __init__(self, url: str) -> None:
        super().__init__(name="key-set", daemon=True)
        self.body: bytes | None = None
        self.problem = ""
        self._url = url
        self._connection: http.client.HTTPConnection | None = None
        self._too_late = False

    def run(self) -> None:
        try:
            self.body = self._get()
        except (FetchFailed, OSError, http.client.HTTPException, ValueError) as error:
            self.problem = str(error) or type(error).__name__
        finally:
            if self._connection:
                self._connection.close()

    def hang_up(self) -> None:
        """Ends it, wherever it is, soon."""
        self._too_late = True
        if self._connection and self._connection.sock:
            with suppress(OSError):
                # The plain socket's: TLS would first want to say goodbye.
                socket.socket.shutdown(self._connection.sock, socket.SHUT_RDWR)

    def _get(self) -> bytes:
        parts = urlsplit(self._url)
        self._connection = connection = _connection(parts.scheme, parts.hostname or "", parts.port)
        connection.connect()
        if self._too_late:
            raise FetchFailed("too late")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", target, headers={"Accept": "application/json", "User-Agent": "fanfare"})
        response = connection.getresponse()
        if response.status != 200:  # Redirects too: keys come from where the settings say, and from nowhere else.
            raise FetchFailed(f"HTTP status {response.status}")
        body = response.read(MAX_BYTES + 1)
        if len(body) > MAX_BYTES:
            raise FetchFailed(f"more than {MAX_BYTES} bytes")
        return body


def _connection(scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
    if scheme == "https":
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_SECONDS, context=context)
    if scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    raise FetchFailed("neither http nor https")
