"""Work on many things, a batch at a time."""

from __future__ import annotations

import asyncio

import pytest

from windshift.server.background.batches import batches, for_each, together


def test_batches() -> None:
    """A sequence is cut into pieces, the last one shorter."""
    assert list(batches([1, 2, 3], 2)) == [[1, 2], [3]]
    assert list(batches([], 2)) == []


async def test_together_lets_all_end() -> None:
    """Results and errors keep their order, and are there once nothing is under way any more."""
    ended: list[int] = []

    async def work(number: int, *, fails: bool = False) -> int:
        await asyncio.sleep(0)
        ended.append(number)
        if fails:
            raise ValueError(number)
        return number

    assert await together(work(number) for number in (1, 2)) == ([1, 2], [])
    done, errors = await together([work(3, fails=True), work(4), work(5, fails=True)])
    assert (done, [error.args for error in errors]) == ([4], [(3,), (5,)])
    assert ended == [1, 2, 3, 4, 5]


async def test_for_each() -> None:
    """Results keep their order; the first error is raised, and the next batch does not begin."""
    begun: list[int] = []

    async def work(number: int) -> int:
        begun.append(number)
        await asyncio.sleep(0)
        if number > 2:
            raise ValueError(number)
        return number

    assert await for_each([2, 1, 2], work, at_once=2) == [2, 1, 2]
    begun.clear()
    with pytest.raises(ValueError, match="3"):
        await for_each([1, 2, 3, 4, 5], work, at_once=2)
    assert begun == [1, 2, 3, 4]
