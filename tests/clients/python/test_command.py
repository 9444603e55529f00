"""The command `fanfare`, as it is installed, against the real server."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fanfare_client import Client
from fanfare_client.command import main
from tests.clients.python.hostile import Hostile, answer
from tests.servers import Stack, eventually, free_port

FANFARE = str(Path(sys.executable).parent / "fanfare")
Fanfare = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fanfare(town: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Fanfare:
    """Runs it in this process -> status, what it printed, what it complained of."""
    monkeypatch.setenv("FANFARE_URL", town.web[0].url)
    monkeypatch.setenv("FANFARE_KEY", town.api_key)

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        return status, *capsys.readouterr()

    return run


def lines(printed: str) -> list[Any]:
    return [json.loads(line) for line in printed.splitlines()]


def test_send_and_inbox(fanfare: Fanfare, client: Client) -> None:
    status, printed, _ = fanfare("send", "--user", "ann", "Hello", "-o", "json")
    (place,) = lines(printed)
    assert (status, place["topic"], place["offset"]) == (0, "user.ann", 1)
    fanfare("send", "--user", "ann", "--data", '{"n": 2}', "--type", "number")
    status, printed, _ = fanfare("inbox", "ann", "-o", "json", "--unread")
    assert [one["data"] for one in lines(printed)] == [{"n": 2}, {"text": "Hello"}]
    status, printed, noted = fanfare("inbox", "ann", "-n", "1", "--mark-read")
    assert "*" in printed
    assert '{"n":2}' in printed
    assert noted == "0 unread\n"
    for target in (["--user", "ann", "--user", "bea"], ["--account", "acme"], ["--topic", "room"], ["--all"]):
        assert fanfare("send", *target, "Hi")[0] == 0


def test_control_characters_of_others_do_not_reach_the_terminal(
    fanfare: Fanfare, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.send("cas", {"text": "\x1b]0;owned\x07\x9b31m"})
    assert not {"\x1b", "\x07", "\x9b"} & set(fanfare("inbox", "cas")[1])
    printed = fanfare("inbox", "cas", "-o", "json")[1]
    assert not {"\x1b", "\x07", "\x9b"} & set(printed)
    assert lines(printed)[0]["data"]["text"] == "\x1b]0;owned\x07\x9b31m"
    with Hostile(answer(400, {"error": {"code": "malformed", "message": "\x1b]0;owned\x07"}})) as server:
        monkeypatch.setenv("FANFARE_URL", server.url)
        assert "\x1b" not in fanfare("inbox", "cas")[2]


def test_who_board_task_and_token(fanfare: Fanfare, client: Client, town: Stack) -> None:
    assert lines(fanfare("who", "dan", "-o", "json")[1])[0]["status"] == "OFFLINE"
    client.users.put("dan", account="house")
    assert "OFFLINE  dan" in fanfare("who", "--account", "house")[1]
    assert fanfare("who", "--room", "lobby")[:2] == (0, "")
    fanfare("board", "arena", "--submit", "eva", "12.5")
    assert lines(fanfare("board", "arena", "--submit", "fay", "13", "-o", "json")[1])[0]["name"] == "fay"
    assert fanfare("board", "arena", "--around", "eva", "-n", "1")[1].split() == ["2", "12.5", "eva"]
    (task,) = lines(fanfare("task", "start", "--user", "dan", '{"data": "film"}', "-o", "json")[1])
    assert task["state"] == "queued"
    assert "cancelled" in fanfare("task", "cancel", task["id"])[1]
    assert "queued" in fanfare("task", "retry", task["id"])[1]
    assert task["id"] in fanfare("task", "list", "--user", "dan")[1]
    token = fanfare("token", "--user", "dan", "--ttl", "60")[1].strip()
    with Client(town.web[0].url, token) as dan:
        assert dan.inbox("dan").counts().unread == 0


def test_redrive(fanfare: Fanfare, client: Client) -> None:
    client.destinations.create("shop", "table", events=["client.send"])
    assert lines(fanfare("redrive", "--destination", "shop", "-o", "json")[1]) == [{"redriven": 0}]
    assert fanfare("redrive", "17")[1] == "0 sent again\n"
    status, _, complaint = fanfare("redrive", "--destination", "nobody")
    assert (status, complaint) == (2, "fanfare: There is no destination nobody.\n")


def test_a_server_without_sessions_is_told_in_words(monkeypatch: pytest.MonkeyPatch, fanfare: Fanfare) -> None:
    missing = answer(404, {"error": {"code": "not_found", "message": "There is no such route."}})
    with Hostile(missing) as server:
        monkeypatch.setenv("FANFARE_URL", server.url)
        for arguments in (["create", "--user", "ann"], ["listen", "s1"], ["list"]):
            status, _, complaint = fanfare("session", *arguments)
            assert status == 1
            assert "This server has no sessions" in complaint


def test_sessions(fanfare: Fanfare, client: Client) -> None:
    whose = ("--user", "hal", "--account", "house")
    (made,) = lines(fanfare("session", "create", *whose, "--session", "hals", "-o", "json")[1])
    assert (made["session_id"], made["transport"], made["retention"]) == ("hals", "poll", 3600)
    assert fanfare("session", "list", "--user", "hal")[1].split()[:4] == ["hals", "poll", "hal", "house"]
    for target in (["--session", "hals"], ["--user", "hal"], ["--account", "house"]):
        assert fanfare("send", *target, target[0][2:])[0] == 0
    printed = fanfare("session", "listen", "hals", "-n", "3", "-o", "json")[1]
    heard = [line["data"]["text"] for line in lines(printed) if line["event"] == "message"]
    assert heard == ["session", "user", "account"]
    assert client.sessions.receive("hals", wait=0) == []
    assert fanfare("session", "destroy", "hals")[0] == 0
    status, _, complaint = fanfare("session", "listen", "hals")
    assert (status, complaint.split(":")[1].strip()) == (1, "unknown_session")


def test_a_session_that_is_made_to_listen_ends_with_it(town: Stack, client: Client, tmp_path: Path) -> None:
    environment = {**os.environ, "FANFARE_URL": town.web[0].url, "FANFARE_KEY": town.api_key}
    with (tmp_path / "out").open("w") as out:
        command = [FANFARE, "session", "listen", "--user", "ivo"]
        listener = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
        eventually(lambda: "connected as ivo" in (tmp_path / "out").read_text(), 20)
        client.send("ivo", {"text": "Hello"})
        eventually(lambda: "Hello" in (tmp_path / "out").read_text(), 20)
        assert len(list(client.sessions.all(user="ivo"))) == 1
        listener.send_signal(signal.SIGINT)
        assert listener.wait(10) == 130
    assert list(client.sessions.all(user="ivo")) == []


def test_doctor(fanfare: Fanfare, monkeypatch: pytest.MonkeyPatch) -> None:
    status, printed, _ = fanfare("doctor", "-o", "json")
    assert {finding["check"]: finding["ok"] for finding in lines(printed)} == dict.fromkeys(
        ["server", "ready", "clock", "credential", "socket"], True
    )
    assert status == 0
    monkeypatch.setenv("FANFARE_KEY", "ff_wrong")
    status, printed, _ = fanfare("doctor")
    assert status == 1
    assert "FAIL  credential" in printed
    assert "manage.py apikey create" in printed
    monkeypatch.setenv("FANFARE_URL", f"http://127.0.0.1:{free_port()}")
    status, printed, _ = fanfare("doctor")
    assert status == 1
    assert "Is FANFARE_URL right?" in printed


def test_what_goes_wrong_is_one_line_and_a_status(fanfare: Fanfare, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fanfare("send", "--user", "ann")[0] == 2
    status, _, complaint = fanfare("send", "--user", "a,b", "Hi")
    assert status == 1
    assert complaint.startswith("fanfare: malformed: ")
    monkeypatch.delenv("FANFARE_KEY")
    status, _, complaint = fanfare("inbox", "ann")
    assert status == 2
    assert "FANFARE_KEY" in complaint


def test_tail_prints_until_it_is_interrupted(town: Stack, client: Client, tmp_path: Path) -> None:
    environment = {**os.environ, "FANFARE_URL": town.web[0].url, "FANFARE_KEY": town.api_key}
    client.send("gil", 1)
    command = [FANFARE, "tail", "user.gil", "--from-start", "-n", "2", "-o", "json"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as tail:
        client.send("gil", 2)
        printed, _ = tail.communicate(timeout=30)
    assert [line["data"] for line in lines(printed) if line["event"] == "message"] == [1, 2]
    with (tmp_path / "out").open("w") as out:
        endless = subprocess.Popen([FANFARE, "tail", "user.gil"], env=environment, stdout=out, stderr=out)
        eventually(lambda: "connected" in (tmp_path / "out").read_text(), 20)
        endless.send_signal(signal.SIGINT)
        assert endless.wait(10) == 130
