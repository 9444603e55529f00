"""Watching users over real sockets, streams and polls: who comes and goes on other processes, and what is lost."""

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.realtime.sockets import Socket, dial
from tests.servers import Stack, eventually

CHECK_SECONDS = 1


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Two web processes. Who leaves is OFFLINE at once."""
    environment = {
        "PRESENCE_GRACE": "0",
        "PRESENCE_LEASE": "2",
        "POSITION_CHECK_SECONDS": str(CHECK_SECONDS),
        "TOPICS_PER_CONNECTION": "128",
    }
    with (
        tempfile.TemporaryDirectory(prefix="w", dir=os.environ["FANFARE_TEST_FOLDER"]) as folder,
        Stack(Path(folder) / "0", **environment) as stack,
    ):
        stack.start_web()
        stack.start_web()
        yield stack


async def states_until(socket: Socket, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Reads frames until a state is as wanted."""
    while True:
        frame = await socket.next("presence")
        for one in frame["presences"]:
            if done(one):
                return dict(one)


async def test_a_watcher_sees_users_of_another_process_come_and_go(stack: Stack) -> None:
    async with dial(stack.web[0], stack.token("alice", "acme"), topics="") as alice:
        async with dial(stack.web[1], stack.token("dora", "globex")), dial(stack.web[1], stack.token("carol", "acme")):
            pass
        said = await alice.ask("subscribed", action="subscribe", topic="watch", users=["carol", "dora", "nobody"])
        assert [one["user"] for one in said["snapshot"]] == ["carol"]
        assert said["refused"] == ["dora", "nobody"]
        assert said["topic"] == "watch"
        async with dial(stack.web[1], stack.token("carol", "acme")) as carol:
            online = await states_until(alice, lambda one: one["status"] == "ONLINE")
            await carol.ask("ok", action="status", availability="busy", text="Hi")
            busy = await states_until(alice, lambda one: one["availability"] == "busy")
            assert (busy["text"], busy["version"]) == ("Hi", online["version"] + 1)
        offline = await states_until(alice, lambda one: one["status"] == "OFFLINE")
        assert (offline["user"], offline["seq"]) == ("carol", online["seq"] + 1)
        await alice.ask("subscribed", action="subscribe", topic="watch", users=["alice"])
        async with dial(stack.web[1], stack.token("carol", "acme")):
            await alice.silence(0.5)
        await alice.ask("unsubscribed", action="unsubscribe", topic="watch")
        await alice.ask("ok", action="status", text="unheard")
        await alice.silence(0.5)
        assert not any("unheard" in str(event) or "carol" in str(event) for event in alice.events[alice._seen - 1 :])


async def test_one_user_has_a_topic_with_a_snapshot_and_events_in_the_old_shape(stack: Stack) -> None:
    async with dial(stack.web[0], stack.api_key, topics="watch.erin") as service:
        welcome = service.events[0]["topics"]["watch.erin"]
        assert (welcome["snapshot"]["status"], welcome["offset"]) == ("OFFLINE", 0)
        async with dial(stack.web[1], stack.token("erin")):
            event = await service.next("presence")
            assert event["topic"] == "watch.erin"
            assert event["type"] == "presence"
            assert event["message"].keys() == {"user_id", "status", "timestamp"}
            assert (event["message"]["user_id"], event["message"]["status"]) == ("erin", "ONLINE")
            assert (event["seq"], event["version"], event["availability"], event["text"]) == (1, 1, "available", "")
            async with dial(stack.web[0], stack.token("erin"), topics="watch.erin") as erin:
                snapshot = erin.events[0]["topics"]["watch.erin"]["snapshot"]
                assert (snapshot["status"], snapshot["version"]) == ("ONLINE", 1)


def test_a_poll_finds_what_changed_between_two_polls(stack: Stack) -> None:
    with stack.client() as client:
        first = client.get("/api/poll", params={"topics": "watch.finn"}).json()
        assert first["events"][0]["snapshot"]["version"] == 0
        client.put("/api/presence/finn", json={"text": "one"})
        client.put("/api/presence/finn", json={"text": "two"})
        found = client.get("/api/poll", params={"topics": "watch.finn", "since": first["since"], "wait": 5}).json()
        (newest,) = [
            event.get("snapshot", event) for event in found["events"] if event["event"] in ("presence", "subscribed")
        ][-1:]
        assert (newest["text"], newest["version"]) == ("two", 2)


