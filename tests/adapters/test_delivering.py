"""Delivering: what is owed goes out, in order where that is promised; what fails comes again, or is a dead letter."""

import asyncio
from datetime import timedelta

import pytest
from django.conf import LazySettings
from django.utils import timezone

from adapters import deliveries
from adapters.base import Outcome
from adapters.deliveries import _backoff as backoff
from adapters.delivering import Deliverer
from adapters.models import Delivery, Destination
from tests.adapters.conftest import conserved, deliver, destination, make_due, owe, states
from tests.adapters.memory import Memory

pytestmark = pytest.mark.django_db(transaction=True)


def test_what_is_owed_arrives_once_with_its_id_and_its_body() -> None:
    destination()
    ids = owe("user.alice", "user.bob", data=b'{"a":[1]}')
    deliver()
    assert [parcel.id for _name, parcel in Memory.sent] == ids
    assert Memory.sent[0][1].body.startswith(b'{"type":"message","timestamp":"')
    assert Memory.sent[0][1].body.endswith(b'"data":{"a":[1]}}')
    deliver()
    assert len(Memory.sent) == 2
    assert states() == {"delivered": 2}
    assert conserved()


def test_of_a_batch_only_what_failed_comes_again_and_with_the_same_id() -> None:
    destination()
    ids = owe("user.a", "user.b", "user.c")
    Memory.outcomes["crm"] = [Outcome(), Outcome("503"), Outcome()]
    deliver()
    assert states() == {"delivered": 2, "pending": 1}
    failed = Delivery.objects.get(state="pending")
    assert (failed.event_id, failed.attempts, failed.error) == (ids[1], 1, "503")
    assert timedelta(seconds=15) < failed.due_at - timezone.now() < timedelta(seconds=31)
    make_due()
    deliver()
    assert [parcel.id for _name, parcel in Memory.sent] == [*ids, ids[1]]
    assert states() == {"delivered": 3}
    assert conserved()


def test_the_wait_between_attempts_grows_with_jitter_up_to_an_hour() -> None:
    for attempts, longest in ((1, 1), (3, 4), (10, 512), (13, 3600), (40, 3600)):
        waits = [backoff(attempts) for _ in range(300)]
        assert 0 <= min(waits) < longest * 0.2
        assert longest * 0.8 < max(waits) <= longest


def test_a_permanent_failure_is_a_dead_letter_at_once() -> None:
    destination()
    owe("user.a")
    Memory.outcomes["crm"] = [Outcome("status 400", permanent=True, response="what is this?")]
    deliver()
    row = Delivery.objects.get()
    assert (row.state, row.attempts, row.error, row.response) == ("dead", 1, "status 400", "what is this?")
    assert row.finished_at is not None
    assert conserved()


def test_after_a_day_of_attempts_it_is_a_dead_letter(settings: LazySettings) -> None:
    destination()
    owe("user.a")
    Delivery.objects.update(owed_since=timezone.now() - timedelta(hours=settings.DELIVERY_HOURS))
    Memory.outcomes["crm"] = [Outcome("503")]
    deliver()
    assert states() == {"dead": 1}
    assert conserved()


def test_what_asks_for_time_gets_it_and_everything_else_to_it_waits_too() -> None:
    destination()
    owe("user.a")
    Memory.outcomes["crm"] = [Outcome("429", retry_after=120)]
    deliver()
    row = Destination.objects.get()
    wait = timedelta(seconds=110)
    assert row.paused_until is not None
    assert row.paused_until - timezone.now() > wait
    assert Delivery.objects.get().due_at - timezone.now() > wait
    owe("user.b")
    deliver()
    assert len(Memory.sent) == 1


def test_after_ten_failures_in_a_row_there_is_a_pause_and_then_one_probe() -> None:
    destination()
    owe(*(f"user.{n}" for n in range(50)))
    Memory.outcomes["crm"] = [Outcome("down")] * 1000
    deliver()
    assert len(Memory.sent) == 10
    row = Destination.objects.get()
    assert row.failures == 10
    assert row.failing_since
    assert row.paused_until
    assert row.last_error == "down"
    deliver()
    assert len(Memory.sent) == 10  # It has its pause.
    make_due()
    deliver()
    assert len(Memory.sent) == 11  # The probe failed, and the next pause is longer.
    Memory.outcomes.clear()
    make_due()
    deliver()
    row = Destination.objects.get()
    assert (row.failures, row.failing_since, row.paused_until, row.last_error) == (0, None, None, "")
    assert states() == {"delivered": 50}
    assert conserved()


