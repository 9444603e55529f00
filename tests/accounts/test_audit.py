"""The audit: who changed what, from what to what, in which request and from where, and never a secret."""

import io
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.management import call_command
from django.db import transaction
from django.utils import timezone

from accounts import api_keys, audit, tokens, users
from accounts.models import ApiKey, AuditEntry, Token
from accounts.shapes import UserChange
from tests.accounts.calling import Api, service, user, who

pytestmark = pytest.mark.django_db

BY_THEM = {"request_id": "request-1", "address": "127.0.0.1"}
BY_THE_CONSOLE = {"actor": "system:command", "request_id": "", "address": ""}
CONNECTION = "0123456789abcdef" * 2


@pytest.fixture
def backend() -> Api:
    return service(**{"x-request-id": "request-1"})


def entry(action: str) -> dict[str, Any]:
    """The only entry of this action, as the API shows it."""
    entries = service("admin:read").does("GET", "audit", limit=100)["entries"]
    (found,) = [one for one in entries if one["action"] == action]
    assert found.pop("id")
    assert found.pop("created_at")
    assert found.pop("action") == action
    return dict(found)


# --- An entry for each change ---------------------------------------------------------------------


def test_a_key_that_is_made_is_recorded() -> None:
    call_command("apikey", "create", "acme-backend", "--scopes", "inbox:read", stdout=(said := io.StringIO()))
    prefix = said.getvalue().split("_")[1]
    made = AuditEntry.objects.get(action="key.created")
    assert (made.actor, made.subject, made.before) == ("system:command", f"key:{prefix}", None)
    assert made.after == {"name": "acme-backend", "scopes": ["inbox:read"], "expires_at": None}
    assert (made.request_id, made.address) == ("", "")


def test_the_end_of_a_key_is_recorded_with_it() -> None:
    ends = timezone.now() + timedelta(days=1)
    api_keys.create("acme-backend", expires_at=ends)
    assert AuditEntry.objects.get().after["expires_at"] == ends.isoformat()  # type: ignore[index]


def test_a_key_that_is_revoked_is_recorded_once() -> None:
    row, _ = api_keys.create("acme-backend")
    assert api_keys.revoke(row.prefix)
    assert not api_keys.revoke(row.prefix)
    assert not api_keys.revoke("unknown")
    assert entry("key.revoked") == {"subject": f"key:{row.prefix}", "before": None, "after": None} | BY_THE_CONSOLE


def test_a_token_that_is_revoked_is_recorded_once(backend: Api) -> None:
    token = backend.does("POST", "tokens", {"user": "alice"})["id"]
    for _ in range(2):
        backend.does("DELETE", f"tokens/{token}")
    assert entry("token.revoked") == {
        "actor": str(who(backend)), "subject": f"token:{token}", "before": None, "after": None,
    } | BY_THEM  # fmt: skip


def test_a_user_who_is_changed_is_recorded_before_and_after(backend: Api) -> None:
    users.ensure(["alice"])
    backend.does("PUT", "users/alice", {"account": "acme", "name": "Alice"})
    assert (
        entry("user.changed")
        == {
            "actor": str(who(backend)),
            "subject": "user:alice",
            "before": {"account": None, "name": "", "attributes": {}},
            "after": {"account": "acme", "name": "Alice", "attributes": {}},
        }
        | BY_THEM
    )


def test_a_user_whom_their_credential_moves_is_recorded() -> None:
    who(user("alice", "acme"))
    moved = Api(user("alice", "globex").credential, **{"x-request-id": "request-1"})
    moved.does("GET", "users/alice")
    assert entry("user.moved") == {
        "actor": "user:alice", "subject": "user:alice", "before": {"account": "acme"}, "after": {"account": "globex"},
    } | BY_THEM  # fmt: skip


def test_a_user_who_is_erased_is_recorded_and_nothing_of_them(backend: Api) -> None:
    backend.does("PUT", "users/alice", {"name": "Alice"})
    backend.does("DELETE", "users/alice")
    blank = {"actor": str(who(backend)), "subject": "user:alice", "before": None, "after": None} | BY_THEM
    assert entry("user.erased") == entry("user.changed") == blank


def test_who_logs_out_is_recorded() -> None:
    alice = Api(user("alice").credential, **{"x-request-id": "request-1"})
    principal = who(alice)
    alice.does("DELETE", "token")
    assert entry("logged_out") == {
        "actor": "user:alice", "subject": principal.credential, "before": None, "after": None,
    } | BY_THEM  # fmt: skip


@pytest.mark.parametrize(
    ("path", "subject"),
    [
        (f"connections/{CONNECTION}", f"connection:{CONNECTION}"),
        ("presence/alice/connections", "user:alice"),
        ("presence/a%2Fb/connections", "user:a/b"),
    ],
)
def test_connections_that_are_closed_are_recorded(backend: Api, path: str, subject: str) -> None:
    backend.does("DELETE", path)
    assert entry("connections.closed") == {
        "actor": str(who(backend)), "subject": subject, "before": None, "after": None,
    } | BY_THEM  # fmt: skip


