"""client.diagnose() says in words what is wrong, and which setting to change, for each thing that can be."""

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from playwright.sync_api import Browser, Page

from tests.browser import OpenPage
from tests.clients.fake_http import Server
from tests.clients.pages import start_client
from tests.clients.proxy import Proxy
from tests.servers import Stack, Web, free_port

CHECKS = ["server", "origin", "token", "websocket", "stream", "poll"]
SCRIPT = "/static/fanfare.js"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with (
        tempfile.TemporaryDirectory(prefix="d", dir=os.environ["FANFARE_TEST_FOLDER"]) as folder,
        Stack(Path(folder) / "0") as stack,
    ):
        stack.start_web()
        yield stack


@pytest.fixture
def web(stack: Stack) -> Web:
    return stack.web[0]


@pytest.fixture
def proxy(web: Web) -> Iterator[Proxy]:
    proxy = Proxy(web.port)
    yield proxy
    proxy.stop()


def findings(page: Page, script: str = SCRIPT, **options: Any) -> dict[str, dict[str, Any]]:
    """What the client finds, by check."""
    start_client(page, options, script)
    diagnosis = page.evaluate("client.diagnose()")
    assert diagnosis["ok"] == all(one["ok"] for one in diagnosis["findings"])
    page.evaluate("client.close()")
    return {one["check"]: one for one in diagnosis["findings"]}


def wrong(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The texts of what is not in order."""
    return {check: one["text"] for check, one in found.items() if not one["ok"]}


def test_where_all_is_well_it_says_so(open_page: OpenPage, stack: Stack, web: Web) -> None:
    found = findings(open_page(f"{web.url}/livez"), tokens=[stack.token("alice")])
    assert list(found) == CHECKS
    assert wrong(found) == {}
    assert found["token"]["text"] == "The token is good."


def test_a_server_that_is_down(open_page: OpenPage, stack: Stack, web: Web) -> None:
    gone = f"127.0.0.1:{free_port()}"
    page = open_page(f"{web.url}/livez", bypass_csp=True)
    found = findings(page, tokens=[stack.token("alice")], url=f"ws://{gone}/ws/")
    text = f"Nobody answers at http://{gone}: is the server running, and is the url of connect() right?"
    assert wrong(found) == {"server": text}


def test_a_device_that_is_offline(open_page: OpenPage, stack: Stack, web: Web) -> None:
    page = open_page(f"{web.url}/livez")
    findings(page, tokens=[stack.token("a")])  # Has loaded the module.
    page.context.set_offline(True)
    assert wrong(findings(page, tokens=[stack.token("a")]))["server"] == "This device is offline."


def test_a_policy_of_the_page_that_bars_the_server(browser: Browser, web: Web) -> None:
    elsewhere = f"http://localhost:{web.port}"
    with browser.new_context() as context:  # Of its own: such a page has to break its policy.
        page = context.new_page()
        page.goto(f"{web.url}/livez")
        found = findings(page, tokens=["x"], url=f"{elsewhere}/ws/")
    assert wrong(found) == {"server": f"The page's CSP bars {elsewhere}: add it to connect-src, as wss: or ws:, too."}


def test_an_origin_that_is_refused_and_then_allowed(open_page: OpenPage, stack: Stack, web: Web) -> None:
    page = open_page(f"http://localhost:{web.port}/livez", bypass_csp=True)
    here = f"http://localhost:{web.port}"
    found = findings(page, tokens=[stack.token("alice")], url=web.socket_url)
    assert {check for check, one in found.items() if not one["ok"]} == {"origin", "stream", "poll"}
    assert found["origin"]["text"].startswith(
        f"Pages of {here} may not use this server's API: add it to ALLOWED_ORIGINS."
    )
    expired = findings(page, tokens=[stack.token("alice", ttl=-7)], url=web.socket_url)
    assert "has expired" in wrong(expired)["token"]  # The socket has said so.

    open_to_it = stack.start_web(ALLOWED_ORIGINS=here)
    assert wrong(findings(page, tokens=[stack.token("alice")], url=open_to_it.socket_url)) == {}
    open_to_it.stop()


def forged(**claims: Any) -> str:
    return jwt.encode({"sub": "alice", "exp": int(time.time()) + 99, **claims}, "not-the-key-of-this-server-at-all")


@pytest.mark.parametrize(
    ("token", "text"),
    [
        (forged(iss="fanfare"), "signed with another TOKEN_SIGNING_KEY"),
        (
            forged(iss="https://id.example", aud="app"),
            'issuer "https://id.example" is not accepted: it has to be in JWT_ISSUERS, with the audience "app".',
        ),
        ("ff_made.up", "is no JWT, nor an API key that is known"),
        ("", "No token was given"),
    ],
)
def test_a_token_that_is_not_known(open_page: OpenPage, web: Web, token: str, text: str) -> None:
    found = findings(open_page(f"{web.url}/livez"), tokens=[token])
    assert list(wrong(found)) == ["token"]
    assert text in wrong(found)["token"]


def test_a_token_that_has_expired_and_one_that_cannot_be_had(open_page: OpenPage, stack: Stack, web: Web) -> None:
    page = open_page(f"{web.url}/livez")
    (text,) = wrong(findings(page, tokens=[stack.token("alice", ttl=-60)])).values()
    assert text.startswith("The token has expired 6")
    assert text.endswith("getToken has to get a fresh one each time.")
    start_client(page, {"tokens": [None]}, SCRIPT)
    found = {one["check"]: one for one in page.evaluate("client.diagnose()")["findings"]}
    assert wrong(found)["token"].startswith("getToken has failed: no session")
    page.evaluate("client.close()")


@pytest.mark.parametrize("way", ["websocket", "stream", "poll"])
def test_a_way_that_a_proxy_bars(open_page: OpenPage, stack: Stack, proxy: Proxy, way: str) -> None:
    proxy.bar(way)
    found = findings(open_page(f"{proxy.url}/livez"), tokens=[stack.token("alice")])
    assert list(wrong(found)) == [way]
    expected = {
        "websocket": "proxy_set_header Upgrade $http_upgrade",
        "stream": "Not Fanfare answers at /api/stream, with 403",
        "poll": "Not Fanfare answers at /api/poll, with 403",
    }
    assert expected[way] in wrong(found)[way]


def test_a_stream_that_a_proxy_holds_back(open_page: OpenPage, stack: Stack, proxy: Proxy) -> None:
    proxy.held = {"/api/stream"}
    found = findings(open_page(f"{proxy.url}/livez"), tokens=[stack.token("alice")])
    assert list(wrong(found)) == ["stream"]


@pytest.mark.any_database
def test_a_server_that_is_not_fanfare_or_floods(open_page: OpenPage) -> None:
    server = Server()
    try:
        page = open_page(server.url)
        start_client(page, {"transports": ["websocket"]})
        page.evaluate("void (window.asked = client.diagnose())")
        for _ in range(2):
            exchange = server.accept_any()
            if exchange.path == "/api/poll":
                exchange.reply(200, b"<html>Welcome")
                continue
            exchange.start()
            try:
                while True:
                    exchange.write(b"x" * 65_536)
            except OSError:
                exchange.over.set()
        found = {one["check"]: one for one in page.evaluate("asked")["findings"]}
        assert set(wrong(found)) == {"websocket", "stream", "poll"}
        assert wrong(found)["poll"].startswith("Not Fanfare answers at /api/poll, with 200")
    finally:
        server.stop()
