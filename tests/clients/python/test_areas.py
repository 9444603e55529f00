"""Every part of the API, against the real server."""

import inspect
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from fanfare_client import AsyncClient, Client, FanfareError, areas, asking, async_areas, notification
from tests.servers import Stack, eventually


def test_messages_are_sent_read_and_recalled(client: Client) -> None:
    sent = client.send("ann", {"text": "Hello"}, "greeting", key="hello", ttl=timedelta(hours=1))
    assert (sent.messages[0].topic, sent.messages[0].offset, sent.replayed) == ("user.ann", 1, False)
    message = client.messages.get(sent.id)
    assert (message.data, message.type, message.key) == ({"text": "Hello"}, "greeting", "hello")
    assert message.created_at.tzinfo
    assert message.timeline[0].what == "accepted"
    assert [one.id for one in client.messages.log("user.ann")] == [sent.id]
    assert client.recall_by_key("hello", user="ann") == [sent.id]
    client.recall(sent.id)
    assert client.messages.log("user.ann") == []


def test_several_users_get_a_message_each_and_batches_say_what_became_of_each(client: Client) -> None:
    sent = client.send({"users": ["bea", "cas", "bea"]}, 1)
    assert [place.user for place in sent.messages] == ["bea", "cas"]
    good, bad = client.send_batch([notification("bea", 2), notification({"user": ""}, 3)])
    assert good.status == 202
    assert good.messages[0].offset == 2
    assert bad.error
    assert (bad.status, bad.error.code, list(bad.error.fields)) == (400, "malformed", ["notifications[1].to.user"])


def test_a_repetition_with_the_same_key_is_the_same_message(client: Client) -> None:
    key = uuid4().hex
    first = client.send("dan", 1, idempotency_key=key)
    again = client.send("dan", 1, idempotency_key=key)
    assert (again.id, again.replayed) == (first.id, True)
    with pytest.raises(FanfareError) as refused:
        client.send("dan", 2, idempotency_key=key)
    assert (refused.value.status, refused.value.code) == (422, "idempotency_mismatch")
    assert len(refused.value.request_id) == 32


def test_scheduled_and_ephemeral_messages_have_no_offset(client: Client) -> None:
    later = client.send("eva", 1, send_at=datetime.now(UTC) + timedelta(hours=1))
    assert later.messages[0].offset is None
    assert client.send("eva", 1, store=False).messages[0].offset is None
    client.send({"account": "acme"}, 1, exclude_users=["eva"])
    with pytest.raises(ValueError, match="zone"):
        client.send("eva", 1, send_at=datetime(2030, 1, 1))


def test_an_inbox_goes_page_by_page(client: Client) -> None:
    ids = [client.send("fay", number).id for number in range(7)]
    inbox = client.inbox("fay")
    assert [one.id for one in inbox.messages(page_size=3)] == ids[::-1]
    assert inbox.counts().unread == 7
    assert set(inbox.read(ids[:2]).receipted) == set(ids[:2])
    assert [one.id for one in inbox.messages(unread=True)] == ids[:1:-1]
    assert inbox.unread(ids[:1]).unread == 6
    assert inbox.archive(ids[6:]).receipted == (ids[6],)
    assert [one.id for one in inbox.messages(archived=True)] == ids[6:]
    assert inbox.seen(all=True).unseen == 0
    assert inbox.read(as_of=datetime.now(UTC)).unread == 0
    assert inbox.acknowledge(ids) == 7
    assert inbox.set_preferences({"marketing": "off"}) == inbox.preferences() == {"marketing": "off"}
    assert len(list(client.messages.history(user="fay", page_size=2))) == 7


def test_tasks(client: Client) -> None:
    id = client.tasks.create({"data": "film"}, user="gil")
    task = client.tasks.get(id)
    assert (task.user, task.type, task.state, task.payload) == ("gil", "echo", "queued", {"data": "film"})
    assert [one.id for one in client.tasks.history(user="gil")] == [id]
    client.tasks.cancel(id)
    assert client.tasks.get(id).state == "cancelled"
    client.tasks.retry(id)
    assert client.tasks.get(id).state == "queued"
    with pytest.raises(FanfareError, match="lost_claim"):
        client.tasks.done(id, "no such claim")


def test_presence(client: Client, town: Stack) -> None:
    assert client.presence.get("hal").status == "OFFLINE"
    assert client.presence.say("hal", "busy", "In a meeting").text == "In a meeting"
    with Client(town.web[0].url, town.token("hal", "house")).listen() as listener:
        next(listener)
        eventually(lambda: client.presence.get("hal").status == "ONLINE", 10)
        assert [one.user for one in client.presence.of_account("house")] == ["hal"]
        assert [one.user for one in client.presence.query(["ida", "hal"])] == ["ida", "hal"]
        assert client.presence.history("hal")[0].status == "ONLINE"
    assert list(client.presence.room("nowhere")) == []
    client.presence.disconnect("hal")


