"""What a web process tells Redis of its connections, and when."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import LazySettings

from accounts import revocations
from adapters.models import Delivery, Destination
from presence import registry, scripts, sweeping, tracker
from presence.models import Presence
from realtime.observing import Reason
from realtime.redis_scripts import RedisDown
from tests.presence.processes import Process
from tests.presence.redis import TestRedis
from tests.presence.test_transitions import history

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def process(redis: TestRedis) -> Iterator[Process]:
    redis.make_whole()
    made = Process()
    yield made
    made.kill()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The scripts that were run."""
    names = {text: name for name, text in vars(scripts).items() if name.isupper()}
    run, made = registry.script, []

    def noting(text: str, *args: Any) -> Any:
        made.append(names[text])
        return run(text, *args)

    monkeypatch.setattr(registry, "script", noting)
    return made


def status(user: str = "ada") -> str | None:
    return Presence.objects.filter(pk=user).values_list("status", flat=True).first()


def test_a_batch_of_connections_is_one_call_and_settles_at_once(process: Process, calls: list[str]) -> None:
    for number in range(50):
        process.come(f"u{number}")
    process.come(None)
    process.flush()
    assert calls.count("CHANGE") == 1
    assert Presence.objects.filter(status="ONLINE", seq=1).count() == 50
    listed, after = registry.connections("", 100)
    assert (len(listed), after) == (51, None)


def test_what_is_kept_of_a_connection_is_what_lists_show(process: Process) -> None:
    connection = process.come(agent="x" * 500)
    connection.topics |= {"user.ada", "all"}
    process.call(process.tracker.changed, connection)
    process.flush()
    (one,) = registry.connections_of("ada")
    assert abs(one.connected_at.timestamp() - time.time()) < 20
    assert (one.id, one.user, one.account, one.session, one.transport, one.address, one.agent, one.topics) == (
        connection.id,
        "ada",
        "acme",
        None,
        "websocket",
        "192.0.2.1",
        "x" * 200,
        ["all", "user.ada"],
    )


