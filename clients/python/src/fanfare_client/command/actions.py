"""What each command does. A function returns the exit status."""

from argparse import Namespace
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from fanfare_client.client import Client
from fanfare_client.command.doctor import doctor
from fanfare_client.command.output import Output
from fanfare_client.errors import FanfareError
from fanfare_client.events import Connected, Disconnected, Event, Refused
from fanfare_client.session_shapes import Session
from fanfare_client.shapes import START, Message, Presence


def send(client: Client, options: Namespace, output: Output) -> int:
    if (options.text is None) == (options.data is None):
        raise ValueError("Give a TEXT or --data, one of them.")
    to: dict[str, Any] = {"all": True}
    if options.user:
        to = {"user": options.user[0]} if len(options.user) == 1 else {"users": options.user}
    for kind in ("account", "session", "topic"):
        if named := getattr(options, kind):
            to = {kind: named}
    data = options.data if options.text is None else {"text": options.text}
    sent = client.send(
        to, data, options.type, ttl=options.ttl, send_at=options.at, key=options.label, store=not options.ephemeral
    )
    for place in sent.messages:
        output.show(place, place.id, place.topic, place.offset)
    return 0


def tail(client: Client, options: Namespace, output: Output) -> int:
    if options.from_start and not options.topics:
        raise ValueError("Name the topics that are to begin at their start.")
    with client.listen(options.topics or None, since=START if options.from_start else None) as events:
        _print(events, options, output)
    return 0


def _print(events: Iterable[Event], options: Namespace, output: Output) -> None:
    """What a listener gets, until so many messages have come."""
    count = 0
    for event in events if options.n != 0 else ():
        match event:
            case Message():
                output.event(event, event.created_at, event.topic, event.offset or "-", event.type, event.data)
                count += 1
            case Connected():
                output.note("connected" + (f" as {event.user}" if event.user else ""))
            case Disconnected():
                output.note(f"not connected: {event.reason} ({event.code}); again in {event.pause:.1f} s")
            case Refused():
                output.note(f"{event.topic}: {event.code}: {event.message}")
            case _:
                output.event(event, type(event).__name__, event)
        if options.n is not None and count >= options.n:
            break


def inbox(client: Client, options: Namespace, output: Output) -> int:
    inbox = client.inbox(options.user)
    for one in islice(inbox.messages(unread=options.unread, page_size=min(max(options.n, 1), 100)), options.n):
        output.show(one, one.created_at, " " if one.read_at else "*", one.id, one.type, one.data)
    counts = inbox.read(all=True) if options.mark_read else inbox.counts()
    output.note(f"{counts.unread}{'+' if counts.unread_more else ''} unread")
    return 0


def who(client: Client, options: Namespace, output: Output) -> int:
    if bool(options.users) + bool(options.account) + bool(options.room) != 1:
        raise ValueError("Name users, an --account or a --room, one of them.")
    if options.room:
        for member in client.presence.room(options.room):
            output.show(member, member.user, member.info)
        return 0
    found = client.presence.query(options.users) if options.users else client.presence.of_account(options.account)
    for presence in found:
        _show_presence(presence, output)
    return 0


def _show_presence(presence: Presence, output: Output) -> None:
    since = f"since {presence.since:%Y-%m-%d %H:%M:%S}" if presence.since else "never seen"
    output.show(presence, presence.status.ljust(7), presence.user, presence.availability, presence.text, since)


def board(client: Client, options: Namespace, output: Output) -> int:
    board = client.boards[options.board]
    if options.submit:
        name, score = options.submit
        submitted = board.submit(name, float(score) if "." in score or "e" in score.lower() else int(score))
        output.note(f"{name}: position {submitted.position}" + (" (waits for a review)" if submitted.held else ""))
    if options.around:
        page = board.around(options.around, options.n, window=options.window)
    else:
        page = board.page(0, options.n, window=options.window)
    for row in page.leaderboard:
        output.show(row, f"{row.rank + 1:>6}", f"{row.score:>12}", row.name)
    output.note(f"{page.total} in all")
    return 0


def task(client: Client, options: Namespace, output: Output) -> int:
    if options.deed == "list":
        for one in islice(client.tasks.history(user=options.user, state=options.state), options.n):
            output.show(one, one.id, one.state, f"{one.progress:.0%}", one.user, one.type, one.note or one.error)
        return 0
    if options.deed == "start":
        id = client.tasks.create(options.payload, type=options.type, user=options.user)
    else:
        id = options.id
    if options.deed in ("cancel", "retry"):
        (client.tasks.cancel if options.deed == "cancel" else client.tasks.retry)(id)
    found = client.tasks.get(id)
    output.show(found, found.id, found.state, f"{found.progress:.0%}", found.note, found.error or found.result)
    return 0


def token(client: Client, options: Namespace, output: Output) -> int:
    made = client.tokens.create(
        user=options.user,
        account=options.account,
        topics=options.topic,
        allow=options.allow or ("subscribe",),
        ttl=options.ttl,
    )
    output.show(made, made.token)
    return 0


def session(client: Client, options: Namespace, output: Output) -> int:
    try:
        match options.deed:
            case "create":
                _show_session(_create_session(client, options), output)
            case "list":
                found = client.sessions.all(user=options.user, account=options.account)
                for one in islice(found, options.n):
                    _show_session(one, output)
            case "destroy":
                for id in options.ids:
                    client.sessions.end(id)
            case "listen":
                _listen_to_session(client, options, output)
    except FanfareError as error:
        if (error.status, error.code) != (404, "not_found"):
            raise
        raise FanfareError(404, "no_sessions", "This server has no sessions. Listen with `fanfare tail`.") from error
    return 0


def _create_session(client: Client, options: Namespace) -> Session:
    return client.sessions.create(
        options.user,
        options.account,
        session=options.session,
        transport=options.transport,
        retention=options.retention,
    )


def _show_session(one: Session, output: Output) -> None:
    output.show(one, one.session_id, one.transport, one.user_id, one.account_id or "-", one.expires_at)


def _listen_to_session(client: Client, options: Namespace, output: Output) -> None:
    """One that is named goes on afterwards; else it is made for this, and ends with it."""
    if options.id:
        with client.sessions.listen(options.id) as events:
            return _print(events, options, output)
    made = _create_session(client, options)
    output.note(f"session {made.session_id}")
    try:
        with client.sessions.listen(made) as events:
            return _print(events, options, output)
    finally:
        client.sessions.end(made.session_id)


def redrive(client: Client, options: Namespace, output: Output) -> int:
    if bool(options.ids) == bool(options.destination):
        raise ValueError("Name deliveries by their ids, or a --destination, one of them.")
    id = None
    if options.destination:
        all = client.destinations.all()
        id = next((one.id for one in all if options.destination in (one.name, one.id)), None)
        if id is None:
            raise ValueError(f"There is no destination {options.destination}.")
    redriven = client.deliveries.redrive(options.ids or None, destination=id, since=options.since)
    output.show({"redriven": redriven}, f"{redriven} sent again")
    return 0


ACTIONS: dict[str, Callable[[Client, Namespace, Output], int]] = {
    action.__name__: action for action in (send, tail, inbox, who, board, task, token, session, redrive, doctor)
}
