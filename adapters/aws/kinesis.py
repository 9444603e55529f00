"""Streams of Kinesis. The data is the body, with the id as its first member; the partition key is the parcel's key."""

import re
from collections.abc import Sequence
from hashlib import sha256

from adapters.aws.batches import Answer, Batches
from adapters.base import Misconfigured, Parcel, with_id

ARN = r"arn:aws[\w-]*:kinesis:[a-z0-9-]+:\d{12}:stream/"
NAME_CHARACTERS = 256


class Stream(Batches):
    """Order: by key. At least once: a repetition is a record of its own, with the same id."""

    ordered = True
    batch_size = 500
    entries = 500
    service = "kinesis"
    action = "kinesis:PutRecords"
    call_bytes = 5 * 1024 * 1024

    @classmethod
    def validate(cls, address: str) -> None:
        if not re.fullmatch(rf"({ARN})?[\w.-]{{1,128}}", address):
            raise Misconfigured("the name or the ARN of a stream")

    def _stream(self) -> dict[str, str]:
        return {"StreamARN" if self.target.address.startswith("arn:") else "StreamName": self.target.address}

    def _send(self, parcels: Sequence[Parcel]) -> Answer:
        records = [{"Data": with_id(parcel), "PartitionKey": _partition(parcel.key)} for parcel in parcels]
        answer = self._client.put_records(Records=records, **self._stream())
        return {
            place: self._refused(one["ErrorCode"], one.get("ErrorMessage", ""))
            for place, one in enumerate(answer["Records"])
            if one.get("ErrorCode")
        }

    def _look(self) -> str:
        found = self._client.describe_stream_summary(**self._stream())["StreamDescriptionSummary"]
        if found["StreamStatus"] not in ("ACTIVE", "UPDATING"):
            raise Misconfigured(f"the stream is {found['StreamStatus']}")
        return f"a stream with {found['OpenShardCount']} shards"


def _partition(key: str) -> str:
    if 0 < len(key) <= NAME_CHARACTERS:
        return key
    return sha256(key.encode()).hexdigest()
