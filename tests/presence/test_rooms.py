"""Rooms in Redis: who is in them, and what is told of it."""

import json
import secrets
import time
from typing import Any

import pytest

from presence import registry, room_scripts, rooms
from presence.rooms import Stay
from realtime import bus
from realtime.frames import Event
from realtime.log import Position
from tests.presence.redis import TestRedis
from tests.presence.roommates import KEY, Room, fresh


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """What goes to the bus, instead of there."""
    events: list[Event] = []
    monkeypatch.setattr(bus, "publish", events.extend)
    return events


@pytest.fixture
def boot(redis: TestRedis) -> str:
    """A process that has a lease."""
    name = secrets.token_hex(8)
    registry.renew(name)
    return name


def stay(room: str, user: str, connection: str = "", *, at: int = 1000, info: Any = None) -> Stay:
    return Stay(connection or f"of-{user}", room, user, at, at, json.dumps(info).encode())


def change(*args: Any, **kwargs: Any) -> int | None:
    """With the answer that nobody hides -> how many counts are due."""
    changed = rooms.change(*args, **kwargs)
    if changed is None:
        return None
    return unveil(changed.unsure) if changed.unsure else changed.due


def unveil(unsure: dict[str, str], since: int | None = 0) -> int:
    return rooms.unveil({user: (token, since) for user, token in unsure.items()})


def bodies(events: list[Event]) -> list[dict[str, Any]]:
    """The events so far, which are forgotten."""
    found = [json.loads(event.body) for event in events]
    events.clear()
    return found


@pytest.mark.any_database
def test_a_user_with_two_connections_is_one_member_until_the_last_leaves(boot: str, published: list[Event]) -> None:
    change(boot, [stay("a", "alice", "one", info={"color": "red"})], [])
    change(boot, [stay("a", "alice", "two", at=2000)], [])
    assert [event["joined"] for event in bodies(published)] == [[{"user": "alice", "info": {"color": "red"}}]]
    assert [(one.user, one.connections) for one in rooms.page("a", None, 10)[1]] == [("alice", 2)]
    change(boot, [], [("one", "a")])
    assert bodies(published) == []
    change(boot, [], [("two", "a")])
    (event,) = bodies(published)
    assert (event["left"], event["version"]) == (["alice"], 2)
    assert rooms.page("a", None, 10) == (0, [])


@pytest.mark.any_database
def test_one_call_with_joins_and_leaves_is_one_event_for_each_room(boot: str, published: list[Event]) -> None:
    change(boot, [stay("a", "alice"), stay("a", "bob"), stay("b", "bob"), stay("b", "carol", "of-carol-too")], [])
    by_topic = {event["topic"]: event for event in bodies(published)}
    assert sorted(one["user"] for one in by_topic["presence.a"]["joined"]) == ["alice", "bob"]
    assert sorted(one["user"] for one in by_topic["presence.b"]["joined"]) == ["bob", "carol"]
    change(boot, [stay("a", "carol")], [("of-alice", "a"), ("of-bob", "b")])
    by_topic = {event["topic"]: event for event in bodies(published)}
    assert (by_topic["presence.a"]["left"], by_topic["presence.b"]["left"]) == (["alice"], ["bob"])
    assert [one["user"] for one in by_topic["presence.a"]["joined"]] == ["carol"]
    assert [event["version"] for event in by_topic.values()] == [2, 2]


@pytest.mark.any_database
def test_what_is_told_twice_changes_nothing_and_is_told_again_when_it_may_be_lost(
    boot: str, published: list[Event]
) -> None:
    change(boot, [stay("a", "alice")], [])
    change(boot, [stay("a", "alice")], [])
    assert len(bodies(published)) == 1
    change(boot, [stay("a", "alice")], [], again=True)
    (event,) = bodies(published)
    assert (event["version"], event["snapshot"]["members"]) == (1, [{"user": "alice", "info": None}])
    assert rooms.page("a", None, 10)[1][0].connections == 1


@pytest.mark.any_database
def test_the_newest_info_counts_and_one_device_that_says_nothing_takes_nothing_back(
    boot: str, published: list[Event]
) -> None:
    change(boot, [stay("a", "alice", "one", info=[])], [])
    change(boot, [stay("a", "alice", "two", at=3000, info={"n": 1.50})], [])
    change(boot, [stay("a", "alice", "three", at=4000)], [])
    change(boot, [stay("a", "alice", "four", at=2000, info="older")], [])
    assert [event["joined"][0]["info"] for event in bodies(published)] == [[], {"n": 1.5}]
    (member,) = rooms.page("a", None, 10)[1]
    assert (member.info, member.connections, member.joined_at.timestamp()) == ({"n": 1.5}, 4, 1.0)


