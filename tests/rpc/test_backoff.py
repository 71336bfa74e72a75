"""How the time between attempts to connect grows."""

from __future__ import annotations

import itertools

from windshift.rpc.backoff import Backoff


def delays(spread: float, count: int = 14) -> list[float]:
    """Return the first delays with gRPC's numbers and a jitter that is always the same."""
    backoff = Backoff(1.0, 120.0, lambda: spread)
    return [backoff.next() for _ in range(count)]


def test_delays_grow_up_to_the_maximum() -> None:
    """1 s, then 1.6 times as much each time, at last 120 s for ever."""
    found = delays(0.0)
    assert found[:3] == [1.0, 1.6, 1.6 * 1.6]
    assert all(a < b for a, b in itertools.pairwise(found[:11]))
    assert found[-2:] == [120.0, 120.0]


def test_jitter_makes_them_longer_or_shorter_by_a_fifth() -> None:
    """The extremes of the jitter are a fifth of the delay, and do not add up."""
    assert delays(1.0)[:2] == [1.2, 1.6 * 1.2]
    assert delays(-1.0)[:2] == [0.8, 1.6 * 0.8]
    assert delays(1.0)[-1] == 144.0


def test_jitter_is_random() -> None:
    """Two clients that lost the same server do not come back together."""
    assert Backoff(1.0, 120.0).next() != Backoff(1.0, 120.0).next()


def test_a_connection_starts_the_delays_anew() -> None:
    """After a success the next failure waits as little as the first one did."""
    backoff = Backoff(1.0, 120.0, lambda: 0.0)
    for _ in range(5):
        backoff.next()
    backoff.reset()
    assert backoff.next() == 1.0
