"""Exporting readings: when, and what a collector that fails costs."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence

import pytest

from windshift.server.config.telemetry import BatchConfig
from windshift.server.telemetry import instruments as i
from windshift.server.telemetry.exporter import Exporter
from windshift.server.telemetry.registry import Collect, Family, PeriodicReader, Readings
from windshift.server.telemetry.signals import METRICS

READINGS = [Family(i.PUBLISHED, [((), 1)])]


class Collector:
    """A collector. While `open` is clear, sending takes its time."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[bool] = asyncio.Queue()
        self.works = True
        self.open = threading.Event()
        self.open.set()
        self.closed = False
        self.trouble = ""
        self._loop = asyncio.get_running_loop()

    def send(self, batch: Sequence[Readings]) -> bool:
        assert batch == [READINGS]
        self.open.wait(10)
        works = self.works
        self.trouble = "" if works else "nobody is there"
        if not self.closed:  # else the test, and its loop, may be over
            self._loop.call_soon_threadsafe(self.sent.put_nowait, works)
        return works

    def close(self) -> None:
        self.closed = True
        self.open.set()


async def collect() -> list[Family]:
    """Take readings."""
    return READINGS


def reader(collector: Collector, interval: float, collect: Collect = collect) -> PeriodicReader:
    """Make what exports the readings to this collector."""
    queue = Exporter(collector, BatchConfig(queue_size=1, batch_size=1), METRICS)
    return PeriodicReader(queue, collect, interval)


async def test_pushes_and_says_the_last_word() -> None:
    """Readings are pushed every so often, and once more at the end."""
    collector = Collector()
    push = reader(collector, 0.001)
    push.start()
    for _ in range(3):
        assert await collector.sent.get()
    await push.close(10)
    assert not collector.sent.empty()
    assert collector.closed
    assert push.failures == 0


async def test_readings_that_fail(caplog: pytest.LogCaptureFixture) -> None:
    """Those after them are pushed; the log says what happened."""
    fails = iter([True, False, True])

    async def failing() -> list[Family]:
        if next(fails, False):
            raise ValueError("no reading")
        return READINGS

    collector = Collector()
    push = reader(collector, 0.001, failing)
    push.start()
    async with asyncio.timeout(30):
        for _ in range(2):
            assert await collector.sent.get()
    await push.close(10)
    assert caplog.text.count("ValueError: no reading") == 2


async def test_the_last_word_fails(caplog: pytest.LogCaptureFixture) -> None:
    """The end goes on without it."""

    async def failing() -> list[Family]:
        raise ValueError("no reading")

    collector = Collector()
    push = reader(collector, 3600, failing)
    push.start()
    await push.close(10)
    assert collector.closed
    assert caplog.text.count("ValueError: no reading") == 1


async def test_only_the_last_word() -> None:
    """A server that ends before the first push was due pushes once."""
    collector = Collector()
    push = reader(collector, 3600)
    push.start()
    await push.close(10)
    assert collector.sent.qsize() == 1


async def test_trouble_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Failures are counted; the log has a line when they begin and one when they end."""
    caplog.set_level(logging.INFO)
    collector = Collector()
    collector.works = False
    push = reader(collector, 0.001)
    push.start()
    for _ in range(3):
        await collector.sent.get()
    collector.works = True
    for _ in range(2):  # the second is sent when the first is known to have arrived
        while not await collector.sent.get():
            pass
    await push.close(10)
    logged = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert logged == [
        ("WARNING", "metrics cannot be exported: nobody is there"),
        ("INFO", f"metrics are exported again; {push.failures} times they were not"),
    ]
    assert push.failures >= 3


async def test_failing_collector_gets_no_last_word(caplog: pytest.LogCaptureFixture) -> None:
    """A collector that failed just now is not asked again at the end, and nothing more is logged."""
    collector = Collector()
    collector.works = False
    push = reader(collector, 0.001)
    push.start()
    while push.failures < 2:
        await collector.sent.get()
    async with asyncio.timeout(30):
        await push.close(60)
    assert [record.getMessage() for record in caplog.records] == [
        "metrics cannot be exported: nobody is there"
    ]


async def test_hanging_collector_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    """The end comes in time, whatever the collector does."""
    collector = Collector()
    collector.open.clear()
    push = reader(collector, 0.001)
    push.start()
    async with asyncio.timeout(30):
        await push.close(0.05)
    assert collector.closed
    assert "the last metrics were not exported: no time was left" in caplog.text


async def test_never_started() -> None:
    """A server that could not start has nothing to push."""
    collector = Collector()
    await reader(collector, 1).close(1)
    assert collector.sent.empty()
    assert collector.closed
