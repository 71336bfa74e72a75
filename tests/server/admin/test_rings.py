"""What rings remember, and which of them make room."""

from __future__ import annotations

import math
from array import array

import pytest

from windshift.server.admin.rings import IDLE, LENGTH, LONGEST_HOLD, Ring, Rings, Run, condensed, merged

NAN = math.nan


def values(run: Run) -> list[float | None]:
    """Give the values, None for NaN."""
    return [None if math.isnan(value) else value for value in run.values]


def ring_of(*written: tuple[int, float]) -> Ring:
    """Make a ring of one number, and write to it."""
    ring = Ring(1, 0)
    for step, value in written:
        ring.put(step, (value,))
    return ring


def test_steps_follow_each_other() -> None:
    """What is written is read, from the step that is asked for, or from the first there is."""
    ring = ring_of((100, 1), (101, 2), (102, 3))
    assert (ring.read(0, 0).start, values(ring.read(0, 0))) == (100, [1, 2, 3])
    assert (ring.read(0, 102).start, values(ring.read(0, 102))) == (102, [3])
    assert values(ring.read(0, 103)) == []
    assert values(ring.read(0, -(10**30))) == [1, 2, 3]
    assert values(ring.read(0, 10**30)) == []
    assert values(Ring(1, 0).read(0, 0)) == []


def test_a_ring_goes_round() -> None:
    """It remembers so many steps, and no more."""
    ring = ring_of(*((step, float(step)) for step in range(50, 50 + 2 * LENGTH + 7)))
    run = ring.read(0, 0)
    assert run.start == 50 + LENGTH + 7
    assert values(run) == [float(step) for step in range(run.start, run.end)]
    assert len(run.values) == LENGTH


def test_a_value_counts_until_the_next_look() -> None:
    """Steps in which nobody looked have what was seen after them; where these are many, nothing."""
    assert values(ring_of((10, 1), (13, 2)).read(0, 0)) == [1, 2, 2, 2]
    gap = LONGEST_HOLD + 1
    assert values(ring_of((10, 1), (10 + gap, 2)).read(0, 0)) == [1, *[None] * LONGEST_HOLD, 2]
    long = ring_of((10, 1), (10 + 5 * LENGTH, 2)).read(0, 0)
    assert (len(long.values), values(long)[-2:]) == (LENGTH, [None, 2])


def test_a_clock_that_goes_back() -> None:
    """What was written is not written over."""
    assert values(ring_of((10, 1), (9, 5), (10, 6), (11, 2)).read(0, 0)) == [1, 2]


def test_several_numbers() -> None:
    """Each number has its own steps."""
    ring = Ring(2, 0)
    ring.put(1, (1, 10))
    ring.put(2, (2, 20))
    assert [values(ring.read(column, 0)) for column in (0, 1)] == [[1, 2], [10, 20]]
    assert ring.latest == [2, 20]


def test_who_makes_room() -> None:
    """A ring in which nothing has changed for a minute makes room, the one that is idle for longest first."""
    rings = Rings(2, 1)
    first, second = rings.claim("a", 1), rings.claim("b", 2)
    assert first is not None
    assert second is not None
    assert not rings.has_room
    assert rings.claim("a", 3) is first
    assert rings.claim("c", 2 + IDLE - 1) is None
    assert rings.get("c") is None
    assert rings.claim("c", 2 + IDLE) is not None
    assert [name for name, _ in rings.items()] == ["a", "c"]
    assert rings.get("b") is None


def test_what_servers_saw_is_laid_over_each_other() -> None:
    """The first server counts where it saw something."""
    runs = [Run(12, array("f", [1, NAN, 1])), Run(10, array("f", [2, NAN, 2, 2, 2, 2]))]
    merge = merged(runs)
    assert (merge.start, values(merge)) == (10, [2, None, 1, 2, 1, 2])
    assert values(merged([])) == []


@pytest.mark.parametrize(
    ("is_rate", "expected"), [(True, [2.0, 3.5, None, 6.0]), (False, [2.0, 4.0, None, 6.0])]
)
def test_longer_steps(is_rate: bool, expected: list[float | None]) -> None:
    """Several steps become one, at multiples of its length: the mean of rates, the last value of others."""
    run = Run(5, array("f", [2, 3, 4, NAN, NAN, 6, NAN]))
    condensed_run = condensed(run, 2, 10, is_rate=is_rate)
    assert (condensed_run.start, values(condensed_run)) == (2, expected)
    newest = condensed(run, 2, 1, is_rate=is_rate)
    assert (newest.start, values(newest)) == (5, [6])


def test_ends_without_values() -> None:
    """What nobody saw at the ends is left out."""
    run = condensed(Run(5, array("f", [NAN, 1, NAN])), 1, 10, is_rate=False)
    assert (run.start, values(run)) == (6, [1])
    assert values(condensed(Run(5, array("f", [NAN])), 1, 10, is_rate=False)) == []
