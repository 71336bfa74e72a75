"""Handing deliveries over from call to call, when a client goes on with them elsewhere: what servers say.

The call that takes a delivery over says so; a call of the same consumer that has this delivery lets it go.
Whoever knows better objects: it has a later delivery of the event, has settled it, or is settling it. Then
the call that wanted it lets it go. Notes may be lost: what somebody else holds nevertheless ends as events in
doubt do (`DeadLetterStore.claim`).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from math import inf
from struct import Struct
from typing import Final, NamedTuple, Protocol

from windshift.nats.jetstream.pulling import split_ack_subject
from windshift.server.events.consuming.flow import InFlight
from windshift.server.events.consuming.settlement import PendingAck
from windshift.server.events.model import StreamSeq

OBJECTED_WITHIN: Final = 0.1
"""Seconds that objections may take before a client's commands are carried out. There is no hurry: its
deliveries are prolonged."""
CERTAIN_AFTER: Final = 1.0
"""Seconds that objections may take before a client may give up on an event that it went on with."""

_NUMBER: Final = Struct(">Q")
_DELIVERY: Final = Struct(">3Q")


class DeliveryName(NamedTuple):
    """What tells one delivery of a consumer from all others: the broker counts deliveries in `sequence`."""

    seq: StreamSeq
    attempt: int
    sequence: int


class Holder(Protocol):
    """A call that may hold deliveries of a consumer."""

    @property
    def run_name(self) -> str:
        """Name of the run of the consumer that the call is in."""
        ...

    def taken(self, number: int, deliveries: Iterable[DeliveryName]) -> list[StreamSeq]:
        """Let deliveries go that the call of this number takes over, and return the events for which not."""
        ...

    def objected(self, number: int, seqs: Iterable[StreamSeq]) -> None:
        """Let deliveries go that the call of this number was not to have."""
        ...


class TakeOver:
    """What a call has taken over from earlier ones; without arguments, nothing.

    Args:
        now: when it does, in the loop's time.

    Attributes:
        held: what it took over, by event.
        number: of the call as one that takes over; 0 = it does not.
        names: what it took over, to be told to other calls.
        pending: the pings of what it took over; none once all are answered and nobody has objected. Until
            then the client's commands wait.
        due: when objections have come, as a rule; inf once they have.
    """

    __slots__ = ("_since", "due", "held", "names", "number", "pending")

    def __init__(self, number: int = 0, now: float = -inf) -> None:
        self.number = number
        self.names: list[DeliveryName] = []
        self.pending: list[PendingAck] = []
        self.due = now + OBJECTED_WITHIN if number else inf
        self._since = now
        self.held: dict[StreamSeq, InFlight] = {}

    def add(self, held: InFlight, ping: PendingAck) -> None:
        """Note a delivery, and the ping that was sent for it."""
        self.held[ping.seq] = held
        self.pending.append(ping)
        self.names.append(name_of(held.reply))

    def has(self, seq: StreamSeq, held: InFlight | None) -> bool:
        """Whether what the call holds of an event was taken over."""
        return held is not None and self.held.get(seq) is held

    def is_later(self, number: int, now: float) -> bool:
        """Whether the call goes before another that wants the same deliveries, as far as that is open."""
        return self.number > number and now < self.certain_at

    @property
    def certain_at(self) -> float:
        """When nobody will object any more."""
        return self._since + CERTAIN_AFTER

    def advance(self, now: float) -> None:
        """Have the client settle what it goes on with, if nobody has objected and the broker has answered."""
        if now >= self.due:
            self.due = inf
        if self.due == inf and all(ping.answered for ping in self.pending):
            self.pending.clear()

    def forget(self) -> None:
        """Forget the deliveries: the consumer was moved."""
        self.held.clear()


def new_number() -> int:
    """Return a number for a call that takes deliveries over. Later ones are higher, if clocks agree."""
    return time.time_ns() >> 16 << 16 | secrets.randbits(16)


def name_of(reply: bytes) -> DeliveryName:
    """Return the name of a delivery, by its reply subject."""
    attempt, seq, sequence, *_ = split_ack_subject(reply)
    return DeliveryName(StreamSeq(int(seq)), int(attempt), int(sequence))


def write_taken(number: int, deliveries: Iterable[DeliveryName]) -> bytes:
    """Write the number of a call, and what it takes over."""
    return _NUMBER.pack(number) + b"".join(_DELIVERY.pack(*each) for each in deliveries)


def read_taken(body: bytes) -> tuple[int, list[DeliveryName]]:
    """Read what `write_taken` wrote; raise `struct.error` for anything else."""
    (number,) = _NUMBER.unpack_from(body)
    return number, [
        DeliveryName(StreamSeq(seq), attempt, sequence)
        for seq, attempt, sequence in _DELIVERY.iter_unpack(body[_NUMBER.size :])
    ]


def write_objection(number: int, seqs: Iterable[StreamSeq]) -> bytes:
    """Write the number of a call, and the events that it is not to have."""
    return _NUMBER.pack(number) + b"".join(map(_NUMBER.pack, seqs))


def read_objection(body: bytes) -> tuple[int, list[StreamSeq]]:
    """Read what `write_objection` wrote; raise `struct.error` for anything else."""
    (number,) = _NUMBER.unpack_from(body)
    return number, [StreamSeq(seq) for (seq,) in _NUMBER.iter_unpack(body[_NUMBER.size :])]
