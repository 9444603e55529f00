"""`manage.py up`, run as a person would run it."""

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from pytest_django import Settings

from accounts import api_keys
from accounts.models import ApiKey
from config.management.commands.up import development_key
from tests.servers import ROOT, eventually, free_port
from tests.services import start_valkey

pytestmark = pytest.mark.any_database

READY_SECONDS = 60
GONE_SECONDS = 25


class Up:
    """A running `manage.py up` in a home of its own, without any setting from the tests' environment."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.log = folder / f"up{len(list(folder.glob('up*.log')))}.log"
        self.port = int(settings.setdefault("PORT", str(free_port())))
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, ROOT / "manage.py", "up"],
                cwd=folder,
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
            return re.search(r"^ready in \d+\.\d s$", self.text(), re.MULTILINE) is not None

        eventually(ready, READY_SECONDS, self.text)

    def refused(self) -> str:
        """Waits for its end, which must be a refusal before anything was started -> the one line that it printed."""
        assert self.process.wait(READY_SECONDS) == 1
        (line,) = self.text().splitlines()
        return line

    def members(self) -> dict[int, str]:
        """Every process of this home -> its command line. (Valkey writes its title over its environment.)"""
        found = {}
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit():
                    command = (folder / "cmdline").read_bytes()
                    environment = (folder / "environ").read_bytes().split(b"\0")
                    if f"FANFARE_HOME={self.home}".encode() in environment or f"{self.home}/".encode() in command:
                        found[int(folder.name)] = command.replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
        return found

    def member(self, marker: str) -> int:
        """The eldest process with the marker in its command line."""
        return min(pid for pid, line in self.members().items() if marker in line)

    def expect_nobody_left(self) -> None:
        eventually(lambda: not self.members(), GONE_SECONDS, lambda: str(self.members()))

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(GONE_SECONDS)
        self.expect_nobody_left()


@pytest.fixture
def make_up(stack_folder: Path) -> Iterator[Callable[..., Up]]:
    """Starts `up` with settings of its own; kills what is left at the end."""
    made: list[Up] = []

    def make(folder: Path = stack_folder, **settings: str) -> Up:
        made.append(Up(folder, **settings))
        return made[-1]

    yield make
    for up in made:
        for pid in up.members():
            os.kill(pid, signal.SIGKILL)
        up.process.wait(GONE_SECONDS)
        up.expect_nobody_left()


@pytest.fixture
def up(make_up: Callable[..., Up]) -> Up:
    up = make_up()
    up.wait_until_ready()
    return up


def test_it_prints_where_to_look_and_a_curl_line_that_works(up: Up) -> None:
    text = up.text()
    (demo,) = re.findall(r"http://\S+/demo/", text)
    assert httpx.get(demo).status_code == 200

    (line,) = re.findall(r"^curl .*$", text, re.MULTILINE)
    reply = subprocess.run(["sh", "-c", line], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10)
    assert b'"topic":"user.bob"' in reply.stdout

    (link,) = re.findall(r"http://\S+/accounts/login/\S+", text)
    with httpx.Client(follow_redirects=True) as browser:
        assert browser.get(link).url.path == "/admin/"
    assert httpx.get(link).status_code == 410  # It works once.

    assert re.search(r"ready in \d+\.\d s\n\Z", up.text())
    assert "WARNING" not in text
    for name in ("secret_key", "token_signing_key", "development_key", "valkey.sock"):
        assert stat.S_IMODE((up.home / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(up.home.stat().st_mode) == 0o700


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_when_told_to_stop_it_leaves_no_process_and_says_little(up: Up, number: signal.Signals, status: int) -> None:
    members = " ".join(up.members().values())
    assert {"uvicorn", "worker", "beat", "valkey"} <= set(re.findall("uvicorn|worker|beat|valkey", members))
    before = len(up.text().splitlines())
    up.process.send_signal(number)
    assert up.process.wait(GONE_SECONDS) == status
    assert not up.members()
    said = up.text().splitlines()[before:]
    assert "Traceback" not in up.text()
    assert len(said) < 20, said


def test_stopped_while_it_is_starting_it_leaves_no_process_either(make_up: Callable[..., Up]) -> None:
    for delay in (0.5, 1.5, 2.0, 2.5):
        up = make_up()
        time.sleep(delay)
        up.process.send_signal(signal.SIGINT)
        up.process.wait(GONE_SECONDS)
        up.expect_nobody_left()


def test_killed_with_two_web_processes_it_leaves_no_process_and_can_start_again(make_up: Callable[..., Up]) -> None:
    up = make_up(WEB_PROCESSES="2")
    up.wait_until_ready()
    up.process.kill()
    up.process.wait(GONE_SECONDS)
    again = make_up()  # Waits for what is still ending.
    again.wait_until_ready()
    assert set(up.members()) == set(again.members())
    again.stop()


@pytest.mark.parametrize(("name", "marker"), [("outside", "queues outside"), ("web", "uvicorn"), ("valkey", "valkey")])
def test_when_a_child_dies_it_is_named_and_everything_stops(make_up: Callable[..., Up], name: str, marker: str) -> None:
    up = make_up(WEB_PROCESSES="2")  # Uvicorn's own parent is killed: its children have to go too.
    up.wait_until_ready()
    os.kill(up.member(marker), signal.SIGKILL)
    assert up.process.wait(GONE_SECONDS) == 1
    assert re.search(rf"{name} stopped \(rc=-9\)", up.text())
    assert not up.members()


def test_a_second_one_in_the_same_home_is_refused(up: Up, make_up: Callable[..., Up]) -> None:
    assert f"Another `up` runs in {up.home} (process {up.process.pid})" in make_up().refused()
    assert httpx.get(f"http://127.0.0.1:{up.port}/readyz").json()["status"] == "ok"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_taken_port_is_refused(make_up: Callable[..., Up], host: str) -> None:
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as taken:
        up = make_up(HOST=host, PORT=str(taken.getsockname()[1]))
        line = up.refused()
    assert "cannot listen" in line
    assert "PORT" in line
    assert not up.members()


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"DATABASE_URL": "postgres://nobody@127.0.0.1:9/none"}, "DATABASE_URL"),
        ({"HOST": "no.such.host.example"}, "HOST"),
    ],
)
def test_what_cannot_work_is_one_clear_line(make_up: Callable[..., Up], settings: dict[str, str], word: str) -> None:
    up = make_up(**settings)
    assert up.process.wait(READY_SECONDS) == 1
    assert word in up.text()
    assert "Traceback" not in up.text()
    up.expect_nobody_left()


def test_a_home_too_deep_for_a_unix_socket_is_refused(make_up: Callable[..., Up], stack_folder: Path) -> None:
    deep = stack_folder / ("d" * 100)
    deep.mkdir()
    assert "too long for a unix socket" in make_up(deep).refused()


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


def test_production_is_without_demo_and_development_key_and_on_the_given_servers(
    make_up: Callable[..., Up], stack_folder: Path
) -> None:
    redis = start_valkey(stack_folder / "redis")
    try:
        up = make_up(
            PRODUCTION="1",
            ALLOWED_HOSTS="fanfare.example",
            TRUSTED_PROXIES="127.0.0.1",
            REDIS_URL=f"unix://{stack_folder}/redis/valkey.sock",
        )
        up.wait_until_ready()
        base = f"http://127.0.0.1:{up.port}"
        assert httpx.get(f"{base}/readyz", headers={"Host": "fanfare.example"}).json()["status"] == "ok"
        assert httpx.get(f"{base}/demo/", headers={"Host": "fanfare.example"}).has_redirect_location
        over_tls = {"Host": "fanfare.example", "X-Forwarded-Proto": "https"}
        assert httpx.get(f"{base}/demo/", headers=over_tls).status_code == 404
        assert "ff_" not in up.text()
        assert "/accounts/login/" not in up.text()
        assert not (up.home / "development_key").exists()
        assert not (up.home / "valkey.sock").exists()
        up.stop()
    finally:
        redis.kill()
        redis.wait(GONE_SECONDS)


def test_production_refuses_what_the_deploy_checks_find(make_up: Callable[..., Up]) -> None:
    up = make_up(PRODUCTION="1", ALLOWED_HOSTS="fanfare.example", SECURE_HSTS_SECONDS="0")
    assert up.process.wait(READY_SECONDS) == 1
    assert "SECURE_HSTS_SECONDS" in up.text()
    assert "Traceback" not in up.text()
    assert not up.members()
