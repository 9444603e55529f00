"""Listening to a session, in a thread of one's own."""

import threading
from collections.abc import Generator, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from fanfare_client.asking import Runs
from fanfare_client.calls import Call
from fanfare_client.conversation import Exchange, Wait
from fanfare_client.errors import FanfareError
from fanfare_client.events import Event
from fanfare_client.session_listening import SessionListening


class SessionListener(Iterator[Event]):
    """Events, one after the other. Ends when it is closed; raises FanfareError where it cannot go on."""

    def __init__(self, client: Runs, core: SessionListening) -> None:
        self._client = client
        self._core = core
        self._closed = threading.Event()
        self._events = self._listen()

    def __next__(self) -> Event:
        return next(self._events)

    def close(self) -> None:
        """Ends it; in another thread, once that has its answer, within 20 s. The session stays."""
        self._closed.set()
        with suppress(ValueError):  # Another thread goes through it, and finds its end.
            self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if error is None:
            self._core.handled()
        self.close()
        self._acknowledge()

    def _listen(self) -> Generator[Event, None, None]:
        steps = self._core.steps()
        outcome: Any = None
        while not self._closed.is_set():
            step = steps.send(outcome)
            outcome = None
            match step:
                case Call() | Exchange():
                    outcome = self._outcome(step)
                case Wait(seconds):
                    self._closed.wait(seconds)
                case _:
                    yield step
        self._acknowledge()

    def _outcome(self, step: Call[Any] | Exchange) -> Any:
        try:
            return self._client.run(step) if isinstance(step, Call) else self._client.exchange(step)
        except FanfareError as error:
            return error

    def _acknowledge(self) -> None:
        if step := self._core.acknowledgement():
            self._outcome(step)
