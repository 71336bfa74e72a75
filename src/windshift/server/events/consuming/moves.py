"""Consumers that somebody is about to move to another event, as the consume calls of this process see it.

Before the broker moves a consumer, no call may hold an event of it, and no message about one may be on its
way: the broker would take it for one about the new delivery of the event, which looks the same. So all calls
drop what they hold, and are asked whether all that they had sent is answered. They go on when they see that
the consumer is in another run, or when nobody has moved it for `STILL` seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Final, NamedTuple, Protocol

from windshift.server.events.model import ConsumerKey
from windshift.server.events.runs import Run

STILL: Final = 10.0
"""Seconds for which calls wait for a move, and for which it may take."""


class Mover(Protocol):
    """A consume call, as far as moves concern it."""

    def hold_still(self, run: Run, until: float) -> None:
        """Drop what the client holds, and take nothing before the consumer is in this run."""
        ...

    @property
    def is_busy(self) -> bool:
        """Whether something that was sent to the broker is not answered."""
        ...


class _Move(NamedTuple):
    run: Run
    until: float


class Moves:
    """Knows which consumers are being moved.

    Args:
        calls: returns the calls of a consumer.
    """

    def __init__(self, calls: Callable[[ConsumerKey], Collection[Mover]]) -> None:
        self._calls = calls
        self._moves: dict[ConsumerKey, _Move] = {}

    def tell(self, consumer: ConsumerKey, call: Mover) -> None:
        """Tell a call that has just come of a move that has begun."""
        move = self._moves.get(consumer)
        if move is not None and move.until > _now():
            call.hold_still(*move)

    def hold_still(self, consumer: ConsumerKey, run: Run) -> int:
        """Have the calls of a consumer hold still until it is in this run; return how many are still busy.

        Safe to repeat.
        """
        now = _now()
        known = self._moves.get(consumer)
        if known is None or known.run != run:
            self._moves = {key: move for key, move in self._moves.items() if move.until > now}
            known = self._moves[consumer] = _Move(run, now + STILL)
        calls = self._calls(consumer)
        for call in calls:
            call.hold_still(*known)
        return sum(call.is_busy for call in calls)


def _now() -> float:
    return asyncio.get_running_loop().time()
