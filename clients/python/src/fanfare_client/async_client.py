"""The client for asyncio."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from fanfare_client import credentials
from fanfare_client.async_areas import AsyncAreas
from fanfare_client.async_live import AsyncListener
from fanfare_client.calls import Call, Reply
from fanfare_client.conversation import BODY_MAX_BYTES, Exchange, Failure, GetToken, Policy, Wait, converse
from fanfare_client.listening import Listening, Since

T = TypeVar("T")


class AsyncClient(AsyncAreas):
    """Fanfare at `url`, by an API key or a token.

    `key` may be a function, plain or async, that returns a fresh token: it is asked when the token that is held is
    about to end or was refused as expired. Every method raises FanfareError, within `policy.deadline`.
    """

    def __init__(
        self, url: str, key: str | Callable[[], str | Awaitable[str]], *, policy: Policy | None = None
    ) -> None:
        super().__init__()
        self.url = credentials.base_url(url)
        self._key = credentials.usable(key) if isinstance(key, str) else key
        self._policy = policy or Policy()
        self._http = httpx.AsyncClient(follow_redirects=False)
        self._lock = asyncio.Lock()
        self._held: str | None = None

    @classmethod
    def from_env(cls, *, policy: Policy | None = None) -> Self:
        """By FANFARE_URL and FANFARE_KEY. Raises ValueError."""
        url, key = credentials.from_environment()
        return cls(url, key, policy=policy)

    def listen(self, topics: Sequence[str] | None = None, *, since: Since = None, me: bool = False) -> AsyncListener:
        """Events as they come, for as long as one goes through them; over lost connections, each message once.

        `topics`: those of the user unless given; a service names them. `since`: a position for all of the topics
        (`START`: from their beginnings), or the `positions` of an earlier listener, to go on from there. `me`: boards
        also tell how the user stands.
        """
        return AsyncListener(self.url, self.token, Listening(topics, since, me))

    async def run(self, call: Call[T]) -> T:
        """Carries out a call. Raises FanfareError."""
        steps = converse(call, self._policy)
        outcome: Any = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as done:
                result: T = done.value
                return result
            match step:
                case GetToken(stale):
                    outcome = await self.token(stale)
                case Wait(seconds):
                    await asyncio.sleep(seconds)
                case Exchange():
                    outcome = await self.exchange(step)

    async def token(self, stale: str | None = None) -> str:
        """What to authenticate with now; `stale` is not good any more."""
        if isinstance(self._key, str):
            return self._key
        async with self._lock:
            if self._held is None or self._held == stale or not credentials.is_fresh(self._held):
                fresh = self._key()
                self._held = credentials.usable(await fresh if inspect.isawaitable(fresh) else fresh)
            return self._held

    async def exchange(self, step: Exchange) -> Reply | Failure:
        """Sends a request, and reads the answer to its end."""
        origin = step.origin or self.url
        try:
            async with (
                asyncio.timeout(step.seconds),
                self._http.stream(
                    step.method,
                    origin + step.target,
                    headers=step.headers,
                    content=step.body,
                    timeout=step.seconds,
                ) as response,
            ):
                body = bytearray()
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > BODY_MAX_BYTES:
                        return Failure(True, f"The answer has more than {BODY_MAX_BYTES} bytes: it is not Fanfare's.")
                return Reply(response.status_code, response.headers, bytes(body))
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            return Failure(False, f"{origin} cannot be reached: {error}")
        except (httpx.HTTPError, httpx.StreamError, TimeoutError) as error:
            return Failure(True, f"{origin} did not answer: {error or type(error).__name__}")

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"
