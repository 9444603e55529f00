"""What operators see of boards in the admin, and do there."""

import csv
import io

import pytest
from django.contrib.auth.models import Permission, User
from django.db import transaction
from django.http import StreamingHttpResponse
from django.test import AsyncClient, Client

from leaderboards import boards, indexing, windows
from leaderboards.models import Board, Entry, Submission, Window
from leaderboards.submitting import Score, submit
from tests.presence.redis import TestRedis

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _fresh(redis: TestRedis) -> None:
    boards._found.clear()
    indexing._checked.clear()


@pytest.fixture
def operator() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("operator"))
    return client


@pytest.fixture
def board() -> Board:
    return Board.objects.create(name="race", schedules=["none"])


def fill(board: Board, **scores: float) -> Window:
    submit(board, [Score(name, score) for name, score in scores.items()], "service:test")
    return window_of(board)


def window_of(board: Board) -> Window:
    with transaction.atomic():
        return windows.lock_open(board)[0]


def standings(client: Client, window: Window, query: str = "") -> list[tuple[int, str]]:
    reply = client.get(f"/admin/leaderboards/window/{window.pk}/entries/{query}")
    assert reply.status_code == 200
    return [(row.rank, row.name) for row in reply.context["rows"]]


def act(client: Client, window: Window, action: str, *names: str) -> str:
    reply = client.post(
        f"/admin/leaderboards/window/{window.pk}/entries/", {"action": action, "names": names}, follow=True
    )
    assert reply.status_code == 200
    return reply.content.decode()


def test_a_window_is_shown_as_it_is_ranked(operator: Client, board: Board) -> None:
    window = fill(board, **{f"n{number:03}": float(number) for number in range(120)})
    assert standings(operator, window)[:2] == [(0, "n119"), (1, "n118")]
    assert standings(operator, window, "?start=50")[0] == (50, "n069")
    around = standings(operator, window, "?name=n060")
    assert len(around) == 50
    assert (59, "n060") in around
    assert standings(operator, window, "?name=nobody") == []
    assert standings(operator, window, "?start=-1") == standings(operator, window, "?start=x")


def test_names_are_hidden_shown_and_removed(operator: Client, board: Board) -> None:
    window = fill(board, ada=3.0, bob=2.0, eve=1.0)
    assert "done" in act(operator, window, "hide", "ada", "bob")
    assert standings(operator, window) == [(0, "eve")]
    assert "hidden" in act(operator, window, "unhide", "ada")  # bob still is.
    assert standings(operator, window) == [(0, "ada"), (1, "eve")]
    act(operator, window, "remove", "ada")
    assert standings(operator, window) == [(0, "eve")]
    deeds = Submission.objects.filter(operator__in=["hide", "unhide", "remove"]).order_by("id")
    assert list(deeds.values_list("operator", "owner__name", "actor")) == [
        ("hide", "ada", "operator:operator"),
        ("hide", "bob", "operator:operator"),
        ("unhide", "ada", "operator:operator"),
        ("remove", "ada", "operator:operator"),
    ]
    assert "Nothing is done" in act(operator, window, "erase", "eve")


@pytest.mark.parametrize("ranking", ["redis", "database"])
def test_names_that_cannot_be_and_those_that_are_not_there_are_no_errors(operator: Client, ranking: str) -> None:
    window = fill(Board.objects.create(name="race", schedules=["none"], ranking=ranking), ada=3.0)
    assert standings(operator, window, "?name=a%00b") == [(0, "ada")]
    told = act(operator, window, "hide", "a\0b", "nobody")
    assert "has no score" in told
    assert "done" not in told


def test_who_may_only_look_cannot_act(board: Board) -> None:
    window = fill(board, ada=3.0)
    viewer = User.objects.create_user("viewer", is_staff=True)
    viewer.user_permissions.add(Permission.objects.get(codename="view_window"))
    client = Client()
    client.force_login(viewer)
    assert standings(client, window) == [(0, "ada")]
    assert "Nothing is done" in act(client, window, "remove", "ada")
    assert Entry.objects.count() == 1
    stranger = Client()
    stranger.force_login(User.objects.create_user("stranger", is_staff=True))
    assert stranger.get(f"/admin/leaderboards/window/{window.pk}/entries/").status_code == 404
    assert Client().get(f"/admin/leaderboards/window/{window.pk}/entries/").status_code == 302


def test_a_reset_is_one_action(operator: Client, board: Board) -> None:
    before = fill(board, ada=3.0)
    reply = operator.post(
        "/admin/leaderboards/board/", {"action": "reset", "_selected_action": [board.pk]}, follow=True
    )
    assert "1 boards are reset" in reply.content.decode()
    after = window_of(board)
    assert (before.label, after.label) == ("1", "2")
    before.refresh_from_db()
    assert before.closed_at
    assert "Nothing is done" in act(operator, before, "remove", "ada")  # Closed is closed.


def test_what_is_held_is_reviewed(operator: Client) -> None:
    board = Board.objects.create(name="held", schedules=["none"], max_step=10.0)
    fill(board, ada=1.0, bob=1.0)
    fill(board, ada=100.0, bob=200.0)
    assert [row[1] for row in standings(operator, window_of(board))] == ["ada", "bob"]
    held = {row.owner.name: row.pk for row in Submission.objects.filter(state="held").select_related("owner")}
    for action, name in (("approve", "ada"), ("reject", "bob"), ("approve", "bob")):
        reply = operator.post(
            "/admin/leaderboards/submission/", {"action": action, "_selected_action": [held[name]]}, follow=True
        )
        assert reply.status_code == 200
    assert "reviewed" in reply.content.decode()  # The last one came too late.
    assert dict(Entry.objects.values_list("owner__name", "score")) == {"ada": 100.0, "bob": 1.0}


@pytest.mark.parametrize("page", ["board", "window", "submission"])
def test_every_list_and_page_opens(operator: Client, board: Board, page: str) -> None:
    window = fill(board, ada=3.0)
    pk = {"board": board.pk, "window": window.pk, "submission": Submission.objects.get().pk}[page]
    assert operator.get(f"/admin/leaderboards/{page}/").status_code == 200
    assert operator.get(f"/admin/leaderboards/{page}/{pk}/change/").status_code == 200


async def test_a_window_is_exported_without_formulas(board: Board) -> None:
    from asgiref.sync import sync_to_async

    names = {
        "=1+1": 5.0,
        "+x": 4.5,
        "-x": 4.0,
        "@x": 3.0,
        "'x": 2.0,
        'a "b"; c': 1.0,
        **{f"n{n}": -n for n in range(1200)},
    }
    window = await sync_to_async(fill)(board, **names)
    client = AsyncClient()
    await client.aforce_login(await User.objects.acreate(username="op", is_staff=True, is_superuser=True))
    reply = await client.get(f"/admin/leaderboards/window/{window.pk}/entries.csv")
    assert isinstance(reply, StreamingHttpResponse)
    assert reply.headers["Content-Disposition"] == 'attachment; filename="race-1.csv"'
    text = "".join([part.decode() async for part in aiter(reply)])
    rows = list(csv.reader(io.StringIO(text)))
    assert rows[0] == ["position", "name", "score", "subscore"]
    assert rows[1:7] == [
        ["1", "'=1+1", "5", "0"],
        ["2", "'+x", "4.5", "0"],
        ["3", "'-x", "4", "0"],
        ["4", "'@x", "3", "0"],
        ["5", "''x", "2", "0"],
        ["6", 'a "b"; c', "1", "0"],
    ]
    assert [row[0] for row in rows[1:]] == [str(position) for position in range(1, 1207)]
