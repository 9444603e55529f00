"""`POST /api/sessions/{id}/receive`, as plain ASGI: whoever waits for messages holds no thread."""

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
from sessions_app.receiving import Handed, Receive, Settle
from sessions_app.shapes import ReceivedMessages, ReceiveRequest
from sessions_app.waiting import Waiter, receive_within

COME_BACK = (None, CloseCode.SERVICE_RESTART, CloseCode.RESYNC)  # Who waits is answered, and asks again.
BEFORE, AFTER = "/api/sessions/", "/receive"


def is_receive(path: str) -> bool:
    return path.startswith(BEFORE) and path.endswith(AFTER) and "/" not in _session(path)


async def receive_from_session(scope: Scope, receive: NextMessage, send: Send) -> None:
    """-> `{messages}`: at once when there are some, or else within `wait` seconds."""
    gate = runtime.current().gate
    try:
        gate.look()  # Who waits comes back all the time: that is no handshake.
        principal = await from_database(authenticated, scope)
        if principal.is_backend:
            principal.require_scope("sessions:write")
        user = None if principal.is_backend else principal.require_user()
        asked = shaped(await json_body(scope, receive), ReceiveRequest)
        gate.enter(principal.user)
        waiter = Waiter()
        gate.connections.add(waiter)
        metrics.connections.labels(waiter.transport).inc()
        try:
            ask = Receive(_session(scope["path"]), asked.max, asked.visibility, user)
            handed = await _receive(principal, waiter, ask, asked.wait, receive)
        finally:
            metrics.connections.labels(waiter.transport).dec()
            gate.connections.discard(waiter)
            gate.leave(principal.user)
        await reply(send, 200, msgspec.json.encode(ReceivedMessages(list(handed.messages))))
    except ApiError as error:
        await refuse(send, error, allow="POST")
    except Left:
        pass


def _session(path: str) -> str:
    return path.removeprefix(BEFORE).removesuffix(AFTER)


async def _receive(principal: Principal, waiter: Waiter, ask: Receive, seconds: float, receive: NextMessage) -> Handed:
    """Raises Left for a client that is gone, and Unauthenticated where the credential ends meanwhile.

    What was handed out to them is there again at once.
    """
    with runtime.current().control.watching(principal, waiter.close, waiter.id):
        handed, is_gone = await receive_within(waiter, ask, seconds, receive)
    code = waiter.ended[0] if waiter.ended else None
    if is_gone or code not in COME_BACK:
        if receipts := [message.receipt for message in handed.messages]:
            await desk().settle(Settle(ask.session, receipts, done=False))
        if is_gone:
            raise Left
        raise Unauthenticated("This credential has ended.", expired=code is CloseCode.TOKEN_EXPIRED)
    return handed
