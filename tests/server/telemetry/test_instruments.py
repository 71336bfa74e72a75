"""The table of instruments, and their names."""

from __future__ import annotations

import re

import pytest

from windshift.server.telemetry.instruments import INSTRUMENTS, Instrument, InstrumentKind

SETTLE = Instrument(InstrumentKind.COUNTER, "windshift.events.settled", "{event}", "x", ("kind",))


@pytest.mark.parametrize(
    ("instrument", "family", "name"),
    [
        (SETTLE, "windshift_events_settled", "windshift_events_settled_total"),
        (Instrument(InstrumentKind.COUNTER, "a.b", "By", "x"), "a_b_bytes", "a_b_bytes_total"),
        (Instrument(InstrumentKind.HISTOGRAM, "a.lag", "s", "x"), "a_lag_seconds", "a_lag_seconds"),
        (Instrument(InstrumentKind.GAUGE, "a.bytes", "By", "x"), "a_bytes", "a_bytes"),
        (
            Instrument(InstrumentKind.COUNTER, "process.cpu.time", "s", "x", short="process_cpu"),
            "process_cpu_seconds",
            "process_cpu_seconds_total",
        ),
    ],
)
def test_prometheus_names(instrument: Instrument, family: str, name: str) -> None:
    """Dots become underscores, units are spelled out once, and sums end with `_total`."""
    assert (instrument.prometheus_family, instrument.prometheus_name) == (family, name)


def test_prometheus_labels() -> None:
    """Labels have the characters that Prometheus allows."""
    instrument = Instrument(InstrumentKind.GAUGE, "a", "", "x", ("rpc.method", "kind"))
    assert instrument.prometheus_labels == ("rpc_method", "kind")


def test_table() -> None:
    """Names are unique in both worlds, well formed, and described."""
    assert len({each.name for each in INSTRUMENTS}) == len(INSTRUMENTS)
    assert len({each.prometheus_family for each in INSTRUMENTS}) == len(INSTRUMENTS)
    for each in INSTRUMENTS:
        assert re.fullmatch(r"[a-z]+(\.[a-z_]+)+|windshift\.\w+", each.name), each
        assert re.fullmatch(r"[A-Z1].*[^.]", each.description), each
        assert bool(each.bounds) == (each.kind is InstrumentKind.HISTOGRAM), each
        assert list(each.bounds) == sorted(each.bounds)
