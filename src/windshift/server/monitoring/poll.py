"""When JetStream is looked at: on demand, not more often than every few seconds, less often when it fails."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

from windshift.nats import Connection, NatsError, Requests
from windshift.server.monitoring.census import Census, CensusTaker

log = logging.getLogger(__name__)


class Poll:
    """What JetStream holds, asked for when somebody wants to know, and then not again for a while.

    Args:
        connection: the connection to NATS.
        requests: measures the round trip.
        taker: looks at streams and consumers.
        keep: how long a look is good for.
        keep_failure: how long not to look again after one that failed.
        timeout: how long a look may take.

    Attributes:
        census: what the last look found; None when it failed, or there was none.
        round_trip: seconds to NATS and back; None when that is not known.
        failures: looks that failed.
    """

    def __init__(
        self,
        connection: Connection,
        requests: Requests,
        taker: CensusTaker,
        *,
        keep: timedelta = timedelta(seconds=5),
        keep_failure: timedelta = timedelta(seconds=30),
        timeout: timedelta = timedelta(seconds=3),
    ) -> None:
        self._connection = connection
        self._requests = requests
        self._taker = taker
        self._keep = keep.total_seconds()
        self._keep_failure = keep_failure.total_seconds()
        self._timeout = timeout.total_seconds()
        self._good_until = 0.0
        self._looking: asyncio.Task[None] | None = None
        self.census: Census | None = None
        self.round_trip: float | None = None
        self.failures = 0

    def stop(self) -> None:
        """End a look that is under way."""
        if self._looking is not None:
            self._looking.cancel()

    async def refresh(self) -> None:
        """Look, unless what is known is fresh. All who ask meanwhile wait for the same look."""
        loop = asyncio.get_running_loop()
        if not self._connection.connected:
            self.census = self.round_trip = None
            self._good_until = 0.0
            return
        if self._looking is None and loop.time() >= self._good_until:
            self._looking = loop.create_task(self._look())
        if self._looking is not None:
            await asyncio.wait((self._looking,))

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        self.census = None
        try:
            self.round_trip = await self._requests.round_trip(deadline)
            async with asyncio.timeout_at(deadline):
                self.census = await self._taker.take(deadline)
        except (NatsError, TimeoutError) as error:
            log.debug("JetStream could not be looked at: %s", type(error).__name__)
            self.failures += 1
        except Exception:
            log.exception("JetStream could not be looked at")
            self.failures += 1
        finally:
            failed = self.census is None and self._connection.connected
            self._good_until = loop.time() + (self._keep_failure if failed else self._keep)
            self._looking = None
