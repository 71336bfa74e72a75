"""Events, as consumers deliver them and as streams hold them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar

from google.protobuf.message import Message

from windshift.protos import admin
from windshift.protos import events as protos
from windshift.rpc import RpcError, StatusCode

from .calling import Caller
from .names import Names
from .payloads import Payloads, TypeFilter, type_name
from .pointers import Position, pointer
from .retry import Repeat
from .times import moment, moment_of, timestamp

T = TypeVar("T")
K = TypeVar("K")


class Event(Generic[T]):
    """An event. Its payload is decoded when it is first looked at.

    Attributes:
        kind: the class that `data` is decoded to, if it was asked for; None = the message's own.
        proto: the event as it came; not to be changed.
    """

    __slots__ = ("_data", "_names", "_payloads", "kind", "proto")

    def __init__(
        self, proto: protos.Event, names: Names, payloads: Payloads, kind: type[T] | None = None
    ) -> None:
        self.proto = proto
        self.kind = kind
        self._names = names
        self._payloads = payloads
        self._data: T | None = None

    @property
    def id(self) -> int:
        """Its id in the stream."""
        return self.proto.id

    @property
    def subject(self) -> str:
        """Its subject."""
        return self._names.bare_subject(self.proto.subject)

    @property
    def data(self) -> T:
        """Its payload: a Protobuf message, or what was asked for with `types`.

        Raises:
            UnknownType: the module of its type is not imported.
            Undecodable: the bytes are invalid.
        """
        if self._data is None:
            found: Any = self.message() if self.kind is None else self.decode(self.kind)
            data: T = found
            self._data = data
        return self._data

    def message(self) -> Message:
        """Return the payload as the Protobuf message that it is; see `data` for errors."""
        return self._payloads.unpack(self.proto.data)

    def decode(self, kind: type[K]) -> K:
        """Return the payload as an object of a class: a message's, or one that a codec of the client takes.

        Raises:
            Undecodable: it is of another type, or the bytes are invalid.
            TypeError: no codec takes this class.
        """
        return self._payloads.unpack_as(self.proto.data, kind)

    @property
    def type(self) -> str:
        """Full name of the payload's type; of JSON, `windshift.payload.v1.Json/` and its own type."""
        return type_name(self.proto.data)

    @property
    def time(self) -> datetime:
        """When it happened, as its publisher said, or when it was published."""
        return moment(self.proto.headers.timestamp)

    @property
    def key(self) -> str | None:
        """Its idempotency key."""
        headers = self.proto.headers
        return headers.idempotency_key if headers.HasField("idempotency_key") else None

    @property
    def attempt(self) -> int:
        """How often it was delivered, this time included; 0 if this is no delivery."""
        return self.proto.delivery_attempt

    @property
    def trace_parent(self) -> str | None:
        """W3C trace context of its publisher."""
        headers = self.proto.headers
        return headers.trace_parent if headers.HasField("trace_parent") else None

    def __repr__(self) -> str:
        return f"Event(id={self.id}, subject={self.subject!r}, type={self.type!r}, attempt={self.attempt})"


class StoredEvent:
    """An event as its stream holds it.

    Attributes:
        event: the event.
    """

    __slots__ = ("_proto", "event")

    def __init__(self, proto: admin.StoredEvent, event: Event[Any]) -> None:
        self._proto = proto
        self.event = event

    @property
    def stored(self) -> datetime:
        """When the broker stored it."""
        return moment(self._proto.stored)

    @property
    def other_headers(self) -> Mapping[str, str]:
        """Headers that other programs gave it."""
        return dict(self._proto.other_headers)

    @property
    def data_size(self) -> int:
        """Bytes of its payload, also where that was left out."""
        return self._proto.data_size

    def __repr__(self) -> str:
        return f"StoredEvent({self.event!r}, stored={self.stored})"


class Skipped(NamedTuple):
    """A tail was too slow, or `max_rate` too low, and left out events.

    Attributes:
        events: how many.
        last_id: id of the last of them.
    """

    events: int
    last_id: int


class CaughtUp:
    """A tail or a watch has shown everything that there was when it began."""

    __slots__ = ()


class EventHolder(NamedTuple):
    """A call that has an event.

    Attributes:
        server: id of its server.
        peer: the client's address.
        principal: who it is; empty where there are no rules.
        attempt: which attempt this is, from 1.
        until: until when it may settle or prolong it.
    """

    server: str
    peer: str
    principal: str
    attempt: int
    until: datetime


