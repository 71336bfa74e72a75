"""What clients make the server hold in memory, and which of them are dropped when it is too much.

Flow control bounds none of it: a message is gathered until it is whole, a request is held as long as its
handler waits for others, and the answer of a call with a single response is there as soon as its handler
returns, whether or not its client opens the window for it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeVar

K = TypeVar("K")

STALE: Final = 10.0
"""Seconds without having turned over what it holds, after which a client holds it for nothing."""
_LONGEST: Final = 60.0
"""Seconds that count, so that who paused with little is not taken before who stalls with much."""

_FOR_REQUESTS: Final = 0.4
"""The part of the limit that requests may take: they are in memory twice, as received and as sent on."""
_SMALL: Final = 65_536
"""Bytes of a small request, for which there is some room beyond that."""
_ROOM_FOR_SMALL: Final = 32_000_000
_LOOK_AFTER: Final = 8
"""The part of the limit, as a divisor, after which new answers are looked at before it is time."""


class Holder(NamedTuple, Generic[K]):
    """A client.

    Attributes:
        who: the client.
        held: bytes that are held for it.
        stuck: those of them that it could free: by sending the rest of its messages, or by reading.
        idle: seconds in which it has not turned over as many.
    """

    who: K
    held: int
    stuck: int
    idle: float


@dataclass(slots=True)
class Turnover:
    """Since when a client has not turned over what it holds: at first, since it is there."""

    _since: float
    _mark: int = 0

    def idle(self, stuck: int, done: int, now: float) -> float:
        """Return the seconds since then, with ``stuck`` bytes held, and ``done`` bytes ever turned over."""
        if done - self._mark >= stuck:
            self._since, self._mark = now, done
        return now - self._since


class Holding:
    """What is held for all clients together.

    Attributes:
        limit: bytes.
        plenty: bytes of requests up to which there is room for any.
        requests: bytes of requests with a single message that are not answered, whole or not, and of messages
            that handlers of streams keep.

    Args:
        limit: bytes; None = no bound.
        look: called when it is time to look who reads what there is.
    """

    def __init__(self, limit: int | None, look: Callable[[], object]) -> None:
        self.limit = limit
        self._look = look
        self.requests = 0
        self.refused = False
        self.plenty = sys.maxsize if limit is None else int(limit * _FOR_REQUESTS)
        self._new_answers = 0

    def has_room(self, request: int) -> bool:
        """Tell whether a request of so many bytes may be held, or held on; False is remembered."""
        held, most = self.requests, self.plenty
        if held <= most or (request <= _SMALL and held <= most + _ROOM_FOR_SMALL):
            return True
        self.refused = True
        return False

    def answered(self, size: int) -> None:
        """Take note of a large answer, which its client may leave unread."""
        self._new_answers += size
        if self.limit is not None and self._new_answers > self.limit // _LOOK_AFTER:
            self._look()

    def who_goes(self, holders: Sequence[Holder[K]]) -> list[Holder[K]]:
        """Return the clients to drop: who hold for nothing, by how much and how long, then the largest.

        When requests were refused, those go as well who hold for nothing more than half of the limit.
        """
        self._new_answers = 0
        refused, self.refused = self.refused, False
        if self.limit is None:
            return []
        held = sum(each.held for each in holders)
        excess, stale_excess = held - self.limit, held - self.limit // 2 if refused else 0
        if excess <= 0 and stale_excess <= 0:
            return []
        gone = []
        for each in sorted((each for each in holders if each.stuck), key=_uselessness, reverse=True):
            if excess <= 0 and (stale_excess <= 0 or each.idle < STALE):
                break
            gone.append(each)
            excess -= each.stuck
            stale_excess -= each.stuck
        return gone


def _uselessness(holder: Holder[K]) -> tuple[float, int]:
    wasted = holder.stuck * min(holder.idle, _LONGEST) if holder.idle >= STALE else 0.0
    return wasted, holder.stuck
