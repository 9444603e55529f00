"""From functions that make calls to methods that carry them out, for a Client."""

from collections.abc import Callable, Iterator
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from fanfare_client.calls import Call, Following, Page, Reply
from fanfare_client.conversation import Exchange, Failure

P = ParamSpec("P")
T = TypeVar("T")


class Runs(Protocol):
    def run(self, call: Call[T]) -> T: ...

    def exchange(self, step: Exchange) -> Reply | Failure: ...


class Area:
    """A part of the API."""

    def __init__(self, client: Runs) -> None:
        self._client = client


class AreaOf(Area):
    """A part of the API that is about one thing: an inbox of one user, one board."""

    def __init__(self, client: Runs, of: str) -> None:
        super().__init__(client)
        self._of = of


def like(make: Callable[..., Any], *, of: bool = False) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Gives a method the name, the words and the parameters of `make`, whose first one it has itself if it is `of`
    something."""

    def decorate(method: Callable[P, T]) -> Callable[P, T]:
        wraps(make)(method)
        parameters = list(signature(make).parameters.values())
        own = Parameter("self", Parameter.POSITIONAL_ONLY)
        setattr(method, "__signature__", Signature([own, *parameters[1 if of else 0 :]]))  # noqa: B010
        return method

    return decorate


def ask(make: Callable[P, Call[T]]) -> Callable[Concatenate[Area, P], T]:
    """A method that makes this call, and returns its answer."""

    @like(make)
    def method(area: Area, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return area._client.run(make(*args, **kwargs))

    return method


def ask_of(make: Callable[Concatenate[str, P], Call[T]]) -> Callable[Concatenate[AreaOf, P], T]:
    """Likewise, about what the area is about."""

    @like(make, of=True)
    def method(area: AreaOf, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return area._client.run(make(area._of, *args, **kwargs))

    return method


def every(make: Callable[P, Call[Page[T]]]) -> Callable[Concatenate[Area, P], Iterator[T]]:
    """A method that goes through all pages."""

    @like(make)
    def method(area: Area, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return _items(area._client, make(*args, **kwargs))

    return method


def every_of(make: Callable[Concatenate[str, P], Call[Page[T]]]) -> Callable[Concatenate[AreaOf, P], Iterator[T]]:
    """Likewise, about what the area is about."""

    @like(make, of=True)
    def method(area: AreaOf, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return _items(area._client, make(area._of, *args, **kwargs))

    return method


def _items(client: Runs, first: Call[Page[T]]) -> Iterator[T]:
    following = Following(first)
    while following.call:
        yield from following.read(client.run(following.call))
