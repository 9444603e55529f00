"""Those who listen to a room know who is in it, whatever gets lost."""

import asyncio
import random
import secrets
import time

import pytest

from presence import availability, registry, room_scripts, rooms
from presence.shapes import StatusChange
from realtime.database import in_database
from realtime.observing import Reason
from realtime.protocol import Since
from realtime.redis_scripts import RedisDown
from tests.presence.redis import TestRedis
from tests.presence.roommates import KEY, Process, alone, fresh, known_of, no_bus, until
from tests.realtime.fakes import Recorder

__all__ = ["no_bus"]

pytestmark = pytest.mark.django_db(transaction=True)


async def say(user: str, availability_: str) -> None:
    await in_database(availability.change, user, StatusChange(availability=availability_))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(3))
async def test_snapshot_and_events_equal_a_fresh_snapshot_though_the_bus_loses_some(
    seed: int, redis: TestRedis, no_bus: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes, random joins and leaves around the size at which names become counts; a third of all is lost.

    Some users hide, and some of these show themselves again.
    """
    monkeypatch.setattr(room_scripts, "MEMBERS_MAX", 6)
    for name in ("CHANGE", "SWEEP"):
        text = getattr(room_scripts, name)
        small = text.replace("local MOST, PAUSE, EMPTY = 100, 1000", "local MOST, PAUSE, EMPTY = 6, 150")
        assert small != text
        monkeypatch.setattr(room_scripts, name, small)
    monkeypatch.setattr("presence.room_tracker.COUNT_SECONDS", 0.15)
    chance = random.Random(seed)
    processes = [Process(1 / 3, chance), Process(1 / 3, chance)]
    no_bus.extend(processes)
    topics = ["presence.a", "presence.b"]
    listeners = [(one, await one.connect(None, *topics)) for one in processes]
    inside: list[tuple[Process, Recorder]] = []
    hidden: set[str] = set()
    for step in range(140):
        if chance.random() < 1 / 7:
            user = f"u{chance.randrange(10)}"
            hidden ^= {user}
            await say(user, "invisible" if user in hidden else "available")
        elif inside and chance.random() < len(inside) / 20:
            process, connection = inside.pop(chance.randrange(len(inside)))
            process.leave(connection, chance.choice(topics))
            process.close(connection)
        else:
            process = chance.choice(processes)
            user = f"u{chance.randrange(10)}"
            inside.append((process, await process.connect(user, chance.choice(topics), info={"step": step})))
        if chance.random() < 0.3:
            await asyncio.sleep(chance.random() * 0.06)
    assert sum(one.lost for one in processes) > 5

    async def all_is_told() -> None:
        await until(lambda: not any(one.tracker._news for one in processes))
        await until(lambda: redis.client.hlen(f"{KEY}rooms-unsure") == 0)
        await until(lambda: rooms.tell_counts() == 0)  # As the sweep does each second.
        await asyncio.sleep(0.3)  # A batch may be on its way.

    await all_is_told()
    for one in processes:
        one._loses = 0
        await one.hub.check(topics)  # As the receiver does each POSITION_CHECK_SECONDS.
    for topic, (_process, listener) in ((topic, one) for topic in topics for one in listeners):
        room = rooms.room_of(topic) or ""
        await until(
            lambda: known_of(listener, topic).known == fresh(room),  # noqa: B023
            lambda: (known_of(listener, topic).known, fresh(room)),  # noqa: B023
        )
        users = {c.user for _, c in inside if topic in c.topics} - hidden
        assert {one.user for one in rooms.page(room, None, 100)[1]} == users
        told = [event for event in listener.events if event["event"] == "room"]
        assert any("snapshot" in event for event in told)
        assert any("joined" in event for event in told)
    for one in processes:
        await one.tracker.stop()


async def test_who_comes_back_to_where_the_room_stands_is_told_nothing_anew(
    redis: TestRedis, no_bus: list[Process]
) -> None:
    process = await alone(no_bus)
    alice = await process.connect("alice", "presence.a")
    await until(lambda: known_of(alice, "presence.a").known == (1, 1, {"alice": None}))
    at = Since(known_of(alice, "presence.a").epoch, 1)
    listener = Recorder(None)
    await process.subscribe(listener, "presence.a", since=at)
    assert "snapshot" not in listener.events[0]
    late = Recorder(None)
    await process.subscribe(late, "presence.a", since=Since(at.epoch, 0))
    assert late.events[0]["snapshot"]["count"] == 1
    assert late.events[0]["recovered"] is True
    await process.tracker.stop()


async def test_after_redis_was_emptied_members_are_back_and_listeners_get_a_snapshot(
    redis: TestRedis, no_bus: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("presence.room_tracker.COMPARE_SECONDS", 0.2)
    process = await alone(no_bus)
    listener = await process.connect(None, "presence.a")
    connections = [await process.connect(f"u{n}", "presence.a", info=n) for n in range(5)]
    members = {f"u{n}": n for n in range(5)}
    await until(lambda: known_of(listener, "presence.a").members == members)
    epoch = known_of(listener, "presence.a").epoch
    process.close(connections.pop())
    redis.empty()
    registry.renew(process.boot)
    del members["u4"]
    await until(lambda: known_of(listener, "presence.a").members == members)
    assert known_of(listener, "presence.a").epoch != epoch
    assert known_of(listener, "presence.a").known == fresh("a")
    await process.tracker.stop()


async def test_nobody_leaves_when_a_process_registers_under_another_id_or_a_restart_sends_them_elsewhere(
    redis: TestRedis, no_bus: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("presence.room_tracker.RESTART_SECONDS", 0.3)
    process, other = await alone(no_bus), await alone(no_bus)
    listener = await process.connect(None, "presence.a")
    alice = await process.connect("alice", "presence.a")
    await until(lambda: known_of(listener, "presence.a").count == 1)
    old, boot = process.boot, secrets.token_hex(8)
    registry.renew(boot)
    process.tracker.begin_anew(boot)
    await until(lambda: rooms.held(boot) == 1)
    registry.retire(old)
    redis.make_whole()
    assert rooms.sweep() is False
    assert rooms.held(old) == 0
    assert rooms.page("a", None, 1)[1][0].connections == 1
    process.close(alice, Reason.RESTART)
    await asyncio.sleep(0.1)
    again = await other.connect("alice", "presence.a")
    await until(lambda: rooms.page("a", None, 1)[1][0].connections == 2)
    await until(lambda: rooms.page("a", None, 1)[1][0].connections == 1)
    assert [event["left"] for event in listener.events if event.get("left")] == []
    other.close(again)
    await until(lambda: known_of(listener, "presence.a").count == 0)
    for one in (process, other):
        await one.tracker.stop()


class Poll(Recorder):
    linger = 0.3


async def test_a_poll_that_comes_back_while_it_lingers_never_left(redis: TestRedis, no_bus: list[Process]) -> None:
    process = await alone(no_bus)
    listener = await process.connect(None, "presence.a")
    polls = [Poll("polly") for _ in range(4)]
    for poll in polls:
        poll.id = polls[0].id
        await process.subscribe(poll, "presence.a")
        await asyncio.sleep(0.1)
        process.close(poll)
    (event,) = [event for event in listener.events if event["event"] == "room"]
    assert event["joined"][0]["user"] == "polly"
    await until(lambda: known_of(listener, "presence.a").count == 0)
    kicked = Poll("polly")
    await process.subscribe(kicked, "presence.a")
    await until(lambda: known_of(listener, "presence.a").count == 1)
    began = time.monotonic()
    process.close(kicked, Reason.KICKED)
    await until(lambda: known_of(listener, "presence.a").count == 0)
    assert time.monotonic() - began < Poll.linger
    await process.tracker.stop()


async def test_while_redis_is_away_who_comes_gets_nothing_yet_and_everything_once_it_is_back(
    redis: TestRedis, no_bus: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("presence.room_tracker.RETRY_SECONDS", 0.05)
    monkeypatch.setattr("realtime.redis_scripts.PAUSE_SECONDS", 0.05)
    monkeypatch.setattr("realtime.local_topic.RETRY_SECONDS", 0.05)
    process = await alone(no_bus)
    alice = await process.connect("alice", "presence.a")
    carol = await process.connect("carol", "presence.a")
    await until(lambda: known_of(alice, "presence.a").count == 2)
    script = registry.script

    def down(*_: object) -> None:
        raise RedisDown("away")

    monkeypatch.setattr(registry, "script", down)
    bob = await process.connect("bob", "presence.a")
    assert bob.events[0] == {
        "event": "subscribed",
        "topic": "presence.a",
        "epoch": None,
        "offset": 0,
        "recovered": False,
    }
    process.close(carol)
    await asyncio.sleep(0.2)
    assert len(bob.events) == 1
    monkeypatch.setattr(registry, "script", script)
    for one in (alice, bob):
        await until(lambda: known_of(one, "presence.a").members == {"alice": None, "bob": None})  # noqa: B023
        assert known_of(one, "presence.a").known == fresh("a")
    await process.tracker.stop()


async def test_more_leaves_than_can_wait_are_forgotten_and_swept_and_nobody_leaves_who_stays(
    redis: TestRedis, no_bus: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("presence.room_tracker.RETRY_SECONDS", 0.05)
    monkeypatch.setattr("presence.room_tracker.NEWS_MAX", 20)
    monkeypatch.setattr("realtime.redis_scripts.PAUSE_SECONDS", 0.05)
    process = await alone(no_bus)
    listener = await process.connect(None, "presence.a")
    stays = [await process.connect(f"stays{n}", "presence.a", info=n) for n in range(3)]
    goes = [await process.connect(f"goes{n}", "presence.a") for n in range(50)]
    await until(lambda: known_of(listener, "presence.a").count == 53)
    old = process.boot

    def down(*_: object) -> None:
        raise RedisDown("away")

    with monkeypatch.context() as away:
        away.setattr(registry, "script", down)
        away.setattr(registry, "renew", lambda _boot: None)
        for one in goes:
            process.close(one)
        for n in range(200):
            passes = Recorder(f"passes{n}")
            passes.topics = {"presence.a"}
            process.tracker.changed(passes)
            process.close(passes)
            assert len(process.tracker._news) <= len(stays) + 21
    assert process.boot != old
    registry.renew(process.boot)
    await until(lambda: rooms.held(process.boot) == 3)
    registry.retire(old)
    redis.make_whole()
    while rooms.sweep():
        pass
    users = {"stays0": 0, "stays1": 1, "stays2": 2}
    await until(lambda: known_of(listener, "presence.a").members == users)
    assert known_of(listener, "presence.a").known == fresh("a")
    left = {user for event in listener.events for user in event.get("left", ())}
    assert not left & users.keys()
    await process.tracker.stop()


async def test_who_is_in_no_room_costs_redis_nothing_and_who_stays_in_one_next_to_nothing(
    redis: TestRedis, no_bus: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    script = registry.script
    monkeypatch.setattr(registry, "script", lambda text, *args: calls.append(text) or script(text, *args))  # type: ignore[func-returns-value]
    monkeypatch.setattr("presence.room_tracker.COMPARE_SECONDS", 0.2)
    process = await alone(no_bus)
    calls.clear()
    ordinary = Recorder("alice")
    ordinary.topics = {"user.alice", "all", "presence"}
    for _ in range(100):
        process.tracker.changed(ordinary)
    await asyncio.sleep(0.5)
    assert calls == []
    for n in range(200):
        member = Recorder(f"u{n}")
        member.topics = {f"presence.{n}"}
        process.tracker.changed(member)
    await until(lambda: rooms.page("199", None, 1)[0] == 1)
    assert calls.count(room_scripts.CHANGE) == 1, "one call for all"
    calls.clear()
    await asyncio.sleep(1)
    assert set(calls) == {room_scripts.HELD}
    assert len(calls) <= 6
    await process.tracker.stop()
