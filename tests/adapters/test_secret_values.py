"""Secrets by reference: where they come from, when they are read again, and that nobody is shown them."""

import logging
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from django.conf import LazySettings
from django.test import RequestFactory
from django.views.debug import ExceptionReporter

from adapters import secret_values
from adapters.base import Misconfigured
from adapters.secret_values import (
    FRESH_SECONDS,
    RETRY_SECONDS,
    UNREAD_SECONDS,
    Rebuilt,
    SecretValue,
    secret_value,
)

if TYPE_CHECKING:
    from tests.emulators.aws import Aws

pytestmark = pytest.mark.any_database

SECRET = "canary-4711-never-shown"
NEWER = "canary-4712-never-shown"
NAME = "/fanfare/dev/momento-api-key"


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(secret_values, "now", clock)
    return clock


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(f"{SECRET}\n")
    return path


@pytest.fixture
def held(file: Path) -> SecretValue:
    return SecretValue(f"file:{file}", NAME)


# --- Where they come from -------------------------------------------------------------------------


@pytest.mark.parametrize("text", [SECRET, "ssmx:/name", "http://x", "a:b", "eyJh.b.c", "file", "ssm"])
def test_a_plain_value_is_itself(text: str) -> None:
    assert SecretValue(text, NAME).get() == text


def test_a_file_holds_it_with_a_line_end_or_without(held: SecretValue, file: Path) -> None:
    assert held.get() == SECRET


@pytest.mark.parametrize(("reference", "name"), [("ssm:", NAME), ("ssm:/other/name", "/other/name")])
def test_ssm_holds_it_encrypted(aws: "Aws", reference: str, name: str) -> None:
    aws.client("ssm").put_parameter(Name=name, Value=SECRET, Type="SecureString")
    assert SecretValue(reference, NAME).get() == SECRET


@pytest.mark.parametrize(("reference", "name"), [("secretsmanager:", NAME), ("secretsmanager:other", "other")])
def test_secrets_manager_holds_it(aws: "Aws", reference: str, name: str) -> None:
    aws.client("secretsmanager").create_secret(Name=name, SecretString=SECRET)
    assert SecretValue(reference, NAME).get() == SECRET


def test_the_default_name_has_service_stage_and_setting(aws: "Aws", settings: LazySettings) -> None:
    settings.SERVICE, settings.SSM_STAGE, settings.MOMENTO_API_KEY = "shop", "qa", "ssm:"
    aws.client("ssm").put_parameter(Name="/shop/qa/momento-api-key", Value=SECRET, Type="SecureString")
    assert secret_value("MOMENTO_API_KEY").get() == SECRET
    assert secret_value("MOMENTO_API_KEY") is secret_value("MOMENTO_API_KEY")


def test_a_setting_that_is_empty_is_named(settings: LazySettings) -> None:
    settings.MOMENTO_API_KEY = ""
    with pytest.raises(Misconfigured, match="MOMENTO_API_KEY"):
        secret_value("MOMENTO_API_KEY")


@pytest.mark.parametrize("reference", ["file:/no/such", "ssm:/no/such", "secretsmanager:/no/such"])
def test_what_is_nowhere_is_named(aws: "Aws", reference: str) -> None:
    with pytest.raises(Misconfigured, match="/no/such"):
        SecretValue(reference, NAME).get()


def test_what_is_empty_is_refused(held: SecretValue, file: Path) -> None:
    file.write_text("\n")
    with pytest.raises(Misconfigured, match="empty"):
        held.get()


def test_a_role_without_the_right_is_told_so(aws: "Aws") -> None:
    aws.fail("GetParameter", code="AccessDeniedException")
    with pytest.raises(Misconfigured, match=r"ssm:/name cannot be read: .*AccessDeniedException"):
        SecretValue("ssm:/name", NAME).get()


# --- When they are read again ---------------------------------------------------------------------


def test_it_is_read_again_after_five_minutes(held: SecretValue, file: Path, clock: Clock) -> None:
    assert held.get() == SECRET
    file.write_text(NEWER)
    clock.time += FRESH_SECONDS - 1
    assert held.get() == SECRET
    clock.time += 1
    assert held.get() == NEWER


def test_a_refresh_that_fails_keeps_the_value_and_comes_again_soon(
    held: SecretValue, file: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    held.get()
    file.unlink()
    clock.time += FRESH_SECONDS
    assert [held.get(), held.get()] == [SECRET] * 2
    assert len(caplog.records) == 1  # One attempt: the others wait for the next.
    assert str(file) in caplog.text
    file.write_text(NEWER)
    assert held.get() == SECRET
    clock.time += RETRY_SECONDS
    assert held.get() == NEWER


def test_a_store_that_has_never_answered_keeps_only_the_first_in_line_waiting(aws: "Aws", clock: Clock) -> None:
    aws.fail("GetParameter", code="InternalServerError")
    held = SecretValue("ssm:", NAME)
    for _ in range(3):
        with pytest.raises(Misconfigured, match="ssm:/fanfare/dev/momento-api-key cannot be read"):
            held.get()
    assert aws.calls("GetParameter") == 1
    aws.heal()
    aws.client("ssm").put_parameter(Name=NAME, Value=SECRET, Type="SecureString")
    clock.time += UNREAD_SECONDS
    assert held.get() == SECRET


def test_a_child_does_not_wait_for_who_was_reading_in_its_parent(held: SecretValue, settings: LazySettings) -> None:
    settings.MOMENTO_API_KEY = held._shown
    with secret_value("MOMENTO_API_KEY")._lock:
        child = os.fork()
        if not child:
            signal.alarm(5)  # Which ends it, if it waits.
            os._exit(0 if secret_value("MOMENTO_API_KEY").get() == SECRET else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_threads_that_come_at_once_read_it_once_and_all_get_what_is_new(aws: "Aws", clock: Clock) -> None:
    ssm = aws.client("ssm")
    ssm.put_parameter(Name=NAME, Value=SECRET, Type="SecureString")
    held = SecretValue("ssm:", NAME)
    assert held.get() == SECRET
    ssm.put_parameter(Name=NAME, Value=NEWER, Type="SecureString", Overwrite=True)
    clock.time += FRESH_SECONDS
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda _: held.get(), range(8))) == [NEWER] * 8
    assert aws.calls("GetParameter") == 2


