"""Dead letters are kept, and sent again on request; what is old, or has failed for days, is settled."""

from datetime import timedelta
from uuid import UUID

import pytest
from django.conf import LazySettings
from django.utils import timezone

from accounts import users
from accounts.models import AuditEntry
from adapters import dead_letters, deliveries
from adapters.base import Outcome
from adapters.models import Delivery, Destination
from tests.adapters.conftest import conserved, deliver, destination, owe, states
from tests.adapters.memory import Memory

pytestmark = pytest.mark.django_db(transaction=True)


def die(*keys: str, name: str = "crm") -> list[Delivery]:
    """Owes events that the destination refuses for good."""
    owe(*keys)
    Memory.outcomes[name] = [Outcome("status 400", permanent=True)] * len(keys)
    while Delivery.objects.filter(state="pending").exists():
        Destination.objects.update(paused_until=None)
        deliver()
    return list(Delivery.objects.filter(state="dead", destination__name=name).order_by("id"))


def test_a_redriven_dead_letter_arrives_with_its_id_and_twice_is_once() -> None:
    destination()
    first, second = die("user.a", "user.b")
    assert dead_letters.redrive(None, ids=[first.pk]) == 1
    assert dead_letters.redrive(None, ids=[first.pk]) == 0
    assert states() == {"pending": 1, "dead": 1}
    assert conserved()
    deliver()
    assert dead_letters.redrive(None, ids=[first.pk]) == 0
    assert [parcel.id for _name, parcel in Memory.sent].count(first.event_id) == 2
    assert Delivery.objects.get(pk=first.pk).attempts == 1
    assert states() == {"delivered": 1, "dead": 1}
    assert second.pk in Delivery.objects.filter(state="dead").values_list("pk", flat=True)
    assert conserved()


def test_all_of_a_destination_are_redriven_and_of_no_other_and_only_since_a_time() -> None:
    destination("crm")
    old, new = die("user.a", "user.b")
    Destination.objects.filter(name="crm").update(enabled=False)
    destination("other")
    die("user.c", name="other")
    Delivery.objects.filter(pk=old.pk).update(finished_at=timezone.now() - timedelta(hours=2))
    crm = Destination.objects.get(name="crm").pk
    assert dead_letters.redrive(None, destination=crm, since=timezone.now() - timedelta(hours=1)) == 1
    assert Delivery.objects.get(pk=new.pk).state == "pending"
    assert dead_letters.redrive(None, destination=crm) == 1
    assert states("other") == {"dead": 1}


def test_redriving_is_spread_over_time(settings: LazySettings) -> None:
    settings.REDRIVES_PER_SECOND = 4
    row = destination()
    die(*(f"user.{n}" for n in range(10)))
    before = timezone.now()
    assert dead_letters.redrive(None, destination=row.pk) == 10
    waits = sorted(round((due - before).total_seconds()) for due in Delivery.objects.values_list("due_at", flat=True))
    assert waits == [0] * 4 + [1] * 4 + [2] * 2


def test_several_calls_share_the_rate(settings: LazySettings) -> None:
    settings.REDRIVES_PER_SECOND = 2
    destination()
    rows = die(*(f"user.{n}" for n in range(6)))
    before = timezone.now()
    for row in rows:
        assert dead_letters.redrive(None, ids=[row.pk]) == 1
    waits = sorted(round((due - before).total_seconds()) for due in Delivery.objects.values_list("due_at", flat=True))
    assert waits == [0, 1, 2, 3, 4, 5]


def test_what_is_redriven_while_it_is_forgotten_stays(settings: LazySettings, monkeypatch: pytest.MonkeyPatch) -> None:
    destination()
    (row,) = die("user.a")
    Delivery.objects.update(finished_at=timezone.now() - timedelta(days=settings.DEAD_LETTER_DAYS, minutes=1))
    lock = deliveries.lock

    def lock_after_a_redrive(destinations: set[UUID]) -> None:
        if destinations:
            dead_letters.redrive(None, ids=[row.pk])
        lock(destinations)

    monkeypatch.setattr(deliveries, "lock", lock_after_a_redrive)
    dead_letters.settle()
    assert states() == {"pending": 1}
    assert conserved()


