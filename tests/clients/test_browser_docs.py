"""The code for pages, in the README and in docs/clients.md, does what the pages say."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser import OpenPage
from tests.servers import ROOT, Stack, eventually
from tests.test_docs import EXAMPLE_URL, README, blocks

SECTION = re.compile(r"^## In a browser\n(.*?)(?=^## )", re.DOTALL | re.MULTILINE)
TOKENS = "**/my/fanfare-token"


@pytest.fixture
def said() -> list[str]:
    """What the page's console says."""
    return []


@pytest.fixture
def page(open_page: OpenPage, stack: Stack, said: list[str]) -> Page:
    page = open_page(f"{stack.web[0].url}/livez", bypass_csp=True)  # That page's policy lets no inline script run.
    page.on("console", lambda line: said.append(line.text))
    page.route(TOKENS, lambda route: route.fulfill(body=stack.token("alice")))
    return page


def run(page: Page, stack: Stack, code: str) -> None:
    page.add_script_tag(type="module", content=code.replace(EXAMPLE_URL, stack.web[0].url))


def says(page: Page, said: list[str], text: str) -> None:
    """Waits as the browser's events need it: they come while Playwright is asked."""

    def heard() -> bool:
        page.wait_for_timeout(50)
        return any(text in line for line in said)

    eventually(heard, 15, lambda: "\n".join(said))


def test_the_readmes_page_shows_what_is_sent(page: Page, stack: Stack, said: list[str]) -> None:
    (code,) = blocks(README, "js")
    page.evaluate("document.body.append(Object.assign(document.createElement('ul'), {id: 'news'}))")
    run(page, stack, code + "client.addEventListener('state', ({detail}) => console.log(detail.state));")
    says(page, said, "online")
    sent = stack.send({"user": "alice"}, {"text": "<b>Hello"})
    expect(page.locator("#news li")).to_have_text("<b>Hello")
    with stack.client() as client:
        client.delete(f"/api/notifications/{sent['id']}").raise_for_status()
    says(page, said, f"remove {sent['id']}")


def test_the_page_about_clients_is_right_block_by_block(page: Page, stack: Stack, said: list[str]) -> None:
    text = (ROOT / "docs/clients.md").read_text() + "\n## The end\n"
    (section,) = SECTION.findall(text)
    code = re.findall(r"^```js\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    assert section.count("```") == 2 * len(code)  # There is no other code.
    stack.send({"user": "alice"}, {"text": "Hello"})
    run(page, stack, "\n".join(code))
    for text in ("state online", "unread 1", "inbox 1", "finding websocket true", "all is well: true"):
        says(page, said, text)
    with stack.client() as client:
        assert client.get("/api/users/alice/preferences").json() == {"newsletter": "off"}
    stack.send({"user": "alice"}, 7)
    says(page, said, "message user.alice 7")
    assert not any(line.startswith("error") for line in said)


def test_the_inbox_on_the_page_about_it(page: Page, stack: Stack, said: list[str]) -> None:
    (code,) = blocks(ROOT / "docs/inbox.md", "js")
    page.evaluate("document.body.append(Object.assign(document.createElement('button'), {id: 'bell'}))")
    run(page, stack, code)
    says(page, said, "load the first page")
    sent = stack.send({"user": "alice"}, "Hello")
    says(page, said, f"show {sent['id']} Hello")
    expect(page.locator("#bell")).to_have_text("1")
    page.locator("#bell").click()
    says(page, said, "show as seen")
    expect(page.locator("#bell")).to_have_text("0")


def test_a_session_on_the_page_about_them(page: Page, stack: Stack, said: list[str]) -> None:
    (code,) = blocks(ROOT / "docs/sessions.md", "js")
    run(page, stack, code)
    says(page, said, "state online")
    stack.send({"user": "alice"}, "Hello")
    says(page, said, "message user.alice Hello")
    with stack.client() as client:
        client.post("/api/inbox/read", json={"user": "alice", "all": True}).raise_for_status()
        says(page, said, "event receipt")
        (session,) = client.get("/api/sessions?user=alice").json()["sessions"]
        stack.send({"session": session["sessionId"]}, 7)
    says(page, said, f"message {session['topic']} 7")
    assert not any(line.startswith("error") for line in said)


def test_presence_and_rooms_on_the_page_about_them(page: Page, stack: Stack, said: list[str]) -> None:
    watching, rooms = blocks(ROOT / "docs/presence.md", "js")
    token = stack.token("alice", subscribe=["watch.*", "presence.lobby"])
    page.route("**/my/token", lambda route: route.fulfill(body=token))
    run(page, stack, watching)
    says(page, said, "bob OFFLINE")
    with stack.client() as client:
        eventually(lambda: client.get("/api/presence/alice").json()["text"] == "Back at two", 15)
    run(page, stack, rooms + "globalThis.members = members;")
    page.wait_for_function("globalThis.members?.has('alice')")


def test_a_task_on_the_page_about_tasks(page: Page, stack: Stack, said: list[str]) -> None:
    (code,) = blocks(ROOT / "docs/tasks.md", "js")
    page.evaluate("document.body.append(document.createElement('progress'))")
    run(page, stack, code)
    says(page, said, "load /api/tasks")
    page.evaluate(
        "token => fetch('/api/tasks', {method: 'POST', body: '{}', "
        "headers: {'Content-Type': 'application/json', Authorization: `Bearer ${token}`}})",
        stack.token("alice"),
    )
    expect(page.locator("progress")).to_have_attribute("title", re.compile(r"\w"))


def test_the_three_lines_about_boards_make_the_new_top(page: Page) -> None:
    (code,) = blocks(ROOT / "docs/leaderboards.md", "js")
    before = [{"name": name, "rank": rank} for rank, name in enumerate("abcd")]
    change = {"removed": ["d"], "set": [{"name": "c", "rank": 0}, {"name": "e", "rank": 2}]}
    top = page.evaluate(f"({{before, removed, set}}) => {{ {code}; return top; }}", {"before": before, **change})
    assert [row["name"] for row in top] == ["c", "a", "e", "b"]
