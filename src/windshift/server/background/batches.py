"""Work on many things, a batch at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

from windshift.server.background.pacing import paced, pause

S = TypeVar("S")
T = TypeVar("T")

_AT_ONCE: Final = 4
"""Things after which it is looked whether others should run."""


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> tuple[list[T], list[BaseException]]:
    """Run coroutines concurrently; once all have ended, return the results and the errors."""
    done: list[T] = []
    errors: list[BaseException] = []
    for result in await asyncio.gather(*map(paced, work), return_exceptions=True):
        if isinstance(result, BaseException):
            errors.append(result)
        else:
            done.append(result)
    return done, errors


async def for_each(
    items: Sequence[S], function: Callable[[S], Coroutine[Any, Any, T]], *, at_once: int
) -> list[T]:
    """Do something for each of many things, so many at once, and return the results in their order.

    Once all that are under way have ended, raise the first error.
    """
    results: list[T] = []
    for some in batches(items, at_once):
        done, errors = await together(map(function, some))
        if errors:
            raise errors[0]
        results += done
    return results


async def spread(function: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """Apply a function to each of many things, and let others run in between: hundreds take a while."""
    results: list[T] = []
    for item in items:
        results.append(function(item))
        if len(results) % _AT_ONCE == 0:
            await pause()
    return results


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Split a sequence into batches."""
    return (items[begin : begin + size] for begin in range(0, len(items), size))
