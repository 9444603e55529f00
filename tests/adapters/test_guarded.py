"""Where webhooks never go, however the address is written and whatever its name turns out to mean."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from adapters import guarded
from adapters.base import Misconfigured, Target
from adapters.webhook import Webhook
from tests.adapters.contract import parcel
from tests.adapters.receivers import (
    SECRET,
    Authority,
    Receiver,
    outcome_of,
    webhook,
)

pytestmark = [pytest.mark.any_database, pytest.mark.usefixtures("loopback_allowed")]


# --- Where requests never go ----------------------------------------------------------------------

PRIVATE = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.1.2.3", "168.63.129.16",
    "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.0.1",
    "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:7f00:1", "::ffff:8.8.8.8", "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b::10.0.0.1", "64:ff9b:1::1", "100::1", "fc00::1",
    "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:10::1",
    "2001:db8::1", "2002:7f00:1::", "2002:a00:1::1", "3fff::1", "5f00::1", "4000::1",
]  # fmt: skip
PUBLIC = [
    "8.8.8.8",
    "1.1.1.1",
    "100.128.0.1",
    "172.32.0.1",
    "192.0.1.1",
    "2606:4700::1111",
    "2a00::1",
    "64:ff9b::8.8.8.8",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_public_is_refused_by_name_of_the_setting(settings: Any, address: str) -> None:
    settings.WEBHOOK_NETWORKS = []
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(Misconfigured, match="WEBHOOK_NETWORKS"):
        Webhook.validate(f"https://{host}/hook")


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public_is_allowed_by_https_only(settings: Any, address: str) -> None:
    settings.WEBHOOK_NETWORKS = []
    host = f"[{address}]" if ":" in address else address
    Webhook.validate(f"https://{host}:8443/hook?x=1")
    with pytest.raises(Misconfigured, match="https://"):
        Webhook.validate(f"http://{host}/hook")


def test_networks_that_are_allowed_may_be_private_and_without_tls(settings: Any) -> None:
    settings.WEBHOOK_NETWORKS = ["10.0.0.0/8", "fd00::/8"]
    for address in ("http://10.1.2.3/", "https://10.1.2.3:9/", "http://[fd00::1]/", "http://inside.example/"):
        Webhook.validate(address)
    for address in ("http://11.1.2.3/", "https://192.168.0.1/", "http://[fe80::1]/", "https://[::ffff:10.0.0.1]/"):
        with pytest.raises(Misconfigured):
            Webhook.validate(address)
    for wrong in ("10.0.0.1/8", "inside", "10.0.0.0/33"):
        settings.WEBHOOK_NETWORKS = [wrong]
        with pytest.raises(Misconfigured, match="WEBHOOK_NETWORKS has to be a list"):
            Webhook.validate("https://8.8.8.8/")


@pytest.mark.parametrize(
    "address",
    [
        "//example.com/", "https://", "https:///x", "https://:443/", "HTTPS:example.com", "javascript:alert(1)",
        "file:///etc/passwd", "gopher://example.com/", "https://user@example.com/", "https://user:pw@example.com/",
        "https://:@example.com/", "https://example.com@127.0.0.1/", "https://example.com/#", "https://example.com/#a",
        "https://example.com:0/", "https://example.com:99999/", "https://example.com:x/", "https://exa mple.com/",
        "https://example.com/a b", "https://example.com/\r\nx: y", "https://example.com/\x00", "https://exämple.com/",
        "https://127。0。0。1/", "https://example.com\\@127.0.0.1/", "https://a..b/", "https://.example.com/",
        "https://[::1/", "https://[x]/", "https://[fe80::1%25eth0]/", "https://[2606:4700::1111%251]/",
        "https://2130706433/", "https://0x7f000001/", "https://017700000001/", "https://0177.0.0.1/",
        "https://0x7f.0.0.1/", "https://127.1/", "https://127.0.1/", "https://1.2.3.4.5/", "https://127.0.0.1./",
        "https://127.0.0.0x1/", "https://256.0.0.1/", "https://%31%32%37.0.0.1/", "https://" + "a" * 64 + ".com/",
        "https://example.com/" + "x" * 2000,
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_and_never_called(settings: Any, address: str) -> None:
    settings.WEBHOOK_NETWORKS = ["0.0.0.0/0", "::/0"]
    with pytest.raises(Misconfigured):
        Webhook.validate(address)
    with pytest.raises(Misconfigured):
        Webhook(Target(uuid4(), "shop", address, {}, (SECRET,)))


def test_http_without_networks_is_refused_at_once(settings: Any) -> None:
    settings.WEBHOOK_NETWORKS = []
    with pytest.raises(Misconfigured, match="WEBHOOK_NETWORKS"):
        Webhook.validate("http://shop.example.com/")
    Webhook.validate("https://shop.example.com/")


@pytest.mark.parametrize(
    "host", ["localhost", "localhost.", "LOCALHOST", "127.0.0.1", "127.8.9.1", "[::ffff:127.0.0.1]"]
)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_names_of_what_is_private_are_not_connected_to(
    receiver: Receiver, settings: Any, scheme: str, host: str
) -> None:
    settings.WEBHOOK_NETWORKS = ["10.0.0.0/8"]
    outcome = await outcome_of(f"{scheme}://{host}:{receiver.port}/hook")
    assert "WEBHOOK_NETWORKS" in outcome.error or "localhost. has no address" in outcome.error  # As the system has it.
    assert not outcome.permanent
    assert not receiver.calls


class Names:
    """Answers the system's name server would give, one after the other; the last one stays."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, host: str, *_args: Any) -> list[Any]:
        self.asked.append(host)
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in found]


