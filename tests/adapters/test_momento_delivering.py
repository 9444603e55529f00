"""From a request to a topic at Momento, and what becomes of events while Momento is away."""

import json
from typing import Any
from uuid import UUID

import grpc
import pytest

from adapters.models import Delivery, Destination
from tests.accounts.calling import Api, service
from tests.adapters.conftest import conserved, deliver, destination, make_due, owe, states
from tests.emulators.momento import Momento

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("at_momento")]

CACHE = "fanfare-test"


@pytest.fixture
def backend() -> Api:
    return service()


def texts(momento: Momento, topic: str) -> list[Any]:
    return [json.loads(text) for text in momento.published(CACHE, topic)]


def ids(momento: Momento, topic: str) -> list[UUID]:
    return [UUID(text["id"]) for text in texts(momento, topic)]


def test_what_is_accepted_is_published_and_what_is_too_large_is_read_by_its_pointer(
    momento: Momento, backend: Api
) -> None:
    destination("momento", "momento", events=["message"])
    small = backend.does("POST", "notifications", {"to": {"user": "alice"}, "type": "a.b", "data": {"n": 1}})
    large = backend.does("POST", "notifications", {"to": {"user": "alice"}, "data": {"text": "é" * 5000}})
    everybody = backend.does("POST", "notifications", {"to": {"all": True}, "data": "hello"})
    deliver()
    first, second = texts(momento, "alice")
    assert (first["id"], first["data"]["type"], first["data"]["data"]) == (small["id"], "a.b", {"n": 1})
    assert [text["id"] for text in texts(momento, "all")] == [everybody["id"]]
    pointer = second["pointer"]
    assert (second["id"], "data" in second) == (large["id"], False)
    [message] = backend.does("GET", f"topics/{pointer['topic']}/messages", since=pointer["offset"] - 1)["messages"]
    assert (message["id"], message["data"]) == (large["id"], {"text": "é" * 5000})


@pytest.mark.parametrize("way", ["down", "refused", "limited", "without a cache"])
def test_nothing_is_lost_and_the_order_is_kept_while_momento_takes_nothing(momento: Momento, way: str) -> None:
    destination("momento", "momento")
    before = owe("user.alice", "user.alice", "user.bob")
    deliver()
    if way == "down":
        momento.stop()
    elif way == "without a cache":
        del momento.store.caches[CACHE]
    else:
        code = {"refused": grpc.StatusCode.UNAUTHENTICATED, "limited": grpc.StatusCode.RESOURCE_EXHAUSTED}[way]
        momento.fail("Publish", code)
    meanwhile = owe("user.alice", "user.bob", "user.alice")
    deliver()
    assert states("momento") == {"delivered": 3, "pending": 3}
    assert Destination.objects.get().failures > 0
    said = Delivery.objects.filter(attempts__gt=0, state="pending").values_list("error", flat=True)
    assert said
    assert momento.api_key not in " ".join(said)
    momento.start()
    momento.heal()
    momento.create_cache(CACHE)
    for _ in range(20):
        make_due()
        deliver()
        if "pending" not in states("momento"):
            break
    assert states("momento") == {"delivered": 6}
    assert ids(momento, "alice") == [*before[:2], meanwhile[0], meanwhile[2]]
    assert ids(momento, "bob") == [before[2], meanwhile[1]]
    assert conserved("momento")


def test_what_was_taken_without_saying_so_comes_again_with_the_same_id(momento: Momento) -> None:
    destination("momento", "momento")
    [event] = owe("user.alice")
    momento.fail("Publish", grpc.StatusCode.UNAVAILABLE, times=1, late=True)
    deliver()
    make_due()
    deliver()
    assert states("momento") == {"delivered": 1}
    assert ids(momento, "alice") == [event, event]


def test_a_limit_gives_the_destination_a_pause(momento: Momento) -> None:
    destination("momento", "momento")
    owe(*(f"user.{number}" for number in range(30)))
    momento.fail("Publish", grpc.StatusCode.RESOURCE_EXHAUSTED, cause="operations_rate_limit_exceeded")
    deliver()
    assert momento.calls("Publish") <= 16
    assert Destination.objects.get().paused_until is not None
    assert conserved("momento")
