"""Whole ways through: emulated AWS and Momento, our processes as they run, and Momento's own SDK at the end."""

import asyncio
import base64
import json
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from momento import CredentialProvider, TopicClientAsync
from momento.config import TopicConfigurations
from momento.responses import TopicSubscribe, TopicSubscriptionItem

from tests.emulators.aws import ACCOUNT, Aws
from tests.emulators.cloudformation import Stack as Deployed
from tests.emulators.momento import Momento
from tests.servers import STOP_SECONDS, Stack, Web, eventually

SECONDS = 20.0
CACHE = "fanfare-dev"
MakeStack = Callable[..., Stack]


@pytest.fixture
def outside(aws: Aws, momento: Momento) -> dict[str, str]:
    """The environment of a product that has an AWS account and a Momento with one cache."""
    momento.create_cache(CACHE)
    return {
        **aws.environment,
        "MOMENTO_ENDPOINT": momento.endpoint,
        "MOMENTO_PLAINTEXT": "1",
        "MOMENTO_API_KEY": momento.api_key,
        "MOMENTO_TOKEN_KEY": momento.new_key(),
        "MOMENTO_CACHES": CACHE,
    }


@asynccontextmanager
async def subscribed(momento: Momento, key: str, topic: str) -> AsyncIterator[Callable[[], Any]]:
    """A subscription of the real SDK -> what waits for its next message."""
    credentials = CredentialProvider(key, momento.host, momento.host, momento.host, momento.port)
    long = TopicConfigurations.Default.latest().with_client_timeout(timedelta(days=1))  # Else it ends after 5 s.
    async with TopicClientAsync(long, credentials) as client:
        subscription = await client.subscribe(CACHE, topic)
        assert isinstance(subscription, TopicSubscribe.SubscriptionAsync), subscription

        async def heard() -> Any:
            item = await asyncio.wait_for(anext(subscription), SECONDS)
            assert isinstance(item, TopicSubscriptionItem.Text), item
            return json.loads(item.value)

        yield heard
        subscription.unsubscribe()
        while momento.subscribers(CACHE, topic):  # gRPC has something to say to this event loop until then.
            await asyncio.sleep(0.01)


def start_all(stack: Stack) -> Web:
    """Web, worker and beat; the first one is ready."""
    web = stack.start_web(wait=False)
    stack.start_worker()
    stack.start_beat()
    web.wait_until_ready()
    return web


def make_destination(stack: Stack, **fields: Any) -> None:
    with stack.client() as http:
        reply = http.post("/api/destinations", json={"name": "momento", "kind": "momento", **fields})
        assert reply.status_code == 201, reply.text


async def test_events_of_eventbridge_change_a_cache_and_reach_subscribers(
    make_stack: MakeStack, outside: dict[str, str], aws: Aws, momento: Momento
) -> None:
    caches = json.dumps({CACHE: {"backend": "momento"}})
    stack = make_stack(**outside, EVENTS_CACHES=caches)
    web = start_all(stack)
    make_destination(stack, events=["message"], topics=["topic."])
    deployed = Deployed(aws, web.url, stack.api_key)
    events = aws.client("events")

    def put(kind: str, **detail: Any) -> None:
        entry = {"Source": "demo", "DetailType": kind, "Detail": json.dumps({"cacheName": CACHE, **detail})}
        assert events.put_events(Entries=[entry])["FailedEntryCount"] == 0

    async with subscribed(momento, momento.api_key, "topic.prices") as heard:
        put("cacheSet", key="a", message='{"text": "hello"}', ttl=60)
        put("cacheSet", key_base64=base64.urlsafe_b64encode(b"\xff\xfe").decode(), message="by bytes", ttl=60)
        put("topicPublish", topicName="prices", message="17")
        said = await heard()
        assert (said["data"]["topic"], said["data"]["data"]) == ("topic.prices", "17")
    eventually(lambda: momento.items(CACHE) == {b"a": b'{"text": "hello"}', b"\xff\xfe": b"by bytes"}, SECONDS)
    put("cacheDelete", key="a")
    eventually(lambda: momento.items(CACHE) == {b"\xff\xfe": b"by bytes"}, SECONDS)
    sqs = aws.client("sqs")
    dead = sqs.get_queue_url(QueueName=f"{deployed.name}-events-dead")["QueueUrl"]
    put("cacheSet", key="a", cacheName="nowhere", message="x", ttl=60)
    letter = {"QueueUrl": dead, "MessageAttributeNames": ["All"], "WaitTimeSeconds": 10}
    (message,) = sqs.receive_message(**letter)["Messages"]
    assert json.loads(message["Body"])["detail"]["cacheName"] == "nowhere"
    assert "404" in message["MessageAttributes"]["ERROR_MESSAGE"]["StringValue"]


async def test_a_task_goes_by_sqs_to_a_worker_and_its_end_by_momento_to_its_user(
    make_stack: MakeStack, outside: dict[str, str], aws: Aws, momento: Momento
) -> None:
    for queue in ("celery", "celery-tasks", "celery-outside"):
        aws.client("sqs").create_queue(QueueName=f"fanfare-dev-{queue}")
    broker = f"sqs://{aws.endpoint_url.removeprefix('http://')}/{ACCOUNT}"
    stack = make_stack(**outside, CELERY_BROKER_URL=broker, TASK_ECHO_SECONDS="0.1")
    start_all(stack)
    make_destination(stack, events=["message"], topics=["user."])
    with stack.client(key=stack.token("alice")) as http:
        given = http.get("/api/token", params={"provider": "momento"}).json()
        assert given["cacheName"] == CACHE
        key = json.loads(base64.b64decode(given["token"]))["api_key"]
        async with subscribed(momento, key, "alice") as heard:
            reply = http.post("/api/tasks", json={"data": "a photo"})
            assert reply.status_code == 202, reply.text
            said = await heard()
    assert said["data"]["data"] == {"task": reply.json()["id"], "text": "Finished task: a photo"}
    assert aws.calls("SendMessage") >= 2


def test_a_consumer_that_is_killed_loses_nothing(
    make_stack: MakeStack, outside: dict[str, str], momento: Momento
) -> None:
    source = {"kind": "notification", "momento": {"cache": CACHE, "topic": "t"}}
    stack = make_stack(**outside, INGEST_SOURCES=json.dumps({"shop": source}))
    stack.start_web()
    said, over = 0, threading.Event()

    def say() -> None:
        nonlocal said
        while not over.wait(0.05):
            momento.publish(CACHE, "t", json.dumps({"to": {"user": "alice"}, "data": said}))
            said += 1

    def taken() -> list[Any]:
        with stack.client() as http:
            reply = http.get("/api/topics/user.alice/messages", params={"limit": 1000}).json()
        return [message["data"] for message in reply.get("messages", [])]

    def takes_more() -> None:
        before = len(taken())
        eventually(lambda: len(taken()) > before, SECONDS, stack.logs)

    consumer = stack.spawn("consume0", "tests.adapters.quick_consumer")
    eventually(lambda: momento.subscribers(CACHE, "t") == 1, SECONDS, stack.logs)
    saying = threading.Thread(target=say)
    saying.start()
    takes_more()
    consumer.send_signal(signal.SIGKILL)
    consumer.wait(STOP_SECONDS)
    consumer = stack.spawn("consume1", "tests.adapters.quick_consumer")
    takes_more()
    over.set()
    saying.join()
    eventually(lambda: len(taken()) >= said, SECONDS, stack.logs)
    assert taken() == list(range(said))
    consumer.terminate()
    assert consumer.wait(STOP_SECONDS) == 0
