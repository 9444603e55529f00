"""The hub by examples: whatever the bus does to events, connections get the log, or are told that they do not."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from realtime import fanout, local_topic
from realtime.frames import Event
from realtime.hub import Hub, Subscription
from realtime.protocol import CloseCode, Since
from tests.realtime.fakes import FakeLog, FakeMembership, Recorder, in_virtual_time

pytestmark = pytest.mark.any_database

HALF_OF_PATIENCE = local_topic.REORDER_SECONDS / 2
PATIENCE = local_topic.REORDER_SECONDS * 1.01


@pytest.fixture(autouse=True)
def virtual_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub asks the loop for the time of day as well."""

    class Clock:
        @staticmethod
        def time() -> float:
            return asyncio.get_event_loop().time()

    monkeypatch.setattr(fanout, "time", Clock)


class World:
    """A hub with its fakes. `shared` names the topics whose recent events it keeps."""

    def __init__(self, *, recovery_events: int = 1000, recovery_bytes: int = 1_000_000, shared: str = "all") -> None:
        self.log = FakeLog()
        self.membership = FakeMembership()
        self.hub = Hub(
            self.log,
            self.membership,
            shared=lambda name: name in shared.split(),
            recovery_events=recovery_events,
            recovery_bytes=recovery_bytes,
        )

    async def connect(self, *topics: str, user: str = "alice", since: Since | None = None) -> Recorder:
        connection = Recorder(user)
        self.tell(connection, await self.hub.subscribe(connection, dict.fromkeys(topics or ("all",), since)))
        return connection

    def tell(self, connection: Recorder, found: Iterable[Subscription]) -> None:
        """What the consumer does: first what was missed, then live."""
        for one in found:
            connection.send(*(event.body for event in one.missed))
        self.hub.go_live(connection, found)

    def publish(self, *events: Event) -> None:
        """The bus brings events, of one topic, in this order."""
        self.hub.receive(events[0].topic, events)

    def notify(self, topic: str = "all", **rest: Any) -> None:
        self.publish(self.log.append(topic, **rest))


# --- Order ----------------------------------------------------------------------------------------


@in_virtual_time
async def test_events_go_out_in_order_at_once() -> None:
    world = World()
    alice = await world.connect()
    for _ in range(3):
        world.notify()
    assert alice.offsets() == [1, 2, 3]
    assert world.log.reads == 0


@in_virtual_time
async def test_a_repeated_event_goes_out_once() -> None:
    world = World()
    alice = await world.connect()
    first, second = world.log.append(), world.log.append()
    world.publish(first, first)
    world.publish(second, first, second)
    await asyncio.sleep(1)
    assert alice.offsets() == [1, 2]


@in_virtual_time
async def test_events_that_overtake_each_other_are_put_in_order_without_a_read() -> None:
    world = World()
    alice = await world.connect()
    first, second, third = (world.log.append() for _ in range(3))
    world.publish(third)
    world.publish(second)
    assert alice.offsets() == []
    await asyncio.sleep(HALF_OF_PATIENCE)
    world.publish(first)
    assert alice.offsets() == [1, 2, 3]
    await asyncio.sleep(1)
    assert world.log.reads == 0


@in_virtual_time
async def test_what_does_not_come_in_time_is_read_from_the_log() -> None:
    world = World()
    alice = await world.connect()
    world.log.append()
    world.publish(world.log.append())
    await asyncio.sleep(HALF_OF_PATIENCE)
    assert alice.offsets() == []
    await asyncio.sleep(HALF_OF_PATIENCE + 0.001)
    assert alice.offsets() == [1, 2]
    assert world.log.reads == 1


@in_virtual_time
async def test_events_that_come_while_a_gap_is_read_follow_it() -> None:
    world = World()
    alice = await world.connect()
    world.log.seconds = 1
    lost, second, third = (world.log.append() for _ in range(3))
    world.publish(second)
    await asyncio.sleep(PATIENCE)
    world.publish(third)
    world.publish(lost)
    assert alice.offsets() == [1, 2, 3]  # It came after all.
    await asyncio.sleep(2)
    assert alice.offsets() == [1, 2, 3]


