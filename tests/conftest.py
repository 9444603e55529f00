"""Fixtures that every room's tests share."""

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.servers import Stack

pytest_plugins = ["tests.browser"]

logging.getLogger("httpx").setLevel(logging.WARNING)  # It logs each request.


@pytest.fixture
def stack_folder() -> Iterator[Path]:
    """A short path: a unix socket's has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="s", dir=os.environ["FANFARE_TEST_FOLDER"]) as folder:
        yield Path(folder)


@pytest.fixture
def make_stack(stack_folder: Path) -> Iterator[Callable[..., Stack]]:
    """Starts stacks with settings of their own."""
    made: list[Stack] = []

    def make(**environment: str) -> Stack:
        stack = Stack(stack_folder / str(len(made)), **environment)
        made.append(stack)
        return stack.__enter__()

    yield make
    for stack in made:
        stack.__exit__(None, None, None)


@pytest.fixture
def stack(make_stack: Callable[..., Stack]) -> Stack:
    """The product with one web process."""
    stack = make_stack()
    stack.start_web()
    return stack
