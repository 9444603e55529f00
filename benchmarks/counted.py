"""Fanfare's application, which also counts how often it reads messages from the log: GET /bench/reads."""

from typing import Any

from django.db.backends.signals import connection_created

from config.asgi import application as fanfare
from realtime.asgi import Receive, Scope, Send

_reads = 0


def _count(execute: Any, sql: str, *call: Any) -> Any:
    global _reads
    if sql.startswith("SELECT") and "notifications_message" in sql:
        _reads += 1
    return execute(sql, *call)


def _watch(connection: Any, **_rest: Any) -> None:
    connection.execute_wrappers.append(_count)


connection_created.connect(_watch)


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http" and scope["path"] == "/bench/reads":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(_reads).encode()})
    else:
        await fanfare(scope, receive, send)
