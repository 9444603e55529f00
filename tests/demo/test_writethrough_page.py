"""The demo's table in a real browser: what changes there is in the cache and on the topic, and the page shows it."""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser import OpenPage
from tests.servers import Stack, eventually

PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
COMES = 15_000  # Milliseconds.
HTML = "<img src=x onerror=\"alert('run')\">"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with (
        tempfile.TemporaryDirectory(prefix="w", dir=os.environ["FANFARE_TEST_FOLDER"]) as folder,
        Stack(Path(folder) / "0") as stack,
    ):
        stack.start_web()
        stack.start_web()
        yield stack
        assert "Traceback" not in stack.logs(), stack.logs()[-3000:]


@pytest.fixture(autouse=True)
def _empty(stack: Stack) -> None:
    with httpx.Client(base_url=stack.web[0].url) as client:
        token = client.get("/demo/writethrough/").cookies["csrftoken"]
        for row in client.get("/demo/writethrough/weather").json()["rows"]:
            body = {"location": row["location"]}
            reply = client.request("DELETE", "/demo/writethrough/weather", json=body, headers={"X-CSRFToken": token})
            assert reply.is_success, reply.text


def open_table(open_page: OpenPage, stack: Stack, process: int = 0, **options: Any) -> Page:
    page = open_page(f"{stack.web[process].url}/demo/writethrough/", **options)
    expect(page.locator(".state")).to_have_text("Live", timeout=COMES)
    return page


def save(page: Page, location: str, high: int = 20, *, ttl: int = 300) -> None:
    page.get_by_label("Location").fill(location)
    page.get_by_label("Highest °C").fill(str(high))
    page.get_by_label("Cached for s").fill(str(ttl))
    page.get_by_role("button", name="Save").click()


def rows(page: Page) -> Locator:
    return page.locator(".row .place")


def cached(page: Page) -> Locator:
    return page.locator(".item .place")


def newest(page: Page) -> Locator:
    return page.locator(".change").first


def in_cache(stack: Stack, location: str) -> httpx.Response:
    headers = {"Authorization": stack.api_key}
    return httpx.get(f"{stack.web[1].url}/cache/default", params={"key": location}, headers=headers)


def test_insert_modify_and_remove_show_in_the_cache_and_on_the_topic_of_every_page(
    open_page: OpenPage, stack: Stack
) -> None:
    hers, his = open_table(open_page, stack, 0), open_table(open_page, stack, 1)
    save(hers, "Bergen", 12)
    for page in (hers, his):
        expect(rows(page)).to_have_text(["Bergen"], timeout=COMES)
        expect(cached(page)).to_have_text(["Bergen"], timeout=COMES)
        expect(newest(page)).to_contain_text("INSERT")
        expect(newest(page)).to_contain_text("9 to 12 °C, rain 40 %")
    assert in_cache(stack, "Bergen").json() == {
        "Location": "Bergen", "MaxTemp": 12, "MinTemp": 9, "ChancesOfPrecipitation": 40,
    }  # fmt: skip
    hers.get_by_role("button", name="Edit Bergen").click()
    hers.get_by_label("Highest °C").fill("30")
    hers.keyboard.press("Enter")
    for page in (hers, his):
        expect(page.locator(".value")).to_contain_text('"MaxTemp":30', timeout=COMES)
        expect(newest(page)).to_contain_text("MODIFY")
    his.get_by_role("button", name="Remove Bergen").click()
    for page in (hers, his):
        expect(newest(page)).to_contain_text("REMOVE", timeout=COMES)
        expect(rows(page)).to_have_count(0)
        expect(cached(page)).to_have_count(0)
        expect(page.get_by_text("Nothing is cached.")).to_be_visible()
    assert in_cache(stack, "Bergen").status_code == 404


