"""Metrics as text for Prometheus, in its own format or as OpenMetrics.

The text is made in pieces with the event loop free in between: a thousand consumers make several thousand
lines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final, cast

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from windshift.server.telemetry.instruments import Instrument, InstrumentKind
from windshift.server.telemetry.registry import Distribution, Exposition, Family, Point

_PIECE: Final = 100
"""Lines written without a pause: about 0.5 ms."""

_END: Final = b"# EOF\n"

_FAMILIES: Final[Mapping[InstrumentKind, Any]] = {
    InstrumentKind.COUNTER: CounterMetricFamily,
    InstrumentKind.HISTOGRAM: HistogramMetricFamily,
}
"""Those of other kinds are gauges."""


async def expose(families: Sequence[Family], accept: str) -> Exposition:
    """Format metrics as the client's ``Accept`` header asks."""
    encode, content_type = choose_encoder(accept)
    pieces: list[bytes] = []
    for family in families:
        lines = len(family.instrument.bounds) + 3 if family.instrument.bounds else 1
        size = max(1, _PIECE // lines)
        for start in range(0, len(family.points), size):
            some = metric(family.instrument, family.points[start : start + size])
            text = encode(_Once(some)).removesuffix(_END)
            pieces.append(_without_comments(text) if start else text)
            await asyncio.sleep(0)
    if "openmetrics" in content_type:
        pieces.append(_END)
    return Exposition(content_type, b"".join(pieces))


class _Once(Collector):
    """One metric, for prometheus_client to format."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        yield self._metric


def _without_comments(text: bytes) -> bytes:
    """Drop the comment lines of a family, which may appear only once."""
    while text.startswith(b"# "):
        text = text[text.index(b"\n") + 1 :]
    return text


def metric(instrument: Instrument, points: Sequence[Point]) -> Metric:
    """Convert readings for prometheus_client."""
    family = _FAMILIES.get(instrument.kind, GaugeMetricFamily)(
        instrument.prometheus_family,
        instrument.description + ".",
        labels=instrument.prometheus_labels,
        unit=instrument.prometheus_unit,
    )
    for values, reading in points:
        if isinstance(reading, Distribution):
            family.add_metric(values, list(_buckets(instrument.bounds, reading)), reading.total)
        else:
            family.add_metric(values, reading)
    return cast("Metric", family)


def _buckets(bounds: Sequence[float], reading: Distribution) -> Iterator[tuple[str, float]]:
    counts = accumulate(reading.counts)
    return zip((*map(str, map(float, bounds)), "+Inf"), counts, strict=True)
