"""Tables: what was measured, and whether it reaches the goals."""

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("django", "uvicorn", "uvloop", "websockets", "channels", "channels-redis")
NOT_MEASURED = "not measured"

Value = str | float | None
"""None is printed as "not measured"."""


@dataclass(slots=True)
class Goal:
    text: str
    met: bool | None  # None: what it compares with was not measured.


@dataclass(slots=True)
class Table:
    title: str
    columns: list[str]
    rows: list[list[Value]] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, *values: Value) -> None:
        self.rows.append(list(values))

    def at_most(self, what: str, value: float | None, most: float | None, unit: str = "") -> None:
        self._goal(what, value, most, "<=", unit)

    def at_least(self, what: str, value: float | None, least: float | None, unit: str = "") -> None:
        self._goal(what, value, least, ">=", unit)

    def _goal(self, what: str, value: float | None, bound: float | None, sign: str, unit: str) -> None:
        if value is None or bound is None:
            self.goals.append(Goal(f"{what}: {NOT_MEASURED}", None))
            return
        met = value <= bound if sign == "<=" else value >= bound
        self.goals.append(Goal(f"{what}: {shown(value)}{unit} (goal {sign} {shown(bound)}{unit})", met))


def render(table: Table) -> str:
    cells = [table.columns, *([shown(value) for value in row] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [_line(row, widths) for row in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
    goals = [f"  {_verdict(goal)}  {goal.text}" for goal in table.goals]
    notes = [f"  {note}" for note in table.notes]
    return "\n".join([f"\n## {table.title}\n", *lines, *([""] if goals or notes else []), *goals, *notes])


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = (
        cell.ljust(width) if not index else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join([first, *rest])


def _verdict(goal: Goal) -> str:
    return {True: "pass", False: "FAIL", None: "  ? "}[goal.met]


def shown(value: Value) -> str:
    if value is None:
        return NOT_MEASURED
    if isinstance(value, str):
        return value
    if abs(value) >= 100 or float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def ratio(value: float | None, by: float | None) -> float | None:
    return value / by if value is not None and by else None


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def machine() -> dict[str, str]:
    """What these figures were measured on."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "cpu": f"{_cpu_model()}, {os.cpu_count()} cores",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
