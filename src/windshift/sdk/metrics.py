"""Metrics of consuming, in programs that measure: OpenTelemetry's API alone, the extra `otel`."""

from __future__ import annotations

import sys

from windshift import conventions as c

from .deliveries import Verdict

_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60, 300)
"""Those of the semantic conventions, and three for handlers that take long."""


class Metrics:
    """Records what a subscription does, with the program's meter provider. The names are the server's."""

    def __init__(self, stream: str, consumer: str) -> None:
        from opentelemetry import metrics  # noqa: PLC0415 -- only programs that measure have it

        meter = metrics.get_meter(c.CLIENT_SCOPE, schema_url=c.SCHEMA_URL)
        self._attributes = {
            c.MESSAGING_SYSTEM: c.WINDSHIFT,
            c.DESTINATION_NAME: stream,
            c.CONSUMER_GROUP_NAME: consumer,
        }
        self._delivered = meter.create_counter(
            "messaging.client.consumed.messages", "{message}", "Events handed to the program"
        )
        self._duration = meter.create_histogram(
            "messaging.process.duration",
            "s",
            "Duration of handlers",
            explicit_bucket_boundaries_advisory=_BOUNDS,
        )
        self._in_flight = meter.create_up_down_counter(
            "windshift.client.in_flight", "{message}", "Events that are being handled"
        )
        self._settlements = meter.create_counter(
            "windshift.client.settlements", "{message}", "Verdicts on events, by outcome"
        )
        self._leases_lost = meter.create_counter(
            "windshift.client.leases_lost", "{message}", "Events that were settled too late"
        )
        self._reconnects = meter.create_counter(
            "windshift.client.reconnects", "{call}", "Consume calls that followed one that broke"
        )

    def began(self) -> None:
        """Count an event that is handed to a handler or to who iterates."""
        self._delivered.add(1, self._attributes)
        self._in_flight.add(1, self._attributes)

    def ended(self) -> None:
        """Count that an event is not handled any more."""
        self._in_flight.add(-1, self._attributes)

    def decided(self, verdict: Verdict) -> None:
        """Count what became of an event."""
        outcome = {c.OUTCOME: verdict.outcome.name.lower()}
        self._settlements.add(1, self._attributes | outcome)

    def handled(self, seconds: float, error: BaseException | None) -> None:
        """Record how long a handler took, and what it raised."""
        kind = {} if error is None else {c.ERROR_TYPE: type(error).__qualname__}
        self._duration.record(seconds, self._attributes | kind)

    def lost(self) -> None:
        """Count an event that somebody else has, or will have."""
        self._leases_lost.add(1, self._attributes)

    def reconnected(self) -> None:
        """Count a call behind one that broke."""
        self._reconnects.add(1, self._attributes)


def metrics(stream: str, consumer: str) -> Metrics | None:
    """Return what records, if the program has imported OpenTelemetry's API for metrics: then it measures."""
    return Metrics(stream, consumer) if "opentelemetry.metrics" in sys.modules else None
