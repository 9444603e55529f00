"""End users: known from the first time, in one account at a time, and gone when they are erased."""

import json
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest
from django.conf import settings
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from pytest_django import DjangoAssertNumQueries

from accounts import remembered, users
from accounts.credentials import Unauthenticated, from_bearer
from accounts.models import Account, AuditEntry, Token, User
from accounts.revocations import Ended, Reason
from accounts.shapes import UserChange
from notifications.models import Message, Receipt, Topic
from tests.accounts.calling import Api, at_once, path_of, service, user, who

pytestmark = pytest.mark.django_db

committed = pytest.mark.django_db(transaction=True)


def issued(account: str | None, at: float, **claims: Any) -> str:
    """Alice's token of that moment."""
    named = {"iss": "fanfare", "sub": "alice", "iat": at, "exp": int(time.time()) + 3600} | claims
    return jwt.encode(named | ({"account": account} if account else {}), settings.TOKEN_SIGNING_KEY, algorithm="HS256")


def account_of(name: str) -> str | None:
    return User.objects.get(pk=name).account_id


# --- Known ----------------------------------------------------------------------------------------


def test_a_user_is_known_when_a_credential_first_names_them() -> None:
    assert who(user("alice", "acme")).account == "acme"
    assert account_of("alice") == "acme"
    assert Account.objects.filter(pk="acme").exists()
    who(user("bob"))
    assert account_of("bob") is None


def test_a_credential_that_is_refused_makes_nobody_known() -> None:
    with pytest.raises(Unauthenticated):
        from_bearer(issued("acme", time.time())[:-5])
    assert not User.objects.exists()
    assert not Account.objects.exists()


def test_the_targets_of_a_notification_are_known() -> None:
    service().does("POST", "notifications", {"to": {"users": ["alice", "bob", "alice"]}, "data": 1})
    assert set(User.objects.values_list("id", flat=True)) == {"alice", "bob"}
    assert service().does("GET", "users/alice")["account"] is None


@committed
def test_a_user_who_is_remembered_costs_no_query(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    with transaction.atomic():
        users.ensure(["alice", "bob"])
    users.see("carol", "acme", 1.0)
    with django_assert_num_queries(0):
        users.ensure(["bob", "carol", "alice"])
        assert users.see("carol", "acme", 1.0) == "acme"
        assert users.see("carol", None, 1.0) == "acme"


@committed
def test_a_user_is_not_remembered_from_a_transaction_that_fails() -> None:
    with transaction.atomic():
        users.ensure(["alice"])
        transaction.set_rollback(True)
    assert "alice" not in users._accounts
    users.ensure(["alice"])
    assert User.objects.filter(pk="alice").exists()


def test_many_strangers_are_made_in_the_order_of_their_ids_so_that_no_two_deadlock() -> None:
    with CaptureQueriesContext(connection) as done:
        users.ensure(f"user-{number % 1500:04}" for number in reversed(range(3000)))
    inserts = [query["sql"] for query in done if "INSERT" in query["sql"]]
    assert "user-0000" in inserts[0]
    assert "user-1499" in inserts[-1]
    assert User.objects.count() == 1500


def test_not_more_users_are_remembered_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "USERS_MAX", 3)
    for name in ("alice", "bob", "carol", "dave"):
        users.see(name, None, 1.0)
    assert "alice" not in users._accounts
    assert "dave" in users._accounts
    assert users.see("alice", None, 1.0) is None


@committed
def test_a_new_user_whom_fifty_threads_see_at_once_is_made_once() -> None:
    assert at_once(50, lambda: users.see("alice", "acme", 100.0)) == ["acme"] * 50
    assert User.objects.count() == Account.objects.count() == 1
    assert not AuditEntry.objects.exists()


