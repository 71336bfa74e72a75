"""Publishing an event: check it, say it in JetStream's terms, and say what the broker's answer means."""

from __future__ import annotations

import re
import time
from functools import lru_cache
from typing import Final

from windshift.server import names
from windshift.server.errors import (
    BrokerUnavailable,
    EventTooLarge,
    InvalidField,
    OutcomeUnknown,
    StreamFull,
    WindshiftError,
    WrongLastId,
)
from windshift.server.events.counts import Counts
from windshift.server.events.model import PublishReceipt, PublishRequest, StreamSeq
from windshift.server.events.spans import describe_ack, describe_publish
from windshift.server.nats import headers as h
from windshift.server.nats.jetstream import (
    HEADER_TOO_LARGE,
    MESSAGE_TOO_LARGE,
    WRONG_LAST_SEQUENCE,
    WRONG_LAST_SEQUENCE_UNTOLD,
    Backoff,
    JetStreamApi,
    PubAck,
    RefusedByBroker,
    domain_error,
    pause_within,
)
from windshift.server.nats.timestamps import NANOSECONDS
from windshift.server.nats.writes import Write, Writes
from windshift.server.telemetry.conventions import Kind
from windshift.server.telemetry.tracer import Span, Tracer

MAX_SEQUENCE: Final = 2**63 - 1
"""The broker reads sequences in headers as signed 64-bit numbers."""

_ACTUAL = re.compile(r"wrong last sequence: (\d+)")