def test_what_is_refused_is_not_recorded(backend: Api) -> None:
    AuditEntry.objects.all().delete()
    alice = user("alice")
    alice.refusal("PUT", "users/alice", {"name": "x"})
    alice.refusal("DELETE", "users/alice")
    alice.refusal("DELETE", "presence/bob/connections")
    backend.refusal("PUT", "users/alice", {"name": 7})
    backend.refusal("DELETE", "token")
    assert not AuditEntry.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_an_entry_stands_or_falls_with_its_change() -> None:
    with transaction.atomic():
        users.change(None, "alice", UserChange(name="Alice"))
        api_keys.create("acme-backend")
        row, _ = tokens.issue(None, ttl=60, user="alice")
        tokens.revoke(None, row)
        transaction.set_rollback(True)
    assert not AuditEntry.objects.exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("change", ["create", "revoke", "token"])
def test_a_change_that_cannot_be_recorded_is_not_made(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row, text = api_keys.create("acme-backend")
    token, _ = tokens.issue(None, ttl=60, user="alice")

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no audit")

    monkeypatch.setattr(audit, "record", fail)
    changes: dict[str, Callable[[], object]] = {
        "create": lambda: api_keys.create("other"),
        "revoke": lambda: api_keys.revoke(row.prefix),
        "token": lambda: tokens.revoke(None, token),
    }
    with pytest.raises(RuntimeError):
        changes[change]()
    assert api_keys.find(text)
    assert ApiKey.objects.count() == 1
    assert Token.objects.get().revoked_at is None


# --- From where -----------------------------------------------------------------------------------


def test_a_request_without_an_id_is_given_one(backend: Api) -> None:
    service().does("PUT", "users/alice", {"name": "Alice"})
    assert len(entry("user.changed")["request_id"]) == 32


def test_what_comes_after_a_request_does_not_come_from_it(backend: Api) -> None:
    backend.does("PUT", "users/alice", {"name": "Alice"})
    users.change(None, "bob", UserChange(name="Bob"))
    last = AuditEntry.objects.get(subject="user:bob")
    assert (last.actor, last.request_id, last.address) == ("system:command", "", "")


# --- GET /api/audit -------------------------------------------------------------------------------


def test_only_who_may_administrate_reads_the_audit(backend: Api) -> None:
    assert service("admin:read").does("GET", "audit")
    for other in (service("admin:write", "users:read"), user("alice")):
        assert other.refusal("GET", "audit") == (403, "scope_missing")
    token = Api(backend.does("POST", "tokens", {"topics": ["*"]})["token"])
    assert token.refusal("GET", "audit") == (403, "scope_missing")
    assert Api(None).refusal("GET", "audit") == (401, "unauthenticated")
    assert backend("POST", "audit", {}).status_code == backend("DELETE", "audit").status_code == 405


def test_the_audit_is_read_newest_first_in_pages(backend: Api) -> None:
    AuditEntry.objects.all().delete()
    for number in range(5):
        users.change(None, f"user-{number}", UserChange(name="x"))
    seen: list[str] = []
    cursor: dict[str, str] = {}
    for size in (2, 2, 1):
        page = backend.does("GET", "audit", actor="system:command", limit=2, **cursor)
        assert len(page["entries"]) == size
        seen += [one["subject"] for one in page["entries"]]
        cursor = {"cursor": page["next"]}
    assert page["next"] is None
    assert seen == [f"user:user-{number}" for number in reversed(range(5))]
    assert backend.refusal("GET", "audit", cursor="x") == (400, "malformed")
    assert backend.refusal("GET", "audit", limit="0") == (400, "malformed")


def test_the_audit_is_read_by_subject_and_by_actor(backend: Api) -> None:
    backend.does("PUT", "users/alice", {"name": "Alice"})
    backend.does("PUT", "users/bob", {"name": "Bob"})
    users.change(None, "alice", UserChange(name="Alice L."))

    def subjects(**query: str) -> list[str]:
        return [one["subject"] for one in backend.does("GET", "audit", **query)["entries"]]

    me = str(who(backend))
    assert subjects(subject="user:alice") == ["user:alice"] * 2
    assert subjects(actor=me) == ["user:bob", "user:alice"]
    assert subjects(actor=me, subject="user:alice") == ["user:alice"]
    assert subjects(actor="nobody") == subjects(subject="user:a\0b") == []


def test_no_secret_is_in_the_audit(backend: Api) -> None:
    row, key = api_keys.create("acme-backend")
    made = backend.does("POST", "tokens", {"user": "alice"})
    token = Api(made["token"])
    ticket = token.does("POST", "tickets")["ticket"]
    token.does("DELETE", "token")
    backend.does("DELETE", f"tokens/{made['id']}")
    api_keys.revoke(row.prefix)
    row.refresh_from_db()
    stored = str(list(AuditEntry.objects.values()))
    for secret in (key, key.rpartition("_")[2], row.digest, made["token"], made["token"].rpartition(".")[2], ticket):
        assert secret not in stored


def test_what_is_older_than_audit_days_is_forgotten(settings: LazySettings) -> None:
    settings.AUDIT_DAYS = 10
    for days in (9, 11):
        users.change(None, f"user-{days}", UserChange(name="x"))
        then = timezone.now() - timedelta(days=days)
        AuditEntry.objects.filter(subject=f"user:user-{days}").update(created_at=then)
    audit.purge()
    assert [one.subject for one in AuditEntry.objects.all()] == ["user:user-9"]
