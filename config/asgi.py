"""The ASGI application: `uvicorn config.asgi:application`."""

import codecs
import gc
import os
from collections.abc import Awaitable
from typing import cast

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.urls import get_resolver

from config.cors import cors
from config.limits import bounded, queued
from config.proxies import behind
from realtime.asgi import Application, Receive, Scope, Send

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
_at_work = queued(cast(Application, get_asgi_application()), settings.REQUESTS_AT_ONCE)
django_application = bounded(_at_work, settings.BATCH_MAX_BYTES)

from adapters.fetch_endpoint import receive_messages  # noqa: E402
from notifications.topic_poll import poll_topic  # noqa: E402
from realtime import runtime  # noqa: E402
from realtime.consumers import LiveConsumer  # noqa: E402
from realtime.drain import drain_on_sigterm  # noqa: E402
from realtime.streams import poll, stream  # noqa: E402
from sessions_app.receive_endpoint import is_receive, receive_from_session  # noqa: E402

live = LiveConsumer.as_asgi()
waiting = {"/api/stream": stream, "/api/poll": poll, "/api/client-messages/receive": receive_messages}


def _route(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
    """What waits is answered here, before Django: a waiting Django view holds a thread."""
    if scope["type"] == "lifespan":
        return _lifespan(receive, send)
    if scope["type"] == "websocket":
        return live(scope, receive, send) if scope["path"] == "/ws/" else _close(receive, send)
    return _endpoint(scope)(scope, receive, send)


async def _close(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.close", "code": 1000})


def _endpoint(scope: Scope) -> Application:
    if scope["method"] == "GET" and scope["path"].startswith("/topics/") and scope["path"].count("/") > 2:
        return poll_topic
    if is_receive(scope["path"]):
        return receive_from_session
    return waiting.get(scope["path"], django_application)


application = behind(cors(_route), settings.TRUSTED_PROXIES)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            runtime.current()
            drain_on_sigterm()
            _warm_up()
            await send({"type": "lifespan.startup.complete"})
        else:
            await runtime.stop()
            await send({"type": "lifespan.shutdown.complete"})
            return


def _warm_up() -> None:
    """Neither the first request nor the collector of garbage makes anybody wait, each for a tenth of a second.

    Nor does the first refusal need a file: there may be none left to open, and Django escapes what it logs.
    """
    get_resolver().url_patterns  # noqa: B018 (imports every view)
    codecs.lookup("unicode_escape")
    gc.collect()
    gc.freeze()  # What is here now stays: a full collection need not look at it again.
