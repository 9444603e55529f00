"""Publishes to the stub by each adapter for AWS and by loops of boto3, and prints rates as JSON. aws.py runs it."""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from uuid import uuid4

import django

django.setup()

import boto3  # noqa: E402

from adapters.aws.batches import CALLS_AT_ONCE  # noqa: E402
from adapters.base import Parcel, Target, adapter_class, with_id  # noqa: E402
from benchmarks.fanfare import text  # noqa: E402

ROUNDS = 5
ADDRESSES = {
    "sqs": "https://sqs.us-east-1.amazonaws.com/123456789012/bench",
    "sns": "arn:aws:sns:us-east-1:123456789012:bench",
    "eventbridge": "bench",
    "kinesis": "bench",
}


def main(port: int, events: int) -> None:
    parcels = [parcel(number) for number in range(events)]
    rates = {f"{kind} {way}": 0.0 for kind in ADDRESSES for way in ("boto3", "threads", "adapter")}
    for _ in range(ROUNDS):  # In turn, and the best of each: what disturbs one would count against it.
        for kind, address in ADDRESSES.items():
            for way, rate in (
                ("boto3", _rate(partial(_by_boto3, kind, port, parcels, 1), events)),
                ("threads", _rate(partial(_by_boto3, kind, port, parcels, CALLS_AT_ONCE), events)),
                ("adapter", _rate(partial(asyncio.run, _by_adapter(kind, address, parcels)), events)),
            ):
                rates[f"{kind} {way}"] = max(rates[f"{kind} {way}"], rate)
    print(json.dumps(rates))


def parcel(number: int) -> Parcel:
    body = json.dumps({"type": "message", "timestamp": "2026-01-31T12:00:00Z", "data": text()})
    return Parcel(uuid4(), "message", f"user.{number}", body.encode())


def _rate(work: Callable[[], object], events: int) -> float:
    began = time.monotonic()
    work()
    return events / (time.monotonic() - began)


async def _by_adapter(kind: str, address: str, parcels: Sequence[Parcel]) -> None:
    adapter = adapter_class(kind)(Target(uuid4(), "bench", address))
    for batch in _parts(parcels, adapter.batch_size):
        assert all(outcome.delivered for outcome in await adapter.publish(batch))
    await adapter.close()


def _by_boto3(kind: str, port: int, parcels: Sequence[Parcel], at_once: int) -> None:
    """What one writes without an adapter: batch after batch, in so many threads; nothing looks at the answers."""
    service = "events" if kind == "eventbridge" else kind
    client: Any = boto3.client  # Its stubs want the service's name as a literal.
    client = client(service, endpoint_url=f"http://127.0.0.1:{port}")
    batches = _parts(parcels, 500 if kind == "kinesis" else 10)
    if at_once == 1:
        for batch in batches:
            SENDING[kind](client, batch)
        return
    with ThreadPoolExecutor(at_once) as threads:
        list(threads.map(partial(SENDING[kind], client), batches))


def _to_queue(client: Any, batch: Sequence[Parcel]) -> None:
    entries = [
        {"Id": str(n), "MessageBody": one.body.decode(), "MessageAttributes": _attributes(one)}
        for n, one in enumerate(batch)
    ]
    client.send_message_batch(QueueUrl=ADDRESSES["sqs"], Entries=entries)


def _to_topic(client: Any, batch: Sequence[Parcel]) -> None:
    entries = [
        {"Id": str(n), "Message": one.body.decode(), "MessageAttributes": _attributes(one)}
        for n, one in enumerate(batch)
    ]
    client.publish_batch(TopicArn=ADDRESSES["sns"], PublishBatchRequestEntries=entries)


def _to_bus(client: Any, batch: Sequence[Parcel]) -> None:
    entry = {"EventBusName": "bench", "Source": "fanfare", "DetailType": "message"}
    client.put_events(Entries=[{**entry, "Detail": with_id(one).decode()} for one in batch])


def _to_stream(client: Any, batch: Sequence[Parcel]) -> None:
    records = [{"Data": with_id(one), "PartitionKey": one.key} for one in batch]
    client.put_records(StreamName="bench", Records=records)


SENDING = {"sqs": _to_queue, "sns": _to_topic, "eventbridge": _to_bus, "kinesis": _to_stream}


def _attributes(one: Parcel) -> dict[str, Any]:
    return {
        "id": {"DataType": "String", "StringValue": str(one.id)},
        "event": {"DataType": "String", "StringValue": one.event},
    }


def _parts(parcels: Sequence[Parcel], size: int) -> Iterator[Sequence[Parcel]]:
    return (parcels[start : start + size] for start in range(0, len(parcels), size))


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))
