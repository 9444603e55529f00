"""The elements in a real browser against real servers, on pages of another origin under the strictest policy."""

import gzip
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Locator, Page, expect

from tests.browser import OpenPage
from tests.clients.other_site import OtherSite
from tests.clients.pages import STATIC
from tests.servers import ROOT, Stack, eventually
from tests.test_docs import EXAMPLE_URL

pytestmark = pytest.mark.any_database
COMES = 15_000  # Milliseconds.
PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
HTML = "<img src=x onerror=\"alert('run')\"><script>alert('run')</script>"
BIDI = "\u202egnihton"
ALL = """<fanfare-bell token-url="/token?user={user}"></fanfare-bell>
<p><fanfare-presence user="{user}"></fanfare-presence></p>
<fanfare-inbox></fanfare-inbox>
<fanfare-toasts></fanfare-toasts>
<fanfare-task task="{task}"></fanfare-task>
<fanfare-board name="derby" me top="5"></fanfare-board>"""
POLISH = {
    "notifications": "Powiadomienia",
    "new": {"one": "{count} nowe", "few": "{count} nowe", "many": "{count} nowych", "other": "{count} nowego"},
    "unread": {
        "one": "{count} nieprzeczytane",
        "few": "{count} nieprzeczytane",
        "many": "{count} nieprzeczytanych",
        "other": "{count} nieprzeczytanego",
    },
}
Visit = Callable[..., Page]


@pytest.fixture(scope="module")
def site() -> Iterator[OtherSite]:
    with OtherSite() as site:
        yield site


@pytest.fixture(scope="module")
def stack(site: OtherSite) -> Iterator[Stack]:
    with (
        tempfile.TemporaryDirectory(prefix="e", dir=os.environ["FANFARE_TEST_FOLDER"]) as folder,
        Stack(Path(folder) / "0", ALLOWED_ORIGINS=site.origin, TASK_ECHO_SECONDS="2") as stack,
    ):
        stack.start_web()
        stack.start_worker()
        stack.start_beat()
        site.stack = stack
        submit(stack, ada=2000, bob=1500.5)
        yield stack


@pytest.fixture
def visit(open_page: OpenPage, stack: Stack, site: OtherSite) -> Visit:
    """`visit(body, lang=…, dir=…, style=…, **context_options)`: such a page."""

    def visit(body: str, *, lang: str = "en", dir: str = "ltr", style: str = "", **options: Any) -> Page:
        return open_page(site.page(stack, body, lang=lang, dir=dir, style=style), **options)

    return visit


def element(name: str, user: str, attributes: str = "", content: str = "") -> str:
    return f'<fanfare-{name} token-url="/token?user={user}" {attributes}>{content}</fanfare-{name}>'


def bell(page: Page) -> Locator:
    return page.get_by_role("button", name=re.compile("^(Notifications|Powiadomienia):"))


def panel(page: Page) -> Locator:
    return page.get_by_role("dialog", name="Notifications")


def items(where: Page | Locator) -> Locator:
    return where.get_by_role("list", name="Notifications").get_by_role("listitem")


def expect_counts(page: Page, new: int, unread: int) -> None:
    expect(bell(page)).to_have_accessible_name(f"Notifications: {new} new, {unread} unread", timeout=COMES)


def submit(stack: Stack, **scores: float) -> None:
    with stack.client() as client:
        body = {"scores": [{"name": name, "score": score} for name, score in scores.items()]}
        assert client.post("/api/leaderboards/derby", json=body).is_success


def start_task(stack: Stack, user: str, data: str) -> str:
    with stack.client() as client:
        return str(client.post("/api/tasks", json={"user": user, "data": data}).json()["id"])


def expect_live(page: Page, stack: Stack, user: str) -> None:
    def is_here() -> bool:
        with stack.client() as client:
            return bool(client.get(f"/api/presence/{user}").json()["status"] == "ONLINE")

    page.locator(":defined").first.wait_for(state="attached")
    eventually(is_here, 15)


def inbox_of(stack: Stack, user: str) -> dict[str, Any]:
    with stack.client() as client:
        return dict(client.get("/api/inbox", params={"user": user}).json())


# --- The bell and the inbox -----------------------------------------------------------------------


