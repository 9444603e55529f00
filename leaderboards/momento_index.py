"""The index of a window at Momento: a sorted set, a dictionary, and one item that says what these are.

Momento has no step that reads or changes several things at once. So the item, the *state*, is only ever changed by
compare-and-set. Who writes first puts its own name there, and takes it out again with a higher `head` when all is
written; who reads looks before and after, and what was the same both times is one consistent read. A writer that is
not sure that each of its calls was carried out, once and in time, leaves its name there: it expires after
WRITING_SECONDS, and the index is made anew, under names of its own. So what a late call writes, nobody reads.
"""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from django.conf import settings

from adapters.base import Misconfigured
from adapters.momento.clients import ANSWER_SECONDS, Failed, calls, default_cache
from leaderboards.bulk import chunks
from leaderboards.ranking import Missing, Unavailable, WindowKey

WRITING_SECONDS = 3 * ANSWER_SECONDS
WAIT_SECONDS = 0.3  # For who writes.
LOOK_SECONDS = 0.005
READS = 5
PAUSE_SECONDS = 1.0
ELEMENTS_A_CALL = 2000
BUILDING = -1  # The head of an index that is not whole yet.

T = TypeVar("T")
Element = tuple[bytes, float]
"""Of the sorted set: its bytes, and its score."""

_silent_until = [0.0]


class State(NamedTuple):
    """`data` is part of the names of what has `size` entries as of change `head`; `writer` is who changes it now."""

    epoch: str
    head: int
    size: int
    data: str
    writer: str = "-"

    @property
    def stored(self) -> bytes:
        return " ".join(map(str, self)).encode()


