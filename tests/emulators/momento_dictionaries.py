"""The calls on dictionaries in a Momento cache."""

from typing import Any

import grpc
from momento_wire_types import cacheclient_pb2 as wire

from tests.emulators.momento_store import Item, Refused


class Dictionary(dict[bytes, Any]):
    """The value of an item, told apart from a sorted set."""


class DictionaryCalls:
    """A part of CacheService."""

    def _items(
        self, context: grpc.ServicerContext, *keys: bytes, reads: bool = False, writes: bool = False
    ) -> dict[bytes, Item]:
        raise NotImplementedError

    def _until(self, milliseconds: int) -> float:
        raise NotImplementedError

    def DictionarySet(self, request: Any, context: grpc.ServicerContext) -> Any:
        items = self._items(context, request.dictionary_name, writes=True)
        item = items.get(request.dictionary_name)
        if item is None:
            item = items[request.dictionary_name] = Item(Dictionary(), self._until(request.ttl_milliseconds))
        elif request.refresh_ttl:
            item.until = self._until(request.ttl_milliseconds)
        dictionary_of(item).update({pair.field: pair.value for pair in request.items})
        return wire._DictionarySetResponse()

    def DictionaryGet(self, request: Any, context: grpc.ServicerContext) -> Any:
        answer = wire._DictionaryGetResponse
        item = self._items(context, request.dictionary_name, reads=True).get(request.dictionary_name)
        if item is None:
            return answer(missing=answer._Missing())
        values, part = dictionary_of(item), answer._DictionaryGetResponsePart
        parts = [
            part(result=wire.Hit, cache_body=values[field]) if field in values else part(result=wire.Miss)
            for field in request.fields
        ]
        return answer(found=answer._Found(items=parts))

    def DictionaryDelete(self, request: Any, context: grpc.ServicerContext) -> Any:
        items = self._items(context, request.dictionary_name, writes=True)
        item = items.get(request.dictionary_name)
        if item is not None:
            values = dictionary_of(item)
            for field in list(values) if request.WhichOneof("delete") == "all" else request.some.fields:
                values.pop(field, None)
            if not values:
                del items[request.dictionary_name]
        return wire._DictionaryDeleteResponse()

    def DictionaryLength(self, request: Any, context: grpc.ServicerContext) -> Any:
        answer = wire._DictionaryLengthResponse
        item = self._items(context, request.dictionary_name, reads=True).get(request.dictionary_name)
        if item is None:
            return answer(missing=answer._Missing())
        return answer(found=answer._Found(length=len(dictionary_of(item))))


def dictionary_of(item: Item) -> Dictionary:
    if not isinstance(item.value, Dictionary):
        raise Refused(grpc.StatusCode.FAILED_PRECONDITION, "The item is not a dictionary")
    return item.value
