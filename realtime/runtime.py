"""What a web process runs once for all its connections: hub, receiver, publisher and control, in its event loop."""

import asyncio
from dataclasses import dataclass

from django.conf import settings
from django.utils.module_loading import import_string

from realtime import bus
from realtime.admission import Gate
from realtime.control import Control
from realtime.hub import Hub
from realtime.receiver import Receiver
from realtime.topics import is_shared


@dataclass(frozen=True, slots=True)
class Runtime:
    gate: Gate
    control: Control
    hub: Hub
    receiver: Receiver
    publisher: bus.Publisher

    async def stop(self) -> None:
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
            import_string(settings.REALTIME_LOG)(),
            receiver,
            shared=is_shared,
            recovery_events=settings.RECOVERY_LIMIT,
            recovery_bytes=settings.OUTBOX_MAX_BYTES // 2,  # What is missed has to fit the outbox.
        )
        _runtimes[loop] = Runtime(Gate(), Control(), hub, receiver, bus.attach(loop))
        receiver.start(hub)
        _runtimes[loop].control.start()
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
