"""``AdminService``: each method converts the request, calls the domain and converts the result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from windshift._gen.windshift.admin.v1alpha1 import service_pb2 as pb
from windshift.nats.jetstream.api import StoredMessage
from windshift.nats.times import from_unix_ns
from windshift.rpc import ServerCall
from windshift.server.admin.account import AccountView
from windshift.server.admin.consumers import ConsumerAdmin, ConsumerEntry, ConsumerOrder
from windshift.server.admin.events import EventReader, Selection
from windshift.server.admin.explaining import AtConsumer, EventExplainer, Standing
from windshift.server.admin.history import MOST_NAMES, History, Series
from windshift.server.admin.pausing import ConsumerPause
from windshift.server.admin.rings import LENGTH
from windshift.server.admin.seeking import ConsumerSeek
from windshift.server.admin.servers import ServerEntry, Servers
from windshift.server.admin.streams import StreamAdmin, StreamEntry, StreamOrder, StreamQuery
from windshift.server.admin.subscriptions import Holder, Subscriptions, SubscriptionView
from windshift.server.admin.tail import Tail, TailClient
from windshift.server.api.call_stream import CallStream
from windshift.server.api.callers import caller_of
from windshift.server.api.consume import write_event
from windshift.server.api.deadlines import answer_by
from windshift.server.api.events import consumer_response
from windshift.server.api.fields import elements, known, members, number, page_size, unix_ns, wire_time
from windshift.server.api.policies import MOST_FILTERS
from windshift.server.api.streams import check_scope, read_consumer_key, read_pointer, write_stream
from windshift.server.auth.actions import Action
from windshift.server.auth.authenticate import Identity
from windshift.server.auth.questions import read_action
from windshift.server.background.batches import spread
from windshift.server.domain import names
from windshift.server.domain.errors import InvalidField
from windshift.server.domain.names import EVERYTHING
from windshift.server.domain.pages import read_token, write_token
from windshift.server.events import headers
from windshift.server.events.deliveries import read_stored
from windshift.server.events.model import ConsumerKey, StreamSeq
from windshift.server.events.positions import rfc3339
from windshift.server.events.specs import AtEnd, AtStart

ADMIN = pb.DESCRIPTOR.services_by_name["AdminService"]

_MOST_CHECKS: Final = 100
_LARGEST_READ: Final = 500
_READ: Final = 50
_LONGEST_FIND: Final = 255
_LARGEST_CUT: Final = 2**31
_MOST_ATTEMPTS: Final = 2**32 - 1
_MOST_UNSENT: Final = 16 * 1024
"""Bytes that a tail collects before they are sent: a write costs as much as several events."""
_SMALL: Final = 2048
"""Bytes of an event that is kept as it was sent, for other tails."""

_STREAM_ORDERS: Final = {0: StreamOrder.NAME, **members(StreamOrder, pb.ListStreamsRequest.Order)}
_CONSUMER_ORDERS: Final = {0: ConsumerOrder.NAME, **members(ConsumerOrder, pb.ListConsumersRequest.Order)}


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminService:
    """Looks at streams, events and consumers, and manages them: by the domain, which its fields are."""

    servers: Servers
    account: Callable[[], Awaitable[AccountView]]
    streams: StreamAdmin
    consumers: ConsumerAdmin
    pauses: ConsumerPause
    seeks: ConsumerSeek
    subscriptions: Subscriptions
    events: EventReader
    explainer: EventExplainer
    tail: Callable[[Selection, TailClient, int], Tail]
    history: History

    # --- Servers ------------------------------------------------------------------------------------------

    async def get_server(self, request: pb.GetServerRequest, call: ServerCall) -> pb.GetServerResponse:
        """Describe this server."""
        return pb.GetServerResponse(server=_server(self.servers.own()))

    async def list_servers(self, request: pb.ListServersRequest, call: ServerCall) -> pb.ListServersResponse:
        """List all servers."""
        account = await self.account() if request.jet_stream else None
        found, missing = await self.servers.all()
        return pb.ListServersResponse(
            servers=map(_server_entry, found),
            missing=missing,
            jet_stream=None if account is None else _jet_stream(account),
        )

    async def who_am_i(self, request: pb.WhoAmIRequest, call: ServerCall) -> pb.WhoAmIResponse:
        """Say who calls, and what it may do."""
        actions = elements("checks", request.checks, _MOST_CHECKS, _check)
        identity = call.state
        if not isinstance(identity, Identity):
            return pb.WhoAmIResponse(checks=[pb.WhoAmIResponse.Decision(allowed=True)] * len(actions))
        permissions = identity.principal.permissions
        decisions = [permissions.decide(action) for action in actions]
        return pb.WhoAmIResponse(
            principal=identity.principal.name,
            credential=identity.credential.partition(" ")[0],
            expires=None if identity.expires == inf else Timestamp(seconds=int(identity.expires)),
            granted=[
                pb.WhoAmIResponse.Grant(verb=key, resource=pattern, role=role)
                for key, pattern, role in permissions.grants()
            ],
            checks=[pb.WhoAmIResponse.Decision(allowed=each.allowed, rule=each.rule) for each in decisions],
        )

    # --- Streams ------------------------------------------------------------------------------------------

    async def list_streams(self, request: pb.ListStreamsRequest, call: ServerCall) -> pb.ListStreamsResponse:
        """List the streams that the caller may see."""
        if len(request.find) > _LONGEST_FIND:
            raise InvalidField("find", f"must have at most {_LONGEST_FIND} characters")
        order = known("order_by", request.order_by, _STREAM_ORDERS)
        query = StreamQuery(request.find.lower(), order, request.descending)
        after = read_token("page_token", request.page_token, (float, str), query)
        size, caller = page_size(request.page_size), caller_of(call)
        page = await self.streams.page(query, caller, size, after, answer_by(call))
        token = write_token(page.after, query)
        response = pb.ListStreamsResponse(total=page.total, next_page_token=token)
        await spread(lambda entry: response.streams.append(_stream_info(entry)), page.entries)
        return response

    async def get_stream(self, request: pb.GetStreamRequest, call: ServerCall) -> pb.GetStreamResponse:
        """Describe one stream."""
        names.stream_name("name", request.name)
        entry = await self.streams.get(request.name, answer_by(call))
        return pb.GetStreamResponse(stream=_stream_info(entry))

    async def list_subjects(
        self, request: pb.ListSubjectsRequest, call: ServerCall
    ) -> pb.ListSubjectsResponse:
        """List the subjects of a stream."""
        names.stream_name("stream", request.stream)
        if request.filter:
            names.filter_subject("filter", request.filter)
        bound = (request.stream, request.filter)
        after = read_token("page_token", request.page_token, (str,), *bound)
        page, last = await self.streams.subjects(
            request.stream,
            request.filter,
            page_size(request.page_size),
            None if after is None else after[0],
            answer_by(call),
        )
        return pb.ListSubjectsResponse(
            subjects=[pb.ListSubjectsResponse.Entry(subject=name, events=count) for name, count in page],
            next_page_token="" if last is None else write_token((last,), *bound),
        )

    async def purge_stream(self, request: pb.PurgeStreamRequest, call: ServerCall) -> pb.PurgeStreamResponse:
        """Remove events."""
        names.stream_name("stream", request.stream)
        purged = await self.streams.purge(
            request.stream, _purge(request), answer_by(call), dry_run=request.dry_run
        )
        return pb.PurgeStreamResponse(purged=purged)

    async def delete_stream(
        self, request: pb.DeleteStreamRequest, call: ServerCall
    ) -> pb.DeleteStreamResponse:
        """Delete a stream."""
        names.stream_name("name", request.name)
        expected = None
        if request.HasField("expected_last_id"):
            expected = number("expected_last_id", request.expected_last_id)
        await self.streams.delete(request.name, expected, answer_by(call))
        return pb.DeleteStreamResponse()

    # --- Events -------------------------------------------------------------------------------------------

    async def get_event(self, request: pb.GetEventRequest, call: ServerCall) -> pb.GetEventResponse:
        """Read one event."""
        names.stream_name("stream", request.stream)
        message = await self.events.get(request.stream, _get_query(request), answer_by(call))
        response = pb.GetEventResponse()
        _write_stored(response.event, message)
        return response

    async def read_events(self, request: pb.ReadEventsRequest, call: ServerCall) -> pb.ReadEventsResponse:
        """Read a page of events."""
        which, start = read_selection(request), getattr(request, "from")
        begin = read_pointer("from", start, AtEnd() if request.backwards else AtStart())
        bound = (which.stream, which.subjects, sorted(which.types), begin, request.backwards)
        after = read_token("page_token", request.page_token, (int,), *bound)
        page = await self.events.read(
            which,
            begin if after is None else after[0],
            number("limit", request.limit, _LARGEST_READ) or _READ,
            answer_by(call),
            backwards=request.backwards,
        )
        cut = number("data_limit", request.data_limit, _LARGEST_CUT) or None
        if request.without_data:
            cut = 0
        token = "" if page.next is None else write_token((page.next,), *bound)
        response = pb.ReadEventsResponse(scanned_to=page.scanned_to, next_page_token=token)
        await spread(lambda each: _write_stored(response.events.add(), each, cut), page.events)
        return response

    async def tail_events(self, request: pb.TailEventsRequest, call: ServerCall) -> None:
        """Send events as they are stored. A drain of the server ends the call."""
        which = read_selection(request)
        begin = read_pointer("from", getattr(request, "from"), AtEnd())
        client = CallTail(call, with_data=not request.without_data)
        tail = self.tail(which, client, number("max_rate", request.max_rate))
        await tail.run(begin, caller_of(call))

    async def delete_event(self, request: pb.DeleteEventRequest, call: ServerCall) -> pb.DeleteEventResponse:
        """Delete one event."""
        names.stream_name("stream", request.stream)
        seq = _event_id(request.id)
        await self.streams.delete_event(request.stream, seq, answer_by(call), erase=request.erase)
        return pb.DeleteEventResponse()

    async def explain_event(
        self, request: pb.ExplainEventRequest, call: ServerCall
    ) -> pb.ExplainEventResponse:
        """Say how an event stands at each consumer."""
        names.stream_name("stream", request.stream)
        seq = _event_id(request.id)
        if request.consumer:
            names.consumer_name("consumer", request.consumer)
        explanation = await self.explainer.explain(request.stream, seq, request.consumer, answer_by(call))
        return pb.ExplainEventResponse(
            presence=f"PRESENCE_{explanation.presence.name}",
            subject="" if explanation.message is None else explanation.message.subject,
            stored=None if explanation.message is None else wire_time(explanation.message.time),
            removals=[f"REMOVAL_{each.name}" for each in explanation.removals],
            first_id=explanation.first_id,
            last_id=explanation.last_id,
            consumers=map(_at_consumer, explanation.consumers),
            left_out=explanation.left_out,
            missing=explanation.missing,
        )

    # --- Consumers ----------------------------------------------------------------------------------------

    async def list_consumers(
        self, request: pb.ListConsumersRequest, call: ServerCall
    ) -> pb.ListConsumersResponse:
        """List consumers."""
        if request.stream:
            names.stream_name("stream", request.stream)
        order = known("order_by", request.order_by, _CONSUMER_ORDERS)
        bound = (request.stream, order)
        after = read_token("page_token", request.page_token, (float, str, str), *bound)
        size = page_size(request.page_size)
        page = await self.consumers.page(request.stream, order, caller_of(call), size, after, answer_by(call))
        calls = await self.subscriptions.counts() if page.entries else Counter[ConsumerKey]()
        token = write_token(page.after, *bound)
        response = pb.ListConsumersResponse(total=page.total, next_page_token=token)
        await spread(lambda entry: response.consumers.append(_consumer_info(entry, calls)), page.entries)
        return response

    async def list_subscriptions(
        self, request: pb.ListSubscriptionsRequest, call: ServerCall
    ) -> pb.ListSubscriptionsResponse:
        """List the calls that consume."""
        check_scope("", request.stream, request.consumer)
        found, missing = await self.subscriptions.all(request.stream, request.consumer)
        return pb.ListSubscriptionsResponse(subscriptions=map(_subscription, found), missing=missing)

    async def pause_consumer(
        self, request: pb.PauseConsumerRequest, call: ServerCall
    ) -> pb.PauseConsumerResponse:
        """Pause a consumer, or resume it."""
        consumer = read_consumer_key(request)
        until = unix_ns("until", request.until) if request.HasField("until") else None
        paused = await self.pauses.set(consumer, until, answer_by(call), caller_of(call))
        return pb.PauseConsumerResponse(paused_until=wire_time(paused))

    async def seek_consumer(
        self, request: pb.SeekConsumerRequest, call: ServerCall
    ) -> pb.SeekConsumerResponse:
        """Move a consumer to another event."""
        consumer = read_consumer_key(request)
        if request.to.WhichOneof("pointer") is None:
            raise InvalidField("to", "set one of start, end, time and offset")
        to = read_pointer("to", request.to, AtEnd())
        sought = await self.seeks.seek(
            consumer, to, caller_of(call), answer_by(call), dry_run=request.dry_run
        )
        return pb.SeekConsumerResponse(next_id=sought.next_id, was=sought.was, pending=sought.pending)

    # --- History ------------------------------------------------------------------------------------------

    async def get_history(self, request: pb.GetHistoryRequest, call: ServerCall) -> pb.GetHistoryResponse:
        """Give the last hour of streams and consumers."""
        streams, consumers = read_names(request)
        caller = caller_of(call)
        if caller is not None:
            streams = [name for name in streams if caller.sees(name)]
            consumers = await self.consumers.seen_by(caller, consumers, answer_by(call))
        series, missing = await self.history.get(
            streams,
            [f"{key.stream}/{key.name}" for key in consumers],
            unix_ns("since", request.since) if request.HasField("since") else 0,
            number("points", request.points, LENGTH) or LENGTH,
        )
        return pb.GetHistoryResponse(series=map(_series, series), missing=missing)


class CallTail(CallStream):
    """The client's end of a tail, as the domain sees it."""

    __slots__ = ("_cut", "_size", "_unsent")

    def __init__(self, call: ServerCall, *, with_data: bool) -> None:
        super().__init__(call)
        self._cut = None if with_data else 0
        self._unsent: list[bytes] = []
        self._size = 0
        """Bytes of those."""

    @property
    def queued(self) -> int:
        """Bytes that the client has not read, whether they were sent or not."""
        return self._call.queued + self._size

    def send(self, message: StoredMessage) -> None:
        """Send an event."""
        is_small = len(message.block) + len(message.body) <= _SMALL
        self._add((_encode_once if is_small else _encode)(message, self._cut))

    def skipped(self, count: int, last_id: int) -> None:
        """Tell of events that are not sent because there are too many."""
        skipped = pb.TailEventsResponse.Skipped(events=count, last_id=last_id)
        self._add(pb.TailEventsResponse(skipped=skipped).SerializeToString())

    def caught_up(self) -> None:
        """Tell that all events are new from here on."""
        self._add(pb.TailEventsResponse(caught_up=True).SerializeToString())

    def position(self, last_id: int) -> None:
        """Tell how far a tail has come that lets nothing through."""
        self._add(pb.TailEventsResponse(position=last_id).SerializeToString())

    def flush(self) -> None:
        """Send what is collected."""
        if self._unsent:
            self._call.send_bytes(*self._unsent)
            self._unsent.clear()
            self._size = 0

    def _add(self, response: bytes) -> None:
        self._unsent.append(response)
        self._size += len(response)
        if self._size > _MOST_UNSENT:
            self.flush()


