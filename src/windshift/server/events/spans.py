"""The span of a publish."""

from __future__ import annotations

from windshift.nats.jetstream.writes import PubAck
from windshift.server.events.model import PublishRequest
from windshift.server.telemetry import conventions as c
from windshift.server.telemetry.tracer import Span, bounded


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
