"""`/topics/{cache}/{topic}`: publishing and the long poll in Momento's shape; no number lacks without being told."""

import base64
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import msgspec
import pytest
from django.conf import LazySettings
from django.test import Client
from django.utils import timezone

from accounts import api_keys, tokens
from notifications import retention, sequences
from notifications.log import Draft, accept
from notifications.models import Message, Topic, new_epoch
from tests.realtime.inside import APPLICATION
from tests.servers import Stack, eventually

WAIT = 1.5
CONSTANTS = {"notifications.topic_poll.WAIT_SECONDS": WAIT}
CACHES = {"default": {}, "people": {"topics": "user"}}
NAME = "news"


def send(*data: Any, topic: str = f"topic.{NAME}", **more: Any) -> list[str]:
    return [accept([Draft([topic], msgspec.json.encode(one), **more)])[0].accepted[0].id for one in data]


def read(number: int = 0, page: int | None = None, reader: str | None = None) -> list[Any]:
    page = here() if page is None else page
    return list(msgspec.to_builtins(sequences.read(f"topic.{NAME}", number, page, reader)))


def here() -> int:
    """The page."""
    return sequences.page_of(Topic.objects.filter(name=f"topic.{NAME}").values_list("epoch", flat=True).first())


def item(number: int, text: str, page: int | None = None) -> dict[str, Any]:
    page = here() if page is None else page
    return {"item": {"topic_sequence_number": number, "sequence_page": page, "value": {"text": text}}}


def gap(last: int, new: int, page: int | None = None) -> dict[str, Any]:
    page = here() if page is None else page
    return {"discontinuity": {"last_topic_sequence": last, "new_topic_sequence": new, "new_sequence_page": page}}


# --- What is read ---------------------------------------------------------------------------------


@pytest.mark.django_db
def test_who_comes_first_gets_all_that_is_kept_and_goes_on_from_there() -> None:
    assert read(0, 0) == []
    send("a", "b")
    assert read(0, 0) == [item(1, "a"), item(2, "b")]
    assert read(2) == [item(2, "b")]
    assert read(3) == []
    send("c")
    assert read(3) == [item(3, "c")]


@pytest.mark.django_db
def test_what_retention_has_taken_is_a_discontinuity_and_for_newcomers_none() -> None:
    send(*"abcd")
    page = here()
    age(2)
    retention.purge()
    assert read(1) == [gap(0, 3), item(3, "c"), item(4, "d")]
    assert read(2) == [gap(1, 3), item(3, "c"), item(4, "d")]
    assert read(3) == [item(3, "c"), item(4, "d")]
    assert read(0, 0) == [item(3, "c"), item(4, "d")]
    age(4)
    retention.purge()
    assert read(3) == [gap(2, 4)]
    assert read(5) == read(0, 0) == []
    send("e")
    assert read(5) == read(0, 0) == [item(5, "e")]
    assert here() == page


def age(until: int) -> None:
    """Makes messages too old to be kept: their ids begin with their time."""
    old = timezone.now() - timedelta(days=90)
    for message in Message.objects.filter(offset__lte=until):
        id = uuid.UUID(int=(int(old.timestamp() * 1000) << 80) + uuid.uuid4().int % 2**62)
        Message.objects.filter(pk=message.pk).update(id=id, created_at=old)


@pytest.mark.django_db
def test_what_was_recalled_or_has_expired_is_told_too() -> None:
    send("a", "b", "c", "d", "e")
    Message.objects.filter(offset__in=(2, 3)).update(recalled_at=timezone.now())
    Message.objects.filter(offset=5).update(expires_at=timezone.now())
    assert read(1) == [item(1, "a"), gap(1, 4), item(4, "d"), gap(4, 5)]
    assert read(2) == [gap(1, 4), item(4, "d"), gap(4, 5)]
    assert read(5) == [gap(4, 5)]
    assert read(6) == []


