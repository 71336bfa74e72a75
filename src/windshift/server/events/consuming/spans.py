"""The spans of deliveries and settlements.

A delivery belongs to its producer's trace and also links to the producer's span, since an event may have many
deliveries. A settlement is a child of its delivery. The span of a delivery lasts from its arrival from NATS
until it is sent to the client; the client's own time is between that span and the settlement's.
"""

from __future__ import annotations

from typing import Final

from windshift import conventions as c
from windshift.nats import NoReply, Outcome
from windshift.nats.jetstream.pulling import TERMINATE
from windshift.server.events.consuming.pending_acks import CommandKind, PendingAck
from windshift.server.events.deliveries import Delivery
from windshift.server.telemetry.tracer import Attributes, Span, Tracer

_SETTLEMENTS: Final = {CommandKind.ACK: c.ACK, CommandKind.REJECT: c.REJECT}


class ConsumeSpans:
    """The spans of one subscription."""

    __slots__ = ("_attributes", "_delivery_name", "_stream", "_tracer")

    def __init__(self, tracer: Tracer, stream: str, consumer: str) -> None:
        self._tracer = tracer
        self._stream = stream
        self._delivery_name = c.span_name(c.DELIVER, stream)
        self._attributes: Attributes = {
            c.MESSAGING_SYSTEM: c.NATS,
            c.DESTINATION_NAME: stream,
            c.CONSUMER_GROUP_NAME: consumer,
        }

    def deliver(self, delivery: Delivery) -> Span | None:
        """Start the span of a delivery; None if its event is not traced."""
        span = self._tracer.follow(c.SpanKind.CLIENT, delivery.trace_parent, delivery.trace_state)
        if span is not None:
            span.name = self._delivery_name
            span.attributes = {
                **self._attributes,
                c.OPERATION_NAME: c.DELIVER,
                c.OPERATION_TYPE: c.RECEIVE,
                c.MESSAGE_ID: str(delivery.id),
                c.MESSAGE_BODY_SIZE: len(delivery.data),
                c.SUBJECT: delivery.subject,
                c.DELIVERY_ATTEMPT: delivery.attempt,
            }
        return span

    def settle(self, pending: PendingAck, delivered: Span) -> None:
        """Start the span of a settlement; pings have none."""
        operation = _SETTLEMENTS.get(pending.confirmation.kind)
        if operation is None:
            return
        span = pending.span = delivered.child(c.SpanKind.CLIENT)
        span.link = delivered.link
        span.name = c.span_name(operation, self._stream)
        span.attributes = {
            **self._attributes,
            c.OPERATION_NAME: operation,
            c.OPERATION_TYPE: c.SETTLE,
            c.MESSAGE_ID: str(pending.seq),
        }
        if operation is c.REJECT:
            span.attributes[c.PERMANENTLY] = pending.payload == TERMINATE


def end_settlement(pending: PendingAck, outcome: Outcome) -> None:
    """End the span of a settlement, if there is one, with the broker's first answer."""
    span = pending.span
    if span is not None:
        pending.span = None
        if isinstance(outcome, NoReply):
            span.fail(outcome.name)
        span.end()
