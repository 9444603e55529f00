"""The stores in a real browser against real servers: what they say is what the server has, whatever happens."""

import os
import random
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from leaderboards import live
from leaderboards.shapes import Ranked
from tests.browser import OpenPage
from tests.clients.other_site import OtherSite
from tests.servers import ROOT, Stack, eventually
from tests.test_docs import EXAMPLE_URL

pytestmark = pytest.mark.any_database
COMES = 10  # Seconds.
COMES_BACK = 30
BEGIN = """
async ([server, user]) => {
  const { connect } = await import(`${server}/static/fanfare.js`);
  const { inbox, board, changed } = await import(`${server}/static/fanfare-state.js`);
  const getToken = async () => (await fetch(`/token?user=${user}`)).text();
  const client = connect({ url: `${server}/ws/`, getToken });
  const store = inbox(client);
  Object.assign(window, { client, store, inbox, board, changed });
  // What a deed came to: "done", or the code of the refusal.
  window.ask = (deed, ...which) => store[deed](...which).then(() => "done", ({ code }) => code);
}
"""
Visit = Callable[..., Page]


@pytest.fixture(scope="module")
def stack(site: OtherSite) -> Iterator[Stack]:
    with (
        tempfile.TemporaryDirectory(prefix="c", dir=os.environ["FANFARE_TEST_FOLDER"]) as folder,
        Stack(Path(folder) / "0", ALLOWED_ORIGINS=site.origin) as stack,
    ):
        stack.start_web()
        stack.start_web()
        site.stack = stack
        yield stack


@pytest.fixture(scope="module")
def site() -> Iterator[OtherSite]:
    with OtherSite() as site:
        yield site


@pytest.fixture
def visit(open_page: OpenPage, stack: Stack, site: OtherSite) -> Visit:
    """`visit(user)`: a page of another origin with a client and its inbox, loaded."""

    def visit(user: str, process: int = 0) -> Page:
        page = open_page(site.page(stack, ""))
        page.evaluate(BEGIN, [stack.web[process].url, user])
        await_state(page, lambda state: state["loading"] is False)
        return page

    return visit


def inbox(page: Page, store: str = "store") -> dict[str, Any]:
    state: dict[str, Any] = page.evaluate(f"""() => {{
      const {{ error, ...state }} = {store}.state();
      return {{ ...state, error: error && error.message }};
    }}""")
    return state


def await_state(
    page: Page, holds: Callable[[dict[str, Any]], bool], seconds: float = COMES, store: str = "store"
) -> None:
    eventually(lambda: holds(inbox(page, store)), seconds, lambda: str(inbox(page, store))[:3000])


def counts(state: dict[str, Any]) -> tuple[int, int]:
    return state["unread"], state["unseen"]


def texts(state: dict[str, Any]) -> list[str]:
    return [message["data"]["text"] for message in state["messages"]]


def summary(state: dict[str, Any]) -> list[Any]:
    """What has to be the same in a store and in an answer of the server."""
    told = [(one["id"], bool(one["seen_at"]), bool(one["read_at"])) for one in state["messages"]]
    return [told, state["unread"], state["unseen"]]


def api_inbox(stack: Stack, user: str) -> dict[str, Any]:
    with stack.client() as client:
        return dict(client.get("/api/inbox", params={"user": user, "limit": 100}).json())


def test_what_comes_and_what_is_done_shows_on_all_devices_as_the_server_has_it(visit: Visit, stack: Stack) -> None:
    here, there = visit("ann"), visit("ann", process=1)
    for number in range(3):
        stack.send({"user": "ann"}, {"text": f"Build {number}"})
    stack.send({"all": True}, {"text": "To all"})
    for page in (here, there):
        await_state(page, lambda state: counts(state) == (4, 4))
        assert texts(inbox(page)) == ["To all", "Build 2", "Build 1", "Build 0"]
    ids = [message["id"] for message in inbox(here)["messages"]]
    assert here.evaluate("ask('seen', 'all')") == "done"
    assert there.evaluate("ids => ask('read', ids)", ids[1:3]) == "done"
    assert there.evaluate("id => ask('unread', id)", ids[1]) == "done"
    assert here.evaluate("id => ask('archive', id)", ids[0]) == "done"
    for page in (here, there):
        await_state(page, lambda state: summary(state) == summary(api_inbox(stack, "ann")))
        assert counts(inbox(page)) == (2, 0)
        assert texts(inbox(page)) == ["Build 2", "Build 1", "Build 0"]


