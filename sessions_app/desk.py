"""Where a process's receives and acknowledgements go through: while one batch is in the database, the next gathers."""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from weakref import WeakKeyDictionary

from accounts.errors import ApiError
from realtime.database import in_threads
from sessions_app.receiving import Answer, Ask, Handed, Receive, Settle, serve

logger = logging.getLogger(__name__)

ASKS_AT_ONCE = 500
WAITING_MAX = 20_000


class Desk:
    def __init__(self) -> None:
        self._asks: deque[tuple[Ask, asyncio.Future[Answer]]] = deque()
        self._serving: asyncio.Task[None] | None = None

    async def receive(self, ask: Receive) -> Handed:
        """What is handed out, if there is anything. Raises ApiError 404 and 503."""
        while True:
            handed = await self._ask(ask)
            assert isinstance(handed, Handed)
            if handed.messages or not handed.more:
                return handed

    async def settle(self, ask: Settle) -> list[str]:
        """The receipts that held. Raises ApiError 404 and 503."""
        held = await self._ask(ask)
        assert isinstance(held, list)
        return held

    async def _ask(self, ask: Ask) -> Handed | list[str]:
        if len(self._asks) >= WAITING_MAX:
            raise ApiError(503, "busy", "The database has too much to do: try again.", retry_after=1)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._asks.append((ask, future))
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve(), name="sessions")
        answer = await future
        if isinstance(answer, ApiError):
            raise answer
        return answer

    async def _serve(self) -> None:
        while self._asks:
            batch = [self._asks.popleft() for _ in range(min(len(self._asks), ASKS_AT_ONCE))]
            waiting = [(ask, future) for ask, future in batch if not future.done()]
            answers = await _answers([ask for ask, _future in waiting])
            for (_ask, future), answer in zip(waiting, answers, strict=True):
                if not future.done():
                    future.set_result(answer)


async def _answers(asks: Sequence[Ask]) -> Sequence[Answer]:
    try:
        return await in_threads(_thread(), serve, asks)
    except Exception as error:
        logger.warning("Sessions cannot be served: %r", error)
        refusal = ApiError(503, "unavailable", "The database does not answer: try again.", retry_after=2)
        return [refusal] * len(asks)


@cache
def _thread() -> ThreadPoolExecutor:
    """Of its own: those who wait come before those who come to wait."""
    return ThreadPoolExecutor(1, thread_name_prefix="sessions")


_desks: WeakKeyDictionary[asyncio.AbstractEventLoop, Desk] = WeakKeyDictionary()


def desk() -> Desk:
    """This loop's."""
    return _desks.setdefault(asyncio.get_running_loop(), Desk())
