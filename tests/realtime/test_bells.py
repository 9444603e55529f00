"""Bells: whoever waits is rung for whatever comes after they looked, and looks again where it is not sure."""

import asyncio
from collections.abc import Sequence

import pytest

from realtime import bells
from realtime.bells import Bell
from realtime.hub import Hub
from tests.realtime.fakes import FakeLog, FakeMembership, Recorder, in_virtual_time

pytestmark = pytest.mark.any_database


AT_THE_BEGINNING = (None, 0)


class Waiter:
    def __init__(self) -> None:
        self.bells: Sequence[Bell] = ()
        self.rung = 0

    def ring(self) -> None:
        self.rung += 1


class Membership(FakeMembership):
    def __init__(self) -> None:
        super().__init__()
        self.futures: dict[str, asyncio.Future[None]] = {}

    def join(self, name: str) -> asyncio.Future[None]:
        if name not in self.wanted:
            self.futures[name] = super().join(name)
        return self.futures[name]


class World:
    def __init__(self) -> None:
        self.log, self.membership = FakeLog(), Membership()
        self.hub = Hub(
            self.log, self.membership, shared=lambda _name: False, recovery_events=10, recovery_bytes=1_000_000
        )
        self.bells = self.hub.bells

    async def wait(self, *names: str) -> Waiter:
        """Somebody who has looked twice where that was needed."""
        waiter = Waiter()
        while not await self.bells.hang(
            waiter, dict.fromkeys(names, AT_THE_BEGINNING), asyncio.get_running_loop().time()
        ):
            await asyncio.sleep(0.01)
        waiter.rung = 0
        return waiter

    def notify(self, topic: str) -> None:
        self.hub.receive(topic, [self.log.append(topic)])


@in_virtual_time
async def test_a_bell_rings_for_all_who_wait_for_its_topic_and_for_nobody_else() -> None:
    world = World()
    alice, bob = await world.wait("user.alice", "all"), await world.wait("user.bob", "all")
    world.notify("user.alice")
    assert (alice.rung, bob.rung) == (1, 0)
    world.notify("all")
    assert (alice.rung, bob.rung) == (2, 1)
    world.bells.take_down(alice)
    world.notify("all")
    assert (alice.rung, bob.rung) == (2, 2)


@in_virtual_time
async def test_who_looked_before_the_topic_was_joined_has_to_look_again_and_afterwards_need_not() -> None:
    world, loop = World(), asyncio.get_running_loop()
    waiter = Waiter()
    assert not await world.bells.hang(waiter, {"all": AT_THE_BEGINNING}, loop.time())
    world.bells.take_down(waiter)
    await asyncio.sleep(1)
    assert await world.bells.hang(waiter, {"all": AT_THE_BEGINNING}, loop.time())
    world.bells.take_down(waiter)
    looked_at = loop.time()
    await asyncio.sleep(1)
    world.notify("all")  # It looked before, and waits afterwards.
    assert not await world.bells.hang(waiter, {"all": AT_THE_BEGINNING}, looked_at)


@in_virtual_time
async def test_nobody_waits_long_for_a_join_and_one_that_comes_late_rings() -> None:
    world, loop = World(), asyncio.get_running_loop()
    world.membership.seconds = 5.0
    waiter, began = Waiter(), loop.time()
    assert not await world.bells.hang(waiter, {"all": AT_THE_BEGINNING}, began)
    assert loop.time() - began < 1
    assert await world.bells.hang(waiter, {"all": AT_THE_BEGINNING}, loop.time())
    await asyncio.sleep(6)
    assert waiter.rung == 1


@in_virtual_time
async def test_a_topic_stays_joined_as_long_as_its_bell_lingers_or_a_connection_listens() -> None:
    world, connection = World(), Recorder("alice")
    waiter = await world.wait("all", "user.alice")
    world.hub.go_live(connection, await world.hub.subscribe(connection, {"all": None}))
    world.bells.take_down(waiter)
    await asyncio.sleep(bells.LINGER_SECONDS - 1)
    assert world.membership.wanted == {"all", "user.alice"}
    await asyncio.sleep(2)
    assert world.membership.wanted == {"all"}
    waiter = await world.wait("all")
    world.hub.leave(connection)
    assert world.membership.wanted == {"all"}
    world.notify("all")
    assert waiter.rung == 1
    world.bells.take_down(waiter)
    await asyncio.sleep(bells.LINGER_SECONDS + 1)
    assert not world.membership.wanted


@in_virtual_time
async def test_while_the_bus_is_in_doubt_the_log_says_when_to_ring() -> None:
    world = World()
    waiter = await world.wait("all", bells.signalled("room"))
    await world.hub.check(["all"], doubt=True)
    assert waiter.rung == 0
    world.log.append("all")
    for _ in range(2):
        await world.hub.check(["all"], doubt=True)
        assert waiter.rung == 1
    await world.hub.check([bells.signalled("room")], doubt=True)  # In no log.
    assert waiter.rung == 2


@in_virtual_time
async def test_a_crowd_is_rung_for_in_turns() -> None:
    world = World()
    crowd = [await world.wait("all") for _ in range(bells.RUNG_AT_ONCE + 10)]
    world.notify("all")
    assert sum(waiter.rung for waiter in crowd) == bells.RUNG_AT_ONCE
    await asyncio.sleep(0)
    assert {waiter.rung for waiter in crowd} == {1}
