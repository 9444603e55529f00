"""A connection that fails in the middle of a fan-out takes nothing from the others (found by F1)."""

import asyncio
from typing import Any

from realtime.fanout import fan_out
from realtime.protocol import CloseCode
from tests.realtime.fakes import FakeLog, Recorder, in_virtual_time


class Broken(Recorder):
    def write(self, data: Any) -> None:
        raise RuntimeError("the handler is closed")


@in_virtual_time
async def test_the_others_get_the_message_and_the_broken_one_comes_back() -> None:
    connections = [Recorder(), Broken(), Recorder()]
    fan_out(connections, [FakeLog().append()])
    await asyncio.sleep(0)
    assert [one.offsets() for one in connections] == [[1], [], [1]]
    assert connections[1].code == CloseCode.UNAVAILABLE
