"""static/fanfare.js in a real browser, against a server that does to it what no server should."""

import gzip
from typing import Any

import pytest

from tests.browser import OpenPage
from tests.clients.conftest import Start
from tests.clients.fake_server import Fake
from tests.clients.pages import ALICE, CLIENT, at, await_note, await_state, notes, start_client

pytestmark = pytest.mark.any_database


def test_it_asks_for_the_default_topics_first_and_for_its_positions_after_a_loss(start: Start, server: Fake) -> None:
    page = start()
    first = server.accept()
    assert (first.path, first.subprotocols) == ("/ws/", "fanfare.v1, bearer.token-1")
    first.welcome(**{ALICE: at(3), "all": at(0, None)})
    first.message(4)
    await_note(page, "message")
    first.close(4408, "slow_reader")

    second = server.accept()
    assert (second.path, second.subprotocols) == ("/ws/?topics=", "fanfare.v1, bearer.token-2")
    second.welcome()
    asked = [second.receive(), second.receive()]
    assert [(frame["action"], frame["topic"], frame["since"]) for frame in asked] == [
        ("subscribe", ALICE, at(4)),
        ("subscribe", "all", at(0, None)),
    ]
    second.message(4)
    second.message(5)
    second.send(event="subscribed", topic=ALICE, **at(5), recovered=True, ref=asked[0]["ref"])
    assert [message["offset"] for message in await_note(page, "message", 2)] == [4, 5]
    states = [state["state"] for state in notes(page, "state")]
    assert states == ["connecting", "online", "offline", "connecting", "online"]


def test_given_topics_are_asked_for_by_name_and_those_with_a_position_from_there(start: Start, server: Fake) -> None:
    start({"topics": {ALICE: at(7), "all": None}})
    connection = server.accept()
    assert connection.path == "/ws/?topics=all"
    connection.welcome(all=at(2))
    frame = connection.receive()
    assert (frame["topic"], frame["since"]) == (ALICE, at(7))


def test_a_message_that_comes_twice_or_late_is_shown_once_and_never_backwards(start: Start, server: Fake) -> None:
    page = start()
    connection = server.accept()
    connection.welcome(**{ALICE: at(0)})
    for offset in (1, 1, 3, 2, 3, 4):
        connection.message(offset)
    for name in ("x", "y", "x"):
        connection.message(None, id=name)
    connection.message(5)
    shown = await_note(page, "message", 6)
    assert [message["offset"] or message["id"] for message in shown] == [1, 3, 4, "x", "y", 5]


def test_the_memory_for_messages_without_an_offset_is_bounded(start: Start, server: Fake) -> None:
    page = start()
    connection = server.accept()
    connection.welcome(**{ALICE: at(0)})
    for number in range(1001):
        connection.message(None, id=f"id-{number}")
    connection.message(None, id="id-1000")  # Still known.
    connection.message(None, id="id-0")  # Forgotten.
    assert len(await_note(page, "message", 1002)) == 1002


def test_nonsense_from_the_server_neither_throws_nor_ends_the_connection(start: Start, server: Fake) -> None:
    page = start()
    connection = server.accept()
    connection.welcome(**{ALICE: at(0), "broken": {"offset": "x"}, "worse": None})
    for text in ("", "no json", "null", "7", '"text"', "[]", "{}", '{"event": {"toString": 1}}', '{"event": "news"}'):
        connection.socket.send(text)
    connection.socket.send(b"\x00binary")
    wrong: tuple[Any, ...] = (None, 7, "text", [], {"toString": 1}, -1, 2**60, 1.5, True)
    for event in ("welcome", "message", "recalled", "reset", "subscribed", "unsubscribed", "ok", "error", "__proto__"):
        connection.send(event=event)
        for value in wrong:
            fields = ("topic", "topics", "offset", "id", "ref", "code", "message", "epoch", "data")
            connection.send(event=event, **dict.fromkeys(fields, value))
            if event not in ("message", "unsubscribed"):
                connection.send(event=event, topic=ALICE, offset=value, epoch=value, id=value, ref=value)
    connection.message(1, id={"not": "text"})
    connection.message(2, topic="topic.nobody-asked-for")
    connection.message(9, data="<img src=x onerror=alert(1)>")
    (message,) = [message for message in await_note(page, "message") if message["offset"] == 9]
    assert message["data"] == "<img src=x onerror=alert(1)>"
    assert page.evaluate("client.state.state") == "online"


