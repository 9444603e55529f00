"""Two more ways in, as plain ASGI: server-sent events and long poll. Same events, same rules, same recovery.

Both keep their place in an opaque text, the position of every topic: the `id` of an event stream, the `since` of a
poll. Any process can go on from it.
"""

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
from django.conf import settings

from accounts.errors import ApiError
from accounts.principals import Principal
from realtime import admission, metrics, protocol, runtime
from realtime.asgi import Receive, Scope, Send
from realtime.connections import Connection, PollConnection, StreamConnection
from realtime.hub import Hub, Subscription
from realtime.mutes import Mute
from realtime.observing import why
from realtime.protocol import Since

COMMENT_SECONDS = 15.0
POLL_SECONDS, POLL_MAX_SECONDS = 25, 60

STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back.
]


async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    """`GET /api/stream`: events until the client leaves, the credential expires or the reader is too slow."""
    started = False
    task = asyncio.current_task()
    try:
        async with _admitted(scope, "stream") as (principal, muted):
            names, refused, session = await _topics(scope, principal)
            resumed_from = admission.headers_of(scope).get("last-event-id") or admission.query_of(scope).get("since")
            since = _parse_place(resumed_from)
            entered: dict[str, Since] = {}  # Who is sent away while catching up comes back to here.
            connection = StreamConnection(
                user=principal.user,
                muted=muted,
                max_backlog=settings.OUTBOX_MAX_BYTES,
                send=send,
                abort=lambda: task and task.cancel(),
                place=lambda: place(entered | hub.places(connection)),
            )
            connection.session = session
            here = runtime.current()
            hub, gate, control = here.hub, here.gate, here.control
            try:
                subscriptions = await _subscribe(hub, connection, names, since)
                entered |= {one.topic: Since(one.epoch, one.offset) for one in subscriptions}
                inbox = await admission.greeting(principal, names)
                started = True
                await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
                connection.send(*_greeting(connection, principal, subscriptions, since, inbox), *refused)
                hub.go_live(connection, subscriptions)
                gate.connections.add(connection)
                here.observer.opened(connection, principal, *_client(scope))
                with control.watching(principal, connection.close, connection.id):
                    await _until_gone(receive, connection)
            finally:
                gate.connections.discard(connection)
                hub.leave(connection)
                here.observer.closed(connection, why(connection, lost=_has_ceased_to_answer(scope)))
                await connection.stop()
    except asyncio.CancelledError:
        if not started or task is None or not connection.closed:
            raise
        task.uncancel()  # The reader took nothing any more: the response just ends.
    except ApiError as error:
        await refuse(send, error)


async def poll(scope: Scope, receive: Receive, send: Send) -> None:
    """`GET /api/poll` -> `{events, since}`: at once when something is there or `since` lacks a topic."""
    try:
        async with _admitted(scope, "poll") as (principal, muted):
            names, refused, session = await _topics(scope, principal)
            query = admission.query_of(scope)
            wait = _wait(query.get("wait"))
            since = _parse_place(query.get("since") or admission.headers_of(scope).get("last-event-id"))
            entered: dict[str, Since] = {}
            connection = PollConnection(
                user=principal.user,
                muted=muted,
                max_backlog=settings.OUTBOX_MAX_BYTES,
                place=lambda: place(entered | hub.places(connection)),
            )
            connection.session = session
            here = runtime.current()
            hub, gate, control = here.hub, here.gate, here.control
            try:
                subscriptions = await _subscribe(hub, connection, names, since)
                entered |= {one.topic: Since(one.epoch, one.offset) for one in subscriptions}
                for found in subscriptions:
                    connection.send(*(event.body for event in found.missed))
                    if not found.recovered or found.snapshot is not None:
                        connection.send(_subscribed(found))
                if since.keys() != set(names):  # Once is enough, or the next poll would not wait.
                    connection.send(*refused)
                hub.go_live(connection, subscriptions)
                gate.connections.add(connection)
                here.observer.opened(connection, principal, *_client(scope))
                if not connection.events and since.keys() >= set(names):
                    with control.watching(principal, connection.close, connection.id):
                        await _something_or_gone(connection, receive, wait)
                next_place = connection.place()
            finally:
                gate.connections.discard(connection)
                hub.leave(connection)
                here.observer.closed(connection, why(connection))
            body = b'{"events":[' + b",".join(connection.events) + b'],"since":"' + next_place + b'"}'
            await reply(send, 200, body)
    except ApiError as error:
        await refuse(send, error)


def place(positions: Mapping[str, Since]) -> bytes:
    """The positions of topics as one opaque text."""
    text = msgspec.json.encode({name: (at.epoch, at.offset) for name, at in positions.items()})
    return base64.urlsafe_b64encode(text).rstrip(b"=")


