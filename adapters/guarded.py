"""Connections to addresses that strangers may have chosen: only to where they may lead, exactly to what was checked.

Without this a webhook's address could be anything that this machine reaches: its own ports, the private network, the
cloud's metadata.
"""

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from socket import SOCK_STREAM, getaddrinfo
from typing import Any
from urllib.parse import urlsplit

import httpcore
import httpx
from django.conf import settings

from adapters.base import Misconfigured

ADDRESS_MAX = 2000
ADDRESSES_TRIED = 3  # Of a host that has several.
KEPT_ALIVE_SECONDS = 30.0
LOOKUP_SECONDS = 5.0  # So long what was found and checked is good for further connections.

# What IANA has set aside and `is_global` lets through; 168.63.129.16 is Azure's own, reachable from its machines only.
_NOT_PUBLIC_4 = [IPv4Network(net) for net in ("192.0.0.0/24", "192.88.99.0/24", "224.0.0.0/3", "168.63.129.16/32")]
_UNICAST_6 = IPv6Network("2000::/3")  # Mapped, compatible, local and multicast addresses are all outside.
_NOT_PUBLIC_6 = [IPv6Network(net) for net in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")]
_NAT64 = IPv6Network("64:ff9b::/96")  # How networks without IPv4 reach it: what counts is the address inside.


@dataclass(frozen=True, slots=True)
class Address:
    """A URL, taken apart once: what is checked is what is called. `authority` is for the header `host`."""

    scheme: str
    host: str
    port: int
    authority: str
    target: str


def parse(address: str) -> Address:
    """Raises Misconfigured for what is no URL to post to."""
    if len(address) > ADDRESS_MAX or not re.fullmatch(r"[!-~]+", address):
        raise Misconfigured(f"The address has to be a URL of 1 to {ADDRESS_MAX} ASCII characters, without spaces.")
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise Misconfigured(f"The address is not a URL: {error}.") from error
    if parts.scheme not in ("https", "http"):
        raise Misconfigured("The address has to begin with https://.")
    if "@" in parts.netloc:
        raise Misconfigured("The address must not have a user or password; `headers` may have an Authorization.")
    if "#" in address:
        raise Misconfigured("The address must not have a fragment (#…).")
    if port == 0 or not (_literal(host) or _is_name(host)):
        raise Misconfigured("The address has no host, or one that is neither a name nor an IP address.")
    authority = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Address(parts.scheme, host, port or (443 if parts.scheme == "https" else 80), authority, target)


def validate(address: str) -> None:
    """Raises Misconfigured for an address that cannot be reached, whatever names stand for."""
    parsed = parse(address)
    if literal := _literal(parsed.host):
        require_allowed(literal, parsed.scheme)
    elif parsed.scheme == "http" and not settings.WEBHOOK_NETWORKS:
        raise Misconfigured("The address has to begin with https://; http is for addresses inside WEBHOOK_NETWORKS.")


def require_allowed(address: IPv4Address | IPv6Address, scheme: str) -> None:
    """Raises Misconfigured for an address that must not be connected to.

    What is inside WEBHOOK_NETWORKS may be; all else has to be public, and is spoken to in https only.
    """
    try:
        if any(address in ip_network(network) for network in settings.WEBHOOK_NETWORKS):
            return
    except ValueError as error:
        raise Misconfigured(f"WEBHOOK_NETWORKS has to be a list such as 10.0.0.0/8,fd00::/8: {error}.") from error
    if not is_public(address):
        raise Misconfigured(f"{address} is not a public address; WEBHOOK_NETWORKS says which others are allowed.")
    if scheme != "https":
        raise Misconfigured(f"{address} has to be called by https://; http is for addresses inside WEBHOOK_NETWORKS.")


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether anybody's machine may have it: neither private nor local nor reserved, nor one of these in disguise."""
    if isinstance(address, IPv6Address) and address in _NAT64:
        address = IPv4Address(int(address) & 0xFFFF_FFFF)
    if isinstance(address, IPv6Address):
        return address in _UNICAST_6 and not any(address in network for network in _NOT_PUBLIC_6)
    return address.is_global and not any(address in network for network in _NOT_PUBLIC_4)


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return None if "%" in host else ip_address(host)
    except ValueError:
        return None


def _is_name(host: str) -> bool:
    """Not one that ends in a number: the system would take it for an IPv4 address in an odd spelling."""
    labels = host.removesuffix(".").split(".")
    if re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1]):
        return False
    return len(host) <= 253 and all(re.fullmatch(r"[a-z0-9_-]{1,63}", label) for label in labels)