def test_the_bell_counts_opens_by_keyboard_and_gives_the_focus_back(visit: Visit, stack: Stack) -> None:
    for number in range(3):
        stack.send({"user": "ann"}, {"text": f"Build {number}"})
    page = visit(element("bell", "ann") + "<button>After</button>")
    expect_counts(page, 3, 3)
    expect(page.locator("fanfare-bell [part=count]")).to_have_text("3")
    expect(bell(page)).to_have_attribute("aria-expanded", "false")
    expect(page.locator("fanfare-bell li")).to_have_count(3)
    bell(page).focus()
    page.keyboard.press("Enter")
    expect(panel(page)).to_be_visible()
    expect(bell(page)).to_have_attribute("aria-expanded", "true")
    expect(items(page).nth(0)).to_be_focused()
    expect(items(page).nth(0)).to_have_accessible_name("Unread Build 2")
    expect_counts(page, 0, 3)  # Looking is seeing.
    expect(page.locator("fanfare-bell [part=count]")).to_be_hidden()
    for key, place in (("ArrowDown", 1), ("End", 2), ("ArrowDown", 2), ("ArrowUp", 1), ("Home", 0)):
        page.keyboard.press(key)
        expect(items(page).nth(place)).to_be_focused()
    page.keyboard.press("Escape")
    expect(panel(page)).to_be_hidden()
    expect(bell(page)).to_be_focused()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="After").focus()
    expect(panel(page)).to_be_hidden()
    bell(page).click()
    expect(panel(page)).to_be_visible()
    page.get_by_role("heading", name="Elements").click()
    expect(panel(page)).to_be_hidden()
    stack.send({"user": "ann"}, {"text": "One more"})
    expect_counts(page, 1, 4)
    expect(page.get_by_role("status").filter(has_text="1 new notification")).to_be_attached()


def test_items_are_read_and_archived_by_mouse_and_by_keyboard_and_the_server_knows(visit: Visit, stack: Stack) -> None:
    for number in range(4):
        stack.send({"user": "bea"}, {"text": f"Build {number}"})
    page = visit(element("inbox", "bea"))
    expect(items(page)).to_have_count(4)
    newest = items(page).filter(has_text="Build 3")
    newest.get_by_role("button", name="Mark read").click()
    expect(newest.get_by_role("img", name="Unread")).to_be_hidden()
    newest.get_by_role("button", name="Mark unread").click()
    expect(newest.get_by_role("img", name="Unread")).to_be_visible()
    newest.focus()
    page.keyboard.press("Delete")
    expect(items(page)).to_have_count(3)
    expect(items(page).nth(0)).to_be_focused()
    page.keyboard.press("Enter")
    expect(items(page).nth(0).get_by_role("img", name="Unread")).to_be_hidden()
    items(page).nth(2).get_by_role("button", name="Archive").click()
    expect(items(page)).to_have_count(2)
    expect(items(page).nth(1)).to_be_focused()
    eventually(lambda: inbox_of(stack, "bea")["unread"] == 1, 5)
    assert [message["data"]["text"] for message in inbox_of(stack, "bea")["messages"]] == ["Build 2", "Build 1"]
    page.get_by_role("button", name="Mark all read").click()
    expect(page.get_by_role("button", name="Mark all read")).to_be_disabled()
    eventually(lambda: inbox_of(stack, "bea")["unread"] == 0, 5)


def test_older_messages_are_there_on_demand_and_an_empty_inbox_says_so(visit: Visit, stack: Stack) -> None:
    page = visit(element("inbox", "cyd"))
    expect(page.get_by_text("Nothing here.")).to_be_visible()
    with stack.client() as client:
        sent = [{"to": {"user": "cyd"}, "data": f"{number}"} for number in range(25)]
        assert client.post("/api/notifications/batch", json={"notifications": sent}).is_success
    page.reload()
    expect(items(page)).to_have_count(20)
    page.get_by_role("button", name="Show older ones").click()
    expect(items(page)).to_have_count(25)
    expect(page.get_by_role("button", name="Show older ones")).to_be_hidden()
    expect(page.get_by_text("Nothing here.")).to_be_hidden()


