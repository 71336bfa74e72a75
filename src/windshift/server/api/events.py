"""``EventsService``: each method converts the request, calls the domain and converts the result."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb
from windshift._gen.windshift.payload.v1 import payload_pb2
from windshift._gen.windshift.test.v1 import test_pb2
from windshift.rpc import ServerCall
from windshift.server.admin.subscriptions import Subscriptions
from windshift.server.api.callers import admission_of, caller_of
from windshift.server.api.consume import consume
from windshift.server.api.deadlines import answer_by
from windshift.server.api.policies import MOST_EVENTS
from windshift.server.api.publishing import publish_atomic, publish_each, publish_stream, read_publish
from windshift.server.api.streams import read_consumer, read_stream, read_which_consumer
from windshift.server.auth.access import require_of
from windshift.server.auth.actions import DeleteConsumer, UseConsumer
from windshift.server.domain import names
from windshift.server.domain.errors import InvalidField
from windshift.server.events import headers
from windshift.server.events.consumers import Consumers, ConsumerView
from windshift.server.events.consuming.interfaces import ConsumeOptions
from windshift.server.events.consuming.shared import Shared
from windshift.server.events.model import PublishReceipt
from windshift.server.events.publishing import Publishing
from windshift.server.events.streams import Streams
from windshift.server.telemetry.propagation import UNRECORDED, Extract
from windshift.server.telemetry.tracer import current_span

EVENTS = pb.DESCRIPTOR.services_by_name["EventsService"]
PAYLOADS = (payload_pb2.DESCRIPTOR, test_pb2.DESCRIPTOR)
"""The files of our own messages that events and values hold, for tools that ask what they look like."""


@dataclass(frozen=True, slots=True)
class EventsService:
    """Streams, consumers, publishing and consuming."""

    _streams: Streams
    _consumers: Consumers
    _publishing: Publishing
    _shared: Shared
    _consume_options: ConsumeOptions
    _subscriptions: Subscriptions
    _extract: Extract
    _stored: pb.PublishEventResponse = field(default_factory=pb.PublishEventResponse, init=False)

    async def ensure_stream(
        self, request: pb.EnsureStreamRequest, call: ServerCall
    ) -> pb.EnsureStreamResponse:
        """Create or update a stream."""
        await self._streams.ensure(read_stream(request), answer_by(call), caller_of(call))
        return pb.EnsureStreamResponse()

    async def ensure_consumer(
        self, request: pb.EnsureConsumerRequest, call: ServerCall
    ) -> pb.EnsureConsumerResponse:
        """Create or update a consumer."""
        name = await self._consumers.ensure(read_consumer(request), answer_by(call), caller_of(call))
        return pb.EnsureConsumerResponse(id=name)

    async def get_consumer(self, request: pb.GetConsumerRequest, call: ServerCall) -> pb.GetConsumerResponse:
        """Say what a consumer is."""
        stream, consumer = read_which_consumer(request)
        found = await self._consumers.get(stream, consumer, answer_by(call))
        _require(call, found, UseConsumer)
        return consumer_response(found)

    async def delete_consumer(
        self, request: pb.DeleteConsumerRequest, call: ServerCall
    ) -> pb.DeleteConsumerResponse:
        """Delete a consumer."""
        stream, consumer = read_which_consumer(request)
        if names.is_generated(consumer) and caller_of(call) is not None:
            found = await self._consumers.get(stream, consumer, answer_by(call))
            _require(call, found, DeleteConsumer)
        await self._consumers.delete(stream, consumer, answer_by(call))
        return pb.DeleteConsumerResponse()

    def publish_event(self, request: pb.PublishEventRequest, call: ServerCall) -> None:
        """Store an event; in a task only where more is to be done than to send it and take the answer."""
        try:
            caller = None if call.state is None else caller_of(call)  # calls cost on the hot path
            asker = call.peer if caller is None else caller.name
            event = read_publish(request, self._extract(call), caller, asker)
        except InvalidField as error:
            self._publishing.one.failed(error)
            raise
        now = headers.at(call.connection.received_ns)
        call.on_cancel = self._publishing.one.begin(event, now, answer_by(call), call, self._published)

    def _published(self, receipt: PublishReceipt) -> pb.PublishEventResponse:
        """Return the response, which is to be sent at once: most are the same object, which is cheaper."""
        seq, duplicate = receipt
        if duplicate:
            return pb.PublishEventResponse(id=seq, duplicate=True)
        self._stored.id = seq
        return self._stored

    async def publish_batch(
        self, request: pb.PublishBatchRequest, call: ServerCall
    ) -> pb.PublishBatchResponse:
        """Store several events: each for itself, or all or none."""
        events, span = request.events, current_span.get()
        trace = (self._extract(call) or UNRECORDED) if span is None else span.context
        if not 1 <= len(events) <= MOST_EVENTS:
            raise InvalidField("events", f"must have 1 to {MOST_EVENTS} elements")
        admission = admission_of(call)
        if admission is not None:
            admission.count_calls(len(events) - 1)
        if request.atomic:
            return await publish_atomic(events, trace, call, self._publishing.atomic)
        return await publish_each(events, trace, call, self._publishing.many)

    async def publish_stream(self, call: ServerCall) -> None:
        """Store events as they come."""
        await publish_stream(call, self._extract, self._publishing.many)

    async def events(self, call: ServerCall) -> None:
        """Deliver events and take their acknowledgements."""
        await consume(call, self._shared, self._consume_options, self._subscriptions)

    # The same RPCs, under the names that the documentation for users has
    publish = publish_event
    consume = events


def _require(call: ServerCall, found: ConsumerView, action: type[UseConsumer | DeleteConsumer]) -> None:
    """Ask for the right to a consumer by what it is: its name may look like a generated one."""
    caller = caller_of(call)
    if caller is not None:
        name = caller.consumer_in_rules(found.id, durable=found.durable, owner=found.owner)
        require_of(caller, action(found.stream, name))


def consumer_response(view: ConsumerView) -> pb.GetConsumerResponse:
    """Write what a consumer is."""
    policy = view.retry_policy
    return pb.GetConsumerResponse(
        stream=view.stream,
        id=view.id,
        durable=view.durable,
        subjects=view.subjects,
        processing_timeout=_duration(view.processing_timeout),
        pending=view.pending,
        unsettled=view.unsettled,
        settled_to=view.settled_to,
        dead_letters=view.dead_letters,
        retry_policy=pb.RetryPolicy(
            max_attempts=policy.max_attempts,
            initial_backoff=_duration(policy.initial_backoff),
            max_backoff=_duration(policy.max_backoff),
            backoff_multiplier=policy.multiplier,
            jitter=policy.jitter,
            dead_letters=policy.dead_letters,
        ),
    )


def _duration(value: timedelta) -> Duration:
    duration = Duration()
    duration.FromTimedelta(value)
    return duration
