"""Watchers of live boards, who know what a client knows: from the events alone."""

import json
from collections.abc import Iterable
from typing import Any

from leaderboards import live
from realtime.frames import Event


class Watcher:
    """Fails when a version is missing between two, or comes twice."""

    def __init__(self) -> None:
        self.epoch: str | None = None
        self.version = 0
        self.window: str | None = None
        self.top: list[dict[str, Any]] = []
        self.snapshots = self.diffs = 0
        self.mine: list[dict[str, Any] | None] = []

    def take(self, event: dict[str, Any]) -> None:
        """An event of the board, the answer to `subscribe`, or the board's place in a `welcome`."""
        if "me" in event:
            self.mine.append(event["me"])
        elif "snapshot" in event:
            self._begin_anew(event)
        elif "set" in event:
            self._follow(event)

    def take_all(self, events: Iterable[Event]) -> None:
        for event in events:
            self.take(json.loads(event.body))

    def _begin_anew(self, event: dict[str, Any]) -> None:
        state = event["snapshot"]
        self.snapshots += 1
        self.epoch, self.version, self.window = event["epoch"], state["version"], state["window"]
        self.top = state["leaderboard"]
        assert [row["rank"] for row in self.top] == list(range(len(self.top)))

    def _follow(self, event: dict[str, Any]) -> None:
        assert (event["epoch"], event["version"]) == (self.epoch, self.version + 1), (event, self.version)
        self.diffs += 1
        self.version = event["version"]
        gone = {*event["removed"], *(row["name"] for row in event["set"])}
        top = [row for row in self.top if row["name"] not in gone]
        for row in event["set"]:
            top.insert(row["rank"], row)
        self.top = [{**row, "rank": rank} for rank, row in enumerate(top)]

    @property
    def results(self) -> list[tuple[str, float]]:
        return [(row["name"], row["score"]) for row in self.top]


def fresh(board: str) -> Watcher:
    """Somebody who comes now."""
    found = live.snapshot(board)
    assert found is not None
    watcher = Watcher()
    watcher.take(json.loads(live.snapshot_event(board, found).body))
    return watcher
