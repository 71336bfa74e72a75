"""One run of one scenario: what it is given, and what it finds."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.checks import Violation
from tests.faults.history import LOST_WHILE_WRITING, Fault, History

Number = int | float

MOST_VIOLATIONS = 20
"""Shown of each run; the history has the rest."""


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for on the command line.

    Attributes:
        short: a small part of the work, for the test suite.
        events: for the scenarios that measure themselves in events; 0 means each one's own number.
    """

    short: bool = False
    events: int = 0


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure that is to stay below a limit. Times depend on the machine: a missed bar is no violation."""

    name: str
    value: Number
    limit: Number

    @property
    def met(self) -> bool:
        """Whether it is."""
        return self.value <= self.limit


@dataclass(slots=True)
class Run:
    """What a scenario works with.

    Attributes:
        directory: for everything that processes write.
        luck: seeded; every random choice that a schedule depends on is taken from it.
        counts: what was done and seen, in the order of the report.
    """

    scenario: str
    directory: Path
    seed: int
    options: Options
    progress: Callable[[str], None] = lambda _: None
    history: History = field(default_factory=History)
    counts: dict[str, Number] = field(default_factory=dict)
    bars: list[Bar] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    luck: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.luck = random.Random(self.seed)

    def more_luck(self) -> random.Random:
        """Make a source of random choices for something that asks at times of its own."""
        return random.Random(self.luck.random())

    def scale(self, full: int, short: int) -> int:
        """Choose a number by the length that was asked for."""
        return short if self.options.short else full

    def events(self, full: int, short: int) -> int:
        """Choose a number of events."""
        return short if self.options.short else self.options.events or full

    def count(self, name: str, value: Number) -> None:
        """Put a figure down, added to what it was."""
        self.counts[name] = self.counts.get(name, 0) + value

    def bar(self, name: str, value: Number, limit: Number) -> None:
        """Put a figure down that has a limit."""
        self.bars.append(Bar(name, value, limit))

    def check(self, violations: Iterable[Violation]) -> None:
        """Put down what a check found."""
        self.violations.extend(violations)

    def demand(self, holds: object, check: str, text: str) -> None:
        """Put a violation down unless something holds."""
        if not holds:
            self.violations.append(Violation(check, text))

    def count_lost_while_writing(self) -> None:
        """Count, if there are any, the lost connections that ``grpc.aio`` has another code for.

        For other checks they are UNAVAILABLE.
        """
        lost = sum(each.message == LOST_WHILE_WRITING for each in self.history.failures)
        if lost:
            self.count("lost connections that grpc.aio reported as INTERNAL", lost)

    async def until(
        self, condition: Callable[[], object], within: float, what: str, say: Callable[[], str] | None = None
    ) -> bool:
        """Wait until a condition holds; put a violation down if it does not in time."""
        give_up = time.monotonic() + within
        while not condition():
            if time.monotonic() > give_up:
                self.violations.append(Violation("in vain", f"{what} within {within:.0f} s"))
                return False
            if say is not None:
                self.progress(say())
            await asyncio.sleep(0.02)
        return True


@dataclass(frozen=True, slots=True)
class Scenario:
    """Something that can go wrong, and what must hold then.

    Attributes:
        proves: for the report: what is done, and what is looked at.
        seeded: whether it is run with many seeds.
        tested: whether the test suite plays its short form; if not, another one's has the same faults in it.
    """

    name: str
    proves: str
    play: Callable[[Run], Awaitable[None]]
    seeded: bool = False
    tested: bool = True


SCENARIOS: dict[str, Scenario] = {}

_LAG = 0.02
"""Seconds by which the clients' event loop may be late without being busy."""


async def play_watched(scenario: Scenario, run: Run) -> None:
    """Play a scenario, and put down when its clients were too busy to notice what they were sent."""
    watch = asyncio.create_task(_watch_lag(run.history))
    try:
        await scenario.play(run)
    finally:
        watch.cancel()
        run.count_lost_while_writing()


async def _watch_lag(history: History) -> None:
    while True:
        start = time.monotonic()
        await asyncio.sleep(_LAG)
        end = time.monotonic()
        if end - start > 2 * _LAG:
            history.faults.append(Fault("lag", "clients", start, end))


def scenario(
    name: str, proves: str, *, seeded: bool = False, tested: bool = True
) -> Callable[[Callable[[Run], Awaitable[None]]], Callable[[Run], Awaitable[None]]]:
    """Give a scenario its name."""

    def register(play: Callable[[Run], Awaitable[None]]) -> Callable[[Run], Awaitable[None]]:
        SCENARIOS[name] = Scenario(name, proves, play, seeded, tested)
        return play

    return register
