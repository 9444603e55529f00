"""Presence in a real browser: dots that follow who is there, by every way that the client can take."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser import OpenPage
from tests.clients.pages import await_state, start_client
from tests.servers import Stack, eventually

COMES = 15_000  # Milliseconds.


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Two web processes. Who leaves is away at once."""
    with (
        tempfile.TemporaryDirectory(prefix="p", dir=os.environ["FANFARE_TEST_FOLDER"]) as folder,
        Stack(Path(folder) / "0", PRESENCE_GRACE="0", PRESENCE_LEASE="2") as stack,
    ):
        stack.start_web()
        stack.start_web()
        yield stack


def test_the_dot_follows_a_second_browser_that_comes_and_is_closed(open_page: OpenPage, stack: Stack) -> None:
    hers = open_page(f"{stack.web[0].url}/demo/?only=alice")
    dot = hers.locator("[data-user=alice] [data-presence=bob]")
    expect(dot).to_have_text("Bob is away")
    expect(hers.locator("[data-user=bob]")).to_have_count(0)
    his = open_page(f"{stack.web[1].url}/demo/?only=bob")
    expect(dot).to_have_text("Bob is here", timeout=COMES)
    expect(his.locator("[data-presence=alice]")).to_have_text("Alice is here")
    his.context.close()
    expect(dot).to_have_text("Bob is away", timeout=COMES)
    expect(dot).to_have_attribute("data-status", "OFFLINE")


def test_on_one_page_each_sees_the_other_and_a_restart_brings_the_dots_back(open_page: OpenPage, stack: Stack) -> None:
    page = open_page(f"{stack.web[1].url}/demo/")
    for user, other in (("alice", "Bob"), ("bob", "Alice")):
        expect(page.locator(f"[data-user={user}] .presence")).to_have_text(f"{other} is here", timeout=COMES)
    elsewhere = open_page(f"{stack.web[0].url}/demo/?only=alice")
    dot = elsewhere.locator("[data-presence=bob]")
    expect(dot).to_have_text("Bob is here")
    stack.web[0].restart()
    expect(elsewhere.locator("[data-user=alice] .state")).to_have_text("Live", timeout=30_000)
    page.context.close()
    expect(dot).to_have_text("Bob is away", timeout=COMES)


@pytest.mark.parametrize("way", ["websocket", "stream", "poll"])
def test_the_client_watches_and_says_by_every_way(open_page: OpenPage, stack: Stack, way: str) -> None:
    page = open_page(f"{stack.web[0].url}/livez")
    user, other = f"wanda-{way}", f"xaver-{way}"
    token = stack.token(user, "acme", subscribe=["watch.*"])
    start_client(page, {"transports": [way], "tokens": [token]}, "/static/fanfare.js")
    await_state(page, "online", way)
    page.evaluate("window.told = []")
    page.evaluate("users => ask('watch', users, ({user, status, text}) => told.push([user, status, text]))", [other])
    assert _told(page, 1) == [[other, "OFFLINE", ""]]
    with stack.client(stack.web[1]) as client:
        assert client.put(f"/api/presence/{other}", json={"text": "hello"}).is_success
        assert _told(page, 2)[-1] == [other, "OFFLINE", "hello"]
        assert page.evaluate("ask('setStatus', 'busy', 'reading')")[0] == "ok"
        eventually(lambda: client.get(f"/api/presence/{user}").json()["status"] == "ONLINE", 10)
        own = client.get(f"/api/presence/{user}").json()
        assert (own["availability"], own["text"]) == ("busy", "reading")
        page.evaluate("users => ask('watch', users, ({user, text}) => told.push([user, text]))", [user])
        assert _told(page, 3)[-1] == [user, "reading"]
        assert client.put(f"/api/presence/{other}", json={"text": "unseen"}).is_success
        page.evaluate("ask('setStatus', undefined, 'written')")
        assert _told(page, 4)[-1] == [user, "written"]


def _told(page: Page, count: int) -> list[list[str]]:
    """What the page was told, as soon as it is so much."""
    page.wait_for_function("count => told.length >= count", arg=count)
    return list(page.evaluate("told"))
