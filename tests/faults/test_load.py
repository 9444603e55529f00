"""The load tells what is known of each request, and no more."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from tests.faults.checker import Run, check, summary
from tests.faults.ledger import History, Reply, Row, Send
from tests.faults.load import Door, Load, Size

pytestmark = pytest.mark.any_database


async def test_what_a_request_came_to_is_unknown_when_it_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asyncio.Event()

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        writer.close()

    monkeypatch.setattr(Load, "scheduled", lambda _load: 0)
    stack: Any = SimpleNamespace(api_key="key")
    async with await asyncio.start_server(never_answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        load = Load(stack, [Door(port, port)], Size(), seed=1)
        request = asyncio.create_task(load._send_and_recall("topic.a", {}, recall=False))
        load._requests.add(request)
        request.add_done_callback(load._requests.discard)
        await asked.wait()
        left = await load.settle(0.1)
    assert left["requests without an outcome"] == 1
    assert not load._requests
    send, reply = load.ledger.lines
    assert isinstance(send, Send)
    assert isinstance(reply, Reply)
    assert reply.outcome == "info"
    for rows in [], [Row("id", "topic.a", 1, send.key, reply.at)]:  # It was too late, or it was not.
        run = Run(load.ledger, History({"topic.a": ("e", len(rows))}, rows))
        assert check(run) == []
        assert summary(run, []).indeterminate == 1
