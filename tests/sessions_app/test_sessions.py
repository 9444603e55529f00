"""Sessions through the API: made, made again, renewed, shown, ended; and who may."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from accounts import users
from accounts.requests import seal_cursor
from accounts.shapes import UserChange
from notifications.models import Message
from sessions_app import sessions
from sessions_app.models import BrowserSession
from tests.security.town import bearer, service, user_token
from tests.sessions_app import receivers
from tests.sessions_app.receivers import received

pytestmark = pytest.mark.django_db

READ, WRITE = "sessions:read", "sessions:write"


@pytest.fixture
def backend() -> Client:
    return bearer(service({READ, WRITE, "notifications:write"}))


@pytest.fixture
def alice() -> Client:
    return bearer(user_token("alice", "acme"))


def post(client: Client, path: str, body: Any = None) -> Any:
    return client.post(f"/api/sessions{path}", body or {}, content_type="application/json")


def make(client: Client, **wanted: Any) -> Any:
    return post(client, "", {"user": "alice", "account": "acme", "session": "tab-1"} | wanted)


def expire(id: str = "tab-1") -> None:
    BrowserSession.objects.filter(pk=id).update(expires_at=timezone.now() - timedelta(seconds=1))


def test_a_session_is_made_and_shown(backend: Client) -> None:
    reply = make(backend, retention=120)
    session = reply.json()["session"]
    assert reply.status_code == 201
    assert (session["sessionId"], session["userId"], session["accountId"]) == ("tab-1", "alice", "acme")
    assert (session["transport"], session["topic"], session["retention"]) == ("poll", "session.tab-1", 120)
    assert backend.get("/api/sessions/tab-1").json() == {"session": session}
    assert session.keys().isdisjoint({"credentials", "key", "state", "keys"})


def test_made_again_it_is_the_same_and_really_renewed(backend: Client) -> None:
    first = make(backend).json()["session"]
    BrowserSession.objects.update(expires_at=timezone.now() + timedelta(seconds=5))
    again = make(backend, account="globex", retention=600)
    second = again.json()["session"]
    assert again.status_code == 200
    assert second["created_at"] == first["created_at"]
    assert second["expires_at"] > first["expires_at"]
    assert (second["accountId"], second["retention"]) == ("globex", 600)
    assert backend.get("/api/sessions/tab-1").json()["session"] == second


def test_without_an_id_each_is_another(backend: Client) -> None:
    ids = {post(backend, "", {"user": "alice"}).json()["session"]["sessionId"] for _ in range(2)}
    assert len(ids) == 2
    assert all(len(id) >= 32 for id in ids)


def test_another_users_id_is_taken_until_it_has_expired(backend: Client) -> None:
    make(backend)
    refused = make(backend, user="bob")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "session_taken")
    expire()
    taken = make(backend, user="bob")
    assert (taken.status_code, taken.json()["session"]["userId"]) == (201, "bob")


def test_a_session_that_has_expired_is_not_there_until_it_is_made_again(backend: Client) -> None:
    created = make(backend).json()["session"]["created_at"]
    expire()
    assert backend.get("/api/sessions/tab-1").status_code == 404
    assert post(backend, "/tab-1/renew").json()["error"]["code"] == "unknown_session"
    assert backend.get("/api/sessions").json()["sessions"] == []
    assert make(backend).json()["session"]["created_at"] == created


def test_renewing_lets_it_live_on(backend: Client) -> None:
    make(backend)
    BrowserSession.objects.update(expires_at=timezone.now() + timedelta(seconds=5))
    reply = post(backend, "/tab-1/renew")
    assert reply.status_code == 200
    assert BrowserSession.objects.get().expires_at > timezone.now() + timedelta(minutes=59)


def test_purging_ends_what_has_expired_and_nothing_else(backend: Client) -> None:
    for number in range(3):
        make(backend, session=f"tab-{number}")
    expire("tab-1")
    assert sessions.purge() == 1
    assert sorted(BrowserSession.objects.values_list("pk", flat=True)) == ["tab-0", "tab-2"]


def test_users_have_their_own_and_no_other(alice: Client, backend: Client) -> None:
    assert post(alice, "", {"session": "mine"}).json()["session"]["accountId"] == "acme"
    make(backend, user="bob", session="his")
    for method, path in (("get", "/his"), ("delete", "/his"), ("post", "/his/renew"), ("post", "/his/ack")):
        reply = getattr(alice, method)(f"/api/sessions{path}", {"receipts": ["x"]}, content_type="application/json")
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "unknown_session"), path
    assert [one["sessionId"] for one in alice.get("/api/sessions").json()["sessions"]] == ["mine"]
    assert alice.get("/api/sessions?user=bob").status_code == 403
    assert make(alice, user="bob").status_code == 403
    assert make(alice, account="globex").status_code == 403
    assert alice.delete("/api/sessions/mine").status_code == 204
    assert alice.get("/api/sessions/mine").status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("post", "", WRITE),
        ("get", "", READ),
        ("get", "/tab-1", READ),
        ("delete", "/tab-1", WRITE),
        ("post", "/tab-1/renew", WRITE),
        ("post", "/tab-1/ack", WRITE),
    ],
)
def test_services_need_the_scope(backend: Client, method: str, path: str, scope: str) -> None:
    make(backend)
    other = bearer(service({READ, WRITE} - {scope}))
    reply = getattr(other, method)(
        f"/api/sessions{path}",
        {"user": "alice", "session": "x"} if path == "" else {"receipts": ["x"]},
        content_type="application/json",
    )
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "scope_missing")


@pytest.mark.parametrize(
    "wanted",
    [
        {"session": ""},
        {"session": "x" * 257},
        {"session": "a,b"},
        {"session": "a/b"},
        {"session": "a\nb"},
        {"session": "sha256:1"},
        {"session": 7},
        {"transport": "pigeon"},
        {"retention": 59},
        {"retention": 1_209_601},
        {"user": ""},
        {"account": "a,b"},
        {"more": 1},
    ],
)
def test_what_cannot_be_a_session_is_refused(backend: Client, wanted: dict[str, Any]) -> None:
    assert make(backend, **wanted).status_code == 400


@pytest.mark.parametrize("place", [["a\0"], [7], []])
def test_a_page_begins_where_an_earlier_one_ended(backend: Client, place: list[Any]) -> None:
    reply = backend.get("/api/sessions", {"cursor": seal_cursor(*place)})
    assert (reply.status_code, reply.json()["error"]["fields"].keys()) == (400, {"cursor"})


@pytest.mark.parametrize(("method", "path"), [("get", ""), ("delete", ""), ("post", "/renew"), ("post", "/ack")])
def test_an_id_that_no_session_can_have_is_not_found(backend: Client, method: str, path: str) -> None:
    reply = getattr(backend, method)(f"/api/sessions/%00{path}", {"receipts": ["x"]}, content_type="application/json")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "unknown_session")


def test_lists_are_paged_by_id(backend: Client) -> None:
    for number in range(5):
        make(backend, session=f"tab-{number}", account="acme" if number else "globex")
    seen, path = [], "/api/sessions?account=acme&limit=3"
    page = backend.get(path).json()
    seen += page["sessions"]
    page = backend.get(f"{path}&cursor={page['next']}").json()
    seen += page["sessions"]
    assert [one["sessionId"] for one in seen] == ["tab-1", "tab-2", "tab-3", "tab-4"]
    assert page["next"] is None


# --- Its topic ------------------------------------------------------------------------------------


def send(client: Client, session: str) -> Any:
    body = {"to": {"session": session}, "data": "hello"}
    return client.post("/api/notifications", body, content_type="application/json")


@pytest.mark.parametrize("id", ["tab-1", "ü" * 256, "x" * 256])
def test_a_message_for_a_session_is_in_its_topic(backend: Client, id: str) -> None:
    topic = make(backend, session=id).json()["session"]["topic"]
    reply = send(backend, id)
    assert (reply.status_code, reply.json()["topic"]) == (202, topic)
    assert Message.objects.get().topic.name == topic


def test_a_message_for_no_session_is_refused_alone(backend: Client) -> None:
    make(backend)
    assert (send(backend, "gone").status_code, send(backend, "gone").json()["error"]["code"]) == (
        404,
        "unknown_session",
    )
    items = [{"to": {"session": name}, "data": name} for name in ("gone", "tab-1")]
    reply = backend.post("/api/notifications/batch", {"notifications": items}, content_type="application/json")
    assert [one["status"] for one in reply.json()["results"]] == [404, 202]


@pytest.mark.django_db(transaction=True)  # Who decides has a thread of its own.
def test_its_topic_is_read_by_its_user_only(backend: Client, alice: Client) -> None:
    make(backend)
    send(backend, "tab-1")
    path = "/api/topics/session.tab-1/messages"
    assert [one["data"] for one in alice.get(path).json()["messages"]] == ["hello"]
    assert bearer(user_token("bob", "acme")).get(path).status_code == 403


def test_who_takes_over_an_id_reads_nothing_of_before(backend: Client) -> None:
    make(backend)
    send(backend, "tab-1")
    backend.delete("/api/sessions/tab-1")
    make(backend, user="bob")
    assert not Message.objects.exists()
    id = send(backend, "tab-1").json()["id"]
    assert [str(one) for one in Message.objects.values_list("pk", flat=True)] == [id] == received("tab-1")


def test_made_again_a_session_keeps_what_was_for_it(backend: Client) -> None:
    make(backend)
    id = send(backend, "tab-1").json()["id"]
    make(backend)
    assert received("tab-1") == [id]


def test_sessions_move_with_their_user(backend: Client) -> None:
    users.change(None, "alice", UserChange(account="acme"))
    make(backend, session="mine")
    make(backend, session="elsewhere", account="other")
    users.change(None, "alice", UserChange(account="globex"))
    sent = {name: receivers.send(f"account.{name}") for name in ("acme", "globex", "other")}
    assert received("mine") == sent["globex"]
    assert received("elsewhere") == sent["other"]


def test_sessions_of_who_is_erased_are_gone(backend: Client) -> None:
    make(backend)
    send(backend, "tab-1")
    make(backend, user="bob", session="his")
    assert backend.delete("/api/users/alice").status_code == 403
    assert users.erase(None, "alice")
    assert [one.pk for one in BrowserSession.objects.all()] == ["his"]
    assert not Message.objects.exists()