@pytest.mark.django_db
def test_a_new_epoch_is_a_discontinuity_and_all_that_is_kept_comes_after_it() -> None:
    send("a", "b")
    page = here()
    Topic.objects.update(epoch=new_epoch())
    assert here() != page
    assert read(3, page) == [gap(2, 1), item(1, "a"), item(2, "b")]
    assert read(1, page) == [gap(0, 1), item(1, "a"), item(2, "b")]
    assert read(2, 0) == [gap(1, 1), item(1, "a"), item(2, "b")], "Who does not know the page is told."
    Message.objects.all().delete()
    assert read(3, page) == [gap(2, 2)]
    assert read(3) == []
    Topic.objects.all().delete()
    assert read(3, page) == [gap(2, 0, 0)]
    assert read(1, 0) == []


@pytest.mark.django_db
def test_who_is_ahead_of_the_log_is_told_so() -> None:
    send("a")
    assert read(2) == []
    assert read(7) == [gap(6, 1), item(1, "a")]


@pytest.mark.django_db
def test_a_long_topic_comes_in_pieces_without_a_gap_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequences, "ITEMS_AT_ONCE", 3)
    send(*"abcdefgh")
    Message.objects.filter(offset=4).update(recalled_at=timezone.now())
    page, number, seen = 0, 0, []
    while found := read(number, page):
        assert len(found) <= 4
        seen += found
        last = found[-1].get("item") or found[-1]["discontinuity"]
        number = last.get("topic_sequence_number", last.get("new_topic_sequence")) + 1
        page = last.get("sequence_page", last.get("new_sequence_page"))
    assert seen == [*(item(n, "abcdefgh"[n - 1]) for n in (1, 2, 3)), gap(3, 5),
                    *(item(n, "abcdefgh"[n - 1]) for n in (5, 6, 7, 8))]  # fmt: skip


@pytest.mark.django_db
def test_every_kind_of_data_has_a_value() -> None:
    send("text", {"base64": "__8="}, {"base64": "//8="}, {"base64": 1}, {"a": [1]}, 7, None, "")
    assert [one["item"]["value"] for one in read(0, 0)] == [
        {"text": "text"}, {"text": '{"base64":"__8="}'}, {"binary": "//8="}, {"text": '{"base64":1}'},
        {"text": '{"a":[1]}'}, {"text": "7"}, {"text": "null"}, {"text": ""},
    ]  # fmt: skip


@pytest.mark.any_database
def test_pages_are_numbers_that_every_language_has() -> None:
    pages = {sequences.page_of(new_epoch()) for _ in range(1000)}
    assert len(pages) == 1000
    assert all(0 < page < 2**48 for page in pages)
    assert sequences.page_of("a") == sequences.page_of("a")


# --- Publishing -----------------------------------------------------------------------------------


def publish(body: bytes, type: str = "text/plain", *, cache: str = "default", name: str = NAME, **headers: str) -> Any:
    headers.setdefault("authorization", api_keys.create("acme", ["notifications:write"])[1])
    headers["content-type"] = type  # Django's client forgets it where there is no body.
    return Client().generic("POST", f"/topics/{cache}/{name}", body, type, headers=headers)


@pytest.fixture
def _caches(settings: LazySettings) -> None:
    settings.EVENTS_CACHES = CACHES


@pytest.mark.django_db
@pytest.mark.usefixtures("_caches")
def test_text_and_bytes_come_back_as_they_were_published() -> None:
    binary = bytes(range(256))
    for body, type in (
        (b"hello", "text/plain"),
        ("grüße".encode(), "text/plain; charset=utf-8"),
        (b'{"a":1}', "application/json"),
        (b"", "text/plain"),
        (binary, "application/octet-stream"),
    ):
        reply = publish(body, type)
        assert (reply.status_code, reply.content) == (204, b"")
    values = [one["item"]["value"] for one in read(0, 0)]
    assert values[:4] == [{"text": "hello"}, {"text": "grüße"}, {"text": '{"a":1}'}, {"text": ""}]
    assert base64.b64decode(values[4]["binary"]) == binary


@pytest.mark.django_db
@pytest.mark.usefixtures("_caches")
@pytest.mark.parametrize(
    ("body", "type", "status"),
    [
        (b"\xff", "text/plain", 400),
        (b"a\0", "text/plain", 400),
        (b"a", "", 415),
        (b"a", "application/x-www-form-urlencoded", 415),
        (b"x" * 65536, "text/plain", 413),
        (b"x" * 50_000, "application/octet-stream", 413),
    ],
)
def test_what_cannot_be_a_message_is_refused(body: bytes, type: str, status: int) -> None:
    reply = publish(body, type)
    assert reply.status_code == status, reply.content
    assert not Message.objects.exists()