@pytest.mark.parametrize("code", [4500, 4501, 4999])
def test_it_stays_away_when_the_server_says_so_and_tells_why(start: Start, server: Fake, code: int) -> None:
    page = start()
    server.accept().close(code, "unauthenticated")
    assert await_state(page, "closed") == {
        "state": "closed",
        "transport": "websocket",
        "code": code,
        "reason": "unauthenticated",
    }
    assert page.evaluate("ask('publish', 'user.bob', 1)") == ["failed", "closed"]
    page.clock.fast_forward(120_000)
    page.evaluate("dispatchEvent(new Event('online'))")
    assert server.nobody_comes(1.0)


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1012, 4000, 4401, 4408, 4409, 4410, 4499])
def test_it_comes_back_after_any_other_close_with_a_fresh_token(start: Start, server: Fake, code: int) -> None:
    start()
    connection = server.accept()
    connection.welcome()
    connection.close(code)
    assert server.accept().subprotocols.endswith("bearer.token-2")


def test_it_comes_back_later_where_it_has_said_too_much(start: Start, server: Fake) -> None:
    page = start()
    connection = server.accept()
    connection.welcome()
    await_state(page, "online")
    connection.close(4429)
    assert await_state(page, "offline")["retryAt"] - page.evaluate("Date.now()") > 4000


def test_the_waits_grow_to_30_s_and_start_anew_only_after_a_connection_that_stayed_up(
    start: Start, server: Fake
) -> None:
    page = start()
    page.evaluate("Math.random = () => 1")
    page.evaluate("window.waits = []")
    page.evaluate(
        "client.addEventListener('state', ({detail: d}) => d.retryAt && waits.push(Math.round(d.retryAt - Date.now())))"
    )
    for attempt in range(9):
        connection = server.accept()
        connection.welcome()  # Up, but not for long.
        await_state(page, "online")
        if attempt == 8:
            page.clock.fast_forward(11_000)
        connection.close(1012)
        page.wait_for_function("attempt => waits.length > attempt", arg=attempt)
        page.clock.fast_forward(30_000)
    waits = page.evaluate("waits")
    assert [round(wait, -2) for wait in waits] == [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 500]


def test_a_silent_server_is_asked_for_a_sign_of_life_and_left_without_one(start: Start, server: Fake) -> None:
    page = start()
    connection = server.accept()
    connection.welcome(**{ALICE: at(0)})
    await_state(page, "online")
    page.clock.fast_forward(30_500)
    assert connection.receive() == {"action": "ping"}
    connection.send(event="pong", type="pong", statusCode=200, connectionId="c1")
    connection.message(1)
    await_note(page, "message")
    page.clock.fast_forward(15_000)  # It has answered: still there.
    assert page.evaluate("client.state.state") == "online"
    page.clock.fast_forward(15_500)
    assert connection.receive() == {"action": "ping"}
    page.clock.fast_forward(10_500)
    connection.wait_closed()
    page.clock.fast_forward(30_000)
    assert server.accept().path == "/ws/?topics="


def test_a_server_that_accepts_and_then_says_nothing_is_left(start: Start, server: Fake) -> None:
    page = start()
    server.accept()
    page.clock.fast_forward(10_500)
    assert await_note(page, "state", 2)[1]["reason"] == "The server does not answer."
    page.clock.fast_forward(30_000)
    assert server.accept().path == "/ws/"