# --- Requests ---------------------------------------------------------------------------------------------


def read_selection(request: pb.ReadEventsRequest | pb.TailEventsRequest) -> Selection:
    """Read which events of which stream are meant; raise `InvalidField`."""
    names.stream_name("stream", request.stream)
    elements("subjects", request.subjects, MOST_FILTERS, names.filter_subject)
    types = elements("types", request.types, MOST_FILTERS, _type_name)
    return Selection(request.stream, tuple(dict.fromkeys(request.subjects)), frozenset(types))


def _type_name(field: str, name: str) -> bytes:
    if names.type_name(field, name) != name:
        raise InvalidField(field, "must be the name alone, without what a type URL has before it")
    return name.encode()


def read_names(request: pb.GetHistoryRequest) -> tuple[list[str], list[ConsumerKey]]:
    """Read which streams and consumers are meant, each once; raise `InvalidField`."""
    if not (request.streams or request.consumers):
        raise InvalidField("streams", "name streams or consumers")
    elements("streams", request.streams, MOST_NAMES, names.stream_name)
    consumers = elements("consumers", request.consumers, MOST_NAMES, _consumer_key)
    return list(dict.fromkeys(request.streams)), list(dict.fromkeys(consumers))


def _consumer_key(field: str, text: str) -> ConsumerKey:
    stream, slash, name = text.partition("/")
    if not slash:
        raise InvalidField(field, "must be the stream's name, a slash and its own name")
    names.stream_name(field, stream)
    names.consumer_name(field, name)
    return ConsumerKey(stream, name)


