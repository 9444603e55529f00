"""What is not stored reaches sessions that poll, too: once, soon, and at the cost of nothing where nobody polls."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import time_machine
from redis import Redis

from notifications import preferences
from realtime import redis_scripts
from realtime.frames import Event
from realtime.redis_scripts import RedisDown
from sessions_app import notices
from sessions_app.models import BrowserSession
from sessions_app.receiving import Handed, Receive, serve
from tests.sessions_app.receivers import body, open_one, receive, send

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def redis(settings: Any) -> Iterator["Redis"]:
    """Nobody has polled yet."""
    with Redis.from_url(settings.REDIS_URL) as redis:
        for key in redis.scan_iter("fanfare:sessions:*"):
            redis.delete(key)
        notices._nobody_until = 0.0
        yield redis


def tell(*texts: str, topic: str = "user.alice", **more: Any) -> None:
    events = [Event(topic, b'{"event":"task","note":"%s"}' % text.encode(), **more) for text in texts]
    asyncio.run(notices.keep(events))


def told(session: str, most: int = 10) -> list[str]:
    return [body(message)["note"] for message in receive(session, most)]


def test_what_comes_between_two_polls_is_there_at_the_next_one_and_only_there() -> None:
    session, other = open_one("alice"), open_one("bob")
    tell("before anybody has polled")
    assert told(session) == told(other) == []
    notices._nobody_until = 0.0
    tell("a", "b")
    tell("c", topic="all")
    tell("d", topic="account.elsewhere")
    assert told(session) == ["a", "b", "c"]
    assert told(session) == []
    assert told(other) == ["c"]


def test_it_needs_no_receipt_and_comes_after_what_is_stored() -> None:
    session = open_one()
    receive(session)
    tell("a")
    (id,) = send("user.alice")
    stored, notice = receive(session)
    assert stored.messageId == id
    assert notice.receipt == ""
    assert notice.messageId not in ("", id)
    assert receive(session) == []


def test_there_are_never_more_than_asked_for_and_the_rest_comes_next_in_order() -> None:
    session = open_one()
    receive(session)
    for number in range(5):
        tell(f"u{number}")
        tell(f"a{number}", topic="all")
    (id,) = send("all")
    (stored,) = receive(session, 1)
    assert stored.messageId == id
    got = [note for _ in range(4) for note in told(session, 3)]
    assert got == [f"{kind}{number}" for number in range(5) for kind in "ua"]


def test_so_many_of_a_topic_are_kept_and_not_for_long(redis: "Redis") -> None:
    with time_machine.travel("2026-06-01T12:00:00Z", tick=False) as clock:
        session = open_one()
        receive(session)
        tell(*map(str, range(notices.KEPT_EVENTS + 5)))
        assert told(session)[0] == "5"
        clock.shift(notices.KEPT_SECONDS + 1)
        assert told(session) == []
    names = list(redis.scan_iter("fanfare:sessions:*"))
    lives = {name.decode(): redis.ttl(name) for name in names if not name.endswith(b":seq")}
    assert lives
    assert all(0 < life <= notices.WANTED_SECONDS for life in lives.values()), lives


def test_who_takes_over_an_id_is_not_told_what_came_before() -> None:
    told(open_one("alice", id="taken"))
    tell("a", topic="session.taken")
    BrowserSession.objects.all().delete()
    session = open_one("bob", id="taken")
    assert told(session) == []
    tell("b", topic="session.taken")
    assert told(session) == ["b"]


def test_who_is_excluded_or_mutes_the_type_is_not_told() -> None:
    preferences.replace("alice", {"ad": "inbox"})
    session, other = open_one("alice"), open_one("bob")
    receive(session)
    receive(other)
    tell("a", topic="all", exclude=frozenset(["alice"]))
    tell("b", topic="all", type="ad")
    tell("c", topic="all", type="order")
    assert told(session) == ["c"]
    assert told(other) == ["a", "b", "c"]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The scripts that Redis was asked to run."""
    calls: list[str] = []

    def counted(script: str, *args: Any, **more: Any) -> Any:
        calls.append(script)
        return redis_scripts.run(script, *args, **more)

    monkeypatch.setattr(notices, "run", counted)
    return calls


def test_where_nobody_polls_redis_is_asked_once_a_second_at_most(calls: list[str]) -> None:
    tell("a", topic="board.x")
    assert calls == []
    for _ in range(50):
        tell("a")
    assert len(calls) == 1


def test_a_batch_costs_one_call_and_so_do_many_sessions(calls: list[str]) -> None:
    sessions = [open_one(f"u{number}") for number in range(20)]
    serve([Receive(session, 10, 30) for session in sessions])
    assert len(calls) == 1
    tell(*"abc", topic="all")
    assert len(calls) == 2
    answers = serve([Receive(session, 10, 30) for session in sessions])
    assert [len(answer.messages) for answer in answers if isinstance(answer, Handed)] == [3] * 20
    assert len(calls) == 3


def test_redis_that_does_not_answer_is_no_reason_not_to_receive(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: Any, **_more: Any) -> Any:
        raise RedisDown

    session = open_one()
    (id,) = send("user.alice")
    monkeypatch.setattr(notices, "run", fail)
    assert [message.messageId for message in receive(session)] == [id]
    tell("a")
