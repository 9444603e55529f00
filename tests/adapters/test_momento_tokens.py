"""`GET /api/token?provider=momento`: what the real SDK may do with it, and what happens where there is none."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from django.conf import LazySettings
from momento import CredentialProvider, TopicClientAsync
from momento.auth.access_control.disposable_token_scopes import DisposableTokenScopes
from momento.config import TopicConfigurations
from momento.errors import MomentoErrorCode
from momento.internal._utilities._permissions import permissions_from_disposable_token_scope
from momento.responses import TopicPublish, TopicSubscribe

from adapters.models import Destination
from adapters.momento import clients
from tests.accounts.calling import Api, service, user
from tests.emulators.momento import Momento

pytestmark = [pytest.mark.django_db, pytest.mark.any_database]

CACHE = "fanfare-test"


@pytest.fixture(autouse=True)
def _configured(momento: Momento, settings: LazySettings, at_momento: None) -> None:
    """Only the key for tokens may do everything: the other one publishes."""
    publish: Any = permissions_from_disposable_token_scope(DisposableTokenScopes.topic_publish_only(CACHE, "alice"))
    settings.MOMENTO_API_KEY, settings.MOMENTO_TOKEN_KEY = momento.new_key(publish), momento.api_key


def token(api: Api, **query: str) -> dict[str, Any]:
    found = api.does("GET", "token", provider="momento", **query)
    assert isinstance(found, dict)
    return found


@asynccontextmanager
async def listener(momento: Momento, given: dict[str, Any]) -> AsyncIterator[TopicClientAsync]:
    """The SDK with this token; it would call with TLS, so the token is taken out of its envelope."""
    inside = json.loads(base64.b64decode(given["token"]))
    assert CredentialProvider.from_disposable_token(given["token"]).auth_token == inside["api_key"]
    credentials = CredentialProvider(inside["api_key"], momento.host, momento.host, momento.host, momento.port)
    async with TopicClientAsync(TopicConfigurations.Default.latest(), credentials) as client:
        yield client


async def refused(client: TopicClientAsync, topic: str) -> tuple[MomentoErrorCode, MomentoErrorCode]:
    """To subscribe, and to publish."""
    subscribed, published = await client.subscribe(CACHE, topic), await client.publish(CACHE, topic, "spam")
    assert isinstance(subscribed, TopicSubscribe.Error)
    assert isinstance(published, TopicPublish.Error)
    return subscribed.error_code, published.error_code


def test_it_has_the_shape_of_our_own(momento: Momento) -> None:
    given = token(user("alice", "acme"))
    assert set(given) == {"endpoint", "token", "cacheName", "expiresAt"}
    assert (given["endpoint"], given["cacheName"]) == (momento.endpoint, CACHE)
    assert isinstance(given["expiresAt"], int)
    assert 1795 <= given["expiresAt"] - time.time() <= 1800


def test_its_holder_listens_to_their_own_topics_and_does_nothing_else(momento: Momento) -> None:
    given = token(user("alice", "acme"))

    async def listen() -> None:
        async with listener(momento, given) as client:
            for name in ("alice", "account.acme", "all"):
                found = await client.subscribe(CACHE, name)
                assert isinstance(found, TopicSubscribe.SubscriptionAsync)
                momento.publish(CACHE, name, f"to {name}")
                item: Any = await asyncio.wait_for(anext(found), 5)
                assert item.value == f"to {name}"
            for name in ("bob", "account.other", "user.alice", "alic", "alice2"):
                assert await refused(client, name) == (MomentoErrorCode.PERMISSION_ERROR,) * 2
            own = await client.publish(CACHE, "alice", "spam")
            assert isinstance(own, TopicPublish.Error)
            assert own.error_code == MomentoErrorCode.PERMISSION_ERROR

    asyncio.run(listen())


def test_after_thirty_minutes_it_is_over(momento: Momento) -> None:
    given = token(user("alice"))
    momento.advance(1801)

    async def listen() -> None:
        async with listener(momento, given) as client:
            assert await refused(client, "alice") == (MomentoErrorCode.AUTHENTICATION_ERROR,) * 2

    asyncio.run(listen())


def test_it_ends_with_the_credential_that_it_was_made_with() -> None:
    assert token(user("alice", ttl=100))["expiresAt"] - time.time() <= 100


def test_a_service_says_for_whom_and_a_user_gets_none_for_another(momento: Momento) -> None:
    given = token(service(), user="bob")

    async def listen() -> None:
        async with listener(momento, given) as client:
            assert isinstance(await client.subscribe(CACHE, "bob"), TopicSubscribe.SubscriptionAsync)
            assert await refused(client, "alice") == (MomentoErrorCode.PERMISSION_ERROR,) * 2

    asyncio.run(listen())
    assert user("alice").refusal("GET", "token", provider="momento", user="bob") == (403, "denied")


@pytest.mark.parametrize("name", ["all", "account.acme", "topic.orders", "user.alice"])
def test_a_user_whose_id_looks_like_a_topic_does_not_get_that(momento: Momento, name: str) -> None:
    given = token(user(name))

    async def listen() -> None:
        async with listener(momento, given) as client:
            if name != "all":  # Which is everybody's.
                assert await refused(client, name) == (MomentoErrorCode.PERMISSION_ERROR,) * 2
            assert isinstance(await client.subscribe(CACHE, f"user.{name}"), TopicSubscribe.SubscriptionAsync)

    asyncio.run(listen())


def test_topics_are_as_the_first_destination_names_them(momento: Momento) -> None:
    momento.create_cache("events")
    Destination.objects.create(name="m", kind="momento", address="events", options={"topic": "v1/{name}"})
    given = token(user("alice"))
    assert given["cacheName"] == "events"

    async def listen() -> None:
        async with listener(momento, given) as client:
            assert isinstance(await client.subscribe("events", "v1/alice"), TopicSubscribe.SubscriptionAsync)
            assert await refused(client, "alice") == (MomentoErrorCode.PERMISSION_ERROR,) * 2

    asyncio.run(listen())


@pytest.mark.parametrize("name", ["MOMENTO_TOKEN_KEY", "MOMENTO_ENDPOINT", "MOMENTO_CACHES"])
def test_where_it_is_not_set_up_the_setting_is_named(settings: LazySettings, name: str) -> None:
    setattr(settings, name, [] if name == "MOMENTO_CACHES" else "")
    reply = user("alice")("GET", "token", provider="momento")
    assert reply.status_code == 422
    assert json.loads(reply.content)["error"]["code"] == "provider_not_configured"
    assert name in reply.content.decode()


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "limit"),
        (grpc.StatusCode.UNAUTHENTICATED, "MOMENTO_TOKEN_KEY"),
        (grpc.StatusCode.UNAVAILABLE, "cannot be reached"),
    ],
)
def test_a_momento_that_gives_none_is_asked_again_later(momento: Momento, code: grpc.StatusCode, says: str) -> None:
    momento.fail("GenerateDisposableToken", code)
    reply = user("alice")("GET", "token", provider="momento")
    error = json.loads(reply.content)["error"]
    assert (reply.status_code, error["code"], reply["Retry-After"]) == (503, "provider_unavailable", "1")
    assert says in error["message"]
    assert momento.api_key not in reply.content.decode()
    momento.heal()
    assert token(user("alice"))


def test_a_momento_that_hangs_keeps_nobody(momento: Momento, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "ANSWER_SECONDS", 0.2)
    momento.delay("GenerateDisposableToken", 1.0)
    began = time.monotonic()
    assert user("alice").refusal("GET", "token", provider="momento") == (503, "provider_unavailable")
    assert time.monotonic() - began < 0.9
