"""As little of AWS as an SDK needs: every call of a batch is answered at once, and nothing of it was refused."""

import asyncio
import re
import sys

LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
TARGET = re.compile(rb"x-amz-target: [\w.]*?(\w+)\r\n", re.IGNORECASE)
SNS = b"<PublishBatchResponse><PublishBatchResult><Successful/><Failed/></PublishBatchResult></PublishBatchResponse>"
ANSWERS = {
    b"SendMessage": b'{"MessageId":"1"}',
    b"SendMessageBatch": b'{"Successful":[],"Failed":[]}',
    b"PutEvents": b'{"FailedEntryCount":0,"Entries":[]}',
    b"PutRecords": b'{"FailedRecordCount":0,"Records":[]}',
}


class Stub(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.read = transport, bytearray()

    def data_received(self, data: bytes) -> None:
        self.read += data
        while (end := self.read.find(b"\r\n\r\n")) >= 0:
            head = bytes(self.read[: end + 2])
            found = LENGTH.search(head)
            size = end + 4 + (int(found[1]) if found else 0)
            if len(self.read) < size:
                return
            del self.read[:size]
            target = TARGET.search(head)
            body = ANSWERS[target[1]] if target else SNS
            kind = b"application/x-amz-json-1.0" if target else b"text/xml"
            self.transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (kind, len(body), body)
            )


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
