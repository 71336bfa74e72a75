"""Which events a consumer has got settled lately, in case the broker forgets it.

A nats-server writes down how far a consumer has come some ten times per second. When one is killed that has
no replicas, it forgets the settlements of that last moment, though it had confirmed them, and delivers the
events once more. This process remembers, and settles them again without anybody noticing. No I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Final, TypeAlias

from windshift.server.events.model import ConsumerKey, StreamSeq

GENERATION: Final = 1.0
"""Seconds. At the loss of a connection the settlements of the last one to two of them are known."""

AFTERWARDS: Final = 30.0
"""Seconds, beside two timeouts of the consumer, for which they are kept once the broker is back: what it
delivered before it was killed comes again when its timeout is over."""


KEPT_UNUSED: Final = 120.0
"""Seconds for which it is remembered what the calls of a consumer settled, when none of them is left."""


class Settled:
    """The events of one consumer that were settled lately.

    Attributes:
        users: how many attachments share this.
        doubted: whether the broker may have forgotten some.
    """

    __slots__ = ("_before", "_latest", "_lost", "_next", "_until", "doubted", "users")

    def __init__(self) -> None:
        self.users = 0
        self._latest: set[StreamSeq] = set()
        self._before: set[StreamSeq] = set()
        self._next = -inf
        self._lost: set[StreamSeq] = set()
        self._until = inf
        self.doubted = False

    def add(self, seq: StreamSeq, now: float) -> None:
        """Note that the broker has confirmed a settlement."""
        if now >= self._next:
            self._before = self._latest if now < self._next + GENERATION else set()
            self._latest = set()
            self._next = now + GENERATION
        self._latest.add(seq)

    def lose(self, under_way: Iterable[StreamSeq]) -> None:
        """Note that the connection ended: what was settled just before may be forgotten.

        `under_way` are the events whose acknowledgement the broker has not answered. It may arrive yet or be
        sent again, so nobody else is to work on them meanwhile.
        """
        self._lost |= self._latest
        self._lost |= self._before
        self._lost.update(under_way)
        self._until = inf
        self.doubted = bool(self._lost)

    def recover(self, now: float, timeout: float) -> None:
        """Note that the broker is back; `timeout` is the consumer's, in seconds."""
        self._until = now + 2 * timeout + AFTERWARDS

    def lately(self, seq: StreamSeq) -> bool:
        """Whether an event was settled lately, whatever the broker remembers of that."""
        return seq in self._latest or seq in self._before or seq in self._lost

    def knows(self, seq: StreamSeq, now: float) -> bool:
        """Whether an event was settled that the broker may have forgotten."""
        if now > self._until:
            self._lost = set()
            self.doubted = False
        return seq in self._lost


class SettledByConsumer:
    """What attachments of one process remember, by consumer.

    A consumer that was deleted and made anew under its name is another: hence the time of its making.
    """

    def __init__(self) -> None:
        self._known: dict[_Key, Settled] = {}
        self._unused: dict[_Key, float] = {}

    def __len__(self) -> int:
        return len(self._known)

    def attach(self, consumer: ConsumerKey, created: str, now: float) -> Settled:
        """Share the memory of a consumer."""
        self._purge(now)
        key = consumer, created
        settled = self._known.setdefault(key, Settled())
        settled.users += 1
        self._unused.pop(key, None)
        return settled

    def detach(self, consumer: ConsumerKey, created: str, now: float) -> None:
        """Share it no more. It is kept for a while after its last user: clients come back."""
        self._purge(now)
        key = consumer, created
        settled = self._known[key]
        settled.users -= 1
        if not settled.users:
            self._unused[key] = now

    def lose(self) -> None:
        """Note that the connection ended, also for consumers without a call at the moment."""
        for settled in self._known.values():
            settled.lose(())

    def _purge(self, now: float) -> None:
        while self._unused:
            key, since = next(iter(self._unused.items()))
            if now < since + KEPT_UNUSED:
                return
            del self._unused[key], self._known[key]


_Key: TypeAlias = tuple[ConsumerKey, str]
