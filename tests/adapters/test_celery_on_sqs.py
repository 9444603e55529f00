"""SQS as Celery's broker, and as the queue of workers outside."""

import json
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.conf import LazySettings

from adapters.aws import clients
from notifications import checks, handoff, work
from notifications.models import Task
from tests.adapters.consuming import Queue
from tests.emulators.aws import ACCOUNT, Aws
from tests.servers import Stack, eventually

SECONDS = 40.0
APPLICATION = "tests.adapters.celery_on_sqs"
MakeStack = Callable[..., Stack]


@pytest.fixture
def stack(make_stack: MakeStack, aws: Aws) -> Stack:
    for name in ("celery", "celery-tasks", "celery-outside"):
        aws.client("sqs").create_queue(QueueName=f"fanfare-test-{name}", Attributes={"VisibilityTimeout": "3"})
    broker = f"sqs://{aws.endpoint_url.removeprefix('http://')}/{ACCOUNT}"
    return make_stack(CELERY_BROKER_URL=broker, STAGE="test", TASK_LEASE_SECONDS="2", **aws.environment)


def start_worker(stack: Stack, queue: str) -> Any:
    command = ("celery", "-A", APPLICATION, "worker", "-c", "1", "-Q", queue, "--without-gossip", "--without-mingle")
    return stack.spawn(f"worker-{queue}", *command)


def send(stack: Stack, task: str, *arguments: str) -> None:
    stack.python(f"from celery import current_app; current_app.send_task({task!r}, {list(arguments)!r})")


@pytest.mark.any_database
def test_a_task_whose_worker_was_killed_runs_again(stack: Stack) -> None:
    lines, notes = stack.folder / "lines", stack.folder / "notes"
    worker = start_worker(stack, "celery")
    send(stack, "tests.deadly", str(lines))
    assert worker.wait(SECONDS) == -signal.SIGKILL
    start_worker(stack, "celery")
    send(stack, "tests.note", str(notes), "after")
    eventually(lambda: lines.exists() and lines.read_text() == "ran\nran\n", SECONDS, stack.logs)
    eventually(lambda: notes.exists() and notes.read_text() == "after\n", SECONDS, stack.logs)


@pytest.mark.any_database
def test_users_tasks_and_beat_go_over_sqs(stack: Stack) -> None:
    stack.start_web()
    start_worker(stack, "tasks")
    start_worker(stack, "celery")
    stack.start_beat()
    with stack.client() as http:
        task = http.post("/api/tasks", json={"user": "alice", "data": "film"}).json()["id"]
        eventually(lambda: http.get(f"/api/tasks/{task}").json()["state"] == "done", SECONDS, stack.logs)
        soon = (datetime.now(UTC) + timedelta(seconds=0.5)).isoformat()
        stack.send({"user": "bob"}, "scheduled", send_at=soon)
        told = "/api/topics/user.bob/messages"
        eventually(lambda: bool(http.get(told).json()["messages"]), SECONDS, stack.logs)


@pytest.mark.django_db(transaction=True)
def test_workers_outside_get_tasks_by_a_queue(aws: Aws, settings: LazySettings) -> None:
    clients.forget()
    queue = Queue(aws)
    settings.TASKS_QUEUE = queue.url
    assert not checks.check_tasks()
    task_id, _ = work.create("alice", "echo", b'{"data":"film"}', None)
    handoff.send_outside(task_id)
    (message,) = queue.client.receive_message(QueueUrl=queue.url)["Messages"]
    claim = Task.objects.get().claim
    assert json.loads(message["Body"]) == {
        "taskId": str(task_id),
        "userId": "alice",
        "type": "echo",
        "payload": {"data": "film"},
        "claim": claim,
    }
