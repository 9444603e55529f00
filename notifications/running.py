"""Running one task in this process: its handler, its lease, its time limit, and what became of it."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType, TracebackType
from typing import Self
from uuid import UUID

import msgspec
from django.conf import settings
from django.db import DatabaseError, InterfaceError, OperationalError, connection, connections

from notifications import handlers, work
from notifications.handlers import Cancelled, Handler, LostClaim, Temporary, TimedOut
from notifications.models import Task
from realtime.strict_json import loads

logger = logging.getLogger(__name__)

REPORTS_SECONDS = 0.25
RENEWALS_A_LEASE = 3.3
GRACE_SECONDS = 5  # For a handler that does not stop at its time limit; then the task fails without it.
KILL_SECONDS = 10  # After which its process is killed.
STORE_PAUSES = (0.2, 1.0, 3.0, 5.0)

End = Callable[[], bool]


def run(task_id: UUID) -> None:
    """Runs a task, unless somebody else has it; a repeated call does nothing.

    If this process dies meanwhile, the task's lease runs out and it runs elsewhere.
    """
    task = work.start(task_id)
    if task is None:
        return
    with Keeper(task) as keeper:
        _store(_carry_out(task, keeper))


def _carry_out(task: Task, keeper: "Keeper") -> End:
    """Calls the handler -> how to store what became of it."""
    handler = handlers.find(task.type)
    if handler is None:  # Perhaps a newer worker has one.
        return partial(work.postpone, task, f"This worker has no handler for tasks of type {task.type!r}.", 0.0)
    try:
        return partial(work.finish, task, _result(handler, task, keeper))
    except LostClaim:
        return bool
    except Cancelled:
        return partial(work.end_cancelled, task)
    except TimedOut:
        return partial(work.fail, task, timed_out())
    except Temporary as error:
        return partial(work.postpone, task, str(error), error.retry_after)
    except (Exception, SystemExit) as error:
        logger.exception("Task %s (%s) failed", task.id, task.type)
        return partial(work.fail, task, f"{type(error).__name__}: {error}")


def _result(handler: Handler, task: Task, keeper: "Keeper") -> bytes:
    with time_limit(settings.TASK_TIMEOUT):
        result = msgspec.json.encode(handler(msgspec.json.decode(task.payload), Reporter(task, keeper)))
    if len(result) > settings.MESSAGE_MAX_BYTES:
        raise ValueError(f"its result has more than {settings.MESSAGE_MAX_BYTES} bytes (MESSAGE_MAX_BYTES)")
    loads(result)
    return result


def _store(end: End) -> None:
    """Stores the end; a database that does not answer for a moment must not cost the work that was done."""
    for pause in STORE_PAUSES:
        try:
            end()
        except (OperationalError, InterfaceError) as error:
            logger.warning("The end of a task cannot be stored yet: %r", error)
            connection.close()
            time.sleep(pause)
        else:
            return
    end()


def timed_out() -> str:
    return f"It has run for more than {settings.TASK_TIMEOUT} s (TASK_TIMEOUT)."


class Reporter:
    """The `progress` of a handler (notifications.handlers.Progress)."""

    def __init__(self, task: Task, keeper: "Keeper") -> None:
        self.task_id = task.id
        self._task, self._keeper = task, keeper
        self._next = 0.0

    def __call__(self, fraction: float, note: str = "") -> None:
        if self._keeper.stop is not None:
            raise self._keeper.stop
        now = time.monotonic()
        # Inside of a handler's transaction the row would stay locked, and the lease could not be renewed.
        if now < self._next or connection.in_atomic_block:
            return
        self._next = now + REPORTS_SECONDS
        try:
            work.report(self._task, float(fraction), str(note))
        except (OperationalError, InterfaceError) as error:
            logger.warning("The progress of a task cannot be stored: %r", error)


class Keeper:
    """Renews the lease while a handler runs, in a thread of its own: the handler may do anything.

    `stop`: what the handler gets raised at its next report.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._over = threading.Event()
        self._deadline = time.monotonic() + settings.TASK_TIMEOUT + GRACE_SECONDS
        self._thread = threading.Thread(target=self._keep, name="task-lease", daemon=True)
        self.stop: Cancelled | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(settings.TASK_LEASE_SECONDS)

    def _keep(self) -> None:
        while not self._over.wait(settings.TASK_LEASE_SECONDS / RENEWALS_A_LEASE):
            try:
                if time.monotonic() > self._deadline:
                    work.fail(self._task, timed_out())
                work.renew(self._task)
            except Cancelled as stop:
                self.stop = stop
            except DatabaseError as error:
                logger.warning("The lease of a task cannot be renewed: %r", error)
            finally:
                connections.close_all()  # This thread's.
            if isinstance(self.stop, LostClaim):
                return


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises TimedOut in the block after so long, also inside of a call that blocks. Only in a main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def expire(_signal: int, _frame: FrameType | None) -> None:
        raise TimedOut

    before = signal.signal(signal.SIGALRM, expire)
    # Again each second: whatever swallows the first.
    others = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *others)
        signal.signal(signal.SIGALRM, before)
