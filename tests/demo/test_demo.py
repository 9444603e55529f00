"""The demo page in a real browser against real servers."""

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser import OpenPage
from tests.servers import Stack

HTML = "<img src=x onerror=\"alert('run')\"><script>alert('run')</script>"
PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
OUTLINE = "element => getComputedStyle(element.type === 'radio' ? element.nextElementSibling : element).outlineStyle"
COMES_BACK = 30_000  # Milliseconds.


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Two web processes, each with an address of its own, for all tests of this file."""
    with (
        tempfile.TemporaryDirectory(prefix="d", dir=os.environ["FANFARE_TEST_FOLDER"]) as folder,
        Stack(Path(folder) / "0") as stack,
    ):
        stack.start_web()
        stack.start_web()
        yield stack


@pytest.fixture(autouse=True)
def _empty_inboxes(stack: Stack) -> None:
    """What the tests before have left there."""
    with stack.client() as client:
        for user in ("alice", "bob"):
            assert client.post("/api/inbox/archive", json={"user": user, "all": True}).is_success


def panel(page: Page, user: str) -> Locator:
    return page.locator(f"[data-user={user}]")


def messages(page: Page, user: str) -> Locator:
    return panel(page, user).get_by_role("list", name=re.compile("^Messages of"))


def bell(page: Page, user: str) -> Locator:
    return panel(page, user).get_by_role("button", name=re.compile("^Notifications of"))


def inbox(page: Page, user: str) -> Locator:
    return page.get_by_role("region", name=f"Inbox of {user.title()}")


def open_demo(open_page: OpenPage, stack: Stack, process: int = 0, **options: Any) -> Page:
    """The page with both users live."""
    page = open_page(f"{stack.web[process].url}/demo/", **options)
    for user in ("alice", "bob"):
        expect(panel(page, user).locator(".state")).to_have_text("Live")
    return page


def write(page: Page, user: str, text: str, to: str | None = None) -> None:
    if to:
        panel(page, user).get_by_label(to).check()
    panel(page, user).get_by_label(f"Message from {user.title()}").fill(text)
    panel(page, user).get_by_role("button", name=f"Send as {user.title()}").click()
    expect(panel(page, user).locator(".note")).to_contain_text("Stored in")


def test_what_alice_sends_bob_sees_in_another_browser_on_another_process(open_page: OpenPage, stack: Stack) -> None:
    hers, his = open_demo(open_page, stack, 0), open_demo(open_page, stack, 1)
    write(hers, "alice", "Are you there, Bob?")
    for page in (hers, his):
        item = messages(page, "bob").get_by_role("listitem").first
        expect(item).to_contain_text("Are you there, Bob?")
        expect(item.locator(".from")).to_have_text("Alice")
    expect(messages(his, "alice")).not_to_contain_text("Are you there, Bob?")
    write(his, "bob", "I am.")
    expect(messages(hers, "alice").get_by_role("listitem").first).to_contain_text("I am.")


def test_what_goes_to_the_room_both_see_and_no_bell_counts(open_page: OpenPage, stack: Stack) -> None:
    page = open_demo(open_page, stack)
    write(page, "bob", "The printer is back.", to="To everyone")
    expect(messages(page, "alice").get_by_role("listitem").first).to_contain_text("The printer is back.")
    expect(messages(page, "bob").get_by_role("listitem").first.locator(".from")).to_have_text("You")
    write(page, "bob", "It is on the second floor.", to="To Alice")
    expect(bell(page, "alice")).to_have_accessible_name("Notifications of Alice: 1 new, 1 unread")
    expect(bell(page, "bob")).to_have_accessible_name("Notifications of Bob: none new, none unread")


def test_a_notification_through_the_api_shows_a_toast_and_counts_until_the_bell_is_opened(
    open_page: OpenPage, stack: Stack
) -> None:
    page = open_demo(open_page, stack, 1)
    stack.send({"user": "alice"}, {"text": "Build 1 is green."})
    stack.send({"user": "alice"}, {"text": "Build 2 is green."})
    expect(panel(page, "alice").locator(".toast")).to_have_text(
        ["An application Build 1 is green.", "An application Build 2 is green."]
    )
    expect(page.get_by_role("status").filter(has_text="Alice: new from An application")).to_be_attached()
    expect(panel(page, "alice").locator(".count")).to_have_text("2")
    bell(page, "alice").click()
    expect(inbox(page, "alice").locator(".text")).to_have_text(["Build 2 is green.", "Build 1 is green."])
    expect(bell(page, "alice")).to_have_accessible_name("Notifications of Alice: none new, 2 unread")
    expect(panel(page, "alice").locator(".count")).to_be_hidden()


def test_a_reload_keeps_what_was_sent_and_counts_nothing_twice(open_page: OpenPage, stack: Stack) -> None:
    page = open_demo(open_page, stack)
    write(page, "alice", "Still here after a reload")
    page.reload()
    expect(messages(page, "bob").get_by_text("Still here after a reload")).to_have_count(1)
    expect(panel(page, "bob").locator(".state")).to_have_text("Live")
    expect(bell(page, "bob")).to_have_accessible_name("Notifications of Bob: 1 new, 1 unread")


def test_a_recalled_message_leaves_the_page(open_page: OpenPage, stack: Stack) -> None:
    page = open_demo(open_page, stack)
    message_id = stack.send({"all": True}, "Sent by mistake")["id"]
    for user in ("alice", "bob"):
        expect(messages(page, user).get_by_text("Sent by mistake")).to_have_count(1)
    with stack.client(stack.web[1]) as client:
        assert client.delete(f"/api/notifications/{message_id}").is_success
    for user in ("alice", "bob"):
        expect(messages(page, user).get_by_text("Sent by mistake")).to_have_count(0)
        expect(inbox(page, user).locator(".entry")).to_have_count(0)
        expect(bell(page, user)).to_have_accessible_name(f"Notifications of {user.title()}: none new, none unread")


@pytest.mark.parametrize("data", [HTML, {"text": HTML}, {"html": HTML}])
def test_html_in_a_message_stays_text_and_runs_nothing(open_page: OpenPage, stack: Stack, data: object) -> None:
    page = open_demo(open_page, stack)  # That fails for a dialog, an exception or a broken policy.
    stack.send({"user": "bob"}, data)
    expect(messages(page, "bob").get_by_role("listitem").first.locator(".text")).to_contain_text("<img src=x onerror=")
    expect(panel(page, "bob").locator(".toast")).to_contain_text("<script>")
    bell(page, "bob").click()
    expect(inbox(page, "bob")).to_contain_text("<script>")
    page.reload()
    expect(messages(page, "bob").get_by_role("listitem").first).to_contain_text("<img src=x onerror=")
    assert page.locator("main img, main script").count() == 0


def test_html_that_a_user_writes_stays_text_too(open_page: OpenPage, stack: Stack) -> None:
    page = open_demo(open_page, stack)
    write(page, "alice", HTML)
    expect(messages(page, "bob").get_by_role("listitem").first.locator(".text")).to_have_text(HTML)


def test_on_a_phone_nothing_scrolls_sideways(open_page: OpenPage, stack: Stack) -> None:
    page = open_demo(open_page, stack, **PHONE)
    stack.send({"user": "alice"}, {"text": "unbroken" * 60})
    expect(panel(page, "alice").locator(".toast")).to_be_visible()
    bell(page, "alice").tap()
    expect(inbox(page, "alice")).to_contain_text("unbroken")
    root = page.locator("html")
    assert root.evaluate("root => root.scrollWidth") <= 360
    above, below = (panel(page, user).bounding_box() for user in ("alice", "bob"))
    assert above
    assert below
    assert above["y"] + above["height"] <= below["y"]


def test_the_main_path_works_by_keyboard_alone(open_page: OpenPage, stack: Stack) -> None:
    page = open_demo(open_page, stack)
    press = page.keyboard.press

    def tab_to(target: Locator) -> None:
        for _ in range(20):
            press("Tab")
            if target.evaluate("element => element === document.activeElement"):
                assert target.evaluate(OUTLINE) == "solid", "the focus cannot be seen"
                return
        raise AssertionError(f"The keyboard does not reach {target}.")

    tab_to(panel(page, "alice").get_by_label("To Bob"))
    press("ArrowRight")
    expect(panel(page, "alice").get_by_label("To everyone")).to_be_checked()
    tab_to(panel(page, "alice").get_by_label("Message from Alice"))
    page.keyboard.type("Typed, not clicked")
    press("Enter")
    expect(messages(page, "bob").get_by_role("listitem").first).to_contain_text("Typed, not clicked")
    expect(panel(page, "alice").get_by_label("Message from Alice")).to_have_value("")
    expect(panel(page, "alice").get_by_label("Message from Alice")).to_be_focused()
    write(page, "alice", "To Bob alone", to="To Bob")
    tab_to(bell(page, "bob"))
    press("Enter")
    expect(inbox(page, "bob")).to_contain_text("To Bob alone")
    expect(bell(page, "bob")).to_have_attribute("aria-expanded", "true")
    tab_to(inbox(page, "bob").get_by_role("button", name="Archive"))
    press("Enter")
    expect(inbox(page, "bob")).to_contain_text("Nothing here.")
    expect(bell(page, "bob")).to_be_focused()
    press("Escape")
    expect(inbox(page, "bob")).to_be_hidden()
    expect(bell(page, "bob")).to_be_focused()


def test_a_restart_of_the_server_brings_both_back_and_what_was_sent_meanwhile_once(
    open_page: OpenPage, stack: Stack
) -> None:
    page = open_demo(open_page, stack, 1)
    write(page, "alice", "Before the restart")
    expect(messages(page, "bob").get_by_text("Before the restart")).to_have_count(1)
    stack.web[1].stop()
    for user in ("alice", "bob"):
        expect(panel(page, user).locator(".state")).to_contain_text(re.compile("Offline|Coming back"))
    for number in range(3):
        stack.send({"user": "bob"}, {"text": f"Meanwhile {number}"})
    stack.send({"topic": "demo-room"}, {"text": "Meanwhile, to the room"})
    stack.web[1].start()
    for user in ("alice", "bob"):
        expect(panel(page, user).locator(".state")).to_have_text("Live", timeout=COMES_BACK)
        expect(messages(page, user).get_by_text("Meanwhile, to the room")).to_have_count(1)
    expect(messages(page, "bob").locator(".text").filter(has_text=re.compile(r"^Meanwhile \d$"))).to_have_text(
        ["Meanwhile 2", "Meanwhile 1", "Meanwhile 0"]
    )
    expect(messages(page, "bob").get_by_text("Before the restart")).to_have_count(1)
    write(page, "bob", "After the restart")
    expect(messages(page, "alice").get_by_text("After the restart")).to_have_count(1)


def test_what_cannot_be_sent_stays_in_the_box_and_says_so(open_page: OpenPage, stack: Stack) -> None:
    page = open_demo(open_page, stack)
    panel(page, "alice").get_by_label("To Bob").evaluate("choice => { choice.value = 'user.carol'; }")
    panel(page, "alice").get_by_label("Message from Alice").fill("Not for Carol")
    page.keyboard.press("Enter")
    expect(panel(page, "alice").locator(".note")).to_contain_text("Not sent")
    expect(panel(page, "alice").get_by_label("Message from Alice")).to_have_value("Not for Carol")


def test_each_token_is_for_one_demo_user_only(stack: Stack) -> None:
    with httpx.Client(base_url=stack.web[0].url) as client:
        page = client.get("/demo/")
        csrf = {"X-CSRFToken": page.cookies["csrftoken"], "Referer": f"{stack.web[0].url}/demo/"}
        reply = client.post("/demo/token", json={"user": "alice"}, headers=csrf)
        assert (reply.status_code, set(reply.json())) == (200, {"token", "expires_at"})
        bearer = {"Authorization": f"Bearer {reply.json()['token']}"}
        assert client.get("/api/topics/user.alice/messages", headers=bearer).status_code == 200
        assert client.get("/api/topics/user.bob/messages", headers=bearer).status_code == 403
        assert client.post("/demo/token", json={"user": "alice"}).status_code == 403
        assert client.get("/demo/token").status_code == 405
        for body in (b"", b"null", b"[]", b'{"user": "carol"}', b'{"user": 7}', b"\xff", b"[" * 100_000):
            assert client.post("/demo/token", content=body, headers=csrf).status_code == 400, body[:20]
    assert stack.api_key not in page.text
    assert reply.json()["token"] not in page.text
