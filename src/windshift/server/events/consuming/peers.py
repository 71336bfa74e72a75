"""What servers tell each other of events that are settled, so that nobody works on them once more.

The broker does not help in two cases. A delivery that was held up on its way may reach another server after
the event was settled: whoever settles an event that may have been delivered twice says so, and whoever gets
a delivery that may be late asks the broker something first; the note arrives before the answer. A nats-server
without replicas that is killed forgets what it confirmed in its last moment: each server says what that was,
once the broker is back.

Notes may be lost, and decide nothing. How an event ends is decided by `DeadLetterStore.claim`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from struct import pack, unpack
from typing import Final

from windshift.server.events.consuming.redelivery import SettledByConsumer
from windshift.server.events.model import ConsumerKey, StreamSeq
from windshift.server.events.notes import FORGETTABLE, SETTLED, Notes

_AT_ONCE: Final = 8_192
"""Ids in one note."""

_TOLD_AFTER: Final = (0.0, 0.3, 0.8, 1.6)
"""Seconds after a reconnect: others may be connected a little later."""

HEARD_WITHIN: Final = 1.0
"""Seconds after a reconnect in which others say what they had settled before."""


class Peers:
    """The servers beside this one.

    Args:
        notes: carries what they say.
        settled: what is remembered here.
    """

    def __init__(self, notes: Notes, settled: SettledByConsumer) -> None:
        self._notes = notes
        self._settled = settled
        self._back_at = -HEARD_WITHIN

    def start(self) -> None:
        """Hear them from now on."""
        self._notes.read(SETTLED, self._hear_settled)
        self._notes.read(FORGETTABLE, self._hear_forgettable)

    def tell_settled(self, consumer: ConsumerKey, created: str, seqs: Iterable[StreamSeq]) -> None:
        """Tell of events that may be on their way to others."""
        self._tell(SETTLED, consumer, created, list(seqs))

    def connected(self) -> None:
        """Tell what was settled just before the broker was lost."""
        loop = asyncio.get_running_loop()
        self._back_at = loop.time()
        for consumer, created, seqs in self._settled.forgettable():
            for delay in _TOLD_AFTER:
                loop.call_later(delay, self._tell, FORGETTABLE, consumer, created, list(seqs))

    async def heard(self, within: float = HEARD_WITHIN) -> None:
        """Wait until others have had so many seconds since the last reconnect to say what they know."""
        await asyncio.sleep(max(0.0, self._back_at + within - asyncio.get_running_loop().time()))

    def _tell(self, kind: str, consumer: ConsumerKey, created: str, seqs: list[StreamSeq]) -> None:
        for start in range(0, len(seqs), _AT_ONCE):
            self._notes.send(kind, *consumer, write_settled(created, seqs[start : start + _AT_ONCE]))

    def _hear_settled(self, stream: str, consumer: str, body: bytes) -> None:
        self._settled.add(ConsumerKey(stream, consumer), *read_settled(body), self._now())

    def _hear_forgettable(self, stream: str, consumer: str, body: bytes) -> None:
        self._settled.hear(ConsumerKey(stream, consumer), *read_settled(body), self._now())

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def write_settled(created: str, seqs: list[StreamSeq]) -> bytes:
    """Write ids of events of a consumer that was made at `created`."""
    return b"%b\n%b" % (created.encode(), pack(f">{len(seqs)}Q", *seqs))


def read_settled(body: bytes) -> tuple[str, list[StreamSeq]]:
    """Read what `write_settled` wrote; raise `ValueError` or `struct.error` for anything else."""
    created, _, packed = body.partition(b"\n")
    return created.decode(), list(map(StreamSeq, unpack(f">{len(packed) // 8}Q", packed)))
