"""How often JetStream is looked at."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from tests.support.broker import Broker
from tests.support.nats_server import NatsServer
from windshift.nats import Unavailable
from windshift.server.monitoring.census import Census, CensusTaker
from windshift.server.monitoring.poll import Poll

NEVER, ALWAYS = timedelta(hours=1), timedelta(0)


class CountingTaker(CensusTaker):
    """Counts how often it looks; while `failure` is set a look fails."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(broker.api)
        self.looks = 0
        self.failure: Exception | None = None
        self.looking = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    async def take(self, deadline: float) -> Census:
        self.looks += 1
        self.looking.set()
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        return await super().take(deadline)


def poll(broker: Broker, taker: CensusTaker, **options: timedelta) -> Poll:
    """Make a poll."""
    return Poll(broker.connection, broker.requests, taker, **options)


async def test_fresh_looks_are_kept(broker: Broker) -> None:
    """Who asks soon after gets what was seen before."""
    taker = CountingTaker(broker)
    kept = poll(broker, taker, keep=NEVER)
    for _ in range(3):
        await kept.refresh()
    assert taker.looks == 1
    assert kept.census is not None
    assert kept.round_trip is not None
    assert 0 < kept.round_trip < 5


async def test_old_looks_are_not(broker: Broker) -> None:
    """Who asks later makes another look."""
    taker = CountingTaker(broker)
    kept = poll(broker, taker, keep=ALWAYS)
    for _ in range(3):
        await kept.refresh()
    assert taker.looks == 3


async def test_one_look_at_a_time(broker: Broker) -> None:
    """Who asks during a look waits for that one; giving up does not end it for others."""
    taker = CountingTaker(broker)
    taker.open.clear()
    kept = poll(broker, taker, keep=ALWAYS)
    tasks = [asyncio.create_task(kept.refresh()) for _ in range(3)]
    await taker.looking.wait()
    tasks[0].cancel()
    taker.open.set()
    await asyncio.gather(*tasks[1:])
    assert taker.looks == 1
    assert kept.census is not None


async def test_failures(broker: Broker) -> None:
    """A look that fails is counted, shows nothing old, and is not repeated at once."""
    taker = CountingTaker(broker)
    kept = poll(broker, taker, keep=ALWAYS, keep_failure=NEVER)
    await kept.refresh()
    for failure in (Unavailable(), ValueError("what is this?")):
        taker.failure = failure
        kept = poll(broker, taker, keep=ALWAYS, keep_failure=NEVER)
        await kept.refresh()
        await kept.refresh()
        assert kept.failures == 1
        assert kept.census is None


async def test_slow_looks_end(broker: Broker) -> None:
    """A look has its time, and fails when that is over."""
    taker = CountingTaker(broker)
    taker.open.clear()
    kept = poll(broker, taker, timeout=timedelta(milliseconds=20))
    await kept.refresh()
    assert (kept.failures, kept.census) == (1, None)


async def test_stop(broker: Broker) -> None:
    """A look that is under way at the end does not go on."""
    taker = CountingTaker(broker)
    taker.open.clear()
    kept = poll(broker, taker)
    task = asyncio.create_task(kept.refresh())
    await taker.looking.wait()
    kept.stop()
    async with asyncio.timeout(1):
        await task
    kept.stop()


async def test_without_nats(own_broker: Broker, own_nats_server: NatsServer) -> None:
    """Without a connection nothing is asked, and nothing old is shown."""
    taker = CountingTaker(own_broker)
    kept = poll(own_broker, taker, keep=NEVER)
    await kept.refresh()
    own_nats_server.kill()
    await own_broker.lost()
    await kept.refresh()
    assert (kept.census, kept.round_trip, kept.failures) == (None, None, 0)
    own_nats_server.start()
    async with asyncio.timeout(10):
        while not own_broker.connection.connected:  # noqa: ASYNC110 - `on_connected` is for the code under test
            await asyncio.sleep(0.005)
    await kept.refresh()
    assert kept.census is not None
    assert taker.looks == 2