@pytest.mark.parametrize(("target", "event"), [("window", "online"), ("document", "visibilitychange")])
def test_it_comes_back_at_once_with_the_network_and_when_somebody_looks(
    start: Start, server: Fake, target: str, event: str
) -> None:
    page = start()
    page.evaluate("Math.random = () => 1000")  # So that it would wait for ever.
    server.accept().close(1012)
    page.wait_for_function("client.state.state === 'offline'")
    assert server.nobody_comes(0.5)
    page.evaluate(f"{target}.dispatchEvent(new Event('{event}'))")
    server.accept()


def test_a_token_that_cannot_be_had_is_told_and_asked_for_again(open_page: OpenPage, server: Fake) -> None:
    page = open_page(server.url)
    start_client(page)
    page.evaluate(
        """async () => {
          const { connect } = await import("/fanfare.js");
          let calls = 0;
          const getToken = () => { if (++calls === 1) throw new Error("no session"); return "late"; };
          const again = connect({ url: "/ws/", getToken });
          again.addEventListener("error", ({ detail }) => notes.push(["error", detail.message]));
        }"""
    )
    server.accept()
    assert server.accept().subprotocols == "fanfare.v1, bearer.late"
    assert notes(page, "error") == ["no session"]


def test_publish_resolves_with_the_answer_and_rejects_with_the_servers_code(start: Start, server: Fake) -> None:
    page = start()
    connection = server.accept()
    connection.welcome()
    await_state(page, "online")
    page.evaluate("window.asked = [ask('publish', 'user.bob', {n: 1}, 'note'), ask('publish', 'user.eve', 2)]")
    first, second = connection.receive(), connection.receive()
    assert {**first, "ref": 0} == {"action": "publish", "topic": "user.bob", "data": {"n": 1}, "type": "note", "ref": 0}
    connection.send(event="error", ref=second["ref"], code="denied", message="Not there.")
    connection.send(event="ok", ref=first["ref"], id="m1", topic="user.bob", epoch="e", offset=1)
    (verdict, answer), refused = page.evaluate("Promise.all(asked)")
    assert (verdict, answer["id"], answer["offset"]) == ("ok", "m1", 1)
    assert refused == ["failed", "denied"]
    assert notes(page, "error") == []


def test_publish_times_out_and_a_late_answer_changes_nothing(start: Start, server: Fake) -> None:
    page = start()
    connection = server.accept()
    connection.welcome(**{ALICE: at(0)})
    await_state(page, "online")
    page.evaluate("void (window.asked = ask('publish', 'user.bob', 1))")
    ref = connection.receive()["ref"]
    page.clock.fast_forward(10_500)
    assert page.evaluate("asked") == ["failed", "timeout"]
    connection.send(event="ok", ref=ref, id="m1", topic="user.bob", epoch="e", offset=1)
    connection.message(1)
    await_note(page, "message")


def test_publish_waits_for_the_connection_but_is_never_sent_twice(start: Start, server: Fake) -> None:
    page = start()
    page.evaluate("void (window.early = ask('publish', 'user.bob', 'early'))")
    connection = server.accept()
    connection.welcome()
    frame = connection.receive()
    assert frame["data"] == "early"
    connection.close(1012)
    assert page.evaluate("early") == ["failed", "connection_lost"]
    second = server.accept()
    second.welcome()
    page.evaluate("void ask('publish', 'user.bob', 'later')")
    assert second.receive()["data"] == "later"


def test_requests_that_wait_are_bounded_and_what_is_no_json_is_refused(start: Start, server: Fake) -> None:
    page = start()
    server.accept()
    page.evaluate("void (window.broken = client.publish('user.bob', 1n).catch((error) => error.name))")
    page.evaluate("void (window.asked = Array.from({length: 101}, () => ask('publish', 'user.bob', 1)))")
    assert page.evaluate("Promise.race(asked)") == ["failed", "busy"]
    assert page.evaluate("broken") == "TypeError"
    page.evaluate("client.close()")
    assert page.evaluate("Promise.all(asked)") == [["failed", "closed"]] * 100 + [["failed", "busy"]]


