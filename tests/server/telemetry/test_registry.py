"""Readings: histograms, and what a registry collects."""

from __future__ import annotations

import pytest

from windshift.server.telemetry import instruments as i
from windshift.server.telemetry.registry import Distribution, Histogram, Registry


def test_histogram() -> None:
    """A bound belongs to its bucket; what is above all bounds has the last one."""
    histogram = Histogram((1, 2.5))
    for value in (0, 1, 1.5, 2.5, 3, 100):
        histogram.observe(value)
    assert histogram.read() == Distribution((2, 2, 2), 108)


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
    """A histogram without labels is made and read by the registry."""
    registry = Registry()
    registry.add_histogram(i.LOOP_LAG).observe(10)
    ((_, [(labels, reading)]),) = await registry.collect()
    assert labels == ()
    assert isinstance(reading, Distribution)
    assert reading.total == 10


def test_no_histogram() -> None:
    """Only histograms can be observed."""
    with pytest.raises(ValueError, match="no histogram"):
        Registry().add_histogram(i.PUBLISHED)
