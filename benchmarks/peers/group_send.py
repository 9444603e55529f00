"""Publishes to the group of stock_channels.py: each line on stdin is a list of texts; answers with a line."""

import asyncio
import json
import sys

from channels.layers import get_channel_layer

from benchmarks.peers.stock_channels import GROUP


async def main() -> None:
    layer = get_channel_layer()
    while line := await asyncio.to_thread(sys.stdin.readline):
        for text in json.loads(line):
            await layer.group_send(GROUP, {"type": "bench.message", "text": text})
        print("sent", flush=True)


asyncio.run(main())
