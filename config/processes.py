"""The processes of `manage.py up`: honcho runs them, and none outlives it, however it ends.

honcho forks a runner for each command, which passes the command's output on. Here the runner also looks after the
command's process group: when the command dies, what it leaves behind is killed; when `up` dies, the command is
stopped.
"""

import ctypes
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any

import honcho.manager
from honcho.compat import ProcessManager
from honcho.manager import Manager
from honcho.printer import Message, Printer
from honcho.process import Popen, Process

STOP_SECONDS = 20  # More than draining and the server's own patience together.
ABANDONED = signal.SIGUSR1  # What a runner gets when `up` is gone. Not SIGHUP: closing a terminal sends that too.

_prctl = getattr(ctypes.CDLL(None), "prctl", None)
_PR_SET_PDEATHSIG = 1


def run(
    commands: Mapping[str, list[str]],
    environment: dict[str, str],
    *,
    server: "subprocess.Popen[bytes] | None",
    when_started: Callable[[], None],
) -> int:
    """Runs the commands until a signal, or until one of them (or `server`) ends; then all end -> the exit status.

    `when_started` runs in a thread of its own. The status is never 0: nothing here ends by itself.
    """
    multiprocessing.set_start_method("fork", force=True)  # What honcho's runners rely on.
    honcho.manager.KILL_WAIT = STOP_SECONDS
    supervisor = Supervisor(server, when_started)
    for name, command in commands.items():
        supervisor.add_process(name, f"exec {shlex.join(command)}", env=environment)
    try:
        supervisor.loop()
    except BaseException:
        for runner in multiprocessing.active_children():  # Or Python would wait for them at its exit.
            os.kill(runner.pid or 0, ABANDONED)
        raise
    return max(supervisor.returncode or 0, 1)


def die_with(parent: int, number: int) -> None:
    """Asks Linux to send this process the signal when its parent ends. For a child just forked."""
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, int(number))
        if os.getppid() != parent:  # It ended before we asked.
            os.kill(os.getpid(), number)


class Supervisor(Manager):  # type: ignore[misc]  # honcho has no types.
    def __init__(self, server: "subprocess.Popen[bytes] | None", when_started: Callable[[], None]) -> None:
        super().__init__(Printer(sys.stdout))
        self._process_ctor = Runner
        self._procmgr = Leaders()
        self._server = server
        self._when_started = when_started

    def _start(self) -> None:
        super()._start()  # Forks: threads only after it.
        threading.Thread(target=self._when_started, daemon=True).start()
        if self._server is not None:
            threading.Thread(target=self._watch, args=(self._server,), daemon=True).start()

    def terminate(self) -> None:
        """honcho's own fails while a command is still being started."""
        if self._all_started():
            super().terminate()
        else:
            threading.Timer(0.1, self.terminate).start()

    def _watch(self, server: "subprocess.Popen[bytes]") -> None:
        """The server was started before the commands and is stopped after them; its death still ends them."""
        returncode = server.wait()
        if not self._terminating:
            self.returncode = 1
            self.events.put(Message("line", f"valkey stopped (rc={returncode})\n", self._clock.now(), "system", None))
            self.terminate()


class Leaders(ProcessManager):  # type: ignore[misc]
    """SIGTERM only for the command, which ends its own children in order; SIGKILL for its whole group."""

    def terminate(self, pid: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


class Runner(Process):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._up = os.getpid()

    def run(self, events: "multiprocessing.Queue[Message]", ignore_signals: bool = True) -> None:
        """In the forked process: starts the command, passes its output on, and waits for its end."""
        self._events = events
        for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C comes here too, and is for `up` to handle.
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, self._sweep)
        signal.signal(ABANDONED, self._stop)
        die_with(self._up, ABANDONED)
        self._child_ctor = partial(Popen, preexec_fn=partial(_fresh_child, os.getpid()))
        super().run(events, ignore_signals)

    def _sweep(self, _signum: int, _frame: FrameType | None) -> None:
        """Kills what the dead command has left: its children would go on, and hold its port and its output."""
        with suppress(OSError):
            if self._child and os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                os.killpg(self._child.pid, signal.SIGKILL)

    def _stop(self, _signum: int, _frame: FrameType | None) -> None:
        if self._child is None:
            os._exit(1)
        self._events.cancel_join_thread()  # Nobody reads it any more.
        signal.signal(signal.SIGALRM, lambda *_: os.killpg(self._child.pid, signal.SIGKILL))
        signal.alarm(STOP_SECONDS)
        self._child.terminate()


def _fresh_child(runner: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    die_with(runner, signal.SIGTERM)