class Connections:
    """Those to one destination, kept for a while after use."""

    def __init__(self, address: Address) -> None:
        self._origin = httpcore.Origin(address.scheme.encode(), address.host.encode(), address.port)
        self._context = _trusted() if address.scheme == "https" else None
        self._network = _GuardedNetwork(address.scheme)
        self._idle: list[httpcore.AsyncHTTPConnection] = []

    @asynccontextmanager
    async def one(self) -> AsyncIterator[httpcore.AsyncHTTPConnection]:
        """For one request; it is kept if the answer has been read to its end.

        Not httpcore's pool: that looks at each of its connections for each request, which takes most of the time.
        """
        connection = await self._kept() or httpcore.AsyncHTTPConnection(
            origin=self._origin,
            ssl_context=self._context,
            keepalive_expiry=KEPT_ALIVE_SECONDS,
            network_backend=self._network,
        )
        try:
            yield connection
        finally:
            if connection.is_idle() and not connection.is_closed():
                self._idle.append(connection)
            else:
                await connection.aclose()

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().aclose()
        self._network.close()

    async def _kept(self) -> httpcore.AsyncHTTPConnection | None:
        """The one used last, so that what is not needed expires."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.has_expired():
                return connection
            await connection.aclose()
        return None


@cache
def _trusted() -> ssl.SSLContext:
    """The usual authorities, or those that SSL_CERT_FILE names."""
    return httpx.create_ssl_context(trust_env=True)


class _GuardedNetwork(httpcore.AsyncNetworkBackend):
    """Opens the connections to one destination. It looks the name up, checks, and goes to just what it has checked.

    Names are looked up in a thread of its own: a name server that does not answer keeps nobody else waiting.
    """

    def __init__(self, scheme: str) -> None:
        self._scheme = scheme
        self._network = httpcore.AnyIOBackend()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="webhook-lookup")
        self._lock = asyncio.Lock()
        self._found: list[str] = []
        self._found_until = 0.0

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Raises Misconfigured where it must not connect, httpcore.ConnectError where it cannot."""
        *others, last = (await self._look_up(host))[:ADDRESSES_TRIED]
        for address in others:
            try:
                return await self._connect(address, port, settings.DELIVERY_TIMEOUT / ADDRESSES_TRIED)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._connect(last, port, timeout)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _connect(self, address: str, port: int, timeout: float | None) -> httpcore.AsyncNetworkStream:
        stream = await self._network.connect_tcp(address, port, timeout)
        return _BeforeTls(stream) if self._scheme == "https" else stream

    async def _look_up(self, host: str) -> list[str]:
        """The host's addresses, all of them allowed: one that is not says that nothing of the host is to be trusted."""
        async with self._lock:
            if time.monotonic() >= self._found_until:
                loop = asyncio.get_running_loop()
                try:
                    found = await loop.run_in_executor(self._thread, getaddrinfo, host, None, 0, SOCK_STREAM)
                except (OSError, UnicodeError) as error:
                    raise httpcore.ConnectError(f"{host} has no address ({error})") from error
                addresses = list(dict.fromkeys(str(socket_address[0]) for *_, socket_address in found))
                for address in addresses:
                    require_allowed(ip_address(address), self._scheme)
                self._found, self._found_until = addresses, time.monotonic() + LOOKUP_SECONDS
            return self._found


class _BeforeTls(httpcore.AsyncNetworkStream):
    """A stream that is closed also when its handshake is cancelled: httpcore sees to errors only."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        try:
            return await self._stream.start_tls(ssl_context, server_hostname, timeout)
        except BaseException:
            await self._stream.aclose()
            raise