def test_who_chooses_a_message_follows_its_link_unless_the_page_does_something_else(visit: Visit, stack: Stack) -> None:
    stack.send({"user": "dot"}, {"text": "Read this", "url": "/elsewhere"})
    page = visit(element("inbox", "dot"))
    page.evaluate("""() => {
      window.chosen = [];
      document.addEventListener("select", (event) => (event.preventDefault(), chosen.push(event.detail.data.text)));
    }""")
    link = page.get_by_role("link", name="Read this")
    expect(link).to_have_attribute("href", re.compile("^http://127.0.0.1:[0-9]+/elsewhere$"))
    items(page).nth(0).focus()
    page.keyboard.press("Enter")
    eventually(lambda: page.evaluate("chosen") == ["Read this"], 5)
    eventually(lambda: inbox_of(stack, "dot")["unread"] == 0, 5)
    assert page.evaluate("location.pathname").endswith(".html")


def test_a_page_fills_slots_and_says_what_an_item_is(visit: Visit, stack: Stack) -> None:
    stack.send({"user": "eve"}, {"title": HTML, "sum": 1234.5, "url": "javascript:alert('run')"}, type="invoice")
    stack.send({"user": "eve"}, {"title": "Good", "url": "https://example.org/invoice"}, type="invoice")
    slots = """<h3 slot="header">Bills</h3><p slot="empty">All paid.</p><template slot="item"><article>
      <b data-field="data.title"></b> <i data-field="data.sum"></i> <a data-href="data.url">Open</a>
      <u data-field="type"></u> <s data-field="no.such.thing"></s></article></template>"""
    page = visit(element("inbox", "eve", content=slots), style="fanfare-inbox b { color: rgb(1, 2, 3) }")
    expect(page.get_by_role("heading", name="Bills")).to_be_visible()
    bad, good = page.locator("article").filter(has_text="<img"), page.locator("article").filter(has_text="Good")
    expect(bad.locator("b")).to_have_text(HTML)
    expect(bad.locator("b")).to_have_css("color", "rgb(1, 2, 3)")
    expect(bad.locator("i")).to_have_text("1,234.5")
    expect(bad.locator("u")).to_have_text("invoice")
    expect(bad.locator("a")).not_to_have_attribute("href", re.compile(""))
    expect(good.locator("a")).to_have_attribute("href", "https://example.org/invoice")
    for _ in range(2):
        page.get_by_role("button", name="Archive").first.click()
    expect(page.get_by_text("All paid.")).to_be_visible()
    expect(page.locator("fanfare-inbox article")).to_have_count(0)


# --- Toasts, tasks, presence, boards --------------------------------------------------------------


def test_toasts_say_what_comes_and_leave_when_it_is_dealt_with(visit: Visit, stack: Stack) -> None:
    page = visit(element("toasts", "fay") + '<fanfare-presence user="fay"></fanfare-presence>')
    expect(page.locator("fanfare-presence")).to_contain_text("is here", timeout=COMES)
    toasts = page.get_by_role("log", name="Notifications").locator("[part=toast]")
    stack.send({"user": "fay"}, {"text": "First"})
    second = stack.send({"user": "fay"}, {"text": "Second", "url": "https://example.org/"}, store=True)["id"]
    expect(toasts).to_have_text([re.compile("First"), re.compile("Second")])
    expect(page.get_by_role("link", name="Second")).to_have_attribute("href", "https://example.org/")
    toasts.first.get_by_role("button", name="Dismiss").click()
    expect(toasts).to_have_text([re.compile("Second")])
    with stack.client() as client:
        assert client.post("/api/inbox/read", json={"user": "fay", "ids": [second]}).is_success
        expect(toasts).to_have_count(0)
        sent = [{"to": {"user": "fay"}, "data": f"{number}"} for number in range(30)]
        assert client.post("/api/notifications/batch", json={"notifications": sent}).is_success
    expect(toasts.first).to_contain_text(re.compile("[0-9]+ new notifications"))
    page.get_by_role("button", name="Dismiss").first.focus()
    page.keyboard.press("Escape")
    expect(toasts).to_have_count(0, timeout=COMES)  # They go by themselves.


