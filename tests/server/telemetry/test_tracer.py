"""Spans: their ids, contexts and parents."""

from __future__ import annotations

import pytest

from windshift.conventions import SpanKind
from windshift.server.config.telemetry import SamplerConfig
from windshift.server.domain.errors import UnboundSubject
from windshift.server.telemetry.propagation import UNRECORDED, TraceContext, read_trace_context
from windshift.server.telemetry.tracer import Sampler, Span, Tracer, current_span

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Recorded(list[Span]):
    """The spans that a tracer finished."""

    def tracer(self, *, parent_based: bool = True, ratio: float = 1.0) -> Tracer:
        return Tracer(Sampler(SamplerConfig(parent_based, ratio)), self.append)


def parent(flags: str = "01", state: str = "a=b") -> TraceContext:
    """Give a caller's context."""
    return TraceContext(f"00-{TRACE}-{CALLER}-{flags}", state)


def test_part_of_the_callers_trace() -> None:
    """A recorded operation has its caller's trace and state, and a context of its own."""
    recorded = Recorded()
    span = recorded.tracer().start(SpanKind.PRODUCER, parent())
    assert span is not None
    assert (span.trace_id, span.parent_id, span.remote, span.state) == (TRACE, CALLER, True, "a=b")
    assert span.context == (f"00-{TRACE}-{span.span_id}-01", "a=b")
    assert recorded == []
    span.end()
    assert recorded == [span]
    assert span.started <= span.ended


def test_first_of_a_trace() -> None:
    """Without a caller's context a new trace begins, whose id is random by its flags."""
    span = Recorded().tracer().start(SpanKind.SERVER, None)
    assert span is not None
    assert (span.parent_id, span.remote, span.flags) == ("", False, "03")
    assert read_trace_context(*span.context) == span.context
    assert Recorded().tracer(ratio=0.0).start(SpanKind.SERVER, None) is None


@pytest.mark.parametrize(("flags", "own"), [("01", "01"), ("03", "03"), ("ff", "03"), ("fd", "01")])
def test_flags(flags: str, own: str) -> None:
    """Of the caller's flags only those that the standard knows are passed on."""
    span = Recorded().tracer().start(SpanKind.SERVER, parent(flags))
    assert span is not None
    assert span.flags == own


def test_unsampled_is_nothing() -> None:
    """A caller's trace that is not sampled makes no span."""
    assert Recorded().tracer().start(SpanKind.SERVER, parent("00")) is None
    assert Recorded().tracer().start(SpanKind.SERVER, parent("02")) is None


@pytest.mark.parametrize("parent_based", [True, False])
def test_a_part_of_what_is_not_recorded(*, parent_based: bool) -> None:
    """It is not recorded either, though there is no trace that says so."""
    assert Recorded().tracer(parent_based=parent_based).start(SpanKind.PRODUCER, UNRECORDED) is None


def test_a_later_versions_parent() -> None:
    """What a later version of the standard adds is not passed on."""
    later = TraceContext(f"cc-{TRACE}-{CALLER}-01-more")
    span = Recorded().tracer().start(SpanKind.SERVER, later)
    assert span is not None
    assert span.context.parent == f"00-{TRACE}-{span.span_id}-01"


def test_following_an_event() -> None:
    """What is done with an event is a part of its producer's trace, and links to it."""
    span = Recorded().tracer().follow(SpanKind.CLIENT, parent().parent, "a=b")
    assert span is not None
    assert (span.trace_id, span.parent_id, span.link) == (TRACE, CALLER, parent())
    child = span.child(SpanKind.CLIENT)
    assert (child.trace_id, child.parent_id, child.remote, child.state) == (TRACE, span.span_id, False, "a=b")


@pytest.mark.parametrize("parent_based", [True, False])
@pytest.mark.parametrize("text", [None, "", "x", "1" * 55, "x" * 55, f"00-{'0' * 32}-{CALLER}-01", "é" * 60])
def test_nothing_to_follow(text: str | None, *, parent_based: bool) -> None:
    """An event without a trace, or with a header that is none, starts none either."""
    assert Recorded().tracer(parent_based=parent_based).follow(SpanKind.CLIENT, text, None) is None


def test_failures() -> None:
    """A span that is left by an error has the error's type; others the name of what nobody expected."""
    for error, name in ((UnboundSubject("x"), "UNBOUND_SUBJECT"), (KeyError("x"), "KeyError")):
        span = Recorded().tracer().start(SpanKind.SERVER, None)
        assert span is not None
        with pytest.raises(type(error)), span:
            raise error
        assert current_span.get() is span
        assert (span.error, span.attributes["error.type"]) == (name, name)
        assert span.ended
