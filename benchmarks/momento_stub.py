"""A Momento that takes every message and does nothing with it."""

import asyncio
import sys
from typing import Any

import grpc
from momento_wire_types import cachepubsub_pb2_grpc as topics
from momento_wire_types import common_pb2 as common


class Taking(topics.PubsubServicer):
    async def Publish(self, request: Any, context: Any) -> Any:
        return common._Empty()


async def main(port: int) -> None:
    server = grpc.aio.server(options=[("grpc.http2.max_ping_strikes", 0)])
    topics.add_PubsubServicer_to_server(Taking(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
