"""An echo behind the product's protocol classes: `uvicorn tests.realtime.echo:application`. Needs no Django.

Texts go back the way events do, as finished frames; binary messages by ASGI's `send`.
"""

import asyncio

from realtime.asgi import Receive, Scope, Send
from realtime.frames import websocket_frames


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        for _ in range(2):
            await send({"type": (await receive())["type"] + ".complete"})
    elif scope["type"] == "http":
        await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})
    else:
        await receive()
        if scope["query_string"] == b"slow":
            await asyncio.sleep(1)
        await send({"type": "websocket.accept"})
        write = scope["extensions"]["websocket.frames"]["write"]
        while (message := await receive())["type"] == "websocket.receive":
            if (text := message.get("text")) is not None:
                write(websocket_frames([text.encode()]))
            else:
                await send({"type": "websocket.send", "bytes": message["bytes"]})
