"""Two accounts that must not learn of each other: everybody who may call, and everything that bob of globex has."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import uuid4

from django.contrib.auth.models import User as OperatorRow
from django.test import Client
from django.utils import timezone

from accounts import api_keys, audit, tokens, users
from accounts.credentials import authenticate
from accounts.models import AuditEntry, Revocation, Token, User
from accounts.principals import Principal
from accounts.shapes import UserChange
from adapters import caches, destinations, fetching
from adapters.base import Parcel
from adapters.models import Delivery, Destination, QueuedEvent
from adapters.shapes import NewDestination
from leaderboards import boards
from leaderboards.models import Board, Entry, Submission, Window
from leaderboards.submitting import Score, submit
from notifications.log import Draft, accept
from notifications.models import Marker, Message, Receipt, Task, Topic
from presence import registry, room_veils, rooms
from presence.models import Presence, Transition
from sessions_app import sessions
from sessions_app.models import BrowserSession

CLAIM = "claim-of-bobs-task"
CANARY = "canary-7f3a"  # Stands in everything that is bob's or his account's.
TTL = 600
GLOBEX_BOARD = f"globex-{CANARY}"
BOBS_TOPICS = ("user.bob", "account.globex", "topic.globex-room")


def bearer(credential: str) -> Client:
    return Client(headers={"authorization": f"Bearer {credential}"}, raise_request_exception=False)


def signed_in(name: str, **rights: bool) -> Client:
    client = Client(raise_request_exception=False)
    client.force_login(OperatorRow.objects.create_user(f"{name}-{uuid4().hex[:8]}", **rights))  # type: ignore[arg-type]
    return client


def service(scopes: Iterable[str]) -> str:
    return api_keys.create("acme-backend", scopes)[1]


def user_token(user: str, account: str | None, **more: Any) -> str:
    return tokens.issue(None, ttl=TTL, user=user, account=account, **more)[1]


def credentials() -> dict[str, str | None]:
    """Those who may see nothing of bob's, by their credential."""
    own = ["user.alice", "account.acme", "topic.acme-*"]
    return {
        "nobody": None,
        "alice": user_token("alice", "acme"),
        "alice, with rooms": user_token("alice", "acme", subscribe=["topic.acme-*"], publish=["topic.acme-*"]),
        "alice's scoped token": user_token("alice", "acme", subscribe=own, publish=own, scoped=True),
        "a token of no user": tokens.issue(None, ttl=TTL, subscribe=["topic.acme-*"], scoped=True)[1],
        "a service that may nothing": service([]),
    }


def strangers() -> dict[str, Client]:
    """`credentials`, as clients, and those who have signed in without being operators."""
    nobody = Client(raise_request_exception=False)
    found = {name: bearer(text) if text else nobody for name, text in credentials().items()}
    return found | {"signed in, no staff": signed_in("visitor")}


def principal(credential: str) -> Principal:
    return authenticate({"authorization": f"Bearer {credential}"})


