"""Tasks: the API, handlers, and every way from one state to the next; run in this process."""

import re
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from django.conf import LazySettings
from django.core.management import call_command
from django.db import connections, transaction
from django.utils import timezone

from accounts import api_keys, users
from accounts.models import IdempotencyKey
from notifications import handlers, handoff, running, tasks, work
from notifications.checks import check_tasks
from notifications.handlers import Progress, Temporary, task_handler
from notifications.models import Message, Task
from realtime import bus
from realtime.frames import Event
from tests.credentials import mint
from tests.notifications.test_api import Api, accepted, json, refusal
from tests.servers import eventually

pytestmark = pytest.mark.django_db(transaction=True)

HOUR = 3600
HAND = handoff.hand
DOCS = Path(__file__).parents[2] / "docs/tasks.md"
UNKNOWN = "01890000-0000-7000-8000-000000000000"


@pytest.fixture
def service() -> Api:
    return Api(api_keys.create("acme-backend")[1])


@pytest.fixture
def alice() -> Api:
    return Api(mint("alice", "acme", ttl=HOUR))


@pytest.fixture
def mallory() -> Api:
    return Api(mint("mallory", "evil", ttl=HOUR))


@pytest.fixture(autouse=True)
def handed(monkeypatch: pytest.MonkeyPatch) -> list[UUID]:
    """What was handed to workers: nobody runs it."""
    ids: list[UUID] = []
    monkeypatch.setattr(handoff, "hand", ids.append)
    return ids


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What went out live."""
    found: list[dict[str, Any]] = []

    def publish(events: list[Event]) -> None:
        found.extend({"offset": event.offset, **msgspec.json.decode(event.body)} for event in events)

    monkeypatch.setattr(bus, "publish", publish)
    return found


@pytest.fixture
def handle(monkeypatch: pytest.MonkeyPatch) -> Callable[[handlers.Handler], None]:
    """Registers a handler for tasks of type `test`."""
    handlers.types()
    monkeypatch.setattr(handlers, "_handlers", dict(handlers._handlers))

    def register(handler: handlers.Handler) -> None:
        handlers._handlers["test"] = handler

    return register


@pytest.fixture(autouse=True)
def fast(settings: LazySettings) -> None:
    settings.TASK_ECHO_SECONDS = 0.01


def create(type: str = "test", payload: Any = None, user: str = "alice") -> UUID:
    return work.create(user, type, msgspec.json.encode(payload))[0]


def run(task_id: UUID | str) -> Task:
    running.run(UUID(str(task_id)))
    return Task.objects.get(pk=task_id)


def messages(user: str = "alice") -> list[tuple[str, Any]]:
    found = Message.objects.filter(topic__name=f"user.{user}").order_by("offset")
    return [(message.type, msgspec.json.decode(message.data)) for message in found]


def states(events: list[dict[str, Any]]) -> list[str]:
    return [event["state"] if event["event"] == "task" else event["type"] for event in events]


def path(task_id: Any, verb: str = "") -> str:
    return f"/api/tasks/{task_id}" + (f"/{verb}" if verb else "")


# --- Asking for a task ----------------------------------------------------------------------------


def test_the_seeds_body_makes_a_task_whose_end_is_one_message(
    alice: Api, handed: list[UUID], events: list[dict[str, Any]]
) -> None:
    task_id = accepted(alice.post("/api/tasks", {"data": "hello"}))["id"]
    assert [str(one) for one in handed] == [task_id]
    assert run(task_id).state == "done"
    assert messages() == [("task.finished", {"task": task_id, "text": "Finished task: hello"})]
    shown = json(alice.get(path(task_id)))
    assert (shown["state"], shown["progress"], shown["result"]) == ("done", 1.0, {"data": "hello"})
    assert states(events) == ["queued", "running", "running", "done", "task.finished"]
    assert all(event["topic"] == "user.alice" and event["task"] == task_id for event in events[:-1])
    assert [event["offset"] for event in events] == [None, None, None, None, 1]


def test_a_service_names_the_user_and_a_user_is_meant_anyway(service: Api, alice: Api) -> None:
    task_id = accepted(service.post("/api/tasks", {"user": "alice", "type": "echo", "payload": [1]}))["id"]
    assert json(alice.get(path(task_id)))["payload"] == [1]
    accepted(alice.post("/api/tasks", {"user": "alice"}))
    assert refusal(service.post("/api/tasks", {"data": "x"})) == (400, "malformed")
    assert refusal(alice.post("/api/tasks", {"data": "x", "user": "bob"})) == (403, "denied")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"data": 7}, (400, "malformed")),
        ({"data": "x", "payload": 1}, (400, "malformed")),
        ({"type": ""}, (400, "malformed")),
        ({"type": "a\u0007"}, (400, "malformed")),
        ({"type": 7}, (400, "malformed")),
        ({"unknown": 1}, (400, "malformed")),
        ([], (400, "malformed")),
        ("text", (400, "malformed")),
        ({"type": "no-such-type"}, (422, "refused")),
    ],
)
def test_what_cannot_be_a_task_is_refused_and_stores_nothing(
    alice: Api, handed: list[UUID], body: Any, expected: tuple[int, str]
) -> None:
    assert refusal(alice.post("/api/tasks", body)) == expected
    assert not handed
    assert not Task.objects.exists()


def test_an_idempotency_key_makes_one_task_and_one_start(alice: Api, mallory: Api, handed: list[UUID]) -> None:
    replies = [alice.post("/api/tasks", {"data": "once"}, Idempotency_Key="k") for _ in range(3)]
    assert len({accepted(reply)["id"] for reply in replies}) == 1
    assert [reply.headers.get("Idempotent-Replayed") for reply in replies] == [None, "true", "true"]
    assert len(handed) == 1
    assert refusal(alice.post("/api/tasks", {"data": "twice"}, Idempotency_Key="k")) == (422, "idempotency_mismatch")
    accepted(mallory.post("/api/tasks", {"data": "once"}, Idempotency_Key="k"))
    assert Task.objects.count() == 2


def test_a_key_a_row_and_a_reply_are_one_transaction(monkeypatch: pytest.MonkeyPatch, alice: Api) -> None:
    def crash(*_args: Any, **_named: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(work, "_tell", crash)
        with pytest.raises(MemoryError):
            alice.post("/api/tasks", {"data": "x"}, Idempotency_Key="k")
    assert not Task.objects.exists()
    assert not IdempotencyKey.objects.exists()
    assert accepted(alice.post("/api/tasks", {"data": "x"}, Idempotency_Key="k"))["id"]


# --- Who may ---------------------------------------------------------------------------------------


def test_another_users_task_is_not_there(alice: Api, mallory: Api) -> None:
    task_id = accepted(alice.post("/api/tasks", {"data": "mine"}))["id"]
    for reply in (
        mallory.get(path(task_id)),
        mallory.delete(path(task_id)),
        mallory.post(path(task_id, "retry"), {}),
        alice.get(path(UNKNOWN)),
    ):
        assert refusal(reply) == (404, "unknown_task")
    assert json(mallory.get("/api/tasks")) == {"tasks": [], "next": None}
    assert refusal(mallory.get("/api/tasks", user="alice")) == (403, "denied")
    assert Task.objects.get(pk=task_id).state == "queued"


def test_scopes_count_and_a_scoped_token_may_nothing(alice: Api) -> None:
    task_id = accepted(alice.post("/api/tasks", {"data": "mine"}))["id"]
    reader = Api(api_keys.create("reads", ["tasks:read"])[1])
    assert json(reader.get(path(task_id)))["user"] == "alice"
    assert len(json(reader.get("/api/tasks"))["tasks"]) == 1
    for reply in (
        reader.post("/api/tasks", {"user": "alice", "data": "x"}),
        reader.delete(path(task_id)),
        reader.post(path(task_id, "retry"), {}),
        reader.post(path(task_id, "done"), {"claim": "x"}),
    ):
        assert refusal(reply) == (403, "scope_missing")
    writer = Api(api_keys.create("writes", ["tasks:write"])[1])
    assert refusal(writer.get(path(task_id))) == refusal(writer.get("/api/tasks")) == (403, "scope_missing")
    scoped = Api(json(alice.post("/api/tokens", {"topics": ["user.alice"]}))["token"])
    for reply in (scoped.get("/api/tasks"), scoped.get(path(task_id)), scoped.post("/api/tasks", {"data": "x"})):
        assert refusal(reply) == (403, "denied")
    assert refusal(Api(None).get(path(task_id))) == (401, "unauthenticated")


# --- Lists ----------------------------------------------------------------------------------------


def test_lists_go_by_state_and_user_in_pages_newest_first(service: Api, alice: Api) -> None:
    ids = [str(create("echo", n)) for n in range(5)]
    other = str(create("echo", user="bob"))
    run(ids[0])
    first = json(alice.get("/api/tasks", limit=2))
    second = json(alice.get("/api/tasks", limit=2, cursor=first["next"]))
    third = json(alice.get("/api/tasks", limit=2, cursor=second["next"]))
    pages = [[task["id"] for task in page["tasks"]] for page in (first, second, third)]
    assert pages == [[ids[4], ids[3]], [ids[2], ids[1]], [ids[0]]]
    assert third["next"] is None
    assert "payload" not in first["tasks"][0]
    assert [task["id"] for task in json(alice.get("/api/tasks", state="done"))["tasks"]] == [ids[0]]
    assert len(json(service.get("/api/tasks"))["tasks"]) == 6
    assert [task["id"] for task in json(service.get("/api/tasks", user="bob"))["tasks"]] == [other]
    assert refusal(alice.get("/api/tasks", state="lost")) == (400, "malformed")
    assert refusal(alice.get("/api/tasks", cursor="x")) == (400, "malformed")
    assert refusal(service.get("/api/tasks", user="a,b")) == (400, "malformed")


# --- Handlers --------------------------------------------------------------------------------------


def test_a_repeated_delivery_finds_the_row_taken(handle: Callable[..., None]) -> None:
    runs: list[Any] = []
    handle(lambda payload, progress: runs.append(payload))
    task_id = create(payload="x")
    for _ in range(3):
        tasks.run_task(str(task_id))
    assert runs == ["x"]
    assert len(messages()) == 1
    running.run(UUID(UNKNOWN))


def test_a_task_that_another_worker_runs_is_not_started(handle: Callable[..., None]) -> None:
    handle(lambda payload, progress: pytest.fail("It runs twice."))
    task_id = create()
    assert work.start(task_id)
    assert work.start(task_id) is None
    assert run(task_id).attempts == 1


def test_of_many_workers_at_once_one_starts_a_task_and_one_ends_it(handle: Callable[..., None]) -> None:
    handle(lambda payload, progress: time.sleep(0.05))
    task_id = create()
    threads = [threading.Thread(target=in_thread(task_id)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Task.objects.get().attempts == 1
    assert len(messages()) == 1


def test_a_plain_error_fails_at_once_and_is_told(handle: Callable[..., None], events: list[dict[str, Any]]) -> None:
    def report(payload: Any, progress: Progress) -> None:
        raise ValueError("no such\0 report")

    handle(report)
    task = run(create(payload={"data": "Q3"}))
    assert (task.state, task.error, task.attempts) == ("failed", "ValueError: no such report", 1)
    text = "Failed task: Q3"
    assert messages() == [("task.failed", {"task": str(task.id), "text": text, "error": "ValueError: no such report"})]
    assert states(events) == ["queued", "running", "failed", "task.failed"]


def test_a_temporary_error_is_tried_again_after_a_pause_and_not_for_ever(
    handle: Callable[..., None], settings: LazySettings
) -> None:
    settings.TASK_ATTEMPTS = 3

    def flaky(payload: Any, progress: Progress) -> None:
        raise Temporary("the printer is busy", retry_after=60)

    handle(flaky)
    task = run(create())
    for attempt in (1, 2):
        assert (task.state, task.attempts, task.error) == ("queued", attempt, "the printer is busy")
        assert task.run_at >= timezone.now() + timedelta(seconds=55)
        assert run(task.id).attempts == attempt  # Not before its time.
        Task.objects.update(run_at=timezone.now())
        assert work.waiting(10) == [task.id]
        task = run(task.id)
    assert (task.state, task.attempts) == ("failed", 3)
    assert [type for type, _ in messages()] == ["task.failed"]


def test_pauses_grow_with_full_jitter_up_to_a_cap(handle: Callable[..., None], settings: LazySettings) -> None:
    settings.TASK_ATTEMPTS = 100

    def flaky(payload: Any, progress: Progress) -> None:
        raise Temporary("again")

    handle(flaky)
    for attempts, most in ((0, 2.0), (3, 16.0), (50, work.DELAY_MAX)):
        pauses = []
        for _ in range(8):
            task_id = create()
            Task.objects.filter(pk=task_id).update(attempts=attempts)
            task = run(task_id)
            pauses.append((task.run_at - timezone.now()).total_seconds())
        assert max(pauses) <= most
        assert max(pauses) - min(pauses) > most / 100


@pytest.mark.parametrize(
    "result", [object(), "x" * 70_000, {"a": float("inf")}, 2**70], ids=["no JSON", "too long", "infinite", "too large"]
)
def test_a_result_that_cannot_be_stored_fails_or_is_null(handle: Callable[..., None], result: Any) -> None:
    handle(lambda payload, progress: result)
    task = run(create())
    assert task.state == ("done" if isinstance(result, dict) else "failed")
    assert task.result == ('{"a":null}' if isinstance(result, dict) else "null")


def test_a_type_without_a_handler_waits_for_a_worker_that_has_one() -> None:
    task = run(create("of-a-newer-version"))
    assert task.state == "queued"
    assert "no handler" in task.error


def test_two_handlers_for_one_type_are_a_mistake() -> None:
    handlers.types()
    with pytest.raises(ValueError, match="two handlers"):
        task_handler("echo")(lambda payload, progress: None)


def test_the_documented_handler_works(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers.types()
    monkeypatch.setattr(handlers, "_handlers", dict(handlers._handlers))
    (block,) = re.findall(r"^```python\n(from notifications.*?)^```$", DOCS.read_text(), re.DOTALL | re.MULTILINE)
    exec(compile(block, DOCS.name, "exec"), {})
    assert run(create("report", {"pages": 3})).result == '{"pages":3}'
    assert run(create("report", {"pages": "not yet"})).state == "queued"


def test_an_attempt_knows_which_task_it_is(handle: Callable[..., None]) -> None:
    handle(lambda payload, progress: str(progress.task_id))
    task_id = create()
    assert run(task_id).result == f'"{task_id}"'


def test_progress_is_stored_and_told_at_most_four_times_a_second(
    handle: Callable[..., None], events: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(payload: Any, progress: Progress) -> None:
        for number in range(60):
            progress(number / 60, f"page {number}")
            time.sleep(0.01)

    handle(count)
    task_id = create()
    began = time.monotonic()
    run(task_id)
    took = time.monotonic() - began
    told = [event for event in events if event.get("state") == "running" and event.get("note")]
    assert 2 <= len(told) <= took * 4 + 1
    assert told[0]["note"] == "page 0"
    assert [event["progress"] for event in told] == sorted(event["progress"] for event in told)


def test_progress_beyond_its_bounds_is_bounded(handle: Callable[..., None]) -> None:
    seen: list[tuple[float, str]] = []

    def boast(payload: Any, progress: Progress) -> None:
        progress(7, "\0" + "x" * 300)
        row = Task.objects.get()
        seen.append((row.progress, row.note))

    handle(boast)
    run(create())
    assert seen == [(1.0, "x" * 200)]


def test_progress_inside_of_a_transaction_locks_nothing(handle: Callable[..., None]) -> None:
    def careful(payload: Any, progress: Progress) -> None:
        with transaction.atomic():
            progress(0.5)
            assert Task.objects.get().progress == 0.0

    handle(careful)
    assert run(create()).state == "done"


# --- Cancel and retry ------------------------------------------------------------------------------


def test_a_waiting_task_is_cancelled_at_once(alice: Api, events: list[dict[str, Any]]) -> None:
    task_id = create("echo")
    assert alice.delete(path(task_id)).status_code == 204
    assert alice.delete(path(task_id)).status_code == 204
    assert run(task_id).state == "cancelled"
    assert states(events) == ["queued", "cancelled"]
    assert messages() == []


def test_a_running_task_is_cancelled_at_its_next_report(
    alice: Api, handle: Callable[..., None], events: list[dict[str, Any]]
) -> None:
    reached: list[str] = []

    def long(payload: Any, progress: Progress) -> None:
        try:
            assert alice.delete(path(task_id)).status_code == 204
            assert json(alice.get(path(task_id)))["cancel_requested"] is True
            progress(0.5)
        except Exception:
            reached.append("An `except Exception` must not swallow it.")
        reached.append("further")

    handle(long)
    task_id = create()
    assert run(task_id).state == "cancelled"
    assert reached == []
    assert states(events) == ["queued", "running", "cancelled"]
    assert messages() == []


def test_a_handler_that_does_not_listen_finishes(alice: Api, handle: Callable[..., None]) -> None:
    handle(lambda payload, progress: alice.delete(path(Task.objects.get().id)).status_code)
    task_id = create()
    task = run(task_id)
    assert (task.state, task.result) == ("done", "204")
    assert refusal(alice.delete(path(task_id))) == (409, "wrong_state")


def test_only_failed_and_cancelled_tasks_are_done_again(
    alice: Api, handle: Callable[..., None], handed: list[UUID]
) -> None:
    outcomes = [ValueError("once")]

    def report(payload: Any, progress: Progress) -> str:
        if outcomes:
            raise outcomes.pop()
        return "fine"

    handle(report)
    task_id = create(payload={"data": "Q3"})
    assert refusal(alice.post(path(task_id, "retry"), {})) == (409, "wrong_state")
    assert run(task_id).state == "failed"
    assert accepted(alice.post(path(task_id, "retry"), {})) == {"id": str(task_id)}
    assert handed == [task_id]
    task = run(task_id)
    assert (task.state, task.attempts, task.error, task.result) == ("done", 1, "", '"fine"')
    assert [type for type, _ in messages()] == ["task.failed", "task.finished"]
    assert refusal(alice.post(path(task_id, "retry"), {})) == (409, "wrong_state")


# --- Leases and time limits ------------------------------------------------------------------------


def lapse(task_id: UUID) -> None:
    Task.objects.filter(pk=task_id, state="running").update(lease_until=timezone.now() - timedelta(seconds=1))


def test_a_dead_workers_task_goes_on_elsewhere_and_its_late_end_does_not_count(handle: Callable[..., None]) -> None:
    handle(lambda payload, progress: "second")
    task_id = create()
    dead = work.start(task_id)
    assert dead
    work.release_dead()
    assert Task.objects.get().state == "running"  # Its lease has not run out.
    lapse(task_id)
    work.release_dead()
    assert work.waiting(10) == [task_id]
    assert run(task_id).result == '"second"'
    assert not work.finish(dead, b'"first"')
    assert not work.fail(dead, "late")
    with pytest.raises(handlers.LostClaim):
        work.report(dead, 0.5, "")
    with pytest.raises(handlers.LostClaim):
        work.renew(dead)
    assert Task.objects.get().result == '"second"'
    assert len(messages()) == 1


def test_three_dead_workers_are_enough(events: list[dict[str, Any]]) -> None:
    task_id = create()
    for _ in range(3):
        assert work.start(task_id)
        lapse(task_id)
        work.release_dead()
        work.release_dead()
    task = Task.objects.get()
    assert (task.state, task.attempts) == ("failed", 3)
    assert "died 3 times" in task.error
    assert [type for type, _ in messages()] == ["task.failed"]


def test_a_task_that_was_cancelled_when_its_worker_died_is_not_run_again(alice: Api) -> None:
    task_id = create()
    assert work.start(task_id)
    assert alice.delete(path(task_id)).status_code == 204
    lapse(task_id)
    work.release_dead()
    assert Task.objects.get().state == "cancelled"


def test_the_lease_is_renewed_while_a_handler_runs(handle: Callable[..., None], settings: LazySettings) -> None:
    settings.TASK_LEASE_SECONDS = 0.5

    def slow(payload: Any, progress: Progress) -> str:
        time.sleep(1.2)
        work.release_dead()
        return "mine"

    handle(slow)
    assert run(create()).result == '"mine"'


def test_a_handler_learns_between_reports_that_its_task_is_somebody_elses(
    handle: Callable[..., None], settings: LazySettings
) -> None:
    settings.TASK_LEASE_SECONDS = 0.3

    def frozen(payload: Any, progress: Progress) -> None:
        Task.objects.update(claim="another")
        time.sleep(0.5)
        with transaction.atomic():  # The database is not asked here.
            progress(0.5)
        pytest.fail("It goes on.")

    handle(frozen)
    task = run(create())
    assert (task.state, task.claim) == ("running", "another")


def test_a_handler_that_takes_too_long_is_interrupted_and_fails(
    handle: Callable[..., None], settings: LazySettings
) -> None:
    settings.TASK_TIMEOUT = 0.2

    def endless(payload: Any, progress: Progress) -> None:
        try:
            time.sleep(30)
        except Exception:
            pytest.fail("An `except Exception` must not swallow it.")

    handle(endless)
    began = time.monotonic()
    task = run(create())
    assert time.monotonic() - began < 5
    assert (task.state, task.error) == ("failed", "It has run for more than 0.2 s (TASK_TIMEOUT).")


def test_a_handler_that_cannot_be_interrupted_fails_all_the_same(
    handle: Callable[..., None], settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.TASK_TIMEOUT, settings.TASK_LEASE_SECONDS = 0.2, 0.3
    monkeypatch.setattr(running, "GRACE_SECONDS", 0.1)
    handle(lambda payload, progress: time.sleep(1.0))
    task_id = create()
    thread = threading.Thread(target=in_thread(task_id))  # Signals are for main threads.
    thread.start()
    thread.join()
    task = Task.objects.get()
    assert (task.state, "TASK_TIMEOUT" in task.error) == ("failed", True)
    assert len(messages()) == 1


def in_thread(task_id: UUID) -> Callable[[], None]:
    def work_and_close() -> None:
        running.run(task_id)
        connections.close_all()

    return work_and_close


# --- Beat ------------------------------------------------------------------------------------------


def test_the_sweep_hands_on_what_nobody_has_started_for_5_seconds(
    handed: list[UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, fresh = create(), create()
    assert work.start(create())
    Task.objects.filter(pk=lost).update(run_at=timezone.now() - work.GRACE)
    tasks.sweep_tasks()
    assert handed == [lost]
    assert fresh not in handed
    monkeypatch.setattr(handoff, "backlog", lambda: tasks.HANDED_AT_ONCE)
    tasks.sweep_tasks()
    assert handed == [lost]  # Workers have enough to do.


def test_handing_a_task_on_never_waits_and_a_failure_leaves_the_rest_to_the_sweep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[UUID] = []
    broken, healed, gone_on = UUID(int=1), UUID(int=100), threading.Event()

    def send(_broker: handoff.Broker, task_id: UUID) -> None:
        sent.append(task_id)
        if task_id == broken:
            gone_on.wait(20)
            raise TimeoutError

    monkeypatch.setattr(handoff.Broker, "send", send)
    monkeypatch.setattr(handoff, "WAITING_MAX", 5)
    sender = handoff.Sender()
    monkeypatch.setattr(handoff, "_sender", lambda: sender)
    began = time.monotonic()
    for number in range(1, 50):
        HAND(UUID(int=number))
    assert time.monotonic() - began < 1
    gone_on.set()
    eventually(lambda: not sender.waiting.qsize(), 10)
    HAND(healed)
    eventually(lambda: healed in sent, 10)
    assert sent[0] == broken
    assert len(sent) < 10


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("TASKS_QUEUE", "no.such.queue", "TASKS_QUEUE"),
        ("TASKS_QUEUE", "django.utils.timezone.now", "send"),
        ("TASK_TIMEOUT", 0.0, "TASK_TIMEOUT"),
        ("TASK_LEASE_SECONDS", float("nan"), "TASK_LEASE_SECONDS"),
        ("TASK_ATTEMPTS", 0, "TASK_ATTEMPTS"),
        ("TASKS_DAYS", 0, "TASKS_DAYS"),
    ],
)
def test_settings_that_cannot_work_are_found_at_the_start(
    settings: LazySettings, name: str, value: Any, word: str
) -> None:
    assert check_tasks() == []
    setattr(settings, name, value)
    (found,) = check_tasks()
    assert word in found.msg


def test_old_tasks_are_deleted_and_what_nobody_ends_fails(settings: LazySettings) -> None:
    settings.TASKS_DAYS = 30
    old, forgotten, new = create("echo"), create("echo"), create("echo")
    run(old)
    long_ago = timezone.now() - timedelta(days=31)
    first = int(long_ago.timestamp() * 1000) << 80
    ids = {old: UUID(int=first), forgotten: UUID(int=first + 1)}
    for task_id, aged in ids.items():
        Task.objects.filter(pk=task_id).update(id=aged)
    Task.objects.filter(pk=ids[old]).update(finished_at=long_ago)
    tasks.purge()
    assert set(Task.objects.values_list("pk", "state")) == {(ids[forgotten], "failed"), (new, "queued")}


def test_an_erased_user_has_no_tasks_left_and_gets_no_message(handle: Callable[..., None]) -> None:
    def report(payload: Any, progress: Progress) -> None:
        users.erase(None, "alice")

    handle(report)
    running.run(create())
    assert not Task.objects.exists()
    assert messages() == []


# --- Workers outside -------------------------------------------------------------------------------


class Outside:
    """A queue of somebody else's."""

    sent: list[dict[str, Any]] = []
    refuses = False

    def send(self, body: bytes) -> None:
        if Outside.refuses:
            raise ConnectionError
        Outside.sent.append(msgspec.json.decode(body))


