"""What the adapters for AWS share: parcels go out in calls of several, each of which has an answer of its own."""

import asyncio
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ClassVar, ParamSpec, TypeVar

import msgspec
from django.conf import settings

from adapters.aws import clients
from adapters.base import Adapter, Misconfigured, Outcome, Parcel, Target

CALLS_AT_ONCE = 4  # To one destination.
ENVELOPE_BYTES = 512  # More than attributes, names and the like add to a body.

Answer = dict[int, Outcome]  # What was refused, by its place in the call; the others were taken.
P = ParamSpec("P")
T = TypeVar("T")


class NoOptions(msgspec.Struct, forbid_unknown_fields=True):
    pass


class Batches(Adapter):
    """Sends calls of up to `entries` parcels and `call_bytes`.

    Of an ordered destination, no call has two parcels of a key, and the next of a key goes out when the one before was
    taken: an answer may refuse single parcels of a call, and those behind them would be there already.
    """

    max_bytes = 255 * 1024  # 256 KiB, where that is the limit, include what is said of a body.
    entries: ClassVar[int] = 10
    call_bytes: ClassVar[int]
    service: ClassVar[str]
    action: ClassVar[str]  # The right that it takes, as policies name it.

    Options: ClassVar[type[msgspec.Struct]] = NoOptions

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        # Threads of its own: where this destination does not answer, others have theirs.
        self._threads = ThreadPoolExecutor(CALLS_AT_ONCE, thread_name_prefix=self.service)
        self._turns = asyncio.Semaphore(CALLS_AT_ONCE)

    async def publish(self, batch: Sequence[Parcel]) -> Sequence[Outcome]:
        run = _Run([Outcome("its turn has not come", tried=False)] * len(batch))
        for together in self._rounds(batch):
            due = [place for place in together if not self.ordered or batch[place].key not in run.failed]
            async with asyncio.TaskGroup() as group:
                for places in self._calls(batch, due):
                    group.create_task(self._deliver(batch, places, run))
        return run.outcomes

    async def check(self) -> str:
        try:
            return await self._in_thread(self._look)
        except Misconfigured:
            raise
        except Exception as error:
            outcome = clients.failure(error, f"look at {self.target.address}")
            raise Misconfigured(f"{outcome.error}{outcome.response and f' (AWS says: {outcome.response})'}") from None

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def _client(self) -> Any:
        """Only for threads: at first it blocks."""
        return clients.client(self.service)

    @abstractmethod
    def _send(self, parcels: Sequence[Parcel]) -> Answer:
        """One call; it blocks. Raises what the SDK raises."""

    @abstractmethod
    def _look(self) -> str:
        """Looks at the destination, and leaves nothing there -> what was found. It blocks."""

    def _refused(self, code: str, message: str) -> Outcome:
        return clients.refused(code, message, self._wanted())

    def _wanted(self) -> str:
        return f"{self.action} on {self.target.address}"

    def _rounds(self, batch: Sequence[Parcel]) -> Iterator[list[int]]:
        """Places in the batch that may go out together."""
        if not self.ordered:
            yield list(range(len(batch)))
            return
        seen: Counter[str] = Counter()
        rounds: dict[int, list[int]] = {}
        for place, parcel in enumerate(batch):
            rounds.setdefault(seen[parcel.key], []).append(place)
            seen[parcel.key] += 1
        yield from rounds.values()

    def _calls(self, batch: Sequence[Parcel], places: Sequence[int]) -> Iterator[list[int]]:
        call: list[int] = []
        size = 0
        for place in places:
            more = len(batch[place].body) + len(batch[place].key.encode()) + ENVELOPE_BYTES
            if call and (len(call) >= self.entries or size + more > self.call_bytes):
                yield call
                call, size = [], 0
            call.append(place)
            size += more
        if call:
            yield call

    async def _deliver(self, batch: Sequence[Parcel], places: Sequence[int], run: "_Run") -> None:
        parcels = [batch[place] for place in places]
        unclear = False
        async with self._turns:
            if run.over:
                return
            try:
                answer = await self._in_thread(self._send, parcels)
            except Exception as error:
                outcome = clients.failure(error, self._wanted())
                answer = dict.fromkeys(range(len(parcels)), outcome)
                run.over = not outcome.blames_event
                unclear = outcome.blames_event and len(parcels) > 1
        for number, place in enumerate(places):
            if unclear:  # Which of them it means, only single calls show.
                await self._deliver(batch, [place], run)
            else:
                run.note(place, batch[place], answer.get(number, Outcome()))

    async def _in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        async with asyncio.timeout(settings.DELIVERY_TIMEOUT):  # In all: the SDK's own is for each read.
            return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: function(*args, **kwargs))


@dataclass(slots=True)
class _Run:
    """One batch. `failed`: keys of which something was not taken. `over`: a call as a whole has failed."""

    outcomes: list[Outcome]
    failed: set[str] = field(default_factory=set)
    over: bool = False

    def note(self, place: int, parcel: Parcel, outcome: Outcome) -> None:
        self.outcomes[place] = outcome
        if not outcome.delivered:
            self.failed.add(parcel.key)
