"""The leaderboard API: every route, every parameter, and nobody reads or writes what is not theirs."""

from typing import Any
from urllib.parse import quote

import pytest
from django.conf import LazySettings
from django.test import Client

from accounts.models import IdempotencyKey
from accounts.principals import Principal
from accounts.requests import seal_cursor
from leaderboards.models import Board, Submission
from leaderboards.shapes import METADATA_MAX_BYTES, percentile
from tests.accounts.calling import Api, json, service, user

pytestmark = pytest.mark.django_db(transaction=True)

LIMIT = 2**53


@pytest.fixture
def acme() -> Api:
    return service()


def board(api: Api, name: str = "b", /, *scores: tuple[str, float], **changes: Any) -> str:
    """A board with these scores -> its path."""
    path = f"leaderboards/{quote(name, safe='')}"
    api.does("PUT", path, changes)
    if scores:
        results = api.does("POST", path, {"scores": [{"name": who, "score": score} for who, score in scores]})
        assert {one["status"] for one in results["results"]} == {202}
    return path


def names(listed: Any) -> list[str]:
    return [row["name"] for row in listed["leaderboard"]]


def ranks(listed: Any) -> list[int]:
    return [row["rank"] for row in listed["leaderboard"]]


def players(count: int) -> list[tuple[str, float]]:
    """p0 is the best one of a `desc` board."""
    return [(f"p{number}", 1000 - number) for number in range(count)]


# --- One score ------------------------------------------------------------------------------------


def test_a_score_is_answered_with_its_standing(acme: Api) -> None:
    path = board(acme, "level 1", ("ann", 50))
    reply = acme("POST", f"{path}/bob", {"score": 42})
    assert (reply.status_code, json(reply)) == (
        202,
        {
            "board": "level 1", "name": "bob", "score": 42, "subscore": 0, "rank": 1, "position": 2,
            "previous_rank": None, "changed": True, "held": False, "stale": False,
        },
    )  # fmt: skip
    better = acme.does("POST", f"{path}/bob", {"score": 60.5})
    assert (better["score"], better["rank"], better["previous_rank"]) == (60.5, 0, 1)
    worse = acme.does("POST", f"{path}/bob", {"score": 1})
    assert (worse["score"], worse["rank"], worse["previous_rank"], worse["changed"]) == (60.5, 0, 0, False)


def test_whole_numbers_are_written_without_a_fraction(acme: Api) -> None:
    path = board(acme)
    for text in (b'{"score": 42}', b'{"score": 42.0}', b'{"score": 4.2e1}'):
        reply = Client(headers={"authorization": f"Bearer {acme.credential}"}).post(
            f"/api/{path}/bob", text, content_type="application/json"
        )
        assert b'"score":42,' in reply.content
    assert b'"score":42,' in acme("GET", f"{path}/bob").content
    assert b'"score":42,' in acme("GET", path).content


@pytest.mark.django_db  # Nothing here waits for a commit.
@pytest.mark.parametrize(
    "body",
    [
        b'{"score": "42"}', b'{"score": true}', b'{"score": null}', b'{"score": []}', b"{}", b"42", b"[]", b"null", b"",
        b'{"score": NaN}', b'{"score": Infinity}', b'{"score": 1e999}', b'{"score": 1, "score": 2}', b"{",
        b'{"score": 1, "subscore": "x"}', b'{"score": 1, "rank": 0}', b'{"score": 1, "operator": "max"}',
        b'{"score": 1, "operator": null}', b'{"score": 123456789012345678901234567890}',
    ],
)  # fmt: skip
def test_what_is_no_score_is_malformed(acme: Api, body: bytes) -> None:
    path = board(acme)
    client = Client(headers={"authorization": f"Bearer {acme.credential}"})
    reply = client.post(f"/api/{path}/bob", body, content_type="application/json")
    assert reply.status_code == 400, reply.content
    assert json(reply)["error"]["code"] in ("malformed", "malformed_json")  # type: ignore[arg-type]
    assert not Submission.objects.exists()


@pytest.mark.django_db  # Nothing here waits for a commit.
@pytest.mark.parametrize("score", [LIMIT + 1, -LIMIT - 1, float(LIMIT + 2), 2**63 - 1, 1e300, -1e300])
@pytest.mark.parametrize("field", ["score", "subscore"])
def test_a_score_that_no_float_holds_exactly_is_refused(acme: Api, field: str, score: float) -> None:
    path = board(acme)
    body = {"score": 1, field: score}
    assert acme.refusal("POST", f"{path}/bob", body) == (422, "score_out_of_bounds")
    (one,) = acme.does("POST", path, {"scores": [{"name": "bob", **body}]})["results"]
    assert (one["status"], one["error"]["code"]) == (422, "score_out_of_bounds")
    assert not Submission.objects.exists()


@pytest.mark.django_db  # Nothing here waits for a commit.
@pytest.mark.parametrize("score", [LIMIT, -LIMIT, LIMIT - 1, 0, -0.0, 0.1, 5e-324])
def test_a_score_comes_back_as_it_was(acme: Api, score: float) -> None:
    path = board(acme)
    assert acme.does("POST", f"{path}/bob", {"score": score})["score"] == score
    assert acme.does("GET", f"{path}/bob")["score"] == score
    assert acme.does("GET", path)["leaderboard"][0]["score"] == score


