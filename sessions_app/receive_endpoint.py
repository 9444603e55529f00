"""`POST /api/sessions/{id}/receive`, as plain ASGI: whoever waits for messages holds no thread."""

from collections.abc import Sequence

import msgspec

from accounts.credentials import Unauthenticated
from accounts.errors import ApiError
from accounts.principals import Principal
from accounts.requests import shaped
from realtime import metrics, runtime
from realtime.asgi import Receive as NextMessage
from realtime.asgi import Scope, Send
from realtime.protocol import CloseCode
from realtime.requests import Left, authenticated, from_database, json_body
from realtime.streams import refuse, reply
from sessions_app.desk import desk
from sessions_app.receiving import Receive, Settle
from sessions_app.shapes import ReceivedMessage, ReceivedMessages, SessionReceive
from sessions_app.topics import unknown
from sessions_app.waiting import Waiter, receive_within

COME_BACK = (None, CloseCode.SERVICE_RESTART, CloseCode.RESYNC)  # Who waits is answered, and asks again.
TRANSPORT = "receive"
NO_CONNECTION = ""  # That could be ended by its id.
BEFORE, AFTER = "/api/sessions/", "/receive"


def is_receive(path: str) -> bool:
    is_long = len(path) > len(BEFORE + AFTER)  # Or it is the session of the id `receive`.
    return is_long and path.startswith(BEFORE) and path.endswith(AFTER) and "/" not in _session(path)


async def receive_from_session(scope: Scope, receive: NextMessage, send: Send) -> None:
    """-> `{messages}`: at once when there are some, or else within `wait` seconds."""
    gate = runtime.current().gate
    try:
        gate.look()  # Who waits comes back all the time: that is no handshake.
        principal = await from_database(authenticated, scope)
        if principal.is_backend:
            principal.require_scope("sessions:write")
        user = None if principal.is_backend else principal.require_user()
        asked = shaped(await json_body(scope, receive), SessionReceive)
        if isinstance(scope["headers"], list):
            scope["headers"].clear()  # While one waits they would take a tenth of the memory.
        session = _session(scope["path"])
        if not session.isprintable():  # PostgreSQL would refuse the whole batch.
            raise unknown()
        gate.enter(principal.user)
        waiter = Waiter()
        gate.connections.add(waiter)
        metrics.connections.labels(TRANSPORT).inc()
        try:
            ask = Receive(session, asked.max, asked.visibility, user)
            messages = await _receive(principal, waiter, ask, asked.wait, receive)
        finally:
            metrics.connections.labels(TRANSPORT).dec()
            gate.connections.discard(waiter)
            gate.leave(principal.user)
        await reply(send, 200, msgspec.json.encode(ReceivedMessages(list(messages))))
    except ApiError as error:
        await refuse(send, error, allow="POST")
    except Left:
        pass


def _session(path: str) -> str:
    return path.removeprefix(BEFORE).removesuffix(AFTER)


async def _receive(
    principal: Principal, waiter: Waiter, ask: Receive, seconds: float, receive: NextMessage
) -> Sequence[ReceivedMessage]:
    """Raises Left for a client that is gone, and Unauthenticated where the credential ends meanwhile.

    What was handed out to them is there again at once.
    """
    control = runtime.current().control
    watch = control.watch(principal, waiter.close, NO_CONNECTION)
    try:
        messages, is_gone = await receive_within(waiter, ask, seconds, receive)
    finally:
        control.unwatch(watch)
    if is_gone or waiter.ended not in COME_BACK:
        if receipts := [message.receipt for message in messages]:
            await desk().settle(Settle(ask.session, receipts, done=False))
        if is_gone:
            raise Left
        raise Unauthenticated("This credential has ended.", expired=waiter.ended is CloseCode.TOKEN_EXPIRED)
    return messages
