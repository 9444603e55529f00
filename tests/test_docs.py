"""What is there is documented, what is documented is there, and the examples run."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from django.core.management import get_commands
from django.urls import URLPattern
from websockets.sync.client import connect

import accounts.urls
import realtime.urls
from accounts import tokens
from accounts.principals import SCOPES
from realtime import protocol
from tests.servers import Stack, eventually

ROOT = Path(__file__).parents[1]
README, SETTINGS, PROTOCOL = ROOT / "README.md", ROOT / "docs/settings.md", ROOT / "docs/protocol.md"
NOTIFICATIONS, IDENTITY = ROOT / "docs/notifications.md", ROOT / "docs/identity.md"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
ROOMS = (
    "accounts",
    "adapters",
    "config",
    "demo",
    "leaderboards",
    "notifications",
    "presence",
    "realtime",
    "sessions_app",
)
ROOMS_THAT_COUNT = ("adapters", "presence", "realtime", "sessions_app")

EXAMPLE_URL = "http://127.0.0.1:8000"
SECONDS = 10
STRICT_CURL = f'set -euo pipefail; curl() {{ command curl --fail-with-body -sS --max-time {SECONDS} "$@"; }}\n'


def blocks(page: Path, language: str) -> list[str]:
    """The fenced code blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def rows(page: Path, section: str = "") -> list[list[str]]:
    """The cells of all table rows of a page, or of the section under one heading."""
    text = page.read_text()
    if section:
        text = text.partition(f"\n{section}\n")[2].partition("\n## ")[0]
        assert text, section
    lines = re.findall(r"^\|(.*)\|$", text, re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def calls(path: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))


def named(call: ast.Call) -> str:
    return ast.unparse(call.func).rpartition(".")[2]


def constant(call: ast.Call, place: int) -> str | None:
    """An argument that is a plain text."""
    node = call.args[place] if place < len(call.args) else None
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


# --- Settings -------------------------------------------------------------------------------------


def settings_calls() -> dict[str, ast.Call]:
    """Where config/settings.py reads each environment variable."""
    reads = [
        c
        for c in calls(ROOT / "config/settings.py")
        if re.match(r"(env\.\w+|secret|json_setting)$", ast.unparse(c.func))
    ]
    return {name: call for call in reads if (name := constant(call, 0))}


def documented_settings(section: str = "") -> dict[str, str]:
    """Each setting's default, as its row says."""
    return {row[0].strip("`"): row[1] for row in rows(SETTINGS, section) if re.fullmatch("`[A-Z_]+`", row[0])}


def test_every_setting_has_a_row_and_every_row_a_setting() -> None:
    for_tests = documented_settings("## Tests").keys()
    assert documented_settings().keys() - for_tests == settings_calls().keys()
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("*.py"))
    assert all(f'"{name}"' in tests for name in for_tests)


def test_the_documented_defaults_are_the_defaults() -> None:
    documented = documented_settings()
    for name, call in settings_calls().items():
        for default in (keyword.value for keyword in call.keywords if keyword.arg == "default"):
            try:
                value = eval(ast.unparse(default), {})
            except NameError:
                continue  # It depends on other settings: the row says how.
            shown = f"`{value:.12g}`" if isinstance(value, int | float) else f"`{value}`" if value else "empty"
            assert documented[name].startswith(shown), name


# --- The protocol ---------------------------------------------------------------------------------


def examples() -> list[dict[str, Any]]:
    return [json.loads(block) for block in blocks(PROTOCOL, "json")]


def test_every_action_has_an_example_that_the_server_takes() -> None:
    actions = [example for example in examples() if "action" in example]
    assert {action["action"] for action in actions} == protocol.ACTIONS
    for action in actions:
        protocol.parse(json.dumps(action))


def test_every_event_has_an_example() -> None:
    made = {constant(c, 0) for c in calls(ROOT / "realtime/protocol.py") if named(c) == "_event"}
    assert {example["event"] for example in examples() if "event" in example} == made


def test_every_close_code_has_a_row_that_says_whether_to_come_back() -> None:
    table = {int(row[0]): row for row in rows(PROTOCOL, "## Close codes") if row[0].isdigit()}
    assert {code: row[1].strip("`") for code, row in table.items() if row[1]} == {
        int(code): code.name for code in protocol.CloseCode
    }
    for code, row in table.items():
        if code >= 4000:
            assert row[3].startswith("yes" if code < 4500 else "no"), code