def test_incrementing_beyond_the_bounds_is_refused(acme: Api) -> None:
    path = board(acme, operator="incr")
    acme.does("POST", f"{path}/bob", {"score": LIMIT})
    assert acme.refusal("POST", f"{path}/bob", {"score": 2}) == (422, "score_out_of_bounds")
    assert acme.does("GET", f"{path}/bob")["score"] == LIMIT


def test_the_bounds_of_a_board_are_a_rule(acme: Api) -> None:
    path = board(acme, min_score=0, max_score=100)
    assert acme.refusal("POST", f"{path}/bob", {"score": -1}) == (422, "score_out_of_bounds")
    assert acme.refusal("POST", f"{path}/bob", {"score": 100.5}) == (422, "score_out_of_bounds")
    acme.does("POST", f"{path}/bob", {"score": 100})


def test_a_service_chooses_the_operator(acme: Api) -> None:
    path = board(acme, "b", ("bob", 10))
    assert acme.does("POST", f"{path}/bob", {"score": 3, "operator": "set"})["score"] == 3
    assert acme.does("POST", f"{path}/bob", {"score": 4, "operator": "incr"})["score"] == 7
    assert acme.does("POST", f"{path}/bob", {"score": 1, "operator": "decr"})["score"] == 6
    assert acme.does("POST", f"{path}/bob", {"score": 9, "operator": "best"})["score"] == 9


def test_metadata_comes_back_where_it_is_asked_for(acme: Api) -> None:
    path = board(acme, "b", ("ann", 1))
    acme.does("POST", f"{path}/bob", {"score": 2, "metadata": {"car": ["blue", None]}})
    assert "metadata" not in acme.does("GET", f"{path}/bob")
    assert acme.does("GET", f"{path}/bob", metadata=1)["metadata"] == {"car": ["blue", None]}
    listed = acme.does("GET", path, metadata=1)["leaderboard"]
    assert [row["metadata"] for row in listed] == [{"car": ["blue", None]}, None]
    assert "metadata" not in acme.does("GET", path)["leaderboard"][0]


def test_metadata_has_four_kibibytes(acme: Api) -> None:
    path = board(acme)
    fits = "x" * (METADATA_MAX_BYTES - 2)
    acme.does("POST", f"{path}/bob", {"score": 1, "metadata": fits})
    assert acme.refusal("POST", f"{path}/bob", {"score": 2, "metadata": fits + "x"}) == (413, "too_large")


@pytest.mark.django_db  # Nothing here waits for a commit.
@pytest.mark.parametrize("name", ["żółw/🐢", "a b", "ann@example.org", "x" * 200, "%2F", "a/hide/b", "..."])
def test_names_are_those_of_users(acme: Api, name: str) -> None:
    path = board(acme)
    assert acme.does("POST", f"{path}/{quote(name, safe='')}", {"score": 1})["name"] == name
    assert acme.does("GET", f"{path}/{quote(name, safe='')}")["name"] == name
    assert names(acme.does("GET", path, names=name)) == [name]
    assert names(acme.does("GET", path, around=name)) == [name]


@pytest.mark.django_db  # Nothing here waits for a commit.
@pytest.mark.parametrize("name", ["x" * 201, "a,b", "a\tb", "\0"])
def test_what_is_no_name_is_malformed(acme: Api, name: str) -> None:
    path, placed = board(acme), quote(name, safe="")
    assert acme.refusal("POST", f"{path}/{placed}", {"score": 1}) == (400, "malformed")
    assert acme.refusal("GET", f"{path}/{placed}") == (400, "malformed")
    assert acme.refusal("DELETE", f"{path}/{placed}") == (400, "malformed")
    assert acme.refusal("GET", path, around=name) == (400, "malformed")
    assert acme.refusal("PUT", f"leaderboards/{placed}", {}) == (400, "malformed")


def test_a_services_first_score_makes_a_board_with_defaults(acme: Api, settings: LazySettings) -> None:
    assert acme.does("POST", "leaderboards/new/bob", {"score": 42})["rank"] == 0
    row = Board.objects.get()
    assert (row.name, row.order, row.operator, row.submit, row.read) == ("new", "desc", "best", "service", "user")
    settings.LEADERBOARD_AUTO_CREATE = False
    assert acme.refusal("POST", "leaderboards/other/bob", {"score": 42}) == (404, "unknown_board")
    assert acme.refusal("POST", "leaderboards/other", {"scores": [{"name": "b", "score": 1}]}) == (404, "unknown_board")
    assert acme.does("POST", "leaderboards/new/ann", {"score": 42})["rank"] == 1


def test_while_the_ranking_is_down_a_score_is_taken_and_ranks_are_exact_for_readers(
    acme: Api, settings: LazySettings
) -> None:
    path = board(acme, "b", ("ann", 50))
    url, settings.REDIS_URL = settings.REDIS_URL, "unix:///nowhere.sock"
    reply = acme.does("POST", f"{path}/bob", {"score": 60})
    assert (reply["score"], reply["rank"], reply["position"], reply["stale"]) == (60, None, None, True)
    assert acme.does("GET", f"{path}/bob")["rank"] == 0
    settings.REDIS_URL = url
    assert acme.does("POST", f"{path}/cy", {"score": 55})["rank"] == 1
    assert names(acme.does("GET", path)) == ["bob", "cy", "ann"]


