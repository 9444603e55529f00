"""What becomes of events when AWS fails: throttled, hanging, missing, denied, taken in part."""

import asyncio
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import msgspec
import pytest
from django.conf import LazySettings

from adapters.aws import clients
from adapters.aws.batches import CALLS_AT_ONCE
from adapters.aws.eventbridge import EventBus, Options
from adapters.base import Adapter, Misconfigured, Outcome, Parcel, Target, with_id
from tests.adapters.aws_sides import (
    SIDES,
    AwsSide,
    BusSide,
    FifoSide,
    FifoTopicSide,
    QueueSide,
    StreamSide,
    arn_of,
    drain,
    make_queue,
)
from tests.adapters.contract import parcel
from tests.servers import free_port

if TYPE_CHECKING:
    from tests.emulators.aws import Aws

pytestmark = pytest.mark.any_database


@pytest.fixture(params=SIDES, ids=lambda side: side.__name__)
def side(request: pytest.FixtureRequest, aws: "Aws") -> AwsSide:
    side: AwsSide = request.param(aws)
    return side


@pytest.fixture
def fresh_clients() -> Iterator[None]:
    """For what changes the environment that clients are made by."""
    clients.forget()
    yield
    clients.forget()


async def publish(adapter_class: type[Adapter], target: Target, *batch: Parcel) -> list[Outcome]:
    adapter = adapter_class(target)
    try:
        return list(await adapter.publish(batch or [parcel()]))
    finally:
        await adapter.close()


async def check(side: AwsSide, target: Target | None = None) -> str:
    adapter = side.adapter_class(target or side.target)
    try:
        return await adapter.check()
    finally:
        await adapter.close()


# --- Calls that fail ------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["ThrottlingException", "RequestThrottled", "Throttling"])
async def test_where_aws_asks_for_less_it_gets_a_pause(side: AwsSide, code: str) -> None:
    side.aws.fail(side.operation, code=code)
    batch = [parcel(number, key=f"user.{number}") for number in range(side.adapter_class.batch_size)]
    outcomes = await publish(side.adapter_class, side.target, *batch)
    assert side.aws.calls(side.operation) <= CALLS_AT_ONCE  # What was under way; then nothing more.
    assert outcomes[0].tried
    for outcome in outcomes:
        assert not outcome.tried or ("less at once" in outcome.error and outcome.retry_after and not outcome.permanent)


async def test_a_server_that_hangs_costs_one_timeout(side: AwsSide, settings: LazySettings) -> None:
    settings.DELIVERY_TIMEOUT = 0.3
    await asyncio.to_thread(clients.client, side.service)  # Makes it, which takes its time.
    side.aws.fail(side.operation, seconds=1, status=0)
    batch = [parcel(number, key=f"user.{number}") for number in range(side.adapter_class.batch_size)]
    ticks = asyncio.create_task(count_ticks())
    began = time.monotonic()
    outcomes = await publish(side.adapter_class, side.target, *batch)
    assert time.monotonic() - began < 1
    ticks.cancel()
    assert await ticks >= 10  # The loop has not stood still.
    assert {outcome.error for outcome in outcomes if outcome.tried} == {"no answer within 0.3 s (DELIVERY_TIMEOUT)"}
    assert not any(outcome.permanent for outcome in outcomes)


async def count_ticks() -> int:
    ticks = 0
    try:
        while True:
            await asyncio.sleep(0.01)
            ticks += 1
    except asyncio.CancelledError:
        return ticks


