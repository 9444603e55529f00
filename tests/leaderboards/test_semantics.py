"""The tables of docs/leaderboards.md are true: each row of examples is run."""

import msgspec
import pytest

from accounts.errors import ApiError
from leaderboards import boards, standings, windows
from leaderboards.ranking import Ties
from leaderboards.schedules import validate
from leaderboards.scoring import plain
from leaderboards.shapes import BoardChange, changes_of
from leaderboards.submitting import Refusal, Score, submit
from tests.test_docs import ROOT, rows

PAGE = ROOT / "docs/leaderboards.md"

pytestmark = pytest.mark.django_db


def examples(section: str) -> list[list[str]]:
    """The rows whose first cell is code, without the marks."""
    return [[cell.strip("`") for cell in row] for row in rows(PAGE, section) if row[0].startswith("`")]


def score(text: str) -> Score:
    """`ann 7`, `ann 7/1` or `ann incr 7`."""
    name, *operator, result = text.split()
    value, _, subscore = result.partition("/")
    return Score(name, float(value), float(subscore or 0), *operator)


def shown(value: float, subscore: float) -> str:
    return f"{plain(value)}/{plain(subscore)}" if subscore else f"{plain(value)}"


def ranked(settings: str, submitted: str, ties: Ties = "ordinal") -> list[tuple[int, str]]:
    changes = msgspec.json.decode(settings, type=BoardChange)
    board, _created = boards.put("example", changes_of(changes), None)
    for text in submitted.split(", "):
        (result,) = submit(board, [score(text)], "service:test").results
        assert not isinstance(result, Refusal) or "max_score" in settings
    found = standings.page(windows.current(board), 0, 100, ties)
    return [(row.rank, f"{row.name} {shown(row.score, row.subscore)}") for row in found.rows]


@pytest.mark.parametrize(("settings", "submitted", "then"), examples("## What a score does"))
def test_what_a_score_does(settings: str, submitted: str, then: str) -> None:
    assert ", ".join(f"{rank} {rest}" for rank, rest in ranked(settings, submitted)) == then


@pytest.mark.parametrize(("ties", "ranks", "meaning"), examples("### Ties"))
def test_how_equal_results_are_ranked(ties: Ties, ranks: str, meaning: str) -> None:
    assert " ".join(str(rank) for rank, _ in ranked("{}", "ann 9, bob 7, cy 7, dan 5", ties)) == ranks


def test_the_settings_of_a_board_are_those_of_the_table() -> None:
    table = {name.strip(" `"): row[1] for row in rows(PAGE, "## A board's rules") for name in row[0].split(",")}
    table.pop("setting")
    table.pop("---")
    assert list(table) == list(BoardChange.__struct_fields__)
    board, _created = boards.put("example", {}, None)
    for name, default in table.items():
        value = board.schedules[0] if name == "schedule" else getattr(board, name)
        assert default == ("none" if value in (None, "") else f"`{value}`"), name


@pytest.mark.parametrize("schedule", [row[0].split("`")[0] for row in examples("## Windows")])
def test_every_schedule_is_one(schedule: str) -> None:
    assert validate(schedule) == schedule
    with pytest.raises((ApiError, ValueError)):
        validate(f"{schedule} x")
