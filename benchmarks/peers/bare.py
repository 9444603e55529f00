"""The least that an ASGI application can do with a WebSocket: accept, and wait until it ends."""

from typing import Any


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
    while (await receive())["type"] not in ("websocket.disconnect", "lifespan.shutdown"):
        if scope["type"] == "lifespan":
            await send({"type": "lifespan.startup.complete"})
