"""The parts of the API as an AsyncClient has them. What each method takes and promises is said in routes/."""

from typing import TypeVar

from fanfare_client.async_asking import AsyncArea, AsyncAreaOf, ask, ask_of, every, every_of
from fanfare_client.async_session_live import AsyncSessionListener
from fanfare_client.calls import Call, Reply
from fanfare_client.conversation import Exchange, Failure
from fanfare_client.routes import boards, inbox, notifications, outside, presence, sessions, tasks, users
from fanfare_client.session_listening import SessionListening
from fanfare_client.session_shapes import Session

T = TypeVar("T")


class AsyncMessages(AsyncArea):
    get = ask(notifications.read)
    history = every(notifications.history)
    log = ask(notifications.log)


class AsyncInbox(AsyncAreaOf):
    messages = every_of(inbox.messages)
    counts = ask_of(inbox.counts)
    read = ask_of(inbox.read)
    seen = ask_of(inbox.seen)
    archive = ask_of(inbox.archive)
    unread = ask_of(inbox.unread)
    acknowledge = ask_of(inbox.acknowledge)
    preferences = ask_of(inbox.preferences)
    set_preferences = ask_of(inbox.set_preferences)


class AsyncTasks(AsyncArea):
    create = ask(tasks.create)
    get = ask(tasks.get)
    history = every(tasks.history)
    cancel = ask(tasks.cancel)
    retry = ask(tasks.retry)
    progress = ask(tasks.progress)
    done = ask(tasks.done)
    failed = ask(tasks.failed)


class AsyncPresenceArea(AsyncArea):
    get = ask(presence.get)
    query = ask(presence.query)
    of_account = every(presence.of_account)
    say = ask(presence.say)
    history = ask(presence.history)
    room = every(presence.room)
    disconnect = ask(presence.disconnect)


class AsyncBoardArea(AsyncAreaOf):
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


class AsyncBoards(AsyncArea):
    """`boards["arena"]` is one board."""

    all = every(boards.all_boards)

    def __getitem__(self, board: str) -> AsyncBoardArea:
        return AsyncBoardArea(self._client, board)


class AsyncUsers(AsyncArea):
    put = ask(users.put)
    get = ask(users.get)
    erase = ask(users.erase)


class AsyncTokens(AsyncArea):
    for_listening = ask(users.listening_token)
    create = ask(users.create_token)
    all = every(users.tokens)
    revoke = ask(users.revoke_token)
    ticket = ask(users.ticket)


class AsyncDestinations(AsyncArea):
    create = ask(outside.create_destination)
    get = ask(outside.destination)
    all = every(outside.destinations)
    change = ask(outside.change_destination)
    delete = ask(outside.delete_destination)
    rotate_secret = ask(outside.rotate_secret)


class AsyncDeliveries(AsyncArea):
    all = every(outside.deliveries)
    redrive = ask(outside.redrive)


class AsyncClientMessages(AsyncArea):
    receive = ask(outside.receive)
    acknowledge = ask(outside.acknowledge)


class AsyncSessions(AsyncArea):
    create = ask(sessions.create)
    get = ask(sessions.get)
    all = every(sessions.every)
    renew = ask(sessions.renew)
    end = ask(sessions.end)
    receive = ask(sessions.receive)
    acknowledge = ask(sessions.acknowledge)

    def listen(self, session: str | Session, *, visibility: int = 30) -> AsyncSessionListener:
        """What waits for a session and what comes, of either transport, for as long as one goes through it.

        A message is done with when the next one is asked for, or a `with` block is left without an error. What is not
        comes again after `visibility` seconds. `session`: its id, or what `create` has returned.
        """
        return AsyncSessionListener(self._client, SessionListening(session, visibility))


class AsyncAreas(AsyncArea):
    """All of them."""

    send = ask(notifications.send)
    send_batch = ask(notifications.send_batch)
    recall = ask(notifications.recall)
    recall_by_key = ask(notifications.recall_by_key)

    def __init__(self) -> None:
        super().__init__(self)
        self.messages = AsyncMessages(self)
        self.tasks = AsyncTasks(self)
        self.presence = AsyncPresenceArea(self)
        self.boards = AsyncBoards(self)
        self.users = AsyncUsers(self)
        self.tokens = AsyncTokens(self)
        self.destinations = AsyncDestinations(self)
        self.deliveries = AsyncDeliveries(self)
        self.client_messages = AsyncClientMessages(self)
        self.sessions = AsyncSessions(self)

    def inbox(self, user: str) -> AsyncInbox:
        """What waits for a user."""
        return AsyncInbox(self, user)

    async def run(self, call: Call[T]) -> T:
        """Carries out a call. Raises FanfareError."""
        raise NotImplementedError

    async def exchange(self, step: Exchange) -> Reply | Failure:
        """Sends a request, and reads the answer to its end."""
        raise NotImplementedError
