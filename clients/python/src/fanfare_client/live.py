"""Listening, in a thread of one's own."""

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Self

from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, reconnect

from fanfare_client.calls import Reply
from fanfare_client.credentials import socket_url
from fanfare_client.errors import FanfareError
from fanfare_client.events import Disconnected, Event
from fanfare_client.listening import FRAME_MAX_BYTES, ConnectAnew, Listening, TokenFailed, socket_logger
from fanfare_client.shapes import Position

OPEN_SECONDS = 10.0
CLOSE_SECONDS = 1.0


class _Connect(reconnect):
    def process_redirect(self, exc: Exception) -> Exception | str:
        """Redirects are not followed, as with requests: the key stays here."""
        return exc


class Listener(Iterator[Event]):
    """Events, one after the other. Ends when it is closed; raises FanfareError where it cannot go on."""

    def __init__(self, url: str, token: Callable[[str | None], str], core: Listening) -> None:
        self._url = socket_url(url)
        self._token = token
        self._core = core
        self._closed = threading.Event()
        self._socket: ClientConnection | None = None
        self._events = self._listen()

    @property
    def positions(self) -> dict[str, Position]:
        """How far each topic has been read: `since` of a later listener."""
        return {topic: at for topic, at in self._core.positions.items() if at}

    def __next__(self) -> Event:
        return next(self._events)

    def close(self) -> None:
        """Ends it, also from another thread."""
        self._closed.set()
        if socket := self._socket:
            with suppress(OSError, WebSocketException):
                socket.close()
        with suppress(ValueError):  # Another thread goes through it, and finds its end.
            self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def _listen(self) -> Generator[Event, None, None]:
        while not self._closed.is_set():
            token = ""
            try:
                token = self._fresh_token()
                yield from self._connection(token)
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
            self._closed.wait(lost.pause)

    def _fresh_token(self) -> str:
        """Raises FanfareError where there is none."""
        stale = self._core.stale_token
        try:
            token = self._token(stale)
        except FanfareError as error:
            raise TokenFailed(error) from error
        if token == stale:
            raise self._core.same_token()
        return token

    def _connection(self, token: str) -> Iterator[Event]:
        """One connection: ends by raising, or when the listener is closed."""
        with _Connect(
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
                self._socket.send(frame)
            while True:
                if self._core.until_refresh(token) == 0:  # However much comes.
                    token = self._refresh(self._socket, token)
                try:
                    frame_or_bytes = self._socket.recv(self._core.until_refresh(token))
                except TimeoutError:
                    continue
                yield from self._core.receive(frame_or_bytes)

    def _refresh(self, socket: ClientConnection, token: str) -> str:
        """Goes on with a fresh token, if there is one -> the one that counts."""
        self._core.refreshing()
        try:
            fresh = self._token(token)
        except FanfareError as error:
            self._core.without_token(error)
            return token
        socket.send(self._core.refresh(fresh))
        return fresh

    def _lost(self, closed: ConnectionClosed, token: str) -> Disconnected:
        frame = closed.rcvd or closed.sent
        code, reason = (frame.code, frame.reason) if frame else (1006, "the connection broke")
        return self._core.closed(code, reason, token, by_us=closed.rcvd is None)
