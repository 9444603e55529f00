"""The emulator as the real SDK sees it: what tests of the product rely on."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc
import httpx
import pytest
from momento import AuthClientAsync, CacheClientAsync, CredentialProvider, TopicClientAsync
from momento.auth.access_control.disposable_token_scopes import DisposableTokenScopes
from momento.config import Configurations, TopicConfigurations
from momento.config.auth_configurations import AuthConfigurations
from momento.errors import MomentoErrorCode
from momento.requests import CollectionTtl, SortOrder
from momento.responses import (
    CacheGet,
    CacheIncrement,
    CacheSet,
    CreateCache,
    ListCaches,
    TopicPublish,
    TopicSubscribe,
)
from momento.responses.auth.generate_disposable_token import GenerateDisposableToken
from momento.responses.data.sorted_set.fetch import CacheSortedSetFetch
from momento.responses.data.sorted_set.get_rank import CacheSortedSetGetRank
from momento.responses.data.sorted_set.get_score import CacheSortedSetGetScore
from momento.utilities import ExpiresIn
from momento_wire_types import cachepubsub_pb2 as wire
from momento_wire_types import cachepubsub_pb2_grpc as services

from tests.emulators.momento import Momento

pytestmark = pytest.mark.any_database


def credentials(momento: Momento, key: str | None = None) -> CredentialProvider:
    return CredentialProvider(key or momento.api_key, momento.host, momento.host, momento.host, momento.port)


@pytest.fixture
async def caches(momento: Momento) -> AsyncIterator[CacheClientAsync]:
    """A client, and a cache `c`."""
    momento.create_cache("c")
    async with CacheClientAsync(Configurations.Laptop.latest(), credentials(momento), timedelta(seconds=60)) as client:
        yield client


async def publish(momento: Momento, value: str, key: str | None = None, topic: str = "t") -> Any:
    async with TopicClientAsync(TopicConfigurations.Default.latest(), credentials(momento, key)) as client:
        return await client.publish("c", topic, value)


async def over(subscription: TopicSubscribe.SubscriptionAsync, momento: Momento) -> None:
    """Ends it. What gRPC has to say of that must come before the event loop is closed: others would miss theirs."""
    subscription.unsubscribe()
    while momento.subscribers("c", "t"):
        await asyncio.sleep(0.01)


async def items(momento: Momento, count: int, token: str | None = None, **resume: int) -> list[Any]:
    """The first ones that a subscription on the wire gets, each as (kind, its fields)."""
    return await asyncio.to_thread(_items, momento, count, token or momento.api_key, resume)


def _items(momento: Momento, count: int, token: str, resume: dict[str, int]) -> list[Any]:
    with grpc.insecure_channel(momento.endpoint) as channel:
        request = wire._SubscriptionRequest(cache_name="c", topic="t", **resume)
        stream = services.PubsubStub(channel).Subscribe(request, metadata=(("authorization", token),), timeout=10)
        found: list[Any] = []
        for item in stream:
            kind = item.WhichOneof("kind")
            found.append((kind, getattr(item, kind)))
            if len(found) == count:
                return found
    raise AssertionError("The stream has ended.")


async def test_values_are_set_read_and_expire(momento: Momento, caches: CacheClientAsync) -> None:
    assert isinstance(await caches.set("c", "k", b"\x00v"), CacheSet.Success)
    got = await caches.get("c", "k")
    assert isinstance(got, CacheGet.Hit)
    assert got.value_bytes == b"\x00v"
    momento.advance(61)
    assert isinstance(await caches.get("c", "k"), CacheGet.Miss)
    counted = await caches.increment("c", "n", 2)
    assert isinstance(counted, CacheIncrement.Success)
    assert momento.items("c") == {b"n": b"2"}


async def test_sorted_sets_are_in_order_and_ties_by_value(caches: CacheClientAsync) -> None:
    scores = {"b": 1.0, "a": 1.0, "c": 3.0}
    await caches.sorted_set_put_elements("c", "s", scores)
    await caches.sorted_set_increment_score("c", "s", "c", 1.0)
    fetched = await caches.sorted_set_fetch_by_rank("c", "s", 0, 2, SortOrder.DESCENDING)
    assert isinstance(fetched, CacheSortedSetFetch.Hit)
    assert fetched.value_list_string == [("c", 4.0), ("b", 1.0)]
    fetched = await caches.sorted_set_fetch_by_score("c", "s", max_score=2.0, offset=1)
    assert isinstance(fetched, CacheSortedSetFetch.Hit)
    assert fetched.value_list_string == [("b", 1.0)]
    rank = await caches.sorted_set_get_rank("c", "s", "a")
    assert isinstance(rank, CacheSortedSetGetRank.Hit)
    assert rank.rank == 0
    assert isinstance(await caches.sorted_set_get_rank("c", "s", "nobody"), CacheSortedSetGetRank.Miss)
    assert isinstance(await caches.sorted_set_get_score("c", "s", "nobody"), CacheSortedSetGetScore.Miss)
    await caches.sorted_set_remove_elements("c", "s", {"a", "b", "c"})
    assert isinstance(await caches.sorted_set_fetch_by_rank("c", "s"), CacheSortedSetFetch.Miss)


async def test_a_set_lives_as_long_as_its_last_refresh_says(momento: Momento, caches: CacheClientAsync) -> None:
    for refresh, lives in ((False, False), (True, True)):
        await caches.sorted_set_put_element("c", "s", "a", 1.0, ttl=CollectionTtl(timedelta(seconds=60), True))
        momento.advance(40)
        await caches.sorted_set_put_element("c", "s", "b", 1.0, ttl=CollectionTtl(timedelta(seconds=60), refresh))
        momento.advance(40)
        found = await caches.sorted_set_fetch_by_rank("c", "s")
        assert isinstance(found, CacheSortedSetFetch.Hit) == lives


async def test_caches_are_made_and_listed(momento: Momento, caches: CacheClientAsync) -> None:
    assert isinstance(await caches.create_cache("c"), CreateCache.CacheAlreadyExists)
    assert isinstance(await caches.create_cache("d"), CreateCache.Success)
    listed = await caches.list_caches()
    assert isinstance(listed, ListCaches.Success)
    assert [cache.name for cache in listed.caches] == momento.caches() == ["c", "d"]
    got = await caches.get("e", "k")
    assert isinstance(got, CacheGet.Error)
    assert got.error_code == MomentoErrorCode.NOT_FOUND_ERROR


async def test_topics_arrive(momento: Momento) -> None:
    momento.create_cache("c")
    async with TopicClientAsync(TopicConfigurations.Default.latest(), credentials(momento)) as client:
        subscription = await client.subscribe("c", "t")
        assert isinstance(subscription, TopicSubscribe.SubscriptionAsync)
        assert isinstance(await client.publish("c", "t", "hello"), TopicPublish.Success)
        item: Any = await asyncio.wait_for(subscription.__anext__(), 5)
        assert item.value == "hello"
        too_large = await client.publish("c", "t", "x" * 4097)
        assert isinstance(too_large, TopicPublish.Error)
        assert too_large.error_code == MomentoErrorCode.LIMIT_EXCEEDED_ERROR
        await over(subscription, momento)
    assert momento.published("c", "t") == ["hello"]


async def test_subscriptions_resume_where_they_were_and_see_gaps(momento: Momento) -> None:
    momento.create_cache("c")
    for value in ("a", "b"):
        momento.publish("c", "t", value)
    (kind, _), (_, item) = await items(momento, 2, resume_at_topic_sequence_number=2, sequence_page=1)
    assert kind == "heartbeat"
    assert (item.topic_sequence_number, item.sequence_page, item.value.text) == (2, 1, "b")
    momento.forget("c", "t")
    momento.publish("c", "t", "c")
    _, (kind, gap), (_, item) = await items(momento, 3, resume_at_topic_sequence_number=2, sequence_page=1)
    assert (kind, gap.last_topic_sequence, gap.new_topic_sequence) == ("discontinuity", 1, 3)
    assert item.value.text == "c"
    momento.turn_page("c", "t")
    momento.publish("c", "t", "d")
    _, (kind, gap), (_, item) = await items(momento, 3, resume_at_topic_sequence_number=4, sequence_page=1)
    assert (kind, gap.new_sequence_page, gap.new_topic_sequence) == ("discontinuity", 2, 1)
    assert (item.topic_sequence_number, item.value.text) == (1, "d")


async def test_a_quiet_subscription_has_heartbeats_and_ends_with_its_key(momento: Momento) -> None:
    momento.create_cache("c")
    key = momento.new_key()
    assert [kind for kind, _ in await items(momento, 2, key)] == ["heartbeat", "heartbeat"]
    reading = asyncio.create_task(items(momento, 99, key))
    while not momento.subscribers("c", "t"):
        await asyncio.sleep(0.01)
    momento.revoke(key)
    with pytest.raises(grpc.RpcError) as caught:
        await asyncio.wait_for(reading, 5)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


async def disposable(momento: Momento, key: str, scope: Any) -> GenerateDisposableToken.Success:
    made = credentials(momento, key)
    async with AuthClientAsync(AuthConfigurations.Laptop.latest(), made) as client:
        answer = await client.generate_disposable_token(scope, ExpiresIn.minutes(30))
    assert isinstance(answer, GenerateDisposableToken.Success), answer
    return answer


async def test_disposable_tokens_allow_what_they_say_until_they_expire(momento: Momento) -> None:
    momento.create_cache("c")
    made = await disposable(momento, momento.api_key, DisposableTokenScopes.topic_subscribe_only("c", "t"))
    token = json.loads(base64.b64decode(made.auth_token))["api_key"]
    refused = await publish(momento, "x", token)
    assert refused.error_code == MomentoErrorCode.PERMISSION_ERROR
    assert [kind for kind, _ in await items(momento, 1, token)] == ["heartbeat"]
    momento.advance(30 * 60)
    with pytest.raises(grpc.RpcError):
        await items(momento, 1, token)
    made = await disposable(momento, momento.api_key, DisposableTokenScopes.topic_publish_only("c", "t"))
    token = json.loads(base64.b64decode(made.auth_token))["api_key"]
    assert isinstance(await publish(momento, "x", token), TopicPublish.Success)
    assert (await publish(momento, "x", token, "other")).error_code == MomentoErrorCode.PERMISSION_ERROR


async def test_keys_that_are_unknown_are_refused(momento: Momento) -> None:
    momento.create_cache("c")
    old = momento.api_key
    new = momento.new_key()
    momento.revoke(old)
    assert (await publish(momento, "x", old)).error_code == MomentoErrorCode.AUTHENTICATION_ERROR
    assert isinstance(await publish(momento, "x", new), TopicPublish.Success)


async def test_failures_as_ordered(momento: Momento, caches: CacheClientAsync) -> None:
    momento.fail("Publish", grpc.StatusCode.RESOURCE_EXHAUSTED, 1, cause="operations_rate_limit_exceeded")
    limited = await publish(momento, "x")
    assert limited.error_code == MomentoErrorCode.LIMIT_EXCEEDED_ERROR
    assert momento.published("c", "t") == []
    momento.fail("Publish", grpc.StatusCode.UNAVAILABLE, 1, late=True)
    assert isinstance(await publish(momento, "y"), TopicPublish.Error)
    assert momento.published("c", "t") == ["y"]
    assert isinstance(await publish(momento, "z"), TopicPublish.Success)
    momento.fail("Get", grpc.StatusCode.UNAVAILABLE, 2)
    assert isinstance(await caches.get("c", "k"), CacheGet.Miss)  # The SDK tries again.
    assert momento.calls("Get") == 3


async def test_it_stops_and_comes_back_with_what_it_had(momento: Momento, caches: CacheClientAsync) -> None:
    await caches.set("c", "k", "v")
    momento.stop()
    gone = await caches.get("c", "k")
    assert isinstance(gone, CacheGet.Error)
    assert gone.error_code == MomentoErrorCode.SERVER_UNAVAILABLE
    momento.start()
    async with CacheClientAsync(Configurations.Laptop.latest(), credentials(momento), timedelta(seconds=60)) as again:
        while not isinstance(await again.get("c", "k"), CacheGet.Hit):  # gRPC lets a moment pass.
            await asyncio.sleep(0.05)


def test_the_http_api(momento: Momento) -> None:
    momento.create_cache("c")
    headers = {"Authorization": momento.api_key, "Content-Type": "text/plain"}
    with httpx.Client(base_url=momento.http_url, headers=headers) as http:
        assert http.put("/cache/c", params={"key": "k", "ttl_seconds": 60}, content=b"\xffv").status_code == 204
        found = http.get("/cache/c", params={"key_base64": base64.urlsafe_b64encode(b"k").decode()})
        assert (found.status_code, found.content) == (200, b"\xffv")
        momento.advance(60)
        assert http.get("/cache/c", params={"key": "k"}).text == "Key Not Found"
        assert http.get("/cache/d", params={"key": "k"}).text == "Cache Not Found"
        assert http.get("/cache/c").status_code == 400
        assert http.get("/cache/c", params={"key": "k", "token": "t"}).status_code == 400
        assert http.get("/cache/c", params={"key": "k"}, headers={"Authorization": "x"}).status_code == 401
        assert http.post("/topics/c/t", content="hello").status_code == 204
        answer = http.get("/topics/c/t", params={"sequence_number": 1, "sequence_page": 1}).json()
    item = {"topic_sequence_number": 1, "sequence_page": 1, "value": {"text": "hello"}}
    assert answer == {"items": [{"item": item}]}


async def test_a_delay_ends_when_it_is_healed(momento: Momento, caches: CacheClientAsync) -> None:
    momento.delay("Get", 60)
    getting = asyncio.create_task(caches.get("c", "k"))
    while not momento.calls("Get"):
        await asyncio.sleep(0.01)
    assert not getting.done()
    momento.heal()
    assert isinstance(await asyncio.wait_for(getting, 5), CacheGet.Miss)