@in_virtual_time
async def test_a_long_gap_is_read_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_topic, "READ_EVENTS", 3)
    world = World()
    alice = await world.connect()
    events = [world.log.append() for _ in range(10)]
    world.publish(events[-1])
    await asyncio.sleep(PATIENCE)
    assert alice.offsets() == list(range(1, 11))
    assert world.log.reads == 4


@in_virtual_time
async def test_more_than_can_be_kept_ahead_comes_from_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_topic, "AHEAD_EVENTS", 2)
    world = World()
    alice = await world.connect()
    _lost, *events = [world.log.append() for _ in range(6)]
    world.publish(*events)
    await asyncio.sleep(PATIENCE)
    assert alice.offsets() == [1, 2, 3, 4, 5, 6]


@in_virtual_time
async def test_ephemeral_events_go_out_at_once_and_do_not_move_the_position() -> None:
    world = World()
    alice = await world.connect()
    world.log.append()
    second = world.log.append()
    world.publish(second, Event("all", b'{"event":"message","topic":"all","offset":null}'))
    assert alice.offsets() == [None]
    await asyncio.sleep(PATIENCE)
    assert alice.offsets() == [None, 1, 2]


@in_virtual_time
async def test_topics_do_not_wait_for_each_other() -> None:
    world = World()
    alice = await world.connect("all", "user.alice")
    world.log.append("all")
    world.publish(world.log.append("all"))
    world.notify("user.alice")
    assert alice.offsets("user.alice") == [1]
    assert alice.offsets("all") == []


# --- Position checks ------------------------------------------------------------------------------


@in_virtual_time
async def test_a_check_finds_what_no_event_told_of() -> None:
    world = World()
    alice = await world.connect()
    world.notify()
    world.log.append()
    await world.hub.check(["all", "unknown"])
    await asyncio.sleep(PATIENCE)
    assert alice.offsets() == [1, 2]


@in_virtual_time
async def test_a_check_waits_for_an_event_that_is_on_its_way() -> None:
    world = World()
    alice = await world.connect()
    late = world.log.append(data=b"1")
    await world.hub.check(["all"])
    await asyncio.sleep(HALF_OF_PATIENCE)
    world.publish(late)
    await asyncio.sleep(1)
    assert alice.offsets() == [1]
    assert world.log.reads == 1  # Only because the first message names the epoch; see the next one.
    late = world.log.append()
    await world.hub.check(["all"])
    world.publish(late)
    await asyncio.sleep(1)
    assert world.log.reads == 1


@in_virtual_time
async def test_a_check_of_topics_that_are_up_to_date_reads_nothing() -> None:
    world = World()
    alice = await world.connect("all", "user.alice")
    world.notify()
    await world.hub.check(world.hub.names())
    await asyncio.sleep(1)
    assert world.log.reads == 0
    assert alice.offsets() == [1]


@in_virtual_time
async def test_a_check_while_the_log_is_down_fails_and_changes_nothing() -> None:
    world = World()
    alice = await world.connect()
    world.log.down = True
    with pytest.raises(ConnectionError):
        await world.hub.check(["all"])
    world.notify()
    assert alice.offsets() == [1]


@in_virtual_time
async def test_a_gap_waits_until_the_log_is_back() -> None:
    world = World()
    alice = await world.connect()
    world.log.append()
    world.log.down = True
    world.publish(world.log.append())
    await asyncio.sleep(5)
    world.publish(world.log.append())
    assert alice.offsets() == []
    assert 3 <= world.log.reads <= 6
    world.log.down = False
    await asyncio.sleep(local_topic.RETRY_SECONDS * 1.1)
    assert alice.offsets() == [1, 2, 3]


# --- Epochs and what cannot be sent ----------------------------------------------------------------


@in_virtual_time
async def test_the_first_message_of_a_topic_names_its_epoch_first() -> None:
    world = World()
    alice = await world.connect()
    world.notify()
    named, message = alice.events
    assert named == {"event": "subscribed", "topic": "all", "epoch": "one", "offset": 0, "recovered": True}
    assert message["offset"] == 1


