"""Fanfare's application, which also counts its queries: GET /bench/queries."""

from typing import Any

from django.db.backends.signals import connection_created

from config.asgi import application as fanfare
from realtime.asgi import Receive, Scope, Send

_queries = 0


def _count(execute: Any, *call: Any) -> Any:
    global _queries
    _queries += 1
    return execute(*call)


def _watch(connection: Any, **_rest: Any) -> None:
    connection.execute_wrappers.append(_count)


connection_created.connect(_watch)


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http" and scope["path"] == "/bench/queries":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(_queries).encode()})
    else:
        await fanfare(scope, receive, send)
