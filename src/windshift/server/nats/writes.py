"""Writing to JetStream: one message, one answer, with patience until the caller's deadline.

What is promised, and what not:

- Nothing is sent while there is no connection. A write that waits for one, for its turn or for a leader was
not stored, and `BrokerUnavailable` or `TooManyInFlight` say so.
- A write that may have arrived is sent again only if that does no harm, because it carries a key by which the
broker knows it again. Otherwise, and at the deadline, the outcome is unknown and `OutcomeUnknown` says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

from windshift.server.errors import BrokerUnavailable, OutcomeUnknown, TooManyInFlight, UnboundSubject
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


_Outcome: TypeAlias = bytes | NoReply | _NotSent

_AGAIN: Final = TEMPORARY | {DUPLICATE_IN_PROCESS}
_MOST_BOUND: Final = 4096


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
        self._bound: dict[str, float] = {}

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
        `TooManyInFlight`, `BrokerUnavailable` or `OutcomeUnknown`.
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
            return await self._replies.patient_request(
                write.subject, write.body, write.headers, doubt_at, until, self._is_unbound
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
        except (BrokerUnavailable, TooManyInFlight):
            if sent:
                raise OutcomeUnknown from None
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
        if sent and not write.repeatable:
            raise OutcomeUnknown
        if outcome is NoReply.NO_RESPONDERS and await self._is_unbound(write.subject, write.deadline):
            raise UnboundSubject(write.subject)
        if outcome is _NotSent.NOT_CONNECTED or outcome is NoReply.DISCONNECTED:
            await self._connection.wait_connected(write.deadline)
        elif not await pause_within(pauses, write.deadline):
            raise BrokerUnavailable

    async def _is_unbound(self, subject: str, deadline: float) -> bool:
        """Say whether no stream takes this subject; when nobody can tell now, say no."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._bound.get(subject, 0.0) > now:
            return False
        until = min(deadline, now + self._options.lookup_timeout.total_seconds())
        try:
            bound = bool(await self._api.stream_names(subject, until))
        except (BrokerUnavailable, RefusedByBroker):
            return False
        if bound:
            if len(self._bound) >= _MOST_BOUND:
                self._bound.clear()
            self._bound[subject] = loop.time() + self._options.bound_for.total_seconds()
        return not bound


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
    return outcome is NoReply.TIMED_OUT or outcome is NoReply.DISCONNECTED
