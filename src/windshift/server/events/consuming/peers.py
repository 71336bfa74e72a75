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
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from struct import pack, unpack
from typing import Final, TypeAlias

from windshift.server.background.batches import batches
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

_Remember: TypeAlias = Callable[[ConsumerKey, str, Mapping[StreamSeq, int], float], None]
"""Takes the events of a consumer's run that others have settled, and the loop's time."""


class Peers:
    """The servers beside this one, and what is remembered and done here of what they say."""

    def __init__(self, notes: Notes, settled: SettledByConsumer, calls: Calls) -> None:
        self._notes = notes
        self._settled = settled
        self._calls = calls
        self._back_at = -HEARD_WITHIN

    def start(self) -> None:
        """Hear them from now on."""
        self._notes.read(SETTLED, partial(self._hear_settled, self._settled.add))
        self._notes.read(FORGETTABLE, partial(self._hear_settled, self._settled.hear))
        self._notes.read(TAKEN, self._hear_taken)
        self._notes.read(OBJECTED, self._hear_objection)

    def tell_taken(
        self, consumer: ConsumerKey, run: str, number: int, deliveries: list[DeliveryName]
    ) -> None:
        """Tell what a call goes on with, and in which run of the consumer."""
        for some in batches(deliveries, _AT_ONCE):
            self._notes.send(TAKEN, *consumer, _write(run, number, *chain.from_iterable(some)))

    def tell_settled(
        self, consumer: ConsumerKey, run: str, events: Mapping[StreamSeq, int], kind: str = SETTLED
    ) -> None:
        """Tell of events that may be on their way to others, and when each was stored."""
        for some in batches(list(events.items()), _AT_ONCE):
            self._notes.send(kind, *consumer, write_settled(run, dict(some)))

    def connected(self) -> None:
        """Tell what was settled just before the broker was lost."""
        loop = asyncio.get_running_loop()
        self._back_at = loop.time()
        for consumer, run, events in self._settled.forgettable():
            for delay in _TOLD_AFTER:
                loop.call_later(delay, self.tell_settled, consumer, run, events, FORGETTABLE)

    def leave(self) -> None:
        """Tell those who stay what the broker may have forgotten: this server is about to stop."""
        for consumer, run, events in self._settled.doubted(self._now()):
            self.tell_settled(consumer, run, events, FORGETTABLE)

    async def heard(self, within: float = HEARD_WITHIN) -> None:
        """Wait until others have had so many seconds since the last reconnect to say what they know."""
        await asyncio.sleep(max(0.0, self._back_at + within - asyncio.get_running_loop().time()))

    def _hear_settled(self, remember: _Remember, stream: str, consumer: str, body: bytes) -> None:
        remember(ConsumerKey(stream, consumer), *read_settled(body), self._now())

    def _hear_taken(self, stream: str, consumer: str, body: bytes) -> None:
        run, (number, *numbers) = _read(body)
        key = ConsumerKey(stream, consumer)
        deliveries = [
            DeliveryName(StreamSeq(seq), attempt, sequence)
            for seq, attempt, sequence in zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)
        ]
        lately = self._settled.lately(key, run)
        objections = {each.seq for each in deliveries if lately(each.seq)}
        for call in self._calls_of(key, run):
            objections.update(call.taken(number, deliveries))
        if objections:
            self._notes.send(OBJECTED, *key, _write(run, number, *objections))

    def _hear_objection(self, stream: str, consumer: str, body: bytes) -> None:
        run, (number, *ids) = _read(body)
        seqs = [*map(StreamSeq, ids)]
        for call in self._calls_of(ConsumerKey(stream, consumer), run):
            call.objected(number, seqs)

    def _calls_of(self, consumer: ConsumerKey, run: str) -> Iterator[Call]:
        return (call for call in self._calls.of(consumer) if call.run_name == run)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _write(run: str, *numbers: int) -> bytes:
    """Write what a note says of a run of a consumer, in numbers of 64 bits."""
    return b"%b\n%b" % (run.encode(), pack(f">{len(numbers)}Q", *numbers))


def _read(body: bytes) -> tuple[str, Sequence[int]]:
    """Read what `_write` wrote; raise `ValueError` or `struct.error` for anything else."""
    run, _, packed = body.partition(b"\n")
    return run.decode(), unpack(f">{len(packed) // 8}Q", packed)


def write_settled(run: str, events: Mapping[StreamSeq, int]) -> bytes:
    """Write which events are settled in a run of a consumer: their ids, and when each was stored."""
    return _write(run, _TIMED, *events, *events.values(), _TIMED)


def read_settled(body: bytes) -> tuple[str, dict[StreamSeq, int]]:
    """Read what `write_settled` wrote, or an older server, which writes ids only, in any order, each once.

    Raise `ValueError` or `struct.error` for anything else.
    """
    run, numbers = _read(body)
    if len(numbers) < _EMPTY or not numbers[0] == numbers[-1] == _TIMED:
        return run, dict.fromkeys(map(StreamSeq, numbers), ANY_TIME)
    half = len(numbers) // 2
    return run, dict(zip(map(StreamSeq, numbers[1:half]), numbers[half:-1], strict=True))
