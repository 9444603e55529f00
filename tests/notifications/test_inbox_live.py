"""The inbox live, on the real stack: what one connection of a user does, all hear, and agree with the server."""

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.realtime.sockets import Socket, dial
from tests.servers import Stack, eventually

DEEDS = ["seen", "read", "unread", "archive"]


@pytest.fixture(scope="module")
def town() -> Iterator[Stack]:
    with (
        tempfile.TemporaryDirectory(prefix="i", dir=os.environ["FANFARE_TEST_FOLDER"]) as folder,
        Stack(Path(folder) / "town", CRITICAL_TYPES="alarm", RATE_USER="") as town,
    ):
        town.start_web()
        town.start_web()  # The user's connections are in two processes.
        yield town


class Home:
    """A user with two connections, and an HTTP client."""

    def __init__(self, town: Stack, user: str) -> None:
        self.town, self.user, self.token = town, user, town.token(user, "acme")
        self.http = town.client(key=self.token)
        self.sockets: list[Socket] = []
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Home":
        for web in self.town.web:
            self.sockets.append(await self._stack.enter_async_context(dial(web, self.token)))
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._stack.aclose()
        self.http.close()

    def inbox(self, query: str = "") -> dict[str, Any]:
        reply = self.http.get(f"/api/inbox{query}")
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    def counts(self) -> dict[str, Any]:
        return counts_of(self.inbox())

    def send(self, data: Any, to: dict[str, Any] | None = None, type: str = "message") -> str:
        return str(self.town.send(to or {"user": self.user}, data, type=type)["id"])

    async def hear(self, state: str, ids: list[str]) -> None:
        """Every connection hears of this change, and then the counts that the server has."""
        for socket in self.sockets:
            change = await socket.next("receipt", state=state)
            assert sorted(change["ids"]) == sorted(ids)
            assert counts_of(await socket.next("unread")) == self.counts()


def counts_of(said: dict[str, Any]) -> dict[str, Any]:
    return {name: said[name] for name in ("unread", "unseen", "unread_more")}


async def test_both_connections_hear_of_every_change_whether_by_socket_or_http(town: Stack) -> None:
    async with Home(town, "ann") as ann:
        ids = [ann.send(n) for n in range(3)]
        for deed in DEEDS:
            answer = await ann.sockets[0].ask("ok", action=deed, ids=ids[:2])
            assert sorted(answer["receipted"]) == sorted(ids[:2])
            assert counts_of(answer) == ann.counts()
            await ann.hear(deed, ids[:2])
        for deed in ("seen", "read", "unread", "archive"):
            reply = ann.http.post(f"/api/inbox/{deed}", json={"ids": [ids[2]]}).json()
            assert reply["receipted"] == [ids[2]]
            await ann.hear(deed, [ids[2]])
        again = await ann.sockets[1].ask("ok", action="archive", ids=ids)
        assert again["receipted"] == []
        for socket in ann.sockets:
            await socket.silence()
            assert sum(event["event"] == "receipt" for event in socket.events) == 8


async def test_all_and_as_of_are_the_same_by_socket_and_by_http(town: Stack) -> None:
    async with Home(town, "ben") as ben, Home(town, "bea") as bea:
        for home in (ben, bea):
            home.send("early")
        await asyncio.sleep(0.01)
        until = datetime.now(UTC).isoformat()
        for home in (ben, bea):
            home.send("late")
        bodies: list[dict[str, Any]] = [{"as_of": until}, {"all": True}]
        for deed in ("seen", "read", "archive"):
            for body in bodies:
                by_socket = await ben.sockets[0].ask("ok", action=deed, **body)
                by_http = bea.http.post(f"/api/inbox/{deed}", json=body).json()
                assert counts_of(by_socket) == counts_of(by_http) == ben.counts() == bea.counts()
                assert len(by_socket["receipted"]) == len(by_http["receipted"]) == 1
                await ben.hear(deed, by_socket["receipted"])
                await bea.hear(deed, by_http["receipted"])
        refused = await ben.sockets[0].ask("error", action="unread", all=True)
        assert refused["code"] == "refused"
        assert bea.http.post("/api/inbox/unread", json={"all": True}).status_code == 422