def error_codes() -> set[str]:
    """Every error code that the server's code names."""
    found: set[str | None] = set()
    for path in (path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        for call in calls(path):
            if named(call) in ("ApiError", "ProtocolError"):
                found.add(constant(call, named(call) == "ApiError"))
            elif ast.unparse(call.func) == "protocol.error":
                found.add(constant(call, 0))
        for node in ast.walk(ast.parse(path.read_text())):
            for key, value in zip(node.keys, node.values, strict=True) if isinstance(node, ast.Dict) else ():
                if isinstance(key, ast.Constant) and key.value == "code" and isinstance(value, ast.Constant):
                    found.add(value.value if isinstance(value.value, str) else None)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "super().__init__" and len(node.args) > 1:
                code = node.args[1]
                if isinstance(code, ast.IfExp):
                    found |= {ast.literal_eval(code.body), ast.literal_eval(code.orelse)}
    by_status = re.findall(r'^    \d{3}: "(\w+)",$', (ROOT / "config/api.py").read_text(), re.MULTILINE)
    return {code for code in found if code} | set(by_status)


def test_every_error_code_is_documented_and_no_other() -> None:
    by_status = [*rows(NOTIFICATIONS, "## Errors"), *rows(PROTOCOL, "## Connecting")]
    cells = [row[1] for row in by_status if row[0].isdigit()] + [row[0] for row in rows(PROTOCOL, "## Errors")]
    assert set(re.findall(r"`(\w+)`", " ".join(cells))) == error_codes()


# --- Identity -------------------------------------------------------------------------------------


def routes_of(pattern: URLPattern) -> set[str]:
    """The methods of a route, each with its path, every parameter shown as {}."""
    path = re.sub(r"<[^<>]*>|\(.*\)", "{}", str(pattern.pattern)).strip("^$")
    view = getattr(pattern.callback, "view_class")  # noqa: B009 (Django's types do not know it)
    methods = ("get", "post", "put", "patch", "delete")
    return {f"{method.upper()} /api/{path}" for method in methods if hasattr(view, method)}


def test_every_route_of_identity_has_a_row_that_says_who_may() -> None:
    documented = {re.sub(r"\{\w+\}", "{}", row[0].strip("`")) for row in rows(IDENTITY, "## Routes")}
    patterns = [*accounts.urls.api_urlpatterns, *realtime.urls.urlpatterns]
    known = set().union(*(routes_of(pattern) for pattern in patterns))
    assert {route for route in documented if "/api/" in route} == known


def test_every_scope_that_identity_names_is_one() -> None:
    named_scopes = re.findall(r"`([a-z]+:(?:read|write))`", IDENTITY.read_text())
    assert named_scopes
    assert set(named_scopes) <= SCOPES


def test_every_audited_action_has_a_row() -> None:
    paths = (path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
    recorded = {constant(c, 1) for path in paths for c in calls(path) if ast.unparse(c.func) == "audit.record"}
    documented = " ".join(row[0] for row in rows(IDENTITY, "## Audit"))
    assert set(re.findall(r"`([\w.]+)`", documented)) == recorded


# --- What pages refer to --------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_commands_and_metrics_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    for path in re.findall(rf"(?<![\w/])(?:{'|'.join(ROOMS)}|static)/[\w/]+\.\w+", text):
        assert (ROOT / path).exists(), path
    for command in re.findall(r"manage\.py ([a-z_]+)", text):
        assert command in {*get_commands(), "up"}, command
    counted = "".join(
        (ROOT / path).read_text()
        for path in ("accounts/throttles.py", *(f"{room}/metrics.py" for room in ROOMS_THAT_COUNT))
    )
    for metric in re.findall(r"`(fanfare_\w+)`", text):
        assert f'"{metric}"' in counted, metric


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) < 150


# --- Examples run ---------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_are_well_formed(page: Path, tmp_path: Path) -> None:
    for block in blocks(page, "json"):
        json.loads(block)
    for block in blocks(page, "python"):
        compile(block, page.name, "exec")
    if node := shutil.which("node"):
        for number, block in enumerate(blocks(page, "js")):
            module = tmp_path / f"{number}.mjs"
            module.write_text(block)
            subprocess.run([node, "--check", module], check=True, timeout=SECONDS)


@pytest.mark.parametrize("target", sorted({*re.findall(r"\bmake ([a-z]+)\b", "\n".join(blocks(README, "bash")))}))
def test_the_readmes_commands_exist(target: str) -> None:
    subprocess.run(["make", "-n", target], cwd=ROOT, check=True, timeout=SECONDS, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """One for all examples: none of them changes what another one expects."""
    short = TemporaryDirectory(prefix="s", dir=os.environ["FANFARE_TEST_FOLDER"])
    with short as folder, Stack(Path(folder) / "docs") as stack:
        stack.start_web()
        yield stack


def run_example(block: str, stack: Stack, prelude: str = STRICT_CURL) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", prelude + block.replace(EXAMPLE_URL, stack.web[0].url)],
        env={**os.environ, "FANFARE_KEY": stack.api_key},
        timeout=6 * SECONDS,
        capture_output=True,
        text=True,
    )


CURL_BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(block for block in blocks(page, "bash") if "curl " in block)
    if "/api/stream" not in block
]