def test_a_state_is_the_same_object_until_something_changes_and_is_never_changed(visit: Visit, stack: Stack) -> None:
    page = visit("bea")
    stack.send({"user": "bea"}, {"text": "First"})
    await_state(page, lambda state: counts(state) == (1, 1) and not state["loading"])
    page.evaluate("""() => {
      window.calls = 0;
      window.leave = store.subscribe(() => window.calls++);
      window.before = store.state();
    }""")
    assert page.evaluate("const { state } = store; state() === before && Object.isFrozen(before) && calls === 0")
    assert page.evaluate("ask('read', store.state().messages[0].id)") == "done"
    assert page.evaluate("store.state() !== before && before.messages[0].read_at === null && before.unread === 1")
    assert page.evaluate("calls") > 0
    assert page.evaluate("leave(); window.then = calls; ask('unread', store.state().messages[0].id)") == "done"
    assert page.evaluate("calls === then && store.state().unread === 1")
    page.evaluate("store.close()")
    stack.send({"user": "bea"}, {"text": "Nobody follows"})
    page.evaluate("client.request('inbox')")
    assert counts(inbox(page)) == (1, 0)


def test_what_the_server_refuses_is_shown_at_once_and_taken_back(visit: Visit, stack: Stack) -> None:
    page = visit("cyd")
    stack.send({"user": "cyd"}, {"text": "Keep me"})
    await_state(page, lambda state: counts(state) == (1, 1) and not state["loading"])
    for deed, shown in (("read", [0, 0, 1]), ("archive", [0, 0, 0])):
        script = f"""() => {{
          window.refused = ask("{deed}", [store.state().messages[0].id, "no id"]);
          const {{ unread, unseen, messages }} = store.state();
          return [unread, unseen, messages.length];
        }}"""
        assert page.evaluate(script) == shown
        assert page.evaluate("refused") not in ("done", None)
        assert counts(inbox(page)) == (1, 1)
        assert inbox(page)["messages"][0]["read_at"] is None


def test_all_is_what_was_there_and_not_what_comes_while_the_page_is_offline(visit: Visit, stack: Stack) -> None:
    page = visit("dot", process=1)
    for number in range(3):
        stack.send({"user": "dot"}, {"text": f"Before {number}"})
    await_state(page, lambda state: counts(state) == (3, 3) and not state["loading"])
    stack.web[1].stop()
    eventually(lambda: page.evaluate("client.state.state") != "online", COMES)
    page.evaluate("() => { window.read = ask('read', 'all') }")  # It ends when the server is back.
    assert counts(inbox(page)) == (0, 0)
    stack.send({"user": "dot"}, {"text": "Meanwhile"})
    stack.web[1].start()
    eventually(lambda: page.evaluate("client.state.state") == "online", COMES_BACK)
    await_state(page, lambda state: counts(state) == (1, 1), COMES_BACK)
    eventually(lambda: summary(inbox(page)) == summary(api_inbox(stack, "dot")), COMES_BACK)
    assert page.evaluate("read") == "done"
    assert texts(inbox(page))[0] == "Meanwhile"


def test_older_messages_come_page_by_page_and_each_once(visit: Visit, stack: Stack) -> None:
    with stack.client() as client:
        sent = [{"to": {"user": "eve"}, "data": {"text": f"{number}"}} for number in range(45)]
        assert client.post("/api/notifications/batch", json={"notifications": sent}).is_success
    page = visit("eve")
    await_state(page, lambda state: len(state["messages"]) == 20 and not state["loading"])
    seen = [20]
    while inbox(page)["more"]:
        page.evaluate("store.more()")
        seen.append(len(inbox(page)["messages"]))
    assert seen == [20, 40, 45]
    assert texts(inbox(page)) == [f"{number}" for number in reversed(range(45))]
    stack.send({"user": "eve"}, {"text": "A new one"})
    await_state(page, lambda state: len(state["messages"]) == 46)
    assert page.evaluate("ask('archive', 'all')") == "done"
    await_state(page, lambda state: not state["messages"] and counts(state) == (0, 0) and not state["more"])


