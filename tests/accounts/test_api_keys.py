"""API keys: who holds one, for how long, and what it costs to ask."""

import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.core.management import CommandError, call_command

from accounts import api_keys
from accounts.models import ApiKey
from accounts.principals import SCOPES, Kind, Principal

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """No test knows the keys of another."""
    api_keys._cache.clear()
    yield
    api_keys._cache.clear()


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(NOW, tick=False) as traveller:
        yield traveller


def found(text: str) -> Principal:
    principal = api_keys.find(text)
    assert principal is not None
    return principal


def run(*arguments: str) -> str:
    """What `manage.py apikey` prints."""
    call_command("apikey", *arguments, stdout=(said := io.StringIO()))
    return said.getvalue()


# --- A key's life ---------------------------------------------------------------------------------


def test_a_key_is_found_by_its_text_with_its_scopes() -> None:
    row, text = api_keys.create("acme-backend", ["inbox:read", "tasks:write", "inbox:read"])
    assert text.startswith("ff_")
    principal = found(text)
    assert (principal.kind, principal.id) == (Kind.SERVICE, row.prefix)
    assert principal.scopes == {"inbox:read", "tasks:write"}
    assert (principal.user, principal.expires_at) == (None, None)


def test_a_key_has_every_scope_unless_it_is_told() -> None:
    assert found(api_keys.create("acme-backend")[1]).scopes == SCOPES


def test_only_a_hash_of_the_key_is_stored() -> None:
    row, text = api_keys.create("acme-backend")
    row.refresh_from_db()
    secret = text.rpartition("_")[2]
    assert len(secret) == 64
    assert not any(secret in str(value) for value in vars(row).values())


def test_no_two_keys_are_alike() -> None:
    texts = {api_keys.create("acme-backend")[1] for _ in range(20)}
    assert len(texts) == 20


def test_a_scope_that_does_not_exist_is_refused_and_makes_no_key() -> None:
    with pytest.raises(ValueError, match="inbox:destroy"):
        api_keys.create("acme-backend", ["inbox:read", "inbox:destroy"])
    assert not ApiKey.objects.exists()


def test_a_revoked_key_is_found_no_more() -> None:
    row, text = api_keys.create("acme-backend")
    assert api_keys.revoke(row.prefix)
    assert api_keys.find(text) is None
    assert not api_keys.revoke(row.prefix)
    assert not api_keys.revoke("unknown")


def test_a_key_that_is_revoked_elsewhere_works_for_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    row, text = api_keys.create("acme-backend")
    time = 1000.0
    monkeypatch.setattr("accounts.api_keys.time.monotonic", lambda: time)
    found(text)
    ApiKey.objects.filter(pk=row.pk).update(revoked_at=NOW)  # As another process does.
    time += 0.9
    assert api_keys.find(text)
    time += 0.2
    assert api_keys.find(text) is None


def test_a_key_expires(clock: time_machine.Traveller) -> None:
    _, text = api_keys.create("acme-backend", expires_at=NOW + timedelta(hours=1))
    assert found(text).expires_at == (NOW + timedelta(hours=1)).timestamp()
    clock.shift(timedelta(hours=1, seconds=2))
    api_keys._cache.clear()
    assert api_keys.find(text) is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-1],
        lambda text: text + "0",
        lambda text: text[:-1] + ("0" if text[-1] != "0" else "1"),
        lambda text: text.upper(),
        lambda text: text.replace("_", "", 1),
        lambda text: "ff_" + text,
        lambda text: text.rpartition("_")[0] + "_",
        lambda text: "ff_" + "0" * 12 + "_" + text.rpartition("_")[2],
        lambda _: "ff_",
        lambda _: "ff__",
        lambda _: "ff_\0_x",
        lambda _: "ff_%_x",
        lambda _: "ff_é_x",
        lambda _: "ff_" + "x" * 1_000_000,
    ],
)
def test_a_text_that_is_not_exactly_a_key_finds_nothing(spoil: Any) -> None:
    _, text = api_keys.create("acme-backend")
    assert api_keys.find(spoil(text)) is None


# --- Last used ------------------------------------------------------------------------------------


def last_used(row: ApiKey) -> datetime | None:
    api_keys._cache.clear()
    row.refresh_from_db()
    return row.last_used_at