@dataclass
class Globex:
    """What there is of bob's."""

    message: str = ""
    token: str = ""
    tasks: list[str] = field(default_factory=list)  # One has failed, one runs.
    connection: str = field(default_factory=lambda: uuid4().hex)
    destination: str = ""
    delivery: int = 0  # A dead letter.
    receipt: str = ""  # Of an event that is lent from a table.

    def __post_init__(self) -> None:
        users.see("alice", "acme", 1.0)
        users.see("bob", "globex", 1.0)
        users.change(None, "bob", UserChange(account="globex", name=CANARY, attributes={CANARY: CANARY}))
        drafts = [Draft([topic], f'"{CANARY}"'.encode(), type=CANARY, key=CANARY) for topic in BOBS_TOPICS]
        results = accept(drafts)
        self.message = str(results[0].accepted[0].id)
        row, _ = tokens.issue(None, ttl=TTL, user="bob", subscribe=[f"topic.{CANARY}"], scoped=True)
        self.token = str(row.id)
        given = {"user": "bob", "type": CANARY, "payload": f'"{CANARY}"', "note": CANARY, "claim": CLAIM}
        for state in (Task.State.FAILED, Task.State.RUNNING):
            later = timezone.now() + timedelta(minutes=5)
            self.tasks.append(str(Task.objects.create(**given, state=state, lease_until=later).pk))
        bearer(service(["users:write"])).put("/api/users/bob/preferences", {CANARY: "inbox"}, "application/json")
        audit.record(None, CANARY, "user:bob", after={CANARY: CANARY})
        self._make_destinations()
        Presence.objects.create(user="bob", text=CANARY, version=1)
        self._connect()
        caches.put(caches.find("default"), CANARY.encode(), CANARY.encode(), TTL)
        sessions.open_session("bobs-tab", "bob", "globex", "poll", TTL, "192.0.2.66", CANARY)
        board, _new = boards.put(GLOBEX_BOARD, {"read": "service"}, None)
        submit(board, [Score("bob", 7, metadata=f'"{CANARY}"')], "system:test")
        Transition.objects.create(user="bob", seq=1, status="ONLINE", reason="opened", at=timezone.now())

    def _make_destinations(self) -> None:
        hook = NewDestination(name=CANARY, kind="webhook", address=f"https://{CANARY}.example.com/", topics=["nothing"])
        row, _secret = destinations.create(None, hook)
        self.destination = str(row.pk)
        given = {"event": "message", "key": "user.bob", "body": f'"{CANARY}"', "error": CANARY}
        dead = Delivery.objects.create(
            destination=row, event_id=uuid4(), state="dead", finished_at=row.created_at, **given
        )
        self.delivery = dead.pk
        table, _none = destinations.create(
            None, NewDestination(name=f"{CANARY}-table", kind="table", topics=["nothing"])
        )
        fetching.put(table.pk, [Parcel(uuid4(), "message", "user.bob", f'"{CANARY}"'.encode())], timedelta(days=1))
        self.receipt = fetching.receive([table.pk], 1, 600)[0].receipt

    def _connect(self) -> None:
        boot = uuid4().hex
        own, now = ["user.bob", "account.globex"], timezone.now()
        socket = registry.LiveConnection(
            self.connection, "bob", "globex", None, "websocket", "192.0.2.66", CANARY, now, now, own
        )
        registry.change(boot, 1, [socket], [])
        stay = rooms.Stay(self.connection, "globex-room", "bob", 0, 0, f'"{CANARY}"'.encode())
        if changed := rooms.change(boot, [stay], []):
            room_veils.ask(changed.unsure)

    def put_in(self, text: str) -> str:
        """A body with what is bob's in its places."""
        for name, value in (
            ("message_id", self.message),
            ("destination_id", self.destination),
            ("receipt", self.receipt),
        ):
            text = text.replace(f"<{name}>", value)
        return text.replace('"<delivery_id>"', str(self.delivery))

    def state(self) -> Any:
        """Everything of bob's, and of what is done to him: as before, unless somebody got through."""
        return (
            list(Message.objects.filter(topic__name__in=BOBS_TOPICS).order_by("pk").values()),
            list(Topic.objects.filter(name__in=BOBS_TOPICS).order_by("pk").values()),
            list(User.objects.filter(pk="bob").values()),
            list(Receipt.objects.filter(user="bob").order_by("pk").values()),
            list(Marker.objects.filter(user="bob").order_by("pk").values()),
            list(Task.objects.filter(user="bob").order_by("pk").values()),
            list(Token.objects.filter(user="bob").order_by("pk").values()),
            Revocation.objects.exclude(subject__startswith="token:").count(),
            Revocation.objects.filter(subject=f"token:{self.token}").count(),
            AuditEntry.objects.filter(subject__in=["user:bob", f"token:{self.token}"]).count(),
            list(Destination.objects.order_by("pk").values()),
            list(Delivery.objects.order_by("pk").values()),
            list(QueuedEvent.objects.order_by("pk").values()),
            list(BrowserSession.objects.order_by("pk").values()),
            [list(rows.objects.order_by("pk").values()) for rows in (Board, Window, Entry, Submission)],
            list(Presence.objects.filter(pk="bob").values()),
            list(Transition.objects.filter(user="bob").order_by("pk").values()),
            (cached := caches.get(caches.find("default"), CANARY.encode())) and cached.value,
        )
