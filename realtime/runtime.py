"""What a web process runs once for all its connections: hub, receiver, publisher and control, in its event loop."""

import asyncio
from dataclasses import dataclass

from django.conf import settings

from realtime import bus
from realtime.admission import Gate
from realtime.control import Control
from realtime.hub import Hub
from realtime.observing import Observer, observer
from realtime.receiver import Receiver
from realtime.ticking import Ticker, ticker
from realtime.topics import Logs, is_shared, is_state
from realtime.watching import Watching, watching


@dataclass(frozen=True, slots=True)
class Runtime:
    gate: Gate
    control: Control
    hub: Hub
    receiver: Receiver
    publisher: bus.Publisher
    observer: Observer
    watching: Watching
    ticker: Ticker

    async def stop(self) -> None:
        await self.observer.stop()
        await self.watching.stop()
        await self.ticker.stop()
        bus.detach(self.publisher)
        await self.control.stop()
        await self.receiver.stop()


_runtimes: dict[asyncio.AbstractEventLoop, Runtime] = {}


def current() -> Runtime:
    """This loop's runtime, started at first use: not every server sends lifespan events."""
    loop = asyncio.get_running_loop()
    if loop not in _runtimes:
        receiver = Receiver()
        hub = Hub(
            Logs(),
            receiver,
            shared=is_shared,
            recovery_events=settings.RECOVERY_LIMIT,
            recovery_bytes=settings.OUTBOX_MAX_BYTES // 2,  # What is missed has to fit the outbox.
            is_state=is_state,
        )
        publisher = bus.attach(loop)
        _runtimes[loop] = Runtime(
            Gate(), Control(), hub, receiver, publisher, observer(), watching(receiver, hub), ticker(hub)
        )
        receiver.start(hub)
        _runtimes[loop].control.start()
        _runtimes[loop].watching.start()
        _runtimes[loop].ticker.start()
    return _runtimes[loop]


async def stop() -> None:
    """Ends this loop's runtime, if it has one."""
    if runtime := _runtimes.pop(asyncio.get_running_loop(), None):
        await runtime.stop()


def is_draining() -> bool:
    return any(runtime.gate.draining for runtime in _runtimes.values())


def bus_is_up() -> bool | None:
    """Whether the bus carries events to this process; None in a process that does not listen."""
    states = [runtime.receiver.up for runtime in _runtimes.values()]
    return all(states) if states else None
