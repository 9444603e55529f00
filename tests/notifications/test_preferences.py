"""What users want of each type of messages: who may say it, and what it does to the log, the inbox and live events."""

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from accounts import api_keys, revocations, users
from accounts.models import Revocation
from accounts.principals import SCOPES
from notifications import history, preferences
from notifications.log import Draft, accept, publish_due
from notifications.models import Message, Preference, Receipt
from notifications.preferences import Choices
from realtime import bus
from realtime.frames import Event
from realtime.mutes import Mute, Mutes
from tests.credentials import mint

pytestmark = pytest.mark.django_db


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any) -> list[Event]:
    events: list[Event] = []
    monkeypatch.setattr(bus, "publish", events.extend)
    monkeypatch.setattr("notifications.log.transaction.on_commit", lambda work, **_: work())
    return events


@pytest.fixture
def alice() -> Client:
    users.see("alice", "acme", 0.0)
    return Client(headers={"authorization": f"Bearer {mint('alice', 'acme', ttl=60)}"})


def service(*scopes: str) -> Client:
    _row, key = api_keys.create("tests", scopes or SCOPES)
    return Client(headers={"authorization": f"Bearer {key}"})


def choose(client: Client, choices: Any, user: str = "alice") -> Any:
    return client.put(f"/api/users/{user}/preferences", choices, content_type="application/json")


def send(topic: str, type: str, **rest: Any) -> str:
    (result,) = accept([Draft([topic], msgspec.json.encode(type), type=type, **rest)])
    return result.accepted[0].id


def shown(client: Client) -> list[str]:
    return [message["type"] for message in client.get("/api/inbox").json()["messages"]]


# --- Who may say it, and how ----------------------------------------------------------------------


def test_a_user_chooses_and_chooses_anew_in_place_of_it(alice: Client) -> None:
    assert alice.get("/api/users/alice/preferences").json() == {}
    assert choose(alice, {"*": "inbox", "build": "off"}).json() == {"*": "inbox", "build": "off"}
    assert choose(alice, {"chat": "off"}).status_code == 200
    assert alice.get("/api/users/alice/preferences").json() == {"chat": "off"}
    assert alice.delete("/api/users/alice/preferences").status_code == 204
    assert Preference.objects.count() == 0


def test_users_have_their_own_preferences_only(alice: Client) -> None:
    for reply in (choose(alice, {}, "bob"), alice.get("/api/users/bob/preferences")):
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "denied")
    holder = Client(headers={"authorization": f"Bearer {mint('alice', ttl=60, subscribe=['user.alice'])}"})
    assert choose(holder, {"a": "off"}).status_code == 200  # A user's own token, with a capability.


def test_a_service_needs_the_scope_for_users() -> None:
    assert choose(service("users:write"), {"a": "off"}, "carol").status_code == 200
    assert service("users:read").get("/api/users/carol/preferences").json() == {"a": "off"}
    refused = choose(service("users:read"), {}, "carol")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "scope_missing")


@pytest.mark.parametrize(
    "choices", [{"a": "loud"}, {"a": 1}, [], "off", {"": "off"}, {"x" * 101: "off"}, {"a\n": "off"}]
)
def test_what_is_no_choice_is_a_400(alice: Client, choices: Any) -> None:
    assert choose(alice, choices).status_code == 400
    assert Preference.objects.count() == 0


def test_a_critical_type_cannot_be_switched_off(alice: Client, settings: Any) -> None:
    settings.CRITICAL_TYPES = ["alarm"]
    for choice in ("off", "inbox"):
        reply = choose(alice, {"alarm": choice})
        assert (reply.status_code, reply.json()["error"]["code"]) == (422, "refused")
    assert choose(alice, {"alarm": "live", "*": "off"}).status_code == 200
    send("user.alice", "alarm")
    send("all", "alarm")
    send("all", "news")
    assert shown(alice) == ["alarm", "alarm"]


def test_there_is_a_limit_of_types(alice: Client) -> None:
    assert choose(alice, {str(n): "off" for n in range(101)}).status_code == 422
    assert choose(alice, {str(n): "off" for n in range(100)}).status_code == 200


def test_an_id_with_a_slash_has_preferences_and_the_user_routes_go_on(alice: Client) -> None:
    keys = service()
    assert choose(keys, {"a": "off"}, "team/7").status_code == 200
    assert keys.get("/api/users/team/7").json()["id"] == "team/7"


# --- What it does to messages ---------------------------------------------------------------------


def test_what_is_off_is_stored_and_withheld_with_its_reason(alice: Client, published: list[Event]) -> None:
    choose(alice, {"build": "off"})
    withheld, there = send("user.alice", "build"), send("user.alice", "chat")
    assert shown(alice) == ["chat"]
    assert alice.get("/api/inbox").json()["unread"] == 1
    assert [event.exclude for event in published] == [{"alice"}, frozenset()]
    assert alice.get(f"/api/notifications/{withheld}").status_code == 404
    page = history.read("user.alice", 0, 10)
    assert [event.exclude for event in page.events] == [{"alice"}, frozenset()]
    (step,) = [s for s in service().get(f"/api/notifications/{withheld}").json()["timeline"] if s["what"] == "withheld"]
    assert (step["user"], step["reason"]) == ("alice", "preference")
    assert alice.get(f"/api/notifications/{there}").status_code == 200


