"""Calls of Momento: whom to call with which key, and what its refusals mean.

They are made with Momento's wire types: its SDK has no compare-and-set, no batches, no way to change a time to live and
no deadline for tokens, and repeats at once what had better wait. For threads; publishing is for event loops.
"""

import os
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import msgspec
from django.conf import settings

from adapters.base import Misconfigured
from adapters.secret_values import Rebuilt, SecretValue, secret_value

ANSWER_SECONDS = 2.0
MESSAGE_BYTES_MAX = 6 * 1024 * 1024  # Of a call; an item of Momento's has 5 MB.
OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", 5000),
    ("grpc.keepalive_timeout_ms", 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.service_config_disable_resolution", 1),
]

Metadata = tuple[tuple[str, str], ...]


class Failed(Exception):
    """Momento did not do it. `code` is a gRPC status by its name; the text says what to change, and no secret."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class Access(msgspec.Struct, frozen=True):
    """A key, and where its calls go. `port` is 443 for TLS."""

    key: str
    cache: str
    control: str
    token: str
    port: int

    def __repr__(self) -> str:
        return f"<Access to {self.cache}>"

    @property
    def metadata(self) -> Metadata:
        return (("authorization", self.key),)

    def channel(self, endpoint: str, grpc: Any) -> Any:
        """A new channel of the module `grpc`, or of `grpc.aio` for the event loop that runs."""
        if self.port == 443:
            from grpc import ssl_channel_credentials

            return grpc.secure_channel(endpoint, ssl_channel_credentials(), options=OPTIONS)
        return grpc.insecure_channel(f"{endpoint}:{self.port}", options=OPTIONS)


def default_cache() -> str:
    """The cache of topics and boards: the first of MOMENTO_CACHES. Raises Misconfigured."""
    if not settings.MOMENTO_CACHES:
        raise Misconfigured("MOMENTO_CACHES is empty: name a cache, such as fanfare-dev.")
    return str(settings.MOMENTO_CACHES[0])


def access(key: str) -> Access:
    """Of a key of either version, and of those before. Raises Misconfigured, without the key."""
    from momento import CredentialProvider
    from momento.errors import SdkException

    endpoint = settings.MOMENTO_ENDPOINT
    if settings.MOMENTO_PLAINTEXT:
        host, colon, port = endpoint.rpartition(":")
        if not (colon and port.isdecimal()):
            raise Misconfigured("MOMENTO_PLAINTEXT=1 needs MOMENTO_ENDPOINT to be a host and a port: 127.0.0.1:8080.")
        return Access(_bare(key), host, host, host, int(port))
    try:
        found = CredentialProvider.from_disposable_token(key)  # Version 1, and before: these say where to go.
    except (SdkException, ValueError, KeyError):
        if not endpoint:
            text = "MOMENTO_ENDPOINT is not set, and the key does not say it: cell-1.us-east-1-1.prod.a.momentohq.com."
            raise Misconfigured(text) from None
        return Access(key, f"cache.{endpoint}", f"control.{endpoint}", f"token.{endpoint}", 443)
    return Access(found.auth_token, found.cache_endpoint, found.control_endpoint, found.token_endpoint, found.port)


def _bare(key: str) -> str:
    """The key without the endpoint that comes with one of version 1."""
    from momento import CredentialProvider
    from momento.errors import SdkException

    try:
        return str(CredentialProvider.from_disposable_token(key).auth_token)
    except (SdkException, ValueError, KeyError):
        return key


class Calls:
    """Calls with one key, each of at most ANSWER_SECONDS. All raise Failed."""

    def __init__(self, access: Access, setting: str) -> None:
        import grpc
        from momento_wire_types import cacheclient_pb2_grpc, controlclient_pb2_grpc, token_pb2_grpc

        self._access, self._setting = access, setting
        self._channels = [access.channel(one, grpc) for one in (access.cache, access.control, access.token)]
        cache, control, token = self._channels
        self._cache = cacheclient_pb2_grpc.ScsStub(cache)
        self._control = controlclient_pb2_grpc.ScsControlStub(control)
        self._token = token_pb2_grpc.TokenStub(token)

    def cache(self, name: str, rpc: str, request: Any) -> Any:
        """One on a cache's items, such as `Get` -> the answer."""
        return self._call(getattr(self._cache, rpc), request, name)

    def batch(self, name: str, rpc: str, request: Any) -> list[Any]:
        """One that answers for each of many items."""
        return self._call(lambda *args, **options: list(getattr(self._cache, rpc)(*args, **options)), request, name)  # type: ignore[no-any-return]

    def control(self, rpc: str, request: Any, name: str = "") -> Any:
        """One about caches themselves."""
        return self._call(getattr(self._control, rpc), request, name)

    def token(self, **request: Any) -> Any:
        """A disposable token."""
        from momento_wire_types import token_pb2

        wanted = token_pb2._GenerateDisposableTokenRequest(auth_token=self._access.key, **request)
        return self._call(self._token.GenerateDisposableToken, wanted, "")

    def close(self) -> None:
        for channel in self._channels:
            channel.close()

    def _call(self, call: Callable[..., Any], request: Any, cache: str) -> Any:
        from grpc import RpcError

        metadata = (*self._access.metadata, ("cache", cache)) if cache else self._access.metadata
        try:
            return call(request, timeout=ANSWER_SECONDS, metadata=metadata)
        except RpcError as error:
            raise failed(error, self._setting, cache) from None


