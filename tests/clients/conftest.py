"""A page with the client in it, and a server that the test holds the other end of."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser import OpenPage
from tests.clients.fake_server import Fake
from tests.clients.pages import start_client

Start = Callable[..., Page]


@pytest.fixture
def server() -> Iterator[Fake]:
    fake = Fake()
    yield fake
    fake.stop()


@pytest.fixture
def start(server: Fake, open_page: OpenPage) -> Start:
    """`start(options)`: a page whose `notes` are the client's events, with a clock that the test can turn on."""

    def start(options: dict[str, Any] | None = None) -> Page:
        page = open_page(server.url)
        page.clock.install()
        start_client(page, options)
        return page

    return start
