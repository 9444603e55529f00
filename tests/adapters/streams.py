"""Kinesis as moto does not do it: a shard that was split or merged keeps its records, and comes to an end."""

from typing import Any
from uuid import uuid4

import pytest
from moto.kinesis import models
from moto.kinesis.utils import decompose_shard_iterator
from moto.utilities.utils import md5_hash

from tests.emulators.aws import Aws

MIDDLE = 2**127


class Stream:
    """A stream as the test sees it."""

    def __init__(self, aws: Aws, shards: int = 1) -> None:
        self.client = aws.client("kinesis")
        self.name = f"s-{uuid4().hex[:8]}"
        self.client.create_stream(StreamName=self.name, ShardCount=shards)

    def put(self, *bodies: str, key: str = "a") -> None:
        for body in bodies:
            self.client.put_record(StreamName=self.name, Data=body.encode(), PartitionKey=key)

    def split(self, shard: str = "shardId-000000000000") -> None:
        self.client.split_shard(StreamName=self.name, ShardToSplit=shard, NewStartingHashKey=str(MIDDLE))


def _split_shard(self: Any, shard_to_split: str, new_starting_hash_key: str) -> None:
    shard, middle, number = self.shards[shard_to_split], int(new_starting_hash_key), len(self.shards)
    for start, end in ((shard.starting_hash, middle), (middle, shard.ending_hash)):
        child = models.Shard(number, start, end, parent=shard.shard_id)
        self.shards[child.shard_id] = child
        number += 1
    shard.is_open = False


def _get_shard_for_key(self: Any, partition_key: str, _explicit_hash_key: str) -> Any:
    hashed = int(md5_hash(partition_key.encode()).hexdigest(), 16)
    return next(one for one in self.shards.values() if one.is_open and one.starting_hash <= hashed < one.ending_hash)


def patch(monkeypatch: pytest.MonkeyPatch) -> None:
    get_records = models.KinesisBackend.get_records

    def ending(self: Any, stream_arn: str | None, shard_iterator: str, limit: int | None) -> tuple[Any, Any, int]:
        following, records, behind = get_records(self, stream_arn, shard_iterator, limit)
        stream_name, shard_id, last = decompose_shard_iterator(following)
        shard = self.describe_stream(stream_arn=stream_arn, stream_name=stream_name).get_shard(shard_id)
        over = not shard.is_open and int(last) >= shard.get_max_sequence_number()
        return None if over else following, records, behind

    monkeypatch.setattr(models.KinesisBackend, "get_records", ending)
    monkeypatch.setattr(models.Stream, "split_shard", _split_shard)
    monkeypatch.setattr(models.Stream, "get_shard_for_key", _get_shard_for_key)
