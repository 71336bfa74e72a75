"""Spans of publishing and handling, in a program that traces."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import windshift as ws
from windshift import conventions as c
from windshift.protos import test

Text = test.StringValue


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Record the spans of clients that are made from now on."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return exporter


def named(spans: InMemorySpanExporter, start: str) -> list[ReadableSpan]:
    """Return the finished spans whose names begin like this."""
    return [span for span in spans.get_finished_spans() if span.name.startswith(start)]


async def test_handling_is_below_publishing(
    server: str, unique: Callable[[], str], spans: InMemorySpanExporter
) -> None:
    """A publish has a span; each attempt to handle its event has one below it, linked to it."""
    space, inside = unique(), []

    async def handle(delivery: ws.Delivery[Text]) -> None:
        inside.append(trace.get_current_span().get_span_context().span_id)
        if delivery.event.attempt == 1:
            raise OSError("not now")

    async with ws.connect(server, namespace=space) as client:
        stream = await client.streams.ensure("traced", subjects=["traced.>"])
        retry = ws.RetryPolicy(max_attempts=3, initial=0.01)
        consumer = await stream.consumers.ensure("reader", start=ws.START, retry=retry)
        async with consumer.running(handle):
            receipt = await client.publish("traced.a", Text(value="x"))
            await consumer.idle(30.0)
    (publish,) = named(spans, "publish")
    first, second = named(spans, "process")
    assert publish.kind is SpanKind.CLIENT
    assert publish.attributes is not None
    assert publish.attributes[c.MESSAGE_ID] == str(receipt.id) == "1"
    assert publish.attributes[c.SUBJECT] == f"{space}.traced.a"
    assert publish.context is not None
    for attempt, span in enumerate((first, second), 1):
        assert span.name == f"process {space}-traced"
        assert span.kind is SpanKind.CONSUMER
        assert span.parent is not None
        assert span.parent.span_id == publish.context.span_id
        assert [link.context.span_id for link in span.links] == [publish.context.span_id]
        assert span.attributes is not None
        assert span.attributes[c.DELIVERY_ATTEMPT] == attempt
    assert first.status.status_code is StatusCode.ERROR
    assert first.attributes is not None
    assert first.attributes[c.ERROR_TYPE] == "OSError"
    assert second.status.status_code is StatusCode.UNSET
    assert inside == [span.context.span_id for span in (first, second) if span.context]


async def test_a_publish_that_fails(server: str, spans: InMemorySpanExporter) -> None:
    """The span of a publish that fails has the reason; one within another span is its child."""
    async with ws.connect(server) as traced:
        outer = trace.get_tracer("program").start_span("outer")
        with trace.use_span(outer), pytest.raises(ws.UnboundSubject):
            await traced.publish("nowhere.at.all", Text())
    (publish,) = named(spans, "publish")
    assert publish.parent is not None
    assert publish.parent.span_id == outer.get_span_context().span_id
    assert publish.status.status_code is StatusCode.ERROR
    assert publish.attributes is not None
    assert publish.attributes[c.ERROR_TYPE] == "UNBOUND_SUBJECT"


async def test_threads_have_the_span(
    server: str, unique: Callable[[], str], spans: InMemorySpanExporter
) -> None:
    """A handler that is a plain function runs in a thread, within its span."""
    inside = []

    def handle(delivery: ws.Delivery[Text]) -> None:
        inside.append(trace.get_current_span().get_span_context().span_id)

    async with ws.connect(server, namespace=unique()) as client:
        stream = await client.streams.ensure("traced", subjects=["traced.>"])
        consumer = await stream.consumers.ensure("reader", start=ws.START)
        async with consumer.running(handle):
            await client.publish("traced.a", Text(value="x"))
            await consumer.idle(30.0)
    (process,) = named(spans, "process")
    assert process.context is not None
    assert inside == [process.context.span_id]
