"""A bound on how many writes wait for the broker at once, and on how many wait for that."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from windshift.server.errors import TooManyInFlight


class Turns:
    """Hands out `limit` turns, first come, first served; at most `max_waiting` callers wait for one."""

    def __init__(self, limit: int, max_waiting: int) -> None:
        self._free = limit
        self._max_waiting = max_waiting
        self._waiting: OrderedDict[asyncio.Future[bool], None] = OrderedDict()

    @property
    def free(self) -> int:
        """How many turns nobody has."""
        return self._free

    @property
    def waiting(self) -> int:
        """How many callers wait for a turn."""
        return len(self._waiting)

    def take_now(self) -> bool:
        """Take a turn if there is one."""
        if self._free == 0:
            return False
        self._free -= 1
        return True

    async def take(self, deadline: float) -> None:
        """Wait for a turn until `deadline` (loop time).

        Raise `TooManyInFlight` when none came, or at once when too many wait already. That is also what a
        caller whose deadline ends it, by cancelling, gets.
        """
        if len(self._waiting) >= self._max_waiting:
            raise TooManyInFlight
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[bool] = loop.create_future()
        self._waiting[turn] = None
        timer = loop.call_at(deadline, _expire, turn)
        try:
            got = await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # the turn came in this very moment
                self._return_unused(turn)
            if loop.time() >= deadline:
                raise TooManyInFlight from None
            raise
        finally:
            timer.cancel()
            self._waiting.pop(turn, None)
        if not got:
            raise TooManyInFlight

    def give_back(self) -> None:
        """End a turn: the longest waiting caller gets it."""
        while self._waiting:
            turn, _ = self._waiting.popitem(last=False)
            if not turn.done():
                turn.set_result(True)
                return
        self._free += 1

    def _return_unused(self, turn: asyncio.Future[bool]) -> None:
        if turn.result():
            self.give_back()


def _expire(turn: asyncio.Future[bool]) -> None:
    if not turn.done():
        turn.set_result(False)
