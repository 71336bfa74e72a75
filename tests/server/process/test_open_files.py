"""How many connections the limit of open files has room for."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from windshift.server.process.open_files import _raised, allow_connections

NO_LIMIT = -1


@pytest.fixture(autouse=True)
def kept_limit() -> Iterator[tuple[int, int]]:
    """Leave this process as it was."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(
    ("soft", "hard", "limit"),
    [
        (256, NO_LIMIT, 5000),
        (256, 1024, 1024),
        (256, 100_000, 5000),
        (8000, 100_000, 8000),
        (NO_LIMIT, NO_LIMIT, NO_LIMIT),
    ],
)
def test_the_limit_is_raised_no_further_than_needed(soft: int, hard: int, limit: int) -> None:
    """Nor beyond the hard one; and it is never lowered."""
    assert _raised(soft, hard, 5000, NO_LIMIT) == limit


def test_a_low_soft_limit_is_raised(kept_limit: tuple[int, int]) -> None:
    """Shells begin with 1024, or 256."""
    _, hard = kept_limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    assert allow_connections(500) == 500
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (884, hard)


def test_a_hard_limit_leaves_room_for_fewer(kept_limit: tuple[int, int]) -> None:
    """What the rest of the process needs is kept."""
    _, hard = kept_limit
    if hard == resource.RLIM_INFINITY:
        pytest.skip("this process may open any number of files")
    assert allow_connections(hard) == hard - 384
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