@pytest.mark.any_database
def test_a_large_room_tells_its_count_once_a_second_and_its_members_once_it_is_small_again(
    boot: str, published: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Room()

    def follow() -> list[dict[str, Any]]:
        found = bodies(published)
        for event in found:
            known.take(event)
        return found

    most = room_scripts.MEMBERS_MAX
    change(boot, [stay("a", f"u{n:03}") for n in range(most)], [])
    (event,) = follow()
    assert len(event["joined"]) == most
    assert change(boot, [stay("a", "one-more")], []) == 0
    (event,) = follow()
    assert event == {"event": "room", "topic": "presence.a", "version": 2, "count": most + 1}
    assert "members" not in json.loads(rooms.snapshot("a").state)
    for n in range(5):
        assert change(boot, [stay("a", f"more-{n}")], []) == 1, "one count is due"
    assert rooms.tell_counts() == 1, "not yet"
    assert follow() == []
    time.sleep(room_scripts.COUNT_MS / 1000)
    assert rooms.tell_counts() == 0
    (event,) = follow()
    assert (event["count"], event["version"]) == (most + 6, 3)
    assert change(boot, [], [(f"of-more-{n}", "a") for n in range(5)] + [("of-one-more", "a")]) == 1
    assert follow() == [], "as small as it was: told with the next count"
    time.sleep(room_scripts.COUNT_MS / 1000)
    rooms.sweep()
    (event,) = follow()
    assert (event["snapshot"]["count"], len(event["snapshot"]["members"])) == (most, most)
    change(boot, [], [("of-u000", "a")])
    (event,) = follow()
    assert event["left"] == ["u000"]
    assert known.known == fresh("a")


@pytest.mark.any_database
def test_a_process_without_a_lease_is_taken_out_chunk_by_chunk_by_whoever_sweeps(
    boot: str, redis: TestRedis, published: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = secrets.token_hex(8)
    registry.renew(other)
    monkeypatch.setattr(rooms, "SWEEP_AT_ONCE", 10)
    change(boot, [stay("a", f"u{n:03}") for n in range(30)] + [stay("b", "u000", "two")], [])
    change(other, [stay("a", "u007", "elsewhere")], [])
    redis.client.zadd(f"{KEY}nodes", {boot: 1})
    assert rooms.sweep() is False, "Redis may have lost more: nobody is swept before a lease has passed"
    assert rooms.page("a", None, 1)[0] == 30
    redis.make_whole()
    while rooms.sweep():
        pass
    assert [(one.user, one.connections) for one in rooms.page("a", None, 10)[1]] == [("u007", 1)]
    assert rooms.page("b", None, 10) == (0, [])
    assert rooms.held(boot) == 0
    known: dict[str, Room] = {"presence.a": Room(), "presence.b": Room()}
    for event in bodies(published):
        known[event["topic"]].take(event)
    assert known["presence.a"].known == fresh("a")
    assert known["presence.b"].known == fresh("b")
    assert change(boot, [stay("a", "late")], []) is None, "who has no lease enters nothing"
    assert rooms.page("a", None, 10)[0] == 1


@pytest.mark.any_database
def test_an_emptied_redis_begins_a_new_epoch_and_nothing_of_an_empty_room_is_kept_for_long(
    boot: str, redis: TestRedis, published: list[Event]
) -> None:
    change(boot, [stay("a", "alice")], [])
    before = rooms.snapshot("a")
    redis.empty()
    assert rooms.positions(["a"]) == {"a": Position(None, 0)}
    registry.renew(boot)
    change(boot, [stay("a", "alice")], [])
    after = rooms.snapshot("a")
    assert (before.version, after.version) == (1, 1)
    assert after.epoch != before.epoch
    assert redis.client.ttl(f"{KEY}room-state:a") == -1
    change(boot, [], [("of-alice", "a")])
    assert 0 < redis.client.ttl(f"{KEY}room-state:a") <= room_scripts.EMPTY_SECONDS
    rest = {key.removeprefix(KEY) for key in redis.client.scan_iter(f"{KEY}room*")}
    assert rest == {"room-state:a", "room-nodes"}


@pytest.mark.any_database
def test_pages_are_in_the_order_of_ids_and_show_everybody_once(boot: str, published: list[Event]) -> None:
    users = [f"u{n:03}" for n in range(7)] + ["Ärger 😀", "-", "(x", "["]
    change(boot, [stay("a", user) for user in users], [])
    found: list[str] = []
    while True:
        count, page = rooms.page("a", found[-1] if found else None, 3)
        assert count == len(users)
        if not page:
            break
        found += [one.user for one in page]
    assert found == sorted(users, key=str.encode)
