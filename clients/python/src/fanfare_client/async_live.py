"""Listening, with asyncio."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from fanfare_client.calls import Reply
from fanfare_client.credentials import socket_url
from fanfare_client.errors import FanfareError
from fanfare_client.events import Disconnected, Event
from fanfare_client.listening import FRAME_MAX_BYTES, ConnectAnew, Listening, TokenFailed, socket_logger
from fanfare_client.live import CLOSE_SECONDS, OPEN_SECONDS
from fanfare_client.shapes import Position


class _Connect(connect):
    def process_redirect(self, exc: Exception) -> Exception | str:
        """Redirects are not followed, as with requests: the key stays here."""
        return exc


class AsyncListener(AsyncIterator[Event]):
    """Events, one after the other. Ends when it is closed; raises FanfareError where it cannot go on."""

    def __init__(self, url: str, token: Callable[[str | None], Awaitable[str]], core: Listening) -> None:
        self._url = socket_url(url)
        self._token = token
        self._core = core
        self._closed = asyncio.Event()
        self._socket: ClientConnection | None = None
        self._events = self._listen()

    @property
    def positions(self) -> dict[str, Position]:
        """How far each topic has been read: `since` of a later listener."""
        return {topic: at for topic, at in self._core.positions.items() if at}

    async def __anext__(self) -> Event:
        return await anext(self._events)

    async def close(self) -> None:
        """Ends it, also from another task."""
        self._closed.set()
        if self._socket:
            await self._socket.close()
        with suppress(RuntimeError):  # Another task goes through it, and finds its end.
            await self._events.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _listen(self) -> AsyncGenerator[Event, None]:
        while not self._closed.is_set():
            token = ""
            try:
                token = await self._fresh_token()
                async with aclosing(self._connection(token)) as events:
                    async for event in events:
                        yield event
                continue
            except ConnectionClosed as closed:
                lost = self._lost(closed, token)
            except InvalidStatus as refused:
                reply = refused.response
                headers = {name.lower(): value for name, value in reply.headers.raw_items()}
                lost = self._core.refused(Reply(reply.status_code, headers, bytes(reply.body or b"")))
            except TokenFailed as failed:
                lost = self._core.without_token(failed.error)
            except (OSError, WebSocketException, EOFError, ConnectAnew) as error:
                lost = self._core.broken(error)
            if not self._closed.is_set():
                yield lost
            await self._pause(lost.pause)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closed.wait()

    async def _fresh_token(self) -> str:
        """Raises FanfareError where there is none."""
        stale = self._core.stale_token
        try:
            token = await self._token(stale)
        except FanfareError as error:
            raise TokenFailed(error) from error
        if token == stale:
            raise self._core.same_token()
        return token

    async def _connection(self, token: str) -> AsyncGenerator[Event, None]:
        """One connection: ends by raising, or when the listener is closed."""
        async with _Connect(
            self._url + self._core.query(),
            additional_headers={"Authorization": f"Bearer {token}"},
            compression=None,
            max_size=FRAME_MAX_BYTES,
            open_timeout=OPEN_SECONDS,
            close_timeout=CLOSE_SECONDS,
            logger=socket_logger,
        ) as self._socket:
            if self._closed.is_set():  # Meanwhile: `close` has not seen this socket.
                return
            for frame in self._core.greeting():
                await self._socket.send(frame)
            while True:
                if self._core.until_refresh(token) == 0:  # However much comes.
                    token = await self._refresh(self._socket, token)
                try:
                    async with asyncio.timeout(self._core.until_refresh(token)):
                        received = await self._socket.recv()
                except TimeoutError:
                    continue
                for event in self._core.receive(received):
                    yield event

    async def _refresh(self, socket: ClientConnection, token: str) -> str:
        """Goes on with a fresh token, if there is one -> the one that counts."""
        self._core.refreshing()
        try:
            fresh = await self._token(token)
        except FanfareError as error:
            self._core.without_token(error)
            return token
        await socket.send(self._core.refresh(fresh))
        return fresh

    def _lost(self, closed: ConnectionClosed, token: str) -> Disconnected:
        frame = closed.rcvd or closed.sent
        code, reason = (frame.code, frame.reason) if frame else (1006, "the connection broke")
        return self._core.closed(code, reason, token, by_us=closed.rcvd is None)