@pytest.mark.parametrize("seed", [3, 4])
def test_after_any_deeds_on_two_devices_both_say_what_a_fresh_page_says(visit: Visit, stack: Stack, seed: int) -> None:
    user, chance = f"fay{seed}", random.Random(seed)
    pages = [visit(user), visit(user, process=1)]
    sent = [stack.send({"user": user}, {"text": "0"})["id"]]
    for step in range(25):
        deed = chance.choice(["send", "send", "seen", "read", "unread", "archive", "recall", "all"])
        page = chance.choice(pages)
        if deed == "send":
            sent.append(stack.send(chance.choice([{"user": user}, {"all": True}]), {"text": f"{step}"})["id"])
        elif deed == "recall":
            with stack.client() as client:
                client.delete(f"/api/notifications/{chance.choice(sent)}")
        elif deed == "all":
            page.evaluate("deed => void ask(deed, 'all')", chance.choice(["seen", "read"]))
        else:
            page.evaluate("([deed, ids]) => void ask(deed, ids)", [deed, chance.sample(sent, min(3, len(sent)))])
    fresh = visit(user)
    for page in [*pages, fresh]:
        eventually(
            lambda page=page: summary(inbox(page)) == summary(api_inbox(stack, user)),  # type: ignore[misc]
            COMES,
            lambda page=page: f"{summary(inbox(page))} {summary(api_inbox(stack, user))}",  # type: ignore[misc]
        )


def test_nonsense_from_a_server_is_an_error_and_nothing_worse(
    open_page: OpenPage, stack: Stack, site: OtherSite
) -> None:
    page = open_page(site.page(stack, ""))  # That fails when anything throws.
    page.evaluate(BEGIN, [stack.web[0].url, "gus"])
    assert page.evaluate("""async () => {
      const answers = [null, "text", {}, { messages: "no" }, { messages: [null, 7, { id: 7 }], unread: "many" }];
      const states = [];
      for (const answer of answers) {
        const fake = Object.assign(new EventTarget(), { state: { state: "online" }, request: async () => answer });
        const tell = (name, detail) => fake.dispatchEvent(new CustomEvent(name, { detail }));
        const store = inbox(fake);
        await new Promise((resolve) => setTimeout(resolve, 10));
        tell("message", { topic: 7, id: "1", offset: 1 });
        tell("receipt", { state: "read", ids: "all" });
        tell("unread", {});
        const { messages, unread, error } = store.state();
        states.push([messages.length, unread, Boolean(error)]);
        store.close();
      }
      return states;
    }""") == [[0, 0, True]] * 4 + [[0, 0, False]]


# What the two hooks use of React and of Vue, in the words of their documentation.
FRAMEWORKS = {
    "react": """export function useSyncExternalStore(subscribe, getSnapshot) {
      window.react = getSnapshot();
      subscribe(() => { if (getSnapshot() !== window.react) window.react = getSnapshot(); });
      return window.react;
    }""",
    "vue": """export const shallowRef = (value) => ({ value });
      export const onScopeDispose = (leave) => { window.disposeScope = leave; };""",
}


def test_the_documented_blocks_run(open_page: OpenPage, stack: Stack, site: OtherSite) -> None:
    section = (ROOT / "docs/clients.md").read_text().partition("\n## State for React or Vue\n")[2]
    blocks = re.findall(r"^```js\n(.*?)^```$", section.partition("\n## ")[0], re.DOTALL | re.MULTILINE)
    stores, *hooks = (block.replace(EXAMPLE_URL, stack.web[0].url) for block in blocks)
    assert len(hooks) == len(FRAMEWORKS)
    submit(stack, "arena", ida=5)
    page = open_page(site.page(stack, "", style="main {}"))
    page.route("**/my/fanfare-token", lambda route: route.fulfill(body=stack.token("ida")))
    said: list[str] = []
    page.on("console", lambda line: said.append(line.text))

    def says(text: str) -> None:
        page.wait_for_function("() => true")  # It hears while Playwright is asked.
        eventually(lambda: page.evaluate("true") and text in said, COMES, lambda: "\n".join(said))

    page.add_script_tag(type="module", content=stores + "Object.assign(window, { store, client });")
    says("unread 0 0 false false null")
    says("first ida 1")
    for hook, (name, code) in zip(hooks, FRAMEWORKS.items(), strict=True):
        page.add_script_tag(
            content=f"window.{name}Url = URL.createObjectURL(new Blob([{code!r}], {{type: 'text/javascript'}}))"
        )
        page.evaluate(
            """async ([hook, name]) => {
              const source = hook.replace(`"${name}"`, `"${window[`${name}Url`]}"`);
              const module = await import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
              window[`${name}State`] = module.useStore(store);
            }""",
            [hook, name],
        )
    stack.send({"user": "ida"}, {"text": "Hello"})
    says("unread 1 1 false false null")
    assert page.evaluate("[react.unread, vueState.value.unread]") == [1, 1]
    page.evaluate("disposeScope()")
    assert page.evaluate("store.read('all').then(() => [react.unread, vueState.value.unread])") == [0, 1]


