"""Writing to JetStream: one message, one answer, with patience until the caller's deadline.

What is promised, and what not:

- Nothing is sent while there is no connection. A write that waits for one, for its turn or for a leader was
not stored, and `BrokerUnavailable` or `TooManyInFlight` say so.
- A write that may have arrived is sent again only if that does no harm, because it carries a key by which the
broker knows it again. Otherwise, and at the deadline, the outcome is unknown and `OutcomeUnknown` says so.
- What is said of a later attempt says nothing of an earlier one that may have arrived: see
`RefusedByBroker.in_doubt`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

from windshift.server.errors import (
    BrokerUnavailable,
    EventTooLarge,
    ForbiddenByBroker,
    OutcomeUnknown,
    TooManyInFlight,
    UnboundSubject,
)
from windshift.server.nats import headers as h
from windshift.server.nats.connection import Connection, NotConnected
from windshift.server.nats.jetstream import (
    DUPLICATE_IN_PROCESS,
    TEMPORARY,
    Backoff,
    JetStreamApi,
    PubAck,
    RefusedByBroker,
    pause_within,
    read_pub_ack,
)
from windshift.server.nats.replies import NoReply, Replies
from windshift.server.nats.turns import Turns


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """How many writes may be under way, and how patient each is."""

    max_in_flight: int = 256
    max_waiting: int = 10_000
    patience: timedelta = timedelta(seconds=1)
    """How long an answer may take before it is looked up whether a stream takes the subject at all."""
    attempt_timeout: timedelta = timedelta(seconds=3)
    """When a write that may be repeated is sent again: a leader that died does not answer."""
    backoff: Backoff = field(default_factory=Backoff)
    lookup_timeout: timedelta = timedelta(seconds=1)
    bound_for: timedelta = timedelta(seconds=5)
    """How long a subject is believed to have a stream, once one was found."""


class Write(NamedTuple):
    """A message for JetStream. There is one per publish, so it is a tuple."""

    subject: str
    body: bytes
    headers: Mapping[str, str] | None
    deadline: float
    """In the loop's time."""
    repeatable: bool = False
    """Whether the broker would know this message again, so that sending it twice does no harm."""


class _NotSent(Enum):
    NOT_CONNECTED = "there was no connection"


class _Found(NamedTuple):
    """A stream that takes a subject."""

    until: float
    """How long that is believed."""
    answers: bool
    """Whether it says that it has stored something."""


_Outcome: TypeAlias = bytes | NoReply | _NotSent

_AGAIN: Final = TEMPORARY | {DUPLICATE_IN_PROCESS}
_MOST_FOUND: Final = 4096


