"""A receiver of webhooks that does as little as one can: it notes when which id came. `GET` shows that."""

import asyncio
import json
import re
import sys
import time

OK = b"HTTP/1.1 204 No Content\r\n\r\n"
ID = re.compile(rb"webhook-id: ([^\r\n]+)", re.IGNORECASE)
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)

arrivals: dict[str, float] = {}


class Receiver(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.read = transport, b""

    def data_received(self, data: bytes) -> None:
        self.read += data
        while (end := self.read.find(b"\r\n\r\n")) >= 0:
            head = self.read[:end]
            found = LENGTH.search(head)
            size = end + 4 + (int(found[1]) if found else 0)
            if len(self.read) < size:
                return
            self.read = self.read[size:]
            self.answer(head)

    def answer(self, head: bytes) -> None:
        if head.startswith(b"GET"):
            body = json.dumps(arrivals).encode()
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            return
        if found := ID.search(head):
            arrivals.setdefault(found[1].decode(), time.monotonic())
        self.transport.write(OK)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Receiver, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
