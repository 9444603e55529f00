"""A board of many under load: who submits and reads, what was accepted, and which ranks could be told of it."""

import json
import random
import time
import uuid
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import Event
from typing import Any, NamedTuple

import httpx
from redis import Redis, RedisError

from tests.leaderboards.record import base
from tests.servers import Stack, Web, eventually

SCORES = range(0, 1_000_000, 10)  # Of those who are there from the start; they stay as they are.
SUBMITTERS, READERS = 3, 2
NAMES_EACH = 8
STEP = 20_000
PAUSE_SECONDS = 0.005
PATIENCE = 30.0
HEALED_SECONDS = 10.0
PAGE = 1000

Line = tuple[float, int]
"""When, and the score since."""


class Told(NamedTuple):
    """A rank that was told between two moments. No rank: nobody of this name was there."""

    since: float
    until: float
    name: str
    score: int
    rank: int | None


class Ledger:
    """What was sent and what accepted, and when. Each name has one who submits for it; scores only grow."""

    def __init__(self) -> None:
        self.sent: dict[str, list[Line]] = {}
        self.accepted: dict[str, list[Line]] = {}
        self.told: list[Told] = []
        self.stale = 0

    @property
    def seq(self) -> int:
        return len(SCORES) + sum(map(len, self.accepted.values()))

    @property
    def scores(self) -> dict[str, int]:
        """Of all that is accepted."""
        return {name: lines[-1][1] for name, lines in self.accepted.items() if lines}

    def add(self, name: str) -> None:
        self.sent[name], self.accepted[name] = [], []

    def check(self) -> int:
        """That every rank told was that of some moment between request and answer -> how many there were."""
        answers, self.told = self.told, []
        for told in answers:
            low, high = _at(self.accepted.get(told.name), told.since), _at(self.sent.get(told.name), told.until)
            if told.rank is None:
                assert low is None, told
                continue
            if told.name in self.sent:
                assert (low or 0) <= told.score <= (high or 0), (told, low, high)
            least, most = self._bounds(told)
            assert least <= told.rank <= most, (told, least, most)
        return len(answers)

    def _bounds(self, told: Told) -> tuple[int, int]:
        """How many were better for sure, and how many may have been."""
        least = len(SCORES) - bisect_right(SCORES, told.score)
        most = len(SCORES) - bisect_left(SCORES, told.score) - (told.name not in self.sent)
        for name in self.sent.keys() - {told.name}:
            least += (_at(self.accepted[name], told.since) or -1) > told.score
            most += (_at(self.sent[name], told.until) or -1) >= told.score
        return least, most


def _at(lines: Sequence[Line] | None, moment: float) -> int | None:
    """The score at a moment, if there was one."""
    count = bisect_right(lines, moment, key=lambda line: line[0]) if lines else 0
    return lines[count - 1][1] if lines and count else None


