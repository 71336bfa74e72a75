"""Which traces are recorded, compared with OpenTelemetry's own samplers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.context import Context
from opentelemetry.sdk.trace import sampling
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from windshift.server.config.telemetry import SamplerConfig
from windshift.server.telemetry.tracer import Sampler

PAIRS = [
    (SamplerConfig(parent_based=False, ratio=1.0), sampling.ALWAYS_ON),
    (SamplerConfig(parent_based=False, ratio=0.0), sampling.ALWAYS_OFF),
    (SamplerConfig(parent_based=False, ratio=0.3), sampling.TraceIdRatioBased(0.3)),
    (SamplerConfig(parent_based=True, ratio=1.0), sampling.DEFAULT_ON),
    (SamplerConfig(parent_based=True, ratio=0.0), sampling.DEFAULT_OFF),
    (SamplerConfig(parent_based=True, ratio=0.3), sampling.ParentBasedTraceIdRatio(0.3)),
]
IDS = ["on", "off", "ratio", "parent-on", "parent-off", "parent-ratio"]


def wants(sampler: sampling.Sampler, parent: Context | None, trace_id: int) -> bool:
    """Ask one of OpenTelemetry's samplers."""
    return sampler.should_sample(parent, trace_id, "name").decision is sampling.Decision.RECORD_AND_SAMPLE


@pytest.mark.parametrize(("config", "reference"), PAIRS, ids=IDS)
@given(trace_id=st.integers(1, 2**128 - 1), flags=st.integers(0, 255))
def test_continued_traces(
    config: SamplerConfig, reference: sampling.Sampler, trace_id: int, flags: int
) -> None:
    """A trace from outside is recorded when OpenTelemetry's sampler would record it."""
    context = SpanContext(trace_id, 1, is_remote=True, trace_flags=TraceFlags(flags))
    parent: Context = set_span_in_context(NonRecordingSpan(context))
    expected = wants(reference, parent, trace_id)
    assert Sampler(config).continues(f"00-{trace_id:032x}-{1:016x}-{flags:02x}") is expected


@pytest.mark.parametrize(("config", "reference"), PAIRS, ids=IDS)
def test_new_traces(config: SamplerConfig, reference: sampling.Sampler) -> None:
    """New traces get random ids, and as many are recorded as the share says."""
    sampler = Sampler(config)
    begun = [trace_id for _ in range(2000) if (trace_id := sampler.begins()) is not None]
    assert len(set(begun)) == len(begun)
    assert len(begun) == pytest.approx(2000 * config.ratio, abs=200)
    for trace_id in begun:
        assert len(trace_id) == 32
        assert wants(reference, None, int(trace_id, 16))