def _event_id(value: int) -> StreamSeq:
    if value == 0:
        raise InvalidField("id", "ids begin at 1")
    return StreamSeq(number("id", value))


def _get_query(request: pb.GetEventRequest) -> dict[str, Any]:
    """Read which event is meant, as JetStream is asked for it."""
    if request.subject:
        names.filter_subject("subject", request.subject)
    match request.WhichOneof("event"):
        case "id":
            query: dict[str, Any] = {"seq": _event_id(request.id)}
            return query | ({"next_by_subj": request.subject} if request.subject else {})
        case "time":
            start = rfc3339(unix_ns("time", request.time))
            return {"start_time": start, "next_by_subj": request.subject or EVERYTHING}
        case "last_of_subject":
            names.subject("last_of_subject", request.last_of_subject)
            if request.subject:
                raise InvalidField("subject", "goes with id and time only")
            return {"last_by_subj": request.last_of_subject}
        case _:
            raise InvalidField("event", "set one of id, time and last_of_subject")


def _purge(request: pb.PurgeStreamRequest) -> dict[str, Any]:
    """Read which events are to go, as JetStream is told."""
    purge: dict[str, Any] = {}
    if request.subject:
        names.filter_subject("subject", request.subject)
        purge["filter"] = request.subject
    match request.WhichOneof("extent"):
        case "up_to_id":
            purge["seq"] = number("up_to_id", request.up_to_id) + 1
        case "keep":
            purge["keep"] = number("keep", request.keep)
    return purge


