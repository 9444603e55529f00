"""An operator's one-time link: once, in time, and for nobody else."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
import time_machine
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.core import signing
from django.core.management import CommandError, call_command
from django.db import connections
from django.test import Client

from accounts.operators import login_link, redeem

PATIENCE = 30.0
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
BASE = "http://127.0.0.1:8000/"


@pytest.fixture
def operator() -> User:
    return User.objects.create_superuser("operator")


def path_of(link: str) -> str:
    assert link.startswith("http://127.0.0.1:8000/accounts/login/")
    return urlsplit(link).path


def token_of(link: str) -> str:
    return path_of(link).rpartition("/")[2]


def may_enter(client: Client) -> bool:
    return client.get("/admin/").status_code == 200


@pytest.mark.django_db
def test_a_link_signs_its_operator_in_and_lands_in_the_admin(operator: User) -> None:
    client = Client()
    reply = client.get(path_of(login_link("operator", BASE)))
    assert (reply.status_code, reply.headers["Location"]) == (302, "/admin/")
    assert "no-store" in reply.headers["Cache-Control"]
    assert may_enter(client)
    assert client.session["_auth_user_id"] == str(operator.pk)


@pytest.mark.django_db
def test_a_link_works_once(operator: User) -> None:
    path = path_of(login_link("operator", BASE))
    assert Client().get(path).status_code == 302
    client = Client()
    reply = client.get(path)
    assert reply.status_code == 410
    assert "sessionid" not in client.cookies
    assert not may_enter(client)


@pytest.mark.django_db
def test_a_link_is_of_no_use_after_an_hour(operator: User) -> None:
    with time_machine.travel(NOW, tick=False) as clock:
        link = login_link("operator", BASE)
        clock.shift(timedelta(minutes=59))
        assert redeem(token_of(link)) == operator
        operator.refresh_from_db()
        link = login_link("operator", BASE)
        clock.shift(timedelta(minutes=61))
        assert redeem(token_of(link)) is None


@pytest.mark.django_db
def test_a_link_dies_with_the_operators_next_login(operator: User) -> None:
    link = login_link("operator", BASE)
    operator.set_password("swordfish")
    operator.save()
    assert Client().login(username="operator", password="swordfish")
    assert redeem(token_of(link)) is None


@pytest.mark.django_db
def test_of_two_links_the_first_one_used_counts(operator: User) -> None:
    first, second = login_link("operator", BASE), login_link("operator", BASE)
    assert redeem(token_of(second)) == operator
    assert redeem(token_of(first)) is None


@pytest.mark.django_db
@pytest.mark.parametrize("change", [{"is_active": False}, {"is_staff": False}])
def test_a_link_does_not_outlive_its_operators_rights(operator: User, change: dict[str, bool]) -> None:
    link = login_link("operator", BASE)
    User.objects.filter(pk=operator.pk).update(**change)
    assert redeem(token_of(link)) is None


@pytest.mark.django_db
def test_a_link_of_an_operator_who_is_gone_is_of_no_use(operator: User) -> None:
    link = login_link("operator", BASE)
    operator.delete()
    assert redeem(token_of(link)) is None


@pytest.mark.django_db
def test_a_forged_link_is_of_no_use(operator: User) -> None:
    token = token_of(login_link("operator", BASE))
    body, _, rest = token.partition(":")
    forged = [
        token[:-1] + ("A" if token[-1] != "A" else "B"),
        f"{body[:-1]}x:{rest}",
        f"x{token}",
        body,
        rest,
        "x",
        ":",
        "::",
        "é",
        "\0",
        "x" * 10_000,
    ]
    for text in forged:
        assert redeem(text) is None, text
    assert Client().get("/accounts/login/x").status_code == 410
    assert redeem(token) == operator


@pytest.mark.django_db
def test_what_is_signed_for_another_purpose_is_no_link(operator: User) -> None:
    for salt in ("", "django.core.signing", "accounts.operators"):
        assert redeem(signing.dumps([operator.pk, ""], salt=salt)) is None


@pytest.mark.django_db
def test_a_link_is_opened_by_get_only(operator: User) -> None:
    path = path_of(login_link("operator", BASE))
    assert Client().post(path).status_code == 405
    assert Client().get(path).status_code == 302


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("logged_in_before", [False, True])
def test_of_two_that_open_the_link_at_the_same_time_one_gets_in(operator: User, logged_in_before: bool) -> None:
    if logged_in_before:
        User.objects.filter(pk=operator.pk).update(last_login=NOW)
    path = path_of(login_link("operator", BASE))
    together = threading.Barrier(2)

    def open_link() -> int:
        try:
            together.wait(PATIENCE)
            return Client().get(path).status_code
        finally:
            connections.close_all()

    with ThreadPoolExecutor(2) as threads:
        opened = [threads.submit(open_link) for _ in range(2)]
        assert sorted(one.result(PATIENCE) for one in opened) == [302, 410]


@pytest.mark.django_db
def test_the_command_prints_a_link(operator: User) -> None:
    call_command("loginlink", "--url", BASE, stdout=(said := io.StringIO()))
    assert redeem(token_of(said.getvalue().strip())) == operator
    with pytest.raises(CommandError, match="nobody"):
        call_command("loginlink", "nobody")


@pytest.mark.django_db
def test_who_tries_passwords_too_often_is_refused_even_with_the_right_one(settings: LazySettings) -> None:
    settings.RATE_LOGIN = "3/h"
    User.objects.create_superuser("root", password="right")
    client = Client(REMOTE_ADDR="192.0.2.77")
    form = {"username": "root", "password": "right"}
    wrong = [client.post("/admin/login/", form | {"password": "wrong"}).status_code for _ in range(3)]
    assert wrong == [200] * 3
    assert client.post("/admin/login/", form).status_code == 200
    assert Client(REMOTE_ADDR="192.0.2.78").post("/admin/login/", form).status_code == 302
