"""Secrets that may change: given as they are, or read from a file, from SSM or from Secrets Manager.

A setting holds the secret itself or a reference: `file:/path`, `ssm:/name`, `secretsmanager:name`. Without a name, the
last two mean /{SERVICE}/{SSM_STAGE}/{setting-in-kebab-case}. All of this blocks: call it from threads.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Generic, TypeVar

from django.conf import settings

from adapters.base import Misconfigured

logger = logging.getLogger(__name__)

FRESH_SECONDS = 300.0
RETRY_SECONDS = 30.0  # After a refresh that has failed.
UNREAD_SECONDS = 2.0  # After a first one that has: who waits in line for it has the same answer.
STORE_TIMEOUT = 3.0

T = TypeVar("T")


def now() -> float:
    """Seconds of a clock that never goes back."""
    return time.monotonic()


def secret_value(setting: str) -> "SecretValue":
    """The secret that a setting holds or refers to, one object in a process. Raises Misconfigured where it is empty."""
    reference = getattr(settings, setting)
    if not reference:
        raise Misconfigured(f"{setting} is not set.")
    return _shared(reference, f"/{settings.SERVICE}/{settings.SSM_STAGE}/{setting.lower().replace('_', '-')}")


class SecretValue:
    """A secret by its reference. It shows the reference, and only where that is not the secret itself."""

    def __init__(self, reference: str, default_name: str) -> None:
        store, colon, name = reference.partition(":")
        self._fetch: Callable[[], str] | None = None
        if colon and store in _STORES:
            name = name or default_name
            self._fetch = lambda: _STORES[store](name)
        self._shown = f"{store}:{name}" if self._fetch else "given as it is"
        self._value = "" if self._fetch else reference
        self._problem = ""
        self._stale_at = 0.0
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<SecretValue {self._shown}>"

    def get(self) -> str:
        """The secret, as it was at most FRESH_SECONDS ago; an older one while it cannot be read again.

        Raises Misconfigured where it was never read; that is so for UNREAD_SECONDS.
        """
        if self._fetch is None:
            return self._value
        with self._lock:  # Whoever finds it stale reads it, and the others wait for what is new.
            if now() >= self._stale_at:
                self._refresh(self._fetch)
            if not self._value:
                raise Misconfigured(self._problem)
            return self._value

    def _refresh(self, fetch: Callable[[], str]) -> None:
        try:
            self._value = fetch()
        except Exception as error:
            self._problem = f"{self._shown} cannot be read: {type(error).__name__}: {error}"
            self._stale_at = now() + (RETRY_SECONDS if self._value else UNREAD_SECONDS)
            if self._value:
                logger.warning("The secret before stays in use. %s", self._problem)
        else:
            self._stale_at = now() + FRESH_SECONDS


class Rebuilt(Generic[T]):
    """Something made with a secret, such as a client; it is made anew when the secret has changed.

    The one before is closed at a later `get`, when no call can be under way any more that has begun with it.
    """

    def __init__(self, make: Callable[[str], T], secret: SecretValue, close: Callable[[T], object]) -> None:
        self._make = make
        self._secret = secret
        self._close = close
        self._lock = threading.Lock()
        self._made_with: str | None = None
        self._made: list[T] = []  # The newest last.
        self._replaced_at = 0.0

    def __repr__(self) -> str:
        return f"<Rebuilt with {self._secret!r}>"

    def get(self) -> T:
        """The one for the present secret. Raises Misconfigured where there is no secret, or one that is of no use."""
        with self._lock:
            before, self._made_with = self._made_with, self._secret.get()
            if self._made_with != before:
                self._made.append(self._new())
                self._replaced_at = now()
            elif len(self._made) > 1 and now() > self._replaced_at + RETRY_SECONDS + settings.DELIVERY_TIMEOUT:
                self._close_all(self._made[:-1])
                del self._made[:-1]
            return self._made[-1]

    def close(self) -> None:
        """Closes all of them; a later `get` makes a new one."""
        with self._lock:
            made, self._made, self._made_with = self._made, [], None
            self._close_all(made)

    def _new(self) -> T:
        assert self._made_with is not None
        try:
            return self._make(self._made_with)
        except Misconfigured:
            self._made_with = None
            raise
        except Exception as error:  # Its text, and the frames below, may hold the secret.
            self._made_with = None
            raise Misconfigured(f"{self._secret!r} is of no use: {type(error).__name__}") from None

    def _close_all(self, made: list[T]) -> None:
        for one in made:
            try:
                self._close(one)
            except Exception as error:
                logger.warning("What was made with an older secret cannot be closed: %s", type(error).__name__)


@cache
def _shared(reference: str, default_name: str) -> SecretValue:
    return SecretValue(reference, default_name)


os.register_at_fork(after_in_child=_shared.cache_clear)  # Who holds a lock is not in the child.


def _from_file(name: str) -> str:
    return _filled(Path(name).read_text().strip())


def _from_ssm(name: str) -> str:
    from adapters.aws.clients import client

    answer = client("ssm", timeout=STORE_TIMEOUT).get_parameter(Name=name, WithDecryption=True)
    return _filled(answer["Parameter"]["Value"])


def _from_secrets_manager(name: str) -> str:
    from adapters.aws.clients import client

    return _filled(client("secretsmanager", timeout=STORE_TIMEOUT).get_secret_value(SecretId=name)["SecretString"])


def _filled(value: str) -> str:
    if not value:
        raise ValueError("it is empty")
    return value


_STORES = {"file": _from_file, "ssm": _from_ssm, "secretsmanager": _from_secrets_manager}