def _check(field: str, check: pb.WhoAmIRequest.Check) -> Action:
    try:
        return read_action(check.verb, *check.resource.split())
    except ValueError as error:
        raise InvalidField(field, str(error)) from None


# --- Responses --------------------------------------------------------------------------------------------


def _server(entry: ServerEntry) -> pb.Server:
    view, broker = entry.server, entry.broker
    server = pb.Server(
        id=view.id,
        name=view.name,
        version=view.version,
        libnghttp2=view.libnghttp2,
        worker=view.worker,
        max_payload=view.max_payload,
        rules=view.rules,
        methods=view.methods,
        limits=[pb.Server.Limit(name=name, value=max(0, value)) for name, value in view.limits.items()],
        broker=pb.Server.Broker(
            name=broker.name,
            version=broker.version,
            cluster=broker.cluster,
            url=broker.url,
            connected=broker.connected,
        ),
    )
    server.started.FromNanoseconds(view.started_ns)
    if view.time_ns:
        server.time.FromNanoseconds(view.time_ns)
    if broker.round_trip_ns:
        server.broker.round_trip.FromNanoseconds(broker.round_trip_ns)
    return server


def _server_entry(entry: ServerEntry) -> pb.ListServersResponse.Entry:
    load = entry.load
    return pb.ListServersResponse.Entry(
        server=_server(entry),
        connections=load.connections,
        active_calls=load.active_calls,
        memory=load.memory,
        cpu=load.cpu,
        ready=not load.not_ready,
        not_ready_reason=load.not_ready,
    )


