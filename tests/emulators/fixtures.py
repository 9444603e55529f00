"""Services outside, once for all tests of a process; each test finds them empty."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from django.conf import LazySettings

if TYPE_CHECKING:  # Importing them takes a second, which most runs can do without.
    from tests.emulators.aws import Aws
    from tests.emulators.momento import Momento


@pytest.fixture(scope="session")
def _momento() -> Iterator[Momento]:
    from tests.emulators.momento import Momento

    momento = Momento()
    yield momento
    momento.close()


@pytest.fixture
def momento(_momento: Momento) -> Iterator[Momento]:
    """A Momento without caches, and with one key, `api_key`, for everything."""
    _momento.reset()
    yield _momento
    _momento.reset()


@pytest.fixture
def at_momento(momento: Momento, settings: LazySettings) -> None:
    """The settings lead there, to the cache `fanfare-test`."""
    settings.MOMENTO_API_KEY = momento.api_key
    settings.MOMENTO_ENDPOINT, settings.MOMENTO_PLAINTEXT = momento.endpoint, True
    settings.MOMENTO_CACHES = ["fanfare-test"]
    momento.create_cache("fanfare-test")


@pytest.fixture(scope="session")
def _aws() -> Iterator[Aws]:
    from tests.emulators.aws import Aws

    aws = Aws()
    yield aws
    aws.close()


@pytest.fixture
def aws(_aws: Aws, monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """An empty AWS account, and the environment by which boto3 finds it."""
    for name, value in _aws.environment.items():
        monkeypatch.setenv(name, value)
    _aws.reset()
    yield _aws
    _aws.reset()
