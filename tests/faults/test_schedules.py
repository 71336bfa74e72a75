"""Schedules come from their seeds alone."""

from __future__ import annotations

import random

from tests.faults.schedules import ACTIONS, schedule


def test_a_seed_is_a_schedule() -> None:
    """The same seed gives the same schedule, another one gives another."""
    first, again, other = (schedule(random.Random(seed), 20, 1.0) for seed in (1, 1, 2))
    assert first == again != other
    assert [step.at for step in first] == sorted(step.at for step in first)


def test_everything_happens() -> None:
    """All actions on all targets are in some schedule."""
    steps = [step for seed in range(100) for step in schedule(random.Random(seed), 14, 1.0)]
    seen = {(step.target, step.action) for step in steps}
    assert seen == {(target, action) for target, actions in ACTIONS.items() for action in actions}
