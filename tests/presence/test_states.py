"""Asking how users are: one, a thousand, those of an account, what was; and who may ask."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.conf import LazySettings
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts import users
from presence import registry, states
from presence.models import Presence, Transition
from tests.presence.watchers import Process, somebody
from tests.security.town import bearer, service, user_token

pytestmark = pytest.mark.django_db


@pytest.fixture
def backend() -> Client:
    return bearer(service(["presence:read"]))


def ask(client: Client, *asked: str) -> list[dict[str, Any]]:
    reply = client.post("/api/presence/query", {"users": list(asked)}, "application/json")
    assert reply.status_code == 200, reply.content
    return list(reply.json()["presences"])


def test_somebody_with_two_connections_is_online_and_somebody_unknown_is_offline(backend: Client) -> None:
    alice, nobody = somebody("alice"), somebody("nobody")
    Process().connect(alice, 2)
    reply = backend.get(f"/api/presence/{alice}").json()
    since = reply.pop("since")
    assert reply == {
        "user": alice,
        "status": "ONLINE",
        "availability": "available",
        "text": "",
        "connections": 2,
        "last_seen": None,
        "seq": 1,
        "version": 1,
    }
    assert since == Presence.objects.get(pk=alice).since.isoformat().replace("+00:00", "Z")
    unknown = backend.get(f"/api/presence/{nobody}").json()
    assert (unknown["status"], unknown["seq"], unknown["since"], unknown["connections"]) == ("OFFLINE", 0, None, 0)


def test_a_thousand_are_told_in_the_order_asked_with_one_query_and_one_call_to_redis(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [somebody() for _ in range(1000)]
    rows = [Presence(user=name, status="ONLINE", seq=1, version=1) for name in names[::2]]
    Presence.objects.bulk_create(rows)
    Process().connect(names[998], 3)
    calls: list[Any] = []
    run: Callable[..., Any] = registry.script

    def counted(*given: Any) -> Any:
        calls.append(given)
        return run(*given)

    monkeypatch.setattr(registry, "script", counted)
    asked = names[::-1]
    with CaptureQueriesContext(connection) as queries:
        found = states.look(asked, None)
    assert (len(queries), len(calls)) == (1, 1)
    assert [one.user for one in found] == asked
    assert [one.status for one in found] == ["OFFLINE", "ONLINE"] * 500
    assert [one.connections for one in found[:2]] == [0, 3]


def test_names_and_times_come_as_they_are_stored() -> None:
    names = [somebody("Zoë"), somebody("o'hara\"\\%s")]
    second = timezone.now().replace(microsecond=0)
    later = second + timedelta(microseconds=1)
    Presence.objects.create(user=names[0], version=1, since=second)
    Presence.objects.create(user=names[1], version=1, since=later, last_seen=second)
    found = [(one.user, one.since, one.last_seen) for one in states.look(names, None)]
    assert found == [(names[0], second, None), (names[1], later, second)]


def test_one_who_is_asked_about_twice_is_told_twice_and_1001_are_too_many(backend: Client) -> None:
    name = somebody()
    assert [one["user"] for one in ask(backend, name, name)] == [name, name]
    wrong: list[dict[str, Any]] = [{"users": ["x"] * 1001}, {"users": []}, {"users": ["a,b"]}, {}, {"users": "x"}]
    for body in wrong:
        assert backend.post("/api/presence/query", body, "application/json").status_code == 400, body


def test_while_redis_does_not_answer_the_rest_is_told(backend: Client, settings: LazySettings) -> None:
    alice = somebody("alice")
    Process().connect(alice)
    settings.REDIS_URL = "unix:///nowhere/valkey.sock"
    (found,) = ask(backend, alice)
    assert (found["status"], found["connections"]) == ("ONLINE", None)


def test_users_see_themselves_and_their_account_and_others_by_capability_only() -> None:
    alice, carol, bob = somebody("alice"), somebody("carol"), somebody("bob")
    for user, account in ((alice, "acme"), (carol, "acme"), (bob, "globex")):
        users.see(user, account, 1.0)
    client = bearer(user_token(alice, "acme"))
    assert [one["user"] for one in ask(client, alice, carol)] == [alice, carol]
    assert client.get(f"/api/presence/{carol}").status_code == 200
    assert client.get(f"/api/presence/{bob}").status_code == 403
    refused = client.post("/api/presence/query", {"users": [carol, bob]}, "application/json")
    assert (refused.status_code, refused.json()["error"]["fields"]) == (403, {"users": bob})
    capable = bearer(user_token(alice, "acme", subscribe=[f"watch.{bob}"]))
    assert ask(capable, bob)[0]["user"] == bob
    scoped = bearer(user_token(alice, "acme", subscribe=["watch.*"], scoped=True))
    assert ask(scoped, bob, somebody())[0]["user"] == bob
    only_topics = bearer(user_token(alice, "acme", subscribe=["topic.x"], scoped=True))
    assert only_topics.get(f"/api/presence/{alice}").status_code == 403
    stranger = somebody("homeless")
    assert bearer(user_token(stranger, None)).get(f"/api/presence/{alice}").status_code == 403
    assert bearer(service(["presence:write"])).get(f"/api/presence/{alice}").status_code == 403


def may(action: str, topic: str, principal: Any) -> bool:
    """An authoriser: everybody may watch those whose names begin like theirs."""
    return action == "subscribe" and topic.removeprefix("watch.").startswith(principal.user[:3])


@pytest.mark.django_db(transaction=True)
def test_an_authoriser_of_watch_decides_instead_of_the_account(settings: LazySettings) -> None:
    settings.TOPIC_AUTHORIZERS = {"watch": f"{__name__}.may"}
    alice, alina, carol = somebody("alice"), somebody("alina"), somebody("carol")
    for user in (alice, carol):
        users.see(user, "acme", 1.0)
    client = bearer(user_token(alice, "acme"))
    assert ask(client, alice, alina)
    assert client.get(f"/api/presence/{carol}").status_code == 403


def test_an_account_is_paged_by_its_users_ids(backend: Client) -> None:
    account = somebody("account")
    names = sorted(somebody() for _ in range(5))
    for name in [*names, somebody()]:
        users.see(name, account if name in names else "elsewhere", 1.0)
    Process().connect(names[2])
    told: list[dict[str, Any]] = []
    cursor = ""
    for expected in (2, 2, 1):
        page = backend.get(f"/api/presence?account={account}&limit=2{cursor}").json()
        assert len(page["presences"]) == expected
        told += page["presences"]
        cursor = f"&cursor={page['next']}"
    assert page["next"] is None
    assert [one["user"] for one in told] == names
    assert [one["status"] for one in told] == ["OFFLINE", "OFFLINE", "ONLINE", "OFFLINE", "OFFLINE"]
    assert backend.get("/api/presence").status_code == 400
    own = bearer(user_token(names[0], account))
    assert len(own.get("/api/presence").json()["presences"]) == 5
    assert own.get("/api/presence?account=elsewhere").status_code == 403
    assert bearer(user_token(somebody(), None)).get("/api/presence").status_code == 403


def test_the_history_is_the_last_hundred_changes_newest_first_and_nobody_elses(backend: Client) -> None:
    alice, carol = somebody("alice"), somebody("carol")
    now = timezone.now()
    Transition.objects.bulk_create(
        Transition(
            user=alice,
            seq=seq,
            status="ONLINE" if seq % 2 else "OFFLINE",
            reason="opened" if seq % 2 else "closed",
            at=now + timedelta(seconds=seq),
        )
        for seq in range(1, 151)
    )
    told = backend.get(f"/api/presence/{alice}/history").json()["transitions"]
    assert [one["seq"] for one in told] == list(range(150, 50, -1))
    assert told[0].keys() == {"status", "reason", "seq", "at"}
    assert (told[0]["status"], told[1]["reason"]) == ("OFFLINE", "opened")
    for user, status in ((alice, 200), (carol, 403)):
        users.see(user, "acme", 1.0)
        client = bearer(user_token(user, "acme"))
        assert client.get(f"/api/presence/{alice}/history").status_code == status


def test_who_is_invisible_looks_offline_to_others_and_knows_the_truth_as_services_do(backend: Client) -> None:
    alice, carol = somebody("alice"), somebody("carol")
    for user in (alice, carol):
        users.see(user, "acme", 1.0)
    Process().connect(alice, 2)
    hers, his = bearer(user_token(alice, "acme")), bearer(user_token(carol, "acme"))
    told = hers.put(f"/api/presence/{alice}", {"availability": "invisible", "text": "hiding"}, "application/json")
    assert told.status_code == 200, told.content
    before = his.get(f"/api/presence/{alice}").json()
    assert (before["status"], before["availability"], before["text"]) == ("OFFLINE", "available", "")
    assert (before["connections"], before["seq"]) == (0, 2)
    for client in (hers, backend):
        truth = client.get(f"/api/presence/{alice}").json()
        assert (truth["status"], truth["availability"], truth["text"]) == ("OFFLINE", "invisible", "hiding")
        assert truth["connections"] == 2
    Process().connect(alice)
    hers.put(f"/api/presence/{alice}", {"text": "still hiding"}, "application/json")
    assert his.get(f"/api/presence/{alice}").json() == before