@pytest.mark.usefixtures("fresh_clients")
async def test_nobody_at_home_is_a_failure_that_passes(side: AwsSide, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    [outcome] = await publish(side.adapter_class, side.target)
    assert "cannot reach AWS" in outcome.error
    assert not outcome.permanent


async def test_what_is_not_there_is_named(side: AwsSide) -> None:
    if side.service != "events":  # Which takes it all the same.
        [outcome] = await publish(side.adapter_class, side.missing())
        assert side.missing().address in outcome.error
        assert "nothing of this name" in outcome.error
        assert not outcome.permanent  # It may be made yet.
    with pytest.raises(Misconfigured, match=r"nothing of this name.*AWS_REGION"):
        await check(side, side.missing())


@pytest.mark.parametrize("code", ["AccessDeniedException", "AccessDenied", "AuthorizationError"])
async def test_a_right_that_is_missing_is_named(side: AwsSide, code: str) -> None:
    side.aws.fail("*", status=403, code=code)
    [outcome] = await publish(side.adapter_class, side.target)
    assert f"needs the right to {side.adapter_class.action} on {side.target.address}" in outcome.error  # type: ignore[attr-defined]
    assert not outcome.permanent
    with pytest.raises(Misconfigured, match="needs the right"):
        await check(side)


@pytest.mark.usefixtures("fresh_clients")
async def test_without_credentials_it_says_so(side: AwsSide, monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, f"{tmp_path}/none")
    [outcome] = await publish(side.adapter_class, side.target)
    assert "no credentials" in outcome.error
    assert not outcome.permanent
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    assert [outcome.error for outcome in await publish(side.adapter_class, side.target)] == [""]


@pytest.mark.usefixtures("fresh_clients")
async def test_without_a_region_it_says_what_to_set(
    side: AwsSide, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", f"{tmp_path}/none")
    [outcome] = await publish(side.adapter_class, side.target)
    assert "AWS_REGION" in outcome.error
    assert not outcome.permanent
    with pytest.raises(Misconfigured, match="AWS_REGION"):
        await check(side)


def test_what_no_error_says_is_kept_as_it_is(settings: LazySettings) -> None:
    assert clients.failure(RuntimeError("odd"), "x").error == "RuntimeError: odd"
    assert clients.refused("Brown", "out", "x") == Outcome("AWS answers Brown", response="Brown out")
    too_long = clients.refused("InvalidParameterValue", "Reason: Message must be shorter than 1048576 bytes.", "x")
    assert (too_long.permanent, too_long.blames_event) == (True, True)
    wrong_arn = clients.refused("InvalidParameter", "Invalid parameter: TopicArn", "x")
    assert not wrong_arn.permanent


# --- Calls that are taken in part -----------------------------------------------------------------


async def test_what_is_refused_of_a_batch_comes_again_and_only_that(side: AwsSide) -> None:
    batch = [parcel(number, key=f"user.{number}") for number in range(10)]
    side.aws.fail(side.operation, status=503, code="InternalFailure", times=1, entries=[1, 4, 9])
    outcomes = await publish(side.adapter_class, side.target, *batch)
    assert [number for number, outcome in enumerate(outcomes) if not outcome.delivered] == [1, 4, 9]
    assert outcomes[4] == Outcome("AWS answers InternalFailure", response="InternalFailure As ordered")
    again = [sent for sent, outcome in zip(batch, outcomes, strict=True) if not outcome.delivered]
    assert all(outcome.delivered for outcome in await publish(side.adapter_class, side.target, *again))
    if not isinstance(side, BusSide):  # Which keeps nothing.
        assert sorted(one.id for one in await side.arrived()) == sorted(sent.id for sent in batch)


@pytest.mark.parametrize("code", ["ProvisionedThroughputExceededException", "ThrottlingException"])
async def test_what_is_too_much_of_a_batch_has_a_pause(side: AwsSide, code: str) -> None:
    side.aws.fail(side.operation, status=400, code=code, entries=[0])
    outcomes = await publish(side.adapter_class, side.target, parcel(1), parcel(2, key="user.bob"))
    assert [outcome.delivered for outcome in outcomes] == [False, True]
    assert outcomes[0].retry_after
    assert not outcomes[0].permanent


@pytest.mark.parametrize("side_class", [FifoSide, FifoTopicSide, StreamSide])
async def test_after_a_refusal_nothing_of_the_same_key_is_there_before_it(
    aws: "Aws", side_class: type[AwsSide]
) -> None:
    side = side_class(aws)
    batch = [parcel(number, key=f"user.{number % 3}") for number in range(12)]
    aws.fail(side.operation, status=500, code="InternalFailure", times=1, entries=[1])
    outcomes = await publish(side.adapter_class, side.target, *batch)
    for number, outcome in enumerate(outcomes):
        assert outcome.delivered == (number % 3 != 1)
        assert outcome.tried == (outcome.delivered or number == 1)
    await publish(side.adapter_class, side.target, *(one for one in batch if one.key == "user.1"))
    places = {one.id: place for place, one in enumerate(await side.arrived())}
    assert len(places) == 12
    for key in range(3):
        found = [places[sent.id] for sent in batch[key::3]]
        assert found == sorted(found)


# --- Limits ---------------------------------------------------------------------------------------


async def test_large_events_go_out_in_calls_that_aws_takes(side: AwsSide) -> None:
    kind = side.adapter_class
    small = len(parcel("").body) + 100
    batch = [parcel("x" * (kind.max_bytes - small), key=f"user.{number}") for number in range(6)]
    outcomes = await publish(kind, side.target, *batch)
    assert [outcome.error for outcome in outcomes] == [""] * 6
    assert side.aws.calls(side.operation) == {"sqs": 2, "sns": 6, "events": 6, "kinesis": 1}[side.service]


async def test_what_a_call_is_refused_for_is_found_by_single_calls(aws: "Aws") -> None:
    side = QueueSide(aws)
    batch = [parcel(number) for number in range(3)]
    aws.fail(side.operation, code="InvalidMessageContents", times=2)
    outcomes = await publish(side.adapter_class, side.target, *batch)
    assert [outcome.delivered for outcome in outcomes] == [False, True, True]
    assert (outcomes[0].permanent, outcomes[0].blames_event) == (True, True)
    assert {one.id for one in await side.arrived()} == {batch[1].id, batch[2].id}


# --- What receivers see ---------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"{}", b"{ }", b'{"a":1}', b'{ "a" : {} }', b'{\n"a":[1]}'])
def test_an_id_in_the_body_leaves_the_rest_as_it_is(body: bytes) -> None:
    sent = Parcel(uuid4(), "message", "all", body)
    found = msgspec.json.decode(with_id(sent))
    assert found == {"id": str(sent.id), **msgspec.json.decode(body)}
    assert with_id(sent).endswith(body[1:])


async def test_a_rule_of_a_bus_sees_source_kind_and_id(aws: "Aws") -> None:
    events = aws.client("events")
    events.create_event_bus(Name="shop")
    queue = make_queue(aws, "listener")
    events.put_rule(Name="all", EventBusName="shop", EventPattern='{"source": ["crm"], "detail-type": ["client.send"]}')
    events.put_targets(Rule="all", EventBusName="shop", Targets=[{"Id": "1", "Arn": arn_of(aws, queue)}])
    sent = [parcel(1, event="client.send"), parcel(2, event="message")]
    outcomes = await publish(EventBus, Target(uuid4(), "bus", "shop", {"source": "crm"}), *sent)
    assert all(outcome.delivered for outcome in outcomes)
    [message] = list(drain(aws, queue))
    event = msgspec.json.decode(message["Body"])
    assert (event["source"], event["detail-type"]) == ("crm", "client.send")
    assert event["detail"] == {"id": str(sent[0].id), **msgspec.json.decode(sent[0].body)}


@pytest.mark.parametrize("options", [{"source": ""}, {"source": "aws.x"}, {"source": 1}, {"detail_type": "x" * 129}])
def test_a_bus_takes_no_source_that_aws_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(options, Options)


async def test_a_fifo_queue_drops_a_repetition_and_groups_by_key(aws: "Aws") -> None:
    side = FifoSide(aws)
    batch = [parcel(1), parcel(2, key="topic.Grüße"), parcel(3, key="x" * 200)]
    for _ in range(2):
        await publish(side.adapter_class, side.target, *batch)
    messages = list(drain(aws, side.queue))
    assert len(messages) == 3
    groups = {one["Attributes"]["MessageGroupId"] for one in messages}
    assert "user.alice" in groups
    assert all(len(group) <= 128 and group.isascii() for group in groups)


async def test_a_stream_keeps_what_shares_a_key_on_one_shard(aws: "Aws") -> None:
    side = StreamSide(aws)
    batch = [parcel(number, key=f"user.{number % 5}" if number % 2 else "é" * 250) for number in range(20)]
    await publish(side.adapter_class, side.target, *batch)
    records = list(side.records())
    assert {record["PartitionKey"] for record in records} == {sent.key for sent in batch}