# --- Many scores ----------------------------------------------------------------------------------


def test_many_scores_have_a_result_each(acme: Api) -> None:
    path = board(acme, max_score=100)
    items: list[Any] = [
        {"name": "ann", "score": 5},
        {"name": "bob", "score": "5"},
        {"name": "bob", "score": 101},
        {"name": "", "score": 1},
        {"name": "a,b", "score": 1},
        {"score": 1},
        7,
        {"name": "cy", "score": 1, "metadata": "x" * 5000},
        {"name": "bob", "score": 9, "subscore": 1},
        {"name": "ann", "score": 8},
    ]
    results = acme.does("POST", path, {"scores": items})["results"]
    statuses = [one["status"] for one in results]
    assert statuses == [202, 400, 422, 400, 400, 400, 400, 413, 202, 202]
    assert results[1]["error"]["fields"].keys() == {"scores[1].score"}
    assert set(results[8]) == {
        "status", "board", "name", "score", "subscore", "rank", "position", "previous_rank", "changed", "held", "stale",
    }  # fmt: skip
    assert [(results[n]["name"], results[n]["score"], results[n]["rank"]) for n in (0, 8, 9)] == [
        ("ann", 8, 1), ("bob", 9, 0), ("ann", 8, 1),
    ]  # fmt: skip
    assert names(acme.does("GET", path)) == ["bob", "ann"]


def test_only_bad_scores_store_nothing(acme: Api) -> None:
    path = board(acme)
    results = acme.does("POST", path, {"scores": [{"name": "bob", "score": "x"}]})["results"]
    assert [one["status"] for one in results] == [400]
    assert not Submission.objects.exists()


def test_a_name_may_come_several_times(acme: Api) -> None:
    path = board(acme, operator="incr")
    acme.does("POST", path, {"scores": [{"name": "ann", "score": 1}] * 10})
    assert acme.does("GET", f"{path}/ann")["score"] == 10


def test_ten_thousand_scores_are_one_request_and_one_more_is_malformed(acme: Api) -> None:
    path = board(acme)
    scores = [{"name": f"n{number}", "score": number} for number in range(10_000)]
    results = acme.does("POST", path, {"scores": scores})["results"]
    assert len(results) == 10_000
    assert (results[0]["rank"], results[-1]["rank"]) == (9_999, 0)
    assert acme.refusal("POST", path, {"scores": [*scores, {"name": "x", "score": 1}]}) == (400, "malformed")
    assert acme.refusal("POST", path, {"scores": []}) == (400, "malformed")
    assert acme.refusal("POST", path, {"score": 1}) == (400, "malformed")


# --- Idempotency-Key ------------------------------------------------------------------------------


def once(api: Api, key: str = "k") -> Api:
    return Api(api.credential, **{"idempotency-key": key})


def test_a_repeated_score_counts_once(acme: Api) -> None:
    path = board(acme, operator="incr")
    first, again = (once(acme)("POST", f"{path}/bob", {"score": 5}) for _ in range(2))
    assert first.content == again.content
    assert [reply.headers.get("Idempotent-Replayed") for reply in (first, again)] == [None, "true"]
    assert acme.does("GET", f"{path}/bob")["score"] == 5
    assert once(acme).refusal("POST", f"{path}/bob", {"score": 6}) == (422, "idempotency_mismatch")
    assert once(acme).refusal("POST", f"{path}/ann", {"score": 5}) == (422, "idempotency_mismatch")
    assert once(acme, "").refusal("POST", f"{path}/bob", {"score": 5}) == (400, "malformed_idempotency_key")
    assert once(service()).does("POST", f"{path}/bob", {"score": 5})["score"] == 10


def test_repeated_scores_count_once_and_have_the_same_results(acme: Api) -> None:
    path = board(acme, operator="incr", max_score=10)
    body = {"scores": [{"name": "bob", "score": 5}, {"name": "bob", "score": "x"}, {"name": "bob", "score": 50}]}
    first, again = (once(acme)("POST", path, body) for _ in range(2))
    assert first.content == again.content
    assert [one["status"] for one in json(first)["results"]] == [202, 400, 422]
    assert again.headers["Idempotent-Replayed"] == "true"
    assert acme.does("GET", f"{path}/bob")["score"] == 5
    other = board(acme, "other")
    assert once(acme).refusal("POST", other, body) == (422, "idempotency_mismatch")


def test_a_repeated_refusal_is_the_same_refusal(acme: Api) -> None:
    path = board(acme, max_score=10)
    for _ in range(2):
        assert once(acme).refusal("POST", f"{path}/bob", {"score": 11}) == (422, "score_out_of_bounds")


def test_a_score_that_is_malformed_takes_no_key(acme: Api) -> None:
    path = board(acme)
    assert once(acme).refusal("POST", f"{path}/bob", {"score": "x"}) == (400, "malformed")
    assert not IdempotencyKey.objects.exists()
    once(acme).does("POST", f"{path}/bob", {"score": 1})