def test_a_task_shows_how_far_it_is_and_how_it_ended(visit: Visit, stack: Stack) -> None:
    page = visit(element("task", "gus", f'task="{start_task(stack, "gus", "Render <i>film</i>")}"'))
    page.evaluate("""() => {
      window.ends = [];
      document.querySelector("fanfare-task").addEventListener("end", ({ detail }) => ends.push(detail.state));
    }""")
    bar = page.get_by_role("progressbar", name="Render <i>film</i>")
    expect(bar).to_be_visible(timeout=COMES)
    expect(page.locator("fanfare-task [part=state]")).to_have_text("Done", timeout=COMES)
    expect(bar).to_have_js_property("value", 1)
    expect(page.get_by_role("button", name="Cancel")).to_be_hidden()
    mistake = start_task(stack, "gus", "A mistake")
    page.evaluate("id => document.querySelector('fanfare-task').setAttribute('task', id)", mistake)
    expect(page.get_by_role("progressbar", name="A mistake")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("fanfare-task [part=state]")).to_have_text("Cancelled", timeout=COMES)
    expect(page.locator("fanfare-task [part=state]")).to_be_focused()
    expect(page.get_by_role("status").filter(has_text="A mistake: Cancelled")).to_be_attached()
    assert page.evaluate("ends.at(-1)") == "cancelled"
    page.evaluate("document.querySelector('fanfare-task').setAttribute('task', 'none')")
    expect(page.get_by_role("status").filter(has_text="could not be loaded")).to_be_visible()


def test_presence_is_told_in_words_and_of_whom_may_not_be_seen(visit: Visit, stack: Stack) -> None:
    page = visit(
        element("presence", "hal", 'user="hal"', "Hal himself") + '<fanfare-presence user="ivy"></fanfare-presence>'
    )
    hal, ivy = page.locator("fanfare-presence").nth(0), page.locator("fanfare-presence").nth(1)
    expect(hal.get_by_text("Hal himself")).to_be_visible()
    expect(hal.locator("[part~=status]")).to_have_text("is here", timeout=COMES)
    expect(ivy.locator("[part~=status]")).to_have_text("is not here")
    expect(ivy.get_by_text("ivy")).to_be_visible()
    with stack.client() as client:
        client.put("/api/presence/hal", json={"availability": "busy", "text": HTML}).raise_for_status()
    expect(hal.locator("[part~=status]")).to_have_text("is busy")
    expect(hal.locator("[part=text]")).to_have_text(HTML)
    ivy.evaluate("element => element.setAttribute('user', 'hal')")
    expect(ivy.locator("[part~=status]")).to_have_text("is busy")


def test_a_board_follows_and_says_how_one_stands(visit: Visit, stack: Stack) -> None:
    page = visit(element("board", "joe", 'name="derby" me top="2"'))
    rows = page.get_by_role("table", name="derby").locator("tbody").get_by_role("row")
    expect(rows).to_have_text([re.compile("1.*ada.*2,000"), re.compile("2.*bob.*1,500.5")], timeout=COMES)
    submit(stack, joe=7)
    expect(page.get_by_text("You are at place 3 of 3, with 7.")).to_be_visible(timeout=COMES)
    expect(page.get_by_text("3 players")).to_be_visible()
    submit(stack, joe=9000)
    expect(rows).to_have_text([re.compile("1.*joe.*9,000"), re.compile("2.*ada.*2,000")], timeout=COMES)
    expect(rows.nth(0)).to_have_attribute("part", re.compile("own"))
    expect(page.get_by_role("status").filter(has_text="joe")).to_have_text("\u2068joe\u2069 leads.", timeout=COMES)
    page.evaluate("document.querySelector('fanfare-board').setAttribute('name', 'nobody-yet')")
    expect(page.get_by_text("Nobody has scored so far.")).to_be_visible(timeout=COMES)
    with stack.client() as client:
        client.delete("/api/leaderboards/derby/joe").raise_for_status()


# --- For everybody --------------------------------------------------------------------------------


def visit_all(visit: Visit, stack: Stack, user: str, **options: Any) -> Page:
    """A page with every element on it, and something in each."""
    task = start_task(stack, user, "A report")
    for number in range(2):
        stack.send({"user": user}, {"text": f"Build {number}", "url": "https://example.org/"})
    submit(stack, **{user: 12})
    page = visit(ALL.format(user=user, task=task), **options)
    expect(page.locator("fanfare-inbox").get_by_text("Build 1")).to_be_visible(timeout=COMES)
    expect(page.locator("fanfare-board").get_by_text("You are at")).to_be_visible(timeout=COMES)
    stack.send({"user": user}, {"text": "A toast"})
    expect(page.get_by_role("log").get_by_text("A toast")).to_be_visible(timeout=COMES)
    return page


def findings(page: Page) -> list[tuple[str, Any]]:
    violations = Axe().run(page).response["violations"]
    return [(one["id"], [(node["target"], node["failureSummary"]) for node in one["nodes"]]) for one in violations]


