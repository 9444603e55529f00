"""Webhooks: what receivers get, and how they are told apart from others."""

import asyncio
import base64
import hashlib
import hmac
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from accounts import signatures
from adapters.base import Misconfigured, Target
from adapters.webhook import REQUESTS_AT_ONCE, Options, Webhook
from tests.adapters.contract import AdapterContract, Arrived, Side, attempt, parcel
from tests.adapters.receivers import (
    OLD_SECRET,
    SECRET,
    Call,
    Handler,
    Receiver,
    status,
    webhook,
)
from tests.servers import eventually, free_port

DOCS = Path(__file__).parents[2] / "docs/webhooks.md"

pytestmark = [pytest.mark.any_database, pytest.mark.usefixtures("loopback_allowed")]


# --- The contract ---------------------------------------------------------------------------------


class ReceiverSide(Side):
    def __init__(self, receiver: Receiver, **options: Any) -> None:
        self.receiver = receiver
        self.target = Target(uuid4(), "shop", receiver.url, options, (SECRET,))

    async def arrived(self) -> Sequence[Arrived]:
        return [
            Arrived(UUID(call.headers["webhook-id"]), call.body)
            for call in self.receiver.calls
            if json.loads(call.body)["type"] != "fanfare.check"
        ]

    @asynccontextmanager
    async def broken(self) -> AsyncIterator[None]:
        self.receiver.answer, before = self._fail, self.receiver.answer
        yield
        self.receiver.answer = before

    def _fail(self, handler: Handler, call: Call) -> None:
        self.receiver.calls.remove(call)
        status(503)(handler, call)


class InArrays(ReceiverSide):
    async def arrived(self) -> Sequence[Arrived]:
        events = [event for call in self.receiver.calls for event in msgspec.json.decode(call.body, type=list[_Event])]
        return [Arrived(one.id, bytes(one.event)) for one in events if b"fanfare.check" not in bytes(one.event)]


class _Event(msgspec.Struct, forbid_unknown_fields=True):
    id: UUID
    event: msgspec.Raw


class TestWebhook(AdapterContract):
    adapter_class = Webhook
    nonsense = ["", "shop.example.com", "ftp://shop.example.com/", "https:///hook", "https://10.0.0.1/"]

    @pytest.fixture
    def side(self, receiver: Receiver) -> Side:
        return ReceiverSide(receiver)


class TestWebhookInArrays(TestWebhook):
    @pytest.fixture
    def side(self, receiver: Receiver) -> Side:
        return InArrays(receiver, batch=7)


# --- Requests -------------------------------------------------------------------------------------


async def test_requests_are_signed_as_the_specification_has_it(receiver: Receiver) -> None:
    async with webhook(receiver.url, SECRET, OLD_SECRET) as adapter:
        await adapter.publish([sent := parcel()])
    [call] = receiver.calls
    assert (call.path, call.body, call.headers["webhook-id"]) == ("/hook", sent.body, str(sent.id))
    assert abs(int(call.headers["webhook-timestamp"]) - time.time()) < 5
    signed = f"{call.headers['webhook-id']}.{call.headers['webhook-timestamp']}.{call.body.decode()}".encode()
    expected = []
    for secret in (SECRET, OLD_SECRET):
        digest = hmac.new(base64.b64decode(secret.removeprefix("whsec_")), signed, hashlib.sha256).digest()
        expected.append(f"v1,{base64.b64encode(digest).decode()}")
    assert call.headers["webhook-signature"].split(" ") == expected
    for secret in (SECRET, OLD_SECRET):
        assert signatures.verify_request([secret], call.headers, call.body)


async def test_requests_say_what_they_are_and_to_whom(receiver: Receiver) -> None:
    async with webhook(f"{receiver.url}?shop=1&x=%20", headers={"Authorization": "Bearer abc"}) as adapter:
        await adapter.publish([parcel()])
    [call] = receiver.calls
    assert call.path == "/hook?shop=1&x=%20"
    assert {name: value for name, value in call.headers.items() if not name.startswith("webhook-")} == {
        "host": f"127.0.0.1:{receiver.port}",
        "user-agent": "fanfare",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "content-length": str(len(call.body)),
        "authorization": "Bearer abc",
    }


async def test_connections_are_used_again_and_requests_go_out_side_by_side(receiver: Receiver) -> None:
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait_for_all(handler: Handler, call: Call) -> None:
        if len(receiver.calls) == REQUESTS_AT_ONCE:
            loop.call_soon_threadsafe(gate.set)
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(5)
        status(200)(handler, call)

    receiver.answer = wait_for_all
    async with webhook(receiver.url) as adapter:
        for _ in range(3):
            outcomes = await adapter.publish([parcel() for _ in range(50)])
            assert all(outcome.delivered for outcome in outcomes)
    assert len({call.port for call in receiver.calls}) == REQUESTS_AT_ONCE
    assert len(receiver.calls) == 150


async def test_the_outcomes_are_in_the_order_of_the_batch_whoever_answers_first(receiver: Receiver) -> None:
    def answer(handler: Handler, call: Call) -> None:
        number = json.loads(call.body)["data"]
        time.sleep(0.1 if number == 0 else 0)
        status(200 if number % 2 else 500 + number)(handler, call)

    receiver.answer = answer
    async with webhook(receiver.url) as adapter:
        outcomes = await adapter.publish([parcel(number) for number in range(8)])
    assert [outcome.response for outcome in outcomes] == ["500", "200", "502", "200", "504", "200", "506", "200"]


