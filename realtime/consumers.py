"""The WebSocket consumer: admits, subscribes, and carries out a client's actions, one after the other."""

import asyncio
import logging
from typing import Any

import msgspec
from channels.consumer import AsyncConsumer, get_handler_name
from channels.exceptions import StopConsumer
from django.conf import settings
from django.db import InterfaceError, OperationalError

from accounts import audit
from accounts.credentials import Unauthenticated, from_bearer, log_out
from accounts.errors import ApiError
from accounts.principals import Principal
from realtime import admission, metrics, protocol, runtime
from realtime.actions import perform
from realtime.admission import Bucket
from realtime.asgi import Receive, Scope, Send
from realtime.authorizers import refusals, require
from realtime.connections import Connection, DirectConnection, SocketConnection
from realtime.control import Watch
from realtime.database import in_database
from realtime.mutes import Mute
from realtime.observing import why
from realtime.protocol import CloseCode, ProtocolError
from realtime.raw import RawDirectConnection, RawSocketConnection
from realtime.topics import encoded_info, own_name

logger = logging.getLogger(__name__)


class LiveConsumer(AsyncConsumer):  # type: ignore[misc]  # Channels has no types.
    """One for each socket. It has no channel layer of its own: the hub writes to its connection."""

    connection: Connection | None = None
    principal: Principal | None = None
    _aborted = False
    _bad_frames = 0
    _ended_with: int | None = None  # The code that the socket ended with.
    _watch: Watch | None = None

    async def __call__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Instead of Channels' own loop, which makes a task and a thread hop for each frame."""
        self.scope, self.base_send = scope, send
        self._task = asyncio.current_task()
        self._runtime = runtime.current()
        self._grants: dict[str, Watch] = {}  # Topics that a token of their own has opened.
        try:
            with audit.origin("", admission.address_of(scope) or ""):
                while True:
                    message = await receive()
                    await getattr(self, get_handler_name(message))(message)
        except StopConsumer:
            pass
        except asyncio.CancelledError:
            if not self._aborted:
                raise
        finally:
            await self._leave()

    # --- The connection's life --------------------------------------------------------------------

    async def websocket_connect(self, _message: dict[str, Any]) -> None:
        try:
            raw = admission.wants_raw(self.scope)
            self._runtime.gate.knock()
            principal, muted = await admission.identify(self.scope)
            self._runtime.gate.enter(principal.user)
        except Unauthenticated as error:
            await self._refuse(CloseCode.TOKEN_EXPIRED if error.expired else CloseCode.UNAUTHENTICATED, str(error))
        except ApiError as error:
            await self._turn_away(error)
        self.principal = principal
        await self._accept()
        self.connection = self._connect(principal, muted, raw=raw)
        self._runtime.gate.connections.add(self.connection)
        metrics.connections.labels(self.connection.transport).inc()
        self._watch = self._runtime.control.watch(principal, self.connection.close, self.connection.id)
        await self._welcome(self.connection, principal)

    async def _accept(self) -> None:
        offered = self.scope.get("subprotocols", [])
        chosen = protocol.SUBPROTOCOL if protocol.SUBPROTOCOL in offered else None
        await self.base_send({"type": "websocket.accept", "subprotocol": chosen})

    async def _refuse(self, code: CloseCode, reason: str) -> None:
        """Accepts and closes: browsers cannot see why a handshake failed, but they can see a close code."""
        await self._accept()
        metrics.closes.labels(int(code)).inc()
        await self.base_send({"type": "websocket.close", "code": int(code), "reason": reason})
        raise StopConsumer

    async def _turn_away(self, error: ApiError) -> None:
        """Refuses the handshake by HTTP, where the server can: nothing is spent on one too many."""
        if "websocket.http.response" in self.scope.get("extensions", {}):
            headers = [
                (b"content-type", b"application/json"),
                (b"retry-after", str(error.retry_after or 1).encode()),
            ]
            await self.base_send({"type": "websocket.http.response.start", "status": error.status, "headers": headers})
            body = msgspec.json.encode({"error": error.as_dict()})
            await self.base_send({"type": "websocket.http.response.body", "body": body})
        else:
            await self.base_send({"type": "websocket.close"})
        raise StopConsumer

    def _connect(self, principal: Principal, muted: Mute, *, raw: bool) -> Connection:
        self._frames = Bucket(settings.FRAMES_PER_SECOND, settings.FRAMES_BURST)
        about = {"user": principal.user, "muted": muted, "max_backlog": settings.OUTBOX_MAX_BYTES}
        if frames := self.scope.get("extensions", {}).get("websocket.frames"):
            return (RawDirectConnection if raw else DirectConnection)(**about, **frames)
        return (RawSocketConnection if raw else SocketConnection)(**about, send=self.base_send, abort=self._abort)

    async def _welcome(self, connection: Connection, principal: Principal) -> None:
        chosen = await admission.choose_topics(principal, self.scope)
        connection.session = chosen.session
        try:
            found = await self._runtime.hub.subscribe(connection, dict.fromkeys(chosen.names))
            inbox = await admission.greeting(
                principal, chosen.names
            )  # After: what changes from now on comes as an event.
        except Exception as error:
            logger.warning("A socket could not subscribe: %r", error)
            connection.close(CloseCode.UNAVAILABLE, "try again soon")
            return
        topics = {one.topic: one.place() for one in found}
        errors = [protocol.error(one.error.code, one.error.message, topic=one.topic) for one in chosen.refused]
        connection.send(protocol.welcome(connection.id, principal.user, topics, **inbox), *errors)
        self._runtime.hub.go_live(connection, found)
        agent = admission.headers_of(self.scope).get("user-agent", "")
        self._runtime.observer.opened(connection, principal, admission.address_of(self.scope), agent)

    async def websocket_disconnect(self, message: dict[str, Any]) -> None:
        self._ended_with = message.get("code")
        raise StopConsumer

    def _abort(self) -> None:
        self._aborted = True
        if self._task:
            self._task.cancel()

    async def _leave(self) -> None:
        for watch in filter(None, (self._watch, *self._grants.values())):
            self._runtime.control.unwatch(watch)
        if self.principal:
            self._runtime.gate.leave(self.principal.user)
        if connection := self.connection:
            connection.closed = True
            self._runtime.gate.connections.discard(connection)
            self._runtime.hub.leave(connection)
            self._runtime.watching.unwatch(connection)
            self._runtime.observer.closed(connection, why(connection, self._ended_with))
            metrics.connections.labels(connection.transport).dec()
            if isinstance(connection, SocketConnection):
                await connection.stop()

    # --- Actions ----------------------------------------------------------------------------------

    async def websocket_receive(self, message: dict[str, Any]) -> None:
        connection, principal = self.connection, self.principal
        if connection is None or principal is None or connection.closed:
            return
        ref = None
        try:
            if not self._frames.take():
                raise ProtocolError("rate_limited", f"At most {settings.FRAMES_PER_SECOND} frames a second.")
            text = message.get("text")
            if text is None:
                raise ProtocolError("malformed", "Frames are text, not binary.")
            action = protocol.parse(text)
            ref = action.ref
            self._bad_frames = 0
            try:
                await self._carry_out(action, connection, principal)
            finally:  # Also what failed half-way may have changed its topics.
                self._runtime.observer.changed(connection)
        except ProtocolError as error:
            connection.send(protocol.error(error.code, error.message, error.ref))
            self._bad_frames += 1
            if self._bad_frames >= protocol.MAX_BAD_FRAMES:
                limited = error.code == "rate_limited"
                connection.close(CloseCode.RATE_LIMITED if limited else CloseCode.BAD_FRAMES, error.message)
        except ApiError as error:
            connection.send(protocol.error(error.code, error.message, ref))
        except Exception as error:
            down = isinstance(error, TimeoutError | OperationalError | InterfaceError)
            logger.warning("An action failed: %r", error, exc_info=not down)
            connection.send(protocol.error("unavailable", "This failed here, not with you: try again.", ref))

    async def _carry_out(self, action: protocol.Action, connection: Connection, principal: Principal) -> None:
        match action:
            case protocol.Ping():
                connection.send(protocol.pong(connection.id, action.ref))
            case protocol.Subscribe(users=list(users)):
                await self._watch_users(action, users, connection, principal)
            case protocol.Subscribe():
                await self._subscribe(action, connection, principal)
            case protocol.Unsubscribe(topic="watch"):
                self._runtime.watching.unwatch(connection)
                connection.send(protocol.unsubscribed(action.topic, action.ref))
            case protocol.Unsubscribe():
                self._unsubscribe(connection, action.topic)
                connection.send(protocol.unsubscribed(action.topic, action.ref))
            case protocol.Publish():
                await require(principal, "publish", action.topic)
                await self._perform(action, connection, principal)
            case protocol.Refresh():
                await self._refresh(action, connection, principal)
            case protocol.Logout():
                await in_database(log_out, principal)
                connection.close(CloseCode.REVOKED, protocol.LOGGED_OUT)
            case _:
                await self._perform(action, connection, principal)

    async def _perform(self, action: protocol.Action, connection: Connection, principal: Principal) -> None:
        done = await in_database(perform, action, principal, connection.id)
        if action.ref is not None:
            connection.send(protocol.ok(action.ref, **done))

    async def _subscribe(self, action: protocol.Subscribe, connection: Connection, principal: Principal) -> None:
        already = len(connection.topics - {action.topic})
        holder = principal if action.token is None else await in_database(from_bearer, action.token)
        if holder.user not in (None, principal.user):
            raise ApiError(403, "wrong_user", "This token was made for somebody else.")
        await admission.admit(holder, action.topic, already=already)
        connection.infos[action.topic] = encoded_info(action.topic, action.info)
        me = own_name(action.topic, principal) if action.me else None
        (found,) = await self._runtime.hub.subscribe(connection, {action.topic: action.since})
        self._drop_grant(action.topic)
        if action.token is not None:
            self._grant(connection, action.topic, holder)
        connection.send(
            *(event.body for event in found.missed),
            protocol.subscribed(found.topic, found.epoch, found.offset, found.recovered, action.ref, found.snapshot),
        )
        self._runtime.hub.go_live(connection, [found])
        if me is None:
            self._runtime.ticker.unfollow(connection, action.topic)
        else:
            self._runtime.ticker.follow(connection, action.topic, me)

    async def _watch_users(
        self, action: protocol.Subscribe, users: list[str], connection: Connection, principal: Principal
    ) -> None:
        others = action.since, action.token, action.info
        if action.topic != "watch" or any(other is not None for other in others) or action.me:
            raise ApiError(400, "malformed", "users: they go with the topic `watch`, and with nothing else.")
        states, refused = await self._runtime.watching.watch(connection, principal, list(dict.fromkeys(users)))
        connection.send(protocol.watching(states, refused, action.ref))

    def _grant(self, connection: Connection, topic: str, holder: Principal) -> None:
        """The topic stays as long as the token that opened it."""

        def end(_code: CloseCode, _reason: str) -> None:
            if topic in connection.topics and not connection.closed:
                self._unsubscribe(connection, topic)
                connection.send(protocol.unsubscribed(topic))
                self._runtime.observer.changed(connection)

        self._grants[topic] = self._runtime.control.watch(holder, end, "")

    def _drop_grant(self, topic: str) -> None:
        if watch := self._grants.pop(topic, None):
            self._runtime.control.unwatch(watch)

    def _unsubscribe(self, connection: Connection, topic: str) -> None:
        self._runtime.hub.unsubscribe(connection, [topic])
        connection.infos.pop(topic, None)
        self._drop_grant(topic)

    async def _refresh(self, action: protocol.Refresh, connection: Connection, principal: Principal) -> None:
        """A fresh credential for the same user: the connection goes on, less the topics that it does not open."""
        fresh = await in_database(from_bearer, action.token)
        if (fresh.kind, fresh.user, fresh.is_backend) != (principal.kind, principal.user, False):
            raise ApiError(403, "wrong_user", "A fresh token is of the same kind and for the same user.")
        if self._watch:
            self._runtime.control.unwatch(self._watch)
        self.principal = fresh
        self._watch = self._runtime.control.watch(fresh, connection.close, connection.id)
        for topic in await refusals(fresh, "subscribe", sorted(connection.topics - self._grants.keys())):
            self._unsubscribe(connection, topic)
            connection.send(protocol.unsubscribed(topic))
        await self._runtime.watching.refresh(connection, fresh)
        if action.ref is not None:
            connection.send(protocol.ok(action.ref, expires_at=fresh.expires_at))
