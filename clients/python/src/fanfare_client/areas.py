"""The parts of the API as a Client has them. What each method takes and promises is said in routes/."""

from typing import TypeVar

from fanfare_client.asking import Area, AreaOf, ask, ask_of, every, every_of
from fanfare_client.calls import Call, Reply
from fanfare_client.conversation import Exchange, Failure
from fanfare_client.routes import boards, inbox, notifications, outside, presence, sessions, tasks, users
from fanfare_client.session_listening import SessionListening
from fanfare_client.session_live import SessionListener
from fanfare_client.session_shapes import Session

T = TypeVar("T")


class Messages(Area):
    get = ask(notifications.read)
    history = every(notifications.history)
    log = ask(notifications.log)


class Inbox(AreaOf):
    messages = every_of(inbox.messages)
    counts = ask_of(inbox.counts)
    read = ask_of(inbox.read)
    seen = ask_of(inbox.seen)
    archive = ask_of(inbox.archive)
    unread = ask_of(inbox.unread)
    acknowledge = ask_of(inbox.acknowledge)
    preferences = ask_of(inbox.preferences)
    set_preferences = ask_of(inbox.set_preferences)


class Tasks(Area):
    create = ask(tasks.create)
    get = ask(tasks.get)
    history = every(tasks.history)
    cancel = ask(tasks.cancel)
    retry = ask(tasks.retry)
    progress = ask(tasks.progress)
    done = ask(tasks.done)
    failed = ask(tasks.failed)


class PresenceArea(Area):
    get = ask(presence.get)
    query = ask(presence.query)
    of_account = every(presence.of_account)
    say = ask(presence.say)
    history = ask(presence.history)
    room = every(presence.room)
    disconnect = ask(presence.disconnect)


class BoardArea(AreaOf):
    submit = ask_of(boards.submit)
    submit_many = ask_of(boards.submit_many)
    standing = ask_of(boards.standing)
    page = ask_of(boards.page)
    around = ask_of(boards.around)
    of = ask_of(boards.of)
    between = ask_of(boards.between)
    rows = every_of(boards.rows)
    put = ask_of(boards.put)
    drop = ask_of(boards.drop)
    remove = ask_of(boards.remove)
    hide = ask_of(boards.hide)
    unhide = ask_of(boards.unhide)
    windows = every_of(boards.windows)
    reset = ask_of(boards.reset)


class Boards(Area):
    """`boards["arena"]` is one board."""

    all = every(boards.all_boards)

    def __getitem__(self, board: str) -> BoardArea:
        return BoardArea(self._client, board)


class Users(Area):
    put = ask(users.put)
    get = ask(users.get)
    erase = ask(users.erase)


class Tokens(Area):
    for_listening = ask(users.listening_token)
    create = ask(users.create_token)
    all = every(users.tokens)
    revoke = ask(users.revoke_token)
    ticket = ask(users.ticket)


class Destinations(Area):
    create = ask(outside.create_destination)
    get = ask(outside.destination)
    all = every(outside.destinations)
    change = ask(outside.change_destination)
    delete = ask(outside.delete_destination)
    rotate_secret = ask(outside.rotate_secret)


class Deliveries(Area):
    all = every(outside.deliveries)
    redrive = ask(outside.redrive)


class ClientMessages(Area):
    receive = ask(outside.receive)
    acknowledge = ask(outside.acknowledge)


class Sessions(Area):
    create = ask(sessions.create)
    get = ask(sessions.get)
    all = every(sessions.every)
    renew = ask(sessions.renew)
    end = ask(sessions.end)
    receive = ask(sessions.receive)
    acknowledge = ask(sessions.acknowledge)

    def listen(self, session: str | Session, *, visibility: int = 30) -> SessionListener:
        """What waits for a session and what comes, of either transport, for as long as one goes through it.

        A message is done with when the next one is asked for, or a `with` block is left without an error. What is not
        comes again after `visibility` seconds. `session`: its id, or what `create` has returned.
        """
        return SessionListener(self._client, SessionListening(session, visibility))


class Areas(Area):
    """All of them."""

    send = ask(notifications.send)
    send_batch = ask(notifications.send_batch)
    recall = ask(notifications.recall)
    recall_by_key = ask(notifications.recall_by_key)

    def __init__(self) -> None:
        super().__init__(self)
        self.messages = Messages(self)
        self.tasks = Tasks(self)
        self.presence = PresenceArea(self)
        self.boards = Boards(self)
        self.users = Users(self)
        self.tokens = Tokens(self)
        self.destinations = Destinations(self)
        self.deliveries = Deliveries(self)
        self.client_messages = ClientMessages(self)
        self.sessions = Sessions(self)

    def inbox(self, user: str) -> Inbox:
        """What waits for a user."""
        return Inbox(self, user)

    def run(self, call: Call[T]) -> T:
        """Carries out a call. Raises FanfareError."""
        raise NotImplementedError

    def exchange(self, step: Exchange) -> Reply | Failure:
        """Sends a request, and reads the answer to its end."""
        raise NotImplementedError
