"""Metrics as text for Prometheus, in its own format or as OpenMetrics.

Sources: prometheus.io/docs/instrumenting/exposition_formats, and the OpenMetrics specification, 1.0. The text
is made in pieces with the event loop free in between: a thousand consumers make several thousand lines.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from windshift.server.telemetry.instruments import Instrument, InstrumentKind
from windshift.server.telemetry.registry import Distribution, Family, Point

_PLAIN: Final = "text/plain; version=0.0.4; charset=utf-8"
_OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_TYPES: Final = {InstrumentKind.COUNTER: "counter", InstrumentKind.HISTOGRAM: "histogram"}
"""All other kinds are gauges."""

_PIECE: Final = 100
"""Series written without a pause: about 0.5 ms."""


class Exposition(NamedTuple):
    """The body of a response to a scrape, and its type."""

    content_type: str
    body: bytes


async def expose(families: Sequence[Family], accept: str) -> Exposition:
    """Format metrics as the client's ``Accept`` header asks."""
    is_open = _takes_openmetrics(accept)
    lines: list[str] = []
    for family in families:
        if family.points:
            lines += _comments(family.instrument, is_open=is_open)
        for start in range(0, len(family.points), _PIECE):
            for point in family.points[start : start + _PIECE]:
                lines += _samples(family.instrument, point)
            await asyncio.sleep(0)
    if is_open:
        lines.append("# EOF\n")
    return Exposition(_OPENMETRICS if is_open else _PLAIN, "".join(lines).encode())


def _takes_openmetrics(accept: str) -> bool:
    for offer in accept.split(","):
        kind, *parameters = (part.strip() for part in offer.split(";"))
        versions = [each for each in parameters if each.startswith("version=")]
        if kind == "application/openmetrics-text" and versions in ([], ["version=1.0.0"]):
            return True
    return False


def _comments(instrument: Instrument, *, is_open: bool) -> Iterator[str]:
    name = instrument.prometheus_family if is_open else instrument.prometheus_name
    yield f"# HELP {name} {instrument.description}.\n"
    yield f"# TYPE {name} {_TYPES.get(instrument.kind, 'gauge')}\n"
    if is_open and instrument.prometheus_unit:
        yield f"# UNIT {name} {instrument.prometheus_unit}\n"


def _samples(instrument: Instrument, point: Point) -> Iterator[str]:
    values, reading = point
    name = instrument.prometheus_name
    labels = [
        f'{label}="{_escaped(value)}"'
        for label, value in zip(instrument.prometheus_labels, values, strict=True)
    ]
    if not isinstance(reading, Distribution):
        yield _sample(name, labels, reading)
        return
    below = 0
    for bound, count in zip((*instrument.bounds, math.inf), reading.counts, strict=True):
        below += count
        yield _sample(f"{name}_bucket", [*labels, f'le="{_number(bound)}"'], below)
    yield _sample(f"{name}_count", labels, below)
    yield _sample(f"{name}_sum", labels, reading.total)


def _sample(name: str, labels: list[str], value: float) -> str:
    return f"{name}{{{','.join(labels)}}} {_number(value)}\n" if labels else f"{name} {_number(value)}\n"


def _number(value: float) -> str:
    return "+Inf" if value == math.inf else repr(float(value))


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
