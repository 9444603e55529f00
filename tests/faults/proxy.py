"""A TCP proxy that can be slow, and that can stop: neither side then hears of the other, and neither is told."""

import asyncio
import random
from contextlib import suppress

CHUNK = 65536


class Proxy:
    """`delay` and `jitter` in seconds, for each direction. Unset `running` and nothing passes until it is set."""

    def __init__(self, target: int, chance: random.Random) -> None:
        self.port = 0
        self.delay = self.jitter = 0.0
        self.running = asyncio.Event()
        self.running.set()
        self._target = target
        self._chance = chance
        self._server: asyncio.Server
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> "Proxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            self._tasks.discard(task)
            return
        pumps = [
            asyncio.create_task(self._pump(reader, far_writer)),
            asyncio.create_task(self._pump(far_reader, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            writer.close()
            far_writer.close()
            self._tasks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while True:
                await self.running.wait()
                data = await reader.read(CHUNK)
                await self.running.wait()
                if not data:
                    return
                if self.delay or self.jitter:
                    await asyncio.sleep(
                        max(0.0, self._chance.uniform(self.delay - self.jitter, self.delay + self.jitter))
                    )
                writer.write(data)
                await writer.drain()