def _parse_place(text: str | None) -> dict[str, Since]:
    if not text:
        return {}
    try:
        raw = base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4))
        positions = msgspec.json.decode(raw, type=dict[str, tuple[str | None, int]])
    except (binascii.Error, ValueError, msgspec.DecodeError) as error:
        raise ApiError(400, "malformed", "since: send back what you were given, or nothing.") from error
    return {name: Since(epoch, offset) for name, (epoch, offset) in positions.items()}


def _wait(text: str | None) -> float:
    if text is None:
        return POLL_SECONDS
    if len(text) > 2 or not text.isascii() or not text.isdigit() or int(text) > POLL_MAX_SECONDS:
        raise ApiError(400, "malformed", f"wait: whole seconds from 0 to {POLL_MAX_SECONDS}.")
    return int(text)


def _client(scope: Scope) -> tuple[str | None, str]:
    """Its address, and what it says it is."""
    return admission.address_of(scope), admission.headers_of(scope).get("user-agent", "")


def _has_ceased_to_answer(scope: Scope) -> bool:
    """Whether the server knows that the client is gone without a word (realtime.uvicorn_protocol)."""
    lost = scope.get("extensions", {}).get("http.lost")
    return lost is not None and lost()


async def _topics(scope: Scope, principal: Principal) -> tuple[list[str], list[bytes], str | None]:
    if scope["method"] != "GET":
        raise ApiError(405, "method_not_allowed", "This is for GET.")
    chosen = await admission.choose_topics(principal, scope)
    if chosen.refused and not chosen.names:
        raise chosen.refused[0].error
    errors = [protocol.error(one.error.code, one.error.message, topic=one.topic) for one in chosen.refused]
    return chosen.names, errors, chosen.session


def _greeting(
    connection: Connection,
    principal: Principal,
    found: Sequence[Subscription],
    since: Mapping[str, Since],
    inbox: Mapping[str, Any],
) -> list[bytes]:
    fresh = {one.topic: one.place() for one in found if one.topic not in since}
    bodies = [protocol.welcome(connection.id, principal.user, fresh, **inbox)]
    for one in found:
        if one.topic in since:
            bodies += [*(event.body for event in one.missed), _subscribed(one)]
    return bodies


def _subscribed(found: Subscription) -> bytes:
    return protocol.subscribed(found.topic, found.epoch, found.offset, found.recovered, snapshot=found.snapshot)


@asynccontextmanager
async def _admitted(scope: Scope, transport: str) -> AsyncIterator[tuple[Principal, Mute]]:
    gate = runtime.current().gate
    gate.knock()
    principal, muted = await admission.identify(scope)
    gate.enter(principal.user)
    metrics.connections.labels(transport).inc()
    try:
        yield principal, muted
    finally:
        metrics.connections.labels(transport).dec()
        gate.leave(principal.user)


async def _subscribe(
    hub: Hub, connection: Connection, names: Sequence[str], since: Mapping[str, Since]
) -> list[Subscription]:
    try:
        return await hub.subscribe(connection, {name: since.get(name) for name in names})
    except ApiError:
        raise
    except Exception as error:  # Whatever the database raises.
        raise ApiError(503, "unavailable", "The log cannot be read now: try again.", retry_after=2) from error


async def _until_gone(receive: Receive, connection: StreamConnection) -> None:
    while True:
        try:
            async with asyncio.timeout(COMMENT_SECONDS):
                message = await receive()
        except TimeoutError:
            connection.comment()
            continue
        if message["type"] == "http.disconnect":
            return


async def _something_or_gone(connection: PollConnection, receive: Receive, seconds: float) -> None:
    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    waits = [asyncio.create_task(gone()), asyncio.create_task(connection.something.wait())]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*waits)


async def refuse(send: Send, error: ApiError, *, allow: str = "GET") -> None:
    """The refusal in the API's shape. `allow`: the method that the endpoint is for."""
    headers = [(b"www-authenticate", b"Bearer")] if error.status == 401 else []
    if error.status == 405:
        headers.append((b"allow", allow.encode()))
    if error.status == 413:
        headers.append((b"connection", b"close"))  # The rest of the body is not read.
    if error.retry_after is not None:
        headers.append((b"retry-after", str(error.retry_after).encode()))
    await reply(send, error.status, msgspec.json.encode({"error": error.as_dict()}), headers)


async def reply(send: Send, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    length = str(len(body)).encode()
    fixed = [
        (b"content-type", b"application/json"),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        (b"content-length", length),
    ]
    with suppress(OSError):  # The client has left.
        await send({"type": "http.response.start", "status": status, "headers": [*fixed, *headers]})
        await send({"type": "http.response.body", "body": body})
