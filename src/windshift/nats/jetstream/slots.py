"""Bounds how many writes are in flight, and how many wait for that."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from windshift.nats.errors import TooManyInFlight


class Slots:
    """Hands out `limit` slots, first come, first served; at most `max_waiting` callers wait for one."""

    def __init__(self, limit: int, max_waiting: int) -> None:
        self._free = limit
        self._max_waiting = max_waiting
        self._waiting: OrderedDict[asyncio.Future[bool], None] = OrderedDict()

    @property
    def free(self) -> int:
        """How many slots are free."""
        return self._free

    @property
    def waiting(self) -> int:
        """How many callers wait for a slot."""
        return len(self._waiting)

    def take_now(self) -> bool:
        """Take a slot if there is one."""
        if self._free == 0:
            return False
        self._free -= 1
        return True

    async def take(self, deadline: float) -> None:
        """Wait for a slot until `deadline` (loop time).

        Raise `TooManyInFlight` if none was free in time, or at once if too many callers wait.
        """
        if len(self._waiting) >= self._max_waiting:
            raise TooManyInFlight
        loop = asyncio.get_running_loop()
        slot: asyncio.Future[bool] = loop.create_future()
        self._waiting[slot] = None
        timer = loop.call_at(deadline, _expire, slot)
        try:
            got = await slot
        except asyncio.CancelledError:
            if not slot.cancelled() and slot.result():  # it was given at this moment
                self.give_back()
            raise
        finally:
            timer.cancel()
            self._waiting.pop(slot, None)
        if not got:
            raise TooManyInFlight

    def give_back(self) -> None:
        """Free a slot: the longest waiting caller gets it."""
        while self._waiting:
            slot, _ = self._waiting.popitem(last=False)
            if not slot.done():
                slot.set_result(True)
                return
        self._free += 1


def _expire(slot: asyncio.Future[bool]) -> None:
    if not slot.done():
        slot.set_result(False)