class Publisher:
    """Publishing with one key, in the event loop that made it."""

    def __init__(self, access: Access, setting: str) -> None:
        from grpc import aio
        from momento_wire_types import cachepubsub_pb2_grpc

        self._access, self._setting = access, setting
        self._channel = access.channel(access.cache, aio)
        self._publish = cachepubsub_pb2_grpc.PubsubStub(self._channel).Publish

    async def __call__(self, cache: str, topic: str, text: str) -> None:
        """Publishes within DELIVERY_TIMEOUT, and tries once. Raises Failed."""
        from grpc import RpcError
        from momento_wire_types import cachepubsub_pb2 as wire

        request = wire._PublishRequest(cache_name=cache, topic=topic, value=wire._TopicValue(text=text))
        try:
            await self._publish(request, timeout=settings.DELIVERY_TIMEOUT, metadata=self._access.metadata)
        except RpcError as error:
            raise failed(error, self._setting, cache) from None

    async def close(self) -> None:
        """What is under way comes to its end."""
        await self._channel.close(grace=settings.DELIVERY_TIMEOUT)


def calls(setting: str = "MOMENTO_API_KEY") -> Calls:
    """This process's, with the key that a setting holds or refers to, as it is now. Raises Misconfigured."""
    endpoint = settings.MOMENTO_ENDPOINT, settings.MOMENTO_PLAINTEXT
    return _rebuilt(os.getpid(), setting, secret_value(setting), endpoint).get()


@cache
def _rebuilt(_process: int, setting: str, secret: SecretValue, _endpoint: Sequence[Any]) -> Rebuilt[Calls]:
    return Rebuilt(lambda key: Calls(access(key), setting), secret, Calls.close)


_MEANINGS = {
    "UNAUTHENTICATED": "Momento does not take the key of {setting}: it is wrong, revoked or expired.",
    "PERMISSION_DENIED": "The key of {setting} may not do this with the cache {cache}: give it the right.",
    "NOT_FOUND": "There is no cache {cache}: `manage.py momento init` makes those of MOMENTO_CACHES.",
    "RESOURCE_EXHAUSTED": "A limit of the Momento account is exceeded{cause}.",
    "DEADLINE_EXCEEDED": "Momento did not answer in time.",
    "UNAVAILABLE": "Momento cannot be reached at MOMENTO_ENDPOINT.",
}


def failed(error: Any, setting: str, cache: str) -> Failed:
    """What a gRPC error means."""
    code = str(error.code().name)
    meaning = _MEANINGS.get(code, "Momento has refused it: {code}.")
    causes = (str(value) for name, value in error.trailing_metadata() or () if name == "err")
    cause = next((f": {one}" for one in causes if re.fullmatch("[a-z_]{1,60}", one)), "")
    return Failed(code, meaning.format(setting=setting, cache=cache, code=code, cause=cause))
