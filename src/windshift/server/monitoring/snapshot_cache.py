"""The latest snapshot of JetStream: taken on demand, every few seconds at most, rarely after a failure.

Whoever asks waits for a new one, but not as long as one may take where leaders are away.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Final

from windshift.nats import NatsError, Requests, Unavailable
from windshift.server.monitoring.snapshot import Snapshot, SnapshotCollector

log = logging.getLogger(__name__)

_ROUND_TRIP: Final = 2.5
"""Seconds that a server has to echo before it is asked more. Who waits for a snapshot sees if it does not."""
_LATE: Final = 0.5
"""Seconds after its deadline at which a snapshot is cut off: it ends by itself with what it has by then."""
_LONG_AGO: Final = 120.0
"""Seconds for which a snapshot that is not good any more may be shown while the next one is taken."""


class SnapshotCache:
    """Keeps a snapshot for a while.

    Args:
        requests: measures the round trip.
        collector: takes snapshots.
        keep: how long a snapshot is good for.
        keep_failure: how long to wait after a failure.
        timeout: how long a snapshot may take: two lists that a cluster gives when it has waited for leaders.
        max_wait: how long to wait for a snapshot: much less than Prometheus does.

    Attributes:
        snapshot: the latest one, also while the next one is taken. None after a failure, before the first, or
            when it is of long ago.
        round_trip: seconds to NATS and back; None = unknown.
        failures: how many snapshots failed.
    """

    def __init__(
        self,
        requests: Requests,
        collector: SnapshotCollector,
        *,
        keep: timedelta = timedelta(seconds=5),
        keep_failure: timedelta = timedelta(seconds=30),
        timeout: timedelta = timedelta(seconds=9),
        max_wait: timedelta = timedelta(seconds=3),
    ) -> None:
        self._connection = requests.connection
        self._requests = requests
        self._collector = collector
        self._keep = keep.total_seconds()
        self._keep_failure = keep_failure.total_seconds()
        self._timeout = timeout.total_seconds()
        self._max_wait = max_wait.total_seconds()
        self._good_until = 0.0
        self._running: asyncio.Task[None] | None = None
        self.snapshot: Snapshot | None = None
        self.round_trip: float | None = None
        self.failures = 0

    def stop(self) -> None:
        """Cancel a snapshot that is being taken."""
        if self._running is not None:
            self._running.cancel()

    async def refresh(self) -> None:
        """Take a snapshot unless the latest is fresh. Concurrent callers share one.

        One that takes long goes on without them.
        """
        loop = asyncio.get_running_loop()
        if not self._connection.connected:
            self.snapshot = self.round_trip = None
            self._good_until = 0.0
            return
        if self._running is None and loop.time() >= self._good_until:
            if loop.time() >= self._good_until + _LONG_AGO:
                self.snapshot = None
            self._running = loop.create_task(self._run())
        if self._running is not None:
            await asyncio.wait((self._running,), timeout=self._max_wait)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        snapshot: Snapshot | None = None
        try:
            snapshot = await self._take(loop.time())
        except (NatsError, TimeoutError) as error:
            log.debug("no snapshot of JetStream: %s", type(error).__name__)
            self.failures += 1
        except Exception:
            log.exception("no snapshot of JetStream")
            self.failures += 1
        finally:
            self.snapshot = snapshot
            failed = snapshot is None and self._connection.connected
            self._good_until = loop.time() + (self._keep_failure if failed else self._keep)
            self._running = None

    async def _take(self, now: float) -> Snapshot:
        deadline = now + self._timeout
        self.round_trip = await self._requests.round_trip(min(deadline, now + _ROUND_TRIP))
        if self.round_trip is None:
            raise Unavailable
        async with asyncio.timeout_at(deadline + _LATE):
            return await self._collector.collect(deadline)
