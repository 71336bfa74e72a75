"""One reading of several processes that are one server."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from windshift.server.telemetry import instruments as i
from windshift.server.telemetry.instruments import INSTRUMENTS, Instrument, InstrumentKind
from windshift.server.telemetry.registry import Distribution, Family, Readings, Value

_LEAST: Final = frozenset({i.NATS_CONNECTED, i.CERTIFICATE_EXPIRY})
"""Of these the smallest reading is told: one process without a connection is worth an alert."""
_MOST: Final = frozenset({i.NATS_RECONNECTS})
"""Of these counters the largest reading is told: a loss of NATS is one, however many processes have it."""


def merged(readings: Iterable[Readings]) -> list[Family]:
    """Add up what counts, and take the largest reading of every gauge, in the order of the table."""
    found: dict[Instrument, dict[tuple[str, ...], Value]] = {}
    for instrument, points in (family for each in readings for family in each):
        values = found.setdefault(instrument, {})
        for labels, value in points:
            values[labels] = _both(instrument, values[labels], value) if labels in values else value
    return [Family(each, list(found[each].items())) for each in INSTRUMENTS if each in found]


def lasting(readings: Readings) -> list[Family]:
    """Return what stays true of a process that has ended: what it has counted."""
    kinds = (InstrumentKind.COUNTER, InstrumentKind.HISTOGRAM)
    return [family for family in readings if family.instrument.kind in kinds]


def _both(instrument: Instrument, one: Value, other: Value) -> Value:
    if isinstance(one, Distribution) and isinstance(other, Distribution):
        counts = (mine + theirs for mine, theirs in zip(one.counts, other.counts, strict=True))
        return Distribution(tuple(counts), one.total + other.total)
    assert not isinstance(one, Distribution)  # noqa: S101 - one instrument has readings of one kind
    assert not isinstance(other, Distribution)  # noqa: S101 - as above
    if instrument in _LEAST:
        return min(one, other)
    return max(one, other) if instrument.kind is InstrumentKind.GAUGE or instrument in _MOST else one + other