class Writes:
    """Writes to streams. All of this process must go through one of these: it bounds them together."""

    def __init__(
        self, connection: Connection, replies: Replies, api: JetStreamApi, options: WriteOptions | None = None
    ) -> None:
        self._connection = connection
        self._replies = replies
        self._api = api
        self._options = options or WriteOptions()
        self._patience = self._options.patience.total_seconds()
        self._attempt_timeout = self._options.attempt_timeout.total_seconds()
        self._turns = Turns(self._options.max_in_flight, self._options.max_waiting)
        self._patient = 0
        self._found: dict[str, _Found] = {}
        self._looking: dict[str, asyncio.Task[_Found | None]] = {}

    @property
    def in_flight(self) -> int:
        """How many writes wait for the broker's answer."""
        return self._options.max_in_flight - self._turns.free

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return self._turns.waiting

    async def write(self, write: Write) -> PubAck:
        """Store a message; return the broker's word for it.

        Raise `RefusedByBroker` for an error that another attempt would meet too, `UnboundSubject`,
        `EventTooLarge` for more than the broker takes now, `TooManyInFlight`, `BrokerUnavailable` or
        `OutcomeUnknown`.
        """
        outcome = await self._attempt(write)
        ack = _read(outcome)
        return await self._persist(write, outcome) if ack is None else ack

    async def _attempt(self, write: Write) -> _Outcome:
        """Take a turn, send once and wait for the answer."""
        if not self._turns.take_now():
            await self._turns.take(write.deadline)
        loop = self._replies.loop
        now, until = loop.time(), write.deadline
        doubt_at = min(now + self._patience, (now + until) / 2)
        if write.repeatable:
            until = min(until, now + self._attempt_timeout)
        try:
            self._check_size(write)
            return await self._replies.patient_request(
                write.subject, write.body, write.headers, doubt_at, until, self._judge
            )
        except NotConnected:
            return _NotSent.NOT_CONNECTED
        except asyncio.CancelledError:
            if loop.time() >= write.deadline:
                raise OutcomeUnknown from None
            raise
        finally:
            self._turns.give_back()

    async def _persist(self, write: Write, outcome: _Outcome) -> PubAck:
        """Go on after a first attempt that was not the last word."""
        if self._patient >= self._options.max_waiting:
            raise OutcomeUnknown if _may_have_arrived(outcome) else TooManyInFlight
        self._patient += 1
        sent = False
        pauses = self._options.backoff.pauses()
        try:
            while (ack := _read(outcome)) is None:
                sent = sent or _may_have_arrived(outcome)
                await self._prepare_repeat(write, outcome, pauses, sent=sent)
                outcome = await self._attempt(write)
        except (BrokerUnavailable, EventTooLarge, TooManyInFlight, UnboundSubject):
            if sent:
                raise OutcomeUnknown from None
            raise
        except RefusedByBroker as refusal:
            refusal.in_doubt = sent
            raise
        except asyncio.CancelledError:
            if asyncio.get_running_loop().time() >= write.deadline:
                raise OutcomeUnknown if sent else BrokerUnavailable from None
            raise
        finally:
            self._patient -= 1
        return ack

    async def _prepare_repeat(
        self, write: Write, outcome: _Outcome, pauses: Iterator[float], *, sent: bool
    ) -> None:
        """Return when it is right and time to send again; raise what the caller is to be told otherwise."""
        if outcome is NoReply.UNANSWERING:
            raise OutcomeUnknown(_NO_ACK)
        if sent and not write.repeatable:
            raise OutcomeUnknown
        if outcome is NoReply.FORBIDDEN:
            raise ForbiddenByBroker
        if outcome is _NotSent.NOT_CONNECTED or outcome is NoReply.DISCONNECTED:
            await self._connection.wait_connected(write.deadline)
        elif outcome is NoReply.NO_RESPONDERS:
            await self._pause_unless_unbound(write, pauses)
        elif not await pause_within(pauses, write.deadline):
            raise BrokerUnavailable

    async def _pause_unless_unbound(self, write: Write, pauses: Iterator[float]) -> None:
        """Wait a moment before the next attempt; raise `UnboundSubject` as soon as that is known.

        While leaders change, who knows the streams may be away for longer than the stream.
        """
        looking = self._look_up(write.subject)
        pausing = asyncio.ensure_future(pause_within(pauses, write.deadline))
        try:
            await asyncio.wait((looking, pausing), return_when=asyncio.FIRST_COMPLETED)
            if looking.done() and looking.result() is None:
                raise UnboundSubject(write.subject)
            if not await pausing:
                raise BrokerUnavailable
        finally:
            pausing.cancel()

    def _check_size(self, write: Write) -> None:
        """Refuse what the broker would end the connection over: it may be another one than before."""
        max_payload = self._connection.max_payload
        size = len(write.body) + (h.encoded_size(write.headers) if write.headers else 0)
        if size > max_payload:
            raise EventTooLarge(max_payload)

    async def _judge(self, subject: str, deadline: float) -> NoReply | None:
        """Say of what was sent to this subject why no answer will come; `None` where one still may."""
        looking = self._look_up(subject)
        await asyncio.wait((looking,), timeout=deadline - self._replies.loop.time())
        if not looking.done():
            return None
        found = looking.result()
        if found is None:
            return NoReply.NO_RESPONDERS
        return None if found.answers else NoReply.UNANSWERING

    def _look_up(self, subject: str) -> asyncio.Task[_Found | None]:
        """Find the stream that takes this subject, once for all who ask meanwhile."""
        looking = self._looking.get(subject)
        if looking is None:
            looking = self._looking[subject] = self._replies.loop.create_task(self._find(subject))
            looking.add_done_callback(lambda _: self._looking.pop(subject, None))
        return looking

    async def _find(self, subject: str) -> _Found | None:
        """Ask for the stream that takes this subject. When nobody can tell now, believe that there is one."""
        now = self._replies.loop.time
        known = self._found.get(subject)
        if known is not None and known.until > now():
            return known
        until = now() + self._options.lookup_timeout.total_seconds()
        try:
            streams = await self._api.stream_names(subject, until)
            answers = not streams or await self._answers(streams[0], until)
        except (BrokerUnavailable, RefusedByBroker):
            return _Found(now(), answers=True)
        if not streams:
            return None
        if len(self._found) >= _MOST_FOUND:
            self._found.clear()
        found = _Found(now() + self._options.bound_for.total_seconds(), answers)
        self._found[subject] = found
        return found

    async def _answers(self, stream: str, deadline: float) -> bool:
        """Say whether a stream confirms what it stores; when it cannot be asked now, say yes."""
        try:
            info = await self._api.stream_info(stream, deadline)
        except (BrokerUnavailable, RefusedByBroker):
            return True
        return not info["config"].get("no_ack", False)


_NO_ACK: Final = (
    "the stream is set not to answer (no_ack), so nobody can tell whether it stored this; have it answer"
)


_GONE: Final = frozenset({NoReply.NO_RESPONDERS, NoReply.FORBIDDEN})
"""Why there is no answer where the message certainly did not arrive."""


def _read(outcome: _Outcome) -> PubAck | None:
    """Return the broker's word, `None` when the write is to be tried again; raise its final refusal."""
    if not isinstance(outcome, bytes):
        return None
    try:
        return read_pub_ack(outcome)
    except RefusedByBroker as refusal:
        if refusal.err_code in _AGAIN:
            return None
        raise
    except ValueError:
        raise OutcomeUnknown("something other than a stream answered; the write may be stored") from None


def _may_have_arrived(outcome: _Outcome) -> bool:
    return isinstance(outcome, NoReply) and outcome not in _GONE
