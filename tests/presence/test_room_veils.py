"""Who hides is in no room for others: not when they come or go, and not when Redis or a process is lost."""

import json
import random
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from django.conf import LazySettings
from django.db import connection, transaction
from redis import Redis

from accounts.errors import ApiError
from presence import availability, registry, room_veils, rooms
from presence.models import Presence
from presence.rooms import Stay
from presence.shapes import Availability, StatusChange
from presence.sweeping import sweep
from presence.transitions import settle
from realtime import bus
from realtime.frames import Event
from tests.presence.redis import TestRedis
from tests.presence.roommates import KEY, Room, fresh
from tests.presence.test_rooms import stay
from tests.presence.test_transitions import about

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What listeners of rooms are told."""
    events: list[dict[str, Any]] = []

    def publish(published: list[Event]) -> None:
        events.extend(json.loads(one.body) for one in published if one.topic.startswith("presence."))

    monkeypatch.setattr(bus, "publish", publish)
    return events


@pytest.fixture
def boot(redis: TestRedis, told: list[dict[str, Any]]) -> str:
    redis.make_whole()
    return start()


def start() -> str:
    """A process with a lease."""
    name = secrets.token_hex(8)
    registry.renew(name)
    return name


def enter(boot: str, *stays: Stay, again: bool = False) -> None:
    """What a process does."""
    changed = rooms.change(boot, stays, [], again=again)
    assert changed
    room_veils.ask(changed.unsure)


def say(user: str, what: Availability) -> None:
    availability.change(user, StatusChange(availability=what))


def members(room: str = "a") -> list[str]:
    """Who is in a room, as all ways of asking say."""
    count, found = rooms.page(room, None, 100)
    state = json.loads(rooms.snapshot(room).state)
    names = [one.user for one in found]
    assert (count, sorted(names)) == (state["count"], [one["user"] for one in state["members"]])
    return names


def test_hiding_looks_like_leaving_and_showing_oneself_like_joining_with_the_same_info(
    boot: str, told: list[dict[str, Any]]
) -> None:
    registry.change(boot, 1, [about(1, "ada")], [])
    settle(["ada"])
    enter(boot, stay("a", "bob"), stay("a", "ada", "one", info={"color": "red"}), stay("b", "ada", "one"))
    told.clear()
    say("ada", "invisible")
    assert sorted((event["topic"], event["left"], event["version"]) for event in told) == [
        ("presence.a", ["ada"], 2),
        ("presence.b", ["ada"], 2),
    ]
    assert (members("a"), members("b")) == (["bob"], [])
    say("ada", "busy")
    said = {event["topic"]: event["joined"] for event in told[2:]}
    assert said == {
        "presence.a": [{"user": "ada", "info": {"color": "red"}}],
        "presence.b": [{"user": "ada", "info": None}],
    }
    ada, bob = rooms.page("a", None, 10)[1]
    assert (ada.connections, bob.joined_at.timestamp()) == (1, 1.0)
    since = Presence.objects.get(pk="ada").since
    assert abs((ada.joined_at - since).total_seconds()) < 0.002, "they were not there before, for others"
    known = Room()
    known.version, known.members = 2, {"bob": None}
    for event in told:
        if event["topic"] == "presence.a" and event["version"] > 2:
            known.take(event)
    assert known.known == fresh("a")


def test_what_somebody_who_hides_does_in_rooms_is_told_to_nobody(boot: str, told: list[dict[str, Any]]) -> None:
    say("ada", "invisible")
    enter(boot, stay("a", "bob"))
    before = rooms.snapshot("a")
    told.clear()
    enter(boot, stay("a", "ada", "one"), stay("b", "ada", "two"))
    enter(boot, stay("a", "ada", "two", at=2000, info="here"))
    rooms.change(boot, [], [("one", "a")])
    sweep(5)
    assert told == []
    assert rooms.snapshot("a") == before
    assert rooms.snapshot("b").epoch is None, "nobody was ever there"
    say("ada", "available")
    assert [event["joined"] for event in told if event["topic"] == "presence.a"] == [[{"user": "ada", "info": "here"}]]
    say("ada", "invisible")
    told.clear()
    rooms.change(boot, [], [("two", "a"), ("two", "b")])
    assert told == []
    assert set(kept()) == {"room-node", "room-nodes", "room-order", "room-state", "room-user", "room", "rooms-shown"}
    rooms.change(boot, [], [("of-bob", "a")])
    assert set(kept()) == {"room-nodes", "room-state"}


def kept() -> list[str]:
    names = registry.script(f"return redis.call('KEYS', '{KEY}room*')", [])
    return [name.removeprefix(KEY).split(":")[0] for name in names]


def test_an_emptied_redis_shows_nobody_before_the_database_was_asked(
    boot: str, redis: TestRedis, told: list[dict[str, Any]]
) -> None:
    everything = [stay("a", "ada"), stay("a", "bob")]
    enter(boot, *everything)
    say("ada", "invisible")
    redis.empty()
    boot = start()
    told.clear()
    changed = rooms.change(boot, everything, [], again=True)
    assert changed
    assert changed.unsure.keys() == {"ada", "bob"}
    assert (members(), told) == ([], [])
    room_veils.ask(changed.unsure)
    assert members() == ["bob"]
    assert [[one["user"] for one in event["joined"]] for event in told] == [["bob"]]


def test_a_redis_that_went_back_to_before_somebody_hid_is_told_so_when_all_is_registered_again(
    boot: str, redis: TestRedis, settings: LazySettings
) -> None:
    enter(boot, stay("a", "ada"), stay("a", "bob"))
    binary: Any = Redis.from_url(settings.REDIS_URL)
    copy = {key: binary.dump(key) for key in binary.keys(f"{KEY}*")}
    say("ada", "invisible")
    redis.empty()
    for key, value in copy.items():
        binary.restore(key, 0, value)
    assert members() == ["ada", "bob"]
    enter(start(), stay("a", "ada"), stay("a", "bob"), again=True)
    assert members() == ["bob"]


def test_the_sweep_asks_when_the_process_could_not(boot: str, told: list[dict[str, Any]]) -> None:
    rooms.change(boot, [stay("a", "ada")], [])
    assert members() == []
    sweep(5)
    assert members() == ["ada"]
    with transaction.atomic():
        Presence.objects.select_for_update().get(pk="ada")
        room_veils.changed("ada")
        transaction.set_rollback(True)
    assert members() == [], "a process died before its commit"
    sweep(5)
    assert members() == ["ada"]
    assert [(event["version"], bool(event["left"])) for event in told] == [(1, False), (2, True), (3, False)]


def test_an_answer_that_is_older_than_the_question_counts_for_nothing(boot: str) -> None:
    changed = rooms.change(boot, [stay("a", "ada")], [])
    assert changed
    late = {user: (token, 0) for user, token in changed.unsure.items()}
    say("ada", "invisible")  # Asks anew.
    rooms.unveil(late)
    assert members() == []


def test_who_asks_waits_for_the_commit_of_whoever_hides(boot: str) -> None:
    enter(boot, stay("a", "ada"))

    def ask() -> None:
        try:
            room_veils.ask(rooms.unsure(10))
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            Presence.objects.filter(pk="ada").update(availability="invisible")
            room_veils.changed("ada")
            asking = pool.submit(ask)
            with pytest.raises(TimeoutError):
                asking.result(0.3)
        asking.result(20)
    assert members() == []


def test_hiding_is_refused_while_redis_does_not_answer_and_the_user_stays_in_the_room(
    boot: str, settings: LazySettings
) -> None:
    enter(boot, stay("a", "ada"))
    url, settings.REDIS_URL = settings.REDIS_URL, "unix:///nowhere/valkey.sock"
    with pytest.raises(ApiError):
        say("ada", "invisible")
    settings.REDIS_URL = url
    assert members() == ["ada"]
    assert Presence.objects.get(pk="ada").availability == "available"


def test_whoever_hides_while_others_ask_is_hidden_in_the_end(boot: str) -> None:
    """Eight threads, of which one hides users: what Redis shows is what the database says, whoever was first."""
    users = [f"u{number}" for number in range(4)]

    def work(seed: int) -> None:
        chance = random.Random(seed)
        try:
            for step in range(15):
                user = chance.choice(users)
                if seed == 0:
                    hides = chance.random() < 0.5
                    say(user, "invisible" if hides else "away")
                    assert not hides or user not in {one.user for one in rooms.page("a", None, 10)[1]}
                elif chance.random() < 0.3:
                    rooms.change(boot, [], [(f"of-{user}", "a")])
                else:
                    enter(boot, stay("a", user, at=step + 1), again=chance.random() < 0.3)
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    enter(boot, *(stay("a", user) for user in users))
    sweep(5)
    hidden = set(Presence.objects.filter(availability="invisible").values_list("pk", flat=True))
    assert set(members()) == set(users) - hidden


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_nobody_is_shown_who_hides(seed: int, boot: str, redis: TestRedis, told: list[Any]) -> None:
    """Two processes that die, a Redis that is lost, questions that nobody answers: after each step."""
    chance = random.Random(seed)
    boots: dict[str, dict[tuple[str, str], Stay]] = {boot: {}, start(): {}}
    users, names = [f"u{number}" for number in range(5)], ["a", "b"]
    hidden: set[str] = set()

    def tell(boot: str, stays: list[Stay], leaves: list[tuple[str, str]], *, again: bool = False) -> None:
        changed = rooms.change(boot, stays, leaves, again=again)
        if changed and chance.random() < 0.7:
            room_veils.ask(changed.unsure)

    def come() -> None:
        boot = chance.choice(list(boots))
        user, room = chance.choice(users), chance.choice(names)
        one = replace(stay(room, user, f"{boot}-{user}"), said_at=chance.randrange(10**6))
        boots[boot][one.connection, room] = one
        tell(boot, [one], [])

    def go() -> None:
        boot = chance.choice(list(boots))
        if boots[boot]:
            key = chance.choice(list(boots[boot]))
            del boots[boot][key]
            tell(boot, [], [key])

    def hide_or_show() -> None:
        user = chance.choice(users)
        hidden.symmetric_difference_update({user})
        say(user, "invisible" if user in hidden else "available")

    def die() -> None:
        boot = chance.choice(list(boots))
        del boots[boot]
        registry.retire(boot)
        boots[start()] = {}

    def lose_redis() -> None:
        redis.empty()
        redis.make_whole()
        for boot, stays in boots.items():
            registry.renew(boot)
            tell(boot, list(stays.values()), [], again=True)

    steps: list[Callable[[], None]] = [come] * 6 + [go] * 3 + [hide_or_show] * 4 + [die, lose_redis]
    for _ in range(60):
        told.clear()
        chance.choice(steps)()
        if chance.random() < 0.2:
            sweep(5)
        for room in names:
            assert not hidden.intersection(members(room))
        assert not hidden.intersection(one["user"] for event in told for one in event.get("joined", ()))
    sweep(5)
    sweep(5)
    for room in names:
        there = {one.user for stays in boots.values() for one in stays.values() if one.room == room}
        assert set(members(room)) == there - hidden