@pytest.mark.parametrize(
    ("user", "options"),
    [
        ("kim", {}),
        ("lea", {"color_scheme": "dark", "style": "body { background: Canvas }"}),
        ("max", {"dir": "rtl", "lang": "ar"}),
        ("ned", PHONE),
        ("oda", {"forced_colors": "active"}),
    ],
    ids=["light", "dark", "right to left", "phone", "forced colours"],
)
def test_axe_finds_nothing(visit: Visit, stack: Stack, user: str, options: dict[str, Any]) -> None:
    # Without motion: what has not faded in yet has less contrast than it will have.
    page = visit_all(visit, stack, user, **{"reduced_motion": "reduce", **options})
    assert findings(page) == []
    bell(page).click()
    expect(panel(page)).to_be_visible()
    assert findings(page) == []
    width = page.evaluate("document.documentElement.clientWidth")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    box = panel(page).bounding_box()
    assert box and box["x"] >= 0 and box["x"] + box["width"] <= width  # noqa: PT018


@pytest.mark.parametrize("side", ["start", "end"])
@pytest.mark.parametrize("dir", ["ltr", "rtl"])
def test_the_panel_is_on_the_screen_wherever_the_bell_is(visit: Visit, side: str, dir: str) -> None:
    for width in (360, 700):
        style = f"main {{ text-align: {side} }}"
        page = visit(element("bell", "pat"), dir=dir, style=style, viewport={"width": width, "height": 700})
        bell(page).click()
        box = panel(page).bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= width  # noqa: PT018
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_hostile_text_stays_text_in_its_place(visit: Visit, stack: Stack) -> None:
    page = visit_all(visit, stack, "quy", **PHONE)  # It fails for a dialog, an exception or a broken policy.
    texts = [HTML, BIDI, "x" * 10_000, "😀" * 3000, "{count} {reason}", "\x07bell"]
    for text in texts:
        stack.send({"user": "quy"}, {"text": text, "url": "javascript:alert('run')"})
    stack.send({"user": "quy"}, {"text": "data", "url": "data:text/html,<script>alert('run')</script>"})
    stack.send({"user": "quy"}, {"text": ["no", {"text": None}], "url": {"href": 1}})
    inbox = page.locator("fanfare-inbox")
    expect(inbox.get_by_text('{"text":["no",{"text":null}],"url":{"href":1}}')).to_be_visible(timeout=COMES)
    expect(inbox.get_by_text(HTML)).to_be_visible()
    assert max(map(len, inbox.locator("[part=text]").all_inner_texts())) < 1100
    assert inbox.get_by_role("link").count() == 2
    assert set(
        inbox.locator("[part=text]").evaluate_all("all => all.map(one => getComputedStyle(one).unicodeBidi)")
    ) == {"isolate"}
    submit(stack, **{f"{HTML[:60]}": 4000, f"{BIDI}": 3000})
    expect(page.locator("fanfare-board").get_by_text(HTML[:60])).to_be_visible(timeout=COMES)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    with stack.client() as client:
        client.post("/api/leaderboards/derby/windows", json={}).raise_for_status()


def test_who_wants_no_motion_sees_none(visit: Visit, stack: Stack) -> None:
    watch = """() => {
      window.moved = 0;
      const animate = Element.prototype.animate;
      Element.prototype.animate = function (...how) { window.moved++; return animate.apply(this, how); };
    }"""
    submit(stack, rex=10, sue=9)
    body = element("board", "rex", 'name="derby"') + "<fanfare-toasts></fanfare-toasts>"
    still, moving = visit(body, reduced_motion="reduce"), visit(body)
    for page in (still, moving):
        expect(page.get_by_role("rowheader", name="sue")).to_be_visible(timeout=COMES)
        page.evaluate(watch)
    submit(stack, sue=900)
    stack.send({"user": "rex"}, {"text": "A toast"})
    for page in (still, moving):
        expect(page.get_by_role("row").filter(has_text="sue")).to_contain_text("900", timeout=COMES)
        expect(page.get_by_text("A toast")).to_be_visible()
    assert still.evaluate("moved") == 0
    assert moving.evaluate("moved") > 0
    styles = [
        page.locator("[part=toast]").evaluate("one => getComputedStyle(one).animationName") for page in (still, moving)
    ]
    assert styles == ["none", "rise"]