@pytest.mark.django_db
@pytest.mark.usefixtures("_caches")
def test_a_cache_is_mapped_to_topics_or_to_users() -> None:
    for cache, name in (("default", "a/b c"), ("people", "alice")):
        assert publish(b"m", cache=cache, name=name).status_code == 204
    assert sorted(Message.objects.values_list("topic__name", flat=True)) == ["topic.a/b c", "user.alice"]
    assert publish(b"m", cache="other").status_code == 404
    assert publish(b"m", name="a,b").status_code == 400
    assert publish(b"m", name="x" * 201).status_code == 400


@pytest.mark.django_db
@pytest.mark.usefixtures("_caches")
def test_an_idempotency_key_makes_one_message_of_repetitions() -> None:
    key = api_keys.create("acme", ["notifications:write"])[1]
    replies = [publish(b"m", authorization=key, idempotency_key="e-1") for _ in range(2)]
    assert [(reply.status_code, reply.get("Idempotent-Replayed")) for reply in replies] == [(204, None), (204, "true")]
    assert Message.objects.count() == 1
    assert publish(b"other", authorization=key, idempotency_key="e-1").status_code == 422
    assert publish(b"m", name="elsewhere", authorization=key, idempotency_key="e-1").status_code == 422


@pytest.mark.django_db
@pytest.mark.usefixtures("_caches")
def test_who_may_send_to_the_topic_may_publish() -> None:
    mine = tokens.issue(None, ttl=60, user="alice", publish=[f"topic.{NAME}"])[1]
    other = tokens.issue(None, ttl=60, user="alice", publish=["topic.other"])[1]
    reads = api_keys.create("acme", ["notifications:read", "events:write"])[1]
    assert [publish(b"m", authorization=one).status_code for one in (mine, other, reads, "nonsense")] == [
        204, 403, 403, 401,
    ]  # fmt: skip
    assert Message.objects.get().sender == "alice"


# --- The long poll, on real servers ---------------------------------------------------------------


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    folder = TemporaryDirectory(prefix="p", dir=os.environ["FANFARE_TEST_FOLDER"])
    environment = {"CONSTANTS": json.dumps(CONSTANTS), "EVENTS_CACHES": json.dumps(CACHES)}
    with folder as path, Stack(Path(path) / "0", **environment) as stack:
        for _ in range(2):
            stack.start_web(APPLICATION, wait=False)
        for web in stack.web:
            web.wait_until_ready()
        yield stack
        assert "Traceback" not in stack.logs(), stack.logs()[-3000:]


@pytest.fixture
def name() -> str:
    return f"t{uuid.uuid4().hex[:8]}"


def poll(stack: Stack, name: str, number: int = 0, page: int = 0, **more: Any) -> httpx.Response:
    credential = more.pop("credential", stack.api_key)
    headers = {} if credential is None else {"Authorization": credential}
    query = {"sequence_number": str(number), "sequence_page": str(page), **more.pop("query", {})}
    url = f"{stack.web[more.pop('web', 0)].url}/topics/{more.pop('cache', 'default')}/{name}"
    return httpx.get(url, params=query, headers=headers, timeout=10)


def tell(stack: Stack, name: str, text: str, cache: str = "default") -> None:
    headers = {"Authorization": stack.api_key, "Content-Type": "text/plain"}
    reply = httpx.post(f"{stack.web[1].url}/topics/{cache}/{name}", content=text, headers=headers)
    assert reply.status_code == 204, reply.text


def texts(reply: httpx.Response) -> list[str]:
    assert reply.status_code == 200, reply.text
    return [one["item"]["value"]["text"] for one in reply.json()["items"]]


def test_a_poll_waits_for_what_comes_on_another_process(stack: Stack, name: str) -> None:
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(poll, stack, name)
        time.sleep(0.3)
        started = time.monotonic()
        tell(stack, name, "a")
        reply = waiting.result(5)
        assert time.monotonic() - started < 1
    assert texts(reply) == ["a"]
    assert reply.headers["Cache-Control"] == "no-store"
    started = time.monotonic()
    first = reply.json()["items"][0]["item"]
    empty = poll(stack, name, first["topic_sequence_number"] + 1, first["sequence_page"])
    assert empty.json() == {"items": []}
    assert WAIT - 0.2 < time.monotonic() - started < WAIT + 3


