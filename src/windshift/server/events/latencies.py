"""How long events take to reach the clients of a consumer, and to be settled by them.

Every consumer has histograms of its own, up to a number of consumers; those beyond share one.
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

    def add(self, other: ConsumerLatency) -> None:
        """Count what another one has counted, too."""
        self.delivery.add(other.delivery)
        self.settlement.add(other.settlement)
        self.expired += other.expired
        self.stalls += other.stalls


class Latencies:
    """Those of all consumers that have, or had, clients at this server.

    When there are too many, the consumer that has been without a client for longest loses its series to that
    of the others; where all have clients, a new one gets none.
    """

    def __init__(self, most: int = MOST_CONSUMERS) -> None:
        self._most = most
        self._others = ConsumerLatency()
        self._series: dict[ConsumerKey, ConsumerLatency] = {}
        self._clients: Counter[ConsumerKey] = Counter()

    def attach(self, consumer: ConsumerKey, *, durable: bool) -> ConsumerLatency:
        """Return what counts for a client; `detach` has to follow.

        Consumers without a name share their stream's.
        """
        key = _series_key(consumer, durable=durable)
        latency = self._of(key)
        if latency is not self._others:
            self._clients[key] += 1
        return latency

    def detach(self, consumer: ConsumerKey, latency: ConsumerLatency, *, durable: bool) -> None:
        """Count a client no more that `attach` gave this."""
        if latency is self._others:
            return
        key = _series_key(consumer, durable=durable)
        self._clients[key] -= 1
        if not self._clients[key]:
            del self._clients[key]
            self._series[key] = self._series.pop(key)  # to the end: it is the one that left last

    def _of(self, key: ConsumerKey) -> ConsumerLatency:
        latency = self._series.get(key)
        if latency is not None:
            return latency
        if len(self._series) >= self._most:
            left = next((each for each in self._series if each not in self._clients), None)
            if left is None:
                return self._others
            self._others.add(self._series.pop(left))
        latency = self._series[key] = ConsumerLatency()
        return latency

    def items(self) -> Iterator[tuple[ConsumerKey, ConsumerLatency]]:
        """Yield all series."""
        yield from self._series.items()
        yield _OTHERS, self._others


def _series_key(consumer: ConsumerKey, *, durable: bool) -> ConsumerKey:
    return consumer if durable else ConsumerKey(consumer.stream, EPHEMERAL)