def test_events_that_are_refused_for_what_they_are_bring_no_pause() -> None:
    destination()
    owe(*(f"user.{n}" for n in range(30)))
    Memory.outcomes["crm"] = [Outcome("status 400", permanent=True, blames_event=True)] * 20
    deliver()
    row = Destination.objects.get()
    assert (row.failures, row.paused_until) == (0, None)
    assert states() == {"dead": 20, "delivered": 10}
    assert conserved()


def test_batches_stay_small_while_they_are_slow(settings: LazySettings) -> None:
    settings.DELIVERY_TIMEOUT = 0.4
    destination()
    Memory.seconds["crm"] = 0.2
    owe(*(f"user.{n}" for n in range(60)))
    assert asyncio.run(Deliverer().run(0.5))
    assert 20 <= len(Memory.sent) <= 40
    assert states()["delivered"] == len(Memory.sent)  # Nothing was cut off, so nothing comes twice.


def test_what_fails_now_and_then_gets_no_pause() -> None:
    destination()
    owe(*(f"user.{n}" for n in range(60)))
    Memory.outcomes["crm"] = [Outcome("down") if n % 9 else Outcome() for n in range(60)]
    deliver()
    row = Destination.objects.get()
    assert len(Memory.sent) >= 60
    assert row.paused_until is None


def test_a_slow_destination_delays_no_other() -> None:
    destination("slow")
    destination("fast")
    Memory.seconds["slow"] = 1.5
    owe(*(f"user.{n}" for n in range(30)))

    async def run() -> float:
        task = asyncio.create_task(Deliverer().run(5))
        loop = asyncio.get_running_loop()
        started = loop.time()
        while sum(name == "fast" for name, _parcel in Memory.sent) < 30:
            await asyncio.sleep(0.01)
        took = loop.time() - started
        await task
        return took

    assert asyncio.run(run()) < 1.2
    assert states("slow") == states("fast") == {"delivered": 30}


def test_where_order_counts_a_failure_holds_back_its_key_and_no_other() -> None:
    destination(kind="ordered")
    ids = owe("user.a", "user.b", "user.a", "user.b", "user.a")
    Memory.outcomes["crm"] = [Outcome("503")]
    deliver()
    assert [parcel.id for _name, parcel in Memory.sent] == [ids[0], ids[1], ids[3]]
    assert list(Delivery.objects.filter(state="pending").order_by("id").values_list("attempts", flat=True)) == [1, 0, 0]
    owe("user.a")
    deliver()
    assert len(Memory.sent) == 3  # Nothing overtakes it.
    make_due()
    deliver()
    assert [parcel.id for _name, parcel in Memory.sent[3:6]] == [ids[0], ids[2], ids[4]]
    assert states() == {"delivered": 6}
    assert conserved()


def test_an_adapter_that_raises_fails_its_batch_and_nothing_else() -> None:
    destination("explosive", options={"colour": "explosive"})
    destination("fine")
    owe("user.a")
    deliver()
    assert states("fine") == {"delivered": 1}
    row = Delivery.objects.get(destination__name="explosive")
    assert (row.state, row.attempts) == ("pending", 1)
    assert "boom" in row.error


def test_a_destination_that_cannot_be_set_up_says_why() -> None:
    destination(sealed="this was sealed with another key")
    owe("user.a")
    deliver()
    row = Destination.objects.get()
    assert "SECRETS_KEY" in row.last_error
    assert row.failures == 1
    assert Delivery.objects.get().state == "pending"
    assert Memory.sent == []


def test_what_is_too_large_or_too_late_is_not_sent() -> None:
    destination()
    owe("user.large", data=b'"' + b"x" * Memory.max_bytes + b'"')
    owe("user.late", expires_at=timezone.now() - timedelta(seconds=1))
    owe("user.right", expires_at=timezone.now() + timedelta(hours=1))
    deliver()
    found = dict(Delivery.objects.values_list("key", "state"))
    assert found == {"user.large": "dead", "user.late": "expired", "user.right": "delivered"}
    row = Destination.objects.get()
    assert (row.dead, row.expired, row.delivered) == (1, 1, 1)
    assert conserved()


