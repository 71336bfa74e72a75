"""How long events take, by consumer: what is counted, and how many consumers have a series of their own."""

from __future__ import annotations

from windshift.server.events.latencies import ConsumerLatency, Latencies
from windshift.server.events.model import ConsumerKey
from windshift.server.telemetry.instruments import OTHERS

SECOND = 1_000_000_000


def key(name: str) -> ConsumerKey:
    """Name a consumer."""
    return ConsumerKey("S", name)


def numbers(latencies: Latencies) -> dict[str, int]:
    """Tell how many first deliveries each series has, by the name of its consumer."""
    return {each.name: sum(latency.delivery.read().counts) for each, latency in latencies.items()}


def deliver(latencies: Latencies, name: str, *, durable: bool = True, owner: str = "") -> None:
    """Have a client come and get an event."""
    latencies.of(key(name), durable=durable, owner=owner).delivery.observe_since([0], SECOND)


def test_seconds() -> None:
    """A latency is counted in seconds; where the clocks disagree it is 0, never less."""
    latency = ConsumerLatency()
    latency.delivery.observe_since([10 * SECOND, 12 * SECOND, 99 * SECOND], 13 * SECOND)
    reading = latency.delivery.read()
    assert (sum(reading.counts), reading.counts[0], reading.total) == (3, 1, 4.0)
    latency.settlement.observe_since((SECOND,), 2 * SECOND)
    assert latency.settlement.read().total == 1.0


def test_a_consumer_keeps_its_series() -> None:
    """All clients of a consumer count together."""
    latencies = Latencies()
    deliver(latencies, "a")
    deliver(latencies, "a")
    assert numbers(latencies) == {"a": 2, OTHERS: 0}


def test_consumers_without_a_name() -> None:
    """They share one series for each stream, as their names are made up."""
    latencies = Latencies()
    for name in "abc":
        deliver(latencies, name, durable=False)
    assert numbers(latencies) == {"(ephemeral)": 3, OTHERS: 0}


def test_those_that_come_later_share_a_series() -> None:
    """New consumers beyond a number count with the others; no series goes back, or takes over another's."""
    latencies = Latencies(2)
    seen = numbers(latencies)
    for name in "abcadb":
        deliver(latencies, name)
        before, seen = seen, numbers(latencies)
        assert sum(seen.values()) == sum(before.values()) + 1
        assert all(seen[each] >= before[each] for each in before)
    assert seen == {"a": 2, "b": 2, OTHERS: 2}


def test_one_owner_leaves_places_for_others() -> None:
    """Who has as many series as are left gets no more: others still get theirs, and nobody loses one."""
    latencies = Latencies(8)
    for number in range(20):
        deliver(latencies, f"greedy{number}", owner="greedy")
    for owner in ("one", "two", "three"):
        deliver(latencies, f"of-{owner}", owner=owner)
    deliver(latencies, "greedy0", owner="greedy")
    greedy = {"greedy0": 2, "greedy1": 1, "greedy2": 1, "greedy3": 1}
    assert numbers(latencies) == greedy | {"of-one": 1, "of-two": 1, "of-three": 1, OTHERS: 16}
    deliver(latencies, "nobodys")
    deliver(latencies, "late")
    assert numbers(latencies)["nobodys"] == 1
    assert numbers(latencies)[OTHERS] == 17