@pytest.fixture
def outside(settings: LazySettings) -> list[dict[str, Any]]:
    settings.TASKS_QUEUE = f"{__name__}.Outside"
    Outside.sent, Outside.refuses = [], False
    return Outside.sent


def test_a_queue_outside_gets_the_task_with_a_claim_and_its_worker_tells_the_end(
    service: Api, alice: Api, outside: list[dict[str, Any]], events: list[dict[str, Any]]
) -> None:
    task_id = accepted(alice.post("/api/tasks", {"type": "render", "payload": {"data": "film"}}))["id"]
    handoff.send_outside(UUID(task_id))
    handoff.send_outside(UUID(task_id))  # It is there already.
    (body,) = outside
    claim = body.pop("claim")
    assert body == {"taskId": task_id, "userId": "alice", "type": "render", "payload": {"data": "film"}}
    assert work.start(UUID(task_id)) is None
    assert work.waiting(10) == []
    told = {"claim": claim, "progress": 0.5, "note": "half"}
    assert service.post(path(task_id, "progress"), told).status_code == 204
    shown = json(alice.get(path(task_id)))
    assert (shown["state"], shown["progress"], shown["note"]) == ("running", 0.5, "half")
    work.release_dead()
    assert service.post(path(task_id, "done"), {"claim": claim, "result": 7}).status_code == 204
    assert refusal(service.post(path(task_id, "done"), {"claim": claim})) == (409, "lost_claim")
    assert json(alice.get(path(task_id)))["result"] == 7
    assert messages() == [("task.finished", {"task": task_id, "text": "Finished task: film"})]
    assert states(events) == ["queued", "running", "done", "task.finished"]


