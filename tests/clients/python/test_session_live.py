"""Listening to a session, waiting and with asyncio: when a message is done with, and how it ends."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from fanfare_client import AsyncClient, Client, Connected, Disconnected, FanfareError, Message
from fanfare_client.testing import FakeFanfare

pytestmark = pytest.mark.any_database

AT_ONCE = 0  # Seconds until a message comes again.


@pytest.fixture
def fake() -> Iterator[FakeFanfare]:
    with FakeFanfare() as fake:
        yield fake


@pytest.fixture
def client(fake: FakeFanfare) -> Client:
    """A service; there is a session `tab` of ann, with three messages."""
    client = fake.client()
    client.sessions.create("ann", session="tab")
    for number in range(3):
        client.send("ann", number)
    return client


def waiting(client: Client) -> list[int]:
    return [one.body["data"] for one in client.sessions.receive("tab", wait=0, visibility=AT_ONCE)]


def test_leaving_without_an_error_is_to_be_done_with_what_came(client: Client) -> None:
    with client.sessions.listen("tab", visibility=AT_ONCE) as events:
        for event in events:
            if isinstance(event, Message) and event.data == 1:
                break
    assert waiting(client) == [2]


def test_what_fails_comes_again(client: Client) -> None:
    def fail() -> None:
        with client.sessions.listen("tab", visibility=AT_ONCE) as events:
            for event in events:
                if isinstance(event, Message):
                    1 / (1 - event.data)

    with pytest.raises(ZeroDivisionError):
        fail()
    assert waiting(client) == [1, 2]


def test_another_thread_may_end_it(client: Client) -> None:
    heard: list[int] = []
    events = client.sessions.listen("tab", visibility=AT_ONCE)
    has_all = threading.Event()

    def listen() -> None:
        for event in events:
            if isinstance(event, Message):
                heard.append(event.data)
                if event.data == 2:
                    has_all.set()

    thread = threading.Thread(target=listen)
    thread.start()
    assert has_all.wait(10)
    events.close()
    client.send("ann", 3)  # Otherwise it ends with its long poll.
    thread.join(10)
    assert not thread.is_alive()
    assert heard == [0, 1, 2]
    assert waiting(client)[-1:] == [3]
    assert next(events, None) is None


def test_it_tells_of_failures_and_ends_with_the_session(fake: FakeFanfare, client: Client) -> None:
    events = client.sessions.listen("tab")
    assert isinstance(next(events), Connected)
    assert [next(events).data for _ in range(3)] == [0, 1, 2]  # type: ignore[union-attr]
    fake.fail(500, "broken", times=1)
    assert isinstance(next(events), Disconnected)
    client.sessions.end("tab")
    with pytest.raises(FanfareError, match="unknown_session"):
        next(events)


async def test_with_asyncio_it_is_the_same(fake: FakeFanfare, client: Client) -> None:
    async def fail(other: AsyncClient) -> None:
        async with other.sessions.listen("tab", visibility=AT_ONCE) as events:
            async for event in events:
                if isinstance(event, Message):
                    1 / (2 - event.data)

    async with AsyncClient(fake.url, fake.key) as other:
        async with other.sessions.listen("tab", visibility=AT_ONCE) as events:
            async for event in events:
                if isinstance(event, Message) and event.data == 0:
                    break
        assert waiting(client) == [1, 2]
        with pytest.raises(ZeroDivisionError):
            await fail(other)
        assert waiting(client) == [2]
        async with other.sessions.listen("tab") as events:
            task = asyncio.create_task(anext(events))
            assert isinstance(await task, Connected)
            assert isinstance(await anext(events), Message)
            task = asyncio.create_task(anext(events))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
