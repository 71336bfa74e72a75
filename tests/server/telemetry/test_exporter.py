"""The queues between a process and its collectors: bounds, batches, counts, turns, and what is logged."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import pytest

from tests.support.windshift_process import wait_for
from windshift.server.config import BatchConfig
from windshift.server.telemetry.exporter import Exporter, ExportQueue
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


class Witness(Collector):
    """A collector that notes how many batches another one had before."""

    def __init__(self, other: Collector) -> None:
        super().__init__()
        self.before: list[int] = []
        self._other = other

    def send(self, batch: Sequence[int]) -> bool:
        self.before.append(len(self._other.batches))
        return super().send(batch)


class StuckCollector(Collector):
    """A collector that nothing can be made to let go of."""

    def close(self) -> None:
        pass


@contextmanager
def exporting(
    collector: Collector, delay: timedelta = SOON, queue_size: int = 100, batch_size: int = 10
) -> Iterator[ExportQueue[int]]:
    """Export to this collector for as long as the block lasts."""
    queue = Exporter().open(collector, BatchConfig(delay, queue_size, batch_size), SPANS)
    try:
        yield queue
    finally:
        queue.close(1)


def add(queue: ExportQueue[int], count: int) -> None:
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
        assert time.monotonic() - started < 5
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


def test_closing_waits_no_longer_than_it_may(caplog: pytest.LogCaptureFixture) -> None:
    """A collector that does not answer does not hold up the end; the items are counted as lost."""
    collector = StuckCollector()
    collector.free.clear()
    queue = Exporter().open(collector, BatchConfig(LATE, 100, 10), SPANS)
    add(queue, 15)
    collector.entered.wait(5)
    started = time.monotonic()
    assert not queue.close(0.1)
    assert time.monotonic() - started < 5
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
        assert time.monotonic() - started < 5
    assert queue.dropped == 51


def exporting_threads() -> list[threading.Thread]:
    """Return the threads of exporters."""
    return [thread for thread in threading.enumerate() if thread.name == "windshift telemetry"]


def test_one_thread_for_all_signals() -> None:
    """All queues share one thread, which ends with the last of them and begins anew with the next."""
    wait_for(lambda: not exporting_threads())
    exporter, config = Exporter(), BatchConfig(SOON)
    assert exporting_threads() == []
    for _ in range(2):
        queues = [exporter.open(Collector(), config, SPANS) for _ in range(3)]
        assert len(exporting_threads()) == 1
        for queue in queues:
            add(queue, 1)
            queue.close(5)
        assert [queue.exported for queue in queues] == [1, 1, 1]
        wait_for(lambda: not exporting_threads())


def test_signals_take_turns() -> None:
    """A signal with more than can be sent does not keep others from their collector."""
    busy = Collector()
    witness = Witness(busy)
    exporter = Exporter()
    flood = exporter.open(busy, BatchConfig(LATE, 10_000, 1), SPANS)
    queue = exporter.open(witness, BatchConfig(LATE, 10, 1), SPANS)
    busy.free.clear()
    add(flood, 5_000)
    busy.entered.wait(5)
    add(queue, 1)
    busy.free.set()
    wait_for(lambda: queue.exported == 1)
    assert witness.before[0] <= 2
    flood.close(5)
    queue.close(5)


def test_a_stuck_collector_is_let_go_when_its_signal_ends() -> None:
    """Closing a signal aborts what is being sent, and the others go on."""
    stuck = Collector()
    exporter, config = Exporter(), BatchConfig(SOON, 10, 1)
    held, queue = exporter.open(stuck, config, SPANS), exporter.open(Collector(), config, SPANS)
    stuck.free.clear()
    add(held, 1)
    stuck.entered.wait(5)
    add(queue, 1)
    assert not held.close(0.05)
    wait_for(lambda: queue.exported == 1)
    queue.close(5)
