"""What is recorded of events when they are traced: that they were sent, delivered and settled.

A delivery is a part of its producer's trace, and also links to the producer's span, since many deliveries may
come of one. A settlement is a part of the delivery that it settles. The span of a delivery lasts from the
arrival from NATS until the event is on its way to the client; how long the client takes is the time between
that span and the one of the settlement.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from windshift.nats import NoReply, Outcome
from windshift.nats.jetstream import TERMINATE, PubAck
from windshift.server.events.consuming.session import Errand, Kind
from windshift.server.events.deliveries import Delivery
from windshift.server.events.model import PublishRequest
from windshift.server.telemetry import conventions as c
from windshift.server.telemetry.tracer import Attributes, Span, Tracer, bounded

_SETTLEMENTS: Final = {Kind.ACK: c.ACK, Kind.REJECT: c.REJECT}


def describe_publish(span: Span, request: PublishRequest) -> None:
    """Note what is being published. Nothing of it was checked yet."""
    span.name = c.SEND
    span.attributes = {
        c.MESSAGING_SYSTEM: c.NATS,
        c.OPERATION_NAME: c.SEND,
        c.OPERATION_TYPE: c.SEND,
        c.SUBJECT: bounded(request.subject),
        c.MESSAGE_BODY_SIZE: len(request.body),
    }


def describe_ack(span: Span, ack: PubAck) -> None:
    """Note where the event is stored."""
    span.name = c.span_name(c.SEND, ack.stream)
    span.attributes[c.DESTINATION_NAME] = ack.stream
    span.attributes[c.MESSAGE_ID] = str(ack.sequence)
    if ack.duplicate:
        span.attributes[c.DUPLICATE] = True


class ConsumeSpans:
    """The spans of one subscription.

    Args:
        tracer: begins spans.
        stream: the stream's name.
        consumer: the consumer's name.
    """

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
        """Begin the span of a delivery that arrived; None when its event is not traced."""
        span = self._tracer.follow(c.Kind.CLIENT, delivery.trace_parent, delivery.trace_state)
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

    def settle(self, errand: Errand, delivered: Span) -> None:
        """Begin the span of a settlement; a ping is none."""
        operation = _SETTLEMENTS.get(errand.confirmation.kind)
        if operation is None:
            return
        span = errand.span = delivered.child(c.Kind.CLIENT)
        span.link = delivered.link
        span.name = c.span_name(operation, self._stream)
        span.attributes = {
            **self._attributes,
            c.OPERATION_NAME: operation,
            c.OPERATION_TYPE: c.SETTLE,
            c.MESSAGE_ID: str(errand.seq),
        }
        if operation is c.REJECT:
            span.attributes[c.PERMANENTLY] = errand.payload == TERMINATE


def end_settlement(errand: Errand, outcome: Outcome) -> None:
    """End the span of a settlement, if there is one, with the broker's first answer."""
    span = errand.span
    if span is not None:
        errand.span = None
        if isinstance(outcome, NoReply):
            span.fail(outcome.name)
        span.end()


def end_unanswered(errands: Iterable[Errand]) -> None:
    """End the spans of settlements that the broker did not answer in time."""
    for errand in errands:
        end_settlement(errand, NoReply.TIMED_OUT)
