"""`manage.py up`, run as a person would run it."""

import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from pytest_django import Settings

from accounts import api_keys
from accounts.models import ApiKey
from config.management.commands.up import development_key
from tests.servers import ROOT, eventually, free_port

pytestmark = pytest.mark.any_database

READY_SECONDS = 60
GONE_SECONDS = 20


class Up:
    """A running `manage.py up` in a home of its own, without any setting from the tests' environment."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.home = folder / "home"
        self.home.mkdir(exist_ok=True)
        self.log = folder / "up.log"
        self.port = int(settings.setdefault("PORT", str(free_port())))
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "up"],
                cwd=ROOT,
                env={**kept, "FANFARE_HOME": str(self.home), **settings},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_until_ready(self) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, self.text()
            return re.search(r"ready in \d+ s", self.text()) is not None

        eventually(ready, READY_SECONDS, self.text)

    def members(self) -> dict[int, str]:
        """Every process of this home -> its command line. Valkey writes over its environment, but names its socket."""
        found = {}
        for folder in Path("/proc").iterdir():
            try:
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                environment = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if line and (f"FANFARE_HOME={self.home}".encode() in environment or f"{self.home}/" in line):
                found[int(folder.name)] = line
        return found

    def expect_nobody_left(self) -> None:
        eventually(lambda: not self.members(), GONE_SECONDS, lambda: str(self.members()))


@pytest.fixture
def up(stack_folder: Path) -> Iterator[Up]:
    running = Up(stack_folder, WEB_PROCESSES="2")
    yield running
    for pid in running.members():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    running.process.wait(GONE_SECONDS)


def test_it_prints_where_to_look_and_is_alone_in_its_home(up: Up) -> None:
    up.wait_until_ready()
    text = up.text()
    assert (demo := re.search(r"http://\S+/demo/", text))
    assert httpx.get(demo[0]).status_code == 200

    assert (curl := re.search(r"curl .*\\\n.*", text))
    reply = subprocess.run(
        shlex.split(curl[0].replace("\\\n", " ")), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10
    )
    assert b'"topic":"user.bob"' in reply.stdout

    assert (link := re.search(r"http://\S+/accounts/login/\S+", text))
    with httpx.Client(follow_redirects=True) as browser:
        assert browser.get(link[0]).url.path == "/admin/"
    assert httpx.get(link[0]).status_code == 410  # It works once.

    for name in ("secret_key", "token_signing_key", "development_key"):
        assert stat.S_IMODE((up.home / name).stat().st_mode) == 0o600

    second = subprocess.run(
        [sys.executable, "manage.py", "up"],
        cwd=ROOT,
        env={**os.environ, "FANFARE_HOME": str(up.home), "PORT": str(free_port())},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=READY_SECONDS,
    )
    (line,) = second.stdout.splitlines()
    assert "Another `up` runs in" in line
    assert second.returncode == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_it_ends_it_leaves_no_process_behind(up: Up, number: signal.Signals) -> None:
    up.wait_until_ready()
    assert {"uvicorn", "celery", "valkey"} <= set(re.findall("uvicorn|celery|valkey", " ".join(up.members().values())))
    up.process.send_signal(number)
    up.process.wait(GONE_SECONDS)
    up.expect_nobody_left()


@pytest.mark.parametrize(("name", "marker"), [("web", "uvicorn"), ("valkey", "valkey-server")])
def test_when_a_child_dies_it_is_named_and_everything_stops(up: Up, name: str, marker: str) -> None:
    up.wait_until_ready()
    victim = min(pid for pid, line in up.members().items() if marker in line and "beat" not in line)
    os.kill(victim, signal.SIGKILL)
    assert up.process.wait(GONE_SECONDS) != 0
    assert re.search(rf"{name} stopped", up.text())
    up.expect_nobody_left()


def test_a_taken_port_is_one_clear_line(stack_folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        up = Up(stack_folder, PORT=str(taken.getsockname()[1]))
        assert up.process.wait(READY_SECONDS) == 1
    (line,) = up.text().splitlines()
    assert "is not free" in line
    assert "PORT" in line
    assert not up.members()


@pytest.mark.django_db
def test_the_development_key_stays_the_same_as_long_as_its_database_knows_it(
    settings: Settings, stack_folder: Path
) -> None:
    settings.FANFARE_HOME = stack_folder
    first = development_key()
    assert development_key() == first
    ApiKey.objects.all().delete()
    api_keys._cache.clear()
    assert development_key() != first
