"""Receiving by sessions that poll: what they get, what comes again, and what one transaction does for many of them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from notifications import history, preferences
from notifications.models import Message, Topic
from sessions_app import offering, sessions
from sessions_app.desk import Desk
from sessions_app.models import BrowserSession
from sessions_app.receiving import Handed, Receive, Settle, serve
from tests.sessions_app.receivers import body, ids, open_one, receive, received, refusal, send, settle

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def test_a_session_gets_what_is_for_it_its_user_its_account_and_all_and_nothing_else() -> None:
    before = send("user.alice", "all")
    here, other = open_one("alice", "acme", "tab"), open_one("bob", "other")
    sent = [*send("session.tab"), *send("user.alice"), *send("account.acme"), *send("all")]
    send("user.carol", "account.another", "session.elsewhere", "topic.news")
    assert received(here) == sent
    assert received(other) == sent[3:]
    assert received(here) == received(other) == []
    assert not set(before) & set(sent)


def test_a_message_is_as_on_a_socket() -> None:
    session = open_one("alice")
    (id,) = send("user.alice", data={"n": 1}, type="order")
    (message,) = receive(session)
    created = Message.objects.get().created_at.isoformat().replace("+00:00", "Z")
    about = {"topic": "user.alice", "offset": 1, "id": id, "type": "order", "data": {"n": 1}}
    assert body(message) == {"event": "message", **about, "created_at": created}


def test_what_is_not_acknowledged_comes_again_with_another_receipt() -> None:
    with time_machine.travel(NOON, tick=False) as clock:
        session = open_one()
        (id,) = send("user.alice")
        (first,) = receive(session, visibility=10)
        clock.shift(9.9)
        assert receive(session) == []
        clock.shift(0.2)
        (second,) = receive(session, visibility=10)
        assert first.messageId == second.messageId == id
        assert first.receipt != second.receipt
        assert settle(session, first.receipt, "nonsense", "") == []
        assert settle(session, second.receipt, second.receipt) == [second.receipt]
        assert settle(session, second.receipt) == []
        clock.shift(3000)
        assert receive(session) == []


def test_a_receipt_holds_after_the_visibility_as_long_as_the_message_was_not_handed_out_again() -> None:
    with time_machine.travel(NOON, tick=False) as clock:
        session = open_one()
        send("user.alice")
        (message,) = receive(session, visibility=10)
        clock.shift(20)
        assert settle(session, message.receipt) == [message.receipt]
        assert receive(session) == []


def test_what_is_given_back_is_there_again_at_once() -> None:
    session = open_one()
    (id,) = send("user.alice")
    (message,) = receive(session)
    settle(session, message.receipt, done=False)
    assert received(session) == [id]


def test_two_who_ask_for_one_session_at_once_get_different_messages() -> None:
    session = open_one()
    sent = send(*["user.alice"] * 15)
    first, second, third = serve([Receive(session, 10, 30), Receive(session, 10, 30), Receive(session, 10, 30)])
    assert isinstance(first, Handed)
    assert isinstance(second, Handed)
    assert isinstance(third, Handed)
    assert [*ids(first.messages), *ids(second.messages)] == sent
    assert third.messages == []


def test_the_order_is_by_acceptance_and_within_a_topic_by_offset_whatever_the_clocks_said() -> None:
    session = open_one()
    sent = [send(topic)[0] for topic in ("all", "user.alice", "account.acme", "user.alice", "all")]
    assert received(session, 2) == sent[:2]
    assert received(session) == sent[2:]
    early, late = send("all"), send("all")
    Message.objects.filter(pk__in=late).update(created_at=timezone.now() - timedelta(seconds=60))
    assert received(session, 1) == early
    assert received(session) == late


def test_what_is_too_old_for_the_session_does_not_come_whether_it_is_new_or_due_again() -> None:
    with time_machine.travel(NOON, tick=False) as clock:
        session = open_one(retention=60)
        send("user.alice")
        assert len(receive(session, visibility=30)) == 1
        send("user.alice")
        clock.shift(61)
        fresh = send("user.alice")
        assert received(session) == fresh
        clock.shift(31)
        assert received(session) == fresh


def test_a_session_that_was_away_long_passes_over_what_is_too_old_in_one_go() -> None:
    with time_machine.travel(NOON, tick=False) as clock:
        session = open_one(retention=60)
        for _ in range(3):
            send(*["all"] * offering.READ_AT_ONCE)
        clock.shift(120)
        fresh = send("all")
        assert received(session) == fresh


def test_expired_recalled_excluded_and_muted_messages_are_passed_over() -> None:
    with time_machine.travel(NOON, tick=False) as clock:
        preferences.replace("alice", {"quiet": "inbox", "off": "off"})
        session, other = open_one(), open_one("bob")
        expiring, recalled = send("user.alice", ttl=60), send("all")
        for type in ("quiet", "off"):
            send("user.alice", "account.acme", "all", type=type)
        send("account.acme", exclude_users=frozenset(["alice"]))
        good = send("session." + session, type="off")
        history.recall(Message.objects.filter(pk__in=recalled))
        assert received(session, 1, 10) == expiring
        clock.shift(60)
        assert received(session) == good
        assert len(received(other)) == 5
        history.recall(Message.objects.filter(pk__in=good))
        clock.shift(60)
        assert received(session) == []
        assert BrowserSession.objects.get(pk=session).state.endswith('"lent":{}}')


def test_where_all_that_was_read_is_passed_over_there_is_more() -> None:
    session = open_one()
    preferences.replace("alice", {"quiet": "inbox"})
    send(*["all"] * offering.READ_AT_ONCE, type="quiet")
    good = send("all")
    (first,), (second,) = (serve([Receive(session, 10, 30)]) for _ in range(2))
    assert isinstance(first, Handed)
    assert isinstance(second, Handed)
    assert (first.messages, first.more) == ([], True)
    assert (ids(second.messages), second.more) == (good, False)


async def test_however_much_is_passed_over_the_desk_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    more = iter([True] * 5000 + [False])

    async def answer(_ask: object) -> Handed:
        return Handed((), "alice", {}, None, False, next(more))

    desk = Desk()
    monkeypatch.setattr(desk, "_ask", answer)
    assert not (await desk.receive(Receive("tab", 10, 30))).more


def test_so_much_is_lent_and_then_only_what_is_due_again_until_some_is_acknowledged() -> None:
    with time_machine.travel(NOON, tick=False) as clock:
        session = open_one()
        sent = send(*["user.alice"] * (offering.LENT_MAX + 5))
        lent = [message for _ in range(11) for message in receive(session, visibility=100)]
        assert ids(lent) == sent[: offering.LENT_MAX]
        (full,) = serve([Receive(session, 10, 30)])
        assert isinstance(full, Handed)
        assert full.full
        clock.shift(100)
        again = receive(session, visibility=100)
        assert ids(again) == sent[:10]
        assert len(settle(session, *(message.receipt for message in again[:3]))) == 3
        got = [id for _ in range(12) for id in received(session, visibility=100)]
        assert got == [*sent[10 : offering.LENT_MAX], *sent[offering.LENT_MAX : offering.LENT_MAX + 3]]


def test_a_new_numbering_is_told_once_and_again_unless_it_is_acknowledged() -> None:
    with time_machine.travel(NOON, tick=False) as clock:
        session = open_one()
        send("user.alice", "user.alice")
        assert len(receive(session)) == 2
        Topic.objects.filter(name="user.alice").update(epoch="restored", head=1)
        (reset,) = receive(session, visibility=10)
        assert body(reset) == {"event": "reset", "topic": "user.alice", "epoch": "restored", "offset": 1}
        Message.objects.filter(offset=2).delete()
        fresh = send("user.alice")
        assert received(session) == fresh
        clock.shift(11)
        (again,) = receive(session)
        assert body(again) == body(reset) | {"offset": 2}
        assert settle(session, again.receipt) == [again.receipt]


def test_a_log_that_has_gone_back_is_a_new_numbering_too() -> None:
    session = open_one()
    send("user.alice", "user.alice")
    receive(session)
    Message.objects.filter(offset=2).delete()
    Topic.objects.filter(name="user.alice").update(head=1)
    assert [body(one)["event"] for one in receive(session)] == ["reset"]


def test_a_session_whose_account_changes_hears_the_new_one_from_then_on() -> None:
    session = open_one("alice", "acme")
    send("account.acme", "account.other")
    assert open_one("alice", "other", session) == session
    new = send("account.other")
    send("account.acme")
    assert received(session) == new


def test_who_receives_stays_and_who_has_ended_is_not_there(settings: Any) -> None:
    settings.SESSION_TTL = 600
    with time_machine.travel(NOON, tick=False) as clock:
        session = open_one()
        for _ in range(20):
            clock.shift(70)
            assert receive(session) == []
        assert BrowserSession.objects.get(pk=session).last_seen_at == timezone.now()
        clock.shift(601)
        assert refusal(session) == refusal("never") == (404, "unknown_session")


def test_a_session_that_gets_nothing_is_written_once_a_minute() -> None:
    with time_machine.travel(NOON, tick=False) as clock:
        session = open_one()
        before = BrowserSession.objects.get(pk=session).last_seen_at
        clock.shift(59)
        receive(session)
        assert BrowserSession.objects.get(pk=session).last_seen_at == before
        clock.shift(2)
        receive(session)
        assert BrowserSession.objects.get(pk=session).last_seen_at == timezone.now()


def test_many_sessions_cost_as_many_queries_as_one() -> None:
    many = [open_one(f"u{number}") for number in range(60)]
    send("all", *(f"user.u{number}" for number in range(60)), exclude_users=frozenset(["u0"]))
    with CaptureQueriesContext(
        connection,
    ) as queries:
        answers = serve([Receive(session, 10, 30) for session in [*many, "gone"]])
    handed = [len(answer.messages) for answer in answers if isinstance(answer, Handed)]
    assert handed == [0] + [2] * 59
    assert len(queries) <= 12, [query["sql"][:100] for query in queries]


def test_what_is_settled_counts_before_anything_is_handed_out() -> None:
    session = open_one()
    (id,) = send("user.alice")
    (message,) = receive(session)
    handed, _held = serve([Receive(session, 10, 30), Settle(session, [message.receipt], done=False)])
    assert isinstance(handed, Handed)
    assert ids(handed.messages) == [id]


def test_a_session_that_is_made_again_goes_on() -> None:
    session = open_one()
    lent = send("user.alice")
    assert received(session) == lent
    later = send("user.alice")
    sessions.open_session(session, "alice", "acme", BrowserSession.Transport.POLL, 3600, "", "")
    assert received(session) == later
