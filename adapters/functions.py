"""The adapter of functions: what clients send is handed to Python in the workers' own processes.

Any installed app puts its own into a module `client_message_handlers`:

    @client_message_handler("send")
    def on_send(message, sender, context):
        Order.objects.get_or_create(id=context.id, defaults={"buyer": sender, "what": message})
"""

import asyncio
import inspect
import logging
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Protocol, TypeVar
from uuid import UUID

import msgspec
from django.conf import settings
from django.db import connections
from django.utils.module_loading import autodiscover_modules

from adapters.base import Adapter, Misconfigured, Outcome, Parcel

logger = logging.getLogger(__name__)

ACTIONS = ("send", "publish")
CALLS_AT_ONCE = 4  # In one process.
BEGIN_SHARE = 0.2  # Of DELIVERY_TIMEOUT; after it a batch begins no more calls, so that each has most of that time.

Function = Callable[[Parcel], object]


# --- Handlers -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Context:
    """What is known of a message. `id` is the same each time that it comes; `timestamp` is in milliseconds."""

    id: UUID
    kind: str  # `send` or `publish`.
    account: str | None
    connection: str
    timestamp: int


class Handler(Protocol):
    """Deals with a message from a client; `sender` is the user's id.

    At least once: it runs again where it raises anything but Refuse or does not end within DELIVERY_TIMEOUT, and where
    a worker dies. What it returns does not matter.
    """

    def __call__(self, message: Any, sender: str, context: Context, /) -> object: ...


class Refuse(Exception):
    """What a handler raises for a message that it will never take: it becomes a dead letter at once."""


Registered = TypeVar("Registered", bound=Callable[..., Any])

_functions: dict[str, Function] = {}  # By the kind of event.


def client_message_handler(action: str) -> Callable[[Registered], Registered]:
    """Registers a function for `send` or `publish`. Raises ValueError for any other action, and for a second one."""
    if action not in ACTIONS:
        raise ValueError(f"Clients do not {action!r}: they {' and '.join(ACTIONS)}.")

    def register(handler: Registered) -> Registered:
        if inspect.iscoroutinefunction(handler):
            raise ValueError("A handler is a plain function: it runs in a thread of its own.")
        if f"client.{action}" in _functions:
            raise ValueError(f"There are two handlers for what clients {action}.")
        _functions[f"client.{action}"] = partial(_hand_over, handler)
        return handler

    return register


def kinds() -> Collection[str]:
    """The kinds of events that have a function in this process."""
    _discover()
    return _functions.keys()


@cache
def _discover() -> None:
    autodiscover_modules("client_message_handlers")


class _Attributes(msgspec.Struct):
    user_id: str
    timestamp: int


class _Data(msgspec.Struct):
    message: Any
    attributes: _Attributes
    connection: str
    account: str | None


class _Body(msgspec.Struct):
    data: _Data


def _hand_over(handler: Handler, parcel: Parcel) -> None:
    data = msgspec.json.decode(parcel.body, type=_Body).data
    kind = parcel.event.removeprefix("client.")
    context = Context(parcel.id, kind, data.account, data.connection, data.attributes.timestamp)
    handler(data.message, data.attributes.user_id, context)


# --- The adapter ----------------------------------------------------------------------------------


class Functions(Adapter):
    """Calls a function for each parcel in a thread, for those of one user one after the other.

    One that does not end in time goes on in its thread: until it ends, this process does not call it again for the
    same parcel, and has a thread less for others.
    """

    ordered = True
    batch_size = 40

    class Options(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
        pass

    @classmethod
    def validate(cls, address: str) -> None:
        if address:
            raise Misconfigured("address: leave it empty, for handlers run in the workers of this service")

    async def publish(self, batch: Sequence[Parcel]) -> Sequence[Outcome]:
        time = asyncio.get_running_loop().time
        begin_until, end = (time() + settings.DELIVERY_TIMEOUT * share for share in (BEGIN_SHARE, 1))
        turns = asyncio.Semaphore(CALLS_AT_ONCE)
        outcomes: dict[UUID, Outcome] = {}

        async def one_after_the_other(parcels: Sequence[Parcel]) -> None:
            for parcel in parcels:
                async with turns:
                    if parcel is not batch[0] and time() > begin_until:
                        return
                    outcomes[parcel.id] = await _call(parcel, end)
                if not outcomes[parcel.id].delivered:
                    return

        keys: dict[str, list[Parcel]] = {}
        for parcel in batch:
            keys.setdefault(parcel.key, []).append(parcel)
        await asyncio.gather(*map(one_after_the_other, keys.values()))
        return [outcomes.get(parcel.id, Outcome("its turn has not come", tried=False)) for parcel in batch]

    async def check(self) -> str:
        if found := sorted(kinds()):
            return f"there is a handler for {' and '.join(found)}"
        raise Misconfigured("there is no handler: no installed app has a module client_message_handlers")


_running: set[UUID] = set()  # Parcels whose call has not ended, be it in time or not.


async def _call(parcel: Parcel, end: float) -> Outcome:
    if parcel.event not in kinds():  # Perhaps a newer worker has one.
        return Outcome(f"This worker has no handler for {parcel.event}.")
    if parcel.id in _running:
        return Outcome("Its handler has not ended yet since an attempt before.")
    call = _threads().submit(_run, _functions[parcel.event], parcel)
    _running.add(parcel.id)
    call.add_done_callback(lambda _: _running.discard(parcel.id))
    try:
        async with asyncio.timeout_at(end):
            return await asyncio.wrap_future(call)
    except TimeoutError:
        if call.cancelled():
            return Outcome(f"All {CALLS_AT_ONCE} threads of this worker are with handlers that do not end.")
        return Outcome(f"Its handler has not ended within {settings.DELIVERY_TIMEOUT} s (DELIVERY_TIMEOUT).")


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(CALLS_AT_ONCE, thread_name_prefix="client-messages")


def _run(function: Function, parcel: Parcel) -> Outcome:
    try:
        function(parcel)
    except Refuse as error:
        return Outcome(f"Its handler refuses it: {_text(error)}", permanent=True)
    except (Exception, SystemExit) as error:
        logger.exception("The handler of %s failed with %s", parcel.event, parcel.id)
        return Outcome(f"{type(error).__name__}: {_text(error)}")
    finally:
        connections.close_all()  # This thread's.
    return Outcome()


def _text(error: BaseException) -> str:
    """What it says, as every database takes it."""
    return str(error).encode(errors="replace").decode().replace("\0", "")