def _jet_stream(account: AccountView) -> pb.JetStream:
    found = pb.JetStream(
        usage=[
            pb.JetStream.Usage(
                resource=f"RESOURCE_{each.resource.name}",
                tier=each.tier,
                used=each.used,
                reserved=each.reserved,
                limit=each.limit,
            )
            for each in account.usage
        ]
    )
    if account.clock_ahead_ns is not None:
        found.clock_ahead.FromNanoseconds(account.clock_ahead_ns)
    return found


def _stream_info(entry: StreamEntry) -> pb.StreamInfo:
    view = entry.view
    info = pb.StreamInfo(
        spec=write_stream(view.spec),
        created=wire_time(view.created),
        events=view.events,
        bytes=view.size,
        first_id=view.first_id,
        last_id=view.last_id,
        first_time=wire_time(view.first_time),
        last_time=wire_time(view.last_time),
        subjects=view.subjects,
        consumers=view.consumers,
        worst_lag=entry.worst_lag,
        dead_letters=entry.dead_letters,
        rate=entry.rate,
    )
    for source in view.sources:
        message = info.sources.add(name=source.name, lag=source.lag, error=source.error)
        if source.heard is not None:
            message.heard.FromTimedelta(source.heard)
    if view.leader is not None:
        info.replication.leader = view.leader
        for replica in view.replicas:
            info.replication.replicas.add(name=replica.name, current=replica.current, lag=replica.lag)
    return info