def test_the_last_use_is_noted_once_a_minute(clock: time_machine.Traveller) -> None:
    row, text = api_keys.create("acme-backend")
    assert last_used(row) is None
    found(text)
    assert last_used(row) == NOW
    clock.shift(50)
    found(text)
    assert last_used(row) == NOW
    clock.shift(11)
    found(text)
    assert last_used(row) == NOW + timedelta(seconds=61)


def test_a_wrong_secret_is_no_use() -> None:
    row, text = api_keys.create("acme-backend")
    assert api_keys.find(text[:-1] + "!") is None
    assert last_used(row) is None


# --- What it costs --------------------------------------------------------------------------------


def test_a_second_look_up_within_a_second_asks_nobody(django_assert_num_queries: Any) -> None:
    _, text = api_keys.create("acme-backend")
    first = found(text)
    with django_assert_num_queries(0):
        assert all(found(text) is first for _ in range(100))


def test_neither_does_a_second_look_up_of_a_key_that_is_unknown(django_assert_num_queries: Any) -> None:
    text = "ff_000000000000_" + "0" * 64
    with django_assert_num_queries(1):
        assert [api_keys.find(text) for _ in range(10)] == [None] * 10


def test_what_is_remembered_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_keys, "CACHE_ENTRIES", 10)
    for number in range(50):
        api_keys.find(f"ff_{number}_x")
    assert len(api_keys._cache) <= 10


def test_what_is_remembered_is_no_secret() -> None:
    _, text = api_keys.create("acme-backend")
    found(text)
    assert text not in api_keys._cache


# --- manage.py apikey -----------------------------------------------------------------------------


def test_create_prints_the_key_and_nothing_else() -> None:
    text = run("create", "acme-backend", "--scopes", "inbox:read", "inbox:write").strip()
    assert found(text).scopes == {"inbox:read", "inbox:write"}
    assert ApiKey.objects.get().name == "acme-backend"


def test_create_takes_the_days_until_it_expires(clock: time_machine.Traveller) -> None:
    run("create", "acme-backend", "--days", "30")
    assert ApiKey.objects.get().expires_at == NOW + timedelta(days=30)


@pytest.mark.parametrize(
    "arguments",
    [
        ["create", "x", "--scopes", "inbox:destroy"],
        ["create", "x", "--days", "0"],
        ["create", "x", "--days", "-1"],
        ["create", "x", "--days", "9999999999"],
        ["create", "x" * 101],
        ["create", ""],
        ["revoke", "unknown"],
        ["frobnicate"],
        [],
    ],
)
def test_what_the_command_cannot_do_is_one_clear_line(arguments: list[str]) -> None:
    with pytest.raises(CommandError) as refused:
        run(*arguments)
    assert "\n" not in str(refused.value).strip()
    assert not ApiKey.objects.exists()


def test_list_shows_every_key_and_no_secret(clock: time_machine.Traveller) -> None:
    used, text = api_keys.create("acme-backend", ["inbox:read"])
    found(text)
    revoked, _ = api_keys.create("acme-old")
    api_keys.revoke(revoked.prefix)
    expired, other = api_keys.create("acme-trial", expires_at=NOW - timedelta(seconds=1))
    both, _ = api_keys.create("acme-gone", expires_at=NOW - timedelta(seconds=1))
    api_keys.revoke(both.prefix)
    said = run("list")
    lines = {line.split()[0]: line for line in said.splitlines()}
    assert set(lines) == {used.prefix, revoked.prefix, expired.prefix, both.prefix}
    assert "alive" in lines[used.prefix]
    assert "acme-backend" in lines[used.prefix]
    assert "last used 2026-06-01 12:00" in lines[used.prefix]
    assert "inbox:read" in lines[used.prefix]
    assert "revoked" in lines[revoked.prefix]
    assert "never used" in lines[revoked.prefix]
    assert "expired" in lines[expired.prefix]
    assert text not in said
    assert other not in said
    assert used.digest not in said


def test_revoke_ends_the_key() -> None:
    row, text = api_keys.create("acme-backend")
    assert run("revoke", row.prefix) == "Revoked.\n"
    assert api_keys.find(text) is None
    with pytest.raises(CommandError):
        run("revoke", row.prefix)
