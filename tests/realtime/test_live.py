"""Live over WebSocket, on the real stack: web processes, Valkey and a database of their own."""

import asyncio
import json
import os
import re
import signal
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.realtime.sockets import PATIENCE, dial
from tests.servers import Stack, Web, eventually


class Town(Stack):
    """A stack whose processes start when they are asked for first."""

    def server(self, name: str) -> Web:
        """`uvicorn`, `other` (a second one), `plain-uvicorn` or `daphne`."""
        for web in self.web:
            if web.environment.get("NAME") == name:
                return web
        server = "uvicorn" if name == "other" else name
        return self.start_web("tests.realtime.applications:that_shows_connections", server=server, NAME=name)

    @property
    def main(self) -> Web:
        return self.server("uvicorn")


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    with (
        tempfile.TemporaryDirectory(prefix="t", dir=os.environ["FANFARE_TEST_FOLDER"]) as folder,
        Town(Path(folder) / "town") as town,
    ):
        assert town.main
        yield town


def get(web: Web, path: str) -> httpx.Response:
    return httpx.get(web.url + path, timeout=PATIENCE)


def metric(web: Web, name: str, **labels: str) -> float:
    """A number from /metrics; labels that are given have to match, samples are added up."""
    total = 0.0
    for line in get(web, "/metrics").text.splitlines():
        found = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
        if found and found[1] == name:
            its_labels = dict(re.findall(r'(\w+)="([^"]*)"', found[2] or ""))
            total += float(found[3]) if labels.items() <= its_labels.items() else 0
    return total


# --- The main path --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "connection_class"),
    [("uvicorn", "DirectConnection"), ("plain-uvicorn", "SocketConnection"), ("daphne", "SocketConnection")],
)
async def test_what_is_posted_arrives(town: Town, server: str, connection_class: str) -> None:
    web = town.server(server)
    async with dial(web, town.token(f"alice-{server}", "acme")) as alice:
        welcome = alice.events[0]
        assert welcome["user"] == f"alice-{server}"
        assert set(welcome["topics"]) == {f"user.alice-{server}", "account.acme", "all"}
        eventually(lambda: get(web, "/test/connections").json() == [connection_class], PATIENCE)
        for to, topic in (
            ({"user": f"alice-{server}"}, f"user.alice-{server}"),
            ({"account": "acme"}, "account.acme"),
            ({"all": True}, "all"),
        ):
            accepted = town.send(to, {"text": "Grüße, 世界"}, type="greeting", ttl=60)
            message = await alice.next("message", topic=topic)
            assert message["data"] == {"text": "Grüße, 世界"}
            assert (message["id"], message["offset"]) == (accepted["id"], accepted["offset"])
            assert message["type"] == "greeting"
            assert "sender" not in message
            created_at, expires_at = (datetime.fromisoformat(message[name]) for name in ("created_at", "expires_at"))
            assert timedelta(seconds=59) < expires_at - created_at <= timedelta(seconds=60)
        pong = await alice.ask("pong", action="ping")
        assert (pong["statusCode"], pong["connectionId"]) == (200, welcome["connectionId"])


async def test_the_first_message_of_a_topic_names_its_epoch_before_it_comes(town: Town) -> None:
    async with dial(town.main, town.token("new")) as new:
        assert new.events[0]["topics"]["user.new"] == {"epoch": None, "offset": 0}
        accepted = town.send({"user": "new"}, 1)
        named = await new.next("subscribed", topic="user.new")
        assert (named["epoch"], named["offset"], named["recovered"]) == (accepted["epoch"], 0, True)
        assert (await new.next())["offset"] == 1


@pytest.mark.parametrize("server", ["uvicorn", "daphne"])
async def test_a_large_message_and_many_at_once_arrive(town: Town, server: str) -> None:
    user = f"many-{server}"
    async with dial(town.server(server), town.token(user)) as socket:
        large = "x" * 60_000
        town.send({"user": user}, large)
        assert (await socket.next())["data"] == large
        with town.client() as client:
            batch = [{"to": {"user": user}, "data": number} for number in range(300)]
            assert client.post("/api/notifications/batch", json={"notifications": batch}).status_code == 202
        await socket.next(data=299)
        assert socket.data() == [large, *range(300)]


