"""What the user has done with messages while there was no connection: kept, in order, once each, over a reload."""

import time
from typing import Any

import jwt
import pytest
from playwright.sync_api import Page

from tests.browser import OpenPage
from tests.clients.conftest import Start
from tests.clients.fake_server import Connection, Fake
from tests.clients.pages import ALICE, at, await_state, notes, start_client
from tests.servers import Stack, eventually

NEVER = "Math.random = () => 1000"  # So long it waits for the next attempt.
COMES_BACK = "dispatchEvent(new Event('online'))"


def token(user: str) -> str:
    claims = {"iss": "us", "sub": user, "exp": int(time.time()) + 3600}
    return jwt.encode(claims, "a-key-of-nobody-that-is-long-enough")


def go_offline(page: Page, server: Fake) -> None:
    page.evaluate(NEVER)
    server.accept().close(1012)
    await_state(page, "offline")


def come_back(page: Page, server: Fake) -> Connection:
    page.evaluate(COMES_BACK)
    return greeted(server)


def greeted(server: Fake) -> Connection:
    connection = server.accept()
    connection.send(event="welcome", connectionId="c", user="alice", topics={})
    return connection


def grant(connection: Connection) -> dict[str, Any]:
    """Answers the next receipt -> it, without its `ref`."""
    frame = connection.receive()
    ref = frame.pop("ref")
    connection.send(event="ok", ref=ref, receipted=frame.get("ids", []), unread=0, unseen=0, unread_more=False)
    return frame


def kept(page: Page) -> int:
    return int(page.evaluate("Object.keys(localStorage).filter((key) => key.startsWith('fanfare.receipts')).length"))


def silent(connection: Connection) -> bool:
    try:
        connection.socket.recv(0.5)
    except TimeoutError:
        return True
    return False


