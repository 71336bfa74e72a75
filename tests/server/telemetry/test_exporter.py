"""The queues between a process and its collectors: bounds, batches, counts, and what is logged."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta

import pytest

from tests.support.windshift_process import wait_for
from windshift.server.config.telemetry import BatchConfig
from windshift.server.telemetry.exporter import Exporter
from windshift.server.telemetry.signals import SPANS

SOON, LATE = timedelta(milliseconds=5), timedelta(hours=1)


class Collector:
    """A collector that can be held and broken."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.trouble = ""
        self.broken = False
        self.free = threading.Event()
        self.free.set()
        self.entered = threading.Event()

    def send(self, batch: Sequence[int]) -> bool:
        self.entered.set()
        self.free.wait(20)
        self.batches.append(len(batch))
        self.trouble = "it is broken" if self.broken else ""
        return not self.broken

    def close(self) -> None:
        self.free.set()


class StuckCollector(Collector):
    """A collector that nothing can be made to let go of."""

    def close(self) -> None:
        pass


class SlowCollector(Collector):
    """A collector that takes one batch each time that it is let to."""

    def send(self, batch: Sequence[int]) -> bool:
        sent = super().send(batch)
        self.free.clear()
        return sent


@contextmanager
def exporting(
    collector: Collector, delay: timedelta = SOON, queue_size: int = 100, batch_size: int = 10
) -> Iterator[Exporter[int]]:
    """Export to this collector for as long as the block lasts."""
    queue = Exporter(collector, BatchConfig(delay, queue_size, batch_size), SPANS)
    try:
        yield queue
    finally:
        queue.close(1)


def add(queue: Exporter[int], count: int) -> None:
    """Queue so many items."""
    for number in range(count):
        queue.add(number)


def test_a_few_items_leave_after_the_delay() -> None:
    """Items that fill no batch are sent when the delay is over."""
    with exporting(Collector()) as queue:
        add(queue, 3)
        wait_for(lambda: queue.exported == 3)


def test_a_full_batch_leaves_at_once() -> None:
    """As many items as fill a batch are sent without waiting, and no batch is larger."""
    collector = Collector()
    with exporting(collector, LATE) as queue:
        add(queue, 25)
        wait_for(lambda: queue.exported >= 20)
    assert sum(collector.batches) == 25
    assert max(collector.batches) <= 10


def test_a_slow_collector_costs_items_only(caplog: pytest.LogCaptureFixture) -> None:
    """What the queue cannot hold is dropped and counted, and logged once."""
    caplog.set_level(logging.INFO)
    collector = Collector()
    collector.free.clear()
    with exporting(collector) as queue:
        add(queue, 10)
        collector.entered.wait(5)
        started = time.monotonic()
        add(queue, 500)
        assert time.monotonic() - started < 30
        assert queue.dropped >= 400
        collector.free.set()
        wait_for(lambda: queue.exported + queue.dropped == 510)
        add(queue, 1)
        wait_for(lambda: "exported again" in caplog.text)
    lost = [record for record in caplog.records if "being lost" in record.message]
    assert [record.levelname for record in lost] == ["WARNING"]
    assert "OTEL_BSP_MAX_QUEUE_SIZE" in caplog.text


def test_a_broken_collector_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Batches that cannot be sent are dropped; the log says when that begins and when it ends."""
    caplog.set_level(logging.INFO)
    collector = Collector()
    collector.broken = True
    with exporting(collector) as queue:
        for total in range(1, 6):
            add(queue, 1)
            wait_for(lambda total=total: queue.dropped == total)  # type: ignore[misc]
        collector.broken = False
        add(queue, 1)
        wait_for(lambda: queue.exported == 1)
    assert [record.message for record in caplog.records] == [
        "spans are being lost: it is broken",
        "spans are exported again; 5 were lost",
    ]


def test_closing_sends_what_waits() -> None:
    """What was queued before the end is sent, in the time that there is."""
    with exporting(Collector(), LATE) as queue:
        add(queue, 7)
    assert (queue.exported, queue.dropped) == (7, 0)


def test_closing_waits_for_a_slow_collector() -> None:
    """What waits is sent to a collector that takes it, though some was lost because it is slow."""
    collector = SlowCollector()
    collector.free.clear()
    with ThreadPoolExecutor() as pool, exporting(collector) as queue:
        add(queue, 10)
        collector.entered.wait(20)
        add(queue, 500)
        lost = queue.dropped
        assert lost >= 400
        collector.free.set()
        wait_for(lambda: queue.failing)
        closing = pool.submit(queue.close, 60)

        def let_go() -> bool:
            collector.free.set()
            return closing.done()

        wait_for(let_go)
        assert closing.result()
        assert (queue.exported, queue.dropped) == (510 - lost, lost)


def test_closing_waits_no_longer_than_it_may(caplog: pytest.LogCaptureFixture) -> None:
    """A collector that does not answer does not hold up the end; the items are counted as lost."""
    collector = StuckCollector()
    collector.free.clear()
    queue = Exporter(collector, BatchConfig(LATE, 100, 10), SPANS)
    add(queue, 15)
    collector.entered.wait(5)
    started = time.monotonic()
    assert not queue.close(0.1)
    assert time.monotonic() - started < 30
    assert [record.message for record in caplog.records] == ["5 spans were not exported"]
    collector.free.set()


def test_closing_does_not_wait_for_a_broken_collector() -> None:
    """A collector that failed just now is not waited for at the end."""
    collector = Collector()
    collector.broken = True
    with exporting(collector) as queue:
        add(queue, 1)
        wait_for(lambda: queue.dropped == 1)
        add(queue, 50)
        started = time.monotonic()
        queue.close(60)
        assert time.monotonic() - started < 30
    assert queue.dropped == 51


def test_a_batch_is_never_larger_than_the_queue() -> None:
    """A queue that holds less than a batch is exported when it is full."""
    with exporting(Collector(), LATE, queue_size=5, batch_size=10) as queue:
        add(queue, 5)
        wait_for(lambda: queue.exported == 5)


def test_the_thread_ends_with_the_queue() -> None:
    """Nothing runs any more after the end."""
    queue = Exporter(Collector(), BatchConfig(LATE), SPANS)
    queue.close(5)
    wait_for(lambda: "windshift telemetry" not in [thread.name for thread in threading.enumerate()])


def test_a_stuck_collector_holds_up_no_other_signal() -> None:
    """Signals with different collectors fail by themselves."""
    stuck = Collector()
    stuck.free.clear()
    with exporting(stuck, batch_size=1) as held, exporting(Collector()) as queue:
        add(held, 1)
        stuck.entered.wait(5)
        add(queue, 1)
        assert queue.close(5)
        assert (queue.exported, held.exported) == (1, 0)