class ExplainedConsumer(NamedTuple):
    """How an event stands at a consumer.

    Attributes:
        name: the consumer's.
        state: `filtered_out`, `before_start`, `pending`, `held`, `waiting`, `delivered`, `settled`,
            `dead_letter`, `replaying` or `removed`: `ExplainEventResponse.State` of the protocol file.
        hindrances: what is in the way of a delivery, where one is to come: `paused`, `no_subscriber`,
            `windows_full`, `too_many_unsettled`.
        attempts: attempts so far, as far as is known; 0 = none is known.
        holders: the calls that have it.
        next_attempt: when the next attempt is due, if that is known.
        reason: why the last attempt failed, if that is known.
        dead_letter: id of its dead letter; empty = none.
        settled_to: every event up to this id is settled.
        delivered_to: no event after this id was delivered.
        paused_until: None = not paused.
        subscriptions: calls that consume from the consumer.
        moved: when the consumer was moved last; None = never.
    """

    name: str
    state: str
    hindrances: tuple[str, ...]
    attempts: int
    holders: tuple[EventHolder, ...]
    next_attempt: datetime | None
    reason: str
    dead_letter: str
    settled_to: int
    delivered_to: int
    paused_until: datetime | None
    subscriptions: int
    moved: datetime | None


class Explanation(NamedTuple):
    """How an event stands at the consumers of its stream.

    Attributes:
        presence: whether the stream has it: `held`, `removed` or `not_yet`.
        subject: its subject; empty if the stream does not have it.
        stored: when it was stored, if the stream has it.
        removals: what may have removed it: `by_hand`, or a limit of the stream.
        first_id: of the first event that the stream holds.
        last_id: the last id that the stream ever gave; 0 = none.
        consumers: by name.
        left_out: consumers that were left out, because there are more than 100.
        missing: ids of servers that did not answer in time.
    """

    presence: str
    subject: str
    stored: datetime | None
    removals: tuple[str, ...]
    first_id: int
    last_id: int
    consumers: tuple[ExplainedConsumer, ...]
    left_out: int
    missing: tuple[str, ...]


class Events:
    """The events of a stream, read without a consumer."""

    def __init__(self, caller: Caller, stream: str) -> None:
        self._caller = caller
        self._stream = caller.names.name(stream)

    def _stored(self, proto: admin.StoredEvent, kinds: TypeFilter) -> StoredEvent | None:
        """Return an event of one of these types; None if it is of another."""
        kind = kinds.find(proto.event.data) if kinds else None
        return None if kind is None and not kinds.exact else _stored(proto, self._caller, kind)

    async def get(
        self,
        id: int | None = None,  # noqa: A002 -- the field's name
        *,
        at: datetime | None = None,
        last_of: str | None = None,
        subject: str | None = None,
    ) -> StoredEvent:
        """Read one event from the stream's leader: by id, by time, or the last of a subject.

        Args:
            id: its id.
            at: the first one that was stored at this time or later.
            last_of: the last one of this subject, which has no wildcards.
            subject: with `id` or `at`, the first one from there on whose subject matches.

        Raises:
            EventNotFound: the stream holds no such event.
            ValueError: not exactly one of `id`, `at` and `last_of` was given.
        """
        if sum(choice is not None for choice in (id, at, last_of)) != 1:
            raise ValueError("give exactly one of id, at and last_of")
        names = self._caller.names
        request = admin.GetEventRequest(stream=self._stream, subject=names.subject(subject or ""))
        if id is not None:
            request.id = id
        elif at is not None:
            request.time.CopyFrom(timestamp(at))
        else:
            request.last_of_subject = names.subject(last_of or "")
        response = await self._caller.call(request, admin.GetEventResponse, Repeat.READ)
        return _stored(response.event, self._caller)

    async def explain(
        self,
        id: int,  # noqa: A002 -- the field's name
        *,
        consumer: str | None = None,
    ) -> Explanation:
        """Say how an event stands at each consumer, and why it is not delivered where it is not.

        Args:
            id: its id.
            consumer: only at this one; None = at the first 100 of the stream.

        Raises:
            StreamNotFound: there is no such stream.
            ConsumerNotFound: the stream has no such consumer.
        """
        request = admin.ExplainEventRequest(stream=self._stream, id=id, consumer=consumer)
        explanation = await self._caller.call(request, admin.ExplainEventResponse, Repeat.READ)
        return _explanation(explanation, self._caller.names)

    async def read(
        self,
        *,
        start: Position | None = None,
        subjects: Sequence[str] = (),
        types: Sequence[type] = (),
        backwards: bool = False,
        limit: int | None = None,
    ) -> AsyncIterator[StoredEvent]:
        """Read the events that the stream holds, page by page.

        Args:
            start: where to begin; None = at the first event, or backwards at the last.
            subjects: filters; none = all subjects.
            types: only payloads of these types; none = all.
            backwards: from new to old.
            limit: at most so many events; None = all.
        """
        left, kinds = limit, self._caller.payloads.filter(types)
        request = admin.ReadEventsRequest(backwards=backwards, **self._which(start, subjects, kinds))
        while left is None or left > 0:
            request.limit = 500 if left is None or not kinds.exact else min(left, 500)
            page = await self._caller.call(request, admin.ReadEventsResponse, Repeat.READ)
            found = [event for event in (self._stored(each, kinds) for each in page.events) if event]
            for event in found[:left]:
                yield event
            left = None if left is None else left - len(found)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def tail(
        self,
        *,
        start: Position | None = None,
        subjects: Sequence[str] = (),
        types: Sequence[type] = (),
        max_rate: int = 0,
    ) -> AsyncIterator[StoredEvent | Skipped | CaughtUp]:
        """Follow the stream until the loop is left. Nothing is settled, and each event comes at most once.

        A tail that breaks, as when its token expires, ends with an error; it is not begun again, for what it
        would have missed is not known.

        Args:
            start: where to begin; None = with what is stored from now on.
            subjects: filters; none = all subjects.
            types: only payloads of these types; none = all.
            max_rate: at most so many events per second, the rest is skipped; 0 = all.

        Raises:
            WindshiftError: the tail broke.
        """
        tail = self.tail_many(start=start, subjects=subjects, types=types, max_rate=max_rate)
        async for items in tail:
            for item in items:
                yield item

    async def tail_many(
        self,
        *,
        start: Position | None = None,
        subjects: Sequence[str] = (),
        types: Sequence[type] = (),
        max_rate: int = 0,
    ) -> AsyncIterator[list[StoredEvent | Skipped | CaughtUp]]:
        """Follow the stream as `tail` does, which see; what has arrived together comes as one list.

        It is for programs that write many events at once, to a file or a database. No list is empty.
        """
        kinds = self._caller.payloads.filter(types)
        request = admin.TailEventsRequest(max_rate=max_rate, **self._which(start, subjects, kinds))
        may_renew = self._caller.credentials.renewable
        while True:
            try:
                async with self._caller.stream(admin.TailEventsRequest, admin.TailEventsResponse) as call:
                    call.send(request)
                    call.close_send()
                    if await call.begun():
                        may_renew = False
                    while responses := await call.receive_many():
                        items = [self._shown(response, kinds) for response in responses]
                        if found := [item for item in items if item is not None]:
                            yield found
                return
            except RpcError as error:
                if not may_renew or error.code is not StatusCode.UNAUTHENTICATED:
                    raise self._caller.failure_of(error) from error
                may_renew = False

    async def delete(self, id: int, *, erase: bool = False) -> None:  # noqa: A002 -- the field's name
        """Delete one event for good.

        Args:
            id: its id.
            erase: overwrite its bytes on disk too.

        Raises:
            EventNotFound: the stream holds no such event.
        """
        request = admin.DeleteEventRequest(stream=self._stream, id=id, erase=erase)
        await self._caller.call(request, admin.DeleteEventResponse, Repeat.SAME, gone=StatusCode.NOT_FOUND)

    def _which(self, start: Position | None, subjects: Sequence[str], kinds: TypeFilter) -> dict[str, Any]:
        """Return the fields of a request that say which events are read."""
        return {
            "stream": self._stream,
            "from": None if start is None else pointer(start),
            "subjects": self._caller.names.subjects(subjects),
            "types": kinds.server,
        }

    def _shown(
        self, response: admin.TailEventsResponse, kinds: TypeFilter
    ) -> StoredEvent | Skipped | CaughtUp | None:
        match response.WhichOneof("response"):
            case "event":
                return self._stored(response.event, kinds)
            case "skipped":
                return Skipped(response.skipped.events, response.skipped.last_id)
            case "caught_up":
                return CaughtUp()
            case _:
                return None


