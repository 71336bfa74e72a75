"""Publishing an event: validate it, write it to JetStream, interpret the reply."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, Final

from windshift import conventions as c
from windshift.nats import JetStreamError, NatsError, retry
from windshift.nats import headers as h
from windshift.nats.jetstream import codes
from windshift.nats.jetstream.acks import PubAck, Stored
from windshift.nats.jetstream.api import JetStream
from windshift.nats.jetstream.writes import Write, Writes
from windshift.server.auth.policy import Principal
from windshift.server.broker.storing import Call, Storing
from windshift.server.domain import names
from windshift.server.domain.broker_errors import domain_error
from windshift.server.domain.errors import (
    BrokerUnavailable,
    EventTooLarge,
    InvalidField,
    OutcomeUnknown,
    WindshiftError,
    WrongLastId,
)
from windshift.server.events import headers
from windshift.server.events.counts import Counts
from windshift.server.events.model import Item, PublishReceipt, PublishRequest, Results
from windshift.server.telemetry.propagation import UNRECORDED
from windshift.server.telemetry.tracer import Span, Tracer, bounded, error_type

MAX_SEQUENCE: Final = 2**63 - 1
"""The broker reads sequences in headers as signed 64-bit numbers."""


_new: Final = tuple.__new__  # as a named tuple's own __new__ does, in less than half of the time


class Publisher:
    """Stores events in whatever stream takes their subject."""

    def __init__(
        self,
        api: JetStream,
        writes: Writes,
        counts: Counts | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._api = api
        self._writes = writes
        self._counts = counts or Counts()
        self._tracer = tracer

    async def publish(self, request: PublishRequest, deadline: float) -> PublishReceipt:
        """Store an event, or find that its key was stored already; give up at `deadline` (loop time).

        Raise the errors that the contract names for a publish. An event without a key is not sent again once
        it may have reached the broker: its publisher is told that the outcome is unknown.

        The event carries the trace context of the request or, where it is recorded, that of its publication.
        """
        span = self._start_span(request)
        return await self._counted(request, self._store(request, headers.now(), deadline, span))

    def begin(
        self,
        request: PublishRequest,
        now: bytes,
        deadline: float,
        call: Call,
        to_response: Callable[[PublishReceipt], Any],
    ) -> Callable[[], None]:
        """Do what `publish` does, without a task as long as that is possible.

        `now` is `headers.at` the time at which the request came. The call is answered with what `to_response`
        makes of the receipt; or a task does the rest of the work, at once or later. Return what abandons the
        publish until then, or until the task has begun.
        """
        span = None if self._tracer is None else self._start_span(request)
        if span is not None:
            call.go_on(
                lambda: _responded(
                    to_response, self._counted(request, self._store(request, now, deadline, span))
                )
            )
            return partial(self._abandoned, request, span)
        try:
            write = write_of(request, deadline, now)
        except WindshiftError as error:
            self._counts.publish_failed(error)
            raise
        return _Publish(self, self._counts, request, to_response).begin(self._writes, write, call)

    def _abandoned(self, request: PublishRequest, span: Span) -> None:
        """Record a publish that nobody waits for any more, before its task has begun."""
        error = CancelledError()
        _describe_publish(span, request)
        span.fail(error_type(error))
        span.end()
        self.failed(error)

    def _start_span(self, request: PublishRequest) -> Span | None:
        return None if self._tracer is None else self._tracer.start(c.SpanKind.PRODUCER, request.trace)

    # --- Steps, for those who publish many ------------------------------------------------------------

    def begin_spans(self, items: Sequence[Item]) -> dict[int, Span]:
        """Start the spans of those publishes that are recorded, by their places. The caller ends them."""
        if self._tracer is None:
            return {}
        spans: dict[int, Span] = {}
        for place, item in enumerate(items):
            if isinstance(item, PublishRequest) and (span := self._start_span(item)) is not None:
                _describe_publish(span, item)
                spans[place] = span
        return spans

    def failed(self, error: BaseException) -> None:
        """Count a publish that ended with an error."""
        self._counts.publish_failed(error)

    async def finish(
        self, request: PublishRequest, write: Write, storing: Awaitable[PubAck]
    ) -> PublishReceipt:
        """Do what `publish` does once the event is being written."""
        return await self._counted(request, self.settled(request, write, storing))

    async def _counted(self, request: PublishRequest, storing: Awaitable[PubAck]) -> PublishReceipt:
        try:
            ack = await storing
        except BaseException as error:
            self._counts.publish_failed(error)
            raise
        return self.receipt(request, ack)

    def receipt(self, request: PublishRequest, ack: PubAck) -> PublishReceipt:
        """Count an event that is stored, and return what its publisher is told."""
        _, sequence, duplicate = ack
        if duplicate:
            self._counts.duplicates += 1
            return id_of_duplicate(request, ack), True
        self._counts.published += 1
        return sequence, False

    def results(
        self,
        first: int,
        requests: Sequence[PublishRequest],
        outcomes: Stored | Sequence[PubAck | Exception],
        unwritten: Mapping[int, Exception],
    ) -> Results:
        """Count events that follow each other, and return what their publisher is told of them.

        Args:
            first: the place of the first one among all of the call.
            requests: those that were written.
            outcomes: what became of each of these.
            unwritten: why others were not, by their places from `first` on.
        """
        if isinstance(outcomes, Stored) and not unwritten:
            self._counts.published += len(outcomes)
            return Results(first, outcomes.sequences, [], {})
        ids = [0] * (len(requests) + len(unwritten))
        duplicates: list[int] = []
        errors = {first + place: error for place, error in unwritten.items()}
        places = (place for place in range(len(ids)) if place not in unwritten)
        for place, request, outcome in zip(places, requests, outcomes, strict=True):
            if not isinstance(outcome, PubAck):
                errors[first + place] = outcome
            elif outcome.duplicate:
                duplicates.append(first + place)
                ids[place] = id_of_duplicate(request, outcome)
            else:
                ids[place] = outcome.sequence
        for error in errors.values():
            self.failed(error)
        self._counts.duplicates += len(duplicates)
        self._counts.published += len(ids) - len(duplicates) - len(errors)
        return Results(first, ids, duplicates, dict(sorted(errors.items())))

    async def _store(self, request: PublishRequest, now: bytes, deadline: float, span: Span | None) -> PubAck:
        if span is None:
            write = write_of(request, deadline, now)
            return await self.settled(request, write, self._writes.write(write))
        _describe_publish(span, request)
        with span:
            ack = await self._store(request._replace(trace=span.context), now, deadline, None)
            describe_ack(span, ack)
        return ack

    async def settled(self, request: PublishRequest, write: Write, storing: Awaitable[PubAck]) -> PubAck:
        """Wait for the acknowledgement of a write; raise what it means that there is none."""
        try:
            return await storing
        except JetStreamError as refusal:
            return await self._refused(request, write, refusal)
        except NatsError as error:
            raise domain_error(error) from error

    async def _refused(self, request: PublishRequest, write: Write, refusal: JetStreamError) -> PubAck:
        """Raise what a refusal means; of an earlier attempt it says nothing.

        A conditional publish may turn out to have been stored before, or to be worth other attempts.
        """
        in_doubt = refusal.in_doubt  # whether an attempt may have stored it, though a later one was refused
        try:
            ack = await self._settle(request, write, refusal, in_doubt=in_doubt)
            if ack is not None:
                return ack
            async for _ in retry(write.deadline, first=2):
                try:
                    return await self._writes.write(write)
                except JetStreamError as error:
                    in_doubt = in_doubt or error.in_doubt
                    ack = await self._settle(request, write, error, in_doubt=in_doubt)
                    if ack is not None:
                        return ack
        except WrongLastId:
            raise
        except (WindshiftError, NatsError) as error:
            if in_doubt:
                raise OutcomeUnknown from error
            if isinstance(error, WindshiftError):
                raise  # as its own cause it would wait for the garbage collector, with all that it holds
            raise domain_error(error) from error
        raise OutcomeUnknown if in_doubt else BrokerUnavailable from refusal

    async def _settle(
        self, request: PublishRequest, write: Write, refusal: JetStreamError, *, in_doubt: bool
    ) -> PubAck | None:
        """Raise what a refusal means, or return what was stored before; `None` says to try again."""
        code, expected = refusal.err_code, request.expected_last_id
        if code in (codes.WRONG_LAST_SEQUENCE, codes.WRONG_LAST_SEQUENCE_UNTOLD) and expected is not None:
            return await self._settle_condition(request, write, refusal, expected, in_doubt=in_doubt)
        raise await self.refusal_error(refusal, request.caller, write.deadline) from refusal

    async def refusal_error(
        self, refusal: JetStreamError, caller: Principal | None, deadline: float
    ) -> Exception:
        """Say what a refusal means that is not about what else is stored.

        It names the stream to those who may see it.
        """
        named = refusal.stream if caller is None or caller.sees(refusal.stream) else ""
        if refusal.err_code == codes.MESSAGE_TOO_LARGE:
            info = await self._api.stream_info(refusal.stream, deadline)
            return EventTooLarge(int(info["config"]["max_msg_size"]), named)
        if refusal.err_code == codes.HEADER_TOO_LARGE:
            return EventTooLarge(h.MAX_BLOCK)
        return domain_error(refusal, stream=named)

    async def _settle_condition(
        self,
        request: PublishRequest,
        write: Write,
        refusal: JetStreamError,
        expected: int,
        *,
        in_doubt: bool,
    ) -> PubAck | None:
        """Decide a conditional publish that was refused.

        A stream with one replica checks the sequence before the key: the repeat of a publish that succeeded
        is refused, too. If it was ours that won, the event right after the expected one carries our key.
        Where that event is no more, only the broker's memory of keys can tell.
        """
        if request.idempotency_key:
            winner = await self._api.message(refusal.stream, {"seq": expected + 1}, write.deadline)
            key = message_id(request)
            if winner is not None and h.get(winner.block, h.MESSAGE_ID) == key:
                return PubAck(refusal.stream, winner.sequence, duplicate=True)
            first = await self.recall(key, write)
            if first is not None:
                return first
            if in_doubt and winner is None:
                raise OutcomeUnknown from refusal
        actual = codes.actual_last_sequence(refusal)
        if actual is None:
            actual = await self.last_sequence(refusal.stream, write.deadline)
        if actual != expected:
            sees = request.caller is None or request.caller.sees(refusal.stream)
            raise WrongLastId(expected, actual if sees else None) from refusal
        return None  # another write was under way when this one was refused, and came to nothing

    async def recall(self, key: bytes, write: Write) -> PubAck | None:
        """Ask the broker which event it stored for a key; `None` when it does not know the key.

        JetStream has no lookup by message id, but checks the id before it rejects an invalid message. (Of all
        that could be invalid, a rollup of an unknown kind is safe: to expect a wrong last key makes a
        replicated stream of nats-server 2.15.1 hang for good.)
        """
        block = h.block(((h.MESSAGE_ID, key), (h.ROLLUP, b"never")))
        probe = write._replace(body=b"", headers=block, repeatable=True, before=())
        try:
            ack = await self._writes.write(probe)
        except JetStreamError:
            return None
        return ack if ack.duplicate else None

    async def last_sequence(self, stream: str, deadline: float) -> int:
        """Look up the last id that was ever assigned in a stream."""
        info = await self._api.stream_info(stream, deadline)
        return int(info["state"]["last_seq"])


class _Publish(Storing):
    """A publish without a task."""

    __slots__ = ("_counts", "_publisher", "_request", "_to_response")

    def __init__(
        self,
        publisher: Publisher,
        counts: Counts,
        request: PublishRequest,
        to_response: Callable[[PublishReceipt], Any],
    ) -> None:
        self._publisher = publisher
        self._counts = counts
        self._request = request
        self._to_response = to_response

    def response(self, sequence: int) -> Any:
        """Count the event, which had not been stored before."""
        self._counts.published += 1
        return self._to_response((sequence, False))

    async def finish(self, storing: Awaitable[PubAck]) -> Any:
        """Do what `Publisher.finish` does."""
        return self._to_response(await self._publisher.finish(self._request, self._write, storing))

    def abandoned(self) -> None:
        """Count it."""
        self._publisher.failed(CancelledError())


async def _responded(
    to_response: Callable[[PublishReceipt], Any], publishing: Awaitable[PublishReceipt]
) -> Any:
    return to_response(await publishing)


def write_of(request: PublishRequest, deadline: float, now: bytes) -> Write:
    """Check everything of an event that can be checked without the broker, and word it as a message.

    `now` is when they came, see `headers.at`. Raise `InvalidField`.
    """
    given, type_url, body, at, key, expected, trace, _, asker = request
    subject = _subject(given)
    begin = _begin(type_url) if len(type_url) <= _CACHED_URL else _read_type(type_url)
    block = begin + (now if at is None else headers.time_line(*at))
    if key:
        names.idempotency_key("idempotency_key", key)
        block += b"%b: %b\r\n" % (h.MESSAGE_ID, message_id(request))  # a valid key fits into a line
    if expected is not None:
        if expected > MAX_SEQUENCE:
            raise InvalidField("expected_last_id", f"must be at most {MAX_SEQUENCE}")
        block += h.line(h.EXPECTED_LAST_SEQUENCE, b"%d" % expected)
    if trace is not None and trace is not UNRECORDED:
        block += h.line(headers.TRACE_PARENT, trace.parent.encode())
        if trace.state:
            block += h.line(headers.TRACE_STATE, trace.state.encode())
    return _new(Write, (subject, body, block + h.END, deadline, bool(key), (), asker))


def writes_of(
    items: Sequence[Item], deadline: float, now: bytes
) -> tuple[list[Write], dict[int, WindshiftError]]:
    """Do what `write_of` does for several events; return also why others are not written, by their places."""
    writes: list[Write] = []
    errors: dict[int, WindshiftError] = {}
    block, like = b"", None  # of the last one without a key, and what it is made of: most have the same
    for item in items:
        if not isinstance(item, PublishRequest):
            errors[len(writes) + len(errors)] = item
            continue
        given, type_url, body, at, key, expected, trace, _, asker = item
        try:
            if not key and like == (type_url, at, expected, trace):
                write = _new(Write, (_subject(given), body, block, deadline, False, (), asker))
            else:
                write = write_of(item, deadline, now)
                if not key:
                    block, like = write.headers, (type_url, at, expected, trace)
            writes.append(write)
        except WindshiftError as error:
            # Its traceback has this frame, and so all events: a cycle
            errors[len(writes) + len(errors)] = error.with_traceback(None)
    return writes, errors


@lru_cache(maxsize=4096)
def _subject(subject: str) -> bytes:
    names.subject("subject", subject)
    return subject.encode()


def message_id(request: PublishRequest) -> bytes:
    """Return the id by which the broker finds duplicates of an event with a key."""
    caller = request.caller
    scope = "" if caller is None else caller.key_scope(request.subject)
    return headers.message_id(request.idempotency_key, scope)


def id_of_duplicate(request: PublishRequest, ack: PubAck) -> int:
    """Return the id of an event that was stored before. Another's is for those who see the stream."""
    caller = request.caller
    is_own = caller is None or caller.key_scope(request.subject) or caller.sees(ack.stream)
    return ack.sequence if is_own else 0


def _read_type(type_url: str) -> bytes:
    return headers.begin(names.type_name("data.type_url", type_url))


_begin = lru_cache(maxsize=1024)(_read_type)
_CACHED_URL: Final = 256
"""Characters of a type URL up to which it may stay in memory."""


# --- Spans ----------------------------------------------------------------------------------------------


def _describe_publish(span: Span, request: PublishRequest) -> None:
    """Describe the event, of which nothing is validated yet."""
    span.name = c.SEND
    span.attributes = {
        c.MESSAGING_SYSTEM: c.NATS,
        c.OPERATION_NAME: c.SEND,
        c.OPERATION_TYPE: c.SEND,
        c.SUBJECT: bounded(request.subject),
        c.MESSAGE_BODY_SIZE: len(request.body),
    }


def describe_ack(span: Span, ack: PubAck) -> None:
    """Describe where the event is stored."""
    span.name = c.span_name(c.SEND, ack.stream)
    span.attributes[c.DESTINATION_NAME] = ack.stream
    if ack.sequence:  # 0 = it was not told
        span.attributes[c.MESSAGE_ID] = str(ack.sequence)
    if ack.duplicate:
        span.attributes[c.DUPLICATE] = True