class Hall:
    """A board on a stack with two web processes; its ledger goes on from test to test."""

    def __init__(self, stack: Stack, name: str = "hall") -> None:
        self.stack, self.name, self.path = stack, name, f"/api/leaderboards/{name}"
        self.ledger = Ledger()
        told = self.record(f"fill({name!r}, {SCORES!r})")
        self.window, self.epoch = json.loads(told)
        self.redis: Any = Redis.from_url(stack.environment["REDIS_URL"], decode_responses=True)
        self.keys = [f"fanfare:board:{{{self.window}}}:{kind}" for kind in "zmid"]
        self.slowest = 0.0

    def record(self, call: str) -> str:
        return self.stack.python(f"from tests.leaderboards import record\nrecord.{call}")

    # --- Load -----------------------------------------------------------------------------------

    @contextmanager
    def load(self) -> Iterator[None]:
        """Some submit and some read for the time of the block; in the end nothing is on its way."""
        stop = Event()
        with ThreadPoolExecutor(SUBMITTERS + READERS) as pool:
            busy = [pool.submit(self._submit_until, stop) for _ in range(SUBMITTERS)]
            busy += [pool.submit(self._read_until, stop) for _ in range(READERS)]
            try:
                yield
            finally:
                stop.set()
        for one in busy:
            one.result()

    def _submit_until(self, stop: Event) -> None:
        own = [f"player-{uuid.uuid4().hex[:8]}" for _ in range(NAMES_EACH)]
        for name in own:
            self.ledger.add(name)
        with self._client() as http:
            while not stop.is_set():
                some = random.sample(own, random.choice([1, 1, 1, NAMES_EACH]))
                self._submit(http, {name: random.randint(1, STEP) for name in some})
                time.sleep(PAUSE_SECONDS)

    def submit(self, steps: Mapping[str, int], web: Web | None = None) -> list[dict[str, Any]]:
        """What each name gets more, in one request, which is repeated until it is accepted -> the answers."""
        for name in steps.keys() - self.ledger.sent.keys():
            self.ledger.add(name)
        with self._client() as http:
            return self._submit(http, steps, web)

    def _submit(self, http: httpx.Client, steps: Mapping[str, int], web: Web | None = None) -> list[dict[str, Any]]:
        ledger, since = self.ledger, time.monotonic()
        before = {name: _at(ledger.sent[name], since) for name in steps}
        after = {name: (before[name] or 0) + step for name, step in steps.items()}
        for name, score in after.items():
            ledger.sent[name].append((since, score))
        path = self.path
        body: dict[str, Any] = {"scores": [{"name": name, "score": step} for name, step in steps.items()]}
        if len(steps) == 1:
            ((name, step),) = steps.items()
            path, body = f"{path}/{name}", {"score": step}
        reply = self._post(http, path, body, web)
        until = time.monotonic()
        self.slowest = max(self.slowest, until - since)
        results = reply["results"] if len(steps) > 1 else [reply]
        for result in results:
            name = result["name"]
            assert result["score"] == after[name], (result, after[name])
            ledger.accepted[name].append((until, after[name]))
            ledger.stale += result["stale"]
            assert (result["rank"] is None) == result["stale"], result
            if result["rank"] is not None:
                ledger.told.append(Told(since, until, name, after[name], result["rank"]))
            if result["previous_rank"] is not None:
                ledger.told.append(Told(since, until, name, before[name] or 0, result["previous_rank"]))
        return list(results)

    def _post(self, http: httpx.Client, path: str, body: Any, web: Web | None) -> dict[str, Any]:
        key, deadline = {"Idempotency-Key": uuid.uuid4().hex}, time.monotonic() + PATIENCE
        while True:
            with suppress(httpx.TransportError):
                reply = http.post((web or self._web()).url + path, json=body, headers=key)
                if reply.status_code == 202:
                    return dict(reply.json())
                assert reply.status_code in (409, 503), reply.text
            assert time.monotonic() < deadline, self.stack.logs()[-3000:]
            web = None
            time.sleep(0.05)

    def _read_until(self, stop: Event) -> None:
        with self._client() as http:
            while not stop.is_set():
                players = list(self.ledger.sent) or [base(0)]
                name = random.choice([base(random.randrange(len(SCORES))), *random.choices(players, k=4)])
                with suppress(httpx.TransportError):
                    self._read(http, name)
                time.sleep(PAUSE_SECONDS)

    def read(self, name: str, web: Web | None = None) -> int | None:
        """A rank, which goes into the ledger."""
        with self._client() as http:
            return self._read(http, name, web)

    def _read(self, http: httpx.Client, name: str, web: Web | None = None) -> int | None:
        since = time.monotonic()
        reply = http.get(f"{(web or self._web()).url}{self.path}/{name}")
        until = time.monotonic()
        if reply.status_code == 503:
            return None
        assert reply.status_code in (200, 404), reply.text
        found = Told(since, until, name, 0, None)
        if reply.status_code == 200:
            found = found._replace(score=reply.json()["score"], rank=reply.json()["rank"])
        self.ledger.told.append(found)
        return found.rank

    def _web(self) -> Web:
        return random.choice(self.stack.web)

    def _client(self) -> httpx.Client:
        return httpx.Client(headers={"Authorization": f"Bearer {self.stack.api_key}"}, timeout=10)

    # --- What has to hold -----------------------------------------------------------------------

    def healed(self, began: float | None = None) -> float:
        """Waits until the index has all that is accepted now -> the seconds that it took, or since `began`."""
        began, seq = began or time.monotonic(), self.ledger.seq
        eventually(lambda: self._is_whole(seq), HEALED_SECONDS, lambda: self.stack.logs()[-3000:])
        return time.monotonic() - began

    def _is_whole(self, seq: int) -> bool:
        self.read(base(0))  # Somebody has to miss it.
        try:
            epoch, head = self.redis.hmget(self.keys[2], "epoch", "head")
        except RedisError:
            return False
        return epoch == self.epoch and int(head) >= seq

    def expect(self, *, index: bool = True) -> None:
        """Nothing is on its way: record, both processes and, if it is there, the index have what was accepted, once."""
        assert self.ledger.check() > 0
        scores = self.ledger.scores
        record = json.loads(self.record(f"tell({self.window})"))
        assert record["scores"] == scores
        assert record["seq"] == self.ledger.seq
        assert record["entries"] == len(SCORES) + len(scores)
        assert record["last"] == record["seq"]
        assert record["count"] == record["seq"] - len(SCORES)
        everybody = scores | {base(number): score for number, score in enumerate(SCORES)}
        expected = sorted((-score, name) for name, score in everybody.items())
        for web in self.stack.web:
            starts = [0, *random.sample(range(len(expected)), 3), len(expected) - PAGE]
            if index:
                starts = list(range(0, len(expected), PAGE)) if web is self.stack.web[0] else starts
            self._expect_pages(web, starts, expected, record["seq"])

    def _expect_pages(self, web: Web, starts: Sequence[int], expected: list[tuple[int, str]], seq: int) -> None:
        """Ranks of equal scores are told in the order in which they came, which is not looked at."""
        with self._client() as http:
            for start in starts:
                reply = http.get(f"{web.url}{self.path}", params={"startRank": start, "endRank": start + PAGE})
                page = reply.json()
                wanted = expected[start : start + PAGE]
                assert (page["total"], page["version"]) == (len(expected), seq)
                assert [row["rank"] for row in page["leaderboard"]] == list(range(start, start + len(wanted)))
                assert [-row["score"] for row in page["leaderboard"]] == [score for score, _ in wanted]
                inside = {wanted[0][0], wanted[-1][0]}  # Those of the same scores may be on the next page.
                found = {(-row["score"], row["name"]) for row in page["leaderboard"]}
                assert {one for one in found if one[0] not in inside} == {one for one in wanted if one[0] not in inside}
