"""Where a call's trace context is found."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from windshift.server.telemetry.propagation import extractor

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{CALLER}-01"


class Call:
    """A call's headers."""

    def __init__(self, headers: Mapping[str, str] | None = None, **more: str) -> None:
        self.fields = {name.encode(): value.encode() for name, value in {**(headers or {}), **more}.items()}

    def header(self, name: bytes) -> str:
        return self.fields.get(name, b"").decode()


def test_w3c() -> None:
    """The default is the W3C's context; baggage carries none."""
    for names in (
        ("tracecontext",),
        ("tracecontext", "baggage"),
        ("baggage", "tracecontext", "tracecontext"),
    ):
        extract = extractor(names)
        assert extract(Call(traceparent=PARENT, tracestate="a=b")) == (PARENT, "a=b")
        assert extract(Call()) is None
        assert extract(Call(traceparent="x", tracestate="a=b")) is None


@pytest.mark.parametrize("names", [("none",), ("baggage",), ("none", "baggage")])
def test_none(names: tuple[str, ...]) -> None:
    """Without a propagator of traces callers' contexts are not looked at."""
    assert extractor(names)(Call(traceparent=PARENT)) is None


class OtherPropagator(TraceContextTextMapPropagator):
    """Reads the same from other headers."""

    _TRACEPARENT_HEADER_NAME = "X-Parent"
    _TRACESTATE_HEADER_NAME = "X-State"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that a package with a propagator is installed."""
    group = "opentelemetry_propagator"
    points = [EntryPoint("other", f"{__name__}:OtherPropagator", group)]

    def entry_points(**wanted: Any) -> EntryPoints:
        return EntryPoints(points).select(**wanted)

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)


@pytest.mark.usefixtures("installed")
def test_installed_propagators() -> None:
    """A propagator that is installed is used; of several the last that finds a context counts."""
    extract = extractor(("other",))
    assert extract(Call({"x-parent": PARENT, "x-state": "a=b"})) == (PARENT, "a=b")
    assert extract(Call(traceparent=PARENT)) is None
    both = extractor(("tracecontext", "other"))
    later = PARENT.replace(CALLER, CALLER[::-1])
    assert both(Call({"traceparent": PARENT, "x-parent": later})) == (later, "")
    assert both(Call(traceparent=PARENT)) == (PARENT, "")
    with pytest.raises(LookupError):
        extractor(("pigeon",))
