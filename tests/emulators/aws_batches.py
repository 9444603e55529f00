"""Batches of which some entries fail, as the tests order; the others have their effect."""

from typing import Any

from moto.events.models import EventsBackend
from moto.kinesis.models import KinesisBackend
from moto.sns.models import SNSBackend
from moto.sqs.models import SQSBackend

Entries = list[Any]


def patch(aws: Any) -> None:
    def split(operation: str, entries: Entries) -> tuple[Entries, dict[int, Any], str, bool]:
        """-> (those that pass, those that fail by index, the code, whether the sender is to blame)."""
        failure = aws.failing_entries(operation)
        if failure is None:
            return entries, {}, "", False
        failed = {index: entry for index, entry in enumerate(entries) if index in failure.entries}
        passed = [entry for index, entry in enumerate(entries) if index not in failed]
        return passed, failed, failure.code, failure.status < 500

    def failures(failed: dict[int, Any], code: str, blamed: bool) -> Entries:
        return [
            {"Id": entry["Id"], "SenderFault": blamed, "Code": code, "Message": "As ordered"}
            for entry in failed.values()
        ]

    def in_place(failed: dict[int, Any], code: str, answers: Entries) -> Entries:
        for index in sorted(failed):
            answers.insert(index, {"ErrorCode": code, "ErrorMessage": "As ordered"})
        return answers

    send, delete = SQSBackend.send_message_batch, SQSBackend.delete_message_batch
    change, publish = SQSBackend.change_message_visibility_batch, SNSBackend.publish_batch
    put_each_event, put_each_record = EventsBackend.put_events, KinesisBackend.put_records

    def send_message_batch(self: Any, queue_name: str, entries: dict[str, Any]) -> tuple[Entries, Entries]:
        passed, failed, code, blamed = split("SendMessageBatch", list(entries.values()))
        sent, refused = send(self, queue_name, {str(number): entry for number, entry in enumerate(passed)})
        return sent, refused + failures(failed, code, blamed)

    def delete_message_batch(self: Any, queue_name: str, receipts: Entries) -> tuple[Any, Any]:
        passed, failed, code, blamed = split("DeleteMessageBatch", receipts)
        deleted, refused = delete(self, queue_name, passed)
        return deleted, refused + failures(failed, code, blamed)

    def change_message_visibility_batch(self: Any, queue_name: str, entries: Entries) -> tuple[Any, Any]:
        passed, failed, code, blamed = split("ChangeMessageVisibilityBatch", entries)
        changed, refused = change(self, queue_name, passed)
        return changed, refused + failures(failed, code, blamed)

    def publish_batch(self: Any, topic_arn: str, publish_batch_request_entries: Entries) -> tuple[Any, Any]:
        passed, failed, code, blamed = split("PublishBatch", publish_batch_request_entries)
        published, refused = publish(self, topic_arn, passed)
        return published, refused + failures(failed, code, blamed)

    def put_events(self: Any, events: Entries) -> Entries:
        passed, failed, code, _ = split("PutEvents", events)
        return in_place(failed, code, put_each_event(self, passed))

    def put_records(self: Any, stream_arn: str, stream_name: str, records: Entries) -> dict[str, Any]:
        passed, failed, code, _ = split("PutRecords", records)
        answer = put_each_record(self, stream_arn, stream_name, passed)
        answer["Records"] = in_place(failed, code, answer["Records"])
        answer["FailedRecordCount"] = len(failed)
        return answer

    for owner, wrapper in (
        (SQSBackend, send_message_batch),
        (SQSBackend, delete_message_batch),
        (SQSBackend, change_message_visibility_batch),
        (SNSBackend, publish_batch),
        (EventsBackend, put_events),
        (KinesisBackend, put_records),
    ):
        setattr(owner, wrapper.__name__, wrapper)
