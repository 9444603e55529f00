"""Two tabs of one browser, and a server that goes and comes back: each tab shows every message, once and in order."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Page

from tests.browser import OpenPage
from tests.clients.pages import await_note, await_state, notes, start_client
from tests.servers import Stack, Web


@contextmanager
def sending(stack: Stack, user: str) -> Iterator[list[int]]:
    """Numbers for the user, without a pause, by the first process -> how many so far, in a list of one."""
    over, sent = threading.Event(), [0]

    def send() -> None:
        with stack.client() as client:
            while not over.is_set():
                body = {"to": {"user": user}, "data": sent[0]}
                client.post("/api/notifications", json=body).raise_for_status()
                sent[0] += 1
                time.sleep(0.03)  # More than RECOVERY_LIMIT in one absence would be a reset.

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield sent
    finally:
        over.set()
        thread.join()


def open_tab(page: Page, web: Web, way: str, token: str) -> Page:
    """One more tab of the same browser, connected."""
    tab = page.context.new_page()
    tab.goto(f"{web.url}/livez")
    start_client(tab, {"transports": [way], "tokens": [token]}, "/static/fanfare.js")
    await_state(tab, "online", way)
    return tab


@pytest.mark.timeout(240)
@pytest.mark.parametrize("ways", [("websocket", "websocket"), ("stream", "poll")], ids="-".join)
def test_no_message_is_lost_or_doubled_in_either_tab_over_a_restart_and_a_kill(
    open_page: OpenPage, stack: Stack, ways: tuple[str, str]
) -> None:
    web, user = stack.start_web(), f"tabs-{ways[0]}"
    page = open_page(f"{web.url}/livez")
    tabs = [open_tab(page, web, way, stack.token(user)) for way in ways]
    with sending(stack, user) as sent:
        for end in (web.stop, web.kill):
            for tab in tabs:
                await_note(tab, "message", len(notes(tab, "message")) + 10)
            end()
            for tab in tabs:
                tab.wait_for_function("() => client.state.state !== 'online'")
            web.start()
            web.wait_until_ready()
            for tab, way in zip(tabs, ways, strict=True):
                await_state(tab, "online", way, seconds=40)
    for tab in tabs:
        tab.wait_for_function("n => notes.some(([, detail]) => detail.data === n - 1)", arg=sent[0])
        assert (notes(tab, "reset"), notes(tab, "error")) == ([], [])
        assert [one["data"] for one in notes(tab, "message")] == list(range(sent[0]))