async def test_what_is_posted_at_one_process_arrives_at_the_other(town: Town) -> None:
    async with dial(town.server("other"), town.token("far"), topics="user.far") as far:
        with town.client(town.main) as client:
            client.post("/api/notifications", json={"to": {"user": "far"}, "data": "hello"})
        started = time.monotonic()
        assert (await far.next())["data"] == "hello"
        assert time.monotonic() - started < 5  # By the bus: position checks take 25 s.
        with town.client(town.server("other")) as client:
            client.post("/api/notifications", json={"to": {"user": "far"}, "data": "there"})
        assert (await far.next())["data"] == "there"


async def test_excluded_users_and_other_users_get_nothing(town: Town) -> None:
    async with dial(town.main, town.token("in", "club")) as one, dial(town.main, town.token("out", "club")) as out:
        town.send({"account": "club"}, "secret", exclude_users=["out"])
        town.send({"user": "in"}, "private")
        town.send({"account": "club"}, "for all")
        await one.next(data="for all")
        await out.next(data="for all")
        assert one.data("account.club") == ["secret", "for all"]
        assert out.data() == ["for all"]


async def test_what_is_not_stored_arrives_without_an_offset(town: Town) -> None:
    async with dial(town.main, town.token("brief")) as brief:
        town.send({"user": "brief"}, "now or never", store=False)
        message = await brief.next()
        assert (message["data"], message["offset"]) == ("now or never", None)


async def test_a_recall_reaches_listeners(town: Town) -> None:
    async with dial(town.server("other"), town.token("rita")) as rita:
        accepted = town.send({"user": "rita"}, "wrong")
        await rita.next()
        with town.client() as client:
            assert client.delete(f"/api/notifications/{accepted['id']}").status_code == 204
        recalled = await rita.next("recalled")
        assert recalled == {"event": "recalled", "topic": "user.rita", "offset": 1, "id": accepted["id"]}


async def test_a_scheduled_message_arrives_within_two_seconds_of_its_time(town: Town) -> None:
    processes = [town.start_worker(), town.start_beat()]
    try:
        async with dial(town.main, town.token("late")) as late:
            town.send({"user": "late"}, "warm up", send_at=datetime.now(UTC).isoformat(), ttl=60)
            await late.next()
            # Worker and beat need some seconds to start.
            town.send({"user": "late"}, "first", send_at=(datetime.now(UTC) + timedelta(seconds=1)).isoformat())
            await late.next(seconds=40, data="first")
            due = datetime.now(UTC) + timedelta(seconds=2)
            accepted = town.send({"user": "late"}, "second", send_at=due.isoformat())
            assert accepted["offset"] is None
            message = await late.next(data="second")
            assert timedelta(0) <= datetime.now(UTC) - due < timedelta(seconds=2)
            assert message["id"] == accepted["id"]
            assert message["offset"] == 3
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(PATIENCE)


# --- Credentials ----------------------------------------------------------------------------------


@pytest.mark.parametrize("server", ["uvicorn", "daphne"])
async def test_every_way_to_bring_a_token(town: Town, server: str) -> None:
    web, token = town.server(server), town.token("tess")
    async with dial(web, token) as header:
        assert header.events[0]["user"] == "tess"
    async with dial(web, subprotocols=["fanfare.v1", f"bearer.{token}"]) as subprotocol:
        assert subprotocol.connection.subprotocol == "fanfare.v1"
        assert subprotocol.events[0]["user"] == "tess"
    async with dial(web, query={"authorization": token}) as query:
        assert query.events[0]["user"] == "tess"


async def test_an_api_key_is_a_service(town: Town) -> None:
    async with dial(town.main, town.api_key) as service:
        assert (service.events[0]["user"], service.events[0]["topics"]) == (None, {})
        await service.ask("subscribed", action="subscribe", topic="user.anybody")
        town.send({"user": "anybody"}, "hello")
        assert (await service.next())["data"] == "hello"