@pytest.mark.any_database
def test_receipts_made_offline_are_sent_on_return_in_order_and_once(start: Start, server: Fake) -> None:
    page = start({"tokens": [token("alice")]})
    go_offline(page, server)
    before = time.time()
    page.evaluate(
        """window.asked = [["read", {ids: ["1", "2"]}], ["unread", {ids: ["2"]}], ["seen", {all: true}]]
          .map(([deed, which]) => ask("receipt", deed, which));"""
    )
    connection = come_back(page, server)
    assert grant(connection) == {"action": "read", "ids": ["1", "2"]}
    assert grant(connection) == {"action": "unread", "ids": ["2"]}
    seen = grant(connection)
    assert abs(time.mktime(time.strptime(seen["as_of"][:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone - before) < 60
    assert seen["action"] == "seen"  # All until then: what came meanwhile was not seen.
    assert [answer[0] for answer in page.evaluate("Promise.all(asked)")] == ["ok"] * 3
    assert silent(connection)
    assert kept(page) == 0


@pytest.mark.any_database
def test_a_receipt_whose_answer_is_lost_is_sent_again_and_one_that_is_refused_is_not(
    start: Start, server: Fake
) -> None:
    page = start({"tokens": [token("alice")]})
    page.evaluate("Math.random = () => 0")
    first = greeted(server)
    await_state(page, "online")
    page.evaluate("window.asked = ['1', '2', '3'].map((id) => ask('receipt', 'read', {ids: [id]}))")
    assert first.receive()["ids"] == ["1"]
    first.close(1012)
    second = greeted(server)
    frame = second.receive()
    assert frame["ids"] == ["1"]
    second.send(event="error", ref=frame["ref"], code="malformed", message="No id.")
    frame = second.receive()
    assert frame["ids"] == ["2"]
    second.send(event="error", ref=frame["ref"], code="unavailable", message="Later.")
    assert [grant(second)["ids"], grant(second)["ids"]] == [["2"], ["3"]]
    assert page.evaluate("Promise.all(asked)")[0] == ["failed", "malformed"]
    assert [answer[0] for answer in page.evaluate("Promise.all(asked)")[1:]] == ["ok", "ok"]
    assert notes(page, "error") == []


@pytest.mark.any_database
def test_all_means_until_the_call_also_where_it_is_said_again(start: Start, server: Fake) -> None:
    page = start({"tokens": [token("alice")]})
    page.evaluate("Math.random = () => 0")
    first = greeted(server)
    await_state(page, "online")
    page.evaluate("void (window.asked = ask('receipt', 'read', {all: true}))")
    frame = first.receive()
    assert (frame["all"], "as_of" in frame) == (True, False)  # Now, by the server's clock.
    first.close(1012)
    assert set(grant(greeted(server))) == {"action", "as_of"}
    assert page.evaluate("asked")[0] == "ok"


@pytest.mark.any_database
def test_a_client_that_is_closed_while_it_gets_its_token_takes_none_of_them(start: Start, server: Fake) -> None:
    page = start({"tokens": [token("alice")]})
    go_offline(page, server)
    page.evaluate("void ask('receipt', 'read', {ids: ['1']})")
    page.wait_for_function("Object.keys(localStorage).length === 1")
    page.reload()
    page.evaluate(
        """async (token) => {
             const { connect } = await import("/fanfare.js");
             let give;
             const early = connect({ url: "/ws/", getToken: () => new Promise((resolve) => (give = resolve)) });
             await Promise.resolve();
             early.close();
             give(token);
           }""",
        token("alice"),
    )
    start_client(page, {"tokens": [token("alice")]})
    assert grant(greeted(server)) == {"action": "read", "ids": ["1"]}


@pytest.mark.any_database
def test_a_reload_keeps_them_for_the_same_user_and_for_no_other(start: Start, server: Fake) -> None:
    page = start({"tokens": [token("alice")]})
    go_offline(page, server)
    page.evaluate("void ask('receipt', 'read', {ids: ['1']})")
    page.evaluate("void ask('receipt', 'archive', {ids: ['2']})")
    page.wait_for_function("Object.keys(localStorage).length === 1")

    page.reload()
    start_client(page, {"tokens": [token("bob")]})
    connection = greeted(server)
    await_state(page, "online")
    assert silent(connection)

    page.reload()
    start_client(page, {"tokens": [token("alice")]})
    connection = greeted(server)
    assert grant(connection) == {"action": "read", "ids": ["1"]}
    assert connection.receive()["ids"] == ["2"]  # Not answered before the next reload.

    page.reload()
    start_client(page, {"tokens": [token("alice")]})
    connection = greeted(server)
    assert grant(connection) == {"action": "archive", "ids": ["2"]}
    page.wait_for_function("Object.keys(localStorage).length === 0")


@pytest.mark.any_database
def test_another_tab_sends_them_only_when_this_one_is_gone(open_page: OpenPage, server: Fake) -> None:
    page = open_page(server.url)
    start_client(page, {"tokens": [token("alice")]})
    go_offline(page, server)
    page.evaluate("void ask('receipt', 'read', {ids: ['1']})")
    page.wait_for_function("Object.keys(localStorage).length === 1")

    other = page.context.new_page()
    other.goto(server.url)
    start_client(other, {"tokens": [token("alice")]})
    beside = greeted(server)
    await_state(other, "online")
    assert silent(beside)
    assert grant(come_back(page, server)) == {"action": "read", "ids": ["1"]}
    page.evaluate(f"void ({NEVER})")
    page.close()

    third = page.context.new_page()
    third.goto(server.url)
    start_client(third, {"tokens": [token("alice")]})
    go_offline(third, server)
    third.evaluate("void ask('receipt', 'read', {ids: ['3']})")
    third.wait_for_function("Object.keys(localStorage).length === 1")
    third.close()
    other.reload()
    start_client(other, {"tokens": [token("alice")]})
    assert grant(greeted(server)) == {"action": "read", "ids": ["3"]}


@pytest.mark.any_database
def test_a_thousand_ids_wait_and_no_more(start: Start, server: Fake) -> None:
    page = start({"tokens": [token("alice")]})
    go_offline(page, server)
    page.evaluate("void ask('receipt', 'read', {ids: Array.from({length: 999}, (_, n) => `${n}`)})")
    page.evaluate("void ask('receipt', 'seen', {all: true})")
    assert page.evaluate("ask('receipt', 'read', {ids: ['more']})") == ["failed", "busy"]
    connection = come_back(page, server)
    assert len(grant(connection)["ids"]) == 999


@pytest.mark.any_database
def test_the_next_user_of_the_page_does_not_send_what_the_last_one_did(start: Start, server: Fake) -> None:
    page = start({"tokens": [token("alice"), token("bob"), token("alice")]})
    go_offline(page, server)
    page.evaluate("void (window.asked = ask('receipt', 'seen', {all: true}))")
    connection = come_back(page, server)
    assert page.evaluate("asked") == ["failed", "superseded"]
    assert silent(connection)
    connection.close(1012)
    await_state(page, "offline")
    assert grant(come_back(page, server))["action"] == "seen"


@pytest.mark.any_database
@pytest.mark.parametrize(
    "spoil",
    [
        "Object.defineProperty(window, 'localStorage', {get() { throw new Error('not here'); }})",
        "Object.defineProperty(navigator, 'locks', {value: undefined})",
        "void (Storage.prototype.setItem = () => { throw new Error('full'); })",
        """for (const [n, text] of ["{", "7", "null", '[7, {"deed": "lick"}]'].entries())
             localStorage[`fanfare.receipts us alice ${n}`] = text;""",
    ],
)
def test_where_a_page_may_not_keep_them_or_finds_nonsense_they_are_sent_all_the_same(
    open_page: OpenPage, server: Fake, spoil: str
) -> None:
    page = open_page(server.url)
    page.evaluate(spoil)
    start_client(page, {"tokens": [token("alice")]})
    go_offline(page, server)
    page.evaluate("void (window.asked = ask('receipt', 'read', {ids: ['1']}))")
    assert grant(come_back(page, server)) == {"action": "read", "ids": ["1"]}
    assert page.evaluate("asked")[0] == "ok"


@pytest.mark.any_database
def test_close_says_so_to_those_that_wait(start: Start, server: Fake) -> None:
    page = start({"tokens": [token("alice")]})
    go_offline(page, server)
    page.evaluate("void (window.asked = ask('receipt', 'read', {ids: ['1']}))")
    page.wait_for_function("Object.keys(localStorage).length === 1")
    page.evaluate("client.close()")
    assert page.evaluate("asked") == ["failed", "closed"]
    assert page.evaluate("ask('receipt', 'read', {ids: ['2']})") == ["failed", "closed"]
    start_client(page, {"tokens": [token("alice")]})
    assert grant(greeted(server)) == {"action": "read", "ids": ["1"]}


@pytest.mark.parametrize("way", ["websocket", "stream", "poll"])
def test_the_real_server_has_them_after_it_was_away(open_page: OpenPage, stack: Stack, way: str) -> None:
    user = f"reader-{way}"
    ids = [stack.send({"user": user}, number)["id"] for number in range(3)]
    page = open_page(f"{stack.web[0].url}/livez")
    start_client(page, {"transports": [way], "tokens": [stack.token(user)]}, "/static/fanfare.js")
    await_state(page, "online", way)
    stack.web[0].stop()
    page.wait_for_function("() => client.state.state !== 'online'")
    page.evaluate("ids => void (window.asked = ask('receipt', 'read', {ids}))", ids[:2])
    page.evaluate("ids => void ask('receipt', 'archive', {ids})", ids[2:])
    page.evaluate("ids => void ask('receipt', 'unread', {ids})", ids[1:2])
    stack.web[0].start()
    stack.web[0].wait_until_ready()
    await_state(page, "online", way, seconds=40)
    verdict, answer = page.evaluate("asked")
    assert (verdict, sorted(answer["receipted"])) == ("ok", sorted(ids[:2]))

    def found() -> dict[str, bool]:
        with stack.client() as client:
            inbox = client.get("/api/inbox", params={"user": user}).json()["messages"]
        return {one["id"]: bool(one["read_at"]) for one in inbox}

    eventually(lambda: found() == {ids[0]: True, ids[1]: False}, 10, lambda: str(found()))


@pytest.mark.any_database
def test_how_the_user_stands_on_a_board_is_asked_for_again_after_a_loss(start: Start, server: Fake) -> None:
    page = start({"topics": [ALICE]})
    connection = server.accept()
    connection.welcome(**{ALICE: at(0)})
    await_state(page, "online")
    page.evaluate("void (window.asked = ask('subscribe', 'board.x', null, {me: true}))")
    frame = connection.receive()
    assert (frame["action"], frame["me"], "since" in frame) == ("subscribe", True, False)
    board: dict[str, Any] = {"window": None, "total": 1, "version": 7, "leaderboard": []}
    connection.send(event="subscribed", topic="board.x", **at(7), recovered=True, snapshot=board, ref=frame["ref"])
    connection.send(event="board", topic="board.x", me={"score": 1, "rank": 3})
    assert page.evaluate("asked")[0] == "ok"
    page.wait_for_function("notes.some(([name]) => name === 'board')")
    assert notes(page, "snapshot")[0]["snapshot"] == board
    connection.close(1012)
    second = server.accept()
    second.welcome()
    again = {frame["topic"]: frame for frame in (second.receive(), second.receive())}
    assert again["board.x"] == {
        "action": "subscribe",
        "topic": "board.x",
        "since": at(7),
        "me": True,
        "ref": frame["ref"],
    }
    assert "me" not in again[ALICE]
