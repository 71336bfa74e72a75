"""Durations of calls, by method and code."""

from __future__ import annotations

from time import perf_counter
from types import SimpleNamespace

from windshift.rpc import StatusCode
from windshift.server.telemetry.calls import CallDurations
from windshift.server.telemetry.registry import Distribution


def series(durations: CallDurations) -> dict[tuple[str, ...], int]:
    """Count the observations of each series."""
    found = {}
    for labels, reading in durations.read():
        assert isinstance(reading, Distribution)
        found[labels] = sum(reading.counts)
    return found


def test_series() -> None:
    """There is a series for each method and code that occurred; faults of the server say so."""
    durations = CallDurations(["/a.B/Get", "/a.B/Set"])
    call = SimpleNamespace(method="/a.B/Get", begun=perf_counter())
    durations.finished(call, StatusCode.OK)
    durations.finished(call, StatusCode.OK)
    durations.finished(call, StatusCode.NOT_FOUND)
    durations.finished(call, StatusCode.INTERNAL)
    assert series(durations) == {
        ("grpc", "a.B/Get", "OK", ""): 2,
        ("grpc", "a.B/Get", "NOT_FOUND", ""): 1,
        ("grpc", "a.B/Get", "INTERNAL", "INTERNAL"): 1,
    }


def test_duration() -> None:
    """A call lasts from its beginning to the moment when it is counted, in seconds."""
    durations = CallDurations(["/a.B/Get"])
    durations.finished(SimpleNamespace(method="/a.B/Get", begun=perf_counter() - 3), StatusCode.OK)
    ((_, reading),) = durations.read()
    assert isinstance(reading, Distribution)
    assert 3 <= reading.total < 4


def test_refused() -> None:
    """Methods that there are not share one series, however many clients make up."""
    durations = CallDurations(["/a.B/Get"])
    for _ in range(3):
        durations.refused(None, StatusCode.UNIMPLEMENTED)
    durations.refused("/a.B/Get", StatusCode.UNIMPLEMENTED)
    assert series(durations) == {
        ("grpc", "a.B/Get", "UNIMPLEMENTED", "UNIMPLEMENTED"): 1,
        ("grpc", "_OTHER", "UNIMPLEMENTED", "UNIMPLEMENTED"): 3,
    }


def test_every_code() -> None:
    """Every code of gRPC has its place."""
    durations = CallDurations(["/a.B/Get"])
    call = SimpleNamespace(method="/a.B/Get", begun=perf_counter())
    for code in StatusCode:
        durations.finished(call, code)
    assert {labels[2] for labels in series(durations)} == {code.name for code in StatusCode}
