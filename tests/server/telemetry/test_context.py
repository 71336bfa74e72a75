"""W3C trace context: what is taken along and what is dropped."""

from __future__ import annotations

import pytest
from opentelemetry.trace import TraceState

from windshift.server.telemetry.propagation import read_trace_context

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    "parent", [PARENT, f"cc-{TRACE}-{SPAN}-00", f"cc-{TRACE}-{SPAN}-01-what.comes.later"]
)
def test_parents_taken(parent: str) -> None:
    """A well-formed parent of this or a later version is taken as it is."""
    assert read_trace_context(parent, "") == (parent, "")


@pytest.mark.parametrize(
    "parent",
    [
        "",
        PARENT.upper(),
        PARENT + "-more",
        PARENT + " ",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01.bad",
        f"cc-{TRACE}-{SPAN}-01-" + "x" * 600,
    ],
)
def test_parents_dropped(parent: str) -> None:
    """Without a well-formed parent there is no context, whatever the state says."""
    assert read_trace_context(parent, "vendor=value") is None


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        ("vendor=value", True),
        (" a=1 , t@v=x y,,b=2 ", True),
        ("1@v=x", True),
        ("1" * 241 + "@" + "v" * 14 + "=x", True),
        ("a" * 256 + "=x", True),
        ("a=" + "x" * 256, True),
        (",".join(f"k{number}=v" for number in range(32)), True),
        (",".join(f"k{number}=v" for number in range(33)), False),
        ("a=" + "x" * 600, False),
        ("no value", False),
        ("A=1", False),
        ("1rojo=1", False),
        ("a@@b=1", False),
        ("tenant@1x=1", False),
        ("a@" + "b" * 20 + "=1", False),
        ("a=1=2", False),
        ("a=é", False),
        ("a=1\r\nInjected: x", False),
    ],
)
def test_states(state: str, caplog: pytest.LogCaptureFixture, *, kept: bool) -> None:
    """A malformed state is dropped and the parent stays; of none OpenTelemetry's exporter would warn."""
    context = read_trace_context(PARENT, state)
    assert context == (PARENT, state.strip() if kept else "")
    assert bool(TraceState.from_header([context.state])) == kept
    assert caplog.records == []
