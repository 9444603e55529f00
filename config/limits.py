"""A bound on request bodies, before anything reads them: Django would spool whatever comes to disk."""

from typing import Any

import msgspec

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


async def _refuse(send: Send, most: int) -> None:
    body = msgspec.json.encode(
        {"error": {"code": "too_large", "message": f"A body has at most {most} bytes (BATCH_MAX_BYTES)."}}
    )
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body})
