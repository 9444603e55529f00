"""`manage.py consume` as it runs: killed, stopped, several at once; and SUMU's whole way by its two queues."""

import json
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg
import pytest
from django.conf import LazySettings
from django.core.management import CommandError, call_command

from config.management.commands.up import commands
from tests.adapters.consuming import Queue, good
from tests.adapters.streams import Stream
from tests.emulators.aws import Aws
from tests.realtime.sockets import dial
from tests.servers import Stack, eventually

SECONDS = 40.0
DATA = "SELECT data FROM notifications_message"
DYING = "tests.adapters.dying_consumer"
MakeStack = Callable[..., Stack]


def told(stack: Stack) -> Counter[Any]:
    """The data of all messages, and how often they are there."""
    if url := stack.environment.get("DATABASE_URL"):
        with psycopg.connect(url) as connection:
            rows: list[Any] = connection.execute(DATA).fetchall()
    else:
        with closing(sqlite3.connect(stack.home / "fanfare.sqlite3", timeout=20)) as database:
            rows = database.execute(DATA).fetchall()
    return Counter(data for (data,) in rows)


@pytest.mark.parametrize(("kind", "place"), [("queue", "received"), ("queue", "taken"), ("stream", "taken")])
def test_a_killed_consumer_loses_nothing_and_nothing_counts_twice(
    kind: str, place: str, make_stack: MakeStack, aws: Aws
) -> None:
    source: Queue | Stream = Queue(aws) if kind == "queue" else Stream(aws, shards=2)
    address = source.url if isinstance(source, Queue) else source.name
    sources = {"shop": {"kind": "notification", kind: address}}
    stack = make_stack(INGEST_SOURCES=json.dumps(sources), **aws.environment)
    bodies = [good(number) for number in range(60)]
    if isinstance(source, Queue):
        source.send(*bodies)
    else:
        for number, body in enumerate(bodies):
            source.put(body, key=str(number))
    killed = stack.spawn("killed", DYING, place)
    assert killed.wait(SECONDS) == -signal.SIGKILL
    for number in range(2):
        stack.spawn(f"consume{number}", DYING, "never", "shop")
    eventually(lambda: len(told(stack)) == 60, SECONDS, stack.logs)
    if isinstance(source, Queue):
        eventually(lambda: source.left() == 0, SECONDS, stack.logs)
    assert set(told(stack).values()) == {1}


@pytest.mark.any_database
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_at_once_and_says_nothing(number: signal.Signals, make_stack: MakeStack, aws: Aws) -> None:
    queue, stream = Queue(aws), Stream(aws)
    sources = {"q": {"kind": "notification", "queue": queue.url}, "s": {"kind": "sumu", "stream": stream.name}}
    stack = make_stack(INGEST_SOURCES=json.dumps(sources), **aws.environment)
    consumer = stack.spawn("consume", "manage", "consume")
    queue.send(good(1))
    eventually(lambda: aws.calls("DeleteMessageBatch") > 0 and aws.calls("GetRecords") > 0, SECONDS, stack.logs)
    began = time.monotonic()
    consumer.send_signal(number)
    assert consumer.wait(SECONDS) == 0
    assert time.monotonic() - began < 5
    said = [line for line in stack.logs().splitlines() if '"level": "debug"' not in line]
    assert not said


def sender_of(messages: Queue, body: Any) -> str:
    """Who sent the message that says so; presence is in the queue, too."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        reply = messages.client.receive_message(QueueUrl=messages.url, WaitTimeSeconds=1, MessageAttributeNames=["All"])
        for message in reply.get("Messages", []):
            attributes = {name: value["StringValue"] for name, value in message["MessageAttributes"].items()}
            if json.loads(message["Body"]) == body:
                assert attributes["source"] == "apigw.route.send"
                return str(attributes["user_id"])
    raise AssertionError(body)


async def test_sumu_from_a_client_by_its_queues_and_a_backend_back_to_the_client(
    make_stack: MakeStack, aws: Aws
) -> None:
    messages, notifications = Queue(aws), Queue(aws)
    stack = make_stack(MESSAGES_QUEUE_URL=messages.url, NOTIFICATIONS_QUEUE_URL=notifications.url, **aws.environment)
    stack.manage("migrate", "-v0")  # Which makes the destination.
    web = stack.start_web()
    stack.spawn("outside", "celery", "-A", "config", "worker", "-c", "1", "-Q", "outside")
    stack.start_beat()
    stack.spawn("consume", "manage", "consume")
    async with dial(web, stack.token("alice")) as alice, dial(web, stack.token("bob")) as bob:
        await alice.ask("ok", action="send", message={"text": "Hello, everybody"})
        sender = sender_of(messages, {"text": "Hello, everybody"})
        reply = {"type": "notification", "message": {"text": f"{sender} says hello"}}
        notifications.send(json.dumps({"users": ["bob"], "data": reply}))
        assert (await bob.next("message"))["data"] == reply
        notifications.send(json.dumps({"data": {"text": "all"}}))
        for socket in (alice, bob):
            assert (await socket.next("message"))["data"] == {"text": "all"}
    assert alice.data() == [{"text": "all"}]


@pytest.mark.any_database
def test_up_consumes_when_there_is_something_to_consume(settings: LazySettings) -> None:
    settings.INGEST_SOURCES = {"shop": {"kind": "notification", "secrets": ["s" * 40]}}
    assert "consume" not in commands()
    settings.NOTIFICATIONS_QUEUE_URL = "https://sqs.eu-west-1.amazonaws.com/1/notifications"
    assert commands()["consume"][-1] == "consume"


@pytest.mark.any_database
def test_what_cannot_be_consumed_is_refused_in_words(settings: LazySettings) -> None:
    settings.INGEST_SOURCES = {"http": {"kind": "notification", "secrets": ["s" * 40]}}
    with pytest.raises(CommandError, match="nothing to consume"):
        call_command("consume")
    with pytest.raises(CommandError, match="no 'http' to be consumed"):
        call_command("consume", "http")