def _stored(proto: admin.StoredEvent, caller: Caller, kind: type | None = None) -> StoredEvent:
    return StoredEvent(proto, Event(proto.event, caller.names, caller.payloads, kind))


def _explanation(explanation: admin.ExplainEventResponse, names: Names) -> Explanation:
    return Explanation(
        _word(explanation.Presence, explanation.presence),
        names.bare_subject(explanation.subject),
        moment_of(explanation, "stored"),
        tuple(_word(explanation.Removal, each) for each in explanation.removals),
        explanation.first_id,
        explanation.last_id,
        tuple(map(_explained, explanation.consumers)),
        explanation.left_out,
        tuple(explanation.missing),
    )


def _explained(consumer: admin.ExplainEventResponse.Consumer) -> ExplainedConsumer:
    kinds = admin.ExplainEventResponse
    return ExplainedConsumer(
        consumer.name,
        _word(kinds.State, consumer.state),
        tuple(_word(kinds.Hindrance, each) for each in consumer.hindrances),
        consumer.attempts,
        tuple(
            EventHolder(each.server, each.peer, each.principal, each.attempt, moment(each.until))
            for each in consumer.holders
        ),
        moment_of(consumer, "next_attempt"),
        consumer.reason,
        consumer.dead_letter,
        consumer.settled_to,
        consumer.delivered_to,
        moment_of(consumer, "paused_until"),
        consumer.subscriptions,
        moment_of(consumer, "moved"),
    )


def _word(kind: Any, number: int) -> str:
    """Return a value's name without its enumeration's, in lower case; an unknown number as digits."""
    value = kind.DESCRIPTOR.values_by_number.get(number)
    return str(number) if value is None else value.name.partition("_")[2].lower()
