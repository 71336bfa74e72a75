"""What servers tell each other of events that are settled, so that nobody works on them once more.

The broker does not help in two cases. A delivery that was held up on its way may reach another server after
the event was settled: whoever settles an event that may have been delivered twice says so, and whoever gets
a delivery that may be late asks the broker something first; the note arrives before the answer. A nats-server
without replicas that is killed forgets what it confirmed in its last moment: each server says what that was,
once the broker is back.

Beside that they hand deliveries over from call to call, when a client goes on with them elsewhere
(`resuming`). The call that takes a delivery over says so; a call of the same consumer that has this delivery
lets it go. Whoever knows better objects: it has a later delivery of the event, has settled it, or is settling
it. Then the call that wanted it lets it go.

Notes may be lost, and decide nothing. How an event ends is decided by `DeadLetterStore.claim`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from struct import Struct, pack, unpack
from typing import Final

from windshift.server.events.consuming.calls import Call, Calls
from windshift.server.events.consuming.redelivery import ANY_TIME, SettledByConsumer
from windshift.server.events.deliveries import DeliveryName
from windshift.server.events.model import ConsumerKey, StreamSeq
from windshift.server.events.notes import FORGETTABLE, OBJECTED, SETTLED, TAKEN, Notes

_AT_ONCE: Final = 8_192
"""Ids in one note."""

_TIMED: Final = 2**64 - 1
"""The id of no event. A note has ids and as many times between two of these; to older servers all are ids."""

_EMPTY: Final = 2
"""Numbers in a note of no events."""
_TOLD_AFTER: Final = (0.0, 0.3, 0.8, 1.6)
"""Seconds after a reconnect: others may be connected a little later."""

HEARD_WITHIN: Final = 1.0
"""Seconds after a reconnect in which others say what they had settled before."""

_NUMBER: Final = Struct(">Q")
_DELIVERY: Final = Struct(">3Q")


class Peers:
    """The servers beside this one.

    Args:
        notes: carries what they say.
        settled: what is remembered here.
        calls: the calls here.
    """

    def __init__(self, notes: Notes, settled: SettledByConsumer, calls: Calls) -> None:
        self._notes = notes
        self._settled = settled
        self._calls = calls
        self._back_at = -HEARD_WITHIN

    def start(self) -> None:
        """Hear them from now on."""
        self._notes.read(SETTLED, self._hear_settled)
        self._notes.read(FORGETTABLE, self._hear_forgettable)
        self._notes.read(TAKEN, self._hear_taken)
        self._notes.read(OBJECTED, self._hear_objection)

    def tell_taken(
        self, consumer: ConsumerKey, run: str, number: int, deliveries: list[DeliveryName]
    ) -> None:
        """Tell what a call goes on with, and in which run of the consumer."""
        for start in range(0, len(deliveries), _AT_ONCE):
            body = write_taken(number, deliveries[start : start + _AT_ONCE])
            self._notes.send(TAKEN, *consumer, _of(run, body))

    def tell_settled(self, consumer: ConsumerKey, run: str, events: Mapping[StreamSeq, int]) -> None:
        """Tell of events that may be on their way to others, and when each was stored."""
        self._tell(SETTLED, consumer, run, events)

    def connected(self) -> None:
        """Tell what was settled just before the broker was lost."""
        loop = asyncio.get_running_loop()
        self._back_at = loop.time()
        for consumer, run, events in self._settled.forgettable():
            for delay in _TOLD_AFTER:
                loop.call_later(delay, self._tell, FORGETTABLE, consumer, run, events)

    def leave(self) -> None:
        """Tell those who stay what the broker may have forgotten: this server is about to stop."""
        for consumer, run, events in self._settled.doubted(self._now()):
            self._tell(FORGETTABLE, consumer, run, events)

    async def heard(self, within: float = HEARD_WITHIN) -> None:
        """Wait until others have had so many seconds since the last reconnect to say what they know."""
        await asyncio.sleep(max(0.0, self._back_at + within - asyncio.get_running_loop().time()))

    def _tell(self, kind: str, consumer: ConsumerKey, run: str, events: Mapping[StreamSeq, int]) -> None:
        seqs = list(events)
        for start in range(0, len(seqs), _AT_ONCE):
            some = {seq: events[seq] for seq in seqs[start : start + _AT_ONCE]}
            self._notes.send(kind, *consumer, write_settled(run, some))

    def _hear_settled(self, stream: str, consumer: str, body: bytes) -> None:
        self._settled.add(ConsumerKey(stream, consumer), *read_settled(body), self._now())

    def _hear_forgettable(self, stream: str, consumer: str, body: bytes) -> None:
        self._settled.hear(ConsumerKey(stream, consumer), *read_settled(body), self._now())

    def _hear_taken(self, stream: str, consumer: str, body: bytes) -> None:
        run, about = _read_of(body)
        key, (number, deliveries) = ConsumerKey(stream, consumer), read_taken(about)
        lately = self._settled.lately(key, run)
        objections = {each.seq for each in deliveries if lately(each.seq)}
        for call in self._calls_of(key, run):
            objections.update(call.taken(number, deliveries))
        if objections:
            self._notes.send(OBJECTED, *key, _of(run, write_objection(number, objections)))

    def _hear_objection(self, stream: str, consumer: str, body: bytes) -> None:
        run, about = _read_of(body)
        number, seqs = read_objection(about)
        for call in self._calls_of(ConsumerKey(stream, consumer), run):
            call.objected(number, seqs)

    def _calls_of(self, consumer: ConsumerKey, run: str) -> Iterator[Call]:
        return (call for call in self._calls.of(consumer) if call.run_name == run)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _of(run: str, body: bytes) -> bytes:
    """Write what a note says of a run of a consumer."""
    return b"%b\n%b" % (run.encode(), body)


def _read_of(body: bytes) -> tuple[str, bytes]:
    run, _, about = body.partition(b"\n")
    return run.decode(), about


def write_settled(run: str, events: Mapping[StreamSeq, int]) -> bytes:
    """Write which events are settled in a run of a consumer: their ids, and when each was stored."""
    return _of(run, pack(f">{2 + 2 * len(events)}Q", _TIMED, *events, *events.values(), _TIMED))


def read_settled(body: bytes) -> tuple[str, dict[StreamSeq, int]]:
    """Read what `write_settled` wrote, or an older server, which writes ids only, in any order, each once.

    Raise `ValueError` or `struct.error` for anything else.
    """
    run, packed = _read_of(body)
    numbers = unpack(f">{len(packed) // 8}Q", packed)
    if len(numbers) < _EMPTY or not numbers[0] == numbers[-1] == _TIMED:
        return run, dict.fromkeys(map(StreamSeq, numbers), ANY_TIME)
    half = len(numbers) // 2
    return run, dict(zip(map(StreamSeq, numbers[1:half]), numbers[half:-1], strict=True))


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
