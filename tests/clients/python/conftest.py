"""One server for the tests of a file, and clients of it."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from fanfare_client import AsyncClient, Client
from tests.servers import Stack


@pytest.fixture(scope="module")
def town() -> Iterator[Stack]:
    """The product with one web process, for all tests of a file: each has users of its own."""
    with TemporaryDirectory(prefix="s", dir=os.environ["FANFARE_TEST_FOLDER"]) as folder:
        with Stack(Path(folder) / "python") as stack:
            stack.start_web()
            yield stack


@pytest.fixture
def client(town: Stack) -> Iterator[Client]:
    """A service."""
    with Client(town.web[0].url, town.api_key) as client:
        yield client


@pytest.fixture
async def async_client(town: Stack) -> AsyncIterator[AsyncClient]:
    """A service."""
    async with AsyncClient(town.web[0].url, town.api_key) as client:
        yield client
