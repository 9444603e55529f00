"""The data calls of a Momento cache: items and sorted sets. Their cache's name travels as metadata."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
from momento_wire_types import cacheclient_pb2 as wire
from momento_wire_types import cacheclient_pb2_grpc as services

from tests.emulators.momento_dictionaries import Dictionary, DictionaryCalls
from tests.emulators.momento_rights import may_use_items
from tests.emulators.momento_store import ITEM_BYTES, Item, Refused, Store

ASCENDING = wire._SortedSetFetchRequest.ASCENDING


class CacheService(DictionaryCalls, services.ScsServicer):
    """Runs with the store held, so that every call is atomic."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def _items(
        self, context: grpc.ServicerContext, *keys: bytes, reads: bool = False, writes: bool = False
    ) -> dict[bytes, Item]:
        metadata = dict(context.invocation_metadata())
        cache = str(metadata.get("cache", ""))
        grant = self.store.grant(str(metadata.get("authorization", "")))
        for needed, kind in ((reads, False), (writes, True)):
            if needed and not may_use_items(grant.allowed, cache, list(keys), writes=kind):
                raise Refused(grpc.StatusCode.PERMISSION_DENIED, "The key's permissions do not cover this")
        return self.store.cache(cache)

    def _until(self, milliseconds: int) -> float:
        if milliseconds <= 0:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "A TTL is more than 0")
        return self.store.now() + milliseconds / 1000

    def _put(self, items: dict[bytes, Item], key: bytes, body: bytes, milliseconds: int) -> None:
        if len(body) > ITEM_BYTES:
            raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "The item is too large", "item_size_limit_exceeded")
        items[key] = Item(body, self._until(milliseconds))

    def Get(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._got(self._items(context, request.cache_key, reads=True), request.cache_key)

    def _got(self, items: dict[bytes, Item], key: bytes) -> Any:
        value = scalar(items, key)
        if value is None:
            return wire._GetResponse(result=wire.Miss)
        return wire._GetResponse(result=wire.Hit, cache_body=value)

    def Set(self, request: Any, context: grpc.ServicerContext) -> Any:
        items = self._items(context, request.cache_key, writes=True)
        self._put(items, request.cache_key, request.cache_body, request.ttl_milliseconds)
        return wire._SetResponse(result=wire.Ok)

    def GetBatch(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        items = self._items(context, *(item.cache_key for item in request.items), reads=True)
        return iter([self._got(items, item.cache_key) for item in request.items])

    def SetBatch(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        items = self._items(context, *(item.cache_key for item in request.items), writes=True)
        for item in request.items:
            self._put(items, item.cache_key, item.cache_body, item.ttl_milliseconds)
        return iter([wire._SetResponse(result=wire.Ok) for _ in request.items])

    def SetIf(self, request: Any, context: grpc.ServicerContext) -> Any:
        items = self._items(context, request.cache_key, reads=True, writes=True)
        if not holds(request, scalar(items, request.cache_key)):
            return wire._SetIfResponse(not_stored=wire._SetIfResponse._NotStored())
        self._put(items, request.cache_key, request.cache_body, request.ttl_milliseconds)
        return wire._SetIfResponse(stored=wire._SetIfResponse._Stored())

    def SetIfNotExists(self, request: Any, context: grpc.ServicerContext) -> Any:
        items = self._items(context, request.cache_key, writes=True)
        if request.cache_key in items:
            return wire._SetIfNotExistsResponse(not_stored=wire._SetIfNotExistsResponse._NotStored())
        self._put(items, request.cache_key, request.cache_body, request.ttl_milliseconds)
        return wire._SetIfNotExistsResponse(stored=wire._SetIfNotExistsResponse._Stored())

    def Delete(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._items(context, request.cache_key, writes=True).pop(request.cache_key, None)
        return wire._DeleteResponse()

    def KeysExist(self, request: Any, context: grpc.ServicerContext) -> Any:
        items = self._items(context, *request.cache_keys, reads=True)
        return wire._KeysExistResponse(exists=[key in items for key in request.cache_keys])

    def Increment(self, request: Any, context: grpc.ServicerContext) -> Any:
        items = self._items(context, request.cache_key, reads=True, writes=True)
        try:
            value = int(scalar(items, request.cache_key) or b"0") + request.amount
        except ValueError:
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, "The value is not a number") from None
        self._put(items, request.cache_key, str(value).encode(), request.ttl_milliseconds)
        return wire._IncrementResponse(value=value)

    def UpdateTtl(self, request: Any, context: grpc.ServicerContext) -> Any:
        item = self._items(context, request.cache_key, writes=True).get(request.cache_key)
        if item is None:
            return wire._UpdateTtlResponse(missing=wire._UpdateTtlResponse._Missing())
        way = request.WhichOneof("update_ttl")
        until = self._until(getattr(request, way))
        if (way.startswith("increase") and until < item.until) or (way.startswith("decrease") and until > item.until):
            return wire._UpdateTtlResponse(not_set=wire._UpdateTtlResponse._NotSet())
        item.until = until
        return wire._UpdateTtlResponse(set=wire._UpdateTtlResponse._Set())

    def ItemGetTtl(self, request: Any, context: grpc.ServicerContext) -> Any:
        item = self._items(context, request.cache_key, reads=True).get(request.cache_key)
        if item is None:
            return wire._ItemGetTtlResponse(missing=wire._ItemGetTtlResponse._Missing())
        left = round((item.until - self.store.now()) * 1000)
        return wire._ItemGetTtlResponse(found=wire._ItemGetTtlResponse._Found(remaining_ttl_millis=left))

    def ItemGetType(self, request: Any, context: grpc.ServicerContext) -> Any:
        item = self._items(context, request.cache_key, reads=True).get(request.cache_key)
        answer = wire._ItemGetTypeResponse
        if item is None:
            return answer(missing=answer._Missing())
        kind = answer.SORTED_SET if isinstance(item.value, dict) else answer.SCALAR
        return answer(found=answer._Found(item_type=kind))

    def _scores(self, items: dict[bytes, Item], request: Any) -> dict[bytes, float]:
        """The set to write into, with its time to live as the request says."""
        item = items.get(request.set_name)
        if item is None:
            item = items[request.set_name] = Item({}, self._until(request.ttl_milliseconds))
        elif request.refresh_ttl:
            item.until = self._until(request.ttl_milliseconds)
        return sorted_set(item)

    def _found(self, context: grpc.ServicerContext, name: bytes) -> dict[bytes, float]:
        item = self._items(context, name, reads=True).get(name)
        return {} if item is None else sorted_set(item)

    def SortedSetPut(self, request: Any, context: grpc.ServicerContext) -> Any:
        scores = self._scores(self._items(context, request.set_name, writes=True), request)
        scores.update({element.value: element.score for element in request.elements})
        return wire._SortedSetPutResponse()

    def SortedSetIncrement(self, request: Any, context: grpc.ServicerContext) -> Any:
        scores = self._scores(self._items(context, request.set_name, writes=True), request)
        scores[request.value] = scores.get(request.value, 0.0) + request.amount
        return wire._SortedSetIncrementResponse(score=scores[request.value])

    def SortedSetRemove(self, request: Any, context: grpc.ServicerContext) -> Any:
        items = self._items(context, request.set_name, writes=True)
        item = items.get(request.set_name)
        if item is not None:
            scores = sorted_set(item)
            gone = list(scores) if request.WhichOneof("remove_elements") == "all" else request.some.values
            for value in gone:
                scores.pop(value, None)
            if not scores:
                del items[request.set_name]
        return wire._SortedSetRemoveResponse()

    def SortedSetFetch(self, request: Any, context: grpc.ServicerContext) -> Any:
        answer = wire._SortedSetFetchResponse
        scores = self._found(context, request.set_name)
        if not scores:
            return answer(missing=answer._Missing())
        chosen = chosen_elements(request, in_order(scores, request.order))
        if not request.with_scores:
            return answer(found=answer._Found(values=answer._Found._Values(values=[value for value, _ in chosen])))
        elements = [wire._SortedSetElement(value=value, score=score) for value, score in chosen]
        return answer(found=answer._Found(values_with_scores=answer._Found._ValuesWithScores(elements=elements)))

    def SortedSetGetScore(self, request: Any, context: grpc.ServicerContext) -> Any:
        answer = wire._SortedSetGetScoreResponse
        scores = self._found(context, request.set_name)
        if not scores:
            return answer(missing=answer._SortedSetMissing())
        part = answer._SortedSetGetScoreResponsePart
        parts = [
            part(result=wire.Hit, score=scores[value]) if value in scores else part(result=wire.Miss)
            for value in request.values
        ]
        return answer(found=answer._SortedSetFound(elements=parts))

    def SortedSetGetRank(self, request: Any, context: grpc.ServicerContext) -> Any:
        """A missing element is said in `element_rank`: the SDK does not look at `missing`."""
        answer = wire._SortedSetGetRankResponse
        values = [value for value, _ in in_order(self._found(context, request.set_name), request.order)]
        if request.value not in values:
            return answer(element_rank=answer._RankResponsePart(result=wire.Miss))
        return answer(element_rank=answer._RankResponsePart(result=wire.Hit, rank=values.index(request.value)))

    def SortedSetLength(self, request: Any, context: grpc.ServicerContext) -> Any:
        answer = wire._SortedSetLengthResponse
        scores = self._found(context, request.set_name)
        return answer(found=answer._Found(length=len(scores))) if scores else answer(missing=answer._Missing())

    def SortedSetLengthByScore(self, request: Any, context: grpc.ServicerContext) -> Any:
        answer = wire._SortedSetLengthByScoreResponse
        scores = self._found(context, request.set_name)
        if not scores:
            return answer(missing=answer._Missing())
        tests: dict[str, Callable[[float], bool]] = {
            "inclusive_min": lambda score: score >= request.inclusive_min,
            "exclusive_min": lambda score: score > request.exclusive_min,
            "inclusive_max": lambda score: score <= request.inclusive_max,
            "exclusive_max": lambda score: score < request.exclusive_max,
        }
        wanted = [tests[name] for side in ("min", "max") if (name := request.WhichOneof(side)) in tests]
        return answer(found=answer._Found(length=sum(all(test(s) for test in wanted) for s in scores.values())))


def scalar(items: dict[bytes, Item], key: bytes) -> bytes | None:
    item = items.get(key)
    if item is None:
        return None
    if isinstance(item.value, dict):
        raise Refused(grpc.StatusCode.FAILED_PRECONDITION, "The item is a sorted set")
    return item.value


def sorted_set(item: Item) -> dict[bytes, float]:
    if not isinstance(item.value, dict) or isinstance(item.value, Dictionary):
        raise Refused(grpc.StatusCode.FAILED_PRECONDITION, "The item is not a sorted set")
    return item.value


def holds(request: Any, present: bytes | None) -> bool:
    """Whether SetIf's condition is true of the value there is."""
    condition = request.WhichOneof("condition")
    if condition in ("present", "absent"):
        return bool((present is not None) == (condition == "present"))
    same: bool = present == getattr(request, condition).value_to_check
    return {
        "equal": same,
        "not_equal": not same,
        "absent_or_equal": same or present is None,
        "present_and_not_equal": not same and present is not None,
    }[condition]


def in_order(scores: dict[bytes, float], order: int) -> list[tuple[bytes, float]]:
    """By score; the same score by the bytes of the value."""
    elements = sorted(scores.items(), key=lambda element: (element[1], element[0]))
    return elements if order == ASCENDING else elements[::-1]


def chosen_elements(request: Any, elements: list[tuple[bytes, float]]) -> list[tuple[bytes, float]]:
    if request.WhichOneof("range") == "by_index":
        index = request.by_index
        start = index.inclusive_start_index if index.WhichOneof("start") == "inclusive_start_index" else None
        end = index.exclusive_end_index if index.WhichOneof("end") == "exclusive_end_index" else None
        return elements[start:end]
    bounds = request.by_score
    if bounds.WhichOneof("min") == "min_score":
        least, strict = bounds.min_score.score, bounds.min_score.exclusive
        elements = [e for e in elements if e[1] > least or (e[1] == least and not strict)]
    if bounds.WhichOneof("max") == "max_score":
        most, strict = bounds.max_score.score, bounds.max_score.exclusive
        elements = [e for e in elements if e[1] < most or (e[1] == most and not strict)]
    return elements[bounds.offset :][: bounds.count if bounds.count >= 0 else None]