@pytest.mark.parametrize("block", CURL_BLOCKS)
def test_curl_examples_are_answered_with_2xx(block: str, stack: Stack) -> None:
    done = run_example(block, stack)
    assert done.returncode == 0, done.stderr + done.stdout


def test_the_stream_example_is_welcomed(stack: Stack) -> None:
    (block,) = (block for block in blocks(PROTOCOL, "bash") if "/api/stream" in block)
    done = run_example(block, stack, 'curl() { command curl --fail -sS --max-time 2 "$@"; }\n')
    assert done.returncode == 28, done.stderr  # The time was over: the stream was open.
    assert done.stdout.startswith('data: {"event":"welcome"')


def test_the_readmes_token_is_one(settings: Any) -> None:
    (block,) = blocks(README, "python")
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)
    holder = tokens.verify(names["fanfare_token"]("alice", settings.TOKEN_SIGNING_KEY))
    assert holder.acts == "alice"
    assert holder.issued_at


# --- The client in Python -------------------------------------------------------------------------


def test_the_python_client_prints_every_message_once_and_in_order_over_a_restart(stack: Stack, tmp_path: Path) -> None:
    (block,) = blocks(PROTOCOL, "python")
    web, printed = stack.start_web(), tmp_path / "printed"
    env = {**os.environ, "FANFARE_URL": web.socket_url, "FANFARE_TOKEN": stack.token("carol")}

    def shows(text: str) -> Callable[[], bool]:
        return lambda: text in printed.read_text()

    with printed.open("w") as out, subprocess.Popen([sys.executable, "-c", block], env=env, stdout=out) as client:
        try:
            eventually(shows("listening as carol"), SECONDS)
            for number in range(1, 6):
                if number == 3:
                    web.kill()
                stack.send({"user": "carol"}, number)
                if number == 3:
                    web.start()
                eventually(shows(f"user.carol {number} {number}"), 4 * SECONDS, printed.read_text)
        finally:
            client.kill()
    messages = [line for line in printed.read_text().splitlines() if not line.startswith("listening")]
    assert messages == [f"user.carol {number} {number}" for number in range(1, 6)]


def test_the_documented_loop_fetches_what_clients_sent(stack: Stack, tmp_path: Path) -> None:
    block = next(block for block in blocks(ROOT / "docs/client-messages.md", "python") if "while True" in block)
    web, printed = stack.web[0], tmp_path / "printed"
    code = block.replace(EXAMPLE_URL, web.url)
    env = {**os.environ, "FANFARE_KEY": stack.api_key, "PYTHONUNBUFFERED": "1"}
    helpers = [stack.start_worker(), stack.start_beat()]  # They carry what is owed to the table.
    with printed.open("w") as out, subprocess.Popen([sys.executable, "-c", code], env=env, stdout=out) as loop:
        try:
            headers = {"Authorization": f"Bearer {stack.token('dora')}"}
            with connect(web.socket_url, additional_headers=headers, proxy=None) as socket:
                socket.send(json.dumps({"action": "send", "message": {"text": "Where is it?"}, "ref": 1}))
                eventually(lambda: "Where is it?" in printed.read_text(), 4 * SECONDS, printed.read_text)
        finally:
            for process in (loop, *helpers):
                process.kill()
