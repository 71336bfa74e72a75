"""How the time between attempts to connect grows."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest

from windshift.rpc.backoff import Backoff


@pytest.fixture
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have random numbers be in the middle of their range."""
    monkeypatch.setattr(random, "uniform", lambda low, high: (low + high) / 2)


def delays(count: int = 14) -> list[float]:
    """Return the first delays with gRPC's numbers."""
    backoff = Backoff(1.0, 120.0)
    return [backoff.next() for _ in range(count)]


@pytest.mark.usefixtures("no_jitter")
def test_delays_grow_up_to_the_maximum() -> None:
    """1 s, then 1.6 times as much each time, at last 120 s for ever."""
    found = delays()
    assert found[:3] == [1.0, 1.6, 1.6 * 1.6]
    assert all(a < b for a, b in itertools.pairwise(found[:11]))
    assert found[-2:] == [120.0, 120.0]


@pytest.mark.parametrize("extreme", [min, max])
def test_jitter_makes_them_longer_or_shorter_by_a_fifth(
    extreme: Callable[[float, float], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The extremes of the jitter are a fifth of the delay, and do not add up."""
    monkeypatch.setattr(random, "uniform", extreme)
    part = extreme(0.8, 1.2)
    assert delays()[:2] == [part, 1.6 * part]
    assert delays()[-1] == 120.0 * part


def test_jitter_is_random() -> None:
    """Two clients that lost the same server do not come back together."""
    assert Backoff(1.0, 120.0).next() != Backoff(1.0, 120.0).next()


@pytest.mark.usefixtures("no_jitter")
def test_a_connection_starts_the_delays_anew() -> None:
    """After a success the next failure waits as little as the first one did."""
    backoff = Backoff(1.0, 120.0)
    for _ in range(5):
        backoff.next()
    backoff.reset()
    assert backoff.next() == 1.0