@pytest.fixture(scope="module")
def session_cookie(town: Town) -> str:
    return town.python(
        "from django.contrib.auth.models import User; from django.test import Client; client = Client();"
        "client.force_login(User.objects.create_superuser('root')); print(client.cookies['sessionid'].value)"
    ).strip()


async def test_a_session_counts_with_an_allowed_origin_only(town: Town, session_cookie: str) -> None:
    headers = {"Cookie": f"sessionid={session_cookie}"}
    async with dial(town.main, headers=headers, origin=town.main.url, topics="all") as operator:
        assert list(operator.events[0]["topics"]) == ["all"]
    for origin in ("https://evil.example", "null", None):
        async with dial(town.main, headers=headers, origin=origin, welcomed=False) as stranger:
            assert (await stranger.end())[0] == 4501


@pytest.mark.parametrize("server", ["uvicorn", "daphne"])
async def test_a_bad_credential_is_told_apart_from_one_that_has_expired(town: Town, server: str) -> None:
    web, good = town.server(server), town.token("eve")
    for token in (None, "nonsense", good[:-3] + "abc", "ff_0123456789ab_" + "0" * 64):
        async with dial(web, token, welcomed=False) as socket:
            assert (await socket.end())[0] == 4501
            assert socket.events == []
    async with dial(web, town.token("eve", ttl=-1), welcomed=False) as expired:
        assert (await expired.end())[0] == 4401


@pytest.mark.parametrize("server", ["uvicorn", "daphne"])
async def test_a_socket_ends_when_its_token_does(town: Town, server: str) -> None:
    ends_at = int(time.time()) + 2
    async with dial(town.server(server), town.token("cinderella", ttl=2)) as socket:
        code, _ = await socket.end()
        assert code == 4401
        assert -0.1 <= time.time() - ends_at < 5


async def test_another_path_is_no_socket(town: Town) -> None:
    web = Web(town, 99, "", "uvicorn", town.main.port, {})
    web.socket_url = town.main.socket_url + "other"
    with pytest.raises(InvalidStatus) as refused:
        async with dial(web, town.token("lost")):
            pass
    assert refused.value.response.status_code == 403


# --- Actions --------------------------------------------------------------------------------------


async def test_who_comes_back_with_a_position_gets_what_it_missed_and_only_that(town: Town) -> None:
    for number in range(5):
        accepted = town.send({"user": "ulla"}, number)
    async with dial(town.main, town.token("ulla"), topics="") as ulla:
        since = {"epoch": accepted["epoch"], "offset": 2}
        said = await ulla.ask("subscribed", action="subscribe", topic="user.ulla", since=since)
        assert (said["epoch"], said["offset"], said["recovered"]) == (accepted["epoch"], 5, True)
        assert ulla.data() == [2, 3, 4]  # Before `subscribed`.
        town.send({"user": "ulla"}, 5)
        assert (await ulla.next())["offset"] == 6


async def test_who_comes_back_while_messages_come_misses_and_repeats_nothing(town: Town) -> None:
    first = town.send({"topic": "rush"}, 0)
    token = town.token("rosa", subscribe=["topic.rush"])
    count = 60

    async def post() -> None:
        async with httpx.AsyncClient(
            base_url=town.main.url, headers={"Authorization": f"Bearer {town.api_key}"}, timeout=PATIENCE
        ) as client:
            for number in range(1, count + 1):
                sent = await client.post("/api/notifications", json={"to": {"topic": "rush"}, "data": number})
                assert sent.status_code == 202

    posting = asyncio.create_task(post())
    got: list[int] = []
    offset = 0
    deadline = time.monotonic() + 60
    while len(got) < count + 1:
        assert time.monotonic() < deadline, got
        web = town.server("other") if len(got) % 2 else town.main
        async with dial(web, token, topics="") as rosa:
            since = {"epoch": first["epoch"], "offset": offset}
            said = await rosa.ask("subscribed", action="subscribe", topic="topic.rush", since=since)
            assert said["recovered"]
            if len(rosa.data()) + len(got) < count + 1:
                await rosa.next()
            messages = [event for event in rosa.events if event["event"] == "message"]
            got += [message["data"] for message in messages]
            offset = messages[-1]["offset"] if messages else offset
    await posting
    assert got == list(range(count + 1))