@in_virtual_time
async def test_the_epoch_is_named_also_when_the_first_message_is_read_from_the_log() -> None:
    world = World()
    alice = await world.connect()
    world.log.append()
    await world.hub.check(["all"])
    await asyncio.sleep(PATIENCE)
    assert [event["event"] for event in alice.events] == ["subscribed", "message"]


@in_virtual_time
async def test_the_epoch_is_not_named_to_who_knows_it_from_the_log() -> None:
    world = World()
    bob = await world.connect(user="bob")
    event = world.log.append()
    alice = await world.connect(since=Since("one", 0))
    world.publish(event)
    assert [one["event"] for one in alice.events] == ["message"]  # `offset: 0` would set it back.
    assert [one["event"] for one in bob.events] == ["subscribed", "message"]


@in_virtual_time
async def test_a_new_epoch_means_reset_and_then_it_goes_on() -> None:
    world = World()
    world.log.append()
    alice = await world.connect()
    world.log.topics["all"].epoch = "two"
    world.notify()
    await asyncio.sleep(PATIENCE)
    assert alice.events == [{"event": "reset", "topic": "all", "epoch": "two", "offset": 2}]
    world.notify()
    assert alice.offsets() == [3]


@in_virtual_time
async def test_a_check_notices_a_new_epoch() -> None:
    world = World()
    world.log.append()
    alice = await world.connect()
    world.log.topics["all"].epoch = "two"
    await world.hub.check(["all"])
    await asyncio.sleep(PATIENCE)
    assert alice.events == [{"event": "reset", "topic": "all", "epoch": "two", "offset": 1}]


@in_virtual_time
async def test_a_late_event_of_an_old_epoch_resets_nobody() -> None:
    world = World()
    old = world.log.append()
    world.log.topics["all"].epoch = "two"
    alice = await world.connect()
    world.publish(replace(old, offset=7))
    await asyncio.sleep(1)
    assert alice.events == []


@in_virtual_time
async def test_an_event_of_an_old_epoch_before_the_first_read_is_no_gap_for_ever() -> None:
    world = World()
    old = world.log.append()
    world.log.topics["all"].epoch = "two"
    world.log.seconds = 0.1
    connecting = asyncio.create_task(world.connect())
    await asyncio.sleep(0.01)
    world.publish(replace(old, offset=7))
    alice = await connecting
    await asyncio.sleep(60)
    assert world.log.reads <= 2
    world.notify()
    assert alice.offsets() == [2]


@in_virtual_time
async def test_a_numbering_that_went_back_means_reset() -> None:
    world = World()
    for _ in range(5):
        world.log.append()
    alice = await world.connect()
    world.log.topics["all"].head = 2  # Restored from a backup, without a new epoch.
    world.log.topics["all"].messages = world.log.topics["all"].messages[:2]
    await world.hub.check(["all"])
    await asyncio.sleep(PATIENCE)
    assert alice.events == [{"event": "reset", "topic": "all", "epoch": "one", "offset": 2}]
    world.notify()
    assert alice.offsets() == [3]


@in_virtual_time
async def test_a_gap_that_retention_has_deleted_means_reset() -> None:
    world = World()
    alice = await world.connect()
    world.notify()
    for _ in range(3):
        world.log.append()
    world.log.retain_from("all", 4)
    await world.hub.check(["all"])
    await asyncio.sleep(PATIENCE)
    assert alice.offsets() == [1]
    assert alice.events[-1] == {"event": "reset", "topic": "all", "epoch": "one", "offset": 4}


@in_virtual_time
async def test_events_beyond_a_reset_are_not_forgotten() -> None:
    world = World()
    world.log.append()
    alice = await world.connect()
    world.log.topics["all"].epoch = "two"
    world.publish(world.log.append())
    world.log.seconds = 1
    await asyncio.sleep(PATIENCE)
    await asyncio.sleep(0.6)  # The log has been read, the hub does not know yet.
    world.log.append()
    world.publish(world.log.append())  # 4: 3 is lost.
    await asyncio.sleep(3)
    assert alice.offsets() in ([3, 4], [4], [])
    told = max(event["offset"] for event in alice.notices())
    assert [*range(1, told + 1), *alice.offsets()] == [1, 2, 3, 4]


