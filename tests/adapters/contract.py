"""What every adapter promises, as tests. The test file of each one runs them all: see AdapterContract."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import UUID

import msgspec
import pytest
import pytest_asyncio
from uuid_utils.compat import uuid7

from adapters.base import Adapter, Misconfigured, Outcome, Parcel, Target


@dataclass(frozen=True, slots=True)
class Arrived:
    id: UUID
    body: bytes


class Side(ABC):
    """The other side of an adapter, real and empty at the start of each test."""

    target: Target

    @abstractmethod
    async def arrived(self) -> Sequence[Arrived]:
        """All that has arrived, in the order of its arrival; a repetition may be there once or as often as it came."""

    @abstractmethod
    def broken(self) -> AbstractAsyncContextManager[None]:
        """For the time of the block it takes nothing, in a way that passes by itself."""


def parcel(data: Any = "hello", *, key: str = "user.alice", event: str = "message") -> Parcel:
    body = msgspec.json.encode({"type": event, "timestamp": "2026-01-31T12:00:00Z", "data": data})
    return Parcel(id=uuid7(), event=event, key=key, body=body)


async def attempt(adapter: Adapter, batch: Sequence[Parcel]) -> Sequence[Outcome]:
    """Publishes; what is raised counts as deliveries count it."""
    try:
        return await adapter.publish(batch)
    except Exception as error:
        return [Outcome(error=repr(error)) for _ in batch]


class AdapterContract:
    """Subclass it as `Test…`, set `adapter_class` and `nonsense`, and give a fixture `side`.

    Whoever needs the database marks the subclass; async tests and fixtures may use the async ORM.
    """

    adapter_class: ClassVar[type[Adapter]]
    nonsense: ClassVar[Sequence[str]]  # Addresses that `validate` refuses.

    @pytest_asyncio.fixture
    async def adapter(self, side: Side) -> AsyncIterator[Adapter]:
        adapter = self.adapter_class(side.target)
        yield adapter
        await adapter.close()

    async def test_an_empty_batch_has_no_outcomes(self, adapter: Adapter, side: Side) -> None:
        assert list(await adapter.publish([])) == []
        assert not await side.arrived()

    async def test_what_arrives_is_what_was_sent_byte_for_byte_with_its_id(self, adapter: Adapter, side: Side) -> None:
        odd = Parcel(uuid7(), "message", "all", b'{ "type":"message","data" : {"b":1.50,"a":"\\u00e9 \xc3\xa9"} }')
        assert [outcome.error for outcome in await adapter.publish([odd])] == [""]
        assert list(await side.arrived()) == [Arrived(odd.id, odd.body)]

    @pytest.mark.parametrize("data", ["Grüße, 世界 🎉 \u2028", "é" * 32 * 1024, None, {"deep": [{"a": []}]}])
    async def test_any_json_arrives(self, adapter: Adapter, side: Side, data: Any) -> None:
        sent = parcel(data)
        assert [outcome.error for outcome in await adapter.publish([sent])] == [""]
        assert list(await side.arrived()) == [Arrived(sent.id, sent.body)]

    async def test_a_whole_batch_has_an_outcome_for_each_and_arrives(self, adapter: Adapter, side: Side) -> None:
        batch = [parcel(number, key=f"user.{number % 7}") for number in range(adapter.batch_size)]
        outcomes = await adapter.publish(batch)
        assert [outcome.error for outcome in outcomes] == [""] * len(batch)
        arrived = {one.id: one.body for one in await side.arrived()}
        assert arrived == {sent.id: sent.body for sent in batch}

    async def test_a_repetition_comes_with_the_same_id(self, adapter: Adapter, side: Side) -> None:
        batch = [parcel("once"), parcel("or twice")]
        for _ in range(2):
            assert all(outcome.delivered for outcome in await adapter.publish(batch))
        arrived = await side.arrived()
        assert {(one.id, one.body) for one in arrived} == {(sent.id, sent.body) for sent in batch}
        assert len(arrived) in (2, 4)

    async def test_what_shares_a_key_keeps_its_order_if_that_is_promised(self, adapter: Adapter, side: Side) -> None:
        if not adapter.ordered:
            pytest.skip("it does not promise an order")
        sent = [parcel(number, key=f"user.{number % 3}") for number in range(30)]
        size = min(10, adapter.batch_size)
        for start in range(0, len(sent), size):
            assert all(outcome.delivered for outcome in await adapter.publish(sent[start : start + size]))
        places = {one.id: place for place, one in enumerate(await side.arrived())}
        for key in {one.key for one in sent}:
            found = [places[one.id] for one in sent if one.key == key]
            assert found == sorted(found), key

    async def test_calls_at_once_do_not_mix(self, adapter: Adapter, side: Side) -> None:
        batches = [[parcel((caller, number)) for number in range(5)] for caller in range(8)]
        found = await asyncio.gather(*(adapter.publish(batch) for batch in batches))
        assert all(outcome.delivered for outcomes in found for outcome in outcomes)
        arrived = {one.id: one.body for one in await side.arrived()}
        assert arrived == {sent.id: sent.body for batch in batches for sent in batch}

    async def test_a_side_that_fails_is_a_failure_that_passes(self, adapter: Adapter, side: Side) -> None:
        batch = [parcel("to be sent again"), parcel("and this", key="user.bob")]
        async with side.broken():
            outcomes = await attempt(adapter, batch)
        assert [(bool(outcome.error), outcome.permanent) for outcome in outcomes] == [(True, False)] * 2
        assert all(outcome.delivered for outcome in await adapter.publish(batch))
        assert {one.id: one.body for one in await side.arrived()} == {sent.id: sent.body for sent in batch}

    async def test_check_finds_a_side_that_is_well_and_leaves_nothing(self, adapter: Adapter, side: Side) -> None:
        assert await adapter.check()
        assert not await side.arrived()

    async def test_it_can_be_closed_twice_and_unused(self, side: Side) -> None:
        for used in (False, True):
            adapter = self.adapter_class(side.target)
            if used:
                await adapter.publish([parcel()])
            await adapter.close()
            await adapter.close()

    def test_options_have_defaults_and_refuse_what_they_do_not_know(self) -> None:
        defaults = msgspec.to_builtins(msgspec.convert({}, self.adapter_class.Options))
        assert self.adapter_class.hidden <= defaults.keys()
        with pytest.raises(msgspec.ValidationError, match="no_such_option"):
            msgspec.convert({"no_such_option": 1}, self.adapter_class.Options)

    def test_an_address_that_works_is_valid_and_nonsense_is_not(self, side: Side) -> None:
        self.adapter_class.validate(side.target.address)
        for address in self.nonsense:
            with pytest.raises(Misconfigured):
                self.adapter_class.validate(address)
