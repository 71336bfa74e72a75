"""Pushing readings: when, and what a collector that fails costs."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence

import pytest

from windshift.server.telemetry import instruments as i
from windshift.server.telemetry.push import Push
from windshift.server.telemetry.registry import Family

READINGS = [Family(i.PUBLISHED, [((), 1)])]


class FakeSender:
    """A collector's end. While `open` is clear, sending takes its time."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[bool] = asyncio.Queue()
        self.works = True
        self.open = threading.Event()
        self.open.set()
        self.closed = False
        self.trouble = "nobody is there"
        self._loop = asyncio.get_running_loop()

    def send(self, families: Sequence[Family]) -> bool:
        assert families == READINGS
        self.open.wait(10)
        works = self.works
        if not self.closed:  # else the test, and its loop, may be over
            self._loop.call_soon_threadsafe(self.sent.put_nowait, works)
        return works

    def close(self) -> None:
        self.closed = True
        self.open.set()


async def collect() -> list[Family]:
    """Take readings."""
    return READINGS


async def test_pushes_and_says_the_last_word() -> None:
    """Readings are pushed every so often, and once more at the end."""
    sender = FakeSender()
    push = Push(sender, collect, 0.001)
    push.start()
    for _ in range(3):
        assert await sender.sent.get()
    await push.close(10)
    assert not sender.sent.empty()
    assert sender.closed
    assert push.failures == 0


async def test_only_the_last_word() -> None:
    """A server that ends before the first push was due pushes once."""
    sender = FakeSender()
    push = Push(sender, collect, 3600)
    push.start()
    await push.close(10)
    assert sender.sent.qsize() == 1


async def test_trouble_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Failures are counted; the log has a line when they begin and one when they end."""
    caplog.set_level(logging.INFO, "windshift.server.telemetry.push")
    sender = FakeSender()
    sender.works = False
    push = Push(sender, collect, 0.001)
    push.start()
    for _ in range(3):
        await sender.sent.get()
    sender.works = True
    for _ in range(2):  # the second is sent when the first is known to have arrived
        while not await sender.sent.get():
            pass
    await push.close(10)
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in told] == ["WARNING", "INFO"]
    assert "nobody is there" in told[0][1]
    assert push.failures >= 3


async def test_hanging_collector_is_not_waited_for() -> None:
    """The end comes in time, whatever the collector does; a failing one is not asked again."""
    sender = FakeSender()
    sender.open.clear()
    push = Push(sender, collect, 0.001)
    push.start()
    async with asyncio.timeout(5):
        await push.close(0.05)
    assert sender.closed


async def test_never_started() -> None:
    """A server that could not start has nothing to push."""
    sender = FakeSender()
    await Push(sender, collect, 1).close(1)
    assert sender.sent.empty()