async def test_after_a_reconnect_the_welcome_says_what_the_server_says(town: Stack) -> None:
    async with Home(town, "cleo") as cleo:
        assert counts_of(cleo.sockets[0].events[0]) == {"unread": 0, "unseen": 0, "unread_more": False}
        ids = [cleo.send(n) for n in range(4)]
        await cleo.sockets[0].next("message", data=3)
        await cleo.sockets[0].connection.close()
        await cleo.sockets[1].ask("ok", action="read", ids=ids[:1])
        await cleo.sockets[1].ask("ok", action="seen", ids=ids[1:2])
        async with dial(town.web[0], cleo.token) as back:
            welcome = back.events[0]
            assert counts_of(welcome) == cleo.counts() == {"unread": 3, "unseen": 2, "unread_more": False}
            states = {m["id"]: (m["seen_at"], m["read_at"]) for m in cleo.inbox()["messages"]}
            assert [bool(states[one][1]) for one in ids] == [True, False, False, False]
            await back.ask("ok", action="read", all=True)
            cleo.sockets[0] = back
            await cleo.hear("read", ids[1:])


async def test_muted_types_are_not_live_and_the_inbox_keeps_its_rules(town: Stack) -> None:
    async with Home(town, "dora") as dora:
        choices = {"noise": "off", "digest": "inbox"}
        assert dora.http.put("/api/users/dora/preferences", json=choices).status_code == 200
        for socket in dora.sockets:
            assert (await socket.end())[0] == 4409
        place = dora.http.get("/api/poll?wait=0").json()["since"]
        async with dial(town.web[0], dora.token) as socket, dial(town.web[0], town.token("other", "acme")) as other:
            targets: list[dict[str, Any]] = [{"user": "dora"}, {"account": "acme"}, {"all": True}]
            for to in targets:
                for type in ("noise", "digest", "alarm"):
                    dora.send(type, to, type)
            town.send({"user": "dora"}, "noise", type="noise", store=False)
            for _ in targets:
                assert (await socket.next("message"))["data"] == "alarm"
            await socket.silence()
            assert socket.data() == ["alarm"] * 3
            await other.next("message", topic="all", data="alarm")
            assert sorted(other.data()) == sorted(["noise", "digest", "alarm"] * 2)
            shown = [message["data"] for message in dora.inbox()["messages"]]
            assert sorted(shown) == sorted(["alarm", "digest"] * 3)
            assert dora.counts()["unread"] == 6
        missed = dora.http.get("/api/poll", params={"wait": 1, "since": place}).json()["events"]
        assert [event["data"] for event in missed if event["event"] == "message"] == ["alarm"] * 3
        assert dora.http.put("/api/users/dora/preferences", json={"alarm": "off"}).status_code == 422


async def test_acknowledgements_come_back_in_the_timeline(town: Stack) -> None:
    async with Home(town, "emil") as emil:
        own, shared = emil.send("own"), emil.send("shared", {"all": True})
        for socket in emil.sockets:
            answer = await socket.ask("ok", action="ack", ids=[own, shared, "01a1fd8a-4e28-755f-8f3d-1f4fccba720e"])
            assert answer["acknowledged"] == 2
        assert emil.http.post("/api/inbox/ack", json={"ids": [own]}).json() == {"acknowledged": 1}
        told = timeline(town, own)
        connections = {socket.events[0]["connectionId"] for socket in emil.sockets}
        steps = [step for step in told["timeline"] if step["what"] == "acknowledged"]
        assert {step["connection"] for step in steps} == {*connections, ""}
        # Each process writes its counts within about a second.
        eventually(lambda: timeline(town, shared)["totals"].get("acknowledged") == 2, 10)
        refused = await emil.sockets[0].ask("error", action="ack", ids=[own] * 1001)
        assert refused["code"] == "malformed"


async def test_the_event_loop_does_not_wait_for_acknowledgements(town: Stack) -> None:
    """A thousand ids in a frame, and a ping behind it from somebody else."""
    async with Home(town, "finn") as finn, dial(town.web[0], town.token("gail")) as gail:
        sent = httpx.post(
            f"{town.web[1].url}/api/notifications/batch",
            json={"notifications": [{"to": {"user": "finn"}, "data": n} for n in range(1000)]},
            headers={"Authorization": f"Bearer {town.api_key}"},
            timeout=30,
        ).json()["results"]
        await finn.sockets[0].send(action="ack", ids=[one["id"] for one in sent], ref="all")
        began = time.monotonic()
        await gail.ask("pong", action="ping")
        assert time.monotonic() - began < 1
        assert (await finn.sockets[0].next("ok", ref="all"))["acknowledged"] == 1000


def timeline(town: Stack, message: str) -> dict[str, Any]:
    with town.client() as client:
        return dict(client.get(f"/api/notifications/{message}").json())
