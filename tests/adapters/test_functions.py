"""Handlers of client messages: called for each message, at least once; what they raise decides what becomes of it."""

import asyncio
import logging
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from django.apps import apps
from django.conf import LazySettings
from django.db import connections
from django.utils import timezone

from accounts.models import User
from adapters import functions, outbox
from adapters.base import Misconfigured, Parcel, Target
from adapters.functions import CALLS_AT_ONCE, Context, Functions, Refuse, client_message_handler
from adapters.models import Delivery
from tests.adapters.conftest import conserved, deliver, destination, make_due, states
from tests.adapters.contract import AdapterContract, Arrived, Side, parcel
from tests.test_docs import ROOT, blocks


@pytest.fixture(autouse=True)
def _no_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "_functions", {})
    functions._discover()


def owe(user: str, message: Any, action: str = "send") -> None:
    """What a client says, as it is owed to destinations."""
    attributes = {"user_id": user, "timestamp": 1_767_225_600_123, "source": f"apigw.route.{action}"}
    data = {"message": message, "attributes": attributes, "connection": "c1", "account": "acme"}
    outbox.owe([outbox.Event(f"client.{action}", uuid4(), user, msgspec.json.encode(data), timezone.now())])


class Calls(list[tuple[Any, str]]):
    """A handler that keeps what it was called with, after it has done what a test says."""

    def __init__(self, first: Callable[[Any], object] = lambda _message: None) -> None:
        super().__init__()
        self.first = first

    def __call__(self, message: Any, sender: str, context: Context) -> None:
        self.append((message, sender))
        self.first(message)


# --- The adapter ----------------------------------------------------------------------------------


class FunctionSide(Side):
    def __init__(self) -> None:
        self.target = Target(uuid4(), "handlers", "")
        self._arrived: list[Arrived] = []
        self._broken = False

    def take(self, one: Parcel) -> None:
        if self._broken:
            raise ConnectionError("the shop is closed")
        self._arrived.append(Arrived(one.id, one.body))

    async def arrived(self) -> Sequence[Arrived]:
        return self._arrived

    @asynccontextmanager
    async def broken(self) -> AsyncIterator[None]:
        self._broken = True
        yield
        self._broken = False


@pytest.mark.any_database
class TestFunctions(AdapterContract):
    adapter_class = Functions
    nonsense = ("https://example.com/", "shop.handlers.on_send", " ")

    @pytest.fixture
    def side(self) -> Side:
        side = FunctionSide()
        functions._functions["message"] = side.take
        return side

    async def test_without_any_handler_check_says_what_to_change(self, side: Side) -> None:
        functions._functions.clear()
        with pytest.raises(Misconfigured, match="client_message_handlers"):
            await Functions(side.target).check()

    async def test_after_a_failure_those_of_the_same_user_are_not_called(self, side: Side) -> None:
        seen: list[str] = []

        def fail_once(one: Parcel) -> None:
            seen.append(one.body.decode())
            if b"bad" in one.body:
                raise ValueError("bad")

        functions._functions["message"] = fail_once
        batch = [parcel("bad"), parcel("behind"), parcel("other", key="user.bob")]
        outcomes = await Functions(side.target).publish(batch)
        assert [(outcome.delivered, outcome.tried) for outcome in outcomes] == [
            (False, True),
            (False, False),
            (True, True),
        ]
        assert len(seen) == 2

    async def test_slow_handlers_run_side_by_side_and_a_batch_ends_in_time(
        self, side: Side, settings: LazySettings
    ) -> None:
        settings.DELIVERY_TIMEOUT = 1.0
        functions._functions["message"] = lambda _: time.sleep(0.3)
        batch = [parcel(number, key=f"user.{number}") for number in range(40)]
        started = time.monotonic()
        outcomes = await Functions(side.target).publish(batch)
        assert time.monotonic() - started < 1.2
        assert sum(outcome.delivered for outcome in outcomes) == CALLS_AT_ONCE
        assert {outcome.tried for outcome in outcomes if not outcome.delivered} == {False}

    async def test_one_that_does_not_end_is_a_failure_that_passes_and_is_not_called_twice_at_once(
        self, side: Side, settings: LazySettings
    ) -> None:
        settings.DELIVERY_TIMEOUT = 0.2
        may_end, calls = threading.Event(), []

        def hang(_: Parcel) -> None:
            calls.append(1)
            may_end.wait(20)

        functions._functions["message"] = hang
        adapter, one = Functions(side.target), parcel("stuck")
        for why in ("within 0.2 s", "has not ended yet"):
            (outcome,) = await adapter.publish([one])
            assert why in outcome.error
            assert (outcome.permanent, outcome.tried) == (False, True)
        others = [parcel(number, key=f"user.{number}") for number in range(CALLS_AT_ONCE - 1)]
        await adapter.publish(others)
        (outcome,) = await adapter.publish([parcel("no thread is left")])
        assert outcome.error == f"All {CALLS_AT_ONCE} threads of this worker are with handlers that do not end."
        assert len(calls) == CALLS_AT_ONCE
        may_end.set()
        while functions._running:
            await asyncio.sleep(0.01)
        (outcome,) = await adapter.publish([one])
        assert outcome.delivered


# --- Handlers -------------------------------------------------------------------------------------

delivering = pytest.mark.django_db(transaction=True)


