"""Tickets: each stands for its maker once, for 30 s, and not longer than the credential does."""

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine

from accounts import api_keys, tickets
from accounts.credentials import Unauthenticated, authenticate
from accounts.models import Ticket
from accounts.principals import Kind, Principal
from tests.accounts.calling import Api, at_once, service, user, who

pytestmark = pytest.mark.django_db

committed = pytest.mark.django_db(transaction=True)


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(datetime.now(UTC), tick=False) as traveller:
        yield traveller


def ticket_of(api: Api) -> str:
    ticket = api.does("POST", "tickets")["ticket"]
    assert isinstance(ticket, str)
    return ticket


def by_ticket(text: str) -> Principal:
    return authenticate({}, {"ticket": text})


def refused(text: str) -> str:
    with pytest.raises(Unauthenticated) as error:
        by_ticket(text)
    return error.value.code


def test_a_ticket_is_single_use() -> None:
    reply = user("alice").does("POST", "tickets")
    assert set(reply) == {"ticket", "expires_at"}
    assert by_ticket(reply["ticket"]).id == "alice"
    assert refused(reply["ticket"]) == "token_expired"
    assert not Ticket.objects.exists()


@committed
def test_of_twenty_who_redeem_a_ticket_at_once_one_gets_in() -> None:
    for _ in range(3):
        text = ticket_of(user("alice"))
        holders = at_once(20, lambda text=text: tickets.redeem(text))  # type: ignore[misc]
        assert sorted(str(holder) for holder in holders if holder) == ["user:alice"]


def test_a_ticket_is_good_for_30_seconds(clock: time_machine.Traveller) -> None:
    first, second = ticket_of(user("alice")), ticket_of(user("alice"))
    clock.shift(29.9)
    assert by_ticket(first).id == "alice"
    clock.shift(0.1)
    assert refused(second) == "token_expired"
    tickets.purge()
    assert not Ticket.objects.exists()


def test_purging_leaves_those_that_are_good() -> None:
    text = ticket_of(user("alice"))
    tickets.purge()
    assert by_ticket(text).id == "alice"


def test_a_ticket_is_not_good_for_longer_than_its_credential(clock: time_machine.Traveller) -> None:
    reply = user("alice", ttl=10).does("POST", "tickets")
    assert datetime.fromisoformat(reply["expires_at"]).timestamp() <= time.time() + 10
    clock.shift(timedelta(seconds=11))
    assert refused(reply["ticket"]) == "token_expired"


@pytest.mark.parametrize(
    "make",
    [
        lambda: user("alice", "acme", subscribe=["topic.room/*"], publish=["topic.news"]),
        lambda: service(),
        lambda: service("notifications:read"),
        lambda: Api(service().does("POST", "tokens", {"user": "alice", "topics": ["topic.*"]})["token"]),
        lambda: Api(service().does("POST", "tokens", {"topics": ["topic.x"], "allow": ["publish"]})["token"]),
    ],
)
def test_a_ticket_stands_for_the_same_caller_with_all_that_they_may(make: Any) -> None:
    caller = make()
    assert by_ticket(ticket_of(caller)) == who(caller)


def test_a_ticket_makes_no_more_than_its_maker_had() -> None:
    principal = Principal(
        Kind.OPERATOR, "root", scopes=frozenset({"admin:read"}), credential="operator:root", session="s"
    )
    assert tickets.redeem(tickets.issue(principal)[0]) == principal
    assert tickets.redeem(tickets.issue(replace(principal, scopes=frozenset()))[0]) == replace(
        principal, scopes=frozenset()
    )


@committed
def test_a_ticket_of_a_revoked_token_is_refused() -> None:
    backend = service()
    made = backend.does("POST", "tokens", {"user": "alice"})
    text = ticket_of(Api(made["token"]))
    backend.does("DELETE", f"tokens/{made['id']}")
    assert refused(text) == "unauthenticated"


@committed
def test_a_ticket_of_one_who_logged_out_or_was_erased_is_refused() -> None:
    alice, bob = user("alice"), user("bob")
    tickets_before = [ticket_of(alice), ticket_of(bob)]
    alice.does("DELETE", "token")
    service().does("DELETE", "users/bob")
    assert [refused(text) for text in tickets_before] == ["unauthenticated"] * 2


@committed
def test_a_ticket_of_a_revoked_key_is_refused() -> None:
    backend = service()
    text = ticket_of(backend)
    api_keys.revoke(who(backend).id)
    assert refused(text) == "unauthenticated"


def test_a_ticket_of_a_user_who_has_moved_is_refused() -> None:
    text = ticket_of(user("alice", "acme"))
    service().does("PUT", "users/alice", {"account": "globex"})
    assert refused(text) == "token_expired"


@pytest.mark.parametrize("text", ["x", "\0", "é", "\ud800", "x" * 100_000, "' OR 1=1 --"])
def test_a_text_that_is_no_ticket_is_refused(text: str) -> None:
    ticket_of(user("alice"))
    assert refused(text) == "token_expired"
    assert Ticket.objects.count() == 1


def test_the_text_of_a_ticket_is_not_stored() -> None:
    alice = user("alice")
    text = ticket_of(alice)
    stored = str(list(Ticket.objects.values()))
    assert text not in stored
    assert alice.credential not in stored


def test_nobody_gets_a_ticket_without_a_credential() -> None:
    assert Api(None).refusal("POST", "tickets") == (401, "unauthenticated")


def test_a_ticket_is_no_credential_for_the_api() -> None:
    text = ticket_of(user("alice"))
    assert Api(None).refusal("GET", "users/alice", ticket=text) == (401, "unauthenticated")
    assert Api(text).refusal("GET", "users/alice") == (401, "unauthenticated")
    assert by_ticket(text).id == "alice"
