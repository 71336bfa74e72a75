"""The consume call: its requests as commands, deliveries and confirmations as its responses."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import repeat
from typing import Any

from windshift._gen.windshift.events.v1alpha1.service_pb2 import Event, EventsRequest, EventsResponse
from windshift.rpc import ServerCall
from windshift.server.admin.subscriptions import Holder, Subscriptions, SubscriptionView
from windshift.server.api.call_stream import CallStream
from windshift.server.api.callers import admission_of, caller_of
from windshift.server.api.fields import duration_ns, known, members
from windshift.server.domain.errors import InvalidField
from windshift.server.events.consuming.call import ConsumeCall
from windshift.server.events.consuming.commands import (
    LONGEST_ERROR_TYPE,
    LONGEST_REASON,
    Ack,
    Action,
    Command,
    Limit,
    Ping,
    Reject,
    Subscribe,
    check_ids,
)
from windshift.server.events.consuming.interfaces import ConsumeOptions
from windshift.server.events.consuming.pending_acks import CommandKind, Confirmation
from windshift.server.events.consuming.shared import Shared
from windshift.server.events.deliveries import Delivery, message_size
from windshift.server.events.model import ConsumerKey, StreamSeq

_LONGEST_AGENT = 200
_CALL_SIZE = 16_384
"""Bytes that an open call takes, about, beside its events. Anybody may open some."""

TYPE_URL_PREFIX = "type.googleapis.com/"

MOST_BATCH_BYTES = 1024 * 1024
"""Bytes of the events of a batch whose size has no other bound; clients take messages of 4 MiB by default."""

_ACTIONS = members(Action, EventsRequest.RejectAction)
_CONFIRMED = {kind: f"{kind.value}_confirmation" for kind in CommandKind}
"""The field of a response that confirms each kind of command."""


async def consume(
    call: ServerCall, shared: Shared, options: ConsumeOptions, subscriptions: Subscriptions
) -> None:
    """Serve a consume call until it ends; a drain ends it gracefully."""
    client = CallClient(call)
    consume_call = ConsumeCall(shared, client, options, admission_of(call))
    call.on_drain = consume_call.drain
    call.overhead = _CALL_SIZE
    shown = _OpenCall(call, client, consume_call)
    subscriptions.add(shown)
    try:
        await consume_call.run()
    finally:
        subscriptions.remove(shown)


class _OpenCall:
    """A consume call, as operators see it: an `OpenCall`."""

    __slots__ = ("_call", "_client", "_consume_call", "_principal", "_since_ns")

    def __init__(self, call: ServerCall, client: CallClient, consume_call: ConsumeCall) -> None:
        caller = caller_of(call)
        self._call, self._client, self._consume_call = call, client, consume_call
        self._principal = "" if caller is None else caller.name
        self._since_ns = time.time_ns()

    @property
    def consumer(self) -> ConsumerKey | None:
        window = self._consume_call.window
        return None if window is None else window[0]

    def view(self) -> SubscriptionView | None:
        window, call, client = self._consume_call.window, self._call, self._client
        if window is None:
            return None
        consumer, size, unsettled = window
        return SubscriptionView(
            *consumer,
            call.peer,
            self._principal,
            call.header(b"user-agent")[:_LONGEST_AGENT],
            self._since_ns,
            size,
            unsettled,
            client.delivered,
            client.acked,
            client.rejected,
        )

    def holder(self, seq: StreamSeq) -> Holder | None:
        held = self._consume_call.held(seq)
        if held is None:
            return None
        consumer, attempt, left = held
        until_ns = time.time_ns() + round(left * 1e9)
        return Holder(*consumer, self._call.peer, self._principal, attempt, until_ns)


class CallClient(CallStream):
    """The client's end of a consume call, as the domain sees it.

    Attributes:
        delivered: events that were sent.
        acked: ids whose acknowledgement was confirmed.
        rejected: ids whose reject was confirmed.
    """

    __slots__ = ("_max_batch", "_max_bytes", "acked", "delivered", "rejected")

    def __init__(self, call: ServerCall) -> None:
        super().__init__(call)
        self._max_batch, self._max_bytes = 1, MOST_BATCH_BYTES
        self.delivered = self.acked = self.rejected = 0

    async def receive(self) -> Iterator[Command] | None:
        """Return the client's commands; iterating may raise `InvalidField`."""
        requests = await self._call.receive_many()
        return map(read_command, requests) if requests else None

    def subscribed(
        self, subscribe: Subscribe, processing_timeout: timedelta, linger: timedelta | None
    ) -> None:
        """Send `Subscribed`."""
        self._max_batch = max(subscribe.max_batch, 1)
        if subscribe.max_message_size:
            self._max_bytes = min(MOST_BATCH_BYTES, subscribe.max_message_size)
        response = EventsResponse()
        response.subscribed.processing_timeout.FromTimedelta(processing_timeout)
        if linger is not None:
            response.subscribed.linger.FromTimedelta(linger)
        self._call.send(response)

    def deliver(self, deliveries: Sequence[Delivery], tokens: Sequence[bytes] = ()) -> None:
        """Send each as `Event`, or several as `EventBatch`."""
        self.delivered += len(deliveries)
        self._call.send_many(event_responses(deliveries, tokens, self._max_batch, self._max_bytes))

    def confirm(self, confirmations: Sequence[Confirmation]) -> None:
        """Send the confirmations of commands."""
        for confirmation in confirmations:
            if confirmation.kind is CommandKind.ACK:
                self.acked += len(confirmation.ids)
            elif confirmation.kind is CommandKind.REJECT:
                self.rejected += len(confirmation.ids)
        self._call.send_many(map(confirmation_response, confirmations))


