"""Work on many things at once, but not on too many, nor too fast."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

T = TypeVar("T")

AT_ONCE: Final = 32
"""How many requests one call has under way with the broker."""

_GROUPS_A_SECOND: Final = 20


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Do several things at the same time; when all are over, raise the first error that there was."""
    results = await asyncio.gather(*work, return_exceptions=True)
    done: list[T] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        done.append(result)
    return done


def groups(items: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    """Cut a sequence into pieces."""
    return (items[begin : begin + most] for begin in range(0, len(items), most))


class Pace:
    """Says when there may be more. It never makes up for time in which there was nothing to do.

    Attributes:
        most: how many may be done at once.

    Args:
        rate: how many per second.
    """

    __slots__ = ("_free_at", "_rate", "most")

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._free_at = 0.0
        self.most = max(1, min(AT_ONCE, rate // _GROUPS_A_SECOND))

    def wait(self, now: float) -> float:
        """Return the seconds until more may be done."""
        return max(0.0, self._free_at - now)

    def did(self, count: int, began: float) -> None:
        """Note that so many were done, from this time on."""
        self._free_at = max(self._free_at, began) + count / self._rate
