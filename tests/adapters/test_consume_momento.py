"""Records from topics of Momento: in order, each once, through restarts, gaps and new keys."""

import threading
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from django.conf import LazySettings

from adapters import metrics, secret_values
from adapters.models import Checkpoint
from adapters.sources import base
from adapters.sources import momento as source_module
from notifications.models import Message
from tests.adapters.consuming import BAD, consuming, dead, good, taken, until
from tests.emulators.momento import Momento

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def topic(momento: Momento, settings: LazySettings, monkeypatch: pytest.MonkeyPatch) -> Momento:
    """The cache `c`, whose topic `t` is the source `shop`."""
    momento.create_cache("c")
    settings.MOMENTO_ENDPOINT = momento.endpoint
    settings.MOMENTO_PLAINTEXT = True
    settings.MOMENTO_API_KEY = momento.api_key
    settings.INGEST_SOURCES = {"shop": {"kind": "notification", "momento": {"cache": "c", "topic": "t"}}}
    monkeypatch.setattr(source_module, "SHARE_SECONDS", 0.2)
    monkeypatch.setattr(base, "backoff", lambda _failures, _least, _most: 0.05)
    return momento


def listened(momento: Momento) -> None:
    until(lambda: momento.subscribers("c", "t") == 1)


def say(momento: Momento, *numbers: int) -> None:
    for number in numbers:
        momento.publish("c", "t", good(number))


def gaps() -> float:
    return float(metrics.source_gaps.labels("shop")._value.get())


def test_messages_are_taken_in_order_and_the_position_is_kept(topic: Momento) -> None:
    with consuming("shop"):
        listened(topic)
        say(topic, *range(20))
        topic.publish("c", "t", good(20).encode())  # As bytes.
        until(lambda: Message.objects.count() == 21)
    assert taken() == list(range(21))
    (checkpoint,) = Checkpoint.objects.all()
    assert (checkpoint.part, checkpoint.position, checkpoint.claim) == ("c/t", "1:21", "")


def test_what_comes_while_nobody_reads_is_taken_later(topic: Momento) -> None:
    with consuming("shop"):
        listened(topic)
        say(topic, 0)
        until(lambda: taken() == [0])
    say(topic, 1, 2)
    with consuming("shop"):
        until(lambda: taken() == [0, 1, 2])


def test_what_was_taken_before_a_kill_counts_once(topic: Momento) -> None:
    """The position is kept after the records: the last ones come again."""
    with consuming("shop"):
        listened(topic)
        say(topic, 0, 1, 2)
        until(lambda: len(taken()) == 3)
    Checkpoint.objects.update(position="1:1")
    say(topic, 3)
    with consuming("shop"):
        until(lambda: len(taken()) == 4)
    assert taken() == [0, 1, 2, 3]


def test_a_bad_message_dies_and_blocks_none(topic: Momento, settings: LazySettings) -> None:
    settings.INGEST_TRIES = 2
    with consuming("shop"):
        listened(topic)
        topic.publish("c", "t", BAD)
        topic.publish("c", "t", "no JSON")
        say(topic, 1)
        until(lambda: taken() == [1] and len(dead()) == 2)
    assert sorted(dead()) == ["c/t:1:1", "c/t:1:2"]


def test_a_gap_is_counted_and_the_rest_is_taken(topic: Momento) -> None:
    with consuming("shop"):
        listened(topic)
        say(topic, 0)
        until(lambda: taken() == [0])
    before = gaps()
    say(topic, 1)
    topic.forget("c", "t")
    say(topic, 2)
    with consuming("shop"):
        until(lambda: taken() == [0, 2])
        assert gaps() == before + 1
        topic.turn_page("c", "t")
        say(topic, 3)
        until(lambda: taken() == [0, 2, 3])
        assert gaps() == before + 2
    assert Checkpoint.objects.get().position == "2:1"


def test_it_goes_on_after_momento_was_away(topic: Momento) -> None:
    with consuming("shop"):
        listened(topic)
        say(topic, 0)
        until(lambda: taken() == [0])
        topic.stop()
        say(topic, 1)
        topic.start()
        say(topic, 2)
        until(lambda: taken() == [0, 1, 2])


def test_a_new_key_is_taken_up_before_the_old_one_ends(
    topic: Momento, settings: LazySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key"
    path.write_text(topic.api_key)
    settings.MOMENTO_API_KEY = f"file:{path}"
    monkeypatch.setattr(secret_values, "FRESH_SECONDS", 0.1)
    with consuming("shop"):
        listened(topic)
        say(topic, 0)
        until(lambda: taken() == [0])
        calls = topic.calls("Subscribe")
        path.write_text(topic.new_key())
        until(lambda: topic.calls("Subscribe") == calls + 1)
        topic.revoke(topic.api_key)
        say(topic, 1)
        until(lambda: taken() == [0, 1])


def test_a_key_that_is_revoked_stops_it_until_there_is_another(
    topic: Momento, settings: LazySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key"
    path.write_text(topic.api_key)
    settings.MOMENTO_API_KEY = f"file:{path}"
    monkeypatch.setattr(secret_values, "FRESH_SECONDS", 0.1)
    with consuming("shop"):
        listened(topic)
        say(topic, 0)
        until(lambda: taken() == [0])
        topic.revoke(topic.api_key)
        failures = metrics.source_failures.labels("shop")._value
        before = failures.get()
        until(lambda: failures.get() > before + 2)
        say(topic, 1)
        path.write_text(topic.new_key())
        until(lambda: taken() == [0, 1])


def test_of_two_consumers_one_reads_and_the_other_goes_on(topic: Momento) -> None:
    first = ExitStack()
    first.enter_context(consuming("shop"))
    listened(topic)
    with first, consuming("shop"):
        say(topic, 0, 1)
        until(lambda: taken() == [0, 1])
        assert topic.subscribers("c", "t") == 1
        first.close()
        say(topic, 2)
        until(lambda: taken() == [0, 1, 2])


def test_refusals_are_tried_again(topic: Momento) -> None:
    topic.fail("Subscribe", grpc.StatusCode.RESOURCE_EXHAUSTED, 2, cause="topic_subscriptions_limit_exceeded")
    with consuming("shop"):
        listened(topic)
        say(topic, 0)
        until(lambda: taken() == [0])
    assert topic.calls("Subscribe") == 3


def test_many_at_once_do_not_pile_up(topic: Momento) -> None:
    with consuming("shop"):
        listened(topic)
        sayers = [threading.Thread(target=say, args=(topic, *range(start, start + 300))) for start in (0, 300, 600)]
        for sayer in sayers:
            sayer.start()
        until(lambda: Message.objects.count() == 900)
        for sayer in sayers:
            sayer.join()
    assert sorted(taken()) == list(range(900))
