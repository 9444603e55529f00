"""Deliveries to queues of AWS, from the database to whoever receives: what fails comes again, and nothing else does."""

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from django.core.management import CommandError, call_command

from adapters import destinations
from adapters.models import Delivery, Destination
from adapters.shapes import NewDestination
from tests.adapters.aws_sides import drain, make_queue
from tests.adapters.conftest import conserved, deliver, make_due, owe, states

if TYPE_CHECKING:
    from tests.emulators.aws import Aws

pytestmark = pytest.mark.django_db(transaction=True)


def destination(queue: str) -> None:
    destinations.create(None, NewDestination(name="crm", kind="sqs", address=queue))


def received(aws: "Aws", queue: str) -> Counter[str]:
    return Counter(one["MessageAttributes"]["id"]["StringValue"] for one in drain(aws, queue))


def test_of_a_batch_that_half_fails_the_other_half_comes_again(aws: "Aws") -> None:
    queue = make_queue(aws, "crm")
    destination(queue)
    ids = owe(*(f"user.{number}" for number in range(20)))
    aws.fail("SendMessageBatch", status=500, code="InternalFailure", entries=range(0, 10, 2))
    deliver()
    assert states() == {"delivered": 10, "pending": 10}
    aws.heal()
    make_due()
    deliver()
    assert states() == {"delivered": 20}
    assert received(aws, queue) == Counter(str(id) for id in ids)
    assert conserved()


def test_a_fifo_queue_gets_what_one_user_said_in_order_though_calls_fail(aws: "Aws") -> None:
    queue = make_queue(aws, "crm.fifo")
    destination(queue)
    ids = [str(id) for id in owe(*("user.a", "user.b") * 6)]
    for failing in ([0], [1], []):
        aws.fail("SendMessageBatch", status=500, code="InternalFailure", times=1, entries=failing)
        deliver()
        make_due()
    aws.heal()
    deliver()
    assert states() == {"delivered": 12}
    arrived = [one["MessageAttributes"]["id"]["StringValue"] for one in drain(aws, queue)]
    for user in range(2):
        assert [id for id in arrived if id in ids[user::2]] == ids[user::2]


def test_a_queue_that_is_throttled_has_a_pause(aws: "Aws") -> None:
    destination(make_queue(aws, "crm"))
    owe("user.a", "user.b")
    aws.fail("SendMessageBatch", code="RequestThrottled", times=1)
    deliver()
    row = Destination.objects.get()
    assert row.paused_until
    assert "less at once" in row.last_error
    assert states() == {"pending": 2}


def test_a_queue_that_is_missing_costs_no_event_and_is_named(aws: "Aws", capsys: pytest.CaptureFixture[str]) -> None:
    queue = make_queue(aws, "crm")
    destination(queue.replace("crm", "typo"))
    owe("user.a")
    deliver()
    assert states() == {"pending": 1}
    assert "typo" in Delivery.objects.get().error
    with pytest.raises(CommandError):
        call_command("check_outside")
    assert "nothing of this name" in capsys.readouterr().out