# --- One standing ---------------------------------------------------------------------------------


def test_a_standing(acme: Api) -> None:
    path = board(acme, "b", ("ann", 9), ("bob", 7), ("cy", 7), ("dan", 5))
    found = acme.does("GET", f"{path}/cy")
    version = found.pop("version")
    assert found == {
        "board": "b", "window": "1", "name": "cy", "score": 7, "subscore": 0, "rank": 2, "position": 3, "total": 4,
        "percentile": 25,
    }  # fmt: skip
    assert version == 4
    by_ties = {ties: acme.does("GET", f"{path}/cy", ties=ties) for ties in ("competition", "modified", "dense")}
    assert {ties: (one["rank"], one["percentile"]) for ties, one in by_ties.items()} == {
        "competition": (1, 50), "modified": (2, 25), "dense": (1, None),
    }  # fmt: skip


@pytest.mark.django_db  # Nothing here waits for a commit.
@pytest.mark.parametrize(
    ("rank", "total", "expected"), [(0, 1, 0), (0, 2, 50), (0, 3, 67), (1, 3, 34), (2, 3, 0), (0, 1000, 100)]
)
def test_the_percentile_is_how_many_in_a_hundred_are_behind(rank: int, total: int, expected: int) -> None:
    assert percentile(rank, total) == expected


def test_nobody_of_that_name_is_not_a_score_of_zero(acme: Api) -> None:
    path = board(acme, "b", ("zero", 0))
    assert acme.does("GET", f"{path}/zero")["score"] == 0
    assert acme.refusal("GET", f"{path}/nobody") == (404, "not_ranked")
    assert acme.refusal("GET", "leaderboards/nothing/nobody") == (404, "not_ranked")


# --- Pages ----------------------------------------------------------------------------------------


def test_a_page_by_rank(acme: Api) -> None:
    path = board(acme, "b", *players(30))
    first = acme.does("GET", path)
    assert set(first) == {"leaderboard", "total", "version", "window", "next"}
    assert first["leaderboard"][1] == {"name": "p1", "score": 999, "subscore": 0, "rank": 1}
    assert (ranks(first), first["total"], first["version"], first["window"]) == ([*range(20)], 30, 30, "1")
    assert acme.does("GET", path, startRank=25)["leaderboard"][-1]["rank"] == 29


@pytest.mark.django_db  # Nothing here waits for a commit.
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"startRank": 0, "endRank": 0}, []),
        ({"endRank": 0}, []),
        ({"startRank": 3, "endRank": 3}, []),
        ({"startRank": 3, "endRank": 5}, [3, 4]),
        ({"startRank": 3}, [*range(3, 23)]),
        ({"endRank": 25}, [*range(25)]),
        ({"startRank": 28, "endRank": 100}, [28, 29]),
        ({"startRank": 30}, []),
        ({"startRank": 10**17}, []),
        ({"limit": 2}, [0, 1]),
        ({"limit": 5000}, [*range(30)]),
    ],
    ids=str,
)
def test_ranks_are_from_zero_and_the_end_is_left_out(acme: Api, query: dict[str, int], expected: list[int]) -> None:
    path = board(acme, "b", *players(30))
    assert ranks(acme.does("GET", path, **query)) == expected


@pytest.mark.django_db  # Nothing here waits for a commit.
@pytest.mark.parametrize(
    "query",
    [
        {"startRank": 5, "endRank": 4}, {"startRank": 1, "endRank": 0}, {"startRank": -1}, {"endRank": -1},
        {"startRank": "x"}, {"endRank": "x"}, {"endRank": ""}, {"startRank": "1.5"}, {"startRank": "1e1"},
        {"startRank": "٣"}, {"startRank": " 1"}, {"endRank": "9" * 30}, {"limit": 0}, {"limit": "x"}, {"ties": "first"},
        {"around": "p1", "size": 0}, {"around": ""}, {"names": ""}, {"names": "a,,b"}, {"minScore": "x"},
        {"minScore": "nan"}, {"maxScore": "inf"}, {"maxScore": ""}, {"minScore": 2, "maxScore": 1}, {"cursor": "x"},
        {"cursor": seal_cursor(1)}, {"cursor": seal_cursor("1", "p1", 1, 0, -1)},
        {"cursor": seal_cursor("1", "p1", 1, 0, 2**48)}, {"cursor": seal_cursor("1", "p1", "1", 0, 1)},
        {"cursor": seal_cursor("1", "p\0", 1, 0, 1)},
        {"around": "p1", "names": "p1"}, {"startRank": 0, "around": "p1"}, {"startRank": 0, "cursor": "x"},
        {"endRank": 3, "minScore": 1}, {"names": "p1", "limit": 3}, {"metadata": "yes"},
        {"names": ",".join(f"n{n}" for n in range(1001))},
    ],
    ids=str,
)  # fmt: skip
def test_what_makes_no_sense_is_malformed_and_never_everything(acme: Api, query: dict[str, Any]) -> None:
    board(acme, "b", *players(3))
    for name in ("b", "unknown"):
        assert acme.refusal("GET", f"leaderboards/{name}", **query) == (400, "malformed")


