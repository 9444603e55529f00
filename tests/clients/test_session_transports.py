"""Sessions of both transports, in browsers and in Python, against the product and an AWS that checks rights."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Page

from fanfare_client import AsyncClient, Client, Event, Message
from tests.browser import OpenPage
from tests.servers import Stack, eventually

if TYPE_CHECKING:
    from tests.emulators.aws import Aws

OPEN = """
async ([token, options]) => {
  const { openSession } = await import("/static/fanfare-sessions.js");
  const heard = (window.heard = []);
  const session = (window.session = openSession({
    ...options,
    getToken: () => token,
    onMessage: ({ data }) => heard.push(data),
    onEvent: ({ event }) => heard.push(event),
  }));
  session.addEventListener("error", ({ detail }) => heard.push(`${detail}`));
  await new Promise((resolve) => session.addEventListener("state", resolve, { once: true }));
}
"""


@pytest.fixture(scope="module")
def outside(_aws: Aws) -> Iterator[Stack]:
    """The product, whose sessions may have queues, for all tests of this file."""
    from tests.sessions_app.outside import ROLE_ARN, employ

    _aws.reset()
    environment = {**_aws.environment, **employ(_aws)}
    _aws.enforce_iam()
    with TemporaryDirectory(prefix="s", dir=os.environ["FANFARE_TEST_FOLDER"]) as folder:
        with Stack(Path(folder) / "outside", SESSION_ROLE_ARN=ROLE_ARN, **environment) as stack:
            stack.start_web()
            stack.start_worker()
            stack.start_beat()
            yield stack
    _aws.reset()


def open_in(page: Page, stack: Stack, user: str, account: str, **options: Any) -> None:
    page.evaluate(OPEN, [stack.token(user, account), options])


def hears(page: Page, count: int, start: str) -> list[Any]:
    """What has come that starts like this, as soon as it is so much. A young session may hear of what was before it."""
    found = "heard.filter((one) => one.startsWith(start))"
    page.wait_for_function(f"([count, start]) => {found}.length >= count", arg=[count, start], timeout=20_000)
    return sorted(page.evaluate(f"(start) => {found}", start))


def send_to_everybody(stack: Stack, user: str, account: str) -> None:
    """One message to each whom that could mean; all start with the account."""
    for to in ({"session": "left"}, {"session": "right"}, {"user": user}, {"account": account}, {"all": True}):
        stack.send(to, f"{account} to {next(iter(to))}")


def test_pages_hear_what_is_theirs_by_either_transport(outside: Stack, open_page: OpenPage) -> None:
    left, right, other = pages = [open_page(f"{outside.web[0].url}/livez", bypass_csp=True) for _ in range(3)]
    open_in(left, outside, "ann", "acme", session="left", transport="sqs")
    open_in(right, outside, "bob", "acme", session="right", transport="poll")
    open_in(other, outside, "cid", "globex", transport="sqs")
    send_to_everybody(outside, "ann", "acme")
    for page, kinds in {left: "account all session user", right: "account all session", other: "all"}.items():
        expected = [f"acme to {kind}" for kind in kinds.split()]
        assert hears(page, len(expected), "acme") == expected
    with outside.client() as client:
        client.post("/api/inbox/read", json={"user": "ann", "all": True}).raise_for_status()
        assert hears(left, 1, "unread")
        outside.send({"session": "right"}, "brief", store=False)
        assert hears(right, 1, "brief")
        for page in pages:
            page.evaluate("session.close()")
        assert client.get("/api/sessions").json()["sessions"] == []


def test_a_page_that_is_loaded_again_reads_what_was_sealed_before(outside: Stack, open_page: OpenPage) -> None:
    with Client(outside.web[0].url, outside.api_key) as client:
        client.sessions.create("dan", session="reloaded", transport="sqs")
        sent = client.send("dan", "before")
        eventually(lambda: "dispatched" in [step.what for step in client.messages.get(sent.id).timeline], 20)
        page = open_page(f"{outside.web[0].url}/livez", bypass_csp=True)
        open_in(page, outside, "dan", "acme", session="reloaded", transport="sqs")
        assert hears(page, 1, "before")
        client.sessions.end("reloaded")


def test_python_hears_what_is_its_own_waiting_or_not(outside: Stack) -> None:
    url = outside.web[0].url
    heard: dict[str, list[str]] = {"eva": [], "fay": []}

    def is_all(user: str, event: Event, count: int) -> bool:
        if isinstance(event, Message) and event.data.startswith("house"):
            heard[user].append(event.data.rpartition(" ")[2])
        return len(heard[user]) == count

    def listen_waiting() -> None:
        with Client(url, outside.token("eva", "house")) as eva:
            made = eva.sessions.create(session="left", transport="sqs")
            with eva.sessions.listen(made) as events:
                for event in events:
                    if is_all("eva", event, 4):
                        break

    async def listen() -> None:
        async with AsyncClient(url, outside.token("fay", "house")) as fay:
            made = await fay.sessions.create(session="right", transport="sqs")
            async with asyncio.timeout(60), fay.sessions.listen(made) as events:
                async for event in events:
                    if is_all("fay", event, 3):
                        break

    threads = [threading.Thread(target=listen_waiting), threading.Thread(target=lambda: asyncio.run(listen()))]
    for thread in threads:
        thread.start()
    with outside.client() as client:
        eventually(lambda: len(client.get("/api/sessions?account=house").json()["sessions"]) == 2, 20)
        send_to_everybody(outside, "eva", "house")
        for thread in threads:
            thread.join(60)
    assert sorted(heard["eva"]) == ["account", "all", "session", "user"]
    assert sorted(heard["fay"]) == ["account", "all", "session"]


def test_each_comes_once_though_the_server_is_killed(outside: Stack, open_page: OpenPage) -> None:
    page = open_page(f"{outside.web[0].url}/livez", bypass_csp=True)
    open_in(page, outside, "gil", "killed", session="page", transport="poll")
    with Client(outside.web[0].url, outside.api_key) as client:
        made = client.sessions.create("hal", session="program")
        with client.sessions.listen(made) as events:
            heard: list[Any] = []
            for number in range(4):
                if number == 2:
                    outside.web[0].kill()
                    outside.web[0].start()
                    outside.web[0].wait_until_ready()
                client.send({"users": ["gil", "hal"]}, f"killed {number}")
                while not heard or heard[-1] != f"killed {number}":
                    event = next(events)
                    heard += [event.data] if isinstance(event, Message) else []
        assert heard == hears(page, 4, "killed") == [f"killed {number}" for number in range(4)]
