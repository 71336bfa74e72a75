"""The one rule for trying again: every attempt but the first follows a pause, and a clock that moves ends it.

async for _ in retry(deadline):
    ...  # an attempt; return or break when it succeeded
raise Unavailable
"""

from __future__ import annotations

import random
from asyncio import get_running_loop, sleep
from dataclasses import dataclass
from datetime import timedelta
from math import inf
from typing import Final, Self

_SHORTEST_ATTEMPT: Final = 0.02
"""Seconds. With less time left, no more attempts are made."""
_SHORTEST_PAUSE: Final = 0.001
"""Seconds. Every pause lets the event loop run and its clock advance."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Growing, jittered pauses: each is half to the whole of a value that doubles up to `longest`."""

    shortest: timedelta = timedelta(milliseconds=50)
    longest: timedelta = timedelta(milliseconds=500)


_BACKOFF: Final = Backoff()


class retry:  # noqa: N801 - used like a function
    """Iterate over attempts, numbered from 1, until `deadline` leaves no time for another.

    The first attempt is immediate, so there is always one. A pause takes at most half of the time left.

    Args:
        deadline: in the running loop's time; None = never.
        backoff: how long the pauses are.
        first: the first number; from 2 on there is a pause before the first attempt too.
    """

    __slots__ = ("_backoff", "_deadline", "_next", "_pause")

    def __init__(self, deadline: float | None, backoff: Backoff | None = None, *, first: int = 1) -> None:
        self._backoff = backoff or _BACKOFF
        self._deadline = inf if deadline is None else deadline
        self._pause = 0.0  # before the last attempt; most have a first one only
        self._next = first

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> int:
        attempt = self._next
        if attempt > 1:
            left = self._deadline - get_running_loop().time()
            if left < _SHORTEST_ATTEMPT:
                raise StopAsyncIteration
            backoff = self._backoff
            longer = 2 * self._pause or backoff.shortest.total_seconds()
            self._pause = min(longer, backoff.longest.total_seconds())
            await sleep(max(_SHORTEST_PAUSE, min(self._pause * (0.5 + random.random() / 2), left / 2)))
        self._next = attempt + 1
        return attempt
