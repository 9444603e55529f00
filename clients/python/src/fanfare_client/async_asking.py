"""From functions that make calls to methods that carry them out, for an AsyncClient."""

from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from fanfare_client.asking import like
from fanfare_client.calls import Call, Following, Page, Reply
from fanfare_client.conversation import Exchange, Failure

P = ParamSpec("P")
T = TypeVar("T")


class AsyncRuns(Protocol):
    async def run(self, call: Call[T]) -> T: ...

    async def exchange(self, step: Exchange) -> Reply | Failure: ...


class AsyncArea:
    """A part of the API."""

    def __init__(self, client: AsyncRuns) -> None:
        self._client = client


class AsyncAreaOf(AsyncArea):
    """A part of the API that is about one thing: an inbox of one user, one board."""

    def __init__(self, client: AsyncRuns, of: str) -> None:
        super().__init__(client)
        self._of = of


def ask(make: Callable[P, Call[T]]) -> Callable[Concatenate[AsyncArea, P], Coroutine[Any, Any, T]]:
    """A method that makes this call, and returns its answer."""

    @like(make)
    async def method(area: AsyncArea, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await area._client.run(make(*args, **kwargs))

    return method


def ask_of(
    make: Callable[Concatenate[str, P], Call[T]],
) -> Callable[Concatenate[AsyncAreaOf, P], Coroutine[Any, Any, T]]:
    """Likewise, about what the area is about."""

    @like(make, of=True)
    async def method(area: AsyncAreaOf, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await area._client.run(make(area._of, *args, **kwargs))

    return method


def every(make: Callable[P, Call[Page[T]]]) -> Callable[Concatenate[AsyncArea, P], AsyncIterator[T]]:
    """A method that goes through all pages."""

    @like(make)
    def method(area: AsyncArea, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        return _items(area._client, make(*args, **kwargs))

    return method


def every_of(
    make: Callable[Concatenate[str, P], Call[Page[T]]],
) -> Callable[Concatenate[AsyncAreaOf, P], AsyncIterator[T]]:
    """Likewise, about what the area is about."""

    @like(make, of=True)
    def method(area: AsyncAreaOf, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        return _items(area._client, make(area._of, *args, **kwargs))

    return method


async def _items(client: AsyncRuns, first: Call[Page[T]]) -> AsyncIterator[T]:
    following = Following(first)
    while following.call:
        for item in following.read(await client.run(following.call)):
            yield item