def test_what_is_for_the_inbox_only_counts_and_is_not_live(alice: Client, published: list[Event]) -> None:
    choose(alice, {"build": "inbox"})
    quiet = send("user.alice", "build")
    assert shown(alice) == ["build"]
    assert alice.get("/api/inbox").json()["unread"] == 1
    assert published[0].exclude == {"alice"}
    assert history.read("user.alice", 0, 10).events[0].exclude == {"alice"}
    assert alice.get(f"/api/notifications/{quiet}").status_code == 200
    done = alice.post("/api/inbox/read", {"ids": [quiet]}, content_type="application/json").json()
    assert (done["receipted"], done["unread"]) == ([quiet], 0)
    assert Receipt.objects.get().quiet


def test_nothing_is_written_for_a_broadcast_and_the_inbox_leaves_it_out(alice: Client, published: list[Event]) -> None:
    send("all", "news")
    choose(alice, {"news": "off", "sale": "inbox"})
    send("account.acme", "news")
    send("all", "sale")
    assert shown(alice) == ["sale"]
    assert alice.get("/api/inbox").json()["unread"] == 1
    assert Receipt.objects.count() == 0
    choose(alice, {})
    assert shown(alice) == ["sale", "news", "news"]
    assert [event.type for event in published if event.offset] == ["news", "news", "sale"]


def test_a_default_for_the_rest_has_exceptions(alice: Client) -> None:
    choose(alice, {"*": "off", "chat": "live"})
    for topic in ("all", "user.alice"):
        for type in ("chat", "news"):
            send(topic, type)
    assert shown(alice) == ["chat", "chat"]


def test_what_is_scheduled_is_judged_when_it_is_due(alice: Client) -> None:
    now = timezone.now()
    send("user.alice", "build", send_at=now)
    choose(alice, {"build": "off"})
    assert publish_due() == 1
    assert shown(alice) == []
    assert Receipt.objects.get().reason == "preference"


def test_a_request_costs_one_query_for_all_its_targets() -> None:
    preferences.replace("u7", {"message": "off"})
    names = [f"user.u{n}" for n in range(50)]
    accept([Draft(names, b"0")])  # They are known now.

    def accept_all() -> list[str]:
        with CaptureQueries() as found:
            accept([Draft(names, b"0")])
        return found.about("preference")

    assert len(accept_all()) == 1
    assert Receipt.objects.filter(excluded=True, user="u7").count() == 2
    with CaptureQueries() as found:
        accept([Draft(["all"], b"0"), Draft(["topic.room"], b"0")])
    assert found.about("preference") == []


class CaptureQueries:
    def __enter__(self) -> "CaptureQueries":
        from django.db import connection
        from django.test.utils import CaptureQueriesContext

        self._context = CaptureQueriesContext(connection)
        self._context.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)

    def about(self, table: str) -> list[str]:
        return [q["sql"] for q in self._context.captured_queries if f"notifications_{table}" in q["sql"]]


def test_named_topics_are_not_muted(published: list[Event]) -> None:
    send("topic.room", "chat")
    assert published[0].type == ""


def test_an_erased_user_has_no_preferences(alice: Client) -> None:
    choose(alice, {"build": "off"})
    users.erase(None, "alice")
    assert Preference.objects.count() == 0
    send("user.alice", "build")
    assert not Message.objects.get().has_exclusions


# --- Connections ----------------------------------------------------------------------------------


def test_connections_come_back_when_something_else_is_muted_and_only_then(alice: Client) -> None:
    def closings() -> int:
        return Revocation.objects.filter(subject="user:alice", reason="changed").count()

    choose(alice, {"build": "off"})
    assert closings() == 1
    choose(alice, {"build": "inbox"})  # Not live before, and not now.
    choose(alice, {"build": "inbox", "chat": "live"})
    assert closings() == 1
    choose(alice, {})
    assert closings() == 2


@pytest.mark.django_db(transaction=True)
def test_what_is_muted_is_read_once_until_the_user_chooses_something_else(
    alice: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    revocations.refresh()
    assert "build" not in preferences.muted("alice")
    with django_assert_num_queries(0):
        assert "build" not in preferences.muted("alice")
    choose(alice, {"build": "off"})
    revocations.refresh()
    with django_assert_num_queries(1):
        assert "build" in preferences.muted("alice")
        assert "build" in preferences.muted("alice")


def muted(choices: dict[str, str], types: Iterable[str] = ("a", "b", "alarm", "")) -> list[str]:
    mute = Choices(choices).among(preferences.SILENT)
    return [type for type in types if type in mute]


def test_a_mute_names_the_silent_types_or_all_but_some(settings: Any) -> None:
    settings.CRITICAL_TYPES = ["alarm"]
    assert muted({}) == []
    assert muted({"a": "off"}) == ["a"]
    assert muted({"a": "inbox", "alarm": "off"}) == ["a"]
    assert muted({"*": "off"}) == ["a", "b"]
    assert muted({"*": "inbox", "a": "live"}) == ["b"]
    assert not Choices({"a": "live"}).among(preferences.SILENT)


def test_mutes_are_counted() -> None:
    mutes, one, other, rest = Mutes(), Mute(frozenset({"a", "b"})), Mute(frozenset({"a"})), Mute(all_but=True)
    assert "a" not in mutes
    mutes.add(one)
    mutes.add(other)
    mutes.remove(one)
    assert [type for type in ("a", "b", "") if type in mutes] == ["a"]
    mutes.remove(other)
    mutes.add(rest)
    assert [type for type in ("a", "b", "") if type in mutes] == ["a", "b"]
    mutes.remove(rest)
    assert "a" not in mutes
