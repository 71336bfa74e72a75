"""How often JetStream is looked at."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from tests.support.broker import Broker
from tests.support.nats_server import NatsServer
from windshift.nats import Unavailable
from windshift.server.monitoring import snapshot_cache
from windshift.server.monitoring.snapshot import Snapshot, SnapshotCollector
from windshift.server.monitoring.snapshot_cache import SnapshotCache

NEVER, ALWAYS = timedelta(hours=1), timedelta(0)


class CountingCollector(SnapshotCollector):
    """Counts how often it looks; while `failure` is set a look fails."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(broker.api)
        self.looks = 0
        self.failure: Exception | None = None
        self.looking = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    async def collect(self, deadline: float) -> Snapshot:
        self.looks += 1
        self.looking.set()
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        return await super().collect(deadline)


def cached(broker: Broker, collector: SnapshotCollector, **options: timedelta) -> SnapshotCache:
    """Make a cache; on a busy machine a look may take longer than it may, and than anybody waits."""
    options = {"timeout": timedelta(seconds=30), "max_wait": timedelta(seconds=60)} | options
    return SnapshotCache(broker.requests, collector, **options)


async def test_fresh_looks_are_kept(broker: Broker) -> None:
    """Who asks soon after gets what was seen before."""
    collector = CountingCollector(broker)
    kept = cached(broker, collector, keep=NEVER)
    for _ in range(3):
        await kept.refresh()
    assert collector.looks == 1
    assert kept.snapshot is not None
    assert kept.round_trip is not None
    assert 0 < kept.round_trip < 5


async def test_old_looks_are_not(broker: Broker) -> None:
    """Who asks later makes another look."""
    collector = CountingCollector(broker)
    kept = cached(broker, collector, keep=ALWAYS)
    for _ in range(3):
        await kept.refresh()
    assert collector.looks == 3


async def test_one_look_at_a_time(broker: Broker) -> None:
    """Who asks during a look waits for that one; giving up does not end it for others."""
    collector = CountingCollector(broker)
    collector.open.clear()
    kept = cached(broker, collector, keep=ALWAYS)
    tasks = [asyncio.create_task(kept.refresh()) for _ in range(3)]
    await collector.looking.wait()
    tasks[0].cancel()
    collector.open.set()
    await asyncio.gather(*tasks[1:])
    assert collector.looks == 1
    assert kept.snapshot is not None


async def test_nobody_waits_long(broker: Broker) -> None:
    """Who asks during a long look is shown what was seen before, unless that look fails at last."""
    collector = CountingCollector(broker)
    kept = cached(broker, collector, keep=ALWAYS, keep_failure=NEVER, max_wait=timedelta(0))
    async with asyncio.timeout(30):
        while kept.snapshot is None:
            await kept.refresh()
        seen = kept.snapshot
        collector.looking.clear()
        collector.open.clear()
        await kept.refresh()
        await collector.looking.wait()
        await kept.refresh()
        assert kept.snapshot is seen
        collector.failure = Unavailable()
        collector.open.set()
        while kept.failures == 0:
            await kept.refresh()
    assert kept.snapshot is None


async def test_looks_of_long_ago(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not shown during a long look."""
    collector = CountingCollector(broker)
    kept = cached(broker, collector, keep=ALWAYS, max_wait=timedelta(0))
    async with asyncio.timeout(30):
        while kept.snapshot is None:
            await kept.refresh()
        collector.open.clear()
        monkeypatch.setattr(snapshot_cache, "_LONG_AGO", 0.0)
        await kept.refresh()
    shown = kept.snapshot
    kept.stop()
    assert shown is None


async def test_failures(broker: Broker) -> None:
    """A look that fails is counted, shows nothing old, and is not repeated at once."""
    collector = CountingCollector(broker)
    kept = cached(broker, collector, keep=ALWAYS, keep_failure=NEVER)
    await kept.refresh()
    for failure in (Unavailable(), ValueError("what is this?")):
        collector.failure = failure
        kept = cached(broker, collector, keep=ALWAYS, keep_failure=NEVER)
        await kept.refresh()
        await kept.refresh()
        assert kept.failures == 1
        assert kept.snapshot is None


async def test_slow_looks_end(broker: Broker) -> None:
    """A look has its time, and fails when that is over."""
    collector = CountingCollector(broker)
    collector.open.clear()
    kept = cached(broker, collector, timeout=timedelta(milliseconds=20))
    await kept.refresh()
    assert (kept.failures, kept.snapshot) == (1, None)


async def test_looks_that_end_late(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a look was told until its time was over is shown, also a moment later."""
    collector = CountingCollector(broker)

    async def echo(deadline: float) -> float:
        return 0.001

    async def late(deadline: float) -> Snapshot:
        await asyncio.sleep(0.02)
        return Snapshot()

    monkeypatch.setattr(broker.requests, "round_trip", echo)
    monkeypatch.setattr(collector, "collect", late)
    monkeypatch.setattr(snapshot_cache, "_LATE", 30.0)
    kept = cached(broker, collector, timeout=timedelta(0))
    await kept.refresh()
    assert kept.snapshot is not None


async def test_stop(broker: Broker) -> None:
    """A look that is under way at the end does not go on."""
    collector = CountingCollector(broker)
    collector.open.clear()
    kept = cached(broker, collector)
    task = asyncio.create_task(kept.refresh())
    await collector.looking.wait()
    kept.stop()
    async with asyncio.timeout(30):
        await task
    kept.stop()


async def test_without_nats(own_broker: Broker, own_nats_server: NatsServer) -> None:
    """Without a connection nothing is asked, and nothing old is shown."""
    collector = CountingCollector(own_broker)
    kept = cached(own_broker, collector, keep=NEVER)
    await kept.refresh()
    own_nats_server.kill()
    await own_broker.lost()
    await kept.refresh()
    assert (kept.snapshot, kept.round_trip, kept.failures) == (None, None, 0)
    own_nats_server.start()
    async with asyncio.timeout(30):
        while not own_broker.connection.connected:  # noqa: ASYNC110 - `on_connected` is for the code under test
            await asyncio.sleep(0.005)
    await kept.refresh()
    assert kept.snapshot is not None
    assert collector.looks == 2
