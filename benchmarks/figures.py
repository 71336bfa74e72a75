"""What was measured: figures, the bars they are held against, and how both are printed."""

from __future__ import annotations

import math
import operator
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

WINDSHIFT = "windshift"
WITH_TOKEN = f"{WINDSHIFT}, token"
BEFORE = "before"
COMPARISON = "grpc.aio"
PEER = "peer"
NATS = "nats-py"

Rows = list[tuple[str, ...]]
_PASSED = {True: "met", False: "MISSED", None: ""}


@dataclass(slots=True)
class Figure:
    """The values of one quantity for one subject, one for each run.

    Attributes:
        measurement: the measurement that gave it.
        subject: what was measured.
        quantity: what the values are, unit included.
        values: one for each run, in their order.
    """

    measurement: str
    subject: str
    quantity: str
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A bar, and where a figure stands to it.

    Attributes:
        text: the bar in words.
        value: what was measured.
        limit: the bar; None = there is none, the value is to be seen.
        passed: whether the value is on the right side; None without a limit.
    """

    text: str
    value: float
    limit: float | None
    passed: bool | None


class Figures:
    """Everything measured so far."""

    def __init__(self) -> None:
        self._figures: dict[tuple[str, str, str], Figure] = {}
        self.notes: list[str] = []

    def add(self, measurement: str, subject: str, quantity: str, value: float) -> None:
        """Add the value of one run, unless it is NaN: that could not be measured."""
        if math.isnan(value):
            return
        key = (measurement, subject, quantity)
        self._figures.setdefault(key, Figure(*key)).values.append(value)

    def note(self, text: str) -> None:
        """Keep something that the reader should know: what was skipped, or looked wrong."""
        self.notes.append(text)

    def __iter__(self) -> Iterator[Figure]:
        return iter(self._figures.values())

    def get(self, measurement: str, subject: str, quantity: str) -> Figure | None:
        """Return a figure, or None where it was not measured."""
        return self._figures.get((measurement, subject, quantity))

    @property
    def other(self) -> str:
        """What Windshift is compared with: the version before, or else the comparison server."""
        return BEFORE if any(figure.subject == BEFORE for figure in self) else COMPARISON

    def ratio(
        self, measurement: str, quantity: str, subject: str, other: str, beside: str = ""
    ) -> float | None:
        """Return the median of the ratios of runs that followed each other, or None without both.

        `beside` is the measurement of the other subject; empty = the same.
        """
        ours = self.get(measurement, subject, quantity)
        theirs = self.get(beside or measurement, other, quantity)
        if ours is None or theirs is None:
            return None
        ratios = [a / b for a, b in zip(ours.values, theirs.values, strict=False) if b]
        return statistics.median(ratios) if ratios else None


@dataclass(frozen=True, slots=True)
class Bar:
    """Something that a figure should reach.

    Attributes:
        text: in words.
        limit: the number; None = the figure is shown without one.
        at_most: whether the number is an upper bound; otherwise a lower one.
        value: finds the figure; None where it was not measured.
    """

    text: str
    limit: float | None
    at_most: bool
    value: Callable[[Figures], float | None]

    def judge(self, figures: Figures) -> Verdict | None:
        """Hold the figure against the bar; None where it was not measured."""
        value = self.value(figures)
        if value is None:
            return None
        compare = operator.le if self.at_most else operator.ge
        passed = None if self.limit is None else compare(value, self.limit)
        return Verdict(self.text, value, self.limit, passed)


def median(measurement: str, quantity: str, subject: str = WINDSHIFT) -> Callable[[Figures], float | None]:
    """Return a function that finds the median of a figure."""
    return _of_figure(measurement, quantity, subject, lambda figure: figure.median)


def maximum(measurement: str, quantity: str, subject: str = WINDSHIFT) -> Callable[[Figures], float | None]:
    """Return a function that finds the largest value of a figure."""
    return _of_figure(measurement, quantity, subject, lambda figure: max(figure.values))


def _of_figure(
    measurement: str, quantity: str, subject: str, value: Callable[[Figure], float]
) -> Callable[[Figures], float | None]:
    def find(figures: Figures) -> float | None:
        figure = figures.get(measurement, subject, quantity)
        return None if figure is None else value(figure)

    return find


def ratio(
    measurement: str, quantity: str, subject: str = WINDSHIFT, other: str = "", beside: str = ""
) -> Callable[[Figures], float | None]:
    """Return a function that finds the ratio of two figures: see `Figures.ratio`.

    Without an `other` it is to what Windshift is compared with.
    """
    return lambda figures: figures.ratio(measurement, quantity, subject, other or figures.other, beside)


def counterpart(subject: str, other: str) -> str:
    """Return the subject of another server that stands beside one of Windshift."""
    return subject.replace(WINDSHIFT, other, 1)


def number(value: float) -> str:
    """Write a value with three significant digits or more, thousands separated."""
    if math.isnan(value):
        return "unknown"
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.2f}"


def table(figures: Figures) -> str:
    """Lay the figures out as text: one row for each quantity, with the ratio to what stands beside."""
    other = figures.other
    rows: Rows = [("measurement", "quantity", "subject", "median", "min", "max", "runs", f"ratio to {other}")]
    last = ""
    for figure in sorted(figures, key=lambda f: (_first(figures, f.measurement), f.quantity)):
        times = ""
        if figure.subject.startswith(WINDSHIFT):
            beside = counterpart(figure.subject, other)
            value = figures.ratio(figure.measurement, figure.quantity, figure.subject, beside)
            times = "" if value is None else f"{value:.2f}"
        values = (number(v) for v in (figure.median, min(figure.values), max(figure.values)))
        name = "" if figure.measurement == last else figure.measurement
        last = figure.measurement
        rows.append((name, figure.quantity, figure.subject, *values, str(len(figure.values)), times))
    return _columns(rows, left=3)


def _first(figures: Figures, measurement: str) -> int:
    return next(place for place, figure in enumerate(figures) if figure.measurement == measurement)


def verdict_table(verdicts: list[Verdict]) -> str:
    """Lay the bars out as text."""
    rows: Rows = [("bar", "limit", "measured", "")]
    for verdict in verdicts:
        limit = "" if verdict.limit is None else number(verdict.limit)
        rows.append((verdict.text, limit, number(verdict.value), _PASSED[verdict.passed]))
    return _columns(rows, left=1)


def _columns(rows: Rows, left: int) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(lines)


def as_json(figures: Figures, verdicts: list[Verdict], machine: dict[str, Any]) -> dict[str, Any]:
    """Return everything as an object for a results file."""
    return {
        "machine": machine,
        "figures": [
            {
                "measurement": figure.measurement,
                "subject": figure.subject,
                "quantity": figure.quantity,
                "median": round(figure.median, 3),
                "values": [round(value, 3) for value in figure.values],
            }
            for figure in figures
        ],
        "bars": [
            {
                "bar": verdict.text,
                "limit": verdict.limit,
                "measured": round(verdict.value, 3),
                "met": verdict.passed,
            }
            for verdict in verdicts
        ],
        "notes": figures.notes,
    }