def test_a_page_has_a_thousand_at_most(acme: Api) -> None:
    path = board(acme, "b", *players(1005))
    assert ranks(acme.does("GET", path, startRank=2, endRank=5000)) == [*range(2, 1002)]
    assert len(names(acme.does("GET", path, limit=5000))) == 1000
    assert len(names(acme.does("GET", path, around="p500", size=5000))) == 1000


def test_a_board_that_does_not_exist_reads_as_empty(acme: Api) -> None:
    nothing = {"leaderboard": [], "total": 0, "version": 0, "window": None, "next": None}
    for reader in (acme, user("alice")):
        assert reader.does("GET", "leaderboards/nothing") == nothing
        assert reader.does("GET", "leaderboards/nothing", around="x", window="2020-01-01") == nothing
        assert reader.does("GET", "leaderboards/nothing/windows") == {"windows": [], "next": None}


@pytest.mark.django_db  # Nothing here waits for a commit.
@pytest.mark.parametrize(
    ("name", "expected"),
    [("p0", [*range(5)]), ("p2", [*range(5)]), ("p10", [*range(8, 13)]), ("p29", [*range(25, 30)]), ("nobody", [])],
)
def test_a_page_around_a_name_is_full_at_both_ends(acme: Api, name: str, expected: list[int]) -> None:
    path = board(acme, "b", *players(30))
    assert ranks(acme.does("GET", path, around=name, size=5)) == expected


def test_a_page_of_names_leaves_out_who_is_not_ranked(acme: Api) -> None:
    path = board(acme, "b", *players(30))
    found = acme.does("GET", path, names="p7,nobody,p3,p7")
    assert (names(found), ranks(found), found["total"]) == (["p3", "p7"], [3, 7], 30)


def test_a_page_of_scores_has_both_ends_and_a_count(acme: Api) -> None:
    path = board(acme, "b", *players(30))
    found = acme.does("GET", path, minScore=990, maxScore=995)
    assert (ranks(found), found["count"], found["total"], found["next"]) == ([*range(5, 11)], 6, 30, None)
    assert acme.does("GET", path, minScore=995.5)["count"] == 5
    assert acme.does("GET", path, maxScore=0)["leaderboard"] == []
    assert acme.does("GET", path, minScore=1000, maxScore=1000)["count"] == 1


@pytest.mark.parametrize("query", [{}, {"minScore": 975, "maxScore": 998}], ids=["by rank", "by score"])
def test_a_cursor_goes_on_to_the_end(acme: Api, query: dict[str, Any]) -> None:
    path = board(acme, "b", *players(30))
    expected = [f"p{n}" for n in range(30) if not query or 975 <= 1000 - n <= 998]
    found: list[str] = []
    after: dict[str, str] = {}
    for _ in range(30):
        some = acme.does("GET", path, limit=7, **query, **after)
        found += names(some)
        if query:
            assert some["count"] == len(expected)
        if some["next"] is None:
            break
        after = {"cursor": some["next"]}
    assert found == expected


def test_a_cursor_survives_movement(acme: Api) -> None:
    path = board(acme, "b", *players(10))
    place = acme.does("GET", path, limit=3)["next"]
    acme.does("POST", f"{path}/p9", {"score": 5000})  # Past the reader.
    acme.does("POST", f"{path}/p2", {"score": 5001})  # The last one of the page.
    acme.does("DELETE", f"{path}/p3")
    assert names(acme.does("GET", path, limit=3, cursor=place)) == ["p4", "p5", "p6"]


def test_a_cursor_stays_in_its_window(acme: Api) -> None:
    path = board(acme, "b", *players(10))
    place = acme.does("GET", path, limit=3)["next"]
    acme.does("POST", f"{path}/windows", {})
    acme.does("POST", f"{path}/new", {"score": 1})
    found = acme.does("GET", path, limit=3, cursor=place)
    assert (names(found), found["window"]) == (["p3", "p4", "p5"], "1")
    assert names(acme.does("GET", path)) == ["new"]
    elsewhere = board(acme, "other", ("x", 1))
    assert acme.refusal("GET", elsewhere, cursor=seal_cursor("7", "p3", 1, 0, 1)) == (404, "unknown_window")


@pytest.mark.django_db  # Nothing here waits for a commit.
@pytest.mark.parametrize(
    ("ties", "expected"),
    [("ordinal", [0, 1, 2, 3]), ("competition", [0, 1, 1, 3]), ("modified", [0, 2, 2, 3]), ("dense", [0, 1, 1, 2])],
)
def test_ties_count_in_every_way_of_reading(acme: Api, ties: str, expected: list[int]) -> None:
    path = board(acme, "b", ("ann", 9), ("bob", 7), ("cy", 7), ("dan", 5))
    everybody: list[dict[str, Any]] = [
        {}, {"startRank": 0, "endRank": 4}, {"around": "bob"}, {"names": "dan,cy,bob,ann"}, {"minScore": 0},
    ]  # fmt: skip
    for query in everybody:
        assert ranks(acme.does("GET", path, ties=ties, **query)) == expected, query
    place = acme.does("GET", path, ties=ties, limit=2)["next"]
    assert ranks(acme.does("GET", path, ties=ties, cursor=place)) == expected[2:]
    assert [acme.does("GET", f"{path}/{name}", ties=ties)["rank"] for name in ("ann", "bob", "cy", "dan")] == expected