@in_virtual_time
async def test_a_recalled_or_expired_message_leaves_a_gap_that_nobody_is_told_of() -> None:
    world = World()
    alice = await world.connect()
    world.notify()
    world.log.append()
    world.log.append(expires_at=asyncio.get_running_loop().time() + 0.01)
    world.log.recall("all", 2)
    world.publish(world.log.append())
    await asyncio.sleep(PATIENCE)
    assert alice.offsets() == [1, 4]
    assert [event["event"] for event in alice.notices()] == ["subscribed"]  # The epoch's name.


# --- Coming in ------------------------------------------------------------------------------------


@in_virtual_time
async def test_an_event_between_the_read_and_going_live_comes_after_what_was_missed() -> None:
    world = World()
    world.log.append()
    await world.connect()  # The hub knows the topic.
    alice = Recorder()
    found = await world.hub.subscribe(alice, {"all": Since("one", 0)})
    world.notify()
    assert alice.events == []
    world.tell(alice, found)
    assert alice.offsets() == [1, 2]
    world.notify()
    assert alice.offsets() == [1, 2, 3]


@in_virtual_time
async def test_an_event_during_the_read_comes_once() -> None:
    world = World()
    for _ in range(3):
        world.log.append()
    await world.connect()
    world.log.seconds = 1
    for moment in (0.1, 0.9):  # Before and after the log looks.
        connecting = asyncio.create_task(world.connect(since=Since("one", 1)))
        await asyncio.sleep(moment)
        head = world.log.topics["all"].head
        world.notify()
        alice = await connecting
        await asyncio.sleep(1)
        assert alice.offsets() == list(range(2, head + 2))


@in_virtual_time
async def test_a_client_ahead_of_the_hub_gets_nothing_twice() -> None:
    world = World()
    bob = await world.connect(user="bob")
    events = [world.log.append() for _ in range(3)]  # Stored, but not yet heard of.
    alice = await world.connect(since=Since("one", 1))
    assert alice.offsets() == [2, 3]
    world.publish(*events)
    world.notify()
    assert alice.offsets() == [2, 3, 4]
    assert bob.offsets() == [1, 2, 3, 4]


@in_virtual_time
async def test_a_client_that_has_seen_what_the_hub_has_not_waits_for_it() -> None:
    world = World()
    await world.connect()
    events = [world.log.append() for _ in range(3)]
    alice = await world.connect(since=Since("one", 3))
    world.publish(*events)
    assert alice.offsets() == []
    world.notify()
    assert alice.offsets() == [4]


@in_virtual_time
async def test_a_topic_found_early_moves_on_while_a_later_one_is_read() -> None:
    world = World()
    world.log.append("user.alice")
    world.log.append("all")
    await world.connect("all", "user.alice", user="bob")
    world.log.seconds = 1
    connecting = asyncio.create_task(world.connect("all", "user.alice", since=Since("one", 0)))
    await asyncio.sleep(0.1)
    world.notify("all")
    await asyncio.sleep(0.8)
    world.notify("user.alice")
    world.notify("all")
    alice = await connecting
    await asyncio.sleep(1)
    assert alice.offsets("all") == [1, 2, 3]
    assert alice.offsets("user.alice") == [1, 2]


@in_virtual_time
async def test_the_first_message_between_read_and_going_live_names_its_epoch() -> None:
    world = World()
    alice = Recorder()
    found = await world.hub.subscribe(alice, {"all": None})
    world.notify()
    world.tell(alice, found)
    assert [(event["event"], event["offset"]) for event in alice.events] == [("subscribed", 0), ("message", 1)]


@in_virtual_time
async def test_events_before_the_first_position_is_known_are_not_lost() -> None:
    world = World()
    world.log.append()
    world.log.seconds = 1
    connecting = asyncio.create_task(world.connect(since=Since("one", 1)))
    await asyncio.sleep(0.8)  # The log has looked: the position is 1.
    world.notify()
    alice = await connecting
    assert alice.offsets() == [2]