class Index:
    """The index of a window. All of it raises Unavailable, what reads data also Missing."""

    def __init__(self, window: WindowKey) -> None:
        self.window = window
        self._name = f"fanfare:board:{window.id}"

    # --- The state --------------------------------------------------------------------------------

    def look(self) -> State | None:
        """The state as it is, or nothing."""
        from momento_wire_types import cacheclient_pb2 as wire

        answer = _call("Get", wire._GetRequest(cache_key=self._name.encode()))
        if answer.result != wire.Hit:
            return None
        epoch, head, size, data, writer = answer.cache_body.decode().split(" ")
        return State(epoch, int(head), int(size), data, writer)

    def whole(self) -> State:
        """The state when nobody writes, within WAIT_SECONDS. Raises Missing where it is another epoch's."""
        until = time.monotonic() + WAIT_SECONDS
        while True:
            state = self.look()
            if state is None or state.epoch != self.window.epoch:
                raise Missing
            if state.writer == "-":
                return state
            if time.monotonic() >= until:
                raise Unavailable("The index is being written.")
            time.sleep(LOOK_SECONDS)

    def swap(self, before: State | None, after: State, seconds: float | None = None) -> bool:
        """Sets the state if it is what it was -> whether it was."""
        from momento_wire_types import cacheclient_pb2 as wire
        from momento_wire_types import common_pb2 as common

        found = {"equal": common.Equal(value_to_check=before.stored)} if before else {"absent": common.Absent()}
        milliseconds = _milliseconds(seconds)
        request = wire._SetIfRequest(
            cache_key=self._name.encode(), cache_body=after.stored, ttl_milliseconds=milliseconds, **found
        )
        return bool(_call("SetIf", request).WhichOneof("result") == "stored")

    def take(self, before: State | None, head: int, data: str) -> State | None:
        """Makes us the writer -> the state that says so, if nobody was faster."""
        mine = State(self.window.epoch, head, before.size if before else 0, data, secrets.token_hex(8))
        return mine if self.swap(before, mine, WRITING_SECONDS) else None

    def finish(self, mine: State, head: int, size: int) -> None:
        """What we have written counts, if it is whole. Raises Unavailable where it is ours no more."""
        if (self._length("SortedSet", mine), self._length("Dictionary", mine)) != (size, size):
            raise Missing
        if not self.swap(mine, mine._replace(head=head, size=size, writer="-")):
            raise Unavailable("Another process has taken over.")

    def give_up(self, mine: State) -> None:
        """Nobody is to wait for us; where that cannot be said, they do for WRITING_SECONDS."""
        with suppress(Unavailable):
            self.swap(mine, mine, 0.001)

    def read(self, question: Callable[[State], T]) -> tuple[State, T]:
        """What a question finds in one state of the index."""
        for _ in range(READS):
            state = self.whole()
            try:
                answer = question(state)
            except Missing:
                if self.look() == state:
                    raise
                continue
            if self.look() == state:
                return state, answer
        raise Unavailable("The index changes too fast to be read.")

    # --- The data ---------------------------------------------------------------------------------

    def elements(self, state: State, start: int, stop: int) -> list[Element]:
        """From a rank to before another."""
        from momento_wire_types import cacheclient_pb2 as wire

        stop = min(stop, state.size)
        if start >= stop:
            return []
        by_index = wire._SortedSetFetchRequest._ByIndex(inclusive_start_index=start, exclusive_end_index=stop)
        request = wire._SortedSetFetchRequest(
            set_name=self._set(state), order=wire._SortedSetFetchRequest.ASCENDING, with_scores=True, by_index=by_index
        )
        found = _call("SortedSetFetch", request).found.values_with_scores.elements
        if len(found) != stop - start:
            raise Missing
        return [(bytes(element.value), element.score) for element in found]

    def rank(self, state: State, value: bytes) -> int:
        from momento_wire_types import cacheclient_pb2 as wire

        request = wire._SortedSetGetRankRequest(
            set_name=self._set(state), value=value, order=wire._SortedSetGetRankRequest.ASCENDING
        )
        answer = _call("SortedSetGetRank", request).element_rank
        if answer.result != wire.Hit:
            raise Missing
        return int(answer.rank)

    def count(self, state: State, score: float, *, inclusive: bool) -> int:
        """How many have a lower score, or the same one."""
        from momento_wire_types import cacheclient_pb2 as wire
        from momento_wire_types import common_pb2 as common

        if not state.size:
            return 0
        most = {"inclusive_max" if inclusive else "exclusive_max": score}
        request = wire._SortedSetLengthByScoreRequest(
            set_name=self._set(state), unbounded_min=common._Unbounded(), **most
        )
        answer = _call("SortedSetLengthByScore", request)
        if answer.WhichOneof("sorted_set") != "found":
            raise Missing
        return int(answer.found.length)

    def fields(self, state: State, names: Sequence[str]) -> dict[str, bytes]:
        """What the dictionary has of these."""
        from momento_wire_types import cacheclient_pb2 as wire

        found: dict[str, bytes] = {}
        for some in chunks(names, ELEMENTS_A_CALL) if state.size else ():
            request = wire._DictionaryGetRequest(
                dictionary_name=self._dictionary(state), fields=[name.encode() for name in some]
            )
            answer = _call("DictionaryGet", request)
            if answer.WhichOneof("dictionary") != "found":
                raise Missing
            parts = zip(some, answer.found.items, strict=True)
            found |= {name: bytes(part.cache_body) for name, part in parts if part.result == wire.Hit}
        return found

    def put(self, state: State, elements: Sequence[Element], fields: Mapping[str, bytes]) -> None:
        from momento_wire_types import cacheclient_pb2 as wire

        refresh: dict[str, Any] = {"ttl_milliseconds": _milliseconds(None), "refresh_ttl": True}
        for some in chunks(elements, ELEMENTS_A_CALL):
            listed = [wire._SortedSetElement(value=value, score=score) for value, score in some]
            _call("SortedSetPut", wire._SortedSetPutRequest(set_name=self._set(state), elements=listed, **refresh))
        for names in chunks(list(fields), ELEMENTS_A_CALL):
            pairs = [wire._DictionaryFieldValuePair(field=name.encode(), value=fields[name]) for name in names]
            name = self._dictionary(state)
            _call("DictionarySet", wire._DictionarySetRequest(dictionary_name=name, items=pairs, **refresh))

    def remove(self, state: State, values: Sequence[bytes], names: Sequence[str]) -> None:
        from momento_wire_types import cacheclient_pb2 as wire

        for some in chunks(values, ELEMENTS_A_CALL):
            chosen = wire._SortedSetRemoveRequest._Some(values=some)
            _call("SortedSetRemove", wire._SortedSetRemoveRequest(set_name=self._set(state), some=chosen))
        for gone in chunks(names, ELEMENTS_A_CALL):
            fields = wire._DictionaryDeleteRequest.Some(fields=[name.encode() for name in gone])
            name = self._dictionary(state)
            _call("DictionaryDelete", wire._DictionaryDeleteRequest(dictionary_name=name, some=fields))

    def drop(self, state: State | None) -> None:
        """Deletes the data of a state, and the state if it is the one."""
        from momento_wire_types import cacheclient_pb2 as wire

        if state is None:
            return
        if self.look() == state:
            _call("Delete", wire._DeleteRequest(cache_key=self._name.encode()))
        for key in (self._set(state), self._dictionary(state)):
            _call("Delete", wire._DeleteRequest(cache_key=key))

    def _length(self, kind: str, state: State) -> int:
        from momento_wire_types import cacheclient_pb2 as wire

        if kind == "SortedSet":
            answer = _call("SortedSetLength", wire._SortedSetLengthRequest(set_name=self._set(state)))
        else:
            name = self._dictionary(state)
            answer = _call("DictionaryLength", wire._DictionaryLengthRequest(dictionary_name=name))
        return int(answer.found.length)  # 0 where it is missing.

    def _set(self, state: State) -> bytes:
        return f"{self._name}:{state.data}:z".encode()

    def _dictionary(self, state: State) -> bytes:
        return f"{self._name}:{state.data}:m".encode()


def _milliseconds(seconds: float | None) -> int:
    return int((settings.MOMENTO_TTL_MAX if seconds is None else seconds) * 1000)


def _call(rpc: str, request: Any) -> Any:
    """Once Momento has kept somebody waiting in vain, nobody waits for it for PAUSE_SECONDS."""
    if time.monotonic() < _silent_until[0]:
        raise Unavailable("Momento did not answer a moment ago.")
    try:
        return calls().cache(default_cache(), rpc, request)
    except Failed as error:
        if error.code == "DEADLINE_EXCEEDED":
            _silent_until[0] = time.monotonic() + PAUSE_SECONDS
        raise Unavailable(str(error)) from None
    except Misconfigured as error:
        raise Unavailable(str(error)) from None
