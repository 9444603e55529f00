"""The ASGI application: `uvicorn config.asgi:application`."""

import os
from collections.abc import Awaitable, Callable
from typing import Any

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django_application = get_asgi_application()

from realtime import runtime  # noqa: E402
from realtime.consumers import LiveConsumer  # noqa: E402

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

live = LiveConsumer.as_asgi()


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """What waits is answered here, before Django: a waiting Django view holds a thread."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    elif scope["type"] == "websocket":
        if scope["path"] == "/ws/":
            await live(scope, receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1000})
    else:
        await django_application(scope, receive, send)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            runtime.current()
            await send({"type": "lifespan.startup.complete"})
        else:
            await runtime.stop()
            await send({"type": "lifespan.shutdown.complete"})
            return
