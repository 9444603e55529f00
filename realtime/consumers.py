"""The WebSocket consumer: authenticates, subscribes, and carries out a client's actions, one after the other."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

from channels.consumer import AsyncConsumer, get_handler_name
from channels.exceptions import StopConsumer
from django.conf import settings

from accounts.credentials import Unauthenticated, authenticate
from accounts.errors import ApiError
from accounts.principals import Principal
from realtime import metrics, protocol, runtime
from realtime.connections import Connection, DirectConnection, QueuedConnection
from realtime.database import in_database
from realtime.protocol import CloseCode, ProtocolError, Since
from realtime.topics import resolve

logger = logging.getLogger(__name__)


class LiveConsumer(AsyncConsumer):
    """One for each socket. It has no channel layer of its own: the hub writes to its connection."""

    connection: Connection
    principal: Principal

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        """Channels' own loop makes a task for each frame and hops to a thread to clean up database connections."""
        self.scope, self.base_send = scope, send
        self._task = asyncio.current_task()
        try:
            while True:
                message = await receive()
                await getattr(self, get_handler_name(message))(message)
        except StopConsumer:
            pass
        except asyncio.CancelledError:
            if not self._aborted:
                raise

    _aborted = False
    _bad_frames = 0
    _expiry: asyncio.TimerHandle | None = None

    # --- The connection's life --------------------------------------------------------------------

    async def websocket_connect(self, _message: dict[str, Any]) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in self.scope["headers"]}
        query = dict(parse_qsl(self.scope["query_string"].decode("latin-1"), keep_blank_values=True))
        offered = self.scope.get("subprotocols", [])
        try:
            self.principal = await in_database(authenticate, headers, query, offered)
        except Unauthenticated as error:
            await self._refuse(
                CloseCode.TOKEN_EXPIRED if error.expired else CloseCode.UNAUTHENTICATED, str(error), offered
            )
        except Exception as error:
            logger.warning("A socket could not be authenticated: %r", error)
            await self._refuse(CloseCode.UNAVAILABLE, "try again soon", offered)
        await self._accept(offered)
        self.connection = self._connect()
        metrics.connections.labels("websocket").inc()
        if self.principal.expires_at is not None:
            self._expiry = asyncio.get_running_loop().call_later(
                self.principal.expires_at - time.time(),
                self.connection.close,
                CloseCode.TOKEN_EXPIRED,
                "the credential has expired",
            )
        await self._welcome(query.get("topics"))

    async def _accept(self, offered: list[str]) -> None:
        chosen = protocol.SUBPROTOCOL if protocol.SUBPROTOCOL in offered else None
        await self.base_send({"type": "websocket.accept", "subprotocol": chosen})

    async def _refuse(self, code: CloseCode, reason: str, offered: list[str]) -> None:
        """Accepts and closes: browsers cannot see why a handshake failed, but they can see a close code."""
        await self._accept(offered)
        metrics.closes.labels(int(code)).inc()
        await self.base_send({"type": "websocket.close", "code": int(code), "reason": reason})
        raise StopConsumer

    def _connect(self) -> Connection:
        limits = {"user": self.principal.user, "max_backlog": settings.OUTBOX_MAX_BYTES}
        if frames := self.scope.get("extensions", {}).get("websocket.frames"):
            return DirectConnection(**limits, **frames)
        return QueuedConnection(**limits, send=self.base_send, abort=self._abort)

    async def _welcome(self, asked: str | None) -> None:
        names = self._default_topics() if asked is None else [name for name in asked.split(",") if name]
        refused: list[bytes] = []
        allowed: dict[str, Since | None] = {}
        for name in names[: settings.TOPICS_PER_CONNECTION + 1]:
            try:
                self._bound({*allowed, name})
                self._allow(name)
                allowed[name] = None
            except (ApiError, ProtocolError) as error:
                refused.append(protocol.error(error.code, f"{name[:50]}: {error.message}"))
        try:
            subscriptions = await self._runtime.hub.subscribe(self.connection, allowed)
        except Exception as error:
            logger.warning("A socket could not subscribe: %r", error)
            self.connection.close(CloseCode.UNAVAILABLE, "try again soon")
            return
        topics = {s.topic: {"epoch": s.epoch, "offset": s.offset} for s in subscriptions}
        self.connection.send(protocol.welcome(self.connection.id, self.principal.user, topics), *refused)
        self._runtime.hub.go_live(self.connection, subscriptions)

    def _default_topics(self) -> list[str]:
        if self.principal.user is None:
            return []
        account = [f"account.{self.principal.account}"] if self.principal.account else []
        return [f"user.{self.principal.user}", *account, "all"]

    async def websocket_disconnect(self, _message: dict[str, Any]) -> None:
        if self._expiry:
            self._expiry.cancel()
        if hasattr(self, "connection"):
            self.connection.closed = True
            self._runtime.hub.leave(self.connection)
            metrics.connections.labels("websocket").dec()
            if isinstance(self.connection, QueuedConnection):
                await self.connection.stop()
        raise StopConsumer

    def _abort(self) -> None:
        self._aborted = True
        self._runtime.hub.leave(self.connection)
        if self._task:
            self._task.cancel()

    @property
    def _runtime(self) -> runtime.Runtime:
        return runtime.current()

    # --- Actions ----------------------------------------------------------------------------------

    async def websocket_receive(self, message: dict[str, Any]) -> None:
        if self.connection.closed:
            return
        ref = None
        try:
            text = message.get("text")
            if text is None:
                raise ProtocolError("malformed", "Frames are text, not binary.")
            action = protocol.parse(text)
            ref = action.ref
            self._bad_frames = 0
            await self._carry_out(action)
        except ProtocolError as error:
            self._bad_frames += 1
            self.connection.send(protocol.error(error.code, error.message, error.ref))
            if self._bad_frames >= protocol.MAX_BAD_FRAMES:
                self.connection.close(CloseCode.BAD_FRAMES, "too many frames that are not understood")
        except ApiError as error:
            self.connection.send(protocol.error(error.code, error.message, ref))
        except Exception as error:
            logger.warning("An action failed: %r", error, exc_info=not isinstance(error, TimeoutError))
            self.connection.send(protocol.error("unavailable", "This failed here, not with you: try again.", ref))

    async def _carry_out(self, action: protocol.Action) -> None:
        match action:
            case protocol.Ping():
                self.connection.send(protocol.pong(self.connection.id, action.ref))
            case protocol.Subscribe():
                await self._subscribe(action)
            case protocol.Unsubscribe():
                self._runtime.hub.unsubscribe(self.connection, [action.topic])
                self.connection.send(protocol.unsubscribed(action.topic, action.ref))
            case protocol.Publish():
                await self._publish(action)

    async def _subscribe(self, action: protocol.Subscribe) -> None:
        self._allow(action.topic)
        self._bound(self.connection.topics | {action.topic})
        (found,) = await self._runtime.hub.subscribe(self.connection, {action.topic: action.since})
        self.connection.send(
            *(event.body for event in found.missed),
            protocol.subscribed(found.topic, found.epoch, found.offset, found.recovered, action.ref),
        )
        self._runtime.hub.go_live(self.connection, [found])

    async def _publish(self, action: protocol.Publish) -> None:
        topic = resolve(action.topic)
        if not topic.may_publish(self.principal, action.topic):
            raise ApiError(403, "denied", "This credential has no capability to publish to this topic.")
        accepted = await in_database(topic.publish, self.principal, action.topic, action.type, action.data)
        if action.ref is not None:
            self.connection.send(protocol.ok(action.ref, **accepted))

    def _allow(self, name: str) -> None:
        if not resolve(name).may_subscribe(self.principal, name):
            raise ApiError(403, "denied", "This credential may not subscribe to this topic.")

    @staticmethod
    def _bound(topics: Any) -> None:
        if len(topics) > settings.TOPICS_PER_CONNECTION:
            raise ApiError(
                403, "too_many_topics", f"A connection has {settings.TOPICS_PER_CONNECTION} topics at most."
            )
