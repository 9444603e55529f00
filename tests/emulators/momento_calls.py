"""The other calls of Momento: topics, caches themselves, tokens; and what is around every call."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
from momento_wire_types import cachepubsub_pb2 as topics_wire
from momento_wire_types import cachepubsub_pb2_grpc as topics_services
from momento_wire_types import common_pb2 as common_wire
from momento_wire_types import controlclient_pb2 as control_wire
from momento_wire_types import controlclient_pb2_grpc as control_services
from momento_wire_types import token_pb2 as token_wire
from momento_wire_types import token_pb2_grpc as token_services

from tests.emulators.momento_rights import may_use_topic
from tests.emulators.momento_store import Refused, Store, Value

HEARTBEAT_SECONDS = 1.0


class TopicService(topics_services.PubsubServicer):
    def __init__(self, store: Store) -> None:
        self.store = store

    def Publish(self, request: Any, context: grpc.ServicerContext) -> Any:
        only_for_topic(self.store, token_of(context), request.cache_name, request.topic, writes=True)
        self.store.publish(request.cache_name, request.topic, value_of(request.value))
        return common_wire._Empty()

    def Subscribe(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        """Heartbeats first and while nothing happens; a discontinuity where something is missing."""
        where = (request.cache_name, request.topic)
        token = token_of(context)
        only_for_topic(self.store, token, *where, writes=False)
        with self.store.changed:
            self.store.cache(request.cache_name)
        context.add_callback(self._wake)
        return self._stream(where, token, request, context)

    def _stream(self, where: tuple[str, str], token: str, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        store = self.store
        answer = topics_wire._SubscriptionItem
        with store.changed:
            topic = store.topics[where]
            page, after = topic.page, topic.last
            if request.resume_at_topic_sequence_number:
                page, after = request.sequence_page, request.resume_at_topic_sequence_number - 1
            store.subscriptions[where] += 1
        try:
            yield answer(heartbeat=topics_wire._Heartbeat())
            while context.is_active():
                items, page, after = self._next(where, page, after)
                yield from items or [answer(heartbeat=topics_wire._Heartbeat())]
                store.grant(token)
        finally:
            with store.changed:
                store.subscriptions[where] -= 1

    def _next(self, where: tuple[str, str], page: int, after: int) -> tuple[list[Any], int, int]:
        """What is new, waiting for it as long as a heartbeat -> (items, page, number of the last one)."""
        store = self.store
        with store.changed:
            topic = store.topics[where]
            if page == topic.page and after >= topic.last:
                store.changed.wait(HEARTBEAT_SECONDS)
                topic = store.topics[where]
            first = topic.history[0][0] if topic.history else topic.last + 1
            items = []
            if page != topic.page or after + 1 < first:
                gap = topics_wire._Discontinuity(
                    last_topic_sequence=after, new_topic_sequence=first, new_sequence_page=topic.page
                )
                items.append(topics_wire._SubscriptionItem(discontinuity=gap))
                page, after = topic.page, first - 1
            for number, value in topic.history:
                if number > after:
                    items.append(topics_wire._SubscriptionItem(item=item_of(number, topic.page, value)))
            return items, page, max(after, topic.last)

    def _wake(self) -> None:
        with self.store.changed:
            self.store.changed.notify_all()


class ControlService(control_services.ScsControlServicer):
    def __init__(self, store: Store) -> None:
        self.store = store

    def CreateCache(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.store.only_with_everything(token_of(context))
        if not request.cache_name.strip():
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "A cache has a name")
        if request.cache_name in self.store.caches:
            raise Refused(grpc.StatusCode.ALREADY_EXISTS, f"Cache exists: {request.cache_name}")
        self.store.caches[request.cache_name] = {}
        return control_wire._CreateCacheResponse()

    def DeleteCache(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.store.only_with_everything(token_of(context))
        self.store.cache(request.cache_name)
        del self.store.caches[request.cache_name]
        return control_wire._DeleteCacheResponse()

    def ListCaches(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.store.only_with_everything(token_of(context))
        caches = [control_wire._Cache(cache_name=name) for name in sorted(self.store.caches)]
        return control_wire._ListCachesResponse(cache=caches)

    def FlushCache(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.store.only_with_everything(token_of(context))
        self.store.cache(request.cache_name).clear()
        return control_wire._FlushCacheResponse()


class TokenService(token_services.TokenServicer):
    def __init__(self, store: Store, endpoint: Callable[[], str]) -> None:
        self.store = store
        self.endpoint = endpoint

    def GenerateDisposableToken(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.store.only_with_everything(request.auth_token)
        seconds = request.expires.valid_for_seconds
        if not 0 < seconds <= 3600:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "A disposable token is valid for an hour at most")
        until = self.store.now() + seconds
        token = self.store.new_grant("d", request.permissions, until)
        return token_wire._GenerateDisposableTokenResponse(
            api_key=token, endpoint=self.endpoint(), valid_until=int(until)
        )


class AroundCalls(grpc.ServerInterceptor):  # type: ignore[type-arg]
    """Counts calls, makes them fail as ordered, and answers `Refused` with its code and trailer."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Any], details: grpc.HandlerCallDetails
    ) -> Any:
        handler = continuation(details)
        rpc = details.method.rpartition("/")[2]
        if handler is None or rpc == "":
            return handler
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(
                self._streaming(rpc, handler.unary_stream), handler.request_deserializer, handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(rpc, handler.unary_unary), handler.request_deserializer, handler.response_serializer
        )

    def _unary(self, rpc: str, behaviour: Callable[..., Any]) -> Callable[..., Any]:
        def run(request: Any, context: grpc.ServicerContext) -> Any:
            try:
                with self.store.call(rpc), self.store.changed:
                    return behaviour(request, context)
            except Refused as refused:
                abort(context, refused)

        return run

    def _streaming(self, rpc: str, behaviour: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def run(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            try:
                with self.store.call(rpc), self.store.changed:
                    items = behaviour(request, context)
                yield from items
            except Refused as refused:
                abort(context, refused)

        return run


def abort(context: grpc.ServicerContext, refused: Refused) -> None:
    if refused.cause:
        context.set_trailing_metadata((("err", refused.cause),))
    context.abort(refused.code, refused.details)


def token_of(context: grpc.ServicerContext) -> str:
    return str(dict(context.invocation_metadata()).get("authorization", ""))


def only_for_topic(store: Store, token: str, cache: str, topic: str, *, writes: bool) -> None:
    if not may_use_topic(store.grant(token).allowed, cache, topic, writes):
        raise Refused(grpc.StatusCode.PERMISSION_DENIED, "The token's permissions do not cover this topic")


def value_of(value: Any) -> Value:
    kind = value.WhichOneof("kind")
    if kind is None:
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "A message has a value")
    found: Value = getattr(value, kind)
    return found


def item_of(number: int, page: int, value: Value) -> Any:
    kinds = topics_wire._TopicValue
    content = kinds(text=value) if isinstance(value, str) else kinds(binary=value)
    return topics_wire._TopicItem(topic_sequence_number=number, sequence_page=page, value=content)