def test_readers_see_no_more_than_the_entry_limit(acme: Api) -> None:
    path = board(acme, "b", *players(10), entry_limit=4)
    for query in ({}, {"around": "p3"}, {"names": "p0,p1,p2,p3,p4,p9"}, {"minScore": 0}, {"limit": 10}):
        found = acme.does("GET", path, **query)
        assert (names(found), found["total"], found["next"]) == (["p0", "p1", "p2", "p3"], 4, None), query
    counts = [
        acme.does("GET", path, minScore=low, maxScore=high)["count"] for low, high in ((0, 998), (0, 990), (997, 997))
    ]
    assert counts == [2, 0, 1]
    assert acme.refusal("GET", f"{path}/p4") == (404, "not_ranked")


# --- Windows --------------------------------------------------------------------------------------


def test_a_reset_opens_a_new_window_and_the_old_one_is_there(acme: Api) -> None:
    path = board(acme, "b", ("ann", 1))
    reply = acme("POST", f"{path}/windows", {})
    assert (reply.status_code, json(reply)["label"], json(reply)["closed_at"]) == (201, "2", None)
    assert set(json(reply)) == {
        "label", "schedule", "starts_at", "ends_at", "closed_at", "archived_at", "entries",
    }  # fmt: skip
    acme.does("POST", f"{path}/bob", {"score": 2})
    assert names(acme.does("GET", path)) == ["bob"]
    assert names(acme.does("GET", path, window="current")) == ["bob"]
    assert names(acme.does("GET", path, window="previous")) == names(acme.does("GET", path, window="1")) == ["ann"]
    assert acme.does("GET", f"{path}/ann", window="previous")["rank"] == 0
    assert acme.refusal("GET", f"{path}/ann") == (404, "not_ranked")
    listed = acme.does("GET", f"{path}/windows")["windows"]
    assert [(one["label"], one["closed_at"] is None) for one in listed] == [("2", True), ("1", False)]


@pytest.mark.django_db  # Nothing here waits for a commit.
@pytest.mark.parametrize("window", ["7", "previous", "weekly", "", "x" * 300, "a\0b", "current.previous"])
def test_a_window_that_is_not_there(acme: Api, window: str) -> None:
    path = board(acme, "b", ("ann", 1))
    assert acme.refusal("GET", path, window=window) == (404, "unknown_window")
    assert acme.refusal("GET", f"{path}/ann", window=window) == (404, "unknown_window")


def test_a_board_may_have_windows_side_by_side(acme: Api) -> None:
    path = board(acme, "b", ("ann", 1), schedule=["weekly", "none"])
    assert acme.does("GET", path)["window"].partition("-")[2][5:6] != "1"
    weekly, ever = (acme.does("GET", path, window=name) for name in ("weekly", "none"))
    assert names(weekly) == names(ever) == ["ann"]
    assert (weekly["window"], ever["window"]) == (acme.does("GET", path)["window"], "1")
    acme.does("POST", f"{path}/windows", {"schedule": "weekly"})
    assert names(acme.does("GET", path)) == []
    assert names(acme.does("GET", path, window="weekly.previous")) == ["ann"]
    assert names(acme.does("GET", path, window="none")) == ["ann"]
    assert acme.refusal("POST", f"{path}/windows", {"schedule": "daily"}) == (422, "refused")
    assert acme.refusal("POST", f"{path}/windows", {"label": "x"}) == (400, "malformed")


# --- Removing and hiding --------------------------------------------------------------------------


def test_a_removed_name_is_not_ranked_and_may_come_again(acme: Api) -> None:
    path = board(acme, "b", ("ann", 9), ("bob", 7))
    assert acme("DELETE", f"{path}/ann").status_code == 204
    assert acme.refusal("GET", f"{path}/ann") == (404, "not_ranked")
    assert acme.does("GET", f"{path}/bob")["rank"] == 0
    assert acme("DELETE", f"{path}/ann").status_code == 204
    assert acme.does("POST", f"{path}/ann", {"score": 1})["rank"] == 1


def test_a_hidden_name_keeps_its_score_and_its_place(acme: Api) -> None:
    path = board(acme, "b", ("ann", 9), ("bob", 9), ("cy", 5))
    assert acme("POST", f"{path}/ann/hide").status_code == 204
    assert names(acme.does("GET", path)) == ["bob", "cy"]
    assert acme.refusal("GET", f"{path}/ann") == (404, "not_ranked")
    told = acme.does("POST", f"{path}/ann", {"score": 10})
    assert (told["score"], told["rank"], told["position"], told["stale"]) == (10, None, None, False)
    assert acme("POST", f"{path}/ann/unhide").status_code == 204
    assert acme.does("GET", f"{path}/ann")["rank"] == 0
    assert acme.refusal("POST", f"{path}/nobody/hide") == (404, "not_ranked")
    assert acme.refusal("POST", f"{path}/nobody/unhide") == (404, "not_ranked")