def test_what_is_cached_runs_out_and_the_row_stays(open_page: OpenPage, stack: Stack) -> None:
    page = open_table(open_page, stack)
    save(page, "Lima", ttl=3)
    expect(page.locator(".left")).to_contain_text("s left")
    expect(cached(page)).to_have_count(0, timeout=COMES)
    expect(rows(page)).to_have_text(["Lima"])
    assert in_cache(stack, "Lima").status_code == 404


def test_html_stays_text_and_what_cannot_be_saved_says_so(open_page: OpenPage, stack: Stack) -> None:
    page = open_table(open_page, stack)
    save(page, HTML)
    expect(cached(page)).to_have_text([HTML], timeout=COMES)
    expect(newest(page)).to_contain_text("<img")
    assert page.locator("main img").count() == 0
    save(page, "Oslo", -20)
    expect(page.locator(".note")).to_contain_text("Not changed")
    expect(page.get_by_label("Location")).to_have_value("Oslo")


@pytest.mark.parametrize("body", [{"location": "a\0"}, {"location": " "}, {"location": 1}, []], ids=ascii)
def test_what_is_no_row_is_refused_in_words(stack: Stack, body: object) -> None:
    with httpx.Client(base_url=stack.web[0].url) as client:
        token = client.get("/demo/writethrough/").cookies["csrftoken"]
        for method in ("POST", "DELETE"):
            reply = client.request(method, "/demo/writethrough/weather", json=body, headers={"X-CSRFToken": token})
            assert (reply.status_code, reply.json()["error"]["code"]) == (400, "malformed")


def test_the_page_works_by_keyboard_alone(open_page: OpenPage, stack: Stack) -> None:
    page = open_table(open_page, stack)
    page.get_by_label("Location").focus()
    for text in ("Accra", "25", "20", "5", "60"):
        page.keyboard.press("Control+A")
        page.keyboard.type(text)
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(rows(page)).to_have_text(["Accra"], timeout=COMES)
    expect(page.get_by_label("Location")).to_be_focused()
    page.get_by_role("button", name="Remove Accra").focus()
    page.keyboard.press("Enter")
    expect(rows(page)).to_have_count(0, timeout=COMES)
    expect(page.get_by_label("Location")).to_be_focused()


def test_on_a_phone_nothing_is_cut(open_page: OpenPage, stack: Stack) -> None:
    page = open_table(open_page, stack, **PHONE)
    save(page, "x" * 60)
    expect(cached(page)).to_have_count(1, timeout=COMES)
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_while_the_cache_is_down_nothing_is_lost(open_page: OpenPage, stack: Stack) -> None:
    page = open_table(open_page, stack)
    save(page, "Kyiv", 11)
    expect(cached(page)).to_have_text(["Kyiv"], timeout=COMES)
    with stack.valkey.stopped():
        save(page, "Kyiv", 22)
        expect(page.locator(".row .figures")).to_contain_text("22 °C", timeout=COMES)
        expect(page.locator(".owed")).to_contain_text("on their way")
    expect(page.locator(".value")).to_contain_text('"MaxTemp":22', timeout=2 * COMES)
    expect(newest(page)).to_contain_text("MODIFY", timeout=2 * COMES)
    expect(page.locator(".owed")).to_be_empty()


def test_the_command_changes_rows_and_all_arrives(open_page: OpenPage, stack: Stack) -> None:
    page = open_table(open_page, stack)
    assert " changes in " in stack.manage("demo", "writethrough", "--seconds", "2", "--rate", "20")

    def arrived() -> bool:
        state = httpx.get(f"{stack.web[0].url}/demo/writethrough/weather").json()
        rows = {row["location"]: row["maxTemp"] for row in state["rows"]}
        cached = {one["location"]: json.loads(one["value"])["MaxTemp"] for one in state["cached"]}
        shown = page.locator(".row .place").all_inner_texts()
        return rows == cached and state["owed"] == 0 and shown == sorted(rows)

    eventually(arrived, 15)
    expect(page.locator(".change").first).to_be_visible()
