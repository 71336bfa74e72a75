"""Counters of what happened to events since the start.

Counting is an addition where it happens; the metrics read the sums. Only latencies depend on what clients
choose, names of consumers, and there is a bounded number of these.
"""

from __future__ import annotations

from collections.abc import Sized
from typing import Final

from windshift.server.domain import errors
from windshift.server.events.latencies import Latencies

CANCELLED: Final = "CANCELLED"
UNEXPECTED: Final = "INTERNAL"

PUBLISH_FAILURES: Final = (
    errors.InvalidField.reason,
    errors.UnboundSubject.reason,
    errors.WrongLastId.reason,
    errors.EventTooLarge.reason,
    errors.StreamFull.reason,
    errors.StorageFull.reason,
    errors.TooManyInFlight.reason,
    errors.BrokerUnavailable.reason,
    errors.OutcomeUnknown.reason,
    CANCELLED,
    UNEXPECTED,
)
"""Why publishes fail. They are counted from zero, so that the first one is seen as an increase."""


class Counts:
    """The numbers of one server.

    Attributes:
        published: events that JetStream stored; without ids, also those that it had stored before.
        duplicates: publishes whose key had been stored before.
        failures: publishes that failed, not denied ones, by reason: one of the domain's, `CANCELLED` or
            `UNEXPECTED`.
        delivered: deliveries handed to clients.
        redelivered: those among them that were not the first of their event.
        acknowledged: deliveries whose settlement JetStream has stored.
        rejected: the same, rejected.
        terminated: the same, rejected for good.
        prolonged: pings that JetStream has stored.
        released: deliveries that went back because their call ended.
        lingered: deliveries that are kept for a while for a client whose call was cut off.
        resumed: deliveries that a client went on with in another call.
        failed: ids that JetStream did not answer for in time.
        invalid: ids that the client did not hold.
        latencies: how long events take, by consumer.
        holdings: what each client that is attached now holds.
    """

    def __init__(self) -> None:
        self.published = self.duplicates = 0
        self.failures = dict.fromkeys(PUBLISH_FAILURES, 0)
        self.delivered = self.redelivered = 0
        self.acknowledged = self.rejected = self.terminated = self.prolonged = 0
        self.lingered = self.resumed = 0
        self.released = self.failed = self.invalid = 0
        self.latencies = Latencies()
        self.holdings: set[Sized] = set()

    def publish_failed(self, error: BaseException) -> None:
        """Count a publish that ended with an error, unless it was denied: that is counted where it is."""
        if isinstance(error, errors.PermissionDenied | errors.QuotaExceeded):
            return
        if isinstance(error, errors.WindshiftError):
            reason = error.reason
        else:
            reason = UNEXPECTED if isinstance(error, Exception) else CANCELLED
        self.failures[reason] = self.failures.get(reason, 0) + 1

    @property
    def in_flight(self) -> int:
        """How many deliveries clients hold now."""
        return sum(map(len, self.holdings))

    @property
    def expired(self) -> int:
        """Deliveries that were neither settled nor prolonged in time."""
        return sum(latency.expired for _, latency in self.latencies.items())