def test_of_a_busy_client_redis_hears_once_a_minute_and_of_an_idle_one_never(
    process: Process, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    process.come("idle")
    connection = process.come()
    process.flush()
    for _ in range(20):
        process.call(process.tracker.changed, connection)
        process.flush()
    assert calls.count("CHANGE") == 1
    now = process.loop.time
    monkeypatch.setattr(process.loop, "time", lambda: now() + 61)
    process.call(process.tracker.changed, connection)
    process.flush()
    assert calls.count("CHANGE") == 2
    calls.clear()
    process.renew()
    assert calls == ["RENEW"]


def test_a_connection_that_is_gone_before_it_was_told_of_costs_no_word(process: Process) -> None:
    process.go(process.come())
    process.flush()
    assert registry.counts(["ada"]) == {"ada": 0}
    assert status() is None


@pytest.mark.parametrize(
    ("reason", "kept", "seconds"),
    [
        (Reason.CLOSED, "closed", 10),
        (Reason.TIMEOUT, "timeout", 10),
        (Reason.KICKED, "kicked", 10),
        (Reason.RESTART, "closed", 60),
    ],
)
def test_each_way_of_leaving_has_its_reason_and_its_grace(
    process: Process, redis: TestRedis, reason: Reason, kept: str, seconds: float
) -> None:
    connection = process.come()
    process.flush()
    process.go(connection, reason)
    process.flush()
    assert seconds - 2 < (redis.due("ada") or 0) <= seconds
    redis.wait(seconds)
    process.renew()
    sweeping.sweep(5)
    assert history("ada")[-1] == (2, "OFFLINE", kept)


def test_a_logout_and_no_grace_are_offline_at_once(process: Process, settings: LazySettings) -> None:
    for user, reason, grace in (("ada", Reason.LOGOUT, 10), ("bob", Reason.CLOSED, 0)):
        settings.PRESENCE_GRACE = grace
        connection = process.come(user)
        process.flush()
        process.go(connection, reason)
        process.flush()
        assert history(user) == [(1, "ONLINE", "opened"), (2, "OFFLINE", reason.value)]


def test_a_poll_that_comes_back_is_the_same_connection(process: Process, calls: list[str]) -> None:
    first = process.poll()
    process.flush()
    process.go(first)
    process.flush()
    again = process.poll()
    other = process.poll()  # At the same time.
    third = process.poll(agent="another")
    assert again.id == first.id
    assert len({again.id, other.id, third.id}) == 3
    process.flush()
    assert registry.counts(["ada"]) == {"ada": 3}
    process.go(again)
    assert process.poll().id == first.id
    assert history("ada") == [(1, "ONLINE", "opened")]


def test_a_poll_that_does_not_come_back_is_closed_after_its_linger(process: Process) -> None:
    first = process.poll()
    process.flush()
    process.go(first)
    entry = process.tracker._entries[first.id]
    assert entry.linger
    assert 28 < entry.linger.when() - process.loop.time() <= 30
    process.call(process.tracker._give_up, entry)
    process.flush()
    assert registry.counts(["ada"]) == {"ada": 0}
    assert not process.tracker._lingering
    assert process.poll().id != first.id


@pytest.mark.parametrize(
    ("subject", "why", "reason"),
    [
        ("user:ada", revocations.Reason.KICKED, "kicked"),
        ("connection:<id>", revocations.Reason.KICKED, "kicked"),
        ("user:ada", revocations.Reason.LOGGED_OUT, "logout"),
        ("user:bob", revocations.Reason.KICKED, None),
    ],
)
def test_between_two_requests_a_poll_can_be_sent_away(
    process: Process, subject: str, why: revocations.Reason, reason: str | None
) -> None:
    poll = process.poll()
    process.flush()
    process.go(poll)
    ended = revocations.Ended(subject.replace("<id>", poll.id), why, time.time(), time.time() + 60)
    process.call(process.tracker._end_lingering, {ended.subject: tracker.ENDINGS[why]})
    process.flush()
    assert registry.counts(["ada"]) == {"ada": 0 if reason else 1}
    if reason == "logout":  # No grace.
        assert history("ada")[-1] == (2, "OFFLINE", "logout")
    elif reason:
        assert registry.census(["ada"]).users["ada"].reason == reason


def test_a_poll_that_is_sent_away_does_not_linger(process: Process) -> None:
    first = process.poll()
    process.flush()
    process.go(first, Reason.KICKED)
    process.flush()
    assert registry.counts(["ada"]) == {"ada": 0}


def test_what_comes_while_redis_is_away_is_told_when_it_is_back(
    process: Process, redis: TestRedis, settings: LazySettings
) -> None:
    process.come("ada")
    goes = process.come("bob")
    process.flush()
    url, settings.REDIS_URL = settings.REDIS_URL, "unix:///nowhere.sock"
    process.go(goes)
    process.come("eve")
    process.go(process.come("ida"))
    for step in (process.flush, process.renew):
        with pytest.raises(RedisDown):
            step()
    settings.REDIS_URL = url
    process.flush()
    assert registry.counts(["ada", "bob", "eve", "ida"]) == {"ada": 1, "bob": 0, "eve": 1, "ida": 0}


def test_more_closed_connections_than_can_wait_are_forgotten_and_swept(
    process: Process, redis: TestRedis, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who stays is ONLINE all the time, and who went, told or forgotten, OFFLINE after lease and grace at most."""
    monkeypatch.setattr(tracker, "GONE_MAX", 100)
    stays = [f"stays{number}" for number in range(5)]
    goes = [f"goes{number}" for number in range(150)]
    for user in stays:
        process.come(user)
    leaving = [process.come(user) for user in goes]
    process.flush()
    url, settings.REDIS_URL = settings.REDIS_URL, "unix:///nowhere.sock"
    for connection in leaving:
        process.go(connection)
    for number in range(1000):
        process.go(process.come(f"passes{number}"))
        assert len(process.tracker._news) <= len(process.tracker._entries) + 100
    late = process.come("late")
    with pytest.raises(RedisDown):
        process.flush()
    assert len(process.tracker._news) <= len(process.tracker._entries) + 100
    settings.REDIS_URL = url
    process.flush()
    assert {user for user, count in registry.counts([*stays, "late"]).items() if count} == {*stays, "late"}
    for _ in range(6):
        redis.wait(5)
        process.renew()
        process.flush()
        sweeping.sweep(5)
    counts = registry.counts([*stays, *goes, "late"])
    assert {user for user, count in counts.items() if count} == {*stays, "late"}
    assert set(Presence.objects.filter(status="ONLINE").values_list("pk", flat=True)) == {*stays, "late"}
    assert {row.seq for row in Presence.objects.filter(status="ONLINE")} == {1}, "nobody went OFFLINE who was there"
    assert {row.seq for row in Presence.objects.filter(pk__in=goes)} == {2}
    assert redis.client.zcard("fanfare:presence:nodes") == 1
    process.go(late)
    process.flush()
    assert registry.counts(["late"]) == {"late": 0}


def test_an_emptied_redis_is_told_again_at_the_next_renewal(process: Process, redis: TestRedis) -> None:
    for number in range(1200):  # More than one call takes.
        process.come(f"u{number % 30}")
    process.flush()
    redis.empty()
    process.renew()
    process.flush()
    assert sum(registry.counts([f"u{number}" for number in range(30)]).values()) == 1200
    process.renew()
    assert not process.tracker._lost
    assert {row.seq for row in Presence.objects.all()} == {1}


def test_a_redis_that_went_back_a_second_is_noticed(process: Process, redis: TestRedis) -> None:
    process.come("ada")
    process.flush()
    flushes = redis.client.hgetall("fanfare:presence:flushes")
    process.come("bob")
    process.flush()
    # One came and one went since: the number of connections would not tell.
    boot = process.tracker._boot
    redis.client.hset("fanfare:presence:flushes", mapping=flushes)
    redis.client.delete("fanfare:presence:user:bob")
    process.renew()
    process.flush()
    assert registry.counts(["ada", "bob"]) == {"ada": 1, "bob": 1}
    assert process.tracker._boot != boot


def test_whoever_was_taken_for_dead_is_back_after_the_next_renewal(process: Process, redis: TestRedis) -> None:
    process.come("ada")
    process.flush()
    redis.wait(16)
    sweeping.sweep(5)
    redis.wait(10.1)
    sweeping.sweep(5)
    assert status() == "OFFLINE"
    process.renew()
    process.flush()
    assert [change[1:] for change in history("ada")] == [
        ("ONLINE", "opened"),
        ("OFFLINE", "node_lost"),
        ("ONLINE", "opened"),
    ]


def test_a_process_that_stops_says_so_and_leaves_nothing(process: Process, redis: TestRedis) -> None:
    process.come("ada")
    process.poll("bob")
    lingering = process.poll("eve")
    process.go(lingering)
    process.flush()
    process.stop()
    keys = sorted(redis.client.keys("fanfare:presence:*"))
    assert keys == [f"fanfare:presence:{name}" for name in ("due", "heard", "reasons", "since")]
    assert all(58 < (redis.due(user) or 0) <= 60 for user in ("ada", "bob", "eve"))


def test_stopping_takes_its_time_when_nobody_answers_but_no_more_than_that(
    process: Process, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker, "STOP_SECONDS", 0.3)
    monkeypatch.setattr(registry, "change", lambda *_args: time.sleep(0.8))
    process.come()
    began = time.monotonic()
    process.run(process.tracker.stop)
    assert time.monotonic() - began < 0.7


def test_destinations_hear_of_connections_that_are_opened_and_closed(process: Process, settings: LazySettings) -> None:
    Destination.objects.create(name="crm", kind="table", events=["connection.opened", "connection.closed"])
    first = process.come("ada")
    process.flush()
    process.go(first, Reason.KICKED)
    process.go(process.come(None))
    process.flush()
    rows = [(row.event, row.key, json.loads(row.body)["data"]) for row in Delivery.objects.order_by("id")]
    assert [(event, key, data["reason"]) for event, key, data in rows] == [
        ("connection.opened", "user.ada", "opened"),
        ("connection.opened", "", "opened"),
        ("connection.closed", "user.ada", "kicked"),
        ("connection.closed", "", "closed"),
    ]
    assert rows[0][2]["connection"]["id"] == first.id
    assert "topics" not in rows[0][2]["connection"]


def test_a_failed_call_is_made_again_without_a_second_event(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    Destination.objects.create(name="crm", kind="table", events=["connection.opened", "connection.closed"])
    process.go(process.come())
    with monkeypatch.context() as broken:

        def fail(*_args: object) -> None:
            raise RedisDown

        broken.setattr(registry, "change", fail)
        with pytest.raises(RedisDown):
            process.flush()
    process.flush()
    assert [row.event for row in Delivery.objects.order_by("id")] == ["connection.opened", "connection.closed"]