def test_who_is_erased_is_erased_from_dead_letters_too_and_nobody_else_is() -> None:
    destination()
    die("user.alice", "user.user.alice", "all")
    users.ensure(["alice", "all"])
    for user in ("alice", "all"):
        assert users.erase(None, user)
    assert dead_letters.redrive(None, destination=Destination.objects.get().pk) == 2
    assert sorted(Delivery.objects.values_list("key", flat=True)) == ["", "all", "user.user.alice"]
    assert conserved()


def test_what_was_redriven_has_a_day_of_its_own(settings: LazySettings) -> None:
    destination()
    (row,) = die("user.a")
    Delivery.objects.update(owed_since=timezone.now() - timedelta(days=5))
    dead_letters.redrive(None, ids=[row.pk])
    Memory.outcomes["crm"] = [Outcome("503")]
    deliver()
    assert states() == {"pending": 1}


# --- Settling -------------------------------------------------------------------------------------


def test_what_waits_for_more_than_a_day_is_a_dead_letter_and_what_has_expired_is_none(settings: LazySettings) -> None:
    destination()
    owe("user.old", "user.new")
    owe("user.late", expires_at=timezone.now() - timedelta(seconds=1))
    day_ago = timezone.now() - timedelta(hours=settings.DELIVERY_HOURS)
    Delivery.objects.filter(key="user.old").update(owed_since=day_ago, error="503")
    dead_letters.settle()
    dead_letters.settle()
    found = dict(Delivery.objects.values_list("key", "state"))
    assert found == {"user.old": "dead", "user.new": "pending", "user.late": "expired"}
    assert Delivery.objects.get(key="user.old").error == "503"
    assert conserved()


def test_what_has_only_failed_for_days_is_turned_off_once_and_it_is_told(
    settings: LazySettings, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("down", "shorter"):
        destination(name)
        Memory.outcomes[name] = [Outcome("connection refused")] * 100
    owe(*(f"user.{n}" for n in range(10)))
    deliver()
    long_ago = timezone.now() - timedelta(days=settings.DESTINATION_FAILING_DAYS)
    Destination.objects.filter(name="down").update(failing_since=long_ago)
    dead_letters.settle()
    dead_letters.settle()
    row = Destination.objects.get(name="down")
    assert not row.enabled
    assert "connection refused" in row.disabled_reason
    assert Destination.objects.get(name="shorter").enabled
    assert AuditEntry.objects.filter(action="destination.turned_off", subject=f"destination:{row.pk}").count() == 1
    assert "down is turned off" in caplog.text
    owe("user.a")
    assert Delivery.objects.filter(destination=row.pk).count() == 10


def test_what_failed_once_and_then_had_nothing_to_do_stays_on(settings: LazySettings) -> None:
    destination()
    die("user.a")
    long_ago = timezone.now() - timedelta(days=settings.DESTINATION_FAILING_DAYS, minutes=1)
    Destination.objects.update(failing_since=long_ago)
    Delivery.objects.update(finished_at=long_ago)
    dead_letters.settle()
    assert Destination.objects.get().enabled


def test_what_is_old_is_forgotten_and_still_counted(settings: LazySettings) -> None:
    destination()
    die("user.dead")
    owe("user.delivered")
    deliver()
    owe("user.pending")
    long_ago = timezone.now() - timedelta(days=settings.DELIVERED_DAYS, minutes=1)
    Delivery.objects.exclude(state="pending").update(finished_at=long_ago)
    dead_letters.settle()
    assert states() == {"dead": 1, "pending": 1}
    assert conserved()
    long_ago = timezone.now() - timedelta(days=settings.DEAD_LETTER_DAYS, minutes=1)
    Delivery.objects.exclude(state="pending").update(finished_at=long_ago)
    dead_letters.settle()
    assert states() == {"pending": 1}
    assert Destination.objects.get().purged == 2
    assert conserved()


def test_a_deleted_destination_goes_with_all_that_it_was_owed(settings: LazySettings) -> None:
    row = destination()
    owe("user.a")
    Destination.objects.update(deleted_at=timezone.now(), enabled=False)
    dead_letters.settle()
    assert Delivery.objects.exists()  # Perhaps a process does not know it yet.
    Destination.objects.update(deleted_at=timezone.now() - timedelta(minutes=2))
    dead_letters.settle()
    assert not Delivery.objects.exists()
    assert not Destination.objects.filter(pk=row.pk).exists()