def name_server(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> Names:
    names = Names(*answers)
    monkeypatch.setattr(guarded, "getaddrinfo", names)
    return names


async def test_one_private_address_among_public_ones_is_enough_to_refuse(
    receiver: Receiver, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.WEBHOOK_NETWORKS = []
    name_server(monkeypatch, ["8.8.8.8", "127.0.0.1"])
    outcome = await outcome_of(f"https://shop.example.com:{receiver.port}/hook")
    assert outcome.error.startswith("127.0.0.1 is not a public address")


async def test_a_name_that_turns_private_later_is_not_followed(
    receiver: Receiver, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.WEBHOOK_NETWORKS = ["127.0.0.7/32"]
    monkeypatch.setattr(guarded, "LOOKUP_SECONDS", 0.0)
    names = name_server(monkeypatch, ["127.0.0.7"], ["127.0.0.1"])  # What is checked is allowed, what comes next not.
    with socket.create_server(("127.0.0.7", receiver.port)) as allowed:
        async with webhook(f"http://shop.example.com:{receiver.port}/hook") as adapter:
            publishing = asyncio.create_task(adapter.publish([parcel()]))
            connection, _ = await asyncio.to_thread(allowed.accept)  # Exactly the address that was checked.
            connection.close()
            await publishing
            assert names.asked == ["shop.example.com"]
            [outcome] = await adapter.publish([parcel()])
    assert "127.0.0.1 is not a public address" in outcome.error
    assert not receiver.calls


async def test_the_next_address_is_tried_where_one_does_not_answer(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    name_server(monkeypatch, ["127.0.0.9", "127.0.0.8", "127.0.0.1"])
    assert (await outcome_of(f"http://shop.example.com:{receiver.port}/hook")).delivered


async def test_a_name_server_that_hangs_ends_with_the_time_and_keeps_nobody_else(
    receiver: Receiver, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.DELIVERY_TIMEOUT = 0.3
    original, ending = socket.getaddrinfo, threading.Event()

    def slow(host: str, *args: Any) -> Any:
        if host.startswith("slow"):
            ending.wait(60)
        return original(host, *args)

    monkeypatch.setattr(guarded, "getaddrinfo", slow)
    waiting = [asyncio.create_task(outcome_of(f"https://slow{number}.invalid/")) for number in range(40)]
    await asyncio.sleep(0.1)  # All have begun.
    settings.DELIVERY_TIMEOUT = 60.0
    assert (await outcome_of(receiver.url)).delivered
    assert all(outcome.error.startswith("no answer within") for outcome in await asyncio.gather(*waiting))
    ending.set()


# --- TLS ------------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Authority]:
    """One that is trusted."""
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.pem))
    guarded._trusted.cache_clear()
    yield authority
    guarded._trusted.cache_clear()


async def test_https_goes_to_the_checked_address_with_the_name_in_certificate_and_host(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    name_server(monkeypatch, ["127.0.0.1"])
    with Receiver(authority.context("shop.example.com")) as receiver:
        async with webhook(f"https://shop.example.com:{receiver.port}/hook") as adapter:
            outcomes = await adapter.publish([parcel() for _ in range(20)])
    assert [outcome.error for outcome in outcomes] == [""] * 20
    assert {call.headers["host"] for call in receiver.calls} == {f"shop.example.com:{receiver.port}"}


async def test_a_certificate_of_another_name_or_of_nobody_known_is_refused(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name_server(monkeypatch, ["127.0.0.1"])
    (tmp_path / "strangers").mkdir()
    stranger = Authority(tmp_path / "strangers")
    for context in (authority.context("other.example.com", "127.0.0.1"), stranger.context("shop.example.com")):
        with Receiver(context) as receiver:
            outcome = await outcome_of(f"https://shop.example.com:{receiver.port}/hook")
        assert "certificate verify failed" in outcome.error
        assert not outcome.permanent
        assert not receiver.calls


async def test_a_handshake_without_end_is_cut_and_closed(authority: Authority, settings: Any) -> None:
    settings.DELIVERY_TIMEOUT = 0.3
    with socket.create_server(("127.0.0.1", 0)) as silent:
        outcome = await outcome_of(f"https://127.0.0.1:{silent.getsockname()[1]}/")
        assert outcome.error == "no answer within 0.3 s (DELIVERY_TIMEOUT)"
        connection, _ = silent.accept()
        connection.settimeout(2)
        while connection.recv(4096):
            pass  # What it began with; then the end, not a time-out.
        connection.close()


async def test_what_does_not_speak_tls_is_no_answer(receiver: Receiver) -> None:
    outcome = await outcome_of(receiver.url.replace("http:", "https:"))
    assert outcome.error.startswith("cannot connect: ")
    assert not outcome.permanent
