"""How authorisers are asked (realtime.authorizers says about what): one desk for each process."""

import asyncio
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Annotated, Literal
from uuid import uuid4

import httpx
import msgspec
from django.conf import settings
from django.db import connections
from django.utils.module_loading import import_string

from accounts.principals import Principal
from accounts.signatures import sign
from realtime.strict_json import loads

logger = logging.getLogger(__name__)

Action = Literal["subscribe", "publish"]

TTL_SECONDS = 10.0  # Of an answer that names none.
DENIAL_SECONDS = 5.0  # At most: who has just been let in does not wait long.
ANSWERS_KEPT = 10_000
REPLY_MAX_BYTES = 4096
CONNECTIONS = 32
FUNCTION_THREADS = 4
QUESTIONS_AT_ONCE = 8  # Of one caller: others have their turn too.
WAITING_MAX = 1000  # Questions of all callers.
WARNING_SECONDS = 1.0


def is_url(authorizer: str) -> bool:
    """Whether an entry of TOPIC_AUTHORIZERS is asked by HTTP; the others are dotted paths."""
    return "://" in authorizer


@dataclass(frozen=True, slots=True)
class Question:
    authorizer: str
    action: Action
    topic: str
    principal: Principal

    @property
    def key(self) -> Hashable:
        """What an answer is an answer to. A function decides by the whole principal, so its answers are not shared."""
        if not is_url(self.authorizer):
            return object()
        caller = self.principal
        credential = None if caller.user is not None else (caller.kind, caller.id, caller.credential)
        return (self.authorizer, self.action, self.topic, caller.user, caller.account, credential)


# --- Answers --------------------------------------------------------------------------------------


