"""Listening to a session, with asyncio."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from fanfare_client.async_asking import AsyncRuns
from fanfare_client.calls import Call
from fanfare_client.conversation import Exchange, Wait
from fanfare_client.errors import FanfareError
from fanfare_client.events import Event
from fanfare_client.session_listening import SessionListening


class AsyncSessionListener(AsyncIterator[Event]):
    """Events, one after the other. Ends when it is closed; raises FanfareError where it cannot go on."""

    def __init__(self, client: AsyncRuns, core: SessionListening) -> None:
        self._client = client
        self._core = core
        self._closed = asyncio.Event()
        self._events = self._listen()

    async def __anext__(self) -> Event:
        return await anext(self._events)

    async def close(self) -> None:
        """Ends it; in another task, once that has its answer, within 20 s. The session stays."""
        self._closed.set()
        with suppress(RuntimeError):  # Another task goes through it, and finds its end.
            await self._events.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if error is None:
            self._core.handled()
        await self.close()
        await self._acknowledge()

    async def _listen(self) -> AsyncGenerator[Event, None]:
        steps = self._core.steps()
        outcome: Any = None
        while not self._closed.is_set():
            step = steps.send(outcome)
            outcome = None
            match step:
                case Call() | Exchange():
                    outcome = await self._outcome(step)
                case Wait(seconds):
                    with suppress(TimeoutError):
                        async with asyncio.timeout(seconds):
                            await self._closed.wait()
                case _:
                    yield step
        await self._acknowledge()

    async def _outcome(self, step: Call[Any] | Exchange) -> Any:
        try:
            return await (self._client.run(step) if isinstance(step, Call) else self._client.exchange(step))
        except FanfareError as error:
            return error

    async def _acknowledge(self) -> None:
        if step := self._core.acknowledgement():
            await self._outcome(step)