@committed
def test_those_who_see_and_those_who_change_a_user_at_once_do_not_block_each_other() -> None:
    backend = who(service())

    def work() -> None:
        for number in range(5):
            users.change(backend, "alice", UserChange(account=f"account-{number}"))
            users._accounts.forget(["alice"])
            with suppress(users.StaleAccount):
                users.see("alice", f"account-{number + 1}", time.time())
            users.ensure(["alice", "bob"])

    at_once(8, work)
    assert User.objects.count() == 2


# --- Their account --------------------------------------------------------------------------------


def test_a_newer_credential_moves_the_user_and_the_audit_says_so() -> None:
    from_bearer(issued("acme", 100))
    assert from_bearer(issued("globex", 200)).account == "globex"
    assert account_of("alice") == "globex"
    (entry,) = AuditEntry.objects.filter(action="user.moved")
    assert (entry.actor, entry.subject) == ("user:alice", "user:alice")
    assert (entry.before, entry.after) == ({"account": "acme"}, {"account": "globex"})


def test_an_older_credential_does_not_move_the_user_back() -> None:
    from_bearer(issued("acme", 100))
    from_bearer(issued("globex", 200))
    with pytest.raises(Unauthenticated) as refused:
        from_bearer(issued("acme", 100))
    assert refused.value.code == "token_expired"
    assert account_of("alice") == "globex"
    assert Api(issued("acme", 100)).refusal("GET", "users/alice") == (401, "token_expired")


def test_nor_does_one_that_is_older_than_the_first() -> None:
    from_bearer(issued("globex", 200))
    with pytest.raises(Unauthenticated):
        from_bearer(issued("acme", 100))
    assert account_of("alice") == "globex"


def test_a_target_who_is_known_without_account_gets_one_by_the_first_credential() -> None:
    users.ensure(["alice"])
    assert from_bearer(issued("acme", 100)).account == "acme"
    assert account_of("alice") == "acme"


def test_a_credential_that_names_no_account_gets_the_stored_one() -> None:
    assert from_bearer(issued(None, 50)).account is None
    from_bearer(issued("acme", 100))
    assert from_bearer(issued(None, 50)).account == "acme"
    users._accounts.forget(["alice"])
    assert from_bearer(issued(None, 50)).own_topics == ["user.alice", "account.acme", "all"]


def test_a_change_moves_the_user_and_what_was_issued_before_does_not_move_them_back() -> None:
    before = user("alice", "acme")
    who(before)
    service().does("PUT", "users/alice", {"account": "globex"})
    assert before.refusal("GET", "users/alice") == (401, "token_expired")
    assert who(user("alice", "initech")).account == "initech"
    service().does("PUT", "users/alice", {"account": None})
    assert account_of("alice") is None
    assert who(user("alice")).account is None


def test_a_user_who_is_made_with_an_account_is_not_moved_by_what_was_issued_before() -> None:
    service().does("PUT", "users/alice", {"account": "globex"})
    with pytest.raises(Unauthenticated):
        from_bearer(issued("acme", 100))


def test_a_user_who_is_made_without_an_account_gets_it_from_any_credential() -> None:
    service().does("PUT", "users/alice", {"name": "Alice"})
    assert from_bearer(issued("acme", 100)).account == "acme"


def test_a_move_that_another_process_made_is_learned_of() -> None:
    users.see("alice", "acme", 100.0)
    User.objects.filter(pk="alice").update(account=Account.objects.create(id="globex"), moved_at=datetime.now(UTC))
    users._accounts.hear([Ended("user:alice", Reason.MOVED, 0.0, 0.0)])
    assert users.see("alice", None, 100.0) == "globex"
    assert not users.is_settled("alice", "acme")
    assert users.is_settled("alice", "globex")


@pytest.mark.parametrize("moment", [-1e20, -1, 0, None, [], {}, "soon", 1e300, float("inf"), float("nan")])
def test_an_odd_time_of_issue_is_no_error_of_ours(moment: Any) -> None:
    users.see("alice", "acme", 100.0)
    claims = {"iss": "fanfare", "sub": "alice", "iat": moment, "exp": int(time.time()) + 60, "account": "globex"}
    text = jwt.api_jws.encode(json.dumps(claims).encode(), settings.TOKEN_SIGNING_KEY, algorithm="HS256")
    assert Api(text).refusal("GET", "users/alice")[0] == 401
    assert account_of("alice") == "acme"


