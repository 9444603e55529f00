"""The demo's leaderboard in a real browser against two real servers, and the command that plays on it."""

import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser import OpenPage
from tests.servers import ROOT, Stack, eventually

PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
COMES = 15_000  # Milliseconds.


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with (
        tempfile.TemporaryDirectory(prefix="b", dir=os.environ["FANFARE_TEST_FOLDER"]) as folder,
        Stack(Path(folder) / "0") as stack,
    ):
        stack.start_web()
        stack.start_web()
        yield stack


def open_board(open_page: OpenPage, stack: Stack, process: int = 0, **options: Any) -> Page:
    page = open_page(f"{stack.web[process].url}/demo/", **options)
    expect(page.locator(".state").first).to_have_text("Live")
    return page


def names(page: Page) -> Locator:
    return page.locator(".standing .name")


def rows(page: Page) -> list[tuple[str, str, str]]:
    texts = page.locator(".standing").evaluate_all(
        "rows => rows.map(row => [...row.cells].map(cell => cell.innerText))"
    )
    return [(place, name, points) for place, name, points in texts]


def reset(stack: Stack) -> None:
    with stack.client() as client:
        assert client.post("/api/leaderboards/demo/windows", json={}).is_success


def submit(stack: Stack, **scores: float) -> None:
    with stack.client(stack.web[1]) as client:
        body = {"scores": [{"name": name, "score": score} for name, score in scores.items()]}
        assert client.post("/api/leaderboards/demo", json=body).is_success


def best(stack: Stack) -> list[tuple[str, str, str]]:
    with stack.client() as client:
        found = client.get("/api/leaderboards/demo", params={"endRank": 10}).json()["leaderboard"]
    return [(str(row["rank"] + 1), row["name"].title(), f"{row['score']:,}") for row in found]


def test_who_scores_in_one_browser_is_seen_in_another_on_another_process(open_page: OpenPage, stack: Stack) -> None:
    hers, his = open_board(open_page, stack, 0), open_board(open_page, stack, 1)
    expect(hers.get_by_text("Nobody has scored so far.")).to_be_visible()
    hers.get_by_role("button", name="Score for Alice").focus()
    hers.keyboard.press("Enter")
    expect(hers.locator(".board-note")).to_contain_text("now at place 1.")
    for page in (hers, his):
        expect(names(page)).to_have_text(["Alice"], timeout=COMES)
        expect(page.locator(".board-total")).to_have_text("One player")
    expect(his.get_by_text("Nobody has scored so far.")).to_be_hidden()
    submit(stack, grace=1000)
    for page in (hers, his):
        expect(names(page)).to_have_text(["Grace", "Alice"], timeout=COMES)
    expect(hers.get_by_role("status").filter(has_text="Grace leads the board.")).to_be_attached(timeout=COMES)
    reset(stack)
    for page in (hers, his):
        expect(names(page)).to_have_count(0, timeout=COMES)


def test_the_board_follows_whatever_comes_also_over_a_restart(open_page: OpenPage, stack: Stack) -> None:
    page = open_board(open_page, stack, 0)
    chance = random.Random(5)
    for step in range(12):
        submit(stack, **{f"p{chance.randrange(25)}": chance.randrange(1, 50) for _ in range(12)})
        if step == 6:
            stack.web[0].restart()
    expect(page.locator(".state").first).to_have_text("Live", timeout=30_000)
    submit(stack, last=5000)
    expect(names(page).first).to_have_text("Last", timeout=COMES)
    eventually(lambda: rows(page) == best(stack), 10, lambda: f"{rows(page)} {best(stack)}")


def test_on_a_phone_nothing_is_cut_and_who_wants_no_motion_sees_none(open_page: OpenPage, stack: Stack) -> None:
    still = open_board(open_page, stack, reduced_motion="reduce", **PHONE)
    moving = open_board(open_page, stack)
    watch = """() => {
      window.moved = 0;
      const animate = Element.prototype.animate;
      Element.prototype.animate = function (...how) { window.moved++; return animate.apply(this, how); };
    }"""
    for page in (still, moving):
        page.evaluate(watch)
    submit(stack, **{"x" * 190: 90_000_000, "ada": 80_000_000})
    submit(stack, ada=20_000_000)
    for page in (still, moving):
        expect(names(page).first).to_have_text("Ada", timeout=COMES)
        expect(page.locator(".standing .points").first).to_have_text("100,000,000")
    assert still.evaluate("document.documentElement.scrollWidth") == 360
    assert still.evaluate("moved") == 0
    assert moving.evaluate("moved") > 0


def test_the_command_plays_for_a_while_and_says_what_it_did(open_page: OpenPage, stack: Stack) -> None:
    page = open_board(open_page, stack)
    assert " on the board demo." in stack.manage("demo", "leaderboard", "--seconds", "2", "--rate", "400")
    expect(names(page)).to_have_count(10, timeout=COMES)
    eventually(lambda: rows(page) == best(stack), 10, lambda: f"{rows(page)} {best(stack)}")


def test_the_command_ends_cleanly_when_it_is_interrupted(stack: Stack) -> None:
    process = subprocess.Popen(
        [sys.executable, ROOT / "manage.py", "demo", "leaderboard", "--rate", "50"],
        env=stack.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        reset(stack)
        eventually(lambda: bool(best(stack)), 20)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert output.endswith(" on the board demo.\n")