async def test_a_position_that_cannot_be_resumed_is_not_recovered(town: Town) -> None:
    accepted = town.send({"user": "vera"}, 0)
    async with dial(town.main, town.token("vera"), topics="") as vera:
        for since in (
            {"epoch": "another", "offset": 1},
            {"epoch": accepted["epoch"], "offset": 2},
            {"epoch": accepted["epoch"], "offset": 2**64 - 1},
            {"epoch": accepted["epoch"], "offset": -(2**63)},
        ):
            said = await vera.ask("subscribed", action="subscribe", topic="user.vera", since=since)
            assert (said["epoch"], said["offset"], said["recovered"]) == (accepted["epoch"], 1, False)


async def test_subscribing_needs_a_capability(town: Town) -> None:
    async with dial(
        town.main, town.token("mallory", "acme", subscribe=["topic.open*"]), topics="user.bob,all"
    ) as socket:
        assert list(socket.events[0]["topics"]) == ["all"]
        assert (await socket.next("error"))["code"] == "denied"
        for topic in ("user.bob", "account.other", "topic.closed", "control", "nonsense.x"):
            assert (await socket.ask("error", action="subscribe", topic=topic))["code"] == "denied"
        assert (await socket.ask("error", action="subscribe", topic="topic."))["code"] == "malformed_topic"
        await socket.ask("subscribed", action="subscribe", topic="topic.open-house")
        town.send({"user": "bob"}, "private")
        town.send({"topic": "open-house"}, "welcome")
        assert (await socket.next())["data"] == "welcome"


async def test_who_has_unsubscribed_gets_nothing_more(town: Town) -> None:
    async with dial(town.main, town.token("uma")) as uma:
        await uma.ask("unsubscribed", action="unsubscribe", topic="user.uma")
        await uma.ask("unsubscribed", action="unsubscribe", topic="user.never")
        town.send({"user": "uma"}, "unheard")
        await uma.silence()
        assert uma.data() == []
        await uma.ask("subscribed", action="subscribe", topic="user.uma")
        town.send({"user": "uma"}, "heard")
        assert (await uma.next())["data"] == "heard"


@pytest.mark.parametrize("server", ["uvicorn", "daphne"])
async def test_publishing_needs_a_capability_and_the_server_names_the_sender(town: Town, server: str) -> None:
    web, room = town.server(server), f"topic.room-{server}"
    capable = town.token("paul", publish=[room], subscribe=[room])
    async with (
        dial(web, capable, topics=room) as paul,
        dial(web, town.token("pia", subscribe=[room]), topics=room) as pia,
    ):
        said = await paul.ask("ok", action="publish", topic=room, data={"text": "hi"}, type="chat")
        message = await pia.next()
        assert (message["data"], message["type"], message["sender"]) == ({"text": "hi"}, "chat", "paul")
        assert (message["id"], message["offset"]) == (said["id"], said["offset"])
        await paul.silence(0)
        assert [event["id"] for event in paul.events if event["event"] == "message"] == [said["id"]]
        refused = await pia.ask("error", action="publish", topic=room, data="no")
        assert refused["code"] == "denied"
        forged = await paul.ask("error", action="publish", topic=room, data="x", sender="pia")
        assert forged["code"] == "malformed"
        await paul.send(action="publish", topic=room, data="no answer is asked for")
        assert (await pia.next())["data"] == "no answer is asked for"


@pytest.mark.parametrize("server", ["uvicorn", "daphne"])
async def test_three_bad_frames_in_a_row_end_the_socket(town: Town, server: str) -> None:
    async with dial(town.server(server), town.token("bad")) as socket:
        for text in ("nonsense", '{"action":"dance"}'):
            await socket.connection.send(text)
            await socket.next("error")
        await socket.ask("pong", action="ping")  # A good one: it counts anew.
        await socket.connection.send(b"\x00binary")
        await socket.connection.send('{"action":"ping","unknown":1}')
        await socket.connection.send("[" * 10_000)
        assert (await socket.end())[0] == 4500
        codes = [event["code"] for event in socket.events if event["event"] == "error"]
        assert codes == ["malformed", "unknown_action", "malformed", "malformed", "malformed"]


