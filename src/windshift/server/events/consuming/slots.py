"""Room for deliveries that wait: rejects with a delay hold places of the consumer until the delay is over.

JetStream lets a consumer have ``max_ack_pending`` deliveries unsettled, and one that was rejected with a
delay counts among them. When many wait for long, nothing else would be delivered any more: so the number is
raised in time. No I/O, no clock.
"""

from __future__ import annotations

from math import inf
from typing import Final

from windshift.nats.jetstream import ConsumerState
from windshift.server.events.consumers import MAX_ACK_PENDING

LONG_NS: Final = 1_000_000_000
"""Delays from here on are watched."""

OFTEN: Final = 1_000
"""Delayed rejects after which the consumer is looked at without waiting for `INTERVAL`."""

INTERVAL: Final = 5.0
"""Seconds between two looks."""

GROWTH: Final = 4
MOST: Final = 1_000_000
"""What ``max_ack_pending`` is raised to at most."""


class Slots:
    """When to look whether a consumer has enough places.

    Attributes:
        due: when `look` has something to do.
    """

    __slots__ = ("_count", "_until", "due")

    def __init__(self) -> None:
        self.due = inf
        self._until = -inf
        self._count = 0

    def reject(self, delay_ns: int, now: float) -> None:
        """Note a reject with a delay."""
        if delay_ns < LONG_NS:
            return
        self._until = max(self._until, now + delay_ns / 1e9)
        self._count += 1
        self.due = min(self.due, now if self._count % OFTEN == 0 else now + INTERVAL)

    def look(self, now: float) -> bool:
        """Whether the consumer is to be looked at now."""
        if now < self.due:
            return False
        self.due = now + INTERVAL if self._until > now else inf
        return True


def enough_slots(state: ConsumerState) -> int | None:
    """Return what a consumer's ``max_ack_pending`` should be raised to; None when there is no need.

    One that is smaller than what consumers are made with was chosen by somebody, and stays.
    """
    most = int(state.config.get("max_ack_pending") or 0)
    if not MAX_ACK_PENDING <= most < MOST or state.unsettled * 2 < most:
        return None
    return min(most * GROWTH, MOST)