def test_a_destination_that_is_off_gets_nothing_until_it_is_on() -> None:
    row = destination()
    owe("user.a")
    Destination.objects.update(enabled=False)
    deliver()
    assert Memory.sent == []
    assert states() == {"pending": 1}
    Destination.objects.filter(pk=row.pk).update(enabled=True)
    deliver()
    assert states() == {"delivered": 1}


# --- Claims ---------------------------------------------------------------------------------------


def test_two_deliverers_at_once_send_nothing_twice() -> None:
    for n in range(3):
        destination(f"crm-{n}")
    ids = owe(*(f"user.{n}" for n in range(100)))

    async def both() -> None:
        await asyncio.gather(Deliverer().run(20), Deliverer().run(20))

    asyncio.run(both())
    for n in range(3):
        assert sorted(parcel.id for name, parcel in Memory.sent if name == f"crm-{n}") == sorted(ids)


def test_what_a_dead_process_has_claimed_is_served_when_its_lease_ends() -> None:
    row = destination()
    owe("user.a")
    assert [taken.pk for taken in deliveries.take_destinations("a dead one", 10)] == [row.pk]
    assert deliveries.take_destinations("another", 10) == []
    deliver(1.0)
    assert Memory.sent == []
    Destination.objects.update(claimed_until=timezone.now() - timedelta(seconds=1))
    deliver()
    assert states() == {"delivered": 1}


def test_who_has_lost_the_claim_marks_what_was_delivered_and_nothing_else() -> None:
    row = destination()
    owe("user.a", "user.b")
    deliveries.take_destinations("the first", 1)
    Destination.objects.update(claim="the second")
    first, second = deliveries.due(row.pk, 10, ordered=False)
    assert deliveries.mark("the first", row.pk, [(first, Outcome()), (second, Outcome("503"))]) is None
    assert list(Delivery.objects.order_by("id").values_list("state", "attempts")) == [("delivered", 1), ("pending", 0)]
    assert conserved()


def test_a_lease_is_renewed_while_it_is_ours_and_given_back_at_the_end() -> None:
    row = destination()
    owe("user.a")
    deliveries.take_destinations("us", 1)
    Destination.objects.update(claimed_until=timezone.now())
    assert deliveries.renew("us", [row.pk]) == {row.pk}
    row = Destination.objects.get()
    assert row.claimed_until is not None
    assert timedelta(seconds=10) < row.claimed_until - timezone.now() <= deliveries.LEASE
    assert deliveries.renew("them", [row.pk]) == set()
    deliveries.release("us", row.pk, rest=timedelta(0))
    row = Destination.objects.get()
    assert row.claim == ""
    assert row.claimed_until is not None
    assert row.claimed_until <= timezone.now() + timedelta(seconds=1)


def test_everybody_has_a_turn_where_there_is_room_for_one(settings: LazySettings) -> None:
    settings.DESTINATIONS_AT_ONCE = 1
    for name in ("a", "b", "c"):
        destination(name)
        Memory.seconds[name] = 0.2
    owe(*(f"user.{n}" for n in range(400)))
    for _ in range(4):
        asyncio.run(Deliverer().run(0.3))
    assert all(states(name).get("delivered", 0) > 0 for name in ("a", "b", "c"))


def test_while_a_run_ends_nobody_waits_for_the_slow_ones() -> None:
    destination("slow")
    Memory.seconds["slow"] = 3.0
    owe("user.a")

    async def run() -> float:
        running = asyncio.create_task(Deliverer().run(0.2))
        await asyncio.sleep(0.6)  # Now it only waits for the slow one.
        await asyncio.to_thread(destination, "fast")
        await asyncio.to_thread(owe, "user.b")
        began = asyncio.get_running_loop().time()
        while not any(name == "fast" for name, _parcel in Memory.sent):
            await asyncio.sleep(0.01)
        took = asyncio.get_running_loop().time() - began
        await running
        return took

    assert asyncio.run(run()) < 1.0


def test_a_run_that_has_to_end_leaves_the_rest_to_the_next() -> None:
    destination()
    Memory.seconds["crm"] = 0.4
    owe(*(f"user.{n}" for n in range(100)))
    assert asyncio.run(Deliverer().run(0.5))
    assert 0 < states()["delivered"] < 100
    Memory.seconds.clear()
    assert not asyncio.run(Deliverer().run(20))
    assert states() == {"delivered": 100}
    assert len({parcel.id for _name, parcel in Memory.sent}) == len(Memory.sent)
