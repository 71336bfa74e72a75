"""The last hour of some numbers, in rings of fixed size and number. Times are numbers of steps."""

from __future__ import annotations

import math
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, NamedTuple

LENGTH: Final = 360
"""Steps that a ring remembers."""
IDLE: Final = 6
"""Steps without a change after which a ring makes room for another one."""
LONGEST_HOLD: Final = 7
"""Steps that a value counts for at most when nobody looks meanwhile."""


class Run(NamedTuple):
    """Values of steps that follow each other, from `start` on. NaN: nobody looked."""

    start: int
    values: array[float]

    @property
    def end(self) -> int:
        """The step after the last one."""
        return self.start + len(self.values)


class Ring:
    """Some numbers of one thing, step by step.

    Attributes:
        first: the first step that was ever written.
        last: the last one.
        claimed: the last step in which something changed, or somebody asked.
    """

    __slots__ = ("_columns", "claimed", "first", "last")

    def __init__(self, width: int, claimed: int) -> None:
        self._columns = tuple(array("f", [math.nan]) * LENGTH for _ in range(width))
        self.first = self.last = -1
        self.claimed = claimed

    def put(self, step: int, values: Sequence[float]) -> None:
        """Write the values of a step, and of those since the last one if these are few."""
        if step <= self.last:
            return  # the clock went back
        held = self.last >= 0 and step - self.last <= LONGEST_HOLD
        between = range(max(self.last + 1, step - LENGTH + 1), step) if self.last >= 0 else ()
        for column, value in zip(self._columns, values, strict=True):
            for each in between:
                column[each % LENGTH] = value if held else math.nan
            column[step % LENGTH] = value
        self.first, self.last = step if self.first < 0 else self.first, step

    @property
    def latest(self) -> list[float]:
        """The last values."""
        return [column[self.last % LENGTH] for column in self._columns]

    def read(self, column: int, since: int) -> Run:
        """Return the values of one number from a step on, or from as far back as there are any."""
        start = max(since, self.first, self.last - LENGTH + 1, 0)
        count, values, begin = max(0, self.last - start + 1), self._columns[column], start % LENGTH
        run = values[begin : begin + count]
        return Run(start, run + values[: count - len(run)])


class Rings:
    """Rings by name: at most so many, of `width` numbers each."""

    def __init__(self, most: int, width: int) -> None:
        self._most = most
        self._width = width
        self._rings: OrderedDict[str, Ring] = OrderedDict()

    def get(self, name: str) -> Ring | None:
        """Return a ring, if there is one."""
        return self._rings.get(name)

    @property
    def has_room(self) -> bool:
        """Whether there may be another one without taking the place of one."""
        return len(self._rings) < self._most

    def claim(self, name: str, step: int) -> Ring | None:
        """Return a ring, or make one; None when there are too many in which something changes."""
        ring = self._rings.get(name)
        if ring is None:
            if not self.has_room and not self._make_room(step):
                return None
            ring = self._rings[name] = Ring(self._width, step)
        ring.claimed = step
        self._rings.move_to_end(name)
        return ring

    def items(self) -> list[tuple[str, Ring]]:
        """Return all rings, those first in which nothing has changed for longest."""
        return list(self._rings.items())

    def _make_room(self, step: int) -> bool:
        name, ring = next(iter(self._rings.items()))
        if step - ring.claimed < IDLE:
            return False
        del self._rings[name]
        return True


def merged(runs: Sequence[Run]) -> Run:
    """Lay what several servers saw over each other: of each step the first value that there is."""
    if not runs:
        return Run(0, array("f"))
    if len(runs) == 1:
        return runs[0]
    start = min(run.start for run in runs)
    values = array("f", [math.nan]) * (max(run.end for run in runs) - start)
    for run in reversed(runs):
        for step, value in enumerate(run.values, run.start - start):
            if not math.isnan(value):
                values[step] = value
    return Run(start, values)


def condensed(run: Run, every: int, most: int, *, is_rate: bool) -> Run:
    """Make one value of so many: of a rate the mean, of others the last. Ends lose what nobody saw.

    Steps become `every` times as long, and are counted in their new length. Of more than `most` values the
    newest stay.
    """
    start = run.start // every
    values = array("f")
    for begin in range(start * every - run.start, len(run.values), every):
        some = [value for value in run.values[max(0, begin) : begin + every] if not math.isnan(value)]
        if not some:
            values.append(math.nan)
        else:
            values.append(sum(some) / len(some) if is_rate else some[-1])
    while values and math.isnan(values[-1]):
        values.pop()
    first = next((index for index, value in enumerate(values) if not math.isnan(value)), 0)
    first = max(first, len(values) - most)
    return Run(start + first, values[first:])