def test_subscribe_and_unsubscribe_hold_over_a_reconnect(start: Start, server: Fake) -> None:
    page = start()
    connection = server.accept()
    connection.welcome(**{ALICE: at(0)})
    await_state(page, "online")
    page.evaluate("void (window.asked = ask('subscribe', 'topic.news', {epoch: 'n', offset: 2}))")
    frame = connection.receive()
    assert (frame["action"], frame["topic"], frame["since"]) == ("subscribe", "topic.news", at(2, "n"))
    connection.message(3, "topic.news")
    connection.send(event="subscribed", topic="topic.news", **at(3, "n"), recovered=True, ref=frame["ref"])
    assert page.evaluate("asked")[0] == "ok"
    page.evaluate("void (window.asked = ask('unsubscribe', 'user.alice'))")
    frame = connection.receive()
    assert (frame["action"], frame["topic"]) == ("unsubscribe", ALICE)
    connection.message(1)  # Was on its way.
    connection.send(event="unsubscribed", topic=ALICE, ref=frame["ref"])
    assert page.evaluate("asked")[0] == "ok"
    connection.close(1001)

    second = server.accept()
    second.welcome()
    frame = second.receive()
    assert (frame["topic"], frame["since"]) == ("topic.news", at(3, "n"))
    assert [message["topic"] for message in notes(page, "message")] == ["topic.news"]


def test_an_earlier_position_of_a_live_topic_loses_nothing_that_comes_meanwhile(start: Start, server: Fake) -> None:
    page = start()
    connection = server.accept()
    connection.welcome(**{ALICE: at(7)})
    await_state(page, "online")
    page.evaluate("void (window.asked = ask('subscribe', 'user.alice', {epoch: 'e1', offset: 4}))")
    frame = connection.receive()
    connection.message(8)  # Live, before the server has heard.
    for offset in (5, 6, 7, 8):
        connection.message(offset)
    connection.send(event="subscribed", topic=ALICE, **at(8), recovered=True, ref=frame["ref"])
    connection.message(9)
    assert page.evaluate("asked")[0] == "ok"
    await_note(page, "message", 5)
    assert [message["offset"] for message in notes(page, "message")] == [5, 6, 7, 8, 9]


def test_receipts_are_asked_for_and_told(start: Start, server: Fake) -> None:
    page = start()
    connection = server.accept()
    connection.send(event="welcome", connectionId="c1", user="alice", topics={ALICE: at(1)}, unread=2, unseen=1)
    await_state(page, "online")
    page.evaluate("void (window.asked = ask('receipt', 'read', {all: true}))")
    frame = connection.receive()
    assert (frame["action"], frame["all"]) == ("read", True)
    connection.send(event="receipt", state="read", ids=["id-1"])
    connection.send(event="unread", unread=0, unseen=0, unread_more=False)
    connection.send(event="ok", ref=frame["ref"], receipted=["id-1"], unread=0, unseen=0, unread_more=False)
    assert page.evaluate("asked")[0] == "ok"
    assert [counts["unread"] for counts in notes(page, "unread")] == [2, 0]
    assert notes(page, "receipt") == [{"state": "read", "ids": ["id-1"]}]


def test_what_was_shown_is_acknowledged_in_batches_and_again_after_a_lost_connection(
    start: Start, server: Fake
) -> None:
    page = start()
    first = server.accept()
    first.welcome(**{ALICE: at(1)})
    await_state(page, "online")
    page.evaluate("for (let n = 0; n < 150; n++) client.ack([`id-${n}`, 'id-0'])")
    batch = first.receive()
    assert (batch["action"], batch["ids"]) == ("ack", [f"id-{n}" for n in range(100)])
    first.close(1012)
    second = server.accept()
    second.welcome()
    frames = [second.receive(), second.receive()]  # One is for its topic.
    again = next(frame for frame in frames if frame["action"] == "ack")
    assert again["ids"] == batch["ids"]
    second.send(event="ok", ref=again["ref"], acknowledged=100)
    rest = second.receive()
    assert rest["ids"] == [f"id-{n}" for n in range(100, 150)]
    second.send(event="error", code="denied", message="No inbox.", ref=rest["ref"])
    page.evaluate("client.ack(['id-150'])")
    assert second.receive()["ids"] == ["id-150"]
    assert notes(page, "error") == []