async def test_what_may_not_be_watched_is_refused(stack: Stack) -> None:
    async with dial(stack.web[0], stack.token("gina", "acme"), topics="watch.stranger") as gina:
        assert (await gina.next("error"))["code"] == "denied"
        too_many = [str(number) for number in range(501)]
        for wrong in (
            {"topic": "watch", "users": too_many},
            {"topic": "user.gina", "users": ["gina"]},
            {"topic": "watch", "users": ["gina"], "token": "x"},
            {"topic": "watch", "users": "gina"},
        ):
            assert (await gina.ask("error", action="subscribe", **wrong))["code"] == "malformed"
            await gina.ask("pong", action="ping")
        assert (await gina.ask("error", action="subscribe", topic="watch"))["code"] == "malformed_topic"
        assert (await gina.ask("error", action="subscribe", topic="watch.stranger"))["code"] == "denied"
        said = await gina.ask("subscribed", action="subscribe", topic="watch", users=["gina", "gina", ""])
        assert ([one["user"] for one in said["snapshot"]], said["refused"]) == (["gina"], [""])


async def test_a_capability_opens_users_of_any_account_and_a_fresh_token_may_close_them(stack: Stack) -> None:
    capable = stack.token("hans", "acme", subscribe=["watch.*"])
    async with dial(stack.web[0], capable, topics="") as hans:
        said = await hans.ask("subscribed", action="subscribe", topic="watch", users=["ida", "hans"])
        assert (len(said["snapshot"]), said["refused"]) == (2, [])
        await hans.send(action="refresh", token=stack.token("hans", "acme"), ref="fresh")
        assert (await hans.next("unsubscribed"))["topic"] == "watch.ida"
        with stack.client() as client:
            assert client.put("/api/presence/ida", json={"text": "unseen"}).is_success
            assert client.put("/api/presence/hans", json={"text": "seen"}).is_success
        await states_until(hans, lambda one: one["text"] == "seen")
        assert "unseen" not in str(hans.events)


async def test_who_moves_to_another_account_is_watched_no_more(stack: Stack) -> None:
    with stack.client() as client:
        assert client.put("/api/users/jane", json={"account": "acme"}).is_success
        async with (
            dial(stack.web[0], stack.token("kurt", "acme"), topics="") as kurt,
            dial(stack.web[1], stack.token("lena", "acme"), topics="watch.jane") as lena,
        ):
            await kurt.ask("subscribed", action="subscribe", topic="watch", users=["jane", "kurt"])
            assert client.put("/api/users/jane", json={"account": "globex"}).is_success
            assert (await kurt.next("unsubscribed"))["topic"] == "watch.jane"
            assert (await lena.end())[0] == 4409
            assert client.put("/api/presence/jane", json={"text": "unseen"}).is_success
            await kurt.silence(0.5)
            assert "unseen" not in str(kurt.events)


async def test_who_is_erased_is_offline_at_once(stack: Stack) -> None:
    with stack.client() as client:
        assert client.put("/api/presence/quinn", json={"text": "here"}).is_success
        async with dial(stack.web[1], stack.api_key, topics="watch.quinn") as service:
            said = await service.ask("subscribed", action="subscribe", topic="watch", users=["quinn"])
            assert said["snapshot"][0]["text"] == "here"
            assert client.delete("/api/users/quinn").is_success
            found = [await service.next("presence"), await service.next("presence")]
            for told in (next(one for one in found if "topic" in one), *found[0].get("presences", [])):
                assert (told["version"], told["status"], told["text"]) == (0, "OFFLINE", "")
        assert client.get("/api/presence/quinn/history").json() == {"transitions": []}


PLANT = """
from presence.models import Presence
for user in {users!r}:
    row, _ = Presence.objects.get_or_create(pk=user)
    Presence.objects.filter(pk=user).update(version=row.version + 1, text={text!r})
"""


async def test_what_the_bus_has_lost_comes_from_the_database(stack: Stack) -> None:
    async with dial(stack.web[0], stack.api_key, topics="watch.mona") as service:
        await service.ask("subscribed", action="subscribe", topic="watch", users=["nils", "olga"])
        await asyncio.to_thread(stack.python, PLANT.format(users=["mona", "nils"], text="planted"))
        found = [await service.next("presence"), await service.next("presence")]
        many = next(frame for frame in found if "presences" in frame)
        assert [(one["user"], one["text"]) for one in many["presences"]] == [("nils", "planted")]
        one = next(frame for frame in found if "topic" in frame)
        assert (one["message"]["user_id"], one["text"]) == ("mona", "planted")


async def test_without_a_bus_changes_come_within_seconds(stack: Stack) -> None:
    async with dial(stack.web[1], stack.api_key, topics="") as service:
        await service.ask("subscribed", action="subscribe", topic="watch", users=["paul"])
        stack.valkey.kill()
        try:
            await asyncio.to_thread(eventually, lambda: "bus" in str(stack.web[1].ready()), 10)
            reply = httpx.put(
                f"{stack.web[0].url}/api/presence/paul",
                json={"text": "no bus"},
                headers={"Authorization": f"Bearer {stack.api_key}"},
            )
            assert reply.is_success
            await states_until(service, lambda one: one["text"] == "no bus")
        finally:
            stack.valkey.start()
