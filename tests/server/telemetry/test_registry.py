"""Readings: histograms, and what a registry collects."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windshift.server.telemetry import instruments as i
from windshift.server.telemetry.process import LoopLag
from windshift.server.telemetry.registry import Distribution, Histogram, Registry


def test_histogram() -> None:
    """A bound belongs to its bucket; what is above all bounds has the last one."""
    histogram = Histogram((1, 2.5))
    for value in (0, 1, 1.5, 2.5, 3, 100):
        histogram.observe(value)
    assert histogram.read() == Distribution((2, 2, 2), 108)


@given(st.lists(st.integers(0, 20_000), max_size=20), st.integers(0, 20_000))
def test_times_that_come_together(begun_ns: list[int], now_ns: int) -> None:
    """They count as one by one, in whatever buckets they are; less than no time is 0."""
    together, apart = (Histogram((0, 1e-6, 2e-6, 1e-5)) for _ in range(2))
    together.observe_since(begun_ns, now_ns)
    for each in begun_ns:
        apart.observe(max(0.0, (now_ns - each) * 1e-9))
    assert together.read().counts == apart.read().counts
    assert together.read().total == pytest.approx(apart.read().total)


def test_times_of_one_bucket() -> None:
    """Many of one bucket are counted at once."""
    histogram = Histogram((1, 2.5))
    histogram.observe_since([10**9 * n for n in (8, 8, 8, 8, 8, 9)], 10**10)
    counts, total = histogram.read()
    assert counts == (1, 5, 0)
    assert total == pytest.approx(11)


def test_reading_is_a_copy() -> None:
    """A reading that was taken does not change."""
    histogram = Histogram((1,))
    reading = histogram.read()
    histogram.observe(1)
    assert reading.counts == (0, 0)


async def test_collect() -> None:
    """Readings come in the order of the table, after everything was refreshed; None is no reading."""
    registry, refreshed = Registry(), []

    async def refresh() -> None:
        refreshed.append(True)

    registry.refresh.append(refresh)
    registry.add_number(i.NATS_ROUND_TRIP, lambda: None)
    registry.add_number(i.PUBLISHED, lambda: len(refreshed))
    registry.add(i.SETTLED, lambda: [(("ack",), 2)])
    assert [(family.instrument, family.points) for family in await registry.collect()] == [
        (i.PUBLISHED, [((), 1)]),
        (i.SETTLED, [(("ack",), 2)]),
        (i.NATS_ROUND_TRIP, []),
    ]


async def test_histogram_of_its_own() -> None:
    """The lag of the loop is a histogram without labels."""
    registry = Registry()
    LoopLag(registry)._histogram.observe(10)
    ((_, [(labels, reading)]),) = await registry.collect()
    assert labels == ()
    assert isinstance(reading, Distribution)
    assert reading.total == 10
