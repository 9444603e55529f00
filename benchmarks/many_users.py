"""Fanfare, but each connection is another user's: `uvicorn benchmarks.many_users:application`."""

import itertools
import time

import jwt

from benchmarks.fanfare import SIGNING_KEY
from config.asgi import application as fanfare
from realtime.asgi import Receive, Scope, Send

_numbers = itertools.count()


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        claims = {"iss": "fanfare", "sub": f"user-{next(_numbers)}", "exp": int(time.time()) + 3600}
        token = jwt.encode(claims, SIGNING_KEY, "HS256")
        others = [header for header in scope["headers"] if header[0] != b"authorization"]
        scope = {**scope, "headers": [*others, (b"authorization", f"Bearer {token}".encode())]}
    await fanfare(scope, receive, send)