@pytest.mark.parametrize("deed", ["hide", "unhide"])
def test_a_score_for_a_name_that_ends_like_a_path_hides_nobody(acme: Api, deed: str) -> None:
    """Users may choose their ids, and a backend submits for them by name."""
    path = board(acme, "b", ("ann", 9))
    assert acme.refusal("POST", f"{path}/{quote(f'ann/{deed}', safe='')}", {"score": 1}) == (400, "malformed")
    assert names(acme.does("GET", path)) == ["ann"]
    assert acme("POST", f"{path}/ann/{deed}", {}).status_code == 204


# --- Boards ---------------------------------------------------------------------------------------

SETTINGS = {
    "order": "asc", "operator": "set", "schedule": ["weekly", "0 6 * * *"], "timezone": "Europe/Warsaw",
    "retention": 7, "entry_limit": 1000, "min_score": -1.5, "max_score": 10, "max_step": 2, "rate": "10/m",
    "submit": "self", "read": "public", "ranking": "redis", "metadata": {"title": "Laps"},
}  # fmt: skip


def test_a_board_has_its_settings(acme: Api) -> None:
    made = acme("PUT", "leaderboards/laps", SETTINGS)
    assert made.status_code == 201
    shown = json(made)
    assert shown.pop("created_at")
    assert shown == {"name": "laps", **SETTINGS}
    changed = acme("PUT", "leaderboards/laps", {"retention": 8, "schedule": "daily", "entry_limit": None})
    assert changed.status_code == 200
    assert json(changed) == {**json(made), "retention": 8, "schedule": "daily", "entry_limit": None}
    assert acme.does("GET", "leaderboards")["boards"] == [json(changed)]


@pytest.mark.django_db  # Nothing here waits for a commit.
@pytest.mark.parametrize(
    "body",
    [
        {"order": "up"}, {"operator": "max"}, {"schedule": 7}, {"schedule": []}, {"schedule": ["daily"] * 5},
        {"timezone": 1}, {"retention": -1}, {"retention": "7"}, {"entry_limit": 0}, {"min_score": "x"}, {"rate": 5},
        {"submit": "all"}, {"read": "none"}, {"metadata": []}, {"color": "red"}, [], 7,
    ],
    ids=str,
)  # fmt: skip
def test_settings_of_the_wrong_type_are_malformed(acme: Api, body: Any) -> None:
    assert acme.refusal("PUT", "leaderboards/b", body) == (400, "malformed")
    assert not Board.objects.exists()