@delivering
def test_a_handler_gets_the_message_its_sender_and_what_else_is_known() -> None:
    got: list[Any] = []

    @client_message_handler("send")
    def on_send(message: Any, sender: str, context: Context) -> None:
        got.append((message, sender, context))
        User.objects.create(id=f"met-{sender}")

    destination("handlers", kind="functions", events=["client.send"])
    owe("alice", {"text": "Grüße", "n": [1, None]})
    owe("alice", "not for it", action="publish")
    deliver()
    row = Delivery.objects.get()
    (one,) = got
    assert one == (
        {"text": "Grüße", "n": [1, None]},
        "alice",
        Context(row.event_id, "send", "acme", "c1", 1_767_225_600_123),
    )
    assert User.objects.filter(pk="met-alice").exists()
    assert states("handlers") == {"delivered": 1}


@delivering
def test_the_documented_handler_hears_of_questions_and_refuses_others(capsys: pytest.CaptureFixture[str]) -> None:
    code = next(
        block for block in blocks(ROOT / "docs/client-messages.md", "python") if "@client_message_handler" in block
    )
    exec(code, {})
    destination("handlers", kind="functions", events=["client.send"])
    owe("alice", {"text": "Where is it?"})
    owe("alice", {"no": "text"})
    deliver()
    assert "alice in acme asks: Where is it?" in capsys.readouterr().out
    assert states("handlers") == {"delivered": 1, "dead": 1}


@delivering
def test_a_handlers_thread_leaves_no_connection_to_the_database_open() -> None:
    used = []

    @client_message_handler("send")
    def look(message: Any, sender: str, context: Context) -> None:
        used.append((threading.current_thread().name, connections["default"], User.objects.count()))

    destination("handlers", kind="functions")
    owe("alice", 1)
    deliver()
    ((thread, connection, _),) = used
    assert thread.startswith("client-messages")
    assert connection.connection is None


@delivering
def test_what_a_handler_raises_comes_again_until_it_goes_well_and_in_order(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL, "adapters.functions")  # Test runners cannot pass on such a text.
    troubles = [OSError("odd \0 text \ud800"), SystemExit(3)]
    calls = Calls(lambda message: _raise(troubles) if message == 1 else None)
    client_message_handler("send")(calls)
    destination("handlers", kind="functions", events=["client.send"])
    for user, message in (("alice", 1), ("alice", 2), ("bob", 3)):
        owe(user, message)
    deliver(1)
    assert sorted(calls) == [(1, "alice"), (3, "bob")]
    assert states("handlers") == {"pending": 2, "delivered": 1}
    assert Delivery.objects.get(attempts=1, state="pending").error == "OSError: odd  text ?"
    for expected in ({"pending": 2, "delivered": 1}, {"delivered": 3}):
        make_due()
        deliver(1)
        assert states("handlers") == expected
    assert [message for message, sender in calls if sender == "alice"] == [1, 1, 1, 2]
    assert conserved("handlers")


def _raise(troubles: list[BaseException]) -> None:
    if troubles:
        raise troubles.pop(0)


@delivering
def test_a_message_that_is_refused_is_a_dead_letter_at_once_and_the_others_go_on() -> None:
    def refuse(message: Any) -> None:
        if message == "poison":
            raise Refuse("there is no such order")

    calls = Calls(refuse)
    client_message_handler("publish")(calls)
    destination("handlers", kind="functions")
    for user, message in (("bob", "fine"), ("alice", "poison"), ("alice", "after it")):
        owe(user, message, action="publish")
    deliver()
    make_due()
    deliver()
    assert sorted(calls) == [("after it", "alice"), ("fine", "bob"), ("poison", "alice")]
    dead = Delivery.objects.get(state="dead")
    assert (dead.error, dead.attempts) == ("Its handler refuses it: there is no such order", 1)
    assert states("handlers") == {"delivered": 2, "dead": 1}


@delivering
def test_a_worker_that_does_not_know_the_handler_leaves_the_message_to_one_that_does() -> None:
    destination("handlers", kind="functions")
    owe("alice", 1)
    deliver()
    row = Delivery.objects.get()
    assert (row.state, row.error) == ("pending", "This worker has no handler for client.send.")


# --- Registering ----------------------------------------------------------------------------------


@pytest.mark.any_database
def test_each_action_has_one_handler_and_others_there_are_none() -> None:
    calls = Calls()
    assert client_message_handler("send")(calls) is calls
    assert set(functions.kinds()) == {"client.send"}
    with pytest.raises(ValueError, match="two handlers"):
        client_message_handler("send")(Calls())
    with pytest.raises(ValueError, match="they send and publish"):
        client_message_handler("subscribe")

    async def on_publish(message: Any, sender: str, context: Context) -> None: ...

    with pytest.raises(ValueError, match="plain function"):
        client_message_handler("publish")(on_publish)


@pytest.fixture
def shop(settings: LazySettings, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An installed app with handlers."""
    name = "shop_of_a_test"
    package = tmp_path / name
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "client_message_handlers.py").write_text(
        "from adapters.functions import client_message_handler\n\n\n"
        "@client_message_handler('publish')\ndef on_publish(message, sender, context): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, name]
    functions._discover.cache_clear()
    yield name
    for module in [module for module in sys.modules if module.startswith(name)]:
        del sys.modules[module]


@pytest.mark.any_database
def test_handlers_of_installed_apps_are_found(shop: str) -> None:
    assert apps.is_installed(shop)
    assert set(functions.kinds()) == {"client.publish"}