async def test_a_frame_that_is_too_large_ends_the_socket(town: Town) -> None:
    async with dial(town.main, town.token("big")) as socket:
        ref = "x" * (65536 - len('{"action":"ping","ref":""}'))
        await socket.connection.send(json.dumps({"action": "ping", "ref": ref}, separators=(",", ":")))
        assert (await socket.next("pong"))["ref"] == ref
        await socket.connection.send(json.dumps({"action": "ping", "ref": ref + "x"}, separators=(",", ":")))
        assert (await socket.end())[0] == 1009


# --- Operations -----------------------------------------------------------------------------------


async def test_health_and_metrics_tell_the_truth(town: Town) -> None:
    web = town.main
    assert get(web, "/livez").json() == {"status": "ok"}
    eventually(lambda: web.ready() == {"status": "ok", "problems": []}, PATIENCE)
    eventually(lambda: metric(web, "fanfare_connections") == 0, PATIENCE)
    eventually(lambda: metric(web, "fanfare_topics") == 0, PATIENCE)
    before = {
        name: metric(web, f"fanfare_{name}")
        for name in ("deliveries_total", "bus_events_total", "repairs_total", "publish_to_send_seconds_count")
    }
    closes = metric(web, "fanfare_closes_total", code="4500")
    async with dial(web, town.token("m1")) as one, dial(web, town.token("m2")) as two, dial(web, town.api_key):
        assert metric(web, "fanfare_connections", transport="websocket") == 3
        assert metric(web, "fanfare_topics") == 3  # all, user.m1, user.m2
        assert metric(web, "fanfare_bus_up") == 1
        # That two users are there is told to who watches many, and to who watches one of them.
        eventually(lambda: metric(web, "fanfare_bus_events_total") - before["bus_events_total"] == 4, PATIENCE)
        for number in range(5):
            town.send({"all": True}, number)
        town.send({"user": "m1"}, 5)
        await one.next(data=5)
        await two.next(data=4)
        for _ in range(3):
            await two.connection.send("nonsense")
        await two.end()
    eventually(lambda: metric(web, "fanfare_connections") == 0, PATIENCE)
    eventually(lambda: metric(web, "fanfare_topics") == 0, PATIENCE)
    gained = {name: metric(web, f"fanfare_{name}") - value for name, value in before.items()}
    assert (gained["deliveries_total"], gained["bus_events_total"] - 4, gained["repairs_total"]) == (11, 6, 0)
    assert 2 <= gained["publish_to_send_seconds_count"] <= 6
    assert metric(web, "fanfare_closes_total", code="4500") - closes == 1


def test_logs_are_json_with_a_request_id_and_without_secrets(town: Town) -> None:
    token = town.token("lena")

    async def live() -> None:
        async with dial(town.main, query={"authorization": token}) as lena:
            town.send({"user": "lena"}, {"text": "payload-that-is-nobodys-business"})
            await lena.next()
            await lena.send(action="publish", topic="user.lena", data="payload-that-is-nobodys-business")
            await lena.next("error")
        async with dial(town.main, token + "x", welcomed=False) as refused:
            await refused.end()

    asyncio.run(live())
    with town.client() as client:
        reply = client.get("/api/notifications", headers={"X-Request-Id": "my-request-7"}, params={"user": "lena"})
        assert reply.headers["X-Request-Id"] == "my-request-7"
        assert re.fullmatch(r"[0-9a-f]{32}", client.get("/livez").headers["X-Request-Id"])
    logs = town.logs()
    for secret in (token, token.split(".")[2], town.api_key, "payload-that-is-nobodys-business"):
        assert secret not in logs
    records: list[dict[str, Any]] = [
        json.loads(line)
        for web in town.web
        if web.server != "daphne"  # It writes lines of its own before it loads the application.
        for line in (town.folder / f"web{web.number}.log").read_text().splitlines()
    ]
    assert all({"message", "level", "timestamp", "logger"} <= record.keys() for record in records)
    (line,) = [record for record in records if record.get("request_id") == "my-request-7"]
    assert line["message"] == "Looking up ff_[redacted]"  # Our application for tests wrote the whole key.
