"""Work on many things, a batch at a time."""

from __future__ import annotations

import asyncio

import pytest

from windshift.server.background.batches import batches, together


def test_batches() -> None:
    """A sequence is cut into pieces, the last one shorter."""
    assert list(batches([1, 2, 3], 2)) == [[1, 2], [3]]
    assert list(batches([], 2)) == []


async def test_together_lets_all_end() -> None:
    """Results keep their order; the first error is raised once nothing is under way any more."""
    ended: list[int] = []

    async def work(number: int, *, fails: bool = False) -> int:
        await asyncio.sleep(0)
        ended.append(number)
        if fails:
            raise ValueError(number)
        return number

    assert await together(work(number) for number in (1, 2)) == [1, 2]
    with pytest.raises(ValueError, match="3"):
        await together([work(3, fails=True), work(4), work(5, fails=True)])
    assert ended == [1, 2, 3, 4, 5]
