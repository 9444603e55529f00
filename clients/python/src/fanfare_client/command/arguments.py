"""What the command can be asked."""

import json
from argparse import ArgumentParser, ArgumentTypeError, _SubParsersAction
from datetime import UTC, datetime
from typing import Any, TypeAlias

Commands: TypeAlias = "_SubParsersAction[ArgumentParser]"


def parser() -> ArgumentParser:
    output = ArgumentParser(add_help=False)
    output.add_argument("-o", "--output", choices=("text", "json"), default="text", help="json: one object a line")
    whole = ArgumentParser(
        prog="fanfare",
        description="Fanfare from a shell. FANFARE_URL says where it is, FANFARE_KEY who asks: an API key or a token.",
    )
    commands = whole.add_subparsers(dest="action", required=True, metavar="COMMAND")
    for add in (_sending, _listening, _presence, _boards, _tasks, _tokens, _sessions, _operations):
        add(commands, output)
    return whole


def _sending(commands: Commands, output: ArgumentParser) -> None:
    send = commands.add_parser("send", parents=[output], help="send a notification")
    to = send.add_mutually_exclusive_group(required=True)
    to.add_argument("--user", action="append", help="may be given several times")
    to.add_argument("--account")
    to.add_argument("--session", help="one browser session")
    to.add_argument("--topic", help="for topic.NAME: the NAME")
    to.add_argument("--all", action="store_true", help="everybody")
    send.add_argument("text", nargs="?", help='sent as {"text": TEXT}')
    send.add_argument("--data", type=_json, help="any JSON, instead of TEXT")
    send.add_argument("--type", default="message")
    send.add_argument("--ttl", type=int, metavar="SECONDS")
    send.add_argument("--at", type=_moment, metavar="TIME", help="send it then: 2030-01-31T12:00:00Z")
    send.add_argument("--label", help="a key to recall it by")
    send.add_argument("--ephemeral", action="store_true", help="only for who listens now")


def _listening(commands: Commands, output: ArgumentParser) -> None:
    tail = commands.add_parser("tail", parents=[output], help="print what comes, until Ctrl-C")
    tail.add_argument(
        "topics", nargs="*", metavar="TOPIC", help="user.ann, account.acme, all, topic.NAME, board.NAME …"
    )
    tail.add_argument("--from-start", action="store_true", help="begin with what the log still has")
    tail.add_argument("-n", type=int, metavar="COUNT", help="end after so many messages")
    inbox = commands.add_parser("inbox", parents=[output], help="what waits for a user")
    inbox.add_argument("user")
    inbox.add_argument("--unread", action="store_true", help="only what is not read")
    inbox.add_argument("--mark-read", action="store_true", help="and mark all of it as read")
    inbox.add_argument("-n", type=int, default=20, metavar="COUNT", help="20 unless given")


def _presence(commands: Commands, output: ArgumentParser) -> None:
    who = commands.add_parser("who", parents=[output], help="who is there")
    who.add_argument("users", nargs="*", metavar="USER")
    who.add_argument("--account", help="all users of an account")
    who.add_argument("--room", help="who is in a room")


def _boards(commands: Commands, output: ArgumentParser) -> None:
    board = commands.add_parser("board", parents=[output], help="a leaderboard")
    board.add_argument("board")
    board.add_argument("--around", metavar="NAME")
    board.add_argument("--submit", nargs=2, metavar=("NAME", "SCORE"), help="submit a score first")
    board.add_argument("--window", help="current, previous, weekly, a label …")
    board.add_argument("-n", type=int, default=20, metavar="COUNT", help="20 unless given")


def _tasks(commands: Commands, output: ArgumentParser) -> None:
    task = commands.add_parser("task", help="work in the background").add_subparsers(
        dest="deed", required=True, metavar="DEED"
    )
    start = task.add_parser("start", parents=[output])
    start.add_argument("--user", help="for whom; services have to say")
    start.add_argument("--type", default="echo")
    start.add_argument("payload", nargs="?", type=_json, help="any JSON")
    for deed in ("show", "cancel", "retry"):
        task.add_parser(deed, parents=[output]).add_argument("id")
    listing = task.add_parser("list", parents=[output])
    listing.add_argument("--user")
    listing.add_argument("--state")
    listing.add_argument("-n", type=int, default=20, metavar="COUNT", help="20 unless given")


def _tokens(commands: Commands, output: ArgumentParser) -> None:
    token = commands.add_parser("token", parents=[output], help="make a token")
    token.add_argument("--user", help="whom it is for")
    token.add_argument("--account")
    token.add_argument("--topic", action="append", help="for this topic and nothing else; may be given several times")
    token.add_argument("--allow", action="append", choices=("subscribe", "publish"))
    token.add_argument("--ttl", type=int, default=3600, metavar="SECONDS")


def _sessions(commands: Commands, output: ArgumentParser) -> None:
    session = commands.add_parser("session", help="browser sessions").add_subparsers(
        dest="deed", required=True, metavar="DEED"
    )
    create = session.add_parser("create", parents=[output], help="make one, or go on with one")
    listen = session.add_parser("listen", parents=[output], help="print what comes, until Ctrl-C")
    listen.add_argument("id", nargs="?", help="unless given, one is made, and ends when this does")
    listen.add_argument("-n", type=int, metavar="COUNT", help="end after so many messages")
    listing = session.add_parser("list", parents=[output])
    listing.add_argument("-n", type=int, default=20, metavar="COUNT", help="20 unless given")
    for one in (create, listen, listing):
        one.add_argument("--user", help="whose; services have to say")
        one.add_argument("--account")
    create.add_argument("--session", help="its id, to find it again")
    listen.set_defaults(session=None)
    for one in (create, listen):
        one.add_argument("--transport", choices=("poll", "sqs"), default="poll")
        one.add_argument("--retention", type=int, metavar="SECONDS", help="for which a message waits")
    destroy = session.add_parser("destroy", parents=[output])
    destroy.add_argument("ids", nargs="+", metavar="ID")


def _operations(commands: Commands, output: ArgumentParser) -> None:
    redrive = commands.add_parser("redrive", parents=[output], help="send dead letters again")
    redrive.add_argument("ids", nargs="*", type=int, metavar="ID", help="of deliveries")
    redrive.add_argument("--destination", help="all of a destination: its name or id")
    redrive.add_argument("--since", type=_moment, metavar="TIME", help="with --destination: that died since then")
    commands.add_parser("doctor", parents=[output], help="find out what is wrong")


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ArgumentTypeError(f"no JSON: {error}") from error


def _moment(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise ArgumentTypeError("no time such as 2030-01-31T12:00:00Z") from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)
