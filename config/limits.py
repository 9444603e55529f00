"""Bounds in front of Django: on bodies, which it would spool to disk, and on requests, which get a thread each."""

import asyncio
from typing import Any

import msgspec

from realtime import metrics
from realtime.asgi import Application, Receive, Scope, Send


def bounded(application: Application, most: int) -> Application:
    """The HTTP application, but a body of more than `most` bytes is answered with 413 and not read on."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > most:
            await _refuse(send, most)
            return
        read = 0

        async def counting() -> dict[str, Any]:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            return {"type": "http.disconnect"} if read > most else message

        await application(scope, counting, send)
        if read > most:
            await _refuse(send, most)

    return guarded


WAIT_SECONDS = 5.0
PROBES = {"/livez", "/readyz", "/metrics"}  # They say how it is, also when there is too much to do.


class _Busy(Exception):
    pass


def queued(application: Application, at_once: int) -> Application:
    """The HTTP application, but only so many requests are at work at once; others wait, then are answered with 503.

    Each has a thread and a database connection, and a crowd of them gets less done: SQLite's lock is not fair. One is
    at work from when its body is here until its reply begins: clients that are slow keep nobody waiting.
    """
    places = asyncio.Semaphore(at_once)

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        entered = left = False

        async def entering() -> dict[str, Any]:
            nonlocal entered
            message = await receive()
            if not entered and message["type"] == "http.request" and not message.get("more_body"):
                await _take(places)
                entered = True
            return message

        def leave() -> None:
            nonlocal left
            if entered and not left:
                left = True
                places.release()

        async def leaving(message: dict[str, Any]) -> None:
            leave()
            await send(message)

        if scope["path"] in PROBES:
            await application(scope, receive, send)
            return
        try:
            await application(scope, entering, leaving)
        except _Busy:
            await _reply(send, 503, "busy", "The server has too much to do: try again.", (b"retry-after", b"1"))
        finally:
            leave()

    return guarded


async def _take(places: asyncio.Semaphore) -> None:
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            await places.acquire()
    except TimeoutError:
        metrics.refused.labels("busy").inc()
        raise _Busy from None


async def _refuse(send: Send, most: int) -> None:
    text = f"A body has at most {most} bytes (BATCH_MAX_BYTES)."
    await _reply(send, 413, "too_large", text, (b"connection", b"close"))


async def _reply(send: Send, status: int, code: str, text: str, header: tuple[bytes, bytes]) -> None:
    body = msgspec.json.encode({"error": {"code": code, "message": text}})
    headers = [(b"content-type", b"application/json"), (b"x-content-type-options", b"nosniff"), header]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