class Publisher:
    """Stores events in whatever stream takes their subject."""

    def __init__(
        self,
        api: JetStreamApi,
        writes: Writes,
        counts: Counts | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._api = api
        self._writes = writes
        self._backoff = Backoff()
        self._counts = counts or Counts()
        self._tracer = tracer

    async def publish(self, request: PublishRequest, deadline: float) -> PublishReceipt:
        """Store an event, or find that its key was stored already; give up at `deadline` (loop time).

        Raise the errors that the contract names for a publish. An event without a key is not sent again once
        it may have reached the broker: its publisher is told that the outcome is unknown.

        The event carries the trace context of the request or, where it is recorded, that of its publication.
        """
        counts = self._counts
        span = None if self._tracer is None else self._tracer.start(Kind.PRODUCER, request.trace)
        try:
            if span is None:
                ack = await self._store(request, deadline)
            else:
                ack = await self._record(span, request, deadline)
        except BaseException as error:
            counts.publish_failed(error)
            raise
        if ack.duplicate:
            counts.duplicates += 1
        else:
            counts.published += 1
        return PublishReceipt(StreamSeq(ack.sequence), ack.duplicate)

    async def _record(self, span: Span, request: PublishRequest, deadline: float) -> PubAck:
        describe_publish(span, request)
        with span:
            ack = await self._store(request._replace(trace=span.context), deadline)
            describe_ack(span, ack)
        return ack

    async def _store(self, request: PublishRequest, deadline: float) -> PubAck:
        write = Write(
            request.subject, request.body, _headers(request), deadline, bool(request.idempotency_key)
        )
        in_doubt = False  # whether an attempt may have stored the event, though a later one was refused
        try:
            while True:
                try:
                    return await self._writes.write(write)
                except RefusedByBroker as refusal:
                    in_doubt = in_doubt or refusal.in_doubt
                    ack = await self._refused(request, write, refusal, in_doubt=in_doubt)
                    if ack is not None:
                        return ack
        except WrongLastId:
            raise
        except WindshiftError as error:
            if in_doubt:
                raise OutcomeUnknown from error
            raise

    async def _refused(
        self, request: PublishRequest, write: Write, refusal: RefusedByBroker, *, in_doubt: bool
    ) -> PubAck | None:
        """Raise what a refusal means; of an earlier attempt it says nothing.

        A conditional publish may turn out to have been stored before, or (`None`) to be worth another
        attempt.
        """
        code = refusal.err_code
        if code in (WRONG_LAST_SEQUENCE, WRONG_LAST_SEQUENCE_UNTOLD) and request.expected_last_id is not None:
            return await self._settle_condition(
                request, write, refusal, request.expected_last_id, in_doubt=in_doubt
            )
        if code == MESSAGE_TOO_LARGE:
            raise EventTooLarge(await self._size_limit(refusal.stream, write.deadline)) from refusal
        if code == HEADER_TOO_LARGE:
            raise EventTooLarge(h.MAX_BLOCK) from refusal
        if refusal.is_full:
            raise StreamFull from refusal
        raise domain_error(refusal, stream=refusal.stream) from refusal

    async def _settle_condition(
        self,
        request: PublishRequest,
        write: Write,
        refusal: RefusedByBroker,
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
            if winner is not None and winner.headers.get(h.MESSAGE_ID) == request.idempotency_key:
                return PubAck(refusal.stream, winner.sequence, duplicate=True)
            first = await self._recall(request.idempotency_key, write)
            if first is not None:
                return first
            if in_doubt and winner is None:
                raise OutcomeUnknown from refusal
        told = _ACTUAL.match(refusal.description)
        actual = int(told[1]) if told else await self._last_sequence(refusal.stream, write.deadline)
        if actual != expected:
            raise WrongLastId(expected, actual) from refusal
        # Another write was under way when this one was refused, and came to nothing.
        if not await pause_within(self._backoff.pauses(), write.deadline):
            raise BrokerUnavailable from refusal
        return None

    async def _recall(self, key: str, write: Write) -> PubAck | None:
        """Ask the broker which event it stored for a key; `None` when it does not know the key.

        There is no question for that. But of a message that says something impossible it looks at the key
        before it refuses the rest. (Of all impossible things this one is safe: to expect a wrong last key
        makes a replicated stream of nats-server 2.15.1 hang for good.)
        """
        headers = {h.MESSAGE_ID: h.Verified(key), h.ROLLUP: h.Verified("never")}
        try:
            ack = await self._writes.write(
                Write(write.subject, b"", headers, write.deadline, repeatable=True)
            )
        except RefusedByBroker:
            return None
        return ack if ack.duplicate else None

    async def _last_sequence(self, stream: str, deadline: float) -> int:
        info = await self._api.stream_info(stream, deadline)
        return int(info["state"]["last_seq"])

    async def _size_limit(self, stream: str, deadline: float) -> int:
        info = await self._api.stream_info(stream, deadline)
        return int(info["config"]["max_msg_size"])


def _headers(request: PublishRequest) -> dict[str, h.Verified]:
    """Check everything that can be checked without the broker, and word it as headers."""
    names.subject("subject", request.subject)
    seconds, nanos = request.time or divmod(time.time_ns(), NANOSECONDS)
    type_url = request.type_url
    headers = {
        h.DATA_TYPE: _data_type(type_url) if len(type_url) <= _CACHED_URL else _read_data_type(type_url),
        h.PUBLISHED_TIME: h.format_rfc3339(seconds, nanos),
    }
    if request.idempotency_key:
        names.idempotency_key("idempotency_key", request.idempotency_key)
        headers[h.MESSAGE_ID] = h.Verified(request.idempotency_key)
    if request.expected_last_id is not None:
        headers[h.EXPECTED_LAST_SEQUENCE] = _sequence("expected_last_id", request.expected_last_id)
    if request.trace is not None:
        headers[h.TRACE_PARENT] = h.Verified(request.trace.parent)
        if request.trace.state:
            headers[h.TRACE_STATE] = h.Verified(request.trace.state)
    return headers


def _read_data_type(type_url: str) -> h.Verified:
    return h.Verified(names.type_name("data.type_url", type_url))


_data_type = lru_cache(maxsize=1024)(_read_data_type)
_CACHED_URL: Final = 256
"""Characters of a type URL up to which it may stay in memory."""


def _sequence(field: str, value: int) -> h.Verified:
    if value > MAX_SEQUENCE:
        raise InvalidField(field, f"must be at most {MAX_SEQUENCE}")
    return h.Verified(value)
