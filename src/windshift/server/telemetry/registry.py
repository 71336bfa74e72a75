"""The registry of metrics: reads all instruments on demand or periodically.

Nothing happens here while events pass: whoever counts something keeps a plain number, and the registry knows
how to read it.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, NamedTuple

from windshift.server.telemetry.exporter import Exporter
from windshift.server.telemetry.instruments import INSTRUMENTS, Instrument

_log = logging.getLogger(__name__)


class Distribution(NamedTuple):
    """The reading of a histogram.

    Attributes:
        counts: observations per bucket, not cumulative; the last bucket is above all bounds.
        total: the sum of all observations.
    """

    counts: tuple[int, ...]
    total: float


Value = int | float | Distribution
Point = tuple[tuple[str, ...], Value]
"""The values of the labels, and the reading. An empty label does not apply."""

Reader = Callable[[], Iterable[Point]]


class Family(NamedTuple):
    """An instrument and its readings."""

    instrument: Instrument
    points: Sequence[Point]


class Exposition(NamedTuple):
    """The body of a response to a scrape, and its type."""

    content_type: str
    body: bytes


Readings = Sequence[Family]
Collect = Callable[[], Coroutine[Any, Any, Readings]]


_FEW: Final = 4
"""Observations that are counted one by one."""


class Histogram:
    """Observations in buckets. Observing costs about 0.2 µs.

    Args:
        bounds: upper and inclusive, ascending.
    """

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, value: float) -> None:
        """Count an observation."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def observe_since(self, begun_ns: Sequence[int], now_ns: int) -> None:
        """Count how many seconds passed between some times and now, all in nanoseconds since 1970.

        The clocks may differ: less than no time counts as 0.
        """
        if len(begun_ns) > _FEW and self._observe_alike(begun_ns, now_ns):
            return
        counts, bounds, total = self._counts, self._bounds, self._total
        for begun in begun_ns:
            seconds = (now_ns - begun) * 1e-9
            if seconds < 0:
                seconds = 0.0
            counts[bisect_left(bounds, seconds)] += 1
            total += seconds
        self._total = total

    def _observe_alike(self, begun_ns: Sequence[int], now_ns: int) -> bool:
        """Count them at once if all are in one bucket, as those that come together mostly are."""
        first, last = min(begun_ns), max(begun_ns)
        bucket = bisect_left(self._bounds, (now_ns - last) * 1e-9)
        if last > now_ns or bucket != bisect_left(self._bounds, (now_ns - first) * 1e-9):
            return False
        self._counts[bucket] += len(begun_ns)
        self._total += (len(begun_ns) * now_ns - sum(begun_ns)) * 1e-9
        return True

    def read(self) -> Distribution:
        """Return the observations so far."""
        return Distribution(tuple(self._counts), self._total)


class Registry:
    """How to read every instrument.

    Attributes:
        refresh: awaited before reading, to fetch what must be asked for. Must not raise.
    """

    def __init__(self) -> None:
        self._readers: dict[Instrument, Reader] = {}
        self.refresh: list[Callable[[], Awaitable[None]]] = []

    def add(self, instrument: Instrument, read: Reader) -> None:
        """Add an instrument. `read` must be quick and not raise."""
        self._readers[instrument] = read

    def add_number(self, instrument: Instrument, read: Callable[[], float | None]) -> None:
        """Add an instrument without labels; None = no reading."""

        def point() -> Iterable[Point]:
            value = read()
            return () if value is None else (((), value),)

        self._readers[instrument] = point

    async def collect(self) -> list[Family]:
        """Read all instruments, in the order of the table."""
        for refresh in self.refresh:
            await refresh()
        return self.read()

    def read(self) -> list[Family]:
        """Read all instruments without fetching anything."""
        return [
            Family(instrument, list(self._readers[instrument]()))
            for instrument in INSTRUMENTS
            if instrument in self._readers
        ]


class PeriodicReader:
    """Reads all instruments every `interval` seconds, from `start` to `close`, and exports the readings.

    It skips a turn while the last readings are still being sent.
    """

    def __init__(self, queue: Exporter[Readings], collect: Collect, interval: float) -> None:
        self._queue = queue
        self._collect = collect
        self._interval = interval
        self._task: asyncio.Task[None] | None = None

    @property
    def failures(self) -> int:
        """How many exports failed."""
        return self._queue.dropped

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name="metrics")

    async def close(self, timeout: float) -> None:
        """Send the last readings for up to `timeout` seconds, but not to a failing collector."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        in_time = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            if not self._queue.failing:
                try:
                    async with asyncio.timeout_at(deadline):
                        await self._push()
                except TimeoutError:
                    in_time = False
        sent = await asyncio.to_thread(self._queue.close, deadline - loop.time())
        if not (in_time and sent):
            _log.warning("the last metrics were not exported: no time was left")

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            if self._queue.idle:
                await self._push()

    async def _push(self) -> None:
        try:
            self._queue.add(await self._collect())
        except Exception:  # noqa: BLE001 - whatever it is, later ones may be read
            _log.exception("metrics cannot be read; they are not pushed this time")
