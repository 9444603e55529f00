"""What users say of themselves: over HTTP and sockets; who is told, and who is not."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.conf import LazySettings
from django.test import Client

from accounts import users
from accounts.errors import ApiError
from accounts.principals import Kind, Principal
from presence import availability, live, registry
from presence.models import Presence, Transition
from presence.registry import Gone
from presence.shapes import Seen
from presence.transitions import settle
from realtime.frames import Event
from realtime.protocol import Status, parse
from tests.presence.redis import TestRedis
from tests.presence.watchers import Process, somebody
from tests.security.town import bearer, service, user_token

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Seen]:
    """What watchers are told, in order."""
    states: list[Seen] = []
    make = live.change_event

    def note(state: Seen) -> Event:
        states.append(state)
        return make(state)

    monkeypatch.setattr(live, "change_event", note)
    return states


@pytest.fixture
def alice() -> str:
    return somebody("alice")


@pytest.fixture
def client(alice: str) -> Client:
    return bearer(user_token(alice, "acme"))


def put(client: Client, user: str, status: int = 200, **changes: Any) -> dict[str, Any]:
    reply = client.put(f"/api/presence/{user}", changes, "application/json")
    assert reply.status_code == status, reply.content
    return dict(reply.json())


def test_a_status_holds_and_what_is_so_already_tells_nobody(client: Client, alice: str, told: list[Seen]) -> None:
    said = put(client, alice, availability="busy", text="In a meeting")
    assert (said["status"], said["availability"], said["text"], said["version"]) == (
        "OFFLINE",
        "busy",
        "In a meeting",
        1,
    )
    assert put(client, alice)["version"] == 1
    assert put(client, alice, availability="busy")["version"] == 1
    assert put(client, alice, text="In a meeting")["version"] == 1
    assert put(client, alice, text="")["availability"] == "busy"
    assert [(one.version, one.availability, one.text) for one in told] == [
        (1, "busy", "In a meeting"),
        (2, "busy", ""),
    ]
    assert client.get(f"/api/presence/{alice}").json()["version"] == 2


def test_what_was_said_stays_when_the_user_comes_and_goes(client: Client, alice: str) -> None:
    put(client, alice, availability="away", text="Back at two")
    Process().connect(alice)
    now = client.get(f"/api/presence/{alice}").json()
    assert (now["status"], now["availability"], now["text"], now["seq"], now["version"]) == (
        "ONLINE",
        "away",
        "Back at two",
        1,
        2,
    )


@pytest.mark.parametrize(
    "changes",
    [{"availability": "gone"}, {"text": "x" * 141}, {"text": "a\nb"}, {"text": "\0"}, {"text": 7}, {"mood": "good"}],
)
def test_what_is_no_status_is_refused(client: Client, alice: str, changes: dict[str, Any], told: list[Seen]) -> None:
    reply = client.put(f"/api/presence/{alice}", changes, "application/json")
    assert reply.status_code == 400, reply.content
    assert not told
    assert not Presence.objects.filter(pk=alice).exists()


def test_140_characters_of_any_script_fit(client: Client, alice: str) -> None:
    assert put(client, alice, text="世" * 140)["text"] == "世" * 140


def test_hiding_makes_an_online_user_offline_and_showing_online_again(
    client: Client, alice: str, told: list[Seen]
) -> None:
    Process().connect(alice)
    assert put(client, alice, availability="invisible")["status"] == "OFFLINE"
    hidden = Presence.objects.get(pk=alice)
    assert put(client, alice, text="nobody sees this")["version"] == hidden.version
    assert Presence.objects.get(pk=alice).last_seen == hidden.last_seen
    assert put(client, alice, availability="available")["status"] == "ONLINE"
    assert list(Transition.objects.filter(user=alice).order_by("seq").values_list("seq", "status")) == [
        (1, "ONLINE"),
        (2, "OFFLINE"),
        (3, "ONLINE"),
    ]
    seen = [(one.version, one.status, one.text) for one in told]
    # One event each, as of somebody who goes and comes: that it was a choice does not show.
    assert seen == [(1, "ONLINE", ""), (2, "OFFLINE", ""), (3, "ONLINE", "nobody sees this")]


def test_hiding_while_offline_tells_nobody(client: Client, alice: str, told: list[Seen]) -> None:
    put(client, alice, text="")
    put(client, alice, availability="invisible")
    put(client, alice, text="secret")
    put(client, alice, availability="available", text="")
    assert told == []
    assert not Transition.objects.filter(user=alice).exists()


def leave(process: Process, user: str) -> None:
    """All connections of a user are closed, without a grace."""
    registry.change(process.boot, 9, [], [Gone(one.id, user, "closed", 0) for one in registry.connections_of(user)])
    settle([user])


def test_who_hides_looks_like_who_has_gone_and_said_nothing_since(redis: TestRedis, told: list[Seen]) -> None:
    """One goes and one hides, both busy; then the one who hides lives on."""
    redis.make_whole()
    goes, hides, watcher = somebody("goes"), somebody("hides"), somebody("watcher")
    clients = {user: bearer(user_token(user, "acme")) for user in (goes, hides, watcher)}
    process = Process()

    def looks(user: str) -> dict[str, Any]:
        (row,) = clients[watcher].post("/api/presence/query", {"users": [user]}, "application/json").json()["presences"]
        return {name: value for name, value in row.items() if name not in ("user", "since", "last_seen")}

    for user in (goes, hides):
        assert clients[user].get(f"/api/presence/{user}").status_code == 200  # Their account is known.
        process.connect(user)
        put(clients[user], user, availability="busy", text="In a meeting")
    assert looks(goes) == looks(hides)
    leave(process, goes)
    put(clients[hides], hides, availability="invisible", text="Nobody sees this")
    before = looks(hides)
    assert before == looks(goes)
    assert (before["status"], before["availability"], before["text"]) == ("OFFLINE", "busy", "In a meeting")
    row = Presence.objects.get(pk=hides)
    assert row.since == row.last_seen
    told.clear()
    process.connect(hides)
    put(clients[hides], hides, text="Nor this")
    put(clients[hides], hides, availability="invisible")
    leave(process, hides)
    assert (looks(hides), told) == (before, [])
    after = Presence.objects.get(pk=hides)
    assert (after.since, after.last_seen, after.version, after.seq) == (row.since, row.last_seen, row.version, row.seq)
    for user in (goes, hides):  # Both say something new while they are away.
        put(clients[user], user, availability="away", text="Back at two")
    assert looks(hides) == looks(goes)
    assert [(one.version, one.availability, one.text) for one in told] == [
        (after.version + 1, "away", "Back at two")
    ] * 2


def test_who_is_away_and_hides_still_shows_what_they_said(client: Client, alice: str, told: list[Seen]) -> None:
    put(client, alice, availability="away", text="On holiday")
    told.clear()
    put(client, alice, availability="invisible")
    put(client, alice, text="")
    put(client, alice, availability="away", text="On holiday")
    assert told == []
    assert Presence.objects.get(pk=alice).version == 1


def test_somebody_who_has_just_come_has_no_connections_yet_for_others(alice: str) -> None:
    other = bearer(user_token(somebody("carol"), "acme"))
    users.see(alice, "acme", 1.0)
    process = Process()
    process.connect(alice)
    Presence.objects.filter(pk=alice).update(status="OFFLINE")  # As before it is settled.
    assert other.get(f"/api/presence/{alice}").json()["connections"] == 0
    assert bearer(user_token(alice, "acme")).get(f"/api/presence/{alice}").json()["connections"] == 1


@contextmanager
def without_redis(settings: LazySettings) -> Iterator[None]:
    url = settings.REDIS_URL
    settings.REDIS_URL = "unix:///nowhere/valkey.sock"
    yield
    settings.REDIS_URL = url


def test_hiding_is_refused_while_redis_does_not_answer_and_changes_nothing(
    client: Client, alice: str, told: list[Seen], settings: LazySettings
) -> None:
    Process().connect(alice)
    told.clear()
    with without_redis(settings):
        assert put(client, alice, 503, availability="invisible")["error"]["code"] == "registry_unavailable"
        assert put(client, alice, availability="away")["availability"] == "away"
    row = Presence.objects.get(pk=alice)
    assert (row.status, row.availability, len(told)) == ("ONLINE", "away", 1)


def test_services_with_the_scope_say_it_for_users_and_users_for_themselves_only(client: Client) -> None:
    bob = somebody("bob")
    assert put(client, bob, 403, text="mine")
    assert put(bearer(service(["presence:read"])), bob, 403, text="mine")
    assert put(bearer(service(["presence:write"])), bob, text="On holiday")["text"] == "On holiday"


def test_the_action_of_a_socket_does_the_same(alice: str, told: list[Seen]) -> None:
    principal = Principal(Kind.USER, alice)
    action = parse('{"action": "status", "availability": "away", "text": "Lunch"}')
    assert isinstance(action, Status)
    said = availability.perform(action, principal, "c1")
    assert said == {"availability": "away", "text": "Lunch", "status": "OFFLINE", "version": 1}
    assert availability.perform(Status(text="Lunch"), principal, "c1")["version"] == 1
    assert len(told) == 1
    for wrong in (Status(availability="gone"), Status(text="x" * 141), Status(text="a\tb")):
        with pytest.raises(ApiError) as caught:
            availability.perform(wrong, principal, "c1")
        assert caught.value.status == 400
    with pytest.raises(ApiError) as caught:
        availability.perform(action, Principal(Kind.SERVICE, "backend", scopes=frozenset({"presence:write"})), "c1")
    assert caught.value.status == 403
