"""What every server does about dead letters and replays at its start, and periodically.

It sets the limit of the stream of dead letters, and checks whether it is full. It looks for replays whose
notification was lost or whose consumer is gone, and for JetStream consumers of earlier versions.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from windshift.nats import NatsError
from windshift.nats.jetstream.api import JetStream
from windshift.server.domain.errors import BrokerUnavailable, ForbiddenByBroker, WindshiftError
from windshift.server.events.dead_letters.replay_queue import ALL, ReplayQueue
from windshift.server.events.dead_letters.stats import DeadLetterStats
from windshift.server.events.dead_letters.store import DeadLetterStore
from windshift.server.events.model import ConsumerKey
from windshift.server.events.notes import REPLAY, Notes
from windshift.server.events.streams import missing_consumer

log = logging.getLogger(__name__)

LOOK_INTERVAL: Final = 30.0
"""Seconds between two looks at the replays that are outstanding."""
_PAGE: Final = 500
"""Replays that are read at once."""
_PAGES_PER_LOOK: Final = 20
_LOOKS_PER_CLEANING: Final = 20
_MOST_LOOKED_UP: Final = 1_000
"""Consumers that one cleaning looks up; which of them, is up to chance."""


@dataclass(eq=False)
class DeadLetterUpkeep:
    """Keeps dead letters within their limit, tells calls of replays that wait, and ends those of nobody."""

    _store: DeadLetterStore
    _queue: ReplayQueue
    _api: JetStream
    _notes: Notes
    _stats: DeadLetterStats
    _after: int = 0
    _counted: Counter[ConsumerKey] = field(default_factory=Counter)

    async def run(self) -> None:
        """Look at once and every 30 seconds, and clean up every 10 minutes, until this is cancelled."""
        looks, has_limit = 0, False
        while True:
            deadline = asyncio.get_running_loop().time() + LOOK_INTERVAL
            try:
                has_limit = has_limit or await self.limit(deadline)
                consumers = await self.look(deadline)
                if looks % _LOOKS_PER_CLEANING == 0:
                    await self.clean(consumers, deadline)
                looks += 1
            except (WindshiftError, NatsError):
                pass  # it is looked again
            await asyncio.sleep(LOOK_INTERVAL)

    async def limit(self, deadline: float) -> bool:
        """Give the stream of dead letters its limit; return whether it needs not be tried again."""
        try:
            await self._store.stream.apply_limit(deadline)
        except BrokerUnavailable as error:
            return isinstance(error, ForbiddenByBroker)  # which is in the log
        except (WindshiftError, NatsError) as error:
            log.warning("the stream of dead letters keeps its limit: %s", type(error).__name__)
        return True

    async def look(self, deadline: float) -> Collection[ConsumerKey]:
        """Tell this process's calls of their outstanding replays; return the consumers that have some.

        One look reads a bounded number of them, and the next one goes on there.
        """
        usage = await self._store.look_at_usage(deadline)
        self._stats.used(usage.size, usage.limit, is_nearly_full=usage.is_nearly_full)
        seen: set[ConsumerKey] = set()
        for _ in range(_PAGES_PER_LOOK):
            page = await self._queue.page(ALL, self._after, deadline, _PAGE)
            consumers = [ConsumerKey(each.id.stream, each.id.consumer) for each in page.pointers]
            self._counted.update(consumers)
            seen.update(consumers)
            self._after = page.after
            if not self._after:
                self._stats.outstanding, self._counted = self._counted, Counter()
                break
        for consumer in seen:
            self._notes.tell(REPLAY, *consumer)
        return seen

    async def clean(self, consumers: Collection[ConsumerKey], deadline: float) -> None:
        """End the replays of consumers that are gone, and remove what an earlier version left behind."""
        await self._queue.remove_old_consumers(deadline)
        upto = await self._queue.position(deadline)  # what is added from now on was added to another consumer
        for consumer in random.sample(list(consumers), min(len(consumers), _MOST_LOOKED_UP)):
            if await missing_consumer(self._api, consumer, deadline) is not None:
                ended = await self._queue.forget(consumer, upto, deadline)
                names = {"stream": consumer.stream, "consumer": consumer.name, "replays": ended}
                log.info("a consumer is gone: its replays ended, its dead letters stay", extra=names)
