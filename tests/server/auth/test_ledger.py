"""What several workers count together."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

from windshift.server.auth import ledger as module
from windshift.server.auth.ledger import Ledger
from windshift.server.auth.permissions import Permissions
from windshift.server.auth.policy import Principal, Quotas
from windshift.server.auth.quotas import Usage
from windshift.server.domain.errors import QuotaExceeded

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there are no workers elsewhere")


@pytest.fixture
def memory() -> Iterator[int]:
    """Make the memory of three workers."""
    file = Ledger.make(3)
    yield file
    os.close(file)


def usages(memory: int, name: str = "ann") -> list[Usage]:
    """Return what a principal uses, as each worker sees it."""
    return [Usage(100, name, Ledger(memory, 3, worker)) for worker in (1, 2, 3)]


def test_streams_are_counted_by_all(memory: int) -> None:
    """Each sees those of the others, and nobody is let in anywhere when they are used up."""
    who = Principal("ann", Permissions(), max_streams=4)
    one, two, three = usages(memory)
    for usage in (one, one, two, three):
        usage.open_stream(who)
    for usage in (one, two, three):
        with pytest.raises(QuotaExceeded):
            usage.open_stream(who)
    one.close_stream()
    three.open_stream(who)
    usages(memory, "ben")[0].open_stream(who)


def test_connections_are_counted_by_all(memory: int) -> None:
    """As streams are."""
    who = Principal("ann", Permissions(), quotas=Quotas(connections=2))
    one, two, _ = usages(memory)
    one.open_connection(who)
    two.open_connection(who)
    with pytest.raises(QuotaExceeded):
        one.open_connection(who)
    two.close_connection()
    one.open_connection(who)


def test_weights_are_counted_by_all(memory: int) -> None:
    """As streams are; the only call of all is never too heavy."""
    who = Principal("ann", Permissions(), quotas=Quotas(calls=10))
    one, two, _ = usages(memory)
    one.begin_work(who, 20)
    with pytest.raises(QuotaExceeded):
        two.begin_work(who, 1)
    two.begin_work(who, 0)
    one.end_work(20)
    two.begin_work(who, 10)


def test_rates_are_those_of_all(memory: int) -> None:
    """What one worker lets through is missing at the others; it fills at one rate for all."""
    who = Principal("ann", Permissions(), max_rps=10, quotas=Quotas(replays=60))
    one, two, three = usages(memory)
    for number in range(10):
        (one, two)[number % 2].begin_call(who, 100)
    for usage in (one, two, three, *usages(memory)):
        with pytest.raises(QuotaExceeded):
            usage.begin_call(who, 100)
    three.begin_call(who, 100.15)
    with pytest.raises(QuotaExceeded):
        one.begin_call(who, 100.15)
    one.require(who, "replays", "S", "c", 100)
    one.spend("replays", "S", "c", 60)
    with pytest.raises(QuotaExceeded):
        two.require(who, "replays", "S", "c", 100)
    two.require(who, "replays", "S", "d", 100)


def test_room_for_dead_letters_is_that_of_all(memory: int) -> None:
    """What one worker lets through is missing at the others, also after days, and whoever else asked."""
    who = Principal("ann", Permissions())
    one, two, _ = usages(memory)
    one.take_room(who, 30_000, 30_000, 100)
    two.require(who, "dead_letters", "S", "c", 100_000)
    with pytest.raises(QuotaExceeded):
        two.take_room(who, 1, 30_000, 500_000)
    usages(memory, "ben")[1].take_room(Principal("ben", Permissions()), 1, 30_000, 100)


def test_a_worker_that_has_ended_uses_nothing(memory: int) -> None:
    """What the others use stays, and rates go on."""
    who = Principal("ann", Permissions(), max_streams=2, max_rps=1)
    one, two, three = usages(memory)
    one.open_stream(who)
    two.open_stream(who)
    one.begin_call(who, 100)
    Ledger(memory, 3).forget(1)
    three.open_stream(who)
    with pytest.raises(QuotaExceeded):
        three.open_stream(who)
    with pytest.raises(QuotaExceeded):
        two.begin_call(who, 100)


def test_without_room_each_counts_alone(
    memory: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """That is better than not to serve, or to count different things together; each worker says so once."""
    monkeypatch.setattr(module, "_PROBES", 0)
    who = Principal("ann", Permissions(), max_streams=1, max_rps=1)
    for usage in usages(memory):
        usage.open_stream(who)
        usage.begin_call(who, 100)
        with pytest.raises(QuotaExceeded):
            usage.open_stream(who)
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "no room to count more together"
    ] * 3


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Make the memory of three workers for few things."""
    monkeypatch.setattr(module, "_ROWS", 8)
    file = Ledger.make(3)
    yield file
    os.close(file)


def test_consumers_take_no_room_from_principals(small_memory: int) -> None:
    """However many a principal has, what others may do is counted by all."""
    ann = Principal("ann", Permissions(), quotas=Quotas(replays=1))
    one = Usage(100, "ann", Ledger(small_memory, 3, 1))
    for number in range(100):
        one.require(ann, "replays", "S", f"c{number}", 100)
    ben = Principal("ben", Permissions(), max_streams=1, max_rps=1)
    one, two, three = usages(small_memory, "ben")
    one.open_stream(ben)
    two.begin_call(ben, 100)
    with pytest.raises(QuotaExceeded):
        two.open_stream(ben)
    with pytest.raises(QuotaExceeded):
        three.begin_call(ben, 100)


def test_consumers_make_room(small_memory: int) -> None:
    """Those that nobody asks for any more; one that comes back is not counted as the one in its place."""
    who = Principal("ann", Permissions(), quotas=Quotas(replays=1))
    one, two, _ = usages(small_memory)

    def replay(usage: Usage, consumer: str, now: float) -> None:
        usage.require(who, "replays", "S", consumer, now)
        usage.spend("replays", "S", consumer)

    def counted_together(first: Usage, other: Usage, name: str, now: float) -> None:
        for number in range(8):
            replay(first, f"{name}{number}", now)
            with pytest.raises(QuotaExceeded):
                replay(other, f"{name}{number}", now)

    for number in range(8):
        replay(one, f"c{number}", 100)
    counted_together(two, one, "d", 300)
    for number in range(8):
        replay(one, f"c{number}", 300)
    counted_together(one, two, "c", 500)
