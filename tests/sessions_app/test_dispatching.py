"""Messages into the queues of sessions: who gets what, and what happens where a queue does not take it."""

import asyncio
import base64
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.conf import LazySettings
from django.db import connection
from django.db.models import F
from django.utils import timezone

from notifications import history, preferences
from notifications.models import Message
from realtime.frames import Event
from sessions_app import access, dispatches, dispatching, notices, sessions
from sessions_app import queues as queues_of_sessions
from sessions_app.dispatching import Dispatcher
from sessions_app.models import BrowserSession, Chunk, Dispatch
from tests.emulators.aws import Aws
from tests.security.town import bearer, service
from tests.sessions_app.outside import Browser, open_browser
from tests.sessions_app.receivers import send

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _no_lingering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatching, "LINGER_SECONDS", 0)


@pytest.fixture
def alice(queues: Aws) -> Browser:
    return open_browser(queues)


def dispatch() -> None:
    assert not Dispatcher().run(10)


def counts(id: str | UUID) -> tuple[int, int, int]:
    row = Dispatch.objects.get(pk=id)
    return row.sent, row.gone, row.failed


def due_now() -> None:
    Chunk.objects.update(due_at=timezone.now())


def test_exactly_the_right_sessions_get_a_message(queues: Aws) -> None:
    tab, phone = open_browser(queues, id="tab"), open_browser(queues)
    colleague, stranger = open_browser(queues, "bob"), open_browser(queues, "carol", "other")
    (one, user, account, all) = send("session.tab", "user.alice", "account.acme", "all")
    send("user.dave", "account.nobody", "session.elsewhere", "topic.news")
    dispatch()
    assert tab.ids() == sorted([one, user, account, all])
    assert phone.ids() == sorted([user, account, all])
    assert colleague.ids() == sorted([account, all])
    assert stranger.ids() == [all]
    assert [counts(id) for id in (one, user, account, all)] == [(1, 0, 0), (2, 0, 0), (3, 0, 0), (4, 0, 0)]
    assert not Dispatch.objects.filter(finished_at=None).exists()
    assert not Chunk.objects.exists()


def test_a_message_is_as_on_a_socket_and_nobody_else_reads_it(queues: Aws, alice: Browser) -> None:
    (id,) = send("user.alice", data={"secret": "pin 4711"}, type="order")
    dispatch()
    (envelope,) = alice.envelopes()
    assert "4711" not in str(envelope)
    assert (envelope["messageId"], envelope["topic"], envelope["offset"]) == (id, "user.alice", 1)
    created = Message.objects.get().created_at.isoformat().replace("+00:00", "Z")
    about = {"topic": "user.alice", "offset": 1, "id": id, "type": "order", "data": {"secret": "pin 4711"}}
    assert alice.open(envelope) == {"event": "message", **about, "created_at": created}


def test_what_was_queued_before_a_renewal_stays_readable(alice: Browser) -> None:
    send("user.alice", data="before")
    dispatch()
    given = access.give(BrowserSession.objects.get())
    assert given
    alice.keys[given.key.id] = base64.b64decode(given.key.value)
    send("user.alice", data="after")
    dispatch()
    envelopes = alice.envelopes()
    assert len({envelope["key"] for envelope in envelopes}) == 2
    assert sorted(alice.open(envelope)["data"] for envelope in envelopes) == ["after", "before"]


def test_messages_that_wait_for_one_queue_go_together(queues: Aws, alice: Browser) -> None:
    ids = [id for _ in range(23) for id in send("user.alice")]
    dispatch()
    assert queues.calls("SendMessageBatch") == 3
    assert alice.ids() == sorted(ids)


def test_what_does_not_fit_into_a_queue_is_a_pointer_and_holds_up_nothing(queues: Aws, alice: Browser) -> None:
    (fits,) = send("user.alice", data="x" * (dispatching.BODY_MAX_BYTES - 500))
    (large,) = send("user.alice", data="x" * dispatching.BODY_MAX_BYTES)
    (small,) = send("user.alice")
    dispatch()
    received = {event.get("id") or event["messageId"]: event for event in alice.received()}
    assert received.keys() == {fits, large, small}
    assert received[large] == {"event": "pointer", "topic": "user.alice", "offset": 2, "messageId": large}
    assert [counts(id) for id in (fits, large, small)] == [(1, 0, 0)] * 3