@in_virtual_time
async def test_a_bus_that_does_not_answer_holds_up_nobody_for_long() -> None:
    world = World()
    world.membership.seconds = 3600
    started = asyncio.get_running_loop().time()
    alice = await world.connect()
    assert asyncio.get_running_loop().time() - started < 0.5
    world.log.append()
    await world.hub.check(["all"])
    await asyncio.sleep(PATIENCE)
    assert alice.offsets() == [1]


@in_virtual_time
async def test_who_cannot_be_subscribed_is_out_again() -> None:
    world = World()
    world.log.down = True
    alice = Recorder()
    with pytest.raises(ConnectionError):
        await world.hub.subscribe(alice, {"all": None, "user.alice": None})
    assert (world.hub.names(), alice.topics, world.membership.joined) == ([], set(), set())


@in_virtual_time
async def test_who_leaves_while_it_comes_in_is_out_again() -> None:
    world = World()
    world.log.seconds = 1
    connecting = asyncio.create_task(world.connect())
    await asyncio.sleep(0.3)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    assert world.hub.names() == []


# --- Recovery -------------------------------------------------------------------------------------


@in_virtual_time
async def test_recent_events_of_a_shared_topic_come_from_memory() -> None:
    world = World()
    await world.connect()
    for _ in range(5):
        world.notify()
    for offset in range(6):
        alice = await world.connect(since=Since("one", offset))
        assert alice.offsets() == list(range(offset + 1, 6))
    assert world.log.reads == 0


@in_virtual_time
async def test_what_memory_does_not_reach_comes_from_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_topic, "RECENT_EVENTS", 2)
    world = World()
    await world.connect()
    for _ in range(5):
        world.notify()
    assert (await world.connect(since=Since("one", 3))).offsets() == [4, 5]
    assert world.log.reads == 0
    assert (await world.connect(since=Since("one", 2))).offsets() == [3, 4, 5]
    assert world.log.reads == 1


@in_virtual_time
async def test_a_topic_of_one_user_is_not_kept_in_memory() -> None:
    world = World()
    await world.connect("user.alice")
    for _ in range(3):
        world.notify("user.alice")
    assert (await world.connect("user.alice", since=Since("one", 1))).offsets("user.alice") == [2, 3]
    assert world.log.reads == 1


@in_virtual_time
async def test_memory_does_not_hold_what_was_recalled_has_expired_or_is_not_for_the_reader() -> None:
    world = World()
    await world.connect()
    world.notify()
    world.notify(expires_at=asyncio.get_running_loop().time() + 5)
    world.notify(exclude=["alice"])
    world.notify()
    world.publish(world.log.recall("all", 1))
    await asyncio.sleep(6)
    assert (await world.connect(since=Since("one", 0))).offsets() == [4]
    assert (await world.connect(since=Since("one", 0), user="bob")).offsets() == [3, 4]
    assert world.log.reads == 0


@in_virtual_time
async def test_memory_in_doubt_is_not_used() -> None:
    world = World()
    await world.connect()
    world.notify()
    world.notify()
    world.log.recall("all", 1)  # Its event is lost.
    await world.hub.check(["all"], doubt=True)
    assert (await world.connect(since=Since("one", 0))).offsets() == [2]


@in_virtual_time
async def test_a_position_before_the_first_message_means_from_the_beginning() -> None:
    world = World()
    for _ in range(3):
        world.log.append()
    assert (await world.connect(since=Since(None, 0))).offsets() == [1, 2, 3]


@pytest.mark.parametrize(
    "since",
    [Since("other", 2), Since("other", 0), Since(None, 2), Since("one", 4), Since("one", 0), Since("one", -1)],
    ids=["another epoch", "another epoch's beginning", "no epoch", "ahead of the log", "behind retention", "negative"],
)
@in_virtual_time
async def test_a_position_that_cannot_be_resumed_is_not_recovered(since: Since) -> None:
    world = World()
    for _ in range(3):
        world.log.append()
    world.log.retain_from("all", 3)
    alice = Recorder()
    (found,) = await world.hub.subscribe(alice, {"all": since})
    assert found == Subscription("all", "one", 3, recovered=False)
    world.hub.go_live(alice, [found])
    world.notify()
    assert alice.offsets() == [4]