@pytest.mark.parametrize(("count", "words"), [(1, "1 nowe"), (2, "2 nowe"), (5, "5 nowych"), (22, "22 nowe")])
def test_it_speaks_languages_with_many_plurals(visit: Visit, stack: Stack, count: int, words: str) -> None:
    user = f"tom{count}"
    with stack.client() as client:
        sent = [{"to": {"user": user}, "data": f"{number}"} for number in range(count)]
        assert client.post("/api/notifications/batch", json={"notifications": sent}).is_success
    page = visit("", lang="pl-PL")
    add = """async ([url, polish, html]) => {
      const { Fanfare } = await import(url);
      Fanfare.messages.pl = polish;
      const bell = document.createElement("fanfare-bell");
      bell.setAttribute("token-url", html);
      document.querySelector("main").append(bell);
    }"""
    page.evaluate(add, [f"{stack.web[0].url}/static/fanfare-elements.js", POLISH, f"/token?user={user}"])
    expect(bell(page)).to_have_accessible_name(re.compile(f"^Powiadomienia: {words}"), timeout=COMES)
    bell(page).click()
    expect(page.get_by_role("button", name="Archive").first).to_be_visible()  # What is not there is English.
    expect(page.locator("fanfare-bell time").first).to_have_text(re.compile("teraz|temu"))


@pytest.mark.parametrize("lang", ["no such language", "x-klingon", "en_US"])
def test_a_language_that_is_none_is_no_reason_to_fail(visit: Visit, stack: Stack, lang: str) -> None:
    page = visit(element("bell", "una"), lang=lang)
    expect(bell(page)).to_be_visible()


# --- One client -----------------------------------------------------------------------------------


def test_all_elements_share_one_connection_and_one_token(visit: Visit, stack: Stack, site: OtherSite) -> None:
    before = site.tokens_asked
    visit_all(visit, stack, "vic")
    assert site.tokens_asked - before == 1
    with stack.client() as client:
        assert len(client.get("/api/connections", params={"user": "vic"}).json()["connections"]) == 1


def test_a_page_gives_elements_a_client_of_its_own_even_before_they_are_defined(visit: Visit, stack: Stack) -> None:
    stack.send({"user": "wyn"}, {"text": "For Wyn"})
    page = visit("")
    page.evaluate(
        """async ([server]) => {
      const { connect } = await import(`${server}/static/fanfare.js`);
      const getToken = async () => (await fetch("/token?user=wyn&json=1")).json();
      const client = connect({ url: `${server}/ws/`, getToken });
      const early = document.implementation.createHTMLDocument().createElement("fanfare-inbox");
      early.client = client; // It becomes an element when it is on the page, with this on it.
      document.querySelector("main").append(early);
    }""",
        [stack.web[0].url],
    )
    expect(items(page)).to_have_text([re.compile("For Wyn")], timeout=COMES)


def test_what_leaves_the_page_asks_for_nothing_any_more_and_may_come_back(visit: Visit, stack: Stack) -> None:
    page = visit_all(visit, stack, "xia")

    def topics() -> list[str]:
        with stack.client() as client:
            (connection,) = client.get("/api/connections", params={"user": "xia"}).json()["connections"]
        return [topic for topic in connection["topics"] if topic.startswith("board.")]

    assert topics() == ["board.derby"]
    page.evaluate("""() => {
      window.kept = [...document.querySelectorAll("fanfare-board, fanfare-inbox, fanfare-presence")];
      for (const element of kept) element.remove();
    }""")
    eventually(lambda: topics() == [], 5)
    page.evaluate("document.querySelector('main').append(...kept)")
    expect(page.locator("fanfare-inbox").get_by_text("Build 1")).to_be_visible()
    expect(page.locator("fanfare-board").get_by_text("You are at")).to_be_visible(timeout=COMES)
    expect(page.locator("fanfare-presence [part~=status]")).to_have_text("is here")


def test_without_a_credential_it_says_that_there_is_no_connection(visit: Visit) -> None:
    page = visit("<fanfare-inbox></fanfare-inbox>")
    expect(page.get_by_role("status").filter(has_text="There is no connection")).to_be_visible(timeout=COMES)


