"""Topics at Momento: what subscribers get, and what becomes of events when Momento does not take them."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import msgspec
import pytest
from django.conf import LazySettings
from django.core.checks import run_checks
from django.core.management import call_command

from adapters import secret_values
from adapters.base import Adapter, Misconfigured, Target
from adapters.momento.clients import access
from adapters.momento.names import topic_name
from adapters.momento.topic import AT_ONCE, MomentoTopic
from tests.adapters.contract import AdapterContract, Arrived, Side, parcel
from tests.emulators.momento import Momento

pytestmark = [pytest.mark.any_database, pytest.mark.usefixtures("at_momento")]

CACHE = "fanfare-test"
ID = len('{"id":"') + 36


class TopicSide(Side):
    def __init__(self, momento: Momento) -> None:
        self.momento = momento
        self.target = Target(uuid4(), "momento", CACHE)

    async def arrived(self) -> Sequence[Arrived]:
        texts = [
            str(text)
            for (_cache, topic), found in list(self.momento.store.topics.items())
            for text in found.published
            if topic != "fanfare.check"
        ]
        return [split(text) for text in texts]

    @asynccontextmanager
    async def broken(self) -> AsyncIterator[None]:
        self.momento.fail("Publish", grpc.StatusCode.RESOURCE_EXHAUSTED, cause="operations_rate_limit_exceeded")
        yield
        self.momento.heal()


def split(text: str) -> Arrived:
    """The id, which comes first, and the body without it."""
    assert text.startswith('{"id":"')
    return Arrived(UUID(text[len('{"id":"') : ID]), b"{" + text[ID + 2 :].encode())


class TestMomentoTopic(AdapterContract):
    adapter_class = MomentoTopic
    nonsense = ["a cache", "caches/of/mine", "x\n", "\x7f", "x" * 129]

    @pytest.fixture
    def side(self, momento: Momento) -> Side:
        return TopicSide(momento)

    @pytest.mark.parametrize("data", ["Grüße, 世界 🎉 \u2028", "é" * 1900, None, {"deep": [{"a": []}]}])
    async def test_any_json_arrives(self, adapter: Adapter, side: Side, data: Any) -> None:
        """What has more than 4 KB comes as a pointer: see below."""
        await super().test_any_json_arrives(adapter, side, data)


@asynccontextmanager
async def topic(**options: Any) -> AsyncIterator[MomentoTopic]:
    adapter = MomentoTopic(Target(uuid4(), "momento", "", options))
    yield adapter
    await adapter.close()


def texts(momento: Momento, name: str) -> list[Any]:
    return [json.loads(text) for text in momento.published(CACHE, name)]


# --- Where what goes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("user.alice", "alice"),
        ("user.é x", "é x"),
        ("user.a.b", "a.b"),
        ("account.acme", "account.acme"),
        ("all", "all"),
        ("topic.room/7", "topic.room/7"),
        # Users whose ids look like topics: nobody else's messages come to them, nor theirs to others.
        ("user.all", "user.all"),
        ("user.account.acme", "user.account.acme"),
        ("user.user.alice", "user.user.alice"),
        ("user.user", "user.user"),
    ],
)
def test_a_users_topic_is_the_users_id_and_no_two_are_the_same(ours: str, theirs: str) -> None:
    assert topic_name(ours) == theirs
    assert topic_name(ours, "shop-{topic}.v1") == f"shop-{ours}.v1"


@pytest.mark.parametrize("template", ["", "{}", "{id}", "{name", "everything", "{name}{topic}", "{name}\n", "x" * 201])
def test_a_template_that_would_mix_topics_is_refused(template: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"topic": template}, MomentoTopic.Options)


async def test_topics_are_named_by_the_template(momento: Momento) -> None:
    async with topic(topic="v1/{name}") as adapter:
        assert (await adapter.publish([parcel()]))[0].delivered
    assert momento.published(CACHE, "v1/alice")


# --- What is too large ----------------------------------------------------------------------------


async def test_what_is_too_large_comes_as_a_pointer_by_which_it_is_read(momento: Momento) -> None:
    data = {"id": "m1", "topic": "user.alice", "epoch": "e", "offset": 8, "type": "a.b", "data": {"x": "é" * 4000}}
    sent = parcel(data | {"sender": "x" * 600})
    async with topic() as adapter:
        assert (await adapter.publish([sent]))[0].delivered
    [text] = texts(momento, "alice")
    pointer = {"id": "m1", "topic": "user.alice", "epoch": "e", "offset": 8, "type": "a.b"}
    assert text == {"id": str(sent.id), "type": "message", "timestamp": "2026-01-31T12:00:00Z", "pointer": pointer}


@pytest.mark.parametrize(("more", "whole"), [(0, True), (1, False)])
async def test_4096_bytes_are_not_too_many(momento: Momento, more: int, whole: bool) -> None:
    empty = len(parcel("").body) + ID + 1 - len("{")
    async with topic() as adapter:
        assert (await adapter.publish([parcel("x" * (4096 - empty - 1 + more))]))[0].delivered
    [text] = texts(momento, "alice")
    assert ("data" in text) == whole


async def test_what_nobody_can_read_elsewhere_is_a_dead_letter_and_others_go_out(momento: Momento) -> None:
    batch = [parcel("x" * 5000, event="client.send"), parcel("y", event="client.send")]
    async with topic() as adapter:
        large, _behind = await adapter.publish(batch)
        assert (large.permanent, large.blames_event) == (True, True)
        assert "4096 bytes" in large.error
        assert [one.delivered for one in await adapter.publish(batch[1:])] == [True]


async def test_what_is_about_nobody_has_no_topic_and_others_go_out(momento: Momento) -> None:
    """As the connection of a service that opens."""
    async with topic() as adapter:
        refused, taken = await adapter.publish([parcel(1, key=""), parcel(2)])
    assert (refused.permanent, refused.blames_event, taken.delivered) == (True, True, True)
    assert momento.calls("Publish") == 1


# --- When Momento does not take it ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "says", "pause"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, "MOMENTO_API_KEY: it is wrong, revoked or expired", 0),
        (grpc.StatusCode.PERMISSION_DENIED, "MOMENTO_API_KEY may not do this with the cache fanfare-test", 0),
        (grpc.StatusCode.NOT_FOUND, "no cache fanfare-test: `manage.py momento init`", 0),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "limit of the Momento account is exceeded: operations_rate_limit", 1),
        (grpc.StatusCode.UNAVAILABLE, "MOMENTO_ENDPOINT", 0),
        (grpc.StatusCode.INTERNAL, "has refused it: INTERNAL", 0),
    ],
)
async def test_a_refusal_passes_is_the_destinations_and_names_the_setting(
    momento: Momento, code: grpc.StatusCode, says: str, pause: float
) -> None:
    momento.fail("Publish", code, times=1, cause="operations_rate_limit_exceeded")
    async with topic() as adapter:
        outcome, behind = await adapter.publish([parcel(1), parcel(2)])
        assert (outcome.permanent, outcome.blames_event, outcome.retry_after) == (False, False, pause)
        assert says in outcome.error
        assert momento.api_key not in repr(outcome)
        assert not behind.tried
        assert momento.calls("Publish") == 1  # Nothing repeats it before we do.
        assert all(one.delivered for one in await adapter.publish([parcel(1), parcel(2)]))


async def test_what_momento_takes_as_no_name_or_text_holds_up_its_own_key_only(momento: Momento) -> None:
    momento.fail("Publish", grpc.StatusCode.INVALID_ARGUMENT, times=1)
    async with topic() as adapter:
        keys = [f"user.{number}" for number in range(AT_ONCE * 2)]
        outcomes = await adapter.publish([parcel(place, key=key) for place, key in enumerate(keys)])
        [refused] = [one for one in outcomes if not one.delivered]
        assert (refused.tried, refused.permanent, refused.blames_event) == (True, False, True)


async def test_a_momento_that_is_down_is_not_asked_for_each_event(momento: Momento) -> None:
    batch = [parcel(number, key=f"user.{number}") for number in range(100)]
    async with topic() as adapter:
        momento.fail("Publish", grpc.StatusCode.UNAVAILABLE)
        outcomes = await adapter.publish(batch)
        assert outcomes[0].tried
        assert 1 <= momento.calls("Publish") <= AT_ONCE
        assert sum(outcome.tried for outcome in outcomes) == momento.calls("Publish")
        momento.heal()
        momento.stop()
        assert "MOMENTO_ENDPOINT" in (await adapter.publish(batch))[0].error
        momento.start()
        async with asyncio.timeout(5):
            while not all(outcome.delivered for outcome in await adapter.publish(batch)):
                pass


async def test_a_momento_that_hangs_ends_the_attempt_in_time(momento: Momento, settings: LazySettings) -> None:
    settings.DELIVERY_TIMEOUT = 0.2
    momento.delay("Publish", 1.0)
    async with topic() as adapter:
        async with asyncio.timeout(0.9):
            [outcome] = await adapter.publish([parcel()])
        assert "in time" in outcome.error


# --- Keys -----------------------------------------------------------------------------------------


async def test_a_key_that_changes_under_load_is_taken_over(
    momento: Momento, settings: LazySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, clock = tmp_path / "key", [0.0]
    file.write_text(momento.api_key)
    settings.MOMENTO_API_KEY = f"file:{file}"
    monkeypatch.setattr(secret_values, "now", lambda: clock[0])
    failed: list[float] = []
    sent = 0
    async with topic() as adapter:

        async def load(key: str) -> None:
            nonlocal sent
            while clock[0] < 400:
                outcomes = await adapter.publish([parcel(number, key=key) for number in range(5)])
                sent += sum(outcome.delivered for outcome in outcomes)
                failed.extend(clock[0] for outcome in outcomes if not outcome.delivered)

        async def rotate() -> None:
            await asyncio.sleep(0.1)
            file.write_text(momento.new_key())
            clock[0] = 301
            await asyncio.sleep(0.1)
            momento.revoke(momento.api_key)
            await asyncio.sleep(0.1)
            clock[0] = 400

        await asyncio.gather(*(load(f"user.{number}") for number in range(4)), rotate())
    assert sent > 50
    assert not failed


@pytest.fixture
def real(settings: LazySettings) -> LazySettings:
    settings.MOMENTO_PLAINTEXT, settings.MOMENTO_ENDPOINT = False, "cell.example"
    return settings


def test_a_key_of_version_2_goes_to_the_endpoint(momento: Momento, real: LazySettings) -> None:
    found = access(momento.api_key)
    assert (found.key, found.cache, found.token, found.port) == (
        momento.api_key, "cache.cell.example", "token.cell.example", 443,
    )  # fmt: skip
    assert momento.api_key not in repr(found)
    real.MOMENTO_ENDPOINT = ""
    with pytest.raises(Misconfigured, match="MOMENTO_ENDPOINT is not set"):
        access(momento.api_key)


def test_a_key_of_version_1_says_where_to_go(real: LazySettings) -> None:
    key = "eyJlbmRwb2ludCI6ImEuZXhhbXBsZSIsImFwaV9rZXkiOiJzZWNyZXQifQ=="
    real.MOMENTO_ENDPOINT = ""
    found = access(key)
    assert (found.key, found.control) == ("secret", "control.a.example")
    real.MOMENTO_PLAINTEXT, real.MOMENTO_ENDPOINT = True, "127.0.0.1:8080"
    found = access(key)
    assert (found.key, found.cache, found.port) == ("secret", "127.0.0.1", 8080)


def test_plaintext_needs_a_port(real: LazySettings) -> None:
    real.MOMENTO_PLAINTEXT = True
    with pytest.raises(Misconfigured, match="MOMENTO_ENDPOINT"):
        access("key")


async def test_without_a_key_the_setting_is_named(settings: LazySettings) -> None:
    settings.MOMENTO_API_KEY = ""
    with pytest.raises(Misconfigured, match="MOMENTO_API_KEY is not set"):
        MomentoTopic(Target(uuid4(), "momento", ""))


async def test_check_says_what_is_wrong(momento: Momento, settings: LazySettings) -> None:
    adapter = MomentoTopic(Target(uuid4(), "momento", "another"))
    with pytest.raises(Misconfigured, match="no cache another"):
        await adapter.check()
    await adapter.close()


@pytest.mark.parametrize(
    ("name", "value"), [("MOMENTO_ENDPOINT", "cell.example"), ("MOMENTO_CACHES", []), ("MOMENTO_TTL_MAX", 0)]
)
def test_settings_that_cannot_work_are_found_at_start(settings: LazySettings, name: str, value: Any) -> None:
    assert run_checks() == []
    setattr(settings, name, value)
    [found] = run_checks()
    assert found.id == "adapters.E007"
    assert name in found.msg


# --- manage.py momento init -----------------------------------------------------------------------


def test_init_makes_the_caches_that_are_not_there(
    momento: Momento, settings: LazySettings, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.MOMENTO_CACHES = [CACHE, "fanfare-test-2"]
    call_command("momento", "init")
    call_command("momento", "init")
    assert capsys.readouterr().out.splitlines() == [
        "fanfare-test is there already.",
        "fanfare-test-2 is made.",
        "fanfare-test is there already.",
        "fanfare-test-2 is there already.",
    ]
    assert momento.caches() == [CACHE, "fanfare-test-2"]