def test_nobody_gets_what_is_not_for_them_or_not_there_any_more(queues: Aws, alice: Browser) -> None:
    bob = open_browser(queues, "bob")
    preferences.replace("bob", {"ad": "inbox"})
    (excluded,) = send("all", exclude_users=frozenset({"alice"}))
    (muted,) = send("account.acme", type="ad")
    (recalled,) = send("all")
    (expired,) = send("all", ttl=60)
    history.recall(Message.objects.filter(pk=recalled))
    Message.objects.filter(pk=expired).update(expires_at=timezone.now())
    dispatch()
    assert alice.ids() == [muted]
    assert bob.ids() == [excluded]
    assert [counts(id) for id in (excluded, muted, recalled, expired)] == [(1, 0, 0), (1, 0, 0), (0, 0, 0), (0, 0, 0)]


def test_only_what_a_queue_refused_is_sent_again(queues: Aws, alice: Browser) -> None:
    bob = open_browser(queues, "bob")
    ids = send(*["all"] * 3)
    queues.fail("SendMessageBatch", status=500, code="InternalError", entries=[1], times=1)
    dispatch()
    assert sorted(map(len, (alice.ids(), bob.ids()))) == [2, 3]
    assert [counts(id)[0] for id in ids] == [2, 1, 2]
    due_now()
    dispatch()
    assert sorted(map(len, (alice.ids(), bob.ids()))) == [0, 1]
    assert [counts(id) for id in ids] == [(2, 0, 0)] * 3


def test_a_queue_that_asks_for_less_has_a_pause(queues: Aws, alice: Browser) -> None:
    (id,) = send("user.alice")
    queues.fail("SendMessageBatch", code="ThrottlingException", times=1)
    dispatch()
    chunk = Chunk.objects.get()
    assert chunk.attempts == 1
    assert chunk.due_at - timezone.now() > timedelta(seconds=0.5)
    assert counts(id) == (0, 0, 0)
    due_now()
    dispatch()
    assert alice.ids() == [id]
    assert counts(id) == (1, 0, 0)


def test_what_fails_for_too_long_is_given_up_and_counted(queues: Aws, alice: Browser) -> None:
    (id,) = send("user.alice")
    Dispatch.objects.update(expires_at=timezone.now())
    queues.fail("SendMessageBatch", status=500, code="InternalError")
    dispatch()
    assert counts(id) == (0, 0, 1)
    assert not Chunk.objects.exists()


def test_a_vanished_queue_ends_its_session_and_the_others_get_theirs(queues: Aws, alice: Browser) -> None:
    bob = open_browser(queues, "bob")
    queues_of_sessions.delete([alice.url])
    (first,) = send("all")
    dispatch()
    assert (bob.ids(), counts(first)) == ([first], (1, 0, 0))  # It may be too new to be known everywhere.
    BrowserSession.objects.update(last_seen_at=F("last_seen_at") - timedelta(minutes=1))
    due_now()
    dispatch()
    assert counts(first) == (1, 1, 0)
    assert list(BrowserSession.objects.values_list("user", flat=True)) == ["bob"]


def test_a_session_without_a_queue_yet_gets_its_messages_when_it_has_one(queues: Aws, alice: Browser) -> None:
    BrowserSession.objects.update(key="", queue_url="")
    (id,) = send("user.alice")
    dispatch()
    assert Chunk.objects.get().attempts == 1
    given = access.give(BrowserSession.objects.get())
    assert given
    due_now()
    dispatch()
    assert [envelope["messageId"] for envelope in alice.envelopes()] == [id]


def test_who_has_taken_over_an_id_or_is_in_another_account_gets_nothing_of_before(queues: Aws) -> None:
    open_browser(queues, id="tab")
    moved = open_browser(queues, "carol")
    owed = send("user.alice", "account.acme")
    dispatches.spread()
    BrowserSession.objects.filter(pk="tab").delete()
    bob = open_browser(queues, "bob", "globex", id="tab")
    sessions.move("carol", "acme", "globex")
    dispatch()
    assert bob.received() == moved.received() == []
    assert [counts(id) for id in owed] == [(0, 1, 0), (0, 2, 0)]


def test_a_session_that_has_expired_or_ended_gets_nothing(queues: Aws, alice: Browser) -> None:
    send("user.alice")
    dispatches.spread()
    BrowserSession.objects.update(expires_at=timezone.now())
    send("user.alice")
    dispatch()
    assert alice.ids() == []
    assert sorted(map(counts, Dispatch.objects.values_list("pk", flat=True))) == [(0, 0, 0), (0, 1, 0)]


