"""What Redis keeps of connections: leases, sweeping, lists; and what it is to have lost something."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.conf import LazySettings
from django.utils import timezone

from adapters.models import Delivery, Destination
from presence import connections, registry, sweeping
from presence.connections import Wanted
from presence.models import Presence
from presence.registry import LiveConnection
from realtime.redis_scripts import RedisDown
from tests.presence.redis import TestRedis
from tests.presence.test_transitions import about, come, go, history

pytestmark = pytest.mark.django_db(transaction=True)


def sweep() -> None:
    sweeping.sweep(5)


def test_a_process_whose_lease_is_over_is_swept_and_its_users_go_after_the_grace(redis: TestRedis) -> None:
    redis.make_whole()
    come(about(1), about(2), about(3, "bob"), boot="dead")
    come(about(4, "bob"), boot="alive")
    sweep()
    redis.wait(14)
    sweep()
    assert registry.counts(["ada", "bob"]) == {"ada": 2, "bob": 2}
    registry.renew("alive")
    redis.wait(1.1)
    sweep()
    assert registry.counts(["ada", "bob"]) == {"ada": 0, "bob": 1}
    assert Presence.objects.get(pk="ada").status == "ONLINE"
    registry.renew("alive")
    redis.wait(10)
    sweep()
    assert history("ada") == [(1, "ONLINE", "opened"), (2, "OFFLINE", "node_lost")]
    assert history("bob") == [(1, "ONLINE", "opened")]
    assert redis.client.zrange("fanfare:presence:nodes", 0, -1) == ["alive"]


def test_nobody_is_swept_before_redis_has_been_whole_for_a_lease(redis: TestRedis) -> None:
    come(about(1), boot="dead")
    redis.wait(15.1)
    redis.client.delete("fanfare:presence:since")
    assert registry.lost("me", 10) is None
    redis.wait(15.1)
    assert registry.lost("me", 10) is not None


def test_when_nobody_could_call_for_long_leases_are_not_held_against_their_processes(redis: TestRedis) -> None:
    redis.make_whole()
    come(about(1))
    before = redis.since
    redis.wait(7, silent=True)
    assert registry.renew("b1").since != before  # The clock was moved.
    moved = redis.since
    registry.renew("b1")
    assert redis.since == moved
    redis.wait(60, silent=True)
    assert registry.lost("me", 10) is None
    assert redis.since > moved
    assert registry.renew("b1").since == redis.since  # By which the process sees that it has to register again.


def test_a_clock_of_redis_that_is_set_back_keeps_nobody_for_ever(redis: TestRedis) -> None:
    redis.make_whole()
    come(about(1), boot="dead")
    go(about(1), boot="other")
    redis.wait(-7200, silent=True)  # What it knows is in two hours.
    assert registry.lost("me", 10) is None
    assert registry.due(10)[0] == ["ada"]
    redis.wait(16)
    assert registry.lost("me", 10) is not None


def test_each_connection_is_taken_once_by_however_many_sweepers(redis: TestRedis) -> None:
    redis.make_whole()
    come(*(about(number, f"u{number}") for number in range(300)), boot="dead")
    redis.wait(16)
    found = registry.lost("me", 1000)
    assert found
    assert len(found.connections) == 300
    assert registry.lost("another", 1000) is None  # One at a time.
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(lambda _: registry.take(found, 10), range(4))) == 300
    assert registry.lost("me", 1000) is None


def test_however_late_a_dead_process_is_found_the_grace_of_its_users_begins_with_the_end_of_its_lease(
    redis: TestRedis,
) -> None:
    redis.make_whole()
    come(about(1), boot="dead")
    redis.wait(18)
    found = registry.lost("me", 10)
    assert found
    assert registry.take(found, 10) == 1
    assert redis.due("ada") == pytest.approx(15 + 10 - 18, abs=1)


def test_what_has_moved_to_another_boot_is_not_lost_with_the_old_one(redis: TestRedis) -> None:
    redis.make_whole()
    come(about(1), about(2, None), boot="old")
    come(about(1), about(2, None), boot="new")
    registry.retire("old")
    found = registry.lost("me", 10)
    assert found
    assert (found.boot, found.connections, len(found.moved)) == ("old", [], 2)
    assert registry.take(found, 10) == 0
    assert registry.counts(["ada"]) == {"ada": 1}
    assert [one.id for one in registry.connections("", 10)[0]] == [about(1).id, about(2).id]
    assert registry.lost("me", 10) is None


def test_a_process_that_lives_again_in_time_is_not_swept(redis: TestRedis) -> None:
    redis.make_whole()
    come(about(1), boot="slow")
    redis.wait(16)
    found = registry.lost("me", 10)
    assert found
    registry.renew("slow")
    assert registry.take(found, 10) == 0
    assert registry.counts(["ada"]) == {"ada": 1}


def test_destinations_hear_of_each_connection_of_a_dead_process(redis: TestRedis) -> None:
    Destination.objects.create(name="crm", kind="table", events=["connection.closed"])
    redis.make_whole()
    come(about(1), about(2, None), boot="dead")
    redis.wait(16)
    sweep()
    sweep()
    rows = list(Delivery.objects.order_by("key"))
    assert [(row.event, row.key) for row in rows] == [("connection.closed", ""), ("connection.closed", "user.ada")]
    data = json.loads(rows[1].body)["data"]
    assert (data["connection"]["id"], data["reason"]) == (about(1).id, "node_lost")


def test_whoever_is_online_without_a_connection_is_found_after_a_loss(
    redis: TestRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "LOOK_AT_ONCE", 2)
    Presence.objects.bulk_create(Presence(user=f"u{number}", status="ONLINE", seq=1, version=1) for number in range(7))
    come(about(1, "u3"))
    sweep()
    redis.wait(14.9)
    sweep()
    assert Presence.objects.filter(status="ONLINE").count() == 7
    registry.renew("b1")
    redis.wait(1)
    sweep()
    assert list(Presence.objects.filter(status="ONLINE").values_list("pk", flat=True)) == ["u3"]
    assert registry.look().all_seen


def test_users_online_are_looked_after_a_page_at_a_time_otherwise(
    redis: TestRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "LOOK_AT_ONCE", 2)
    redis.make_whole()
    sweep()
    Presence.objects.bulk_create(Presence(user=f"u{number}", status="ONLINE", seq=1, version=1) for number in range(5))
    counts = []
    for _ in range(4):
        sweep()
        counts.append(Presence.objects.filter(status="ONLINE").count())
    assert counts == [3, 1, 0, 0]


def test_the_clock_of_the_process_does_not_matter(redis: TestRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    redis.make_whole()
    for shift in (7200, -7200, 61, -61):
        with monkeypatch.context() as wrong:
            now, there = time.time, timezone.now
            wrong.setattr(time, "time", lambda now=now, shift=shift: now() + shift)
            wrong.setattr(timezone, "now", lambda there=there, shift=shift: there() + timedelta(seconds=shift))
            come(about(1), boot="b")
            registry.renew("b")
            go(about(1), boot="b")
            assert 9 < (redis.due("ada") or 0) <= 10
            assert registry.lost("me", 10) is None
            assert registry.due(10)[0] == []


def test_a_list_finds_what_is_there_all_the_time_once_whatever_comes_and_goes(redis: TestRedis) -> None:
    steady = [about(number * 10, None) for number in range(30)]
    come(*steady, boot="b1")
    seen: list[str] = []
    place: str | None = ""
    turn = 0
    while place is not None:
        some, place = connections.page(Wanted(), place, 7)
        seen += [one.id for one in some]
        turn += 1
        come(about(turn * 10 + 1, None), about(295 - turn, None), boot="b2", number=turn)
        go(about(turn * 10 - 9, None), boot="b2")
    assert [name for name in seen if name in {one.id for one in steady}] == [one.id for one in steady]
    assert len(seen) == len(set(seen))


def test_a_list_is_filtered_and_each_request_looks_at_a_bounded_number(
    redis: TestRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "READ_AT_ONCE", 5)
    monkeypatch.setattr(connections, "READ_MAX", 10)
    come(*(about(number, f"u{number % 3}") for number in range(24)), boot="b1")
    other = about(99, "u0")
    other.account, other.transport = "other", "poll"
    come(other, boot="b2")
    assert connections.page(Wanted(account="other"), "", 25) == ([], about(9).id)
    found: list[LiveConnection] = []
    place: str | None = ""
    while place is not None:
        some, place = connections.page(Wanted(account="other", transport="poll"), place, 25)
        found += some
    assert found == [other]
    assert [one.id for one in connections.page(Wanted(user="u0"), "", 25)[0]] == [
        *(about(number).id for number in range(0, 24, 3)),
        other.id,
    ]
    first, after = connections.page(Wanted(user="u0"), "", 4)
    rest, end = connections.page(Wanted(user="u0"), after or "", 25)
    assert (len(first), len(rest), end) == (4, 5, None)
    assert connections.page(Wanted(user="u0", transport="poll"), "", 25) == ([other], None)


def test_a_redis_that_does_not_answer_is_one_error(redis: TestRedis, settings: LazySettings) -> None:
    settings.REDIS_URL = "unix:///nowhere.sock"
    for call in (lambda: registry.counts(["ada"]), lambda: registry.renew("b"), lambda: registry.connections("", 1)):
        with pytest.raises(RedisDown):
            call()


def test_a_process_that_had_very_many_connections_is_swept_to_the_last_one(redis: TestRedis) -> None:
    """Of a hash that empties, HSCAN from the start finds nothing long before there is nothing."""
    redis.make_whole()
    many = 12_000
    for first in range(0, many, 1000):
        come(*(about(first + n, f"user-{n % 5}") for n in range(1000)), boot="dead")
    redis.wait(15.1)
    deadline = time.monotonic() + 60
    while redis.client.exists("fanfare:presence:node:dead") and time.monotonic() < deadline:
        sweep()
    assert registry.counts([f"user-{n}" for n in range(5)]) == {f"user-{n}": 0 for n in range(5)}
    assert not redis.client.exists("fanfare:presence:node:dead")
