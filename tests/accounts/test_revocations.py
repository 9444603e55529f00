"""Revocations: read twice a second, whatever the order of commits, and each told once."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from accounts import revocations
from accounts.models import Revocation
from accounts.principals import Kind, Principal
from accounts.revocations import Ended, Reason
from tests.accounts.calling import at_once, service, user

pytestmark = pytest.mark.django_db

committed = pytest.mark.django_db(transaction=True)

SOON = timedelta(hours=1)


class Clock:
    """The process's own, for what is due."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("accounts.revocations.time.monotonic", clock)
    return clock


@pytest.fixture
def heard() -> Iterator[list[str]]:
    """The subjects that a listener was told."""
    subjects: list[str] = []

    def listener(news: Sequence[Ended]) -> None:
        subjects.extend(ended.subject for ended in news)

    revocations.listen(listener)
    yield subjects
    revocations.ignore(listener)


def written(subject: str, number: int | None = None, **values: Any) -> None:
    """A row of another process, perhaps with an id of our choice."""
    values = {"reason": Reason.REVOKED, "expires_at": timezone.now() + SOON} | values
    Revocation.objects.create(subject=subject, **values, **({} if number is None else {"id": number}))


def caller(credential: str = "token:1", issued_at: float = 0.0) -> Principal:
    return Principal(Kind.USER, "alice", credential=credential, issued_at=issued_at)


def ended(principal: Principal) -> str | None:
    found = revocations.find(principal)
    return found.reason if found else None


# --- What counts ----------------------------------------------------------------------------------


def test_a_credential_is_ended_by_its_name_or_its_users() -> None:
    revocations.revoke("token:1", Reason.REVOKED)
    revocations.revoke("user:bob", Reason.ERASED)
    assert ended(caller("token:1")) == "revoked"
    assert ended(caller("token:2")) is None
    assert ended(Principal(Kind.USER, "bob")) == "erased"
    assert ended(Principal(Kind.TOKEN, "9", holder="bob")) == "erased"
    assert ended(Principal(Kind.SERVICE, "bob")) is None


def test_what_was_issued_later_is_not_meant() -> None:
    now = timezone.now()
    revocations.revoke("user:alice", Reason.REVOKED, issued_until=now)
    assert ended(caller(issued_at=now.timestamp())) == "revoked"
    assert ended(caller(issued_at=now.timestamp() - 100)) == "revoked"
    assert ended(caller(issued_at=now.timestamp() + 0.001)) is None


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_of_two_revocations_the_one_that_reaches_further_counts(order: tuple[int, int]) -> None:
    now = timezone.now()
    for hours in order:
        revocations.revoke("user:alice", Reason.REVOKED, issued_until=now + hours * SOON)
    assert ended(caller(issued_at=(now + 1.5 * SOON).timestamp())) == "revoked"


@pytest.mark.parametrize("reason", [Reason.KICKED, Reason.MOVED])
def test_closing_connections_ends_no_credential(reason: Reason, heard: list[str]) -> None:
    revocations.close("user:alice", reason)
    assert ended(caller()) is None
    assert heard == ["user:alice"]


def test_closing_does_not_undo_a_revocation() -> None:
    revocations.revoke("user:alice", Reason.REVOKED)
    revocations.close("user:alice", Reason.KICKED)
    assert ended(caller()) == "revoked"


def test_a_revocation_counts_as_long_as_a_credential_can_live_unless_it_is_said(settings: Any) -> None:
    settings.CREDENTIAL_MAX_DAYS = 7
    revocations.revoke("user:alice", Reason.REVOKED)
    left = Revocation.objects.get().expires_at - timezone.now()
    assert timedelta(days=7) - timedelta(minutes=1) < left <= timedelta(days=7)


# --- When it is read ------------------------------------------------------------------------------


