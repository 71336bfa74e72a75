"""How events end, whatever is late, lost, frozen or restarted: each once."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.server.events.ending import SOME_POLICIES, play

MOVES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 8), st.integers(0, 44)), max_size=150)


@settings(max_examples=50)
@given(st.sampled_from(SOME_POLICIES), st.integers(1, 3), MOVES)
def test_an_event_ends_once(policy: object, servers: int, moves: list[tuple[int, int, int]]) -> None:
    """Acknowledged, dropped or as a dead letter, and whoever was told so was told the truth."""
    play(policy, servers, moves)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(20))
def test_an_event_ends_once_in_long_runs(seed: int) -> None:
    """The same, with more that can go wrong in one run."""
    luck = random.Random(seed)
    for _ in range(20):
        moves = [(luck.randrange(10), luck.randrange(9), luck.randrange(45)) for _ in range(400)]
        play(luck.choice(SOME_POLICIES), luck.randrange(1, 4), moves)