def test_what_is_lost_is_told_as_reset_and_the_next_numbering_counts(start: Start, server: Fake) -> None:
    page = start({"topics": {ALICE: at(500)}})
    connection = server.accept()
    connection.welcome()
    frame = connection.receive()
    connection.send(event="subscribed", topic=ALICE, **at(3, "e2"), recovered=False, ref=frame["ref"])
    connection.message(4)
    assert await_note(page, "message")[0]["offset"] == 4
    connection.send(event="reset", topic=ALICE, **at(1, "e3"))
    connection.message(2)
    await_note(page, "message", 2)
    assert notes(page, "reset") == [{"topic": ALICE, **at(3, "e2")}, {"topic": ALICE, **at(1, "e3")}]
    connection.close(1012)
    second = server.accept()
    second.welcome()
    assert second.receive()["since"] == at(2, "e3")


def test_a_topic_that_gets_its_first_message_learns_its_epoch(start: Start, server: Fake) -> None:
    page = start()
    connection = server.accept()
    connection.welcome(**{ALICE: at(0, None)})
    connection.message(1)
    await_note(page, "message")
    connection.close(1011)  # Before the epoch was named: from the beginning, and once.
    second = server.accept()
    second.welcome()
    frame = second.receive()
    assert frame["since"] == at(0, None)
    second.message(1)
    second.message(2)
    second.send(event="subscribed", topic=ALICE, **at(2), recovered=True, ref=frame["ref"])
    await_note(page, "message", 2)
    second.close(1011)
    third = server.accept()
    third.welcome()
    assert third.receive()["since"] == at(2)
    assert [message["offset"] for message in notes(page, "message")] == [1, 2]


def test_a_refused_topic_is_told_and_not_asked_for_again(start: Start, server: Fake) -> None:
    page = start({"topics": {"topic.secret": at(1)}})
    connection = server.accept()
    connection.welcome()
    frame = connection.receive()
    connection.send(event="error", ref=frame["ref"], code="denied", message="Not yours.")
    assert await_note(page, "error") == [{"code": "denied", "message": "Not yours."}]
    connection.close(1012)
    second = server.accept()
    second.welcome()
    with pytest.raises(TimeoutError):
        second.socket.recv(0.5)


def test_a_topic_that_cannot_be_had_for_now_is_asked_for_again_from_the_same_place(start: Start, server: Fake) -> None:
    page = start({"topics": {ALICE: at(1)}})
    connection = server.accept()
    connection.welcome()
    connection.send(event="error", ref=connection.receive()["ref"], code="unavailable", message="Try again.")
    second = server.accept()
    second.welcome()
    assert second.receive()["since"] == at(1)
    assert notes(page, "error") == []


def test_a_recalled_message_is_told(start: Start, server: Fake) -> None:
    page = start()
    connection = server.accept()
    connection.welcome(**{ALICE: at(5)})
    connection.send(event="recalled", topic=ALICE, offset=4, id="m4")
    assert await_note(page, "recalled") == [{"topic": ALICE, "offset": 4, "id": "m4"}]


def test_close_ends_it_for_good(start: Start, server: Fake) -> None:
    page = start()
    connection = server.accept()
    connection.welcome()
    await_state(page, "online")
    page.evaluate("client.close()")
    connection.wait_closed()
    assert page.evaluate("client.state.state") == "closed"
    page.clock.fast_forward(60_000)
    assert server.nobody_comes(0.5)


def test_it_is_small() -> None:
    assert len(gzip.compress(CLIENT.read_bytes())) <= 12 * 1024