# --- What is made with them -----------------------------------------------------------------------


@dataclass
class Client:
    key: str
    closed: bool = False

    def close(self) -> None:
        self.closed = True


def test_a_client_is_made_anew_and_the_old_one_closed_once_unused(
    held: SecretValue, file: Path, clock: Clock, settings: LazySettings
) -> None:
    clients = Rebuilt(Client, held, Client.close)
    old = clients.get()
    assert clients.get() is old
    assert old.key == SECRET
    file.write_text(NEWER)
    clock.time += FRESH_SECONDS
    new = clients.get()
    assert (new.key, old.closed) == (NEWER, False)  # Calls may be under way with the old one.
    clock.time += settings.DELIVERY_TIMEOUT
    assert (clients.get(), old.closed) == (new, False)
    clock.time += RETRY_SECONDS + 1
    assert (clients.get(), old.closed, new.closed) == (new, True, False)
    clients.close()
    assert new.closed
    assert clients.get().key == NEWER


def test_a_client_that_cannot_be_closed_disturbs_nobody(held: SecretValue) -> None:
    def fail(_client: Client) -> None:
        raise OSError(SECRET)

    clients = Rebuilt(Client, held, fail)
    clients.get()
    clients.close()


def test_threads_that_come_at_once_share_one_client(held: SecretValue) -> None:
    clients = Rebuilt(Client, held, Client.close)
    barrier = threading.Barrier(8)

    def get(_: int) -> Client:
        barrier.wait(5)
        return clients.get()

    with ThreadPoolExecutor(8) as threads:
        assert len({id(one) for one in threads.map(get, range(8))}) == 1


def test_after_a_key_that_is_of_no_use_the_next_one_is_tried(held: SecretValue, file: Path, clock: Clock) -> None:
    def make(key: str) -> Client:
        if key == SECRET:
            raise ValueError(f"what is {key}?")
        return Client(key)

    clients = Rebuilt(make, held, Client.close)
    for _ in range(2):
        with pytest.raises(Misconfigured, match="ValueError"):
            clients.get()
    file.write_text(NEWER)
    clock.time += FRESH_SECONDS
    assert clients.get().key == NEWER


# --- Nobody is shown them -------------------------------------------------------------------------


def refuse(key: str) -> Client:
    raise ValueError(f"what is {key}?")


def fail_to_close(client: Client) -> None:
    raise ValueError(f"what is {client.key}?")


def shown_on_error_page(function: Callable[[], object]) -> str:
    """Django's page with DEBUG, which has every variable of every frame."""
    try:
        function()
    except Exception as error:
        reporter = ExceptionReporter(RequestFactory().get("/"), type(error), error, error.__traceback__)
        return reporter.get_traceback_html() + reporter.get_traceback_text()
    raise AssertionError("it did not fail")


@pytest.mark.parametrize("given", ["plain", "file", "ssm"])
def test_it_shows_in_no_repr_log_or_error(
    given: str, file: Path, aws: "Aws", clock: Clock, settings: LazySettings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.DEBUG = True
    caplog.set_level(logging.DEBUG, "adapters")
    aws.client("ssm").put_parameter(Name=NAME, Value=SECRET, Type="SecureString")
    held = SecretValue({"plain": SECRET, "file": f"file:{file}", "ssm": "ssm:"}[given], NAME)
    good, bad = Rebuilt(Client, held, fail_to_close), Rebuilt(refuse, held, Client.close)
    held.get()
    texts = [repr(one) + str(one) + f"{one}" for one in (held, good, bad)]
    texts.append(shown_on_error_page(bad.get))
    good.get()
    good.close()
    file.unlink()
    aws.fail("GetParameter", code="AccessDeniedException")
    clock.time += FRESH_SECONDS
    held.get()
    logging.getLogger("adapters").warning("%s %r", held, [good, bad])
    texts.append(caplog.text)
    texts += [repr(record.__dict__) for record in caplog.records]
    assert all(texts)
    assert not [text for text in texts if "canary" in text]


def test_error_pages_hide_settings_that_hold_one(settings: LazySettings) -> None:
    settings.DEBUG = True
    settings.MOMENTO_API_KEY = settings.MOMENTO_TOKEN_KEY = SECRET
    assert SECRET not in shown_on_error_page(lambda: 1 // 0)
