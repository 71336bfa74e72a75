"""The queue between spans and a collector: bounds, batches, counts and what is logged."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import pytest

from tests.support.windshift_process import wait_for
from windshift.server.config import BatchConfig, SamplerConfig
from windshift.server.telemetry.conventions import SpanKind
from windshift.server.telemetry.span_export import SpanExport
from windshift.server.telemetry.tracer import Sampler, Span, Tracer

SOON, LATE = timedelta(milliseconds=5), timedelta(hours=1)


class Sender:
    """A collector that can be held and broken."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.trouble = ""
        self.broken = False
        self.free = threading.Event()
        self.free.set()
        self.entered = threading.Event()

    def send(self, spans: Sequence[Span]) -> bool:
        self.entered.set()
        self.free.wait(20)
        self.batches.append(len(spans))
        self.trouble = "it is broken" if self.broken else ""
        return not self.broken

    def close(self) -> None:
        self.free.set()


@contextmanager
def exporting(
    sender: Sender, delay: timedelta = SOON, queue_size: int = 100, batch_size: int = 10
) -> Iterator[SpanExport]:
    """Export to this sender for as long as the block lasts."""
    export = SpanExport(sender, BatchConfig(delay, queue_size, batch_size))
    try:
        yield export
    finally:
        export.close(1)


def finish(export: SpanExport, count: int) -> None:
    """Finish so many spans."""
    tracer = Tracer(Sampler(SamplerConfig()), export.add)
    for _ in range(count):
        span = tracer.start(SpanKind.SERVER, None)
        assert span is not None
        span.end()


def test_a_few_spans_leave_after_the_delay() -> None:
    """Spans that fill no batch are sent when the delay is over."""
    sender = Sender()
    with exporting(sender) as export:
        finish(export, 3)
        wait_for(lambda: export.exported == 3)


def test_a_full_batch_leaves_at_once() -> None:
    """As many spans as fill a batch are sent without waiting, and no batch is larger."""
    sender = Sender()
    with exporting(sender, LATE) as export:
        finish(export, 25)
        wait_for(lambda: export.exported >= 20)
    assert sum(sender.batches) == 25
    assert max(sender.batches) <= 10


def test_a_slow_collector_costs_spans_only(caplog: pytest.LogCaptureFixture) -> None:
    """What the queue cannot hold is dropped and counted, and said once."""
    caplog.set_level(logging.INFO)
    sender = Sender()
    sender.free.clear()
    with exporting(sender) as export:
        finish(export, 10)
        sender.entered.wait(5)
        started = time.monotonic()
        finish(export, 500)
        assert time.monotonic() - started < 5
        assert export.waiting <= 100
        assert export.dropped >= 400
        sender.free.set()
        wait_for(lambda: export.exported + export.dropped == 510)
        finish(export, 1)
        wait_for(lambda: "exported again" in caplog.text)
    lost = [record for record in caplog.records if "being lost" in record.message]
    assert [record.levelname for record in lost] == ["WARNING"]
    assert "OTEL_BSP_MAX_QUEUE_SIZE" in caplog.text


def test_a_broken_collector_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Batches that cannot be sent are dropped; the log says when that begins and when it ends."""
    caplog.set_level(logging.INFO)
    sender = Sender()
    sender.broken = True
    with exporting(sender) as export:
        for total in range(1, 6):
            finish(export, 1)
            wait_for(lambda total=total: export.dropped == total)  # type: ignore[misc]
        sender.broken = False
        finish(export, 1)
        wait_for(lambda: export.exported == 1)
    assert [record.message for record in caplog.records] == [
        "spans are being lost: it is broken",
        "spans are exported again; 5 were lost",
    ]


def test_closing_sends_what_waits() -> None:
    """What was finished before the end is sent, in the time that there is."""
    sender = Sender()
    with exporting(sender, LATE) as export:
        finish(export, 7)
    assert (export.exported, export.dropped) == (7, 0)


def test_closing_waits_no_longer_than_it_may(caplog: pytest.LogCaptureFixture) -> None:
    """A collector that does not answer does not hold up the end; the spans are counted as lost."""
    sender = Sender()
    sender.free.clear()
    sender.close = lambda: None  # type: ignore[method-assign]
    export = SpanExport(sender, BatchConfig(LATE, 100, 10))
    finish(export, 15)
    sender.entered.wait(5)
    started = time.monotonic()
    export.close(0.1)
    assert time.monotonic() - started < 5
    assert "5 spans were not exported" in caplog.text
    sender.free.set()


def test_closing_does_not_wait_for_a_broken_collector() -> None:
    """A collector that failed just now is not waited for at the end."""
    sender = Sender()
    sender.broken = True
    with exporting(sender) as export:
        finish(export, 1)
        wait_for(lambda: export.dropped == 1)
        sender.entered.clear()
        finish(export, 50)
        started = time.monotonic()
        export.close(60)
        assert time.monotonic() - started < 5
    assert export.dropped == 51