async def test_the_same_batch_has_the_same_id_and_another_one_another(receiver: Receiver) -> None:
    first, second = parcel(1), parcel(2)
    async with webhook(receiver.url, batch=2) as adapter:
        for batch in ([first, second], [first, second], [second], [second, first]):
            await adapter.publish(batch)
    ids = [call.headers["webhook-id"] for call in receiver.calls]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


async def test_large_events_are_not_put_together(receiver: Receiver) -> None:
    async with webhook(receiver.url, batch=100) as adapter:
        await adapter.publish([parcel("x" * 200_000) for _ in range(5)])
    assert sorted(len(json.loads(call.body)) for call in receiver.calls) == [1, 2, 2]


async def test_one_event_that_is_refused_does_not_take_its_batch_along(receiver: Receiver) -> None:
    def answer(handler: Handler, call: Call) -> None:
        status(422 if b"poison" in call.body else 200)(handler, call)

    receiver.answer = answer
    async with webhook(receiver.url, batch=10) as adapter:
        outcomes = await adapter.publish([parcel("poison" if number == 3 else number) for number in range(20)])
    assert [number for number, outcome in enumerate(outcomes) if outcome.error] == [3]
    assert outcomes[3].permanent
    assert sorted(len(json.loads(call.body)) for call in receiver.calls) == [1] * 10 + [10] * 2


# --- Options and check ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"webhook-id": "x"}, {"Webhook-Signature": "x"}, {"Host": "x"}, {"content-length": "1"}, {"Content-Type": "x"},
        {"Transfer-Encoding": "chunked"}, {"Connection": "close"}, {"user-agent": "x"}, {"": "x"}, {"a b": "x"},
        {"a:": "x"}, {"a\r\nb": "x"}, {"é": "x"}, {"x": ""}, {"x": "hidden\r\ny: z"}, {"x": "hidden\n"},
        {"x": "hidden\x00"}, {"x": " hidden"}, {"x": "hidden "}, {"x": "hidden é"}, {"x": "hidden" * 400}, {"x": 1},
        {f"x-{number}": "x" for number in range(21)},
    ],
)  # fmt: skip
def test_headers_that_would_change_the_request_are_refused_without_their_value(headers: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError) as refused:
        msgspec.convert({"headers": headers}, Options)
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize("batch", [-1, 101, True, "5", 1.5])
def test_batch_is_a_number_up_to_a_hundred(batch: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"batch": batch}, Options)


def test_a_webhook_without_secret_is_not_made() -> None:
    with pytest.raises(Misconfigured, match="secret"):
        Webhook(Target(uuid4(), "shop", "https://shop.example.com/"))


async def test_a_check_is_a_signed_event_of_its_own_kind(receiver: Receiver) -> None:
    receiver.answer = status(200, b"hello")
    async with webhook(receiver.url) as adapter:
        assert await adapter.check() == "it answers 200 hello"
    [call] = receiver.calls
    assert json.loads(call.body)["type"] == "fanfare.check"
    assert signatures.verify_request([SECRET], call.headers, call.body)


@pytest.mark.parametrize(
    ("code", "hint"), [(401, "another secret"), (404, "wrong path"), (302, "redirects"), (500, "")]
)
async def test_a_check_says_what_is_wrong(receiver: Receiver, code: int, hint: str) -> None:
    receiver.answer = status(code, b"because")
    async with webhook(receiver.url) as adapter:
        with pytest.raises(Misconfigured, match=rf"HTTP status {code}.*{hint}.* \(it says: {code} because\)"):
            await adapter.check()


async def test_a_check_names_the_setting(receiver: Receiver, settings: Any) -> None:
    settings.WEBHOOK_NETWORKS = []
    async with webhook(receiver.url) as adapter:
        with pytest.raises(Misconfigured, match="WEBHOOK_NETWORKS"):
            await adapter.check()


# --- The page -------------------------------------------------------------------------------------


async def test_the_documented_receiver_takes_each_event_once_and_refuses_what_is_not_signed(tmp_path: Path) -> None:
    [example] = re.findall(r"^```python\n(.*?)^```$", DOCS.read_text(), re.DOTALL | re.MULTILINE)
    port = free_port()
    (tmp_path / "receiver.py").write_text(example.replace("9000", str(port)))
    shutil.copy(signatures.__file__, tmp_path / "signatures.py")
    command = [sys.executable, "-I", "-c", "import sys; sys.path[:0] = ['.']; import receiver"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}/"
        await asyncio.to_thread(eventually, lambda: _listens(port), 10)
        async with webhook(url, OLD_SECRET, SECRET) as adapter:
            batch = [parcel("one"), parcel("two")]
            for _ in range(2):
                assert all(outcome.delivered for outcome in await attempt(adapter, batch))
        async with webhook(url, OLD_SECRET) as adapter:
            assert [outcome.permanent for outcome in await adapter.publish([parcel("three")])] == [True]
    finally:
        process.kill()
        process.wait(5)
    assert sorted((tmp_path / "log").read_text().split("\n")) == ["", "message one", "message two"]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_documented_signature_is_the_examples() -> None:
    page = DOCS.read_text()
    headers = dict(re.findall(r"^(webhook-\w+): (.*)$", page, re.MULTILINE))
    [body] = re.findall(r'^\{"type": "message".*\}$', page, re.MULTILINE)
    [secret] = re.findall(r"whsec_\w{32}", page)
    assert signatures.verify_request([secret], headers, body.encode(), tolerance=1e12)