# --- Boards ---------------------------------------------------------------------------------------


def submit(stack: Stack, name: str, **scores: float) -> None:
    with stack.client(stack.web[1]) as client:
        body = {"scores": [{"name": player, "score": score} for player, score in scores.items()]}
        assert client.post(f"/api/leaderboards/{name}", json=body).is_success


def best(stack: Stack, name: str, count: int) -> list[tuple[int, str, float]]:
    with stack.client() as client:
        found = client.get(f"/api/leaderboards/{name}", params={"endRank": count}).json()["leaderboard"]
    return [(row["rank"], row["name"], row["score"]) for row in found]


def shown(page: Page, store: str) -> list[tuple[int, str, float]]:
    return [(row["rank"], row["name"], row["score"]) for row in inbox(page, store)["rows"]]


def test_boards_follow_whatever_comes_and_share_one_subscription(visit: Visit, stack: Stack) -> None:
    submit(stack, "relay", ann=5)
    page = visit("ann")
    page.evaluate("() => { window.one = board(client, 'relay', { top: 3 }) }")
    await_state(page, lambda state: not state["loading"], store="one")
    page.evaluate("() => { window.two = board(client, 'relay', { top: 30, me: true }) }")
    assert not inbox(page, "two")["loading"]  # It has what the other one knows.
    chance = random.Random(2)
    for _ in range(10):
        submit(stack, "relay", **{f"p{chance.randrange(40)}": chance.randrange(1, 99) for _ in range(9)})
    submit(stack, "relay", last=1000)
    for store, top in (("one", 3), ("two", 30)):
        eventually(lambda s=store, t=top: shown(page, s) == best(stack, "relay", t), COMES)  # type: ignore[misc]
        assert inbox(page, store)["total"] == len(best(stack, "relay", 100))
    await_state(page, lambda state: bool(state["me"] and state["me"]["score"] == 5), store="two")
    assert inbox(page, "one")["me"] is None
    page.evaluate("one.close()")
    submit(stack, "relay", later=2000)
    await_state(page, lambda state: state["rows"][0]["name"] == "later", store="two")
    assert inbox(page, "one")["rows"][0]["name"] == "last"
    page.evaluate("two.close(), window.three = board(client, 'relay')")
    await_state(page, lambda state: state["rows"] and state["rows"][0]["name"] == "later", store="three")


def test_a_board_that_may_not_be_read_says_so(visit: Visit, stack: Stack) -> None:
    with stack.client() as client:
        assert client.put("/api/leaderboards/secret", json={"read": "service"}).is_success
    page = visit("ann")
    page.evaluate("() => { window.secret = board(client, 'secret') }")
    await_state(page, lambda state: bool(state["error"]) and not state["loading"], store="secret")


def test_changes_are_carried_out_as_the_server_means_them(visit: Visit) -> None:
    chance = random.Random(9)
    cases = []
    for _ in range(200):
        tops = []
        for _ in range(2):
            players = chance.sample("abcdefghij", chance.randrange(10))
            tops.append([Ranked(name, chance.randrange(3), 0, rank) for rank, name in enumerate(players)])
        there, removed = live.difference(*tops)
        before, after, put = ([_plain(row) for row in some] for some in (*tops, there))
        cases.append((before, {"set": put, "removed": removed}, after))
    script = """(cases) => cases.filter(([before, change, after]) =>
      JSON.stringify(changed(before, change)) !== JSON.stringify(after))"""
    assert visit("hal").evaluate(script, cases) == []


def _plain(row: Ranked) -> dict[str, Any]:
    return {"name": row.name, "score": row.score, "rank": row.rank}