def test_boards(client: Client) -> None:
    board = client.boards["laps"]
    assert board.put(order="asc", metadata={"track": 2}).order == "asc"
    assert board.submit("ivy", 61.5).rank == 0
    good, bad = board.submit_many([{"name": "jon", "score": 59}, {"name": "kim", "score": "fast"}])
    assert good.submitted
    assert bad.error
    assert (good.submitted.rank, bad.error.status) == (0, 400)
    assert board.standing("ivy").position == 2
    assert [(row.name, row.score) for row in board.page().leaderboard] == [("jon", 59), ("ivy", 61.5)]
    assert [row.name for row in board.rows(page_size=1)] == ["jon", "ivy"]
    assert [row.name for row in board.around("ivy", 1).leaderboard] == ["ivy"]
    assert board.of(["ivy", "nobody"]).total == 2
    assert board.between(60, 70).count == 1
    board.hide("jon")
    assert board.standing("ivy").rank == 0
    board.unhide("jon")
    board.remove("jon")
    with pytest.raises(FanfareError, match="not_ranked"):
        board.standing("jon")
    board.reset()
    assert [window.label for window in board.windows()] == ["2", "1"]
    assert "laps" in [one.name for one in client.boards.all()]
    board.drop()


def test_users_and_tokens(client: Client, town: Stack) -> None:
    assert client.users.put("li/lo?", account="acme", attributes={"language": "en"}).account == "acme"
    assert client.users.get("li/lo?").attributes == {"language": "en"}
    assert client.tokens.for_listening("li/lo?").endpoint.startswith("ws://")
    made = client.tokens.create(user="li/lo?", ttl=60)
    with Client(town.web[0].url, made.token) as own:
        assert own.inbox("li/lo?").counts().unread == 0
    assert made.id in [one.id for one in client.tokens.all(user="li/lo?")]
    client.tokens.revoke(made.id)
    assert client.tokens.ticket().ticket
    client.users.erase("li/lo?")
    with pytest.raises(FanfareError, match="unknown_user"):
        client.users.get("li/lo?")


def test_what_goes_outside(client: Client) -> None:
    made = client.destinations.create("table-1", "table", events=["message"], topics=["user.mia"])
    assert client.destinations.change(made.id, enabled=False).enabled is False
    assert client.destinations.get(made.id).name == "table-1"
    assert [one.id for one in client.destinations.all()] == [made.id]
    assert list(client.deliveries.all(destination=made.id, state="dead")) == []
    assert client.deliveries.redrive(destination=made.id) == 0
    assert client.client_messages.receive(max=1) == []
    assert client.client_messages.acknowledge(["nothing.1"]) == 0
    client.destinations.delete(made.id)


def test_names_that_look_like_folders_are_names(client: Client) -> None:
    board = client.boards["dots"]
    board.submit("kept", 1)
    board.submit("..", 2)
    board.remove("..")
    assert [row.name for row in board.rows()] == ["kept"]
    with pytest.raises(ValueError, match="empty"):
        board.remove("")


async def test_the_async_client_does_the_same(async_client: AsyncClient) -> None:
    ids = [(await async_client.send("noa", number)).id for number in range(5)]
    inbox = async_client.inbox("noa")
    assert [one.id async for one in inbox.messages(page_size=2)] == ids[::-1]
    assert (await inbox.read(all=True)).unread == 0
    assert (await async_client.boards["async"].submit("noa", 3)).position == 1
    assert (await async_client.presence.get("noa")).status == "OFFLINE"
    with pytest.raises(FanfareError, match="unknown_message"):
        await async_client.messages.get(str(uuid4()))


def test_both_clients_have_the_same_methods_with_the_same_parameters() -> None:
    for name, area in inspect.getmembers(areas, inspect.isclass):
        if not issubclass(area, asking.Area) or area.__module__ != areas.__name__:
            continue
        twin = getattr(async_areas, f"Async{name}")
        methods = {n: str(inspect.signature(m)) for n, m in vars(area).items() if callable(m) and n != "__getitem__"}
        twins = {n: str(inspect.signature(m)) for n, m in vars(twin).items() if callable(m) and n != "__getitem__"}
        assert twins.keys() == methods.keys()
        assert {n: s.replace("async_", "").replace("Async", "") for n, s in twins.items()} == methods, name


def test_a_key_is_in_no_words_about_the_client(town: Stack) -> None:
    assert town.api_key not in repr(Client(town.web[0].url, town.api_key))
    with pytest.raises(ValueError, match="URL of a server"):
        Client("fanfare.example", "key")