def test_a_worker_outside_can_fail_a_task(service: Api, outside: list[dict[str, Any]]) -> None:
    task_id = create()
    handoff.send_outside(task_id)
    failure = {"claim": outside[0]["claim"], "error": "no film"}
    assert service.post(path(task_id, "failed"), failure).status_code == 204
    assert messages()[0][0] == "task.failed"
    assert Task.objects.get().error == "no film"


def test_what_the_queue_does_not_take_is_handed_again_with_the_same_claim(outside: list[dict[str, Any]]) -> None:
    task_id = create()
    Outside.refuses = True
    with pytest.raises(ConnectionError):
        handoff.send_outside(task_id)
    claim = Task.objects.get().claim
    Task.objects.update(run_at=timezone.now() - work.GRACE)
    assert work.waiting(10) == [task_id]
    Outside.refuses = False
    handoff.send_outside(task_id)
    assert outside[0]["claim"] == claim
    assert work.waiting(10) == []


@pytest.mark.parametrize(
    ("verb", "body"), [("progress", {"progress": 0.5}), ("done", {"result": 1}), ("failed", {"error": "x"})]
)
def test_only_a_service_with_the_claim_may_report(
    service: Api, alice: Api, outside: list[dict[str, Any]], verb: str, body: dict[str, Any]
) -> None:
    task_id = create()
    handoff.send_outside(task_id)
    claim = outside[0]["claim"]
    assert refusal(service.post(path(task_id, verb), {"claim": "x", **body})) == (409, "lost_claim")
    assert refusal(service.post(path(task_id, verb), {"claim": "", **body})) == (400, "malformed")
    assert refusal(service.post(path(task_id, verb), body)) == (400, "malformed")
    assert refusal(alice.post(path(task_id, verb), {"claim": claim, **body})) == (403, "scope_missing")
    assert refusal(Api(None).post(path(task_id, verb), {"claim": claim, **body})) == (401, "unauthenticated")
    assert refusal(service.post(path(UNKNOWN, verb), {"claim": claim, **body})) == (404, "unknown_task")
    assert Task.objects.get().state == "queued"
    assert alice.delete(path(task_id)).status_code == 204
    assert refusal(service.post(path(task_id, verb), {"claim": claim, **body})) == (409, "lost_claim")
    assert Task.objects.get().state == "cancelled"


def test_a_cancelled_task_that_is_done_again_has_a_new_claim(alice: Api, outside: list[dict[str, Any]]) -> None:
    task_id = create()
    handoff.send_outside(task_id)
    assert alice.delete(path(task_id)).status_code == 204
    accepted(alice.post(path(task_id, "retry"), {}))
    handoff.send_outside(task_id)
    assert len({body["claim"] for body in outside}) == 2


def test_the_schema_tells_the_task_routes(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("spectacular", "--validate", "--fail-on-warn")
    assert "/api/tasks/{task_id}/progress" in capsys.readouterr().out
