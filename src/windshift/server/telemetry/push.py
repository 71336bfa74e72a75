"""Readings pushed to a collector: taken in the event loop, sent by a thread, and never waited for by a call.

The log has one line when pushing begins to fail, and one when that is over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from windshift.server.config import TelemetryConfig
from windshift.server.telemetry.registry import Family
from windshift.server.threads import in_thread

_log = logging.getLogger(__name__)

_SHORTEST_INTERVAL = 0.1

Collect = Callable[[], Coroutine[Any, Any, Sequence[Family]]]


class MetricSender(Protocol):
    """Sends readings to a collector."""

    @property
    def trouble(self) -> str:
        """What went wrong with the readings that were sent last; empty when nothing did."""
        ...

    def send(self, families: Sequence[Family]) -> bool:
        """Send readings, and return whether the collector has them. Blocks, and gives up by itself."""
        ...

    def close(self) -> None:
        """Break off what is under way, as well as that can be done."""
        ...


class Push:
    """Pushes readings every so often, from `start` to `close`.

    Args:
        sender: sends.
        collect: takes readings.
        interval: seconds from one push to the next.

    Attributes:
        failures: pushes that failed.
    """

    def __init__(self, sender: MetricSender, collect: Collect, interval: float) -> None:
        self._sender = sender
        self._collect = collect
        self._interval = interval
        self._task: asyncio.Task[None] | None = None
        self._failing = False
        self.failures = 0

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name="metrics")

    async def close(self, timeout: float) -> None:
        """Push the last readings, for `timeout` seconds at most, and end."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.wait((task,))
        if not self._failing:  # a collector that does not answer now is not waited for
            try:
                async with asyncio.timeout(timeout):
                    await self._push()
            except TimeoutError:
                _log.warning("the last metrics were not exported: no time was left")
        self._sender.close()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            await self._push()

    async def _push(self) -> None:
        families = await self._collect()
        sent = await in_thread(lambda: self._sender.send(families), "windshift-metrics")
        if not sent:
            self.failures += 1
        if not sent and not self._failing:
            _log.warning("metrics cannot be exported: %s", self._sender.trouble or "no reason is known")
        elif sent and self._failing:
            _log.info("metrics are exported again; %d times they were not", self.failures)
        self._failing = not sent


def make_push(config: TelemetryConfig, collect: Collect) -> Push | None:
    """Make what pushes readings, if they are to go anywhere."""
    if config.metrics.endpoint is None:
        return None
    from windshift.server.telemetry.metric_export import OtlpMetricSender  # noqa: PLC0415 - rarely needed

    interval = max(_SHORTEST_INTERVAL, config.metric_interval.total_seconds())
    return Push(OtlpMetricSender(config), collect, interval)
