"""Whose bytes are parsed next, when there is more to parse than one turn of the event loop should take.

One connection after the other gets a slice of time, not a number of frames: a frame costs from 0.04 µs to 50.
Strangers, on whose connections nobody has authenticated, stand in a line of their own, and all of them
together get a share of the processor: however many they are, and however often they connect anew.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import perf_counter
from typing import Final, Protocol

SLICE: Final = 0.0005
"""CPU seconds of one slice: what a flood may add to each step of somebody else's call."""
LONG_SLICE: Final = 0.002
"""The same of one that has brought fewer than `FEW` useful events. A slow machine needs it: what comes of
each slice is written by itself, to the broker too, and a write costs as much as several calls."""
FEW: Final = 64
"""Events, of which a unary call brings two."""
STRANGERS_SLICE: Final = 0.00025
"""The same for strangers, whose first call needs less."""
STRANGERS_SHARE: Final = 0.2
"""Seconds in a second that strangers get together."""
STRANGERS_BURST: Final = 0.5
"""Seconds that they can save up: thousands of clients that come back after a restart."""
CONNECTION_COST: Final = 0.00015
"""Seconds that it takes to set a connection up, without TLS; it cannot be measured where it is done."""
CALL_COST: Final = 0.00005
"""Seconds that the handler of a stranger's call takes; the same."""


CROWD: Final = 512
"""Strangers that may wait with more than a first call needs: each has up to 256 KiB in memory meanwhile."""


class Waiting(Protocol):
    """A connection with bytes that wait."""

    stranger: bool

    def take_turn(self, seconds: float) -> bool:
        """Parse for about so many seconds; return whether bytes are left."""


class Turns:
    """The lines in which connections wait.

    Args:
        loop: the event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Waiting] = deque()
        self._strangers: deque[Waiting] = deque()
        self._next_turn: asyncio.Handle | None = None
        self._pausing = False  # only strangers wait, and their time is used up
        self._credit = STRANGERS_BURST
        self._credited_at = perf_counter()

    def wait(self, connection: Waiting) -> None:
        """Have ``take_turn`` called until nothing is left."""
        (self._strangers if connection.stranger else self._waiting).append(connection)
        if self._next_turn is None:
            self._next_turn = self._loop.call_soon(self._turn)
        elif self._pausing and not connection.stranger:
            self._next_turn.cancel()
            self._pausing = False
            self._next_turn = self._loop.call_soon(self._turn)

    @property
    def crowded(self) -> bool:
        """Whether so many strangers wait that those with much to parse have to go."""
        return len(self._strangers) >= CROWD

    def charge(self, seconds: float) -> None:
        """Take time that was spent on a stranger off the share of all."""
        self._credit -= seconds

    def strangers_wait(self) -> float:
        """Return the seconds until strangers get time again; 0 = they have some."""
        now = perf_counter()
        self._credit = min(STRANGERS_BURST, self._credit + (now - self._credited_at) * STRANGERS_SHARE)
        self._credited_at = now
        return max(0.0, -self._credit) / STRANGERS_SHARE

    def _turn(self) -> None:
        """Give one slice to each line."""
        self._next_turn = None
        self._pausing = False
        if self._waiting:
            connection = self._waiting.popleft()
            if connection.take_turn(SLICE):
                self._waiting.append(connection)
        pause = self.strangers_wait() if self._strangers else 0.0
        if self._strangers and not pause:
            connection = self._strangers.popleft()
            if connection.take_turn(STRANGERS_SLICE):  # it may be a stranger no more
                (self._strangers if connection.stranger else self._waiting).append(connection)
            self.charge(perf_counter() - self._credited_at)
        if self._waiting or (self._strangers and not pause):
            self._next_turn = self._loop.call_soon(self._turn)
        elif self._strangers:
            self._pausing = True
            self._next_turn = self._loop.call_later(pause, self._turn)
