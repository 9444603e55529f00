"""A very small HTTP client: a connection for each request, and it knows whether a request can have arrived."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

CONNECT_SECONDS = 3.0


class NotSent(Exception):
    """Nobody listens there: nothing has been asked."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


async def request(
    port: int, method: str, path: str, *, token: str = "", body: Any = None, seconds: float = 30.0, **headers: str
) -> Answer:
    """Raises NotSent, or OSError, EOFError or TimeoutError when nobody knows what became of it."""
    async with asyncio.timeout(seconds), opened(port, method, path, token=token, body=body, **headers) as reply:
        length = reply.headers.get("content-length")
        body = await reply.reader.readexactly(int(length)) if length else b"".join([c async for c in reply.chunks()])
        return Answer(reply.status, reply.headers, body)


@dataclass(slots=True)
class Reply:
    """A reply whose head has been read."""

    status: int
    headers: Mapping[str, str]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def chunks(self) -> AsyncIterator[bytes]:
        if self.headers.get("transfer-encoding") != "chunked":
            return
        while size := int(await self.reader.readline() or b"0", 16):
            yield await self.reader.readexactly(size)
            await self.reader.readline()


@asynccontextmanager
async def opened(
    port: int, method: str, path: str, *, token: str = "", body: Any = None, **headers: str
) -> AsyncIterator[Reply]:
    """A request and the head of its reply."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except (OSError, TimeoutError) as error:
        raise NotSent(str(error)) from error
    try:
        text = b"" if body is None else msgspec.json.encode(body)
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Connection: close"]
        lines += [f"Content-Length: {len(text)}", "Content-Type: application/json"] if body is not None else []
        lines += [f"Authorization: Bearer {token}"] if token else []
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + text)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in head[1:] if line)
        yield Reply(int(head[0].split()[1]), {k.lower(): v.strip() for k, _, v in pairs}, reader, writer)
    finally:
        writer.transport.abort()