@in_virtual_time
async def test_a_huge_position_is_not_recovered() -> None:
    world = World()
    world.log.append()
    (found,) = await world.hub.subscribe(Recorder(), {"all": Since("one", 2**64 - 1)})
    assert not found.recovered


@in_virtual_time
async def test_more_than_the_recovery_limit_is_not_recovered() -> None:
    world = World(recovery_events=3)
    for _ in range(10):
        world.log.append()
    recorder = Recorder()
    assert (await world.hub.subscribe(recorder, {"all": Since("one", 7)}))[0].recovered
    (found,) = await world.hub.subscribe(recorder, {"all": Since("one", 6)})
    assert found == Subscription("all", "one", 10, recovered=False)


@in_virtual_time
async def test_more_bytes_than_the_outbox_takes_are_not_recovered() -> None:
    world = World(recovery_bytes=1000)
    for _ in range(3):
        world.log.append(data=b'"' + b"x" * 600 + b'"')
    recorder = Recorder()
    assert (await world.hub.subscribe(recorder, {"all": Since("one", 2)}))[0].recovered
    assert not (await world.hub.subscribe(recorder, {"all": Since("one", 1)}))[0].recovered


@in_virtual_time
async def test_memory_and_log_have_the_same_limits() -> None:
    world = World(recovery_events=3)
    await world.connect()
    for _ in range(10):
        world.notify()
    (found,) = await world.hub.subscribe(Recorder(), {"all": Since("one", 0)})
    assert not found.recovered
    (found,) = await world.hub.subscribe(Recorder(), {"all": Since("one", 7)})
    assert found.recovered


@in_virtual_time
async def test_subscribing_again_goes_on_from_the_new_position() -> None:
    world = World()
    alice = await world.connect()
    world.notify()
    world.notify()
    world.tell(alice, await world.hub.subscribe(alice, {"all": Since("one", 1)}))
    world.notify()
    assert alice.offsets() == [1, 2, 2, 3]


# --- Who may not, who cannot ----------------------------------------------------------------------


@in_virtual_time
async def test_excluded_users_do_not_get_the_message_and_the_others_do() -> None:
    world = World()
    alice, bob = await world.connect(user="alice"), await world.connect(user="bob")
    service = await world.connect(user="")
    world.publish(world.log.append(), world.log.append(exclude=["bob"]), world.log.append())
    assert (alice.offsets(), bob.offsets(), service.offsets()) == ([1, 2, 3], [1, 3], [1, 2, 3])


@in_virtual_time
async def test_exclusions_hold_for_repairs_held_events_and_recovery() -> None:
    world = World()
    bob = await world.connect(user="bob")
    for _ in range(2):
        world.log.append(exclude=["bob"])
    world.publish(world.log.append())
    await asyncio.sleep(PATIENCE)
    assert bob.offsets() == [3]
    late = Recorder("bob")
    found = await world.hub.subscribe(late, {"all": Since("one", 0)})
    world.notify(exclude=["bob"])
    world.tell(late, found)
    assert late.offsets() == [3]


@in_virtual_time
async def test_too_much_while_catching_up_means_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_topic, "HELD_EVENTS", 3)
    world = World()
    alice = Recorder()
    found = await world.hub.subscribe(alice, {"all": None})
    for _ in range(4):
        world.notify()
    world.tell(alice, found)
    assert alice.code is CloseCode.RESYNC
    assert alice.offsets() == []


@in_virtual_time
async def test_a_reset_while_catching_up_means_come_back() -> None:
    world = World()
    world.log.append()
    await world.connect()
    alice = Recorder()
    found = await world.hub.subscribe(alice, {"all": None})
    world.log.topics["all"].epoch = "two"
    await world.hub.check(["all"])
    await asyncio.sleep(PATIENCE)
    world.tell(alice, found)
    assert alice.code is CloseCode.RESYNC


