"""Settling: the database says what Redis says."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from django.conf import LazySettings
from django.db import connections as databases

from accounts import users
from adapters import outbox
from adapters.models import Delivery, Destination
from presence import live, registry, transitions
from presence.models import Presence, Transition
from presence.registry import Gone, LiveConnection
from presence.transitions import settle
from realtime.redis_scripts import RedisDown
from tests.presence.redis import TestRedis

pytestmark = pytest.mark.django_db(transaction=True)

ONLINE, OFFLINE = "ONLINE", "OFFLINE"
EARLY = datetime.fromtimestamp(1.0, UTC)


def about(number: int, user: str | None = "ada") -> LiveConnection:
    return LiveConnection(f"{number:032x}", user, "acme", None, "websocket", "192.0.2.1", "test", EARLY, EARLY, ["all"])


def come(*those: LiveConnection, boot: str = "b1", number: int = 1) -> list[str]:
    return registry.change(boot, number, those, []).moved


def go(*those: LiveConnection, boot: str = "b1", reason: str = "closed", grace: float = 10) -> list[str]:
    return registry.change(boot, 9, [], [Gone(one.id, one.user, reason, grace) for one in those]).moved


def history(user: str) -> list[tuple[int, str, str]]:
    return list(Transition.objects.filter(user=user).order_by("seq").values_list("seq", "status", "reason"))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """What watchers were told."""
    rows: list[tuple[str, str, int]] = []

    def publish(changed: Sequence[Presence]) -> None:
        rows.extend((row.user, row.status, row.seq) for row in changed)

    monkeypatch.setattr(live, "publish", publish)
    return rows


def test_a_first_connection_makes_a_user_online_and_the_next_ones_say_nothing(
    redis: TestRedis, told: list[Any]
) -> None:
    assert come(about(1)) == ["ada"]
    assert come(about(2), number=2) == []
    settle(["ada"])
    settle(["ada"])
    row = Presence.objects.get(pk="ada")
    assert (row.status, row.seq, row.version, row.last_seen) == (ONLINE, 1, 1, None)
    assert history("ada") == [(1, ONLINE, "opened")]
    assert told == [("ada", ONLINE, 1)]
    assert redis.due("ada") is None


def test_only_the_last_close_makes_a_user_offline_for_its_reason_and_after_the_grace(redis: TestRedis) -> None:
    redis.make_whole()
    come(about(1), about(2))
    settle(["ada"])
    assert go(about(1), reason="kicked") == []
    assert redis.due("ada") is None
    assert go(about(2), reason="timeout") == []
    assert 9 < (redis.due("ada") or 0) <= 10
    assert registry.due(10)[0] == []
    redis.wait(10)
    assert registry.due(10)[0] == ["ada"]
    settle(["ada"])
    assert history("ada") == [(1, ONLINE, "opened"), (2, OFFLINE, "timeout")]
    row = Presence.objects.get(pk="ada")
    assert row.last_seen == row.since
    assert redis.due("ada") is None


def test_coming_back_within_the_grace_says_nothing(redis: TestRedis, told: list[Any]) -> None:
    redis.make_whole()
    come(about(1))
    settle(["ada"])
    go(about(1))
    assert come(about(2)) == ["ada"]
    settle(["ada"])
    redis.wait(11)
    settle(["ada"])
    assert told == [("ada", ONLINE, 1)]
    assert redis.due("ada") is None


def test_a_logout_waits_for_nobody(redis: TestRedis) -> None:
    redis.make_whole()
    come(about(1))
    settle(["ada"])
    assert go(about(1), reason="logout", grace=0) == ["ada"]
    settle(["ada"])
    assert history("ada")[-1] == (2, OFFLINE, "logout")


def test_the_invisible_are_offline_without_a_word_about_it(redis: TestRedis) -> None:
    come(about(1))
    settle(["ada"])
    Presence.objects.filter(pk="ada").update(availability="invisible")
    settle(["ada"])
    assert history("ada")[-1] == (2, OFFLINE, "closed")
    Presence.objects.filter(pk="ada").update(availability="busy")
    settle(["ada"])
    assert history("ada")[-1] == (3, ONLINE, "opened")


def test_nobody_goes_offline_while_redis_may_not_have_everybody(redis: TestRedis) -> None:
    redis.make_whole()
    come(about(1))
    settle(["ada"])
    redis.empty()
    go(about(1), grace=0)
    settle(["ada"])
    assert history("ada") == [(1, ONLINE, "opened")]
    assert 14 < (redis.due("ada") or 0) <= 15  # When everybody who lives will have registered again.


def test_what_became_due_anew_meanwhile_stays_due(redis: TestRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    redis.make_whole()
    come(about(1))
    settle(["ada"])
    write = transitions._settle

    def slow(names: Sequence[str]) -> None:
        write(names)
        go(about(1))  # After Redis was asked.

    monkeypatch.setattr(transitions, "_settle", slow)
    settle(["ada"])
    assert 9 < (redis.due("ada") or 0) <= 10


def test_without_an_answer_of_redis_nothing_changes(redis: TestRedis, settings: LazySettings) -> None:
    come(about(1))
    settings.REDIS_URL = "unix:///nowhere.sock"
    with pytest.raises(RedisDown):
        settle(["ada"])
    assert not Presence.objects.exists()


def test_destinations_are_owed_each_change_in_the_shape_of_the_seed(redis: TestRedis) -> None:
    redis.make_whole()
    Destination.objects.create(name="crm", kind="table", events=["presence"])
    come(about(1))
    settle(["ada"])
    go(about(1), grace=0)
    settle(["ada"])
    rows = list(Delivery.objects.order_by("id"))
    assert [(row.event, row.key) for row in rows] == [("presence", "user.ada")] * 2
    bodies = [json.loads(row.body)["data"] for row in rows]
    assert [body["seq"] for body in bodies] == [1, 2]
    at = int(Transition.objects.get(seq=2).at.timestamp())
    assert bodies[1]["type"] == "presence"
    assert bodies[1]["message"] == {"user_id": "ada", "status": OFFLINE, "timestamp": at}
    assert bodies[1]["attributes"].keys() == {"source", "user_id", "timestamp"}
    assert bodies[1]["attributes"]["timestamp"] // 1000 == at
    assert bodies[1]["reason"] == "closed"


def test_a_failure_takes_the_change_back_with_all_that_belongs_to_it(
    redis: TestRedis, monkeypatch: pytest.MonkeyPatch, told: list[Any]
) -> None:
    come(about(1))

    def fail(_events: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as broken:
        broken.setattr(outbox, "owe", fail)
        with pytest.raises(ZeroDivisionError):
            settle(["ada"])
    assert not Transition.objects.exists()
    assert redis.due("ada") is not None
    assert told == []
    settle(["ada"])
    assert history("ada") == [(1, ONLINE, "opened")]


def test_the_history_keeps_the_last_hundred(redis: TestRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transitions, "HISTORY", 4)
    redis.make_whole()
    for _ in range(5):
        come(about(1), about(2, "bob"))
        settle(["ada", "bob"])
        go(about(1), grace=0)
        settle(["ada"])
    assert [seq for seq, _status, _reason in history("ada")] == [7, 8, 9, 10]
    assert history("bob") == [(1, ONLINE, "opened")]


def test_whoever_was_erased_stays_unknown_after_their_connections_close(redis: TestRedis) -> None:
    redis.make_whole()
    users.ensure(["ada"])
    come(about(1))
    settle(["ada"])
    users.erase(None, "ada")
    go(about(1))
    redis.wait(11)
    settle(registry.due(10)[0])
    assert not Presence.objects.exists()
    assert not Transition.objects.exists()
    assert redis.due("ada") is None


def test_many_at_once_settle_the_same_users_once(redis: TestRedis, settings: LazySettings) -> None:
    settings.PRESENCE_GRACE = 0
    redis.make_whole()
    names = [f"u{number}" for number in range(40)]
    come(*(about(number, name) for number, name in enumerate(names)))

    def run(turn: int) -> None:
        try:
            settle(names[:: -1 if turn % 2 else 1])
        finally:
            databases.close_all()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(8)))
    assert set(Transition.objects.values_list("seq", "status")) == {(1, ONLINE)}
    assert Transition.objects.count() == Presence.objects.filter(status=ONLINE, seq=1).count() == 40
