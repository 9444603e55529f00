"""docs/quickstart.md, followed to the letter: a page of one's own with a bell and a board."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect

from tests.browser import OpenPage
from tests.servers import ROOT, Stack, eventually, free_port
from tests.test_docs import EXAMPLE_URL, blocks, run_example

PAGE = ROOT / "docs/quickstart.md"
SITE_PORT = "9000"
PATIENCE = 30.0


def test_the_quick_start_leads_to_a_page_that_lives(
    make_stack: Callable[..., Stack], open_page: OpenPage, tmp_path: Path
) -> None:
    start, key, curls, _listening, _sending = blocks(PAGE, "bash")
    (html,), (site,) = blocks(PAGE, "html"), blocks(PAGE, "python")
    assert start.endswith("make run\n")
    assert key.startswith("export FANFARE_KEY=")
    port = free_port()
    name, origin = start.partition(" make")[0].split("=", 1)
    stack = make_stack(**{name: origin.replace(SITE_PORT, str(port))})
    url = stack.start_web().url
    (tmp_path / "index.html").write_text(html.replace(EXAMPLE_URL, url))
    (tmp_path / "server.py").write_text(site.replace(EXAMPLE_URL, url).replace(SITE_PORT, str(port)))
    process = subprocess.Popen(
        [sys.executable, "server.py"],
        cwd=tmp_path,
        env={**os.environ, "FANFARE_KEY": stack.api_key},
        stderr=subprocess.DEVNULL,
    )
    try:
        page = open_page(_when_it_answers(f"http://127.0.0.1:{port}/", process))
        expect(page.locator("fanfare-board")).to_contain_text("Nobody", timeout=PATIENCE * 1000)
        done = run_example(curls, stack)
        assert done.returncode == 0, done.stderr + done.stdout
        expect(page.locator("fanfare-toasts")).to_contain_text("Welcome to the arena", timeout=PATIENCE * 1000)
        expect(page.locator("fanfare-bell")).to_contain_text("1")
        expect(page.locator("fanfare-board [part~=row]").first).to_contain_text("ada")
        expect(page.locator("fanfare-board")).to_contain_text("42")
    finally:
        process.kill()
        process.wait(10)


def _when_it_answers(url: str, process: "subprocess.Popen[bytes]") -> str:

    def answers() -> bool:
        assert process.poll() is None
        try:
            return httpx.get(url, timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    eventually(answers, PATIENCE)
    return url


def test_one_shell_hears_what_another_one_sends(stack: Stack, tmp_path: Path) -> None:
    listening, sending = (block.replace(EXAMPLE_URL, stack.web[0].url) for block in blocks(PAGE, "bash")[3:])
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "FANFARE_KEY": stack.api_key, "PATH": path}
    printed = tmp_path / "printed"
    with printed.open("w") as out:
        listener = subprocess.Popen(
            ["bash", "-ec", listening], env=environment, stdout=out, stderr=out, start_new_session=True
        )
        try:
            eventually(lambda: "connected as ada" in printed.read_text(), PATIENCE, printed.read_text)
            subprocess.run(["bash", "-ec", sending], env=environment, check=True, timeout=PATIENCE)
            for text in ("It is your turn", "The match begins", "Good evening"):
                eventually(lambda text=text: text in printed.read_text(), PATIENCE, printed.read_text)  # type: ignore[misc]
        finally:
            os.killpg(listener.pid, signal.SIGINT)
            listener.wait(20)


@pytest.mark.any_database
def test_every_block_is_one_of_those() -> None:
    assert PAGE.read_text().count("\n```") == 2 * 7