@pytest.mark.django_db  # Nothing here waits for a commit.
@pytest.mark.parametrize(
    "body",
    [
        {"schedule": "yearly"}, {"schedule": ["daily", "daily"]}, {"timezone": "Mars/Base"}, {"rate": "fast"},
        {"min_score": 2, "max_score": 1}, {"max_score": 1e300}, {"max_step": -1}, {"ranking": "sorted"},
        {"metadata": {"x": "y" * 5000}},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_break_a_rule_are_refused(acme: Api, body: Any) -> None:
    assert acme.refusal("PUT", "leaderboards/b", body) == (422, "refused")
    assert not Board.objects.exists()


def test_boards_are_listed_by_name(acme: Api) -> None:
    for name in ("c", "a", "b"):
        board(acme, name)
    first = acme.does("GET", "leaderboards", limit=2)
    assert [one["name"] for one in first["boards"]] == ["a", "b"]
    assert [one["name"] for one in acme.does("GET", "leaderboards", cursor=first["next"])["boards"]] == ["c"]


def test_a_deleted_board_is_gone_and_its_name_is_free(acme: Api) -> None:
    path = board(acme, "b", ("ann", 1))
    assert acme("DELETE", path).status_code == 204
    assert acme.does("GET", path)["leaderboard"] == []
    assert acme.refusal("DELETE", path) == (404, "unknown_board")
    assert acme.does("POST", f"{path}/bob", {"score": 1})["rank"] == 0
    assert names(acme.does("GET", path)) == ["bob"]


@pytest.mark.parametrize("deed", ["", "/hide", "/unhide"])
def test_what_manages_an_unknown_board_says_so(acme: Api, deed: str) -> None:
    method = "POST" if deed else "DELETE"
    assert acme.refusal(method, f"leaderboards/nothing/ann{deed}") == (404, "unknown_board")
    assert acme.refusal("POST", "leaderboards/nothing/windows", {}) == (404, "unknown_board")


# --- Who may --------------------------------------------------------------------------------------


def readers() -> dict[str, Api]:
    return {
        "nobody": Api(None),
        "user": user("alice"),
        "user with the topic": user("bob", subscribe=["board.b"]),
        "token with the topic": token("board.b"),
        "token with another": token("board.c"),
        "service": service("leaderboards:read"),
        "service that writes": service("leaderboards:write"),
    }


def token(topic: str) -> Api:
    body = {"topics": [topic], "allow": ["subscribe", "publish"], "user": "alice"}
    return Api(service().does("POST", "tokens", body)["token"])


@pytest.mark.parametrize(
    ("read", "allowed"),
    [
        ("public", {"nobody", "user", "user with the topic", "token with the topic", "service"}),
        ("user", {"user", "user with the topic", "token with the topic", "service"}),
        ("service", {"user with the topic", "token with the topic", "service"}),
    ],
)
def test_who_may_read(acme: Api, read: str, allowed: set[str]) -> None:
    path = board(acme, "b", ("ann", 1), read=read)
    for name, reader in readers().items():
        for place in (path, f"{path}/ann", f"{path}/windows"):
            if name in allowed:
                reader.does("GET", place)
            else:
                expected = (401, "unauthenticated") if name == "nobody" else (403, "denied")
                if name == "service that writes":
                    expected = (403, "scope_missing")
                assert reader.refusal("GET", place) == expected, (name, place)


def friends_only(action: str, topic: str, principal: Principal) -> bool:
    return (action, topic, principal.user) == ("subscribe", "board.b", "friend")


def test_an_authoriser_decides_about_users(acme: Api, settings: LazySettings) -> None:
    path = board(acme, "b", ("ann", 1))
    settings.TOPIC_AUTHORIZERS = {"board": f"{__name__}.friends_only"}
    user("friend").does("GET", path)
    assert user("alice").refusal("GET", path) == (403, "denied")
    assert user("friend").refusal("GET", "leaderboards/nothing") == (403, "denied")
    user("alice", subscribe=["board.b"]).does("GET", path)
    board(acme, "b", read="public")
    user("alice").does("GET", path)


def test_a_board_that_does_not_exist_asks_for_a_credential(acme: Api) -> None:
    assert Api(None).refusal("GET", "leaderboards/nothing") == (401, "unauthenticated")
    assert Api("ff_wrong_key").refusal("GET", board(acme, "b", read="public")) == (401, "unauthenticated")


def test_who_reads_without_a_credential_is_throttled_by_address(acme: Api, settings: LazySettings) -> None:
    path = board(acme, "b", ("ann", 1), read="public")
    settings.RATE_ADDRESS = "3/h"
    statuses = [Client().get(f"/api/{path}", REMOTE_ADDR="192.0.2.41").status_code for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    assert Client().get(f"/api/{path}", REMOTE_ADDR="192.0.2.42").status_code == 200
    acme.does("GET", path)


def test_users_submit_for_themselves_where_a_board_lets_them(acme: Api) -> None:
    path = board(acme, "b", submit="self")
    alice = user("alice")
    assert alice.does("POST", f"{path}/alice", {"score": 3})["rank"] == 0
    assert Submission.objects.get().actor == "user:alice"
    assert alice.refusal("POST", f"{path}/bob", {"score": 3}) == (403, "denied")
    assert alice.refusal("POST", f"{path}/alice", {"score": 3, "operator": "set"}) == (403, "denied")
    results = alice.does("POST", path, {"scores": [{"name": "alice", "score": 4}, {"name": "bob", "score": 4}]})
    assert [one["status"] for one in results["results"]] == [202, 403]
    assert token("board.b").refusal("POST", f"{path}/alice", {"score": 3}) == (403, "denied")
    assert Api(None).refusal("POST", f"{path}/alice", {"score": 3}) == (401, "unauthenticated")


def test_users_submit_nothing_elsewhere(acme: Api) -> None:
    path = board(acme)
    for where in (path, "leaderboards/nothing"):
        assert user("alice").refusal("POST", f"{where}/alice", {"score": 3}) == (403, "denied")
        assert user("alice").refusal("POST", where, {"scores": [{"name": "alice", "score": 3}]}) == (403, "denied")
    assert service("leaderboards:read").refusal("POST", f"{path}/bob", {"score": 3}) == (403, "scope_missing")
    assert not Submission.objects.exists()
    assert Board.objects.count() == 1


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "leaderboards/b"), ("DELETE", "leaderboards/b"), ("DELETE", "leaderboards/b/ann"),
        ("POST", "leaderboards/b/ann/hide"), ("POST", "leaderboards/b/ann/unhide"), ("POST", "leaderboards/b/windows"),
    ],
)  # fmt: skip
def test_boards_are_managed_by_services_that_write(acme: Api, method: str, path: str) -> None:
    board(acme, "b", ("ann", 1), submit="self", read="public")
    for caller in (user("ann"), user("ann", subscribe=["board.b"], publish=["board.b"]), service("leaderboards:read")):
        assert caller.refusal(method, path, {}) == (403, "scope_missing")
    assert Api(None).refusal(method, path, {}) == (401, "unauthenticated")
    assert service("leaderboards:write")(method, path, {} if method == "PUT" else None).status_code < 300


def test_settings_are_for_services_that_read(acme: Api) -> None:
    assert user("alice").refusal("GET", "leaderboards") == (403, "scope_missing")
    assert service("leaderboards:write").refusal("GET", "leaderboards") == (403, "scope_missing")
    assert Api(None).refusal("GET", "leaderboards") == (401, "unauthenticated")
    assert service("leaderboards:read").does("GET", "leaderboards") == {"boards": [], "next": None}


def test_a_size_goes_with_a_name_to_be_around(acme: Api) -> None:
    path = "leaderboards/sizes"
    acme.does("POST", f"{path}/p1", {"score": 1})
    assert acme.refusal("GET", path, size="5") == (400, "malformed")
    assert acme.refusal("GET", path, size="x") == (400, "malformed")
    assert names(acme.does("GET", path, around="p1", size=5)) == ["p1"]
