"""The product's ASGI application, observed: `uvicorn tests.realtime.inside:application`.

`GET /test/inside` tells what the process holds. The environment may change constants of the product, such as
`CONSTANTS={"realtime.streams.COMMENT_SECONDS": 0.3}`, and make `?stuck=…` look credentials up that slowly.
"""

import asyncio
import gc
import json
import os
import re
import time
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from config.asgi import application as product
from notifications.topics import DatabaseLog
from realtime import admission, runtime
from realtime.asgi import Receive, Scope, Send
from realtime.streams import reply
from tests.realtime.raw import http

if TYPE_CHECKING:  # It starts servers.
    from tests.servers import Web

APPLICATION = f"{__name__}:application"

reads = {"read": 0, "positions": 0}


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http" and scope["path"] == "/test/inside":
        await reply(send, 200, msgspec.json.encode(_inside()))
    else:
        await product(scope, receive, send)


def inside(web: "Web") -> dict[str, Any]:
    """What a process started with this application holds."""
    return dict(http.get(f"{web.url}/test/inside").json())


def metric(web: "Web", name: str, **labels: str) -> float:
    """A number from /metrics; labels that are given have to match, samples are added up."""
    total = 0.0
    for line in http.get(f"{web.url}/metrics").text.splitlines():
        found = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
        if (
            found
            and found[1] == name
            and labels.items() <= dict(re.findall(r'(\w+)="([^"]*)"', found[2] or "")).items()
        ):
            total += float(found[3])
    return total


def memory(web: "Web") -> int:
    """Resident bytes of a web process."""
    pages = int(Path(f"/proc/{web.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def accepted(web: "Web") -> int:
    """How many TCP connections of clients a web process holds."""
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    listening, orphaned = "0A", "0"
    return sum(
        int(local.rpartition(":")[2], 16) == web.port and state != listening and inode != orphaned
        for _, local, _, state, _, _, _, _, _, inode, *_ in rows
    )


def _inside() -> dict[str, Any]:
    gc.collect()
    current = runtime.current()
    return {
        "inside": current.gate.inside,
        "users": len(current.gate.users),
        "connections": len(current.gate.connections),
        "watched": sorted(current.control._watches),
        "topics": sorted(current.hub.names()),
        "tasks": len(asyncio.all_tasks()),
        **reads,
    }


def _change_constants() -> None:
    for path, value in json.loads(os.environ.get("CONSTANTS", "{}")).items():
        owner, _, name = path.rpartition(".")
        try:
            holder: Any = import_module(owner)
        except ModuleNotFoundError:  # A class in a module.
            module, _, cls = owner.rpartition(".")
            holder = getattr(import_module(module), cls)
        assert hasattr(holder, name), path
        setattr(holder, name, value)


def _count_reads() -> None:
    for name in reads:
        setattr(DatabaseLog, name, _counting(name, getattr(DatabaseLog, name)))


def _counting(name: str, method: Any) -> Any:
    @wraps(method)
    async def counted(*args: Any) -> Any:
        reads[name] += 1
        return await method(*args)

    return counted


def _let_credentials_get_stuck() -> None:
    authenticate = vars(admission)["authenticate"]

    def slow(headers: Any, query: Any, subprotocols: Any) -> Any:
        time.sleep(float(query.get("stuck", 0)))
        return authenticate(headers, query, subprotocols)

    vars(admission)["authenticate"] = slow


if "CONSTANTS" in os.environ:  # In a process of its own, that is.
    _change_constants()
    _count_reads()
    _let_credentials_get_stuck()
