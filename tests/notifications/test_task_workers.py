"""Tasks with real workers: none is lost, none is told twice, and no request waits for the broker."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.realtime.sockets import dial
from tests.servers import Stack, eventually

APPLICATION = "tests.notifications.handlers_for_tests"
TASKS = 300
HANG_SECONDS = 4.0
ORDINARY_SECONDS = 0.25  # On a machine that has other things to do.
LEASE_SECONDS = 1.5


class Workshop:
    """A stack with our handlers, a worker with two processes, and beat."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.lines = stack.folder / "lines"
        self.lines.touch()
        stack.start_web(f"{APPLICATION}:application")
        self.start_worker()
        stack.start_beat()
        self.http = stack.client()

    def start_worker(self) -> None:
        command = ("celery", "-A", APPLICATION, "worker", "-c", "2", "-l", "INFO")
        self.worker = self.stack.spawn("worker", *command, "-n", f"w{len(self.stack.processes)}@%h")

    def create(self, user: str, type: str, **payload: str) -> str:
        body = {"user": user, "type": type, "payload": {"file": str(self.lines), **payload}}
        reply = self.http.post("/api/tasks", json=body)
        assert reply.status_code == 202, reply.text
        return str(reply.json()["id"])

    def get(self, task: str) -> dict[str, Any]:
        return dict(self.http.get(f"/api/tasks/{task}").json())

    def ran(self, line: str) -> int:
        """How often handlers wrote this."""
        return self.lines.read_text().splitlines().count(line)

    def told(self, user: str) -> list[dict[str, Any]]:
        """The messages in a user's log."""
        reply = self.http.get(f"/api/topics/user.{user}/messages", params={"limit": 1000})
        return list(reply.json()["messages"])

    def told_tasks(self, user: str) -> Counter[str]:
        return Counter(one["data"]["task"] for one in self.told(user))

    def eventually(self, condition: Callable[[], bool], seconds: float) -> None:
        eventually(condition, seconds, lambda: self.stack.logs()[-4000:])


@pytest.fixture(scope="module")
def shop() -> Iterator[Workshop]:
    """One for all: a dead worker is found fast, and each test has a user of its own."""
    short = TemporaryDirectory(prefix="s", dir=os.environ["FANFARE_TEST_FOLDER"])
    quick = {"TASK_LEASE_SECONDS": str(LEASE_SECONDS), "TASK_ECHO_SECONDS": "0.3", "TASK_TIMEOUT": "2"}
    with short as folder, Stack(Path(folder) / "tasks", **quick) as stack:
        shop = Workshop(stack)
        with shop.http:
            yield shop


async def test_two_tasks_in_one_worker_are_told_once_each(shop: Workshop) -> None:
    async with dial(shop.stack.web[0], shop.stack.token("alice")) as socket:
        replies = [shop.http.post("/api/tasks", json={"user": "alice", "data": f"job {n}"}) for n in (1, 2)]
        tasks = [reply.json()["id"] for reply in replies]
        for _ in tasks:
            await socket.next("message", type="task.finished")
        await socket.silence(1.0)
    for task in tasks:
        states = [one["state"] for one in socket.events if one["event"] == "task" and one["task"] == task]
        assert states == ["queued", "running", "running", "done"]
    told = sorted(shop.told("alice"), key=lambda one: str(one["data"]["text"]))
    assert [(one["type"], one["data"]) for one in told] == [
        ("task.finished", {"task": task, "text": f"Finished task: job {n}"}) for n, task in enumerate(tasks, 1)
    ]


def test_a_task_that_kills_its_worker_three_times_fails_with_its_reason(shop: Workshop) -> None:
    task, neighbour = shop.create("bob", "die"), shop.create("bob", "note", data="beside it")
    shop.eventually(lambda: len(shop.told("bob")) >= 2, 30)
    assert "died 3 times" in shop.get(task)["error"]
    assert shop.ran("died") == 3
    assert {(one["type"], one["data"]["task"]) for one in shop.told("bob")} == {
        ("task.failed", task),
        ("task.finished", neighbour),
    }


def test_a_task_that_takes_too_long_is_interrupted_in_its_worker(shop: Workshop) -> None:
    task = shop.create("erin", "oversleep")
    shop.eventually(lambda: len(shop.told("erin")) >= 1, 20)
    shown = shop.get(task)
    assert (shown["state"], shown["attempts"]) == ("failed", 1)
    assert "TASK_TIMEOUT" in shown["error"]


def test_a_broker_that_hangs_costs_no_request_and_no_task(shop: Workshop) -> None:
    tasks, seconds = [], []
    with shop.stack.valkey.stopped():
        until = time.monotonic() + HANG_SECONDS
        while time.monotonic() < until:
            began = time.monotonic()
            tasks.append(shop.create("carol", "note", data="hanging"))
            seconds.append(time.monotonic() - began)
            time.sleep(0.1)
    assert sorted(seconds)[len(seconds) // 2] < ORDINARY_SECONDS
    assert max(seconds) < HANG_SECONDS / 2
    shop.eventually(lambda: len(shop.told("carol")) >= len(tasks), 30)
    assert shop.told_tasks("carol") == Counter(tasks)


def test_a_killed_worker_group_among_300_tasks_loses_none_and_repeats_no_notification(shop: Workshop) -> None:
    tasks = [shop.create("dave", "note", data="one of many") for _ in range(TASKS)]
    shop.eventually(lambda: shop.ran("one of many") >= TASKS // 4, 30)
    os.killpg(shop.worker.pid, signal.SIGKILL)
    shop.worker.wait()
    left = TASKS - len(shop.told("dave"))
    assert left > 0
    shop.start_worker()
    shop.eventually(lambda: len(shop.told("dave")) >= TASKS, 40)
    assert shop.told_tasks("dave") == Counter(tasks)
