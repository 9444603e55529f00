"""Only who is trusted says where a client comes from, and whether by TLS."""

import asyncio
import io
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from django.core.handlers.asgi import ASGIRequest
from pytest_django import Settings

from accounts import checks
from config.management.commands.up import commands
from config.proxies import behind
from realtime.asgi import Application, Receive, Scope, Send
from tests.servers import Stack

pytestmark = pytest.mark.any_database

PROXY, CLIENT = "10.0.0.1", "203.0.113.9"
TRUSTED = [PROXY, "10.1.0.0/16", "2001:db8:1::/48"]


def run(application: Application, scope: Scope, receive: Receive, send: Send) -> None:
    async def call() -> None:
        await application(scope, receive, send)

    asyncio.run(call())


def seen(
    peer: tuple[str, int] | None, *forwarded: str, proto: str | None = None, kind: str = "http", trusted: Any = TRUSTED
) -> Scope:
    """The scope that the application gets."""
    got: list[Scope] = []

    async def application(scope: Scope, _receive: Receive, _send: Send) -> None:
        got.append(scope)

    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    headers += [(b"x-forwarded-proto", proto.encode("latin-1"))] if proto is not None else []
    scheme = "ws" if kind == "websocket" else "http"
    scope = {"type": kind, "method": "GET", "path": "/", "headers": headers, "client": peer, "scheme": scheme}

    async def never(*_message: Any) -> Any:
        raise AssertionError

    run(behind(application, trusted), scope, never, never)
    return got[0]


def client(peer: str, *forwarded: str, trusted: Any = TRUSTED) -> str:
    return str(seen((peer, 1234), *forwarded, trusted=trusted)["client"][0])


def test_without_trust_headers_say_nothing() -> None:
    assert client(PROXY, CLIENT, trusted=[]) == PROXY
    assert client("192.0.2.1", CLIENT) == "192.0.2.1"
    assert client("127.0.0.1", CLIENT) == "127.0.0.1"
    assert seen(("192.0.2.1", 1), proto="https")["scheme"] == "http"


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        (PROXY, [CLIENT], CLIENT),
        (PROXY, [f"{CLIENT}:4711"], CLIENT),
        (PROXY, [f"10.1.2.3, {CLIENT}, 10.1.2.3"], CLIENT),
        (PROXY, [f"127.0.0.1, {CLIENT}"], CLIENT),
        (PROXY, ["127.0.0.1", f"198.51.100.1, {CLIENT}"], CLIENT),
        ("10.1.255.255", [CLIENT], CLIENT),
        ("10.2.0.0", [CLIENT], "10.2.0.0"),
        (PROXY, [], PROXY),
        (PROXY, ["10.1.0.9, 10.1.0.8"], "10.1.0.9"),
        ("2001:db8:1::5", ["2001:db8:2::1"], "2001:db8:2::1"),
        ("2001:db8:1:0:0::5", ["[2001:db8:2::1]:443"], "2001:db8:2::1"),
        (f"::ffff:{PROXY}", [CLIENT], CLIENT),
        ("::ffff:192.0.2.1", [CLIENT], "192.0.2.1"),
    ],
)
def test_the_client_is_the_rightmost_that_is_not_trusted(peer: str, forwarded: list[str], expected: str) -> None:
    assert client(peer, *forwarded) == expected


@pytest.mark.parametrize(
    "garbage", ["", " ", ",", ",,,", "unknown", "_hidden", "1.2.3", "999.1.1.1", "[::1", "\xff", "x" * 5000, "a\0b"]
)
def test_garbage_leaves_the_proxys_own_address(garbage: str) -> None:
    assert client(PROXY, garbage) == PROXY
    assert client(PROXY, f"{CLIENT}, {garbage}") == PROXY


@pytest.mark.parametrize("peer", [None, ("", 0), ("testclient", 1)])
def test_a_peer_without_address_is_not_trusted(peer: tuple[str, int] | None) -> None:
    assert seen(peer, CLIENT, proto="https") | {"headers": []} == seen(peer) | {"headers": []}


@pytest.mark.parametrize(("proto", "secure"), [("https", True), ("http", False), ("gopher", False), ("", False)])
def test_django_takes_the_scheme_from_a_trusted_proxy(proto: str, secure: bool) -> None:
    assert ASGIRequest(seen((PROXY, 1), proto=proto), io.BytesIO()).is_secure() is secure
    assert seen((PROXY, 1), proto=proto, kind="websocket")["scheme"] == ("wss" if secure else "ws")


def test_up_turns_the_servers_own_trust_off() -> None:
    assert "--no-proxy-headers" in commands()["web"]


@pytest.mark.parametrize("entry", ["proxy.example", "10.0.0.1/8", "10.0.0.0/33", "*", "0.0.0.0/0", "::/0"])
def test_what_is_no_proxy_is_refused_at_the_start(entry: str, settings: Settings) -> None:
    settings.TRUSTED_PROXIES = [*TRUSTED, entry]
    (problem,) = checks.check_trusted_proxies()
    assert problem.msg.startswith(f"TRUSTED_PROXIES, {entry}: ")
    settings.TRUSTED_PROXIES = TRUSTED
    assert not checks.check_trusted_proxies()


def test_in_production_tls_and_rates_go_by_the_client_that_a_trusted_proxy_names(
    make_stack: Callable[..., Stack],
) -> None:
    stack = make_stack(PRODUCTION="1", RATE_ADDRESS="2/h")
    plain, proxied = stack.start_web(), stack.start_web(TRUSTED_PROXIES="127.0.0.1")

    def ask(url: str, address: str, proto: str = "https") -> int:
        headers = {"X-Forwarded-For": address, "X-Forwarded-Proto": proto, "Authorization": "Bearer ff_guess_x"}
        return httpx.get(f"{url}/api/notifications", headers=headers).status_code

    assert ask(plain.url, "203.0.113.1") == 301
    assert ask(proxied.url, "203.0.113.1", "http") == 301
    assert [ask(proxied.url, "203.0.113.1") for _ in range(3)] == [401, 401, 429]
    assert ask(proxied.url, "203.0.113.2") == 401
    assert [ask(proxied.url, f"192.0.2.{number}, 203.0.113.3") for number in range(3)] == [401, 401, 429]
    direct = stack.start_web(SECURE_SSL_REDIRECT="0")
    assert [ask(direct.url, f"203.0.113.{number}") for number in range(50, 53)] == [401, 401, 429]
    log = [json.loads(line) for line in stack.logs().splitlines() if line.startswith("{")]
    assert not [line for line in log if line.get("level") == "error"]
