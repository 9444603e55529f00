"""static/fanfare.js against the real server, by each way and from one to the next, through a proxy that bars some."""

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser import OpenPage
from tests.clients.pages import at, await_note, await_state, notes, start_client
from tests.clients.proxy import PATHS, Proxy
from tests.servers import Stack

WAYS = ["websocket", "stream", "poll"]
Start = Callable[..., Page]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Two web processes for all tests of this file; the second one may be restarted."""
    with (
        tempfile.TemporaryDirectory(prefix="w", dir=os.environ["FANFARE_TEST_FOLDER"]) as folder,
        Stack(Path(folder) / "0") as stack,
    ):
        for web in [stack.start_web(wait=False), stack.start_web(wait=False)]:
            web.wait_until_ready()
        yield stack


@pytest.fixture
def proxy(stack: Stack) -> Iterator[Proxy]:
    proxy = Proxy(stack.web[1].port)
    yield proxy
    proxy.stop()


@pytest.fixture
def start(proxy: Proxy, open_page: OpenPage) -> Start:
    """`start(*transports, **options)`: a page whose requests go through the proxy."""

    def start(*transports: str, **options: Any) -> Page:
        page = open_page(f"{proxy.url}/livez")
        page.clock.install()
        chosen = {"transports": list(transports)} if transports else {}
        start_client(page, options | chosen, "/static/fanfare.js")
        return page

    return start


def numbers(page: Page) -> list[Any]:
    return [message["data"] for message in notes(page, "message")]


def await_numbers(page: Page, count: int) -> None:
    """Exactly those messages, each once and in order."""
    page.wait_for_function("n => notes.filter(([name]) => name === 'message').length >= n", arg=count)
    assert numbers(page) == list(range(count))


def test_each_way_shows_what_is_sent_publishes_and_resumes_after_a_restart(start: Start, stack: Stack) -> None:
    token = stack.token("reader", publish=["topic.answers"])
    pages = {way: start(way, tokens=[token]) for way in WAYS}
    for way, page in pages.items():
        await_state(page, "online", way)
    for number in range(3):
        sent = stack.send({"user": "reader"}, number)
    with stack.client() as client:
        for way, page in pages.items():
            await_numbers(page, 3)
            verdict, answer = page.evaluate("way => ask('publish', 'topic.answers', {way}, 'reply')", way)
            assert (verdict, answer["topic"]) == ("ok", "topic.answers")
            assert page.evaluate("ask('publish', 'topic.other', 1)") == ["failed", "denied"]
            stored = client.get(f"/api/notifications/{answer['id']}").json()
            assert (stored["data"], stored["type"], stored["sender"]) == ({"way": way}, "reply", "reader")
        client.delete(f"/api/notifications/{sent['id']}").raise_for_status()
    for page in pages.values():
        assert await_note(page, "recalled")[0]["id"] == sent["id"]
    stack.web[1].stop()
    for page in pages.values():
        page.wait_for_function("() => client.state.state !== 'online'")
    for number in range(3, 6):
        stack.send({"user": "reader"}, number)
    stack.web[1].start()
    for way, page in pages.items():
        await_state(page, "online", way, seconds=40)
        await_numbers(page, 6)
    stack.send({"user": "reader"}, 6)
    for way, page in pages.items():
        await_numbers(page, 7)
        assert (notes(page, "reset"), notes(page, "error")) == ([], [])
        assert {state["transport"] for state in notes(page, "state")} == {way}


@pytest.mark.parametrize("way", WAYS)
def test_each_way_is_told_what_is_lost_and_gets_a_fresh_token_or_none(start: Start, stack: Stack, way: str) -> None:
    user = f"edge-{way}"
    stack.send({"user": user}, "before")
    page = start(
        way, tokens=[stack.token(user, ttl=-5), stack.token(user)], topics={f"user.{user}": at(7, "elsewhere")}
    )
    (reset,) = await_note(page, "reset")
    assert (reset["topic"], reset["offset"]) == (f"user.{user}", 1)
    offline = next(state for state in notes(page, "state") if state["state"] == "offline")
    assert (offline["code"], offline["transport"]) == (4401, way)
    stack.send({"user": user}, 0)
    await_numbers(page, 1)

    start_client(page, {"transports": [way], "tokens": ["made.up"]}, "/static/fanfare.js")
    closed = await_state(page, "closed")
    assert (closed["code"], closed["transport"]) == (4501, way)

    short = [stack.token(user, ttl=2), stack.token(user)]
    start_client(page, {"transports": [way], "tokens": short}, "/static/fanfare.js")
    await_state(page, "online")
    page.wait_for_function("() => notes.some(([, detail]) => detail?.code === 4401)")
    await_state(page, "online")


def test_from_one_way_to_the_next_and_back_nothing_is_lost_and_nothing_comes_twice(
    start: Start, stack: Stack, proxy: Proxy
) -> None:
    page = start(tokens=[stack.token("mover")])
    await_state(page, "online", "websocket")
    over, sent = threading.Event(), [0]

    def produce() -> None:
        with stack.client() as client:
            while not over.is_set():
                body = {"to": {"user": "mover"}, "data": sent[0]}
                client.post("/api/notifications", json=body).raise_for_status()
                sent[0] += 1
                time.sleep(0.01)

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        page.clock.fast_forward(11_000)  # It has been up for a while: the back-off starts anew.
        proxy.bar("websocket")
        await_state(page, "online", "stream", seconds=20)
        await_note(page, "message", len(numbers(page)) + 10)
        page.clock.fast_forward(11_000)
        proxy.bar("websocket", "stream")
        await_state(page, "online", "poll", seconds=20)
        await_note(page, "message", len(numbers(page)) + 10)
        proxy.bar("websocket")
        for way in ("stream", "websocket"):
            proxy.barred.discard(PATHS[way])
            for _ in range(20):
                if page.evaluate("client.state.transport") in (way, "websocket"):
                    break
                page.clock.fast_forward(16_000)
                page.wait_for_timeout(150)
            await_note(page, "message", len(numbers(page)) + 10)
        await_state(page, "online", "websocket")
    finally:
        over.set()
        producer.join()
    await_numbers(page, sent[0])
    assert (notes(page, "reset"), notes(page, "error")) == ([], [])


def test_a_stream_that_is_held_back_gives_way_to_a_poll(start: Start, stack: Stack, proxy: Proxy) -> None:
    proxy.bar("websocket")
    proxy.held = {"/api/stream"}
    page = start("stream", "poll", tokens=[stack.token("held")])
    for _ in range(6):
        page.wait_for_timeout(200)
        page.clock.fast_forward(10_500)
        if page.evaluate("client.state.transport") == "poll":
            break
    await_state(page, "online", "poll")
    stack.send({"user": "held"}, 0)
    await_numbers(page, 1)


def test_a_publish_whose_answer_is_lost_is_repeated_and_stored_once(start: Start, stack: Stack, proxy: Proxy) -> None:
    page = start("stream", tokens=[stack.token("twice", publish=["user.twice"])])
    await_state(page, "online")
    proxy.unanswered = ["/api/notifications"]
    verdict, answer = page.evaluate("ask('publish', 'user.twice', 0)")
    assert (verdict, answer["offset"], proxy.unanswered) == ("ok", 1, [])
    await_numbers(page, 1)
    with stack.client() as client:
        assert client.get("/api/topics/user.twice/messages").json()["head"] == 1
