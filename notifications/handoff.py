"""From a row to a worker: by Celery, or by the queue that TASKS_QUEUE names.

`hand` neither waits nor fails: a thread sends. What does not get through is handed again by the sweep, which finds
it in the database.
"""

import logging
import os
import queue
import threading
from functools import cache
from typing import Any, Protocol
from uuid import UUID

import msgspec
from celery import current_app
from django.conf import settings
from django.db import connections
from django.utils import timezone
from django.utils.module_loading import import_string
from kombu.exceptions import ChannelError

from adapters.aws.task_queue import TaskQueue as SqsQueue
from notifications.models import Task
from notifications.work import new_claim

logger = logging.getLogger(__name__)

RUN_TASK = "notifications.tasks.run_task"
QUEUE = "tasks"
WAITING_MAX = 10_000


class TaskQueue(Protocol):
    """A class that TASKS_QUEUE names: a queue whose consumers do the tasks, and tell so by the API.

    It is made once for each process, without arguments, and used by one thread. Where the setting is the URL of a
    queue of SQS, it is the one of adapters.aws.task_queue.
    """

    def send(self, body: bytes) -> None:
        """Hands on one task, as JSON: `{taskId, userId, type, payload, claim}`. Raises when it is not in the queue.

        A task may be sent again, with the same claim, when it is not known whether it got there.
        """


def hand(task_id: UUID) -> None:
    """Hands a task that is stored, and queued, to whoever runs it."""
    try:
        _sender().waiting.put_nowait(task_id)
    except queue.Full:
        logger.warning("Tasks come faster than they can be handed on; the sweep hands on what is left.")


def backlog() -> int:
    """How many tasks the broker holds that no worker has taken; 0 for a queue outside."""
    if settings.TASKS_QUEUE:
        return 0
    with current_app.connection_for_read() as connection:
        channel: Any = connection.channel()
        try:
            return int(channel.queue_declare(QUEUE, passive=True).message_count)
        except ChannelError:  # There is no such queue yet.
            return 0


class Sender:
    """A bounded queue and the thread that empties it."""

    def __init__(self) -> None:
        self.waiting: queue.Queue[UUID] = queue.Queue(WAITING_MAX)
        threading.Thread(target=self._send_all, name="task-handoff", daemon=True).start()

    def _send_all(self) -> None:
        broker = Broker()
        while True:
            task_id = self.waiting.get()
            try:
                if settings.TASKS_QUEUE:
                    send_outside(task_id)
                else:
                    broker.send(task_id)
            except Exception as error:  # Whatever brokers, queues and databases raise.
                logger.warning("A task cannot be handed on; the sweep will do it: %r", error)
                self._forget()
            if self.waiting.empty():
                connections.close_all()  # This thread's.

    def _forget(self) -> None:
        """What waits behind a failure would wait long: the sweep is faster."""
        try:
            while True:
                self.waiting.get_nowait()
        except queue.Empty:
            return


class Broker:
    """Celery's broker, with timeouts of its own: the workers' are longer, for they wait for work."""

    def __init__(self) -> None:
        self._producer: Any = None

    def send(self, task_id: UUID) -> None:
        try:
            if self._producer is None:
                self._producer = current_app.amqp.Producer(self._connection())
            current_app.send_task(RUN_TASK, [str(task_id)], producer=self._producer, retry=False)
        except Exception:
            self._producer = None  # Its connection may be broken.
            raise

    @staticmethod
    def _connection() -> Any:
        seconds = settings.REDIS_TIMEOUT
        options = {"socket_timeout": seconds, "socket_connect_timeout": seconds, "max_retries": 1}
        return current_app.connection_for_write(connect_timeout=seconds, transport_options=options)


def send_outside(task_id: UUID) -> None:
    """Hands a task to the queue of TASKS_QUEUE, with the claim that its worker needs; at least once."""
    waits = Task.objects.filter(pk=task_id, state=Task.State.QUEUED, handed_at=None)
    waits.filter(claim="").update(claim=new_claim())
    task = waits.first()
    if task is None:
        return
    body = {
        "taskId": str(task.id),
        "userId": task.user,
        "type": task.type,
        "payload": msgspec.Raw(task.payload.encode()),
        "claim": task.claim,
    }
    _outside(settings.TASKS_QUEUE).send(msgspec.json.encode(body))
    Task.objects.filter(pk=task_id, claim=task.claim).update(handed_at=timezone.now())


@cache
def _outside(name: str) -> TaskQueue:
    if is_url(name):
        return SqsQueue(name)
    outside: TaskQueue = import_string(name)()
    return outside


def is_url(name: str) -> bool:
    return name.startswith(("https://", "http://"))


# --- One sender for each process ------------------------------------------------------------------

_lock = threading.Lock()
_current: Sender | None = None


def _sender() -> Sender:
    global _current
    with _lock:
        if _current is None:
            _current = Sender()
        return _current


def _after_fork() -> None:
    """Threads do not go with forks."""
    global _current, _lock
    _current, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
