"""The demo page's inbox and tasks: on several devices of one user, and after a restart, all say the same."""

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser import OpenPage
from tests.servers import Stack, eventually

pytestmark = pytest.mark.any_database
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
COMES_BACK = 30_000  # Milliseconds.


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Two web processes, a worker and beat, for all tests of this file."""
    with (
        tempfile.TemporaryDirectory(prefix="i", dir=os.environ["FANFARE_TEST_FOLDER"]) as folder,
        Stack(Path(folder) / "0", TASK_ECHO_SECONDS="3") as stack,
    ):
        stack.start_web()
        stack.start_web()
        stack.start_worker()
        stack.start_beat()
        yield stack


@pytest.fixture(autouse=True)
def _empty_inbox(stack: Stack) -> None:
    with stack.client() as client:
        assert client.post("/api/inbox/archive", json={"user": "alice", "all": True}).is_success


@pytest.fixture
def devices(open_page: OpenPage, stack: Stack) -> list[Page]:
    """Two tabs and a phone, by two processes, all live."""
    pages = [
        open_page(f"{stack.web[process].url}/demo/", **options) for process, options in [(0, {}), (1, {}), (1, PHONE)]
    ]
    for page in pages:
        expect(alice(page).locator(".state")).to_have_text("Live")
        expect_counts(page, "none", "none")
    return pages


def alice(page: Page) -> Locator:
    return page.locator("[data-user=alice]")


def bell(page: Page) -> Locator:
    return alice(page).get_by_role("button", name=re.compile("^Notifications of"))


def inbox(page: Page) -> Locator:
    return page.get_by_role("region", name="Inbox of Alice")


def entry(page: Page, text: str) -> Locator:
    return inbox(page).get_by_role("listitem").filter(has=page.get_by_text(text, exact=True))


def expect_counts(page: Page, new: int | str, unread: int | str, timeout: float = 5000) -> None:
    label = f"Notifications of Alice: {new} new, {unread} unread"
    expect(bell(page)).to_have_accessible_name(label, timeout=timeout)


def api_inbox(stack: Stack) -> dict[str, Any]:
    with stack.client() as client:
        return dict(client.get("/api/inbox", params={"user": "alice"}).json())


def expect_as_the_server_has_it(page: Page, stack: Stack) -> None:
    """The list and the counts of a page whose inbox is open."""
    truth = api_inbox(stack)
    texts = [message["data"]["text"] for message in truth["messages"]]
    expect(inbox(page).locator(".text")).to_have_text(texts)
    unread = [message["data"]["text"] for message in truth["messages"] if not message["read_at"]]
    expect(inbox(page).locator(".unread .text")).to_have_text(unread)
    expect_counts(page, truth["unseen"] or "none", truth["unread"] or "none")


def test_what_is_done_on_one_device_shows_on_all(devices: list[Page], stack: Stack) -> None:
    for number in (1, 2, 3):
        stack.send({"user": "alice"}, {"text": f"Build {number}"})
    stack.send({"topic": "demo-room"}, {"text": "Not for the inbox"})
    for page in devices:
        expect_counts(page, 3, 3)
        expect(alice(page).locator(".count")).to_have_text("3")
    here, _, phone = devices
    bell(here).click()
    for page in devices:
        expect_counts(page, "none", 3)
        expect(alice(page).locator(".count")).to_be_hidden()
    entry(here, "Build 2").get_by_role("button", name="Mark read").click()
    bell(phone).tap()
    entry(phone, "Build 1").get_by_role("button", name="Archive").tap()
    bell(devices[1]).click()
    for page in devices:
        expect_counts(page, "none", 1)
        expect(inbox(page).locator(".text")).to_have_text(["Build 3", "Build 2"])
        expect(inbox(page).locator(".unread .text")).to_have_text(["Build 3"])
        expect_as_the_server_has_it(page, stack)
    entry(phone, "Build 2").get_by_role("button", name="Mark unread").tap()
    for page in devices:
        expect_counts(page, "none", 2)
    inbox(devices[1]).get_by_role("button", name="Mark all read").click()
    for page in devices:
        expect_counts(page, "none", "none")
        expect(inbox(page).get_by_role("button", name="Mark all read")).to_be_disabled()
        expect_as_the_server_has_it(page, stack)


def test_what_comes_while_the_inbox_is_open_is_seen_and_what_is_recalled_leaves(
    devices: list[Page], stack: Stack
) -> None:
    bell(devices[0]).click()
    message_id = stack.send({"user": "alice"}, {"text": "<b>Look</b>"})["id"]
    for page in devices:
        expect(page.locator(".entry .text")).to_have_text("<b>Look</b>")
        expect_counts(page, "none", 1)
    with stack.client() as client:
        assert client.delete(f"/api/notifications/{message_id}").is_success
    for page in devices:
        expect(page.locator(".entry")).to_have_count(0)
        expect_counts(page, "none", "none")


def test_after_a_restart_all_devices_agree_with_the_server(devices: list[Page], stack: Stack) -> None:
    for number in (1, 2):
        stack.send({"user": "alice"}, {"text": f"Before {number}"})
    for page in devices:
        expect_counts(page, 2, 2)
    stack.web[1].stop()
    for page in devices[1:]:
        expect(alice(page).locator(".state")).to_contain_text(re.compile("Offline|Coming back"))
    gone = [stack.send({"user": "alice"}, {"text": f"Meanwhile {number}"})["id"] for number in (1, 2, 3)]
    with stack.client() as client:
        for deed, message_id in [("read", gone[0]), ("archive", gone[1])]:
            client.post(f"/api/inbox/{deed}", json={"user": "alice", "ids": [message_id]}).raise_for_status()
    stack.web[1].start()
    for page in devices:
        expect(alice(page).locator(".state")).to_have_text("Live", timeout=COMES_BACK)
        expect_counts(page, 3, 3)
    for page in devices:
        bell(page).click()
        expect_counts(page, "none", 3)
        expect_as_the_server_has_it(page, stack)


def test_shown_messages_are_acknowledged(devices: list[Page], stack: Stack) -> None:
    message_id = stack.send({"user": "alice"}, {"text": "Shown"})["id"]

    def acknowledged() -> bool:
        with stack.client() as client:
            steps = client.get(f"/api/notifications/{message_id}").json()["timeline"]
        return [step["what"] for step in steps].count("acknowledged") == len(devices)

    eventually(acknowledged, 5)


def test_a_task_moves_its_bar_on_all_devices_and_ends_in_the_inbox(devices: list[Page], stack: Stack) -> None:
    here, there, phone = devices
    alice(here).get_by_label("Run a task for Alice").fill("Render <i>film</i>")
    alice(here).get_by_role("button", name="Run for Alice").click()
    moved = re.compile(r"^0\.[1-9]")
    for page in devices:
        item = alice(page).get_by_role("list", name="Tasks of Alice").get_by_role("listitem")
        expect(item.locator(".task-text")).to_have_text("Render <i>film</i>")
        expect(item.get_by_role("progressbar")).to_have_attribute("value", moved, timeout=10_000)
        expect(item.locator(".task-state")).to_contain_text("step")
    for page in devices:
        expect(alice(page).locator(".task-state")).to_have_text("Done", timeout=10_000)
        expect(alice(page).get_by_role("progressbar")).to_have_attribute("value", "1")
        expect(alice(page).get_by_role("button", name="Cancel")).to_be_hidden()
        expect_counts(page, 1, 1)
    for page in devices:
        bell(page).click()
        expect(inbox(page).locator(".text")).to_have_text("Finished task: Render <i>film</i>")
        page.keyboard.press("Escape")
    alice(there).get_by_label("Run a task for Alice").fill("A mistake")
    there.keyboard.press("Enter")
    mistake = alice(phone).locator(".task").filter(has_text="A mistake")
    mistake.get_by_role("button", name="Cancel").tap()
    for page in devices:
        expect(alice(page).locator(".task").first.locator(".task-state")).to_have_text("Cancelled", timeout=10_000)
    expect(mistake).to_be_focused()


def test_a_task_under_way_is_found_again_after_a_reload(open_page: OpenPage, stack: Stack) -> None:
    page = open_page(f"{stack.web[0].url}/demo/")
    expect(alice(page).locator(".state")).to_have_text("Live")
    alice(page).get_by_label("Run a task for Alice").fill("A long one")
    page.keyboard.press("Enter")
    expect(alice(page).locator(".task-state")).to_contain_text("step")
    page.reload()
    expect(alice(page).locator(".task-text")).to_have_text("A long one")
    expect(alice(page).locator(".task-state")).to_have_text("Done", timeout=10_000)


def test_on_a_phone_the_inbox_and_the_tasks_fit(open_page: OpenPage, stack: Stack) -> None:
    page = open_page(f"{stack.web[0].url}/demo/", **PHONE)
    for number in range(25):
        stack.send({"user": "alice"}, {"text": f"{number} {'unbroken' * 40}"}, type="a.very.long.type.of.a.message")
    expect_counts(page, 25, 25)
    bell(page).tap()
    expect(inbox(page)).to_contain_text("The newest 20 are shown.")
    assert page.locator("html").evaluate("root => root.scrollWidth") <= 390
    box = inbox(page).bounding_box()
    assert box
    assert box["width"] <= 390
    assert box["height"] <= 844 * 0.75
