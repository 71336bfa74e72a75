"""How the streams and stores of one owner share its bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windshift.server.ownership.amounts import level

SIZES = st.lists(st.integers(1, 1000), min_size=1, max_size=20)
LIMITS = st.integers(0, 5000)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((), 0),
        ((40, 60), 60),
        ((101,), 100),
        ((10**9,), 100),
        ((10, 300), 90),
        ((10, 20, 300), 70),
        ((50, 51, 10), 45),
        ((60, 60), 50),
        ((100, 90, 10), 45),
        ((100, 90, 11), 0),
        ((10**9, 60, 40), 33),
        ((10**9, 60, 40, 1), 0),
    ],
)
def test_the_level_of_100(sizes: tuple[int, ...], expected: int) -> None:
    """The largest are above it, until there is twice as much, in which none counts as more than 100."""
    assert level(sizes, 100) == expected
    assert level(reversed(sizes), 100) == expected


@given(SIZES, LIMITS)
def test_no_more_than_the_limit_and_no_less(sizes: list[int], limit: int) -> None:
    """Cut down to the level all are within the limit, and with a higher level they would not be."""
    found = level(sizes, limit)
    is_at_the_end = sum(min(size, limit) for size in sizes) > 2 * limit
    if is_at_the_end:
        assert found == 0
    elif sum(sizes) <= limit:
        assert found == max(sizes)
    else:
        assert sum(min(size, found) for size in sizes) <= limit < sum(min(size, found + 1) for size in sizes)


@given(SIZES, LIMITS)
def test_something_is_full_exactly_when_there_is_too_much(sizes: list[int], limit: int) -> None:
    """The largest is; what is smaller than something that is not full is not full either."""
    found = level(sizes, limit)
    assert (max(sizes) > found) == (sum(sizes) > limit)


@given(st.integers(0, 10**12), SIZES)
def test_one_alone_fills_no_others(flooded: int, others: list[int]) -> None:
    """However large it is, others that are within their equal shares go on."""
    limit = (len(others) + 1) * max(others)
    assert level([flooded, *others], limit) >= max(others)
