"""Working on many things: how fast, and how many at once."""

from __future__ import annotations

import asyncio

import pytest

from windshift.server.events.dead_letters.pace import AT_ONCE, Pace, groups, together


@pytest.mark.parametrize(("rate", "most"), [(1, 1), (20, 1), (100, 5), (10_000, AT_ONCE)])
def test_groups_follow_the_rate(rate: int, most: int) -> None:
    """A slow pace goes one by one, a fast one in groups."""
    assert Pace(rate).most == most


@pytest.mark.parametrize("rate", [1, 7, 100, 10_000])
def test_the_rate_is_kept(rate: int) -> None:
    """In no second more is done than the rate and one group allow; with nothing to wait for, that much is."""
    pace, now, done = Pace(rate), 0.0, 0
    while now < 10:
        pace.did(pace.most, now)
        done += pace.most
        now += pace.wait(now)
    assert 10 * rate <= done <= 10 * rate + pace.most


def test_idle_time_is_not_made_up_for() -> None:
    """After a pause the pace is what it was."""
    pace = Pace(10)
    pace.did(1, 0)
    assert pace.wait(5) == 0
    pace.did(1, 5)
    assert pace.wait(5) == pytest.approx(0.1)


def test_what_was_not_done_costs_no_time() -> None:
    """Looking at things without doing anything may go on at once."""
    pace = Pace(1)
    pace.did(0, 3)
    assert pace.wait(3) == 0


def test_groups() -> None:
    """A sequence is cut into pieces, the last one shorter."""
    assert list(groups([1, 2, 3], 2)) == [[1, 2], [3]]
    assert list(groups([], 2)) == []


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