def test_many_requests_cost_one_query_each_half_second(
    clock: Clock, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    with django_assert_num_queries(1):
        for _ in range(1000):
            revocations.find(caller())
    clock.now += revocations.REFRESH_SECONDS - 0.01
    with django_assert_num_queries(0):
        revocations.find(caller())
    clock.now += 0.02
    with django_assert_num_queries(1):
        revocations.find(caller())
        revocations.find(caller("token:2"))


@committed
def test_many_threads_cost_one_query(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    queries: list[Any] = []
    ask = Revocation.objects.filter

    def counted(**conditions: Any) -> Any:
        queries.append(conditions)
        return ask(**conditions)

    monkeypatch.setattr(Revocation.objects, "filter", counted)
    at_once(20, lambda: revocations.find(caller()))
    assert len(queries) == 1


def test_what_another_process_ends_is_known_after_half_a_second(clock: Clock) -> None:
    assert ended(caller()) is None
    written("token:1")
    assert ended(caller()) is None
    clock.now += 0.51
    assert ended(caller()) == "revoked"


@committed
def test_what_this_process_ends_is_known_at_once_and_not_before_it_is_committed(clock: Clock) -> None:
    assert ended(caller()) is None
    with transaction.atomic():
        revocations.revoke("token:1", Reason.REVOKED)
        assert revocations.known(caller()) is None
        transaction.set_rollback(True)
    assert ended(caller()) is None
    revocations.revoke("token:1", Reason.REVOKED)
    assert ended(caller()) == "revoked"


def test_what_is_known_asks_nobody(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    written("token:1")
    with django_assert_num_queries(0):
        assert revocations.known(caller()) is None
    revocations.refresh()
    with django_assert_num_queries(0):
        assert revocations.known(caller()) is not None


# --- The order of commits -------------------------------------------------------------------------


def test_a_row_with_a_lower_id_that_is_committed_later_is_still_read(clock: Clock, heard: list[str]) -> None:
    for number, subject in ((5005, "token:5"), (5003, "token:3"), (5004, "token:4"), (5006, "token:6")):
        written(subject, number)
        clock.now += 1
        assert ended(caller(subject)) == "revoked"
    assert heard == ["token:5", "token:3", "token:4", "token:6"]


def test_so_is_one_that_is_committed_almost_a_minute_later(clock: Clock) -> None:
    revocations.refresh()
    clock.now += 70  # The first mark.
    written("token:9", 5009)
    revocations.refresh()
    clock.now += 59
    revocations.refresh()
    written("token:1", 5001)
    clock.now += 0.6
    assert ended(caller("token:1")) == "revoked"


def test_a_process_that_has_just_started_reads_what_others_have_not_committed_yet(clock: Clock) -> None:
    written("token:9", 5009)
    revocations.refresh()
    written("token:1", 5009 - revocations.SETTLED_ROWS + 1)
    clock.now += 1
    assert ended(caller("token:1")) == "revoked"


def test_what_is_settled_is_not_read_again_and_still_counts(clock: Clock, heard: list[str]) -> None:
    for number in range(1, 21):
        written(f"token:{number}", 5000 + number)
    for _ in range(6):
        revocations.refresh()
        clock.now += revocations.SETTLED_SECONDS + 1
    with CaptureQueriesContext(connection) as done:
        revocations.refresh()
    assert "5020" in done[0]["sql"]  # It asks for ids beyond.
    assert revocations._known._ids == set()
    assert ended(caller("token:1")) == "revoked"
    assert heard == [f"token:{number}" for number in range(1, 21)]
    written("token:21", 5021)
    clock.now += 1
    assert ended(caller("token:21")) == "revoked"


# --- What has ended by itself ---------------------------------------------------------------------


def test_what_ends_nothing_any_more_is_forgotten(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    written("token:1", expires_at=timezone.now() + timedelta(seconds=1))
    written("token:2")
    revocations.refresh()
    assert set(revocations._known.in_force) == {"token:1", "token:2"}
    later = timezone.now() + timedelta(seconds=2)
    monkeypatch.setattr("accounts.revocations.timezone.now", lambda: later)
    monkeypatch.setattr("accounts.revocations.time.time", later.timestamp)
    clock.now += revocations.SETTLED_SECONDS + 1
    revocations.refresh()
    assert set(revocations._known.in_force) == {"token:2"}
    revocations.purge()
    assert list(Revocation.objects.values_list("subject", flat=True)) == ["token:2"]


def test_what_has_ended_before_a_process_starts_is_not_read(heard: list[str]) -> None:
    past: datetime = timezone.now() - timedelta(seconds=1)
    written("token:1", expires_at=past)
    assert ended(caller()) is None
    assert heard == []


# --- Who listens ----------------------------------------------------------------------------------


def test_a_listener_hears_each_once_and_one_that_left_hears_no_more(clock: Clock) -> None:
    first: list[Ended] = []
    second: list[Ended] = []
    revocations.listen(first.extend)
    revocations.listen(second.extend)
    try:
        written("token:1")
        for _ in range(3):
            revocations.refresh()
            clock.now += 1
        revocations.ignore(second.extend)
        written("token:2", reason=Reason.LOGGED_OUT)
        revocations.refresh()
    finally:
        revocations.ignore(first.extend)
    assert [(one.subject, one.reason) for one in first] == [("token:1", "revoked"), ("token:2", "logged_out")]
    assert [one.subject for one in second] == ["token:1"]


# --- The database fails ---------------------------------------------------------------------------


def fail(*_: Any, **__: Any) -> Any:
    raise OperationalError("the database has gone")


def test_while_the_database_fails_nobody_gets_in(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = user("alice")
    assert alice.does("GET", "users/alice")
    clock.now += 1
    written("user:alice")
    with monkeypatch.context() as patch:
        patch.setattr(Revocation.objects, "filter", fail)
        for _ in range(2):
            with pytest.raises(OperationalError):
                revocations.find(caller())
        assert alice.refusal("GET", "users/alice") == (503, "database_unavailable")
        assert service().refusal("GET", "users/alice") == (503, "database_unavailable")
    assert ended(caller()) == "revoked"