def _encode(message: StoredMessage, cut: int | None) -> bytes:
    """Return what a tail sends of an event."""
    response = pb.TailEventsResponse()
    _write_stored(response.event, message, cut)
    return response.SerializeToString()


_encode_once: Final = lru_cache(maxsize=256)(_encode)
"""The same; those who follow one stream get the same events at about the same time: hence the cache."""


def _write_stored(event: pb.StoredEvent, message: StoredMessage, cut: int | None = None) -> None:
    """Write a stored event; `cut` is how many bytes of its data, None = all."""
    delivery = read_stored(message)
    event.data_size = len(message.body)
    stored = event.stored
    stored.seconds, stored.nanos = message.time
    write_event(event.event, delivery if cut is None else delivery._replace(data=message.body[:cut]))
    for name, value in headers.others(message.block):
        event.other_headers[name.decode(errors="replace")] = value.decode(errors="replace")


def _consumer_info(entry: ConsumerEntry, calls: Counter[ConsumerKey]) -> pb.ConsumerInfo:
    view, details = entry.view, entry.details
    return pb.ConsumerInfo(
        consumer=consumer_response(view),
        created=wire_time(details.created),
        delivered_to=details.delivered_to,
        redelivered=details.redelivered,
        oldest_unsettled=wire_time(entry.oldest_unsettled),
        last_delivery=wire_time(details.last_delivery),
        last_ack=wire_time(details.last_ack),
        paused_until=wire_time(details.paused_until),
        subscriptions=calls[ConsumerKey(view.stream, view.id)],
        waiting_replays=entry.waiting_replays,
    )


def _at_consumer(at: AtConsumer) -> pb.ExplainEventResponse.Consumer:
    facts, standing = at.facts, at.standing
    message = pb.ExplainEventResponse.Consumer(
        name=at.name,
        state=f"STATE_{standing.name}",
        hindrances=[f"HINDRANCE_{each.name}" for each in at.hindrances],
        attempts=min(at.attempts, _MOST_ATTEMPTS),
        holders=map(_holder, facts.holders),
        dead_letter="" if facts.letter is None else str(facts.letter.id),
        settled_to=facts.state.settled_to,
        delivered_to=facts.state.delivered_to,
        paused_until=wire_time(facts.paused_until),
        subscriptions=len(facts.calls),
    )
    if facts.letter is not None:
        message.reason = facts.letter.failure.reason
    elif facts.failed is not None:
        message.reason = facts.failed.reason
    if standing is Standing.WAITING and facts.failed is not None:
        message.next_attempt.FromNanoseconds(facts.failed.next_ns)
    if at.moved_ns:
        message.moved.FromNanoseconds(at.moved_ns)
    return message


def _holder(holder: Holder) -> pb.ExplainEventResponse.Holder:
    return pb.ExplainEventResponse.Holder(
        server=holder.server,
        peer=holder.peer,
        principal=holder.principal,
        attempt=min(holder.attempt, _MOST_ATTEMPTS),
        until=wire_time(from_unix_ns(holder.until_ns)),
    )


def _subscription(view: SubscriptionView) -> pb.Subscription:
    return pb.Subscription(
        server=view.server,
        stream=view.stream,
        consumer=view.consumer,
        peer=view.peer,
        principal=view.principal,
        user_agent=view.user_agent,
        max_processing_events=view.size,
        unsettled=view.unsettled,
        delivered=view.delivered,
        acked=view.acked,
        rejected=view.rejected,
        since=wire_time(from_unix_ns(view.since_ns)),
    )


def _series(series: Series) -> pb.GetHistoryResponse.Series:
    message = pb.GetHistoryResponse.Series(
        name=series.name, kind=f"KIND_{series.kind.name}", values=series.values
    )
    message.start.FromNanoseconds(series.start_ns)
    message.step.FromNanoseconds(series.step_ns)
    return message
