"""What the environment may say, and what production refuses. Each in a process of its own: settings are read once."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import ROOT

pytestmark = pytest.mark.any_database

SECRET = "k" * 50
SAFE = {"PRODUCTION": "1", "ALLOWED_HOSTS": "fanfare.example"}


def run(home: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs Python with these settings and no others."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "FANFARE_HOME": str(home), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )


def value(home: Path, name: str, **environment: str) -> str:
    """A setting, as the environment makes it."""
    code = f"from config import settings; print(settings.{name})"
    done = run(home, "-c", code, **environment)
    assert done.returncode == 0, done.stdout
    return done.stdout.strip()


def test_an_empty_environment_works_and_keeps_its_secrets_to_itself(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert run(home, "manage.py", "check", "--fail-level", "WARNING").returncode == 0
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    secrets = []
    for name in ("secret_key", "token_signing_key"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600
        secrets.append((home / name).read_text())
    assert secrets[0] != secrets[1]
    assert value(home, "SECRET_KEY") == secrets[0]
    assert value(home, "SECRET_KEY", SECRET_KEY=SECRET) == SECRET


def test_processes_that_start_at_once_agree_on_the_secrets(tmp_path: Path) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", "from config import settings; print(settings.SECRET_KEY)"],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "FANFARE_HOME": str(tmp_path / "home")},
            stdout=subprocess.PIPE,
        )
        for _ in range(8)
    ]
    assert len({process.communicate(timeout=60)[0] for process in started}) == 1


def test_production_passes_the_deploy_checks_without_a_word(tmp_path: Path) -> None:
    done = run(tmp_path, "manage.py", "check", "--deploy", "--fail-level", "WARNING", **SAFE)
    assert done.returncode == 0, done.stdout
    assert done.stdout == "System check identified no issues (0 silenced).\n"


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"DEBUG": "1"}, "unset DEBUG"),
        ({"ALLOWED_HOSTS": ""}, "needs ALLOWED_HOSTS"),
        ({"ALLOWED_HOSTS": "*"}, "needs ALLOWED_HOSTS"),
        ({"ALLOWED_HOSTS": "fanfare.example,*"}, "needs ALLOWED_HOSTS"),
        ({"SECRET_KEY": "short"}, "SECRET_KEY is shorter"),
        ({"TOKEN_SIGNING_KEY": "short"}, "TOKEN_SIGNING_KEY is shorter"),
    ],
)
def test_production_refuses(tmp_path: Path, environment: dict[str, str], reason: str) -> None:
    done = run(tmp_path, "manage.py", "check", **{**SAFE, **environment})
    assert done.returncode != 0
    assert reason in done.stdout.splitlines()[-1]


@pytest.mark.parametrize(("name", "text"), [("SESSION_TTL", "59"), ("SESSION_ROLE_ARN", "browsers")])
def test_what_no_session_could_live_with_is_refused(tmp_path: Path, name: str, text: str) -> None:
    done = run(tmp_path, "manage.py", "check", **{name: text})
    assert done.returncode != 0
    assert f"{name}: " in done.stdout.splitlines()[-1]


def test_production_switches_demo_and_debug_off_and_the_safe_cookies_on(tmp_path: Path) -> None:
    assert value(tmp_path, "DEMO") == value(tmp_path, "DEBUG") == "True"
    names = ["DEMO", "DEBUG", "SESSION_COOKIE_SECURE", "CSRF_COOKIE_SECURE", "SECURE_SSL_REDIRECT"]
    listed = ", settings.".join(names)
    assert value(tmp_path, listed, **SAFE) == "False False True True True"
    assert "'demo'" not in value(tmp_path, "INSTALLED_APPS", **SAFE)


@pytest.mark.parametrize(
    ("url", "engine"),
    [("postgres://u:p@db.example/fanfare", "postgresql"), ("sqlite:////tmp/fanfare.sqlite3", "sqlite3")],
)
def test_the_database_is_chosen_by_its_address(tmp_path: Path, url: str, engine: str) -> None:
    assert value(tmp_path, "DATABASES['default']['ENGINE']", DATABASE_URL=url) == f"django.db.backends.{engine}"


@pytest.mark.parametrize(
    ("environment", "level", "ours", "others"),
    [
        ({}, "DEBUG", 10, 20),
        ({"STAGE": "qa"}, "DEBUG", 10, 20),
        ({"STAGE": "prod"}, "INFO", 20, 20),
        ({"STAGE": "prod", "LOG_LEVEL": "DEBUG"}, "DEBUG", 10, 20),
        ({"LOG_LEVEL": "WARNING"}, "WARNING", 30, 30),
    ],
)
def test_the_stage_decides_how_much_is_logged(
    tmp_path: Path, environment: dict[str, str], level: str, ours: int, others: int
) -> None:
    code = (
        "import logging; from config import settings; levels = [logging.getLogger(name).getEffectiveLevel()"
        " for name in ('adapters.outbox', 'some.package')]; print(settings.LOG_LEVEL, *levels)"
    )
    assert run(tmp_path, "-c", code, **environment).stdout.split() == [level, str(ours), str(others)]


def test_secrets_are_those_of_the_stage_unless_another_is_named(tmp_path: Path) -> None:
    assert value(tmp_path, "SSM_STAGE", STAGE="pr-17") == "pr-17"
    assert value(tmp_path, "SSM_STAGE", STAGE="pr-17", SSM_STAGE="dev") == "dev"