# --- The API --------------------------------------------------------------------------------------


def test_a_user_is_made_changed_and_seen() -> None:
    backend = service()
    made = backend.does("PUT", "users/alice", {"account": "acme", "name": "Alice", "attributes": {"tier": 1}})
    assert (made["id"], made["account"], made["name"], made["attributes"]) == ("alice", "acme", "Alice", {"tier": 1})
    changed = backend.does("PUT", "users/alice", {"name": "Alice L."})
    assert changed == made | {"name": "Alice L."}
    assert backend.does("GET", "users/alice") == changed
    assert user("alice").does("GET", "users/alice") == changed
    entries = AuditEntry.objects.filter(action="user.changed").order_by("id")
    assert [(entry.before or {}).get("name") for entry in entries] == [None, "Alice"]
    assert [(entry.after or {})["name"] for entry in entries] == ["Alice", "Alice L."]


def test_a_user_sees_only_themselves_and_changes_nobody() -> None:
    users.ensure(["bob"])
    alice = user("alice")
    assert alice.refusal("GET", "users/bob") == (403, "scope_missing")
    for name in ("alice", "bob"):
        assert alice.refusal("PUT", f"users/{name}", {"name": "x"}) == (403, "scope_missing")
        assert alice.refusal("DELETE", f"users/{name}") == (403, "scope_missing")
    reader = service("users:read")
    assert reader.does("GET", "users/bob")["id"] == "bob"
    assert reader.refusal("PUT", "users/bob", {"name": "x"}) == (403, "scope_missing")
    assert reader.refusal("DELETE", "users/bob") == (403, "scope_missing")


ODD = ["a/b", "/a", "a/", "..", "a//b", "a b", "a%2Fb", "%", "ü", "日本", "a?b#c", "a+b", "*", "u.1/*", "😀", "x" * 200]


@pytest.mark.parametrize("name", ODD)
def test_an_id_may_have_odd_characters(name: str) -> None:
    backend = service()
    assert backend.does("PUT", path_of(name), {"account": name})["id"] == name
    shown = backend.does("GET", path_of(name))
    assert (shown["id"], shown["account"]) == (name, name)
    assert user(name).does("GET", path_of(name)) == shown
    backend.does("DELETE", path_of(name))
    assert not User.objects.exists()


@pytest.mark.parametrize("name", ["a,b", "a\tb", "a\x7fb", "x" * 201, "ü" * 101, "\u200b"])
def test_an_id_that_is_none_is_refused(name: str) -> None:
    backend = service()
    assert backend.refusal("PUT", path_of(name), {}) == (400, "malformed")
    assert backend.refusal("PUT", "users/alice", {"account": name}) == (400, "malformed")
    assert backend.refusal("DELETE", path_of(name)) == (400, "malformed")
    assert backend.refusal("GET", path_of(name)) == (404, "unknown_user")
    assert not User.objects.exists()


@pytest.mark.parametrize(
    "body",
    [
        {"id": "bob"},
        {"moved_at": None},
        {"created_at": "2020-01-01T00:00:00Z"},
        {"account_id": "acme"},
        {"scopes": ["admin:write"]},
        {"name": "x" * 201},
        {"name": "a\nb"},
        {"name": None},
        {"account": ""},
        {"account": 7},
        {"attributes": []},
        {"attributes": None},
        [],
        "alice",
    ],
)
def test_what_is_not_to_be_changed_or_is_not_of_its_type_is_refused(body: Any) -> None:
    service().does("PUT", "users/alice", {"name": "Alice"})
    assert service().refusal("PUT", "users/alice", body) == (400, "malformed")
    assert service().does("GET", "users/alice")["name"] == "Alice"