def read_command(request: EventsRequest) -> Command:
    """Convert a request to a command; raise `InvalidField` when it has none, or a malformed one."""
    match request.WhichOneof("request"):
        case "ack":
            return Ack(_ids("ack.ids", request.ack.ids))
        case "reject":
            return _reject(request.reject)
        case "ping":
            return Ping(_ids("ping.ids", request.ping.ids))
        case "limit":
            return Limit(request.limit.max_processing_events)
        case "subscribe":
            return _subscribe(request.subscribe)
        case _:
            raise InvalidField("request", "set one of subscribe, ack, reject, ping and limit")


def _subscribe(subscribe: EventsRequest.Subscribe) -> Subscribe:
    linger = None
    if subscribe.HasField("linger"):
        linger = timedelta(microseconds=duration_ns("subscribe.linger", subscribe.linger) // 1000)
    return Subscribe(
        subscribe.stream,
        subscribe.consumer,
        subscribe.max_processing_events,
        tuple(subscribe.resume),
        linger,
        subscribe.max_batch,
        subscribe.max_message_size,
    )


def _reject(reject: EventsRequest.Reject) -> Reject:
    delay_ns = duration_ns("reject.delay", reject.delay) if reject.HasField("delay") else None
    return Reject(
        _ids("reject.ids", reject.ids),
        reject.permanently,
        delay_ns,
        reject.reason[:LONGEST_REASON],
        reject.error_type[:LONGEST_ERROR_TYPE],
        known("reject.action", reject.action, _ACTIONS),
    )


def _ids(field: str, ids: Sequence[Any]) -> list[StreamSeq]:
    check_ids(field, len(ids))
    return list(ids)


def event_responses(
    deliveries: Sequence[Delivery],
    tokens: Sequence[bytes],
    max_batch: int,
    max_bytes: int = MOST_BATCH_BYTES,
) -> Iterator[EventsResponse]:
    """Convert deliveries to responses of at most `max_batch` events, and `max_bytes` if it has several."""
    with_tokens = zip(deliveries, tokens, strict=True) if tokens else zip(deliveries, repeat(b""))
    if max_batch == 1:
        for delivery, token in with_tokens:
            response = EventsResponse()
            write_event(response.event, delivery, token)
            yield response
        return
    response, room = EventsResponse(), max_bytes
    batch = response.batch.events
    for delivery, token in with_tokens:
        size = message_size(delivery)
        room -= size
        if batch and (room < 0 or len(batch) == max_batch):
            yield _unwrapped(response)
            response, room = EventsResponse(), max_bytes - size
            batch = response.batch.events
        write_event(batch.add(), delivery, token)
    yield _unwrapped(response)


def _unwrapped(response: EventsResponse) -> EventsResponse:
    """Return a batch, or what is in it if that is a single event."""
    if len(response.batch.events) > 1:
        return response
    return EventsResponse(event=response.batch.events[0])


def write_event(event: Event, delivery: Delivery, token: bytes = b"") -> None:
    """Convert a delivery."""
    event.id, event.subject, type_name, value, time, key, parent, state, event.delivery_attempt, _, _ = (
        delivery
    )
    data = event.data
    data.type_url = TYPE_URL_PREFIX + type_name
    data.value = value
    if token:
        event.token = token
    headers = event.headers
    timestamp = headers.timestamp
    timestamp.seconds, timestamp.nanos = time
    if key is not None:
        headers.idempotency_key = key
    if parent is not None:
        headers.trace_parent = parent
    if state is not None:
        headers.trace_state = state


def confirmation_response(confirmation: Confirmation) -> EventsResponse:
    """Convert the confirmation of a command to a response."""
    response = EventsResponse()
    message = getattr(response, _CONFIRMED[confirmation.kind])
    if confirmation.ids:
        message.ids.extend(confirmation.ids)
    else:
        message.SetInParent()  # an empty confirmation must be there too
    if confirmation.invalid_ids:
        message.invalid_ids.extend(confirmation.invalid_ids)
    if confirmation.temporary_failed_ids:
        message.temporary_failed_ids.extend(confirmation.temporary_failed_ids)
    return response