class Slow(Recorder):
    """A client that takes nothing."""

    def write(self, data: Sequence[bytes]) -> None:
        super().write(data)
        self._written += sum(map(len, data))
        self._check_pace(self._written)


@in_virtual_time
async def test_a_slow_reader_is_closed_and_the_others_go_on() -> None:
    world = World()
    slow = Slow(max_backlog=500)
    world.tell(slow, await world.hub.subscribe(slow, {"all": None}))
    alice = await world.connect()
    for _ in range(20):
        world.notify()
        await asyncio.sleep(0)
    assert slow.code is CloseCode.SLOW_READER
    assert len(slow.offsets()) < 10
    assert alice.offsets() == list(range(1, 21))
    world.hub.leave(slow)
    assert world.hub.names() == ["all"]


# --- What it costs --------------------------------------------------------------------------------


@in_virtual_time
async def test_events_of_a_topic_that_come_together_are_one_write_encoded_once() -> None:
    world = World()
    world.log.append()
    connections = [await world.connect() for _ in range(10)]
    Recorder.encodings = 0
    world.publish(*[world.log.append() for _ in range(5)])
    assert Recorder.encodings == 1
    assert [connection.writes for connection in connections] == [[5]] * 10


@in_virtual_time
async def test_a_repair_is_one_write_too() -> None:
    world = World()
    world.log.append()
    alice = await world.connect()
    events = [world.log.append() for _ in range(5)]
    world.publish(events[-1])
    await asyncio.sleep(PATIENCE)
    assert alice.writes == [5]


@in_virtual_time
async def test_when_the_last_listener_leaves_nothing_is_kept() -> None:
    world = World()
    alice, bob = await world.connect("all", "user.alice"), await world.connect(user="bob")
    world.log.append()
    world.publish(world.log.append())  # A gap, with its timer.
    world.hub.leave(alice)
    assert world.hub.names() == ["all"]
    world.hub.leave(bob)
    assert (world.hub.names(), world.membership.wanted, world.membership.joined) == ([], set(), set())
    await asyncio.sleep(1)
    assert world.log.reads == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


@in_virtual_time
async def test_a_repair_under_way_ends_with_its_last_listener() -> None:
    world = World()
    alice = await world.connect()
    world.log.seconds = 10
    world.log.append()
    world.publish(world.log.append())
    await asyncio.sleep(1)
    world.hub.leave(alice)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    world.log.seconds = 0
    assert (await world.connect(since=Since("one", 0))).offsets() == [1, 2]


@in_virtual_time
async def test_an_event_for_a_topic_without_listeners_is_dropped() -> None:
    world = World()
    world.notify()
    assert world.hub.names() == []


@in_virtual_time
async def test_a_topic_is_kept_for_those_who_will_soon_be_back() -> None:
    world = World()
    poll = Recorder()
    poll.linger = 30
    world.hub.go_live(poll, await world.hub.subscribe(poll, {"all": None}))
    world.hub.leave(poll)
    await asyncio.sleep(20)
    assert world.hub.names() == ["all"]
    world.notify()
    back = await world.connect(since=Since("one", 0))
    assert back.offsets() == [1]
    await asyncio.sleep(20)
    assert world.hub.names() == ["all"]
    world.hub.leave(back)
    assert world.hub.names() == []


@in_virtual_time
async def test_who_unsubscribes_what_it_never_had_ends_nothing() -> None:
    world = World()
    poll, stranger = Recorder(), Recorder("mallory")
    poll.linger = 30
    world.hub.go_live(poll, await world.hub.subscribe(poll, {"all": None}))
    world.hub.leave(poll)
    world.hub.unsubscribe(stranger, ["all", "unknown"])
    assert world.hub.names() == ["all"]


@in_virtual_time
async def test_places_are_where_each_topic_stands_for_the_connection() -> None:
    world = World()
    alice = await world.connect("all", "user.alice")
    world.notify()
    world.notify()
    assert world.hub.places(alice) == {"all": Since("one", 2), "user.alice": Since(None, 0)}
