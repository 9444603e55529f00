"""Fixtures that every room's tests share."""

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from django.db import connection
from pytest_django import DjangoDbBlocker

from accounts import api_keys, revocations, users
from adapters import outbox, secret_values
from leaderboards import boards
from notifications import preferences
from tests.servers import Stack

pytest_plugins = ["tests.browser", "tests.emulators.fixtures"]

# Files with few tests that take long: a worker that takes one of them last is what all others wait for.
LONG_FILES = (
    "config/test_up.py",
    "realtime/test_control.py",
    "adapters/test_outside_faults.py",
    "adapters/test_end_to_end.py",
    "adapters/test_consume_processes.py",
    "adapters/test_celery_on_sqs.py",
    "presence/test_presence_faults.py",
    "leaderboards/test_faults.py",
    "realtime/test_faults.py",
    "clients/",
    "demo/",
    "realtime/test_streams.py",
    "notifications/test_accept.py",
    "notifications/test_inbox_model.py",
    "notifications/test_task_workers.py",
    "faults/",
)

# What these show does not depend on the database: one run of them is enough.
ANY_DATABASE = (
    "clients/",
    "demo/",
    "emulators/",
    "leaderboards/test_schedules.py",
    "security/test_browser_surface.py",
    "test_docs.py",
)

logging.getLogger("httpx").setLevel(logging.WARNING)  # It logs each request.


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; folders that need one run only are marked."""
    for item in items:
        if item.nodeid.startswith(tuple(f"tests/{name}" for name in ANY_DATABASE)):
            item.add_marker("any_database")
    ranks = {name: rank for rank, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: next((ranks[n] for n in ranks if item.nodeid.startswith(f"tests/{n}")), len(ranks)))


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """A thread that has ended with a connection of the pool keeps PostgreSQL from dropping the database."""
    yield
    with django_db_blocker.unblock():
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )


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


@pytest.fixture(autouse=True)
def _nobody_is_known() -> Iterator[None]:
    """What a process remembers of callers belongs to one test: the database forgets, too."""
    _forget()
    yield
    _forget()


def _forget() -> None:
    api_keys._cache.clear()
    outbox.forget_wants()
    secret_values._shared.cache_clear()
    boards._found.clear()
    users._accounts._values.clear()
    preferences._mutes._values.clear()
    fresh = revocations._Known(listeners=revocations._known.listeners)
    for field in fields(fresh):
        setattr(revocations._known, field.name, getattr(fresh, field.name))
