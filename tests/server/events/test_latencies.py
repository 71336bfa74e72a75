"""How long events take, by consumer: what is counted, and how many consumers have a series of their own."""

from __future__ import annotations

from windshift.server.events.latencies import ConsumerLatency, Latencies
from windshift.server.events.model import ConsumerKey
from windshift.server.telemetry.instruments import OTHERS
from windshift.server.telemetry.registry import Distribution

SECOND = 1_000_000_000


def key(name: str) -> ConsumerKey:
    """Name a consumer."""
    return ConsumerKey("S", name)


def numbers(latencies: Latencies) -> dict[str, int]:
    """Tell how many first deliveries each series has, by the name of its consumer."""
    return {each.name: sum(latency.delivery.read().counts) for each, latency in latencies.items()}


def deliver(latencies: Latencies, name: str, *, durable: bool = True) -> None:
    """Have a client come, get an event, and leave."""
    latency = latencies.attach(key(name), durable=durable)
    latency.delivery.observe_since([0], SECOND)
    latencies.detach(key(name), latency, durable=durable)


def test_seconds() -> None:
    """A latency is counted in seconds; where the clocks disagree it is 0, never less."""
    latency = ConsumerLatency()
    latency.delivery.observe_since([10 * SECOND, 12 * SECOND, 99 * SECOND], 13 * SECOND)
    reading = latency.delivery.read()
    assert (sum(reading.counts), reading.counts[0], reading.total) == (3, 1, 4.0)
    latency.settlement.observe_since((SECOND,), 2 * SECOND)
    assert latency.settlement.read().total == 1.0


def test_a_consumer_keeps_its_series() -> None:
    """All clients of a consumer count together, also after all of them were gone."""
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


def test_the_one_that_left_first_makes_room() -> None:
    """With too many consumers one without clients joins the others, and nothing is lost of the sum."""
    latencies = Latencies(2)
    deliver(latencies, "a")
    deliver(latencies, "b")
    deliver(latencies, "a")
    deliver(latencies, "c")
    assert numbers(latencies) == {"a": 2, "c": 1, OTHERS: 1}


def test_who_has_clients_is_not_put_out() -> None:
    """Where all consumers have clients, those of one more count with the others."""
    latencies = Latencies(2)
    clients = [(key(name), latencies.attach(key(name), durable=True)) for name in ("a", "b", "b")]
    deliver(latencies, "c")
    assert numbers(latencies) == {"a": 0, "b": 0, OTHERS: 1}
    for consumer, latency in reversed(clients):
        latencies.detach(consumer, latency, durable=True)
    deliver(latencies, "c")
    assert numbers(latencies) == {"a": 0, "c": 1, OTHERS: 1}


def test_everything_of_it_joins_the_others() -> None:
    """Settlements, expired deliveries and stalls go along."""
    latencies = Latencies(1)
    latency = latencies.attach(key("a"), durable=True)
    latency.settlement.observe_since((0,), SECOND)
    latency.expired, latency.stalls = 3, 4
    latencies.detach(key("a"), latency, durable=True)
    deliver(latencies, "b")
    others = dict(latencies.items())[ConsumerKey(OTHERS, OTHERS)]
    assert (others.expired, others.stalls) == (3, 4)
    reading = others.settlement.read()
    assert isinstance(reading, Distribution)
    assert (sum(reading.counts), reading.total) == (1, 1.0)