def test_nothing_is_missed_between_polls_while_somebody_writes(stack: Stack, name: str) -> None:
    total = 40

    def write() -> None:
        for number in range(total):
            tell(stack, name, str(number))

    writer = threading.Thread(target=write)
    writer.start()
    seen: list[str] = []
    number = page = 0
    deadline = time.monotonic() + 30
    while len(seen) < total and time.monotonic() < deadline:
        reply = poll(stack, name, number, page, web=len(seen) % 2)
        seen += texts(reply)
        if items := reply.json()["items"]:
            last = items[-1]["item"]
            number, page = last["topic_sequence_number"] + 1, last["sequence_page"]
    writer.join()
    assert seen == [str(number) for number in range(total)]


def test_what_is_not_stored_wakes_nobody_for_long(stack: Stack, name: str) -> None:
    tell(stack, name, "a")
    (first,) = poll(stack, name).json()["items"]
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(poll, stack, name, 2, first["item"]["sequence_page"])
        for _ in range(5):
            stack.send({"topic": name}, "ephemeral", store=False)
        tell(stack, name, "b")
        assert texts(waiting.result(5)) == ["b"]


def test_who_may_subscribe_may_poll(stack: Stack, name: str) -> None:
    tell(stack, name, "a")
    tell(stack, name, "private", cache="people")
    listener = stack.token("bob", subscribe=[f"topic.{name}"])
    assert texts(poll(stack, name, credential=listener)) == ["a"]
    assert texts(poll(stack, name, credential=None, query={"token": listener})) == ["a"]
    assert texts(poll(stack, name, credential=stack.token(name), cache="people")) == ["private"]
    assert poll(stack, name, credential=stack.token("bob"), cache="people").status_code == 403
    assert poll(stack, name, credential=stack.token("bob")).status_code == 403
    assert poll(stack, name, query={"token": listener}).status_code == 400
    assert poll(stack, name, credential=None).status_code == 401
    assert poll(stack, name, credential="nonsense").status_code == 401


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        ("other/t", {}, 404),
        ("default/a,b", {}, 400),
        ("default/t", {"sequence_number": "-1"}, 400),
        ("default/t", {"sequence_number": "x"}, 400),
        ("default/t", {"sequence_page": "9" * 19}, 400),
        ("default/", {}, 400),
        ("default", {}, 404),
    ],
)
def test_what_cannot_be_polled_is_refused(stack: Stack, path: str, query: dict[str, str], status: int) -> None:
    reply = httpx.get(f"{stack.web[0].url}/topics/{path}", params=query, headers={"Authorization": stack.api_key})
    assert reply.status_code == status
    assert "error" in reply.json()


def test_a_poll_ends_when_its_credential_does(stack: Stack, name: str) -> None:
    with stack.client() as client:
        made = client.post("/api/tokens", json={"user": "carol", "topics": [f"topic.{name}"], "ttl": 300}).json()
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(poll, stack, name, credential=made["token"])
            eventually(lambda: polls(stack) == 1, 5)
            assert client.delete(f"/api/tokens/{made['id']}").is_success
            assert waiting.result(5).status_code == 401
    eventually(lambda: polls(stack) == 0, 5)


def polls(stack: Stack) -> float:
    text = httpx.get(f"{stack.web[0].url}/metrics").text
    return next((float(line.split()[-1]) for line in text.splitlines() if 'transport="poll"' in line), 0.0)


def test_an_epoch_that_changes_is_told_to_who_comes_back(stack: Stack, name: str) -> None:
    tell(stack, name, "a")
    (first,) = poll(stack, name).json()["items"]
    page = first["item"]["sequence_page"]
    stack.manage("rotate_epochs")
    items = poll(stack, name, 2, page).json()["items"]
    assert [list(one) for one in items] == [["discontinuity"], ["item"]]
    assert items[0]["discontinuity"] == {
        "last_topic_sequence": 1,
        "new_topic_sequence": 1,
        "new_sequence_page": items[1]["item"]["sequence_page"],
    }
    assert items[1]["item"]["sequence_page"] != page
