"""Listening, against the real server: what comes, what comes after a restart, and when it ends."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fanfare_client import (
    START,
    AsyncClient,
    BoardEvent,
    Client,
    Connected,
    Disconnected,
    Event,
    FanfareError,
    Message,
    PresenceEvent,
    Recalled,
    ReceiptEvent,
    Refused,
    Reset,
    Snapshot,
    TaskEvent,
    UnreadEvent,
)
from tests.servers import Stack

SECONDS = 30.0


def until(events: Iterator[Event], wanted: Callable[[Any], bool]) -> list[Event]:
    """Events up to one that is wanted."""
    seen = []
    for event in events:
        seen.append(event)
        if wanted(event):
            return seen
    raise AssertionError(seen)


def a(kind: type) -> Callable[[Any], bool]:
    return lambda event: isinstance(event, kind)


def data_of(events: list[Event]) -> list[Any]:
    return [event.data for event in events if isinstance(event, Message)]


def test_a_user_hears_what_is_theirs(client: Client, town: Stack) -> None:
    with Client(town.web[0].url, town.token("ann")).listen() as events:
        connected = next(events)
        assert isinstance(connected, Connected)
        assert connected.counts
        assert (connected.user, connected.counts.unread) == ("ann", 0)
        sent = client.send("ann", {"text": "Hello"}, "greeting")
        message = next(events)
        assert isinstance(message, Message)
        assert (message.id, message.data, message.offset) == (sent.id, {"text": "Hello"}, 1)
        client.inbox("ann").read(all=True)
        assert next(events) == ReceiptEvent(state="read", ids=(sent.id,))
        assert next(events) == UnreadEvent(unread=0, unseen=0)
        client.recall(sent.id)
        until(events, lambda event: event == Recalled(id=sent.id, topic="user.ann"))
        client.tasks.create({"data": "x"}, user="ann")
        until(events, lambda event: isinstance(event, TaskEvent) and event.state == "queued")
        client.send("ann", "gone", store=False)
        assert data_of(until(events, a(Message))) == ["gone"]


def test_it_begins_where_it_is_told_to_and_goes_on_from_positions(client: Client) -> None:
    for number in range(5):
        client.send("bea", number)
    with client.listen(["user.bea"], since=START) as events:
        assert data_of(until(events, lambda e: isinstance(e, Message) and e.data == 2)) == [0, 1, 2]
        positions = events.positions
    with client.listen(since=positions) as events:
        assert data_of(until(events, lambda e: isinstance(e, Message) and e.data == 4)) == [3, 4]


def test_what_cannot_be_sent_any_more_is_a_reset(client: Client) -> None:
    client.send("cas", 1)
    with client.listen(["user.cas"], since=START) as events:
        until(events, a(Message))
        (at,) = events.positions.values()
    elsewhere = type(at)(epoch="another", offset=1)
    with client.listen(since={"user.cas": elsewhere}) as events:
        reset = until(events, a(Reset))[-1]
    assert isinstance(reset, Reset)
    assert (reset.topic, reset.position.offset) == ("user.cas", 1)


def test_boards_and_presence_begin_with_a_snapshot(client: Client, town: Stack) -> None:
    client.boards["track"].submit("dan", 5)
    dan = Client(town.web[0].url, town.token("dan"))
    with dan.listen(["board.track", "watch.dan"], me=True) as events:
        seen = until(events, lambda event: isinstance(event, BoardEvent) and event.me is not None)
        tops = [
            event.snapshot["leaderboard"]
            for event in seen
            if isinstance(event, Snapshot) and event.topic == "board.track"
        ]
        assert [row["name"] for row in tops[0]] == ["dan"]
        client.boards["track"].submit("eva", 7)
        diff = until(events, lambda event: isinstance(event, BoardEvent) and bool(event.set))[-1]
        assert isinstance(diff, BoardEvent)
        assert [(row.name, row.rank) for row in diff.set] == [("eva", 0)]
        client.presence.say("dan", text="Here")
        presence = until(events, lambda e: isinstance(e, PresenceEvent) and e.presences[0].text == "Here")[-1]
        assert isinstance(presence, PresenceEvent)
        assert presence.topic == "watch.dan"


def test_a_topic_that_is_refused_leaves_the_others(client: Client, town: Stack) -> None:
    fay = Client(town.web[0].url, town.token("fay"))
    with fay.listen(["user.fay", "user.gil"]) as events:
        refused = until(events, a(Refused))[-1]
        assert isinstance(refused, Refused)
        assert (refused.topic, refused.code) == ("user.gil", "denied")
        client.send("fay", 1)
        assert data_of(until(events, a(Message))) == [1]
    with pytest.raises(FanfareError, match="denied"):
        list(fay.listen(["user.gil"]))


def test_every_message_comes_once_and_in_order_over_a_restart(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack()
    web = stack.start_web()
    with Client(web.url, stack.api_key) as client, client.listen(["user.hal"]) as events:
        until(events, a(Connected))
        got: list[Event] = []
        for number in range(20):
            if number == 10:
                web.kill()
                web.start()
            client.send("hal", number)
        got = until(events, lambda event: isinstance(event, Message) and event.data == 19)
    assert data_of(got) == list(range(20))
    assert any(isinstance(event, Disconnected) for event in got)


async def test_likewise_with_asyncio(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack()
    web = stack.start_web()
    got: list[Event] = []
    async with AsyncClient(web.url, stack.api_key) as client, client.listen(["user.ida"]) as events:
        async with asyncio.timeout(60):
            assert isinstance(await anext(events), Connected)
            for number in range(20):
                if number == 10:
                    await asyncio.to_thread(web.kill)
                    web.start()
                await client.send("ida", number)
            async for event in events:
                got.append(event)
                if isinstance(event, Message) and event.data == 19:
                    break
    assert data_of(got) == list(range(20))


def test_a_token_is_renewed_before_it_ends_without_an_interruption(town: Stack, client: Client) -> None:
    made: list[str] = []

    def fresh() -> str:
        made.append(town.token("jon", ttl=5))
        return made[-1]

    with Client(town.web[0].url, fresh).listen() as events:
        seen = []
        began = time.monotonic()
        assert isinstance(next(events), Connected)
        sender = threading.Timer(7, client.send, ["jon", "later"])
        sender.start()
        seen = until(events, a(Message))
        sender.join()
    assert time.monotonic() - began > 6  # Longer than the first token lived.
    assert data_of(seen) == ["later"]
    assert not [event for event in seen if isinstance(event, Disconnected)]
    assert 2 <= len(made) <= 4


def test_a_token_that_nobody_renews_ends_the_listening(town: Stack) -> None:
    with Client(town.web[0].url, town.token("kim", ttl=2)).listen() as events:
        with pytest.raises(FanfareError) as ended:
            until(events, lambda _event: False)
    assert (ended.value.status, ended.value.code) == (4401, "token_expired")


def test_who_is_not_known_or_sent_away_does_not_come_back(town: Stack, client: Client) -> None:
    with pytest.raises(FanfareError) as unknown:
        list(Client(town.web[0].url, "ff_nobody").listen())
    assert (unknown.value.status, unknown.value.code) == (4501, "unauthenticated")
    with Client(town.web[0].url, town.token("leo")).listen() as events:
        next(events)
        client.users.put("leo")
        client.users.erase("leo")
        with pytest.raises(FanfareError, match="revoked"):
            until(events, lambda _event: False)


def test_another_thread_can_end_it(town: Stack, client: Client) -> None:
    events = client.listen(["user.mia"])
    next(events)
    timer = threading.Timer(0.2, events.close)
    timer.start()
    assert list(events) == []
    timer.join()


async def test_another_task_can_end_it(async_client: AsyncClient) -> None:
    events = async_client.listen(["user.mia"])
    await anext(events)
    closing = asyncio.get_running_loop().call_later(0.2, lambda: tasks.append(asyncio.ensure_future(events.close())))
    tasks: list[Any] = []
    async with asyncio.timeout(10):
        assert [event async for event in events] == []
        await tasks[0]
    closing.cancel()


async def test_async_functions_give_tokens_too(town: Stack) -> None:
    async def fresh() -> str:
        await asyncio.sleep(0)
        return town.token("noa", ttl=60)

    async with AsyncClient(town.web[0].url, fresh) as own, own.listen() as events:
        assert isinstance(await anext(events), Connected)
        assert (await own.inbox("noa").counts()).unread == 0


def test_a_token_that_cannot_be_had_for_a_while_is_asked_for_again(town: Stack) -> None:
    asked: list[None] = []

    def fresh() -> str:
        asked.append(None)
        if len(asked) < 3:
            raise FanfareError(0, "unreachable", "Not now.")
        return town.token("ola", ttl=60)

    with Client(town.web[0].url, fresh).listen() as events:
        assert [type(next(events)) for _ in range(3)] == [Disconnected, Disconnected, Connected]

    def never() -> str:
        raise FanfareError(403, "denied", "Never.")

    with Client(town.web[0].url, never).listen() as events, pytest.raises(FanfareError, match="denied"):
        next(events)