def test_a_page_styles_parts_and_colours(visit: Visit, stack: Stack) -> None:
    stack.send({"user": "yve"}, {"text": "Styled"})
    style = ":root { --fanfare-accent: rgb(1, 2, 3) } fanfare-inbox::part(text) { font-size: 30px }"
    page = visit(element("inbox", "yve"), style=style)
    expect(page.locator("fanfare-inbox [part=text]")).to_have_css("font-size", "30px")
    expect(page.get_by_role("button", name="Archive")).to_have_css("color", "rgb(1, 2, 3)")


# --- As docs/clients.md says ----------------------------------------------------------------------


def documented(language: str) -> list[str]:
    section = (ROOT / "docs/clients.md").read_text().partition("\n## Elements\n")[2].partition("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)


def test_the_documented_page_works_under_the_documented_policy(visit: Visit, stack: Stack, site: OtherSite) -> None:
    everything, bills = documented("html")
    section = (ROOT / "docs/clients.md").read_text()
    (policy,) = re.findall(r"^Content-Security-Policy: (.*)$", section, re.MULTILINE)
    task = start_task(stack, "zoe", "A report")
    with stack.client() as client:
        client.post("/api/leaderboards/arena", json={"scores": [{"name": "zoe", "score": 7}]}).raise_for_status()
        stack.send({"user": "zoe"}, {"title": "Rent", "url": "https://example.org/rent"})
    token = "/token?user=zoe"
    body = everything.partition("\n\n")[2].replace("/my/fanfare-token", token)
    url = site.page(stack, body.replace("01a1fd8a-4e28-755f-8f3d-1f4fccba720e", task))
    path = url.removeprefix(site.origin)
    html, headers = site.pages[path]
    server = stack.web[0].url
    policy = policy.replace("https://fanfare.example", server)
    headers["Content-Security-Policy"] = policy.replace("wss://fanfare.example", server.replace("http", "ws"))
    page = visit("<p></p>")
    page.goto(url)
    assert everything.partition("\n\n")[0].replace(EXAMPLE_URL, server) in html
    expect(bell(page)).to_have_accessible_name(
        re.compile("^Notifications: [12] new, [12] unread$")
    )  # The task may end.
    expect(page.locator("fanfare-presence")).to_contain_text("Bob")
    expect(page.locator("fanfare-presence [part~=status]")).to_have_text("is not here")
    expect(page.get_by_role("progressbar", name="A report")).to_be_visible()
    expect(page.get_by_text("You are at place 1 of 1, with 7.")).to_be_visible(timeout=COMES)

    (style,), (words,) = documented("css"), documented("js")
    page = visit(bills.replace("/my/fanfare-token", token) + "<fanfare-bell></fanfare-bell>", lang="pl", style=style)
    expect(page.get_by_role("heading", name="Bills")).to_be_visible()
    expect(page.locator("fanfare-inbox b").get_by_text("Rent")).to_be_visible()
    expect(page.get_by_role("link", name="Open").first).to_have_attribute("href", "https://example.org/rent")
    expect(page.locator("fanfare-inbox")).to_have_css("--fanfare-accent", "#7a1fa2")
    page.add_script_tag(type="module", content=words.replace(EXAMPLE_URL, server))
    page.evaluate("document.querySelector('main').append(document.createElement('fanfare-bell'))")
    expect(page.get_by_role("button", name=re.compile("Powiadomienia: [0-9] now"))).to_be_visible(timeout=COMES)
    assert (
        page.locator("fanfare-bell [part=panel]").first.evaluate("one => getComputedStyle(one).borderRadius") == "0px"
    )


def test_the_documented_parts_events_and_colours_are_there() -> None:
    text = (ROOT / "docs/clients.md").read_text().partition("\n## Elements\n")[2].partition("\n## ")[0]
    code = (STATIC / "fanfare-elements.js").read_text()
    parts = re.search(r"has\s+parts, such as (.*?)\.", text, re.DOTALL)
    assert parts
    for part in re.findall(r"`(\w+)`", parts[1]):
        assert f"[part~={part}]" in code or f'part: "{part}"' in code, part
    colours = re.search(r"Colours are (.*?)`--fanfare-radius`", text, re.DOTALL)
    assert colours
    for colour in re.findall(r"-(\w+)`", colours[1]):
        assert f"var(--fanfare-{colour}," in code, colour


def test_they_are_small() -> None:
    sizes = [
        len(gzip.compress((STATIC / f"fanfare-{name}.js").read_bytes(), mtime=0)) for name in ("state", "elements")
    ]
    assert sum(sizes) <= 15 * 1024
