"""Bounds how much is written at once, and decides who is next."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TypeAlias

from windshift.nats.budget import asking
from windshift.nats.errors import TooManyInFlight

_Turns: TypeAlias = OrderedDict[asyncio.Future[bool], int]
"""Complete with whether the slots were given; and how many slots each wants."""


class Slots:
    """Hands out `limit` slots: to one caller of each asker in turn, to those of one asker in order.

    At most `max_waiting` callers wait. Nobody overtakes a caller that waits for several slots.
    """

    def __init__(self, limit: int, max_waiting: int) -> None:
        self._limit = self._free = limit
        self._max_waiting = max_waiting
        self._waiting: OrderedDict[str, _Turns] = OrderedDict()
        self.waiting = 0

    @property
    def free(self) -> int:
        """How many slots are free."""
        return self._free

    def take_now(self, count: int = 1) -> bool:
        """Take slots if they are free and nobody waits."""
        if self._free < count or self._waiting:
            return False
        self._free -= count
        return True

    async def take(self, deadline: float, count: int = 1) -> None:
        """Wait for slots, `limit` at most, until `deadline` (loop time).

        Raise `TooManyInFlight` if they were not free in time, or at once if too many callers wait.
        """
        if self.waiting >= self._max_waiting:
            raise TooManyInFlight
        loop = asyncio.get_running_loop()
        asker = asking.get()
        turns = self._waiting.get(asker)
        if turns is None:
            turns = self._waiting[asker] = OrderedDict()
        turn: asyncio.Future[bool] = loop.create_future()
        turns[turn] = count
        self.waiting += 1
        timer = loop.call_at(deadline, _expire, turn)
        try:
            got = await turn
        except asyncio.CancelledError:
            if not turn.cancelled() and turn.result():  # they were given at this moment
                self.give_back(count)
            raise
        finally:
            timer.cancel()
            if turns.pop(turn, None) is not None:  # others may want less than this caller
                self._leave(asker, turns)
                self._hand_out()
        if not got:
            raise TooManyInFlight

    def give_back(self, count: int = 1) -> None:
        """Free slots: those who wait get them."""
        self._free += count
        if self._waiting:
            self._hand_out()

    def _hand_out(self) -> None:
        """Give what is free to those who wait."""
        while self._waiting:
            asker, turns = next(iter(self._waiting.items()))
            turn, count = next(iter(turns.items()))
            if not turn.done():
                if count > self._free:
                    return
                self._free -= count
                turn.set_result(True)
                self._waiting.move_to_end(asker)
            del turns[turn]
            self._leave(asker, turns)

    def _leave(self, asker: str, turns: _Turns) -> None:
        """Note that a caller waits no more."""
        self.waiting -= 1
        if not turns and self._waiting.get(asker) is turns:
            del self._waiting[asker]


def _expire(turn: asyncio.Future[bool]) -> None:
    if not turn.done():
        turn.set_result(False)
