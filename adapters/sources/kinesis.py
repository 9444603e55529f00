"""Records from a stream of Kinesis: all its shards, each in order, by positions kept in the database.

At least once: a position moves when all records before it are taken, or dead. A record that cannot be taken is dead
after INGEST_TRIES, and does not keep those behind it waiting; while the database does not answer, shards wait.
Consumers share the shards.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from adapters import metrics
from adapters.aws import clients
from adapters.ingest import Record
from adapters.ingest_settings import Source
from adapters.sources import checkpoints
from adapters.sources.base import Backoff, Take, abandonable, finish, take_all
from adapters.sources.envelopes import opened
from realtime.database import in_database

logger = logging.getLogger(__name__)

SHARE_SECONDS = 5.0  # A third of a lease, which this renews.
AT_ONCE = 500
PAUSE_SECONDS = 0.25  # A shard can be read five times a second, by all its readers together.
IDLE_SECONDS = 1.0
THROTTLED = {"ProvisionedThroughputExceededException", "ThrottlingException", "LimitExceededException"}
AT_TIME = "@"  # A position that is a time: where a shard begins that is not read from its oldest record.


class Stream:
    def __init__(self, source: Source) -> None:
        self.name = source.name
        self._source = source
        stream = source.stream
        self._which = {"StreamARN": stream} if stream.startswith("arn:") else {"StreamName": stream}
        self._prefix = stream.rpartition("/")[2] + "/"  # Of the parts: another stream has positions of its own.
        self._client = clients.client("kinesis")
        self._claim = uuid4().hex
        self._behind: dict[str, float] = {}

    async def run(self, take: Take) -> None:
        reading: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                await self._share_out(reading, take)
                if reading:
                    await asyncio.wait(reading.values(), timeout=SHARE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                else:
                    await asyncio.sleep(SHARE_SECONDS)
        finally:
            await finish(self._stop(list(reading.values())))

    async def _share_out(self, reading: dict[str, "asyncio.Task[None]"], take: Take) -> None:
        """Starts what is to be read, and stops what another consumer has taken away: its position counts."""
        for part in [part for part, task in reading.items() if task.done()]:
            del reading[part]
        try:
            held = await self._share()
        except Exception as error:
            if not reading:
                raise
            logger.warning("Shards of %s cannot be shared out now: %r", self.name, error)
            return
        for part in reading.keys() - held.keys():
            reading.pop(part).cancel()
        for part in held.keys() - reading.keys():
            reading[part] = asyncio.create_task(self._keep_reading(part, held[part], take))
        self._behind = {part: seconds for part, seconds in self._behind.items() if part in held}
        metrics.source_lag.labels(self.name).set(max(self._behind.values(), default=0.0))

    async def _stop(self, tasks: Sequence["asyncio.Task[None]"]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # What they raise, they have logged.
        await in_database(checkpoints.release, self._claim, self.name)

    # --- Which shards ---------------------------------------------------------------------------------

    async def _share(self) -> dict[str, str]:
        """The parts that this consumer is to read, and their positions: children only when their parents have ended."""
        shards = {self._prefix + shard["ShardId"]: shard for shard in await abandonable(self._list_shards)}
        newest = self._source.start == "newest" and not await in_database(checkpoints.known, self.name, self._prefix)
        await in_database(checkpoints.add, self.name, list(shards), f"{AT_TIME}{time.time()}" if newest else "")
        over = await in_database(checkpoints.ended, self.name, list(shards))
        due = [part for part, shard in shards.items() if not (self._parents(shard) & shards.keys()) - over]
        return await in_database(checkpoints.share, self._claim, self.name, due)

    def _list_shards(self) -> list[Mapping[str, Any]]:
        reply = self._client.list_shards(**self._which)
        shards = list(reply["Shards"])
        while token := reply.get("NextToken"):
            reply = self._client.list_shards(NextToken=token)
            shards += reply["Shards"]
        return shards

    def _parents(self, shard: Mapping[str, Any]) -> set[str]:
        ids = (shard.get("ParentShardId"), shard.get("AdjacentParentShardId"))
        return {self._prefix + id for id in ids if id}

    # --- One shard ------------------------------------------------------------------------------------

    async def _keep_reading(self, part: str, position: str, take: Take) -> None:
        wait = Backoff()
        while True:
            shard = _Shard(self._client, self._which, part.removeprefix(self._prefix), position)
            try:
                return await self._read(part, shard, take)
            except Exception as error:
                metrics.source_failures.labels(self.name).inc()
                logger.warning("%s of %s cannot be read; again soon: %r", part, self.name, error)
                if shard.position != position:
                    wait.reset()
                position = shard.position
            await asyncio.sleep(wait.next())

    async def _read(self, part: str, shard: "_Shard", take: Take) -> None:
        """Until it is ended, or another consumer has it."""
        while not shard.ended:
            found = await abandonable(shard.read)
            self._behind[part] = shard.behind
            if (found or shard.ended) and not await finish(self._take(part, shard, found, take)):
                return
            await asyncio.sleep(PAUSE_SECONDS if found else IDLE_SECONDS)

    async def _take(self, part: str, shard: "_Shard", found: Sequence[Mapping[str, Any]], take: Take) -> bool:
        """-> whether the part is still ours."""
        records = [Record(f"{part}:{one['SequenceNumber']}", one["Data"]) for one in found]
        await take_all(take, [opened(self._source, record) for record in records])
        position = found[-1]["SequenceNumber"] if found else shard.position
        kept = await in_database(checkpoints.save, self._claim, self.name, part, position, ended=shard.ended)
        shard.position = position
        return kept


class _Shard:
    """Reads one shard; it blocks. `position` is the caller's to move."""

    def __init__(self, client: Any, which: Mapping[str, str], shard: str, position: str) -> None:
        self.position = position
        self.ended = False
        self.behind = 0.0  # Seconds.
        self._client, self._which, self._shard = client, which, shard
        self._iterator = ""

    def read(self) -> list[Mapping[str, Any]]:
        """The next records; none where the stream asks for less. Raises what boto3 raises."""
        from botocore.exceptions import ClientError

        arn = {name: value for name, value in self._which.items() if name == "StreamARN"}
        try:
            self._iterator = self._iterator or self._new_iterator()
            reply = self._client.get_records(ShardIterator=self._iterator, Limit=AT_ONCE, **arn)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code == "ExpiredIteratorException":  # They live for five minutes.
                self._iterator = ""
            elif code not in THROTTLED:
                raise
            return []
        self._iterator = reply.get("NextShardIterator") or ""
        self.ended = not self._iterator
        self.behind = reply.get("MillisBehindLatest", 0) / 1000
        return list(reply["Records"])

    def _new_iterator(self) -> str:
        if self.position.startswith(AT_TIME):
            kind: dict[str, Any] = {"ShardIteratorType": "AT_TIMESTAMP", "Timestamp": float(self.position[1:])}
        elif self.position:
            kind = {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": self.position}
        else:
            kind = {"ShardIteratorType": "TRIM_HORIZON"}
        return str(self._client.get_shard_iterator(**self._which, ShardId=self._shard, **kind)["ShardIterator"])
