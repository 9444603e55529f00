"""A deadline for everything that one thread reads and writes for a request.

httpx counts each read for itself: a server that sends a byte now and then would keep it for ever, in the headers as
in the body.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from ssl import SSLContext
from typing import Any

import httpcore
import httpx

_now = threading.local()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Bounds what this thread does over a bounded client."""
    _now.ends_at = time.monotonic() + seconds
    try:
        yield
    finally:
        _now.ends_at = None


def _left(timeout: float | None) -> float | None:
    """Raises httpcore.ReadTimeout when time is over."""
    ends_at: float | None = getattr(_now, "ends_at", None)
    if ends_at is None:
        return timeout
    left = ends_at - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("time is over")
    return left if timeout is None else min(left, timeout)


def bounded_client() -> httpx.Client:
    """An httpx.Client, with proxies and certificates from the environment as usual, that keeps to `within`."""
    client = httpx.Client(follow_redirects=False)
    # httpx has no parameter for the network of its transports.
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx.HTTPTransport):
            transport._pool._network_backend = _Network(transport._pool._network_backend)
    return client


class _Network(httpcore.NetworkBackend):
    def __init__(self, inner: httpcore.NetworkBackend) -> None:
        self._inner = inner

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        return _Stream(self._inner.connect_tcp(host, port, _left(timeout), local_address, socket_options))


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, _left(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, _left(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
