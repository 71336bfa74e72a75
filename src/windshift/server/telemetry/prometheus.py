"""Metrics as text for Prometheus, in its own format or as OpenMetrics.

The text is made in pieces with the event loop free in between: a thousand consumers make several thousand
lines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry

from windshift.server.telemetry.instruments import Instrument, InstrumentKind
from windshift.server.telemetry.registry import Distribution, Exposition, Family, Point

_PIECE: Final = 100
"""Lines written without a pause: about 0.5 ms."""

_END: Final = b"# EOF\n"


async def expose(families: Sequence[Family], accept: str) -> Exposition:
    """Format metrics as the client's ``Accept`` header asks."""
    encode, content_type = choose_encoder(accept)
    pieces: list[bytes] = []
    for family in families:
        lines = len(family.instrument.bounds) + 3 if family.instrument.bounds else 1
        size = max(1, _PIECE // lines)
        for start in range(0, len(family.points), size):
            text = _encode(encode, family.instrument, family.points[start : start + size])
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


def _encode(
    encode: Callable[[CollectorRegistry], bytes], instrument: Instrument, points: Sequence[Point]
) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(metric(instrument, points)))
    return encode(registry).removesuffix(_END)


def _without_comments(text: bytes) -> bytes:
    """Drop the comment lines of a family, which may appear only once."""
    while text.startswith(b"# "):
        text = text[text.index(b"\n") + 1 :]
    return text


def metric(instrument: Instrument, points: Sequence[Point]) -> Metric:
    """Convert readings for prometheus_client."""
    name, text = instrument.prometheus_family, instrument.description + "."
    labels, unit = instrument.prometheus_labels, instrument.prometheus_unit
    match instrument.kind:
        case InstrumentKind.COUNTER:
            return _filled(CounterMetricFamily(name, text, labels=labels, unit=unit), points)
        case InstrumentKind.HISTOGRAM:
            histogram = HistogramMetricFamily(name, text, labels=labels, unit=unit)
            for values, reading in points:
                assert isinstance(reading, Distribution)  # noqa: S101 - of a histogram it is one
                histogram.add_metric(values, list(_buckets(instrument.bounds, reading)), reading.total)
            return histogram
        case _:
            return _filled(GaugeMetricFamily(name, text, labels=labels, unit=unit), points)


def _filled(family: CounterMetricFamily | GaugeMetricFamily, points: Sequence[Point]) -> Metric:
    for values, reading in points:
        assert not isinstance(reading, Distribution)  # noqa: S101 - only of a histogram it is one
        family.add_metric(values, reading)
    return family


def _buckets(bounds: Sequence[float], reading: Distribution) -> Iterator[tuple[str, float]]:
    below = 0
    for bound, count in zip((*map(str, map(float, bounds)), "+Inf"), reading.counts, strict=True):
        below += count
        yield bound, below
