"""How long events take to reach the clients of a consumer, and to be settled by them.

Every consumer has histograms of its own, up to a number of consumers; those that come later share one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from windshift.server.events.model import ConsumerKey
from windshift.server.telemetry.instruments import DELIVERY_LATENCY, EPHEMERAL, OTHERS, SETTLEMENT_LATENCY
from windshift.server.telemetry.registry import Histogram

_OTHERS: Final = ConsumerKey(OTHERS, OTHERS)

MOST_CONSUMERS: Final = 200
"""Consumers that have a series of their own."""


class ConsumerLatency:
    """What the clients of one consumer at this server experience.

    Attributes:
        delivery: seconds from when an event was stored to when a client was handed it for the first time.
        settlement: seconds from when an event was stored to when the broker confirmed that it had ended.
        expired: deliveries that were neither settled nor prolonged in time.
        stalls: times that a client did not read what it was sent.
    """

    __slots__ = ("delivery", "expired", "settlement", "stalls")

    def __init__(self) -> None:
        self.delivery = Histogram(DELIVERY_LATENCY.bounds)
        self.settlement = Histogram(SETTLEMENT_LATENCY.bounds)
        self.expired = self.stalls = 0


class Latencies:
    """Those of all consumers that have, or had, clients at this server.

    A consumer keeps its series as long as the process runs: whoever reads counters takes one that goes back,
    or counts of another that come to it, for something that happened. So that nobody takes all places, an
    owner who has as many as are left gets no more: one alone has half at most.
    """

    def __init__(self, most: int = MOST_CONSUMERS) -> None:
        self._most = most
        self._others = ConsumerLatency()
        self._series: dict[ConsumerKey, ConsumerLatency] = {}
        self._owned: Counter[str] = Counter()

    def of(self, consumer: ConsumerKey, *, durable: bool, owner: str) -> ConsumerLatency:
        """Return what counts for a client of a consumer. Consumers without a name share their stream's.

        `owner` is the principal that owns it; empty where that is not known, as without rules.
        """
        key = consumer if durable else ConsumerKey(consumer.stream, EPHEMERAL)
        latency = self._series.get(key)
        if latency is None:
            left = self._most - len(self._series)
            if left <= 0 or (owner and self._owned[owner] >= left):
                return self._others
            latency = self._series[key] = ConsumerLatency()
            self._owned[owner] += 1
        return latency

    def items(self) -> Iterator[tuple[ConsumerKey, ConsumerLatency]]:
        """Yield all series."""
        yield from self._series.items()
        yield _OTHERS, self._others