@pytest.mark.parametrize(("seconds", "gets_it"), [(0, True), (9, True), (11, False)])
def test_a_session_that_comes_late_gets_what_is_under_way(queues: Aws, seconds: int, gets_it: bool) -> None:
    open_browser(queues)
    (id,) = send("all")
    dispatch()
    Dispatch.objects.update(finished_at=timezone.now() - timedelta(seconds=seconds))
    late = open_browser(queues, "bob")
    dispatch()
    assert late.ids() == ([id] if gets_it else [])
    assert counts(id) == (1 + gets_it, 0, 0)


def test_a_session_that_had_expired_gets_what_came_just_before_it_was_made_again(queues: Aws) -> None:
    browser = open_browser(queues, id="tab")
    BrowserSession.objects.update(expires_at=timezone.now())
    owed = send("user.alice")
    dispatch()
    again = open_browser(queues, id="tab")
    dispatch()
    assert (again.url, again.ids()) == (browser.url, owed)


def test_a_session_that_comes_before_others_were_looked_up_gets_it_once(queues: Aws) -> None:
    (id,) = send("all")
    late = open_browser(queues)
    dispatch()
    assert late.ids() == [id]


def test_what_a_dead_process_had_claimed_is_sent_after_its_lease(
    queues: Aws, alice: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    (id,) = send("user.alice")
    dispatches.spread()
    (chunk,) = dispatches.take("dead", 500)
    dispatch()
    assert alice.ids() == []
    Chunk.objects.update(claimed_until=timezone.now() - timedelta(seconds=1))
    dispatch()
    assert alice.ids() == [id]
    dispatches.mark("dead", [dispatches.Result(chunk, sent=1)])  # It was not dead: what it says counts no more.
    assert counts(id) == (1, 0, 0)


def test_chunks_have_so_many_sessions(queues: Aws, settings: LazySettings) -> None:
    settings.SESSION_CHUNK = 2
    browsers = [open_browser(queues, f"u{number}") for number in range(5)]
    (id,) = send("all")
    dispatches.spread()
    assert list(Chunk.objects.order_by("pk").values_list("size", flat=True)) == [2, 2, 1]
    dispatch()
    assert [browser.ids() for browser in browsers] == [[id]] * 5


def test_so_many_sends_are_looked_up_at_once(queues: Aws, alice: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatches, "SENDS_SPREAD_AT_ONCE", 2)
    others = [open_browser(queues, "bob") for _ in range(2)]
    send("user.alice", "user.alice", "all", "user.alice")
    assert [dispatches.spread() for _ in range(4)] == [2, 1, 1, 0]
    dispatch()
    assert [len(browser.ids()) for browser in (alice, *others)] == [4, 1, 1]


def test_a_message_for_one_does_not_wait_behind_one_for_everybody(queues: Aws, settings: LazySettings) -> None:
    settings.SESSION_CHUNK = 2
    for number in range(12):
        open_browser(queues, f"u{number}")
    send("all")
    (id,) = send("user.u0")
    dispatches.spread()
    assert id not in {str(chunk.dispatch_id) for chunk in dispatches.take("c", 2)}
    assert id in {str(chunk.dispatch_id) for chunk in dispatches.take("c", 2, small_first=True)}


def test_what_fails_before_it_is_sent_is_not_done_with(
    queues: Aws, alice: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    (id,) = send("user.alice")
    with monkeypatch.context() as broken:
        broken.setattr(dispatching, "_fitting", lambda _wanted: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            dispatch()
    assert Chunk.objects.get().sessions == [alice.session]
    with monkeypatch.context() as broken:
        Chunk.objects.update(claimed_until=timezone.now() - timedelta(seconds=1))
        broken.setattr(dispatching, "_sent", lambda _call: 1 / 0)
        dispatch()
    assert Chunk.objects.get().attempts == 1
    due_now()
    dispatch()
    assert alice.ids() == [id]


@pytest.mark.django_db(transaction=True)
def test_dispatchers_share_the_work_and_sessions_that_come_meanwhile_get_it_too(
    queues: Aws, settings: LazySettings
) -> None:
    settings.SESSION_CHUNK, settings.SESSION_SENDS_AT_ONCE = 3, 2
    early = [open_browser(queues, f"u{number}") for number in range(20)]
    (id,) = send("all")
    queues.fail("SendMessageBatch", status=0, seconds=0.02)

    def work() -> None:
        try:
            dispatch()
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as threads:
        working = [threads.submit(work) for _ in range(2)]
        late = [open_browser(queues, f"v{number}") for number in range(5)]
        for one in working:
            one.result(30)
    due_now()  # Some had no queue yet.
    dispatch()
    assert [browser.ids() for browser in early + late] == [[id]] * 25
    assert counts(id) == (25, 0, 0)


def test_where_nothing_is_taken_the_rest_is_not_even_tried(
    queues: Aws, alice: Browser, monkeypatch: pytest.MonkeyPatch, settings: LazySettings
) -> None:
    monkeypatch.setattr(dispatching, "FAILURES_MAX", 2)
    settings.SESSION_SENDS_AT_ONCE = 1
    for _ in range(5):
        open_browser(queues)
    (id,) = send("all")
    queues.fail("SendMessageBatch", status=503, code="ServiceUnavailable")
    dispatch()
    assert queues.calls("SendMessageBatch") == 2
    chunk = Chunk.objects.get()
    assert (chunk.size, chunk.attempts, chunk.claim) == (6, 1, "")
    queues.heal()
    due_now()
    dispatch()
    assert counts(id) == (6, 0, 0)


def test_a_run_that_is_over_leaves_the_rest_as_it_was(queues: Aws, alice: Browser, settings: LazySettings) -> None:
    settings.SESSION_SENDS_AT_ONCE = 1
    ids = {open_browser(queues).session for _ in range(5)} | {alice.session}
    send("all")
    queues.fail("SendMessageBatch", status=0, seconds=0.2)
    assert Dispatcher().run(0.1)
    chunk = Chunk.objects.get()
    assert 0 < chunk.size < 6
    assert (chunk.attempts, chunk.claim) == (0, "")
    assert set(chunk.sessions) < ids


def test_a_message_tells_how_far_it_has_come(queues: Aws, alice: Browser) -> None:
    (id,) = send("user.alice")
    client = bearer(service({"notifications:read"}))

    def told() -> Any:
        steps = client.get(f"/api/notifications/{id}").json()["timeline"]
        return [{k: v for k, v in step.items() if k != "at"} for step in steps if step["what"] == "dispatched"]

    assert told() == []
    dispatches.spread()
    assert told() == [{"what": "dispatched", "sent": 0, "gone": 0, "failed": 0, "left": 1}]
    assert "fanfare_session_sends_due 1.0" in client.get("/metrics").content.decode()
    dispatch()
    assert told() == [{"what": "dispatched", "sent": 1, "gone": 0, "failed": 0, "left": 0}]
    text = client.get("/metrics").content.decode()
    assert "fanfare_session_sends_due 0.0" in text
    assert 'fanfare_session_sends_total{outcome="sent"}' in text


def test_what_nobody_heard_is_forgotten_at_once_and_the_rest_later(queues: Aws, alice: Browser) -> None:
    send("user.alice", "user.nobody")
    dispatch()
    assert dispatches.purge() == 0
    Dispatch.objects.update(finished_at=timezone.now() - timedelta(minutes=1))
    assert dispatches.purge() == 1
    Dispatch.objects.update(finished_at=timezone.now() - timedelta(days=4))
    assert dispatches.purge() == 1


def test_what_is_not_stored_comes_too_but_once_and_soon(queues: Aws, alice: Browser) -> None:
    bob = open_browser(queues, "bob")
    notices.take_owed(1)  # Somebody dispatches.
    notices._nobody_until = 0.0
    for_alice = Event("user.alice", b'{"event":"task","note":"1"}')
    for_all = Event("all", b'{"event":"message","data":2}', exclude=frozenset({"bob"}), type="ad")
    for_nobody = Event("user.nobody", b'{"event":"task"}')
    huge = Event("user.alice", b'{"event":"task","note":"%s"}' % (b"x" * dispatching.BODY_MAX_BYTES))
    asyncio.run(notices.keep([for_alice, for_all, for_nobody, huge]))
    dispatch()
    envelopes = alice.envelopes()
    assert {envelope["offset"] for envelope in envelopes} == {None}
    assert sorted(str(alice.open(envelope)) for envelope in envelopes) == [
        "{'event': 'message', 'data': 2}",
        "{'event': 'task', 'note': '1'}",
    ]
    assert bob.envelopes() == []
    assert list(Dispatch.objects.order_by("pk").values_list("sent", "failed")) == [(1, 0), (1, 0), (0, 1)]
    asyncio.run(notices.keep([for_alice]))
    dispatches.owe_notices()
    Dispatch.objects.update(expires_at=timezone.now())
    dispatch()
    assert alice.envelopes() == []


def test_without_a_role_for_browsers_nothing_is_owed(settings: LazySettings) -> None:
    send("all")
    assert not Dispatch.objects.exists()
