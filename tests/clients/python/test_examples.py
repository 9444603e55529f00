"""What the pages about the Python client show runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import Stack
from tests.test_docs import ROOT, blocks

SECONDS = 60
GUIDE, NOTIFICATIONS, SESSIONS = (ROOT / f"docs/{page}.md" for page in ("clients", "notifications", "sessions"))
README = ROOT / "clients/python/README.md"


def examples(language: str, *pages: Path) -> list[object]:
    return [
        pytest.param(block, id=f"{page.parent.name}-{page.stem}-{number}")
        for page in pages
        for number, block in enumerate(blocks(page, language))
    ]


def run(command: list[str], town: Stack, **more: str) -> str:
    environment = {**os.environ, "FANFARE_URL": town.web[0].url, "FANFARE_KEY": town.api_key, **more}
    done = subprocess.run(command, env=environment, timeout=SECONDS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.mark.parametrize("block", examples("python", GUIDE, SESSIONS, README))
def test_python_examples_run(block: str, town: Stack) -> None:
    assert run([sys.executable, "-W", "error", "-c", block], town)


@pytest.mark.parametrize("block", examples("bash", GUIDE))
def test_shell_examples_run(block: str, town: Stack) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    assert "Build 7 is done" in run(["bash", "-ec", block], town, PATH=path)


def test_the_example_in_the_same_project_sends(town: Stack) -> None:
    (block,) = blocks(NOTIFICATIONS, "python")
    town.python(block)
    with town.client() as client:
        messages = client.get("/api/topics/user.alice/messages?limit=1000").json()["messages"]
    assert "Build 7 is done" in [one["data"].get("text") for one in messages if one["type"] == "build.done"]