def test_attributes_have_16_kib_at_most() -> None:
    backend = service()
    fits = {"a": "x" * (16 * 1024 - len('{"a":""}'))}
    assert backend.does("PUT", "users/alice", {"attributes": fits})["attributes"] == fits
    over = {"a": fits["a"] + "x"}
    assert backend.refusal("PUT", "users/alice", {"attributes": over}) == (413, "too_large")
    assert backend.does("GET", "users/alice")["attributes"] == fits


@pytest.mark.parametrize("value", [2**63, -(2**63), 1.5, "\U0001f600", {"": None}, [[[]]]])
def test_attributes_come_back_as_they_were_sent(value: Any) -> None:
    service().does("PUT", "users/alice", {"attributes": {"a": value}})
    assert service().does("GET", "users/alice")["attributes"] == {"a": value}


# --- Erased ---------------------------------------------------------------------------------------


@committed
def test_an_erased_user_is_gone_from_every_room() -> None:
    backend = service()
    alice, bob = user("alice", "acme", publish=["topic.room"]), user("bob", "acme")
    backend.does("PUT", "users/alice", {"name": "Alice", "attributes": {"phone": "123"}})
    backend.does("POST", "notifications", {"to": {"users": ["alice", "bob"]}, "data": 1})
    backend.does("POST", "notifications", {"to": {"account": "acme"}, "data": 1, "exclude_users": ["alice"]})
    alice.does("POST", "notifications", {"to": {"topic": "room"}, "data": "by alice"})
    bob.does("GET", "users/bob")
    alice.does("POST", "tokens", {"topics": ["user.alice"]})
    scoped = Api(backend.does("POST", "tokens", {"user": "alice", "topics": ["topic.room"]})["token"])
    assert scoped.does("GET", "topics/topic.room/messages")["messages"]

    backend.does("DELETE", "users/alice")

    assert not User.objects.filter(pk="alice").exists()
    assert not Topic.objects.filter(name="user.alice").exists()
    assert Topic.objects.filter(name="user.bob").exists()
    assert not Receipt.objects.filter(user="alice").exists()
    assert not Token.objects.filter(user="alice").exists()
    (said,) = Message.objects.filter(topic__name="topic.room")
    assert said.sender == ""
    entries = AuditEntry.objects.filter(subject="user:alice").order_by("id")
    assert [entry.action for entry in entries] == ["user.changed", "user.moved", "user.erased"]
    assert all(entry.before is None and entry.after is None for entry in entries)
    for ended in (alice, scoped):
        assert ended.refusal("GET", "topics/topic.room/messages") == (401, "unauthenticated")
    assert bob.does("GET", "users/bob")["account"] == "acme"


@committed
def test_an_erased_user_may_come_back_with_a_new_credential_and_has_nothing() -> None:
    backend = service()
    backend.does("PUT", "users/alice", {"name": "Alice", "account": "acme"})
    backend.does("DELETE", "users/alice")
    assert backend.refusal("GET", "users/alice") == (404, "unknown_user")
    assert backend.refusal("DELETE", "users/alice") == (404, "unknown_user")
    shown = user("alice").does("GET", "users/alice")
    assert (shown["account"], shown["name"], shown["attributes"]) == (None, "", {})


@committed
def test_who_is_erased_is_known_again_as_a_target() -> None:
    backend = service()
    for _ in range(2):
        backend.does("POST", "notifications", {"to": {"user": "alice"}, "data": 1})
        backend.does("DELETE", "users/alice")
    assert not Topic.objects.exists()


def broken_eraser(user: str) -> None:
    raise RuntimeError(user)


@committed
def test_a_room_that_cannot_erase_keeps_the_user_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    who(alice := user("alice"))
    monkeypatch.setattr(settings, "USER_ERASERS", [*settings.USER_ERASERS, f"{__name__}.broken_eraser"])
    with pytest.raises(RuntimeError):
        users.erase(None, "alice")
    assert User.objects.filter(pk="alice").exists()
    assert who(alice).id == "alice"
