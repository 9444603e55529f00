"""Lua scripts in Redis: each is one step that nothing comes between. For threads.

Of redis-py only connections are used: its client and its pool take longer than Redis does for a small script.
"""

import os
import time
from collections.abc import Sequence
from functools import cache
from hashlib import sha1
from typing import Any

from django.conf import settings
from redis import ConnectionPool, RedisError
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError
from redis.exceptions import TimeoutError as RedisTimeout
from redis.retry import Retry

ANSWER_SECONDS = 1.0  # For Redis to answer, and to take a connection.
PAUSE_SECONDS = 1.0

_silent_until: dict[str, float] = {}  # By URL.

Argument = str | bytes | int | float


class RedisDown(Exception):
    """Redis did not answer in time, or not as it should."""


def run(script: str, keys: Sequence[str], args: Sequence[Argument], *, decode: bool) -> Any:
    """Runs a script, which Redis keeps compiled -> its answer, with texts in `str` or, not to `decode`, in bytes.

    It is tried once: when RedisDown is raised, it may have run. Once Redis has kept somebody waiting in vain,
    RedisDown is raised at once for PAUSE_SECONDS: nobody waits in line for it.
    """
    url = settings.REDIS_URL
    if time.monotonic() < _silent_until.get(url, 0.0):
        raise RedisDown("Redis did not answer a moment ago")
    connections = _connections(url, decode)
    connection = connections.take()
    rest = len(keys), *keys, *args
    try:
        try:
            connection.send_command("EVALSHA", _digest(script), *rest)
            return connection.read_response()
        except NoScriptError:
            connection.send_command("EVAL", script, *rest)
            return connection.read_response()
    except (RedisError, OSError) as error:
        if isinstance(error, RedisTimeout):
            _silent_until[url] = time.monotonic() + PAUSE_SECONDS
        raise RedisDown(repr(error)) from error
    except BaseException:  # An interrupt: the answer may come yet, and is nobody else's.
        connection.disconnect()
        raise
    finally:
        connections.give_back(connection)


@cache
def _digest(script: str) -> str:
    return sha1(script.encode(), usedforsecurity=False).hexdigest()


class _Connections:
    """Those to one Redis that nobody uses at the moment."""

    def __init__(self, url: str, decode: bool) -> None:
        self._pool = ConnectionPool.from_url(
            url,
            protocol=2,
            socket_timeout=ANSWER_SECONDS,
            socket_connect_timeout=ANSWER_SECONDS,
            retry=Retry(NoBackoff(), 0),
            decode_responses=decode,
            max_connections=2**31 - 1,  # Those that broke count, too.
        )
        self._free: list[Any] = []

    def take(self) -> Any:
        while self._free:
            try:
                connection = self._free.pop()
            except IndexError:  # Another thread was faster.
                break
            if _is_usable(connection):
                return connection
        return self._pool.make_connection()

    def give_back(self, connection: Any) -> None:
        if connection.is_connected:  # After an error in between, it is not.
            self._free.append(connection)


def _is_usable(connection: Any) -> bool:
    """Whether it is this process's, and Redis has neither closed it nor said anything on it."""
    if connection.pid != os.getpid():
        return False
    try:
        return not connection.can_read()
    except (RedisError, OSError):
        return False


@cache
def _connections(url: str, decode: bool) -> _Connections:
    return _Connections(url, decode)
