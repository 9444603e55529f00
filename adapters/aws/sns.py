"""Topics of SNS, standard and FIFO."""

import re
from collections.abc import Sequence

from adapters.aws.batches import Answer
from adapters.aws.messages import Messages
from adapters.base import Misconfigured, Parcel


class Topic(Messages):
    """The body is the message, for subscriptions of every protocol."""

    service = "sns"
    action = "sns:Publish"
    body_name = "Message"
    call_bytes = 256 * 1024

    @classmethod
    def validate(cls, address: str) -> None:
        if not re.fullmatch(r"arn:aws[\w-]*:sns:[a-z0-9-]+:\d{12}:[\w-]{1,256}(\.fifo)?", address):
            raise Misconfigured("the ARN of a topic, such as arn:aws:sns:us-east-1:123456789012:name")

    def _send(self, parcels: Sequence[Parcel]) -> Answer:
        entries = self._entries(parcels)
        return self._answer(
            self._client.publish_batch(TopicArn=self.target.address, PublishBatchRequestEntries=entries)
        )

    def _look(self) -> str:
        answer = self._client.get_topic_attributes(TopicArn=self.target.address)
        return f"a topic with {answer['Attributes'].get('SubscriptionsConfirmed', 0)} subscriptions"