class _Answers:
    """What authorisers have said, for a while; the oldest goes when there are too many. For all threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, tuple[bool, float]] = OrderedDict()  # Until when, by the monotonic clock.

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable) -> bool | None:
        with self._lock:
            allowed, until = self._kept.get(key, (None, 0.0))
            if allowed is not None and until <= time.monotonic():
                del self._kept[key]
                return None
            return allowed

    def keep(self, key: Hashable, allowed: bool, seconds: float) -> None:
        if seconds <= 0:
            return
        with self._lock:
            self._kept.pop(key, None)
            self._kept[key] = (allowed, time.monotonic() + seconds)
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)


# --- Asking ---------------------------------------------------------------------------------------


class _Reply(msgspec.Struct):
    allow: bool
    ttl: Annotated[float, msgspec.Meta(ge=0)] | None = None


class Desk:
    """Asks, in the loop of a thread of its own: neither an event loop nor a database's thread waits for a stranger.

    A loop, because only there a time limit ends a call for good, however slowly the other side sends.
    """

    def __init__(self) -> None:
        self.answers = _Answers(ANSWERS_KEPT)
        self._asking: dict[Hashable, asyncio.Task[bool | None]] = {}
        self._warned_at: dict[str, float] = {}
        self._free_connections = asyncio.Semaphore(CONNECTIONS)
        self._free_threads = asyncio.Semaphore(FUNCTION_THREADS)
        self._threads = ThreadPoolExecutor(FUNCTION_THREADS, thread_name_prefix="authorizer")
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="authorizers", daemon=True).start()

    @cached_property
    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # None: they would go from user to user.
            headers={"accept": "application/json", "accept-encoding": "identity", "user-agent": "fanfare"},
            limits=httpx.Limits(max_connections=CONNECTIONS, keepalive_expiry=2),
            timeout=None,  # One limit holds for all of a question.  # noqa: S113
            trust_env=False,  # No proxy or .netrc by accident; private authorities' certificates are wanted, though.
            verify=httpx.create_ssl_context(trust_env=True),
        )

    def ask(self, questions: Sequence[Question]) -> Future[dict[str, bool | None]]:
        """The answer about each topic; None where there is none. It ends, whatever the authorisers do."""
        return asyncio.run_coroutine_threadsafe(self._ask_all(questions), self._loop)

    async def _ask_all(self, questions: Sequence[Question]) -> dict[str, bool | None]:
        turns = asyncio.Semaphore(QUESTIONS_AT_ONCE)
        failed: set[str] = set()

        async def one(question: Question) -> bool | None:
            async with turns:
                if question.authorizer in failed:
                    return None
                answer = await self._ask_once(question)
                if answer is None:
                    failed.add(question.authorizer)
                return answer

        given = await asyncio.gather(*(one(question) for question in questions))
        return {question.topic: answer for question, answer in zip(questions, given, strict=True)}

    async def _ask_once(self, question: Question) -> bool | None:
        """The answer, also to who asks the same meanwhile; None when there is none."""
        key = question.key
        if (known := self.answers.get(key)) is not None:
            return known
        if key not in self._asking:
            if len(self._asking) >= WAITING_MAX:
                return None
            self._asking[key] = task = self._loop.create_task(self._ask(key, question))
            task.add_done_callback(lambda _: self._asking.pop(key))
        return await asyncio.shield(self._asking[key])  # The caller may leave: others wait for it too.

    async def _ask(self, key: Hashable, question: Question) -> bool | None:
        by_http = is_url(question.authorizer)
        try:
            async with asyncio.timeout(settings.AUTHORIZE_TIMEOUT):
                reply = await (self._post(question) if by_http else self._call(question))
        except Exception as error:  # Whatever it is: nobody has said yes.
            self._warn(question.authorizer, error, with_traceback=not by_http)
            return None
        if by_http:
            ttl = TTL_SECONDS if reply.ttl is None else reply.ttl
            most = settings.AUTHORIZE_CACHE_SECONDS
            self.answers.keep(key, reply.allow, min(ttl, most if reply.allow else min(most, DENIAL_SECONDS)))
        return reply.allow

    async def _post(self, question: Question) -> _Reply:
        asked = {
            "action": question.action,
            "topic": question.topic,
            "user": question.principal.user,
            "account": question.principal.account,
        }
        id, timestamp, body = f"msg_{uuid4().hex}", int(time.time()), msgspec.json.encode(asked)
        headers = {
            "content-type": "application/json",
            "webhook-id": id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(settings.AUTHORIZE_SECRET, id, timestamp, body),
        }
        async with (
            self._free_connections,
            self._client.stream("POST", question.authorizer, content=body, headers=headers) as response,
        ):
            if response.status_code != httpx.codes.OK:
                raise ValueError(f"status {response.status_code}")
            text = b""
            async for chunk in response.aiter_raw():
                text += chunk
                if len(text) > REPLY_MAX_BYTES:
                    raise ValueError(f"a reply of more than {REPLY_MAX_BYTES} bytes")
        return msgspec.convert(loads(text), _Reply)

    async def _call(self, question: Question) -> _Reply:
        """A function that never ends keeps its thread: the questions after it run into their time limit."""
        await self._free_threads.acquire()
        work = self._threads.submit(_run_function, question)
        work.add_done_callback(lambda _: self._loop.call_soon_threadsafe(self._free_threads.release))
        return _Reply(await asyncio.wrap_future(work))

    def _warn(self, authorizer: str, error: Exception, *, with_traceback: bool) -> None:
        """At most once a second for each: when one fails, all its questions do."""
        now = time.monotonic()
        if now - self._warned_at.get(authorizer, -WARNING_SECONDS) >= WARNING_SECONDS:
            self._warned_at[authorizer] = now
            logger.warning("The authoriser %s gave no answer: %r", authorizer, error, exc_info=with_traceback)


def _run_function(question: Question) -> bool:
    try:
        answer = import_string(question.authorizer)(question.action, question.topic, question.principal)
    except SystemExit as error:  # It would end the desk.
        raise RuntimeError("it wants to exit") from error
    finally:
        for connection in connections.all(initialized_only=True):
            connection.close()  # Back to the pool.
    if not isinstance(answer, bool):
        raise TypeError(f"{type(answer).__name__} instead of bool")
    return answer


_lock = threading.Lock()
_current: Desk | None = None


def desk() -> Desk:
    """The process's desk, opened by its first question."""
    global _current
    if _current is None:
        with _lock:
            if _current is None:
                _current = Desk()
    return _current


def _after_fork() -> None:
    global _current, _lock
    _current, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
