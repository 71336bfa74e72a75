"""How much one principal may ask of a server."""

from __future__ import annotations

import os

import pytest

from windshift.server.auth.ledger import Ledger
from windshift.server.auth.permissions import Permissions
from windshift.server.auth.policy import Principal, Quotas
from windshift.server.auth.quotas import CLAIMS, Usage
from windshift.server.domain.errors import QuotaExceeded


def principal(*, streams: int | None = None, rps: float | None = None) -> Principal:
    """Give somebody with these quotas."""
    return Principal("ann", Permissions(), max_streams=streams, max_rps=rps)


def begun(usage: Usage, who: Principal, now: float, most: int = 1000) -> int:
    """Begin calls until one is refused, and return how many were not."""
    for count in range(most):
        try:
            usage.begin_call(who, now)
        except QuotaExceeded:
            return count
    return most


def test_calls_without_a_quota() -> None:
    """Who has no quota may begin any number of calls."""
    assert begun(Usage(0), principal(), 0) == 1000


def test_a_second_s_worth_at_once() -> None:
    """Who was quiet may begin as many calls at once as in a second, and no more of them are saved up."""
    usage, who = Usage(0), principal(rps=20)
    assert begun(usage, who, 100) == 20
    assert begun(usage, who, 100.5) == 10
    assert begun(usage, who, 1000) == 20


def test_events_of_one_call() -> None:
    """Many events of a call count as calls, also beyond what there is; and it is known when there is more."""
    usage, who = Usage(0), principal(rps=20)
    assert usage.pause(principal(), 0) == usage.pause(who, 0) == 0
    usage.begin_call(who, 0)
    usage.count_calls(who, 99)
    assert usage.pause(who, 1) == pytest.approx(3.05)
    assert begun(usage, who, 4.04) == 0
    assert begun(usage, who, 4.06) == 1


def test_slow_rates() -> None:
    """Less than one call per second is one call in a while."""
    usage, who = Usage(0), principal(rps=0.25)
    assert begun(usage, who, 0) == 1
    assert begun(usage, who, 3.9) == 0
    assert begun(usage, who, 4.1) == 1


def test_refused_calls_cost_nothing() -> None:
    """Who keeps calling in vain gets as many calls through as one who keeps to the rate."""
    usage, who = Usage(0), principal(rps=10)
    through = sum(begun(usage, who, step / 100) for step in range(1000))
    assert 10 + 99 - 1 <= through <= 10 + 100


def test_calls_whose_requests_took_a_while() -> None:
    """A call that began before others were counted is one more, and takes nothing from those that follow."""
    usage, who = Usage(0), principal(rps=10)
    assert begun(usage, who, 100, most=5) == 5
    assert begun(usage, who, 70, most=2) == 2
    assert begun(usage, who, 100) == 3
    assert begun(usage, who, 70) == 0
    assert begun(usage, who, 100.5) == 5


def test_a_changed_quota() -> None:
    """Usage follows the rules: it outlives them."""
    usage = Usage(0)
    assert begun(usage, principal(rps=10), 0) == 10
    assert begun(usage, principal(rps=1000), 0.01) == 10
    assert begun(usage, principal(rps=2), 50) == 2


def test_a_rate_that_was_lifted_for_a_while() -> None:
    """What was done without a limit is not held against anybody when there is one again."""
    usage, who = Usage(0), principal(rps=10)
    assert begun(usage, who, 0) == 10
    for second in range(60):
        assert usage.pause(principal(), second) == 0
        usage.count_calls(principal(), 1000)
    assert begun(usage, who, 60) == 10


@pytest.mark.parametrize("quota", ["replays", "dead_letters", "dead_letter_bytes"])
@pytest.mark.parametrize("shared", [False, True])
def test_what_a_consumer_did_without_a_limit(quota: str, shared: bool) -> None:
    """The same for what it does in a minute, also where workers count together."""
    memory = Ledger.make(1)
    usage = Usage(0, "ann", Ledger(memory, 1) if shared else None)
    limited, free = (Principal("ann", Permissions(), quotas=Quotas(**{quota: limit})) for limit in (60, None))
    usage.require(limited, quota, "S", "c", 1)
    usage.spend(quota, "S", "c", 60)
    for second in range(1, 60):
        usage.require(free, quota, "S", "c", second)
        usage.spend(quota, "S", "c", 1000)
    usage.require(limited, quota, "S", "c", 60)
    os.close(memory)


def test_the_error_says_which_quota() -> None:
    """A client is told which quota it met, and how high that is."""
    usage, who = Usage(0), principal(rps=1, streams=0)
    usage.begin_call(who, 0)
    with pytest.raises(QuotaExceeded) as refused:
        usage.begin_call(who, 0)
    assert refused.value.metadata == {"quota": "max_rps", "limit": "1"}
    with pytest.raises(QuotaExceeded) as refused:
        usage.open_stream(who)
    assert refused.value.metadata == {"quota": "max_streams", "limit": "0"}


def test_streams() -> None:
    """As many streams as the quota says may be open; one that ends makes room; refused ones do not count."""
    usage, who = Usage(0), principal(streams=2)
    usage.open_stream(who)
    usage.open_stream(who)
    for _ in range(3):
        with pytest.raises(QuotaExceeded):
            usage.open_stream(who)
    usage.close_stream()
    usage.open_stream(who)
    assert usage.streams.total == 2


def test_calls_at_once() -> None:
    """As much as the quota says may be under way; what was refused does not count; what ends makes room."""
    usage, who = Usage(0), Principal("ann", Permissions(), quotas=Quotas(calls=10))
    usage.begin_work(who, 8)
    usage.begin_work(who, 2)
    for _ in range(2):
        with pytest.raises(QuotaExceeded) as refused:
            usage.begin_work(who, 1)
        assert refused.value.metadata == {"quota": "calls", "limit": "10"}
    usage.end_work(2)
    usage.begin_work(who, 1)
    assert usage.weight.total == 9


def test_a_call_alone_is_never_too_heavy() -> None:
    """Otherwise a low quota would be a hidden denial."""
    usage, who = Usage(0), Principal("ann", Permissions(), quotas=Quotas(calls=1))
    usage.begin_work(who, 32)
    with pytest.raises(QuotaExceeded):
        usage.begin_work(who, 1)


def test_what_a_consumer_does_in_a_minute() -> None:
    """A minute's worth may be done at once, then as much as comes in; each consumer has its own."""
    usage, who = Usage(0), Principal("ann", Permissions(), quotas=Quotas(replays=6))

    def done(now: float, consumer: str = "c") -> int:
        for count in range(100):
            try:
                usage.require(who, "replays", "S", consumer, now)
            except QuotaExceeded:
                return count
            usage.spend("replays", "S", consumer)
        return 100

    assert done(0) == 6
    assert done(20) == 2
    assert done(20, "other") == 6
    assert done(1000) == 6


def test_what_is_counted_afterwards() -> None:
    """Something large may go beyond the quota, and then nothing is let through until that has come in."""
    usage, who = Usage(0), Principal("ann", Permissions(), quotas=Quotas(dead_letter_bytes=60))
    usage.require(who, "dead_letter_bytes", "S", "c", 0)
    usage.spend("dead_letter_bytes", "S", "c", 100)
    with pytest.raises(QuotaExceeded):
        usage.require(who, "dead_letter_bytes", "S", "c", 40)
    usage.require(who, "dead_letter_bytes", "S", "c", 41)


HOUR, DAY = 3_600, 86_400
ROOM = 1_000_000_000
"""Bytes that are left for the dead letters of all once half is used."""
PART = pytest.approx(ROOM / 30.5, rel=0.01)
"""What somebody may take of these at once: a thirtieth of what is left then."""


def take(usage: Usage, left: int, now: float, who: Quotas | None = None) -> int:
    """Leave dead letters where so much is left, until one is refused; give the bytes of the others."""
    principal = Principal("ann", Permissions(), quotas=who or Quotas())
    for taken in range(0, left, 10_000):
        try:
            usage.take_room(principal, 10_000, left - taken, now)
        except QuotaExceeded:
            return taken
    return left


def test_a_part_of_the_room_for_dead_letters() -> None:
    """Who took none gets a day's part at once, and more as it comes in; less, where less is left."""
    usage = Usage(0)
    assert take(usage, ROOM, 0) == PART
    assert take(usage, ROOM * 30 // 31, 0) <= 10_000
    assert take(usage, ROOM, DAY / 2) == pytest.approx(ROOM / 60, rel=0.05)
    assert take(usage, ROOM // 2, 10 * DAY) == pytest.approx(ROOM / 61, rel=0.01)


def test_the_error_says_how_much_room_there_is() -> None:
    """A client is told that the room is shared, and its part; asking takes nothing."""
    usage, who = Usage(0), Principal("ann", Permissions())
    for _ in range(3):
        usage.take_room(who, 0, 30_000, 0)
    usage.take_room(who, 1_000, 30_000, 0)
    with pytest.raises(QuotaExceeded) as refused:
        usage.take_room(who, 0, 30_000, 0)
    assert refused.value.metadata == {"quota": "dead_letter_bytes", "limit": "1000"}
    assert "more than half is used" in str(refused.value)
    assert "1,000 bytes of the rest in a day" in str(refused.value)


@pytest.mark.parametrize(
    ("servers", "restarts", "kept"), [(1, 0, 0.35), (1, 10, 0.25), (3, 0, 0.04), (5, 0, 0.005)]
)
def test_nobody_takes_all_the_room_for_dead_letters(servers: int, restarts: int, kept: float) -> None:
    """Who takes what it may, for as long as dead letters are kept, leaves something, on which others live."""
    left = ROOM
    usages = [Usage(0) for _ in range(servers)]
    for hour in range(30 * 24):
        if restarts and hour % (30 * 24 // restarts) == 0:
            usages = [Usage(hour * HOUR) for _ in usages]
        for usage in usages:
            left -= take(usage, left, hour * HOUR)
    assert left > kept * ROOM
    assert take(Usage(0), left, 30 * DAY) == pytest.approx(left / 31, rel=0.1)


def test_room_that_others_fill() -> None:
    """Who has taken a day's part has another one after a day, however little is left of the room by then."""
    usage = Usage(0)
    assert take(usage, ROOM, 0) == PART
    assert take(usage, ROOM // 100, 1) <= 10_000
    assert take(usage, ROOM // 100, 1.1 * DAY) == pytest.approx(ROOM / 100 / 30.5, rel=0.05)


@pytest.mark.parametrize("period", [DAY, CLAIMS])
def test_no_wait_is_longer_than_what_was_left_is_kept(period: float) -> None:
    """Whatever was taken, and however the room grew and shrank, there is something again after 30 periods."""
    usage, who = Usage(0), Principal("ann", Permissions())
    for now, size, left in ((0, 30_000, 30_000), (1, 10**6, 10**9), (2, 10**7, 10**9)):
        usage.take_room(who, size, left, now, period)
    with pytest.raises(QuotaExceeded):
        usage.take_room(who, 0, 30_000, 3, period)
    usage.take_room(who, 0, 30_000, 2 + 30 * period, period)


@pytest.mark.parametrize("size", [1_000, 10**9])
def test_room_that_is_given_back(size: int) -> None:
    """It counts as if it had never been taken, and as no more than that."""
    usage, who = Usage(0), Principal("ann", Permissions())
    for now in (0.0, DAY):
        usage.take_room(who, size, 30_000, now)()
        usage.take_room(who, 999, 30_000, now)
        usage.take_room(who, 1, 30_000, now)
        with pytest.raises(QuotaExceeded):
            usage.take_room(who, 0, 30_000, now)


def test_room_that_comes_and_goes() -> None:
    """Whoever took nothing has a part of what is left now, however little it was; what was taken stays so."""
    usage, who = Usage(0), Principal("ann", Permissions())
    usage.take_room(who, 0, 30, 0)
    assert take(usage, ROOM, 1) == PART
    assert take(usage, ROOM // 2, 2) == 0
    assert take(usage, 2 * ROOM, 3) == pytest.approx(ROOM / 30, rel=0.02)


def test_room_for_claims() -> None:
    """It is counted by itself, and comes in within ten minutes; the error says so."""
    usage, who = Usage(0), Principal("ann", Permissions())
    usage.take_room(who, 1_000, 30_000, 0)
    usage.take_room(who, 1_000, 30_000, 0, CLAIMS)
    with pytest.raises(QuotaExceeded) as refused:
        usage.take_room(who, 0, 30_000, 0, CLAIMS)
    assert "1,000 bytes of the rest in 10 minutes" in str(refused.value)
    usage.take_room(who, 0, 30_000, 1, CLAIMS)


def test_something_larger_than_a_part_of_the_room() -> None:
    """It is let through, and nothing more until as much has come in; there may be next to no room."""
    usage, who = Usage(0), Principal("ann", Permissions())
    usage.take_room(who, 3_000, 30_000, 0)
    with pytest.raises(QuotaExceeded):
        usage.take_room(who, 1, 30_000, 1.9 * DAY)
    usage.take_room(who, 1, 30_000, 2.1 * DAY)
    Usage(0).take_room(who, 1, 0, 0)


def test_who_may_leave_any_number_of_bytes() -> None:
    """The room is no limit, and what was taken without one is not held against anybody."""
    usage = Usage(0)
    assert take(usage, ROOM, 0, Quotas(dead_letter_bytes=None)) == ROOM
    assert take(usage, ROOM, 0) == PART


def test_consumers_that_do_nothing_any_more() -> None:
    """They are forgotten once there are many; what is off is not counted at all."""
    usage, who = Usage(0), Principal("ann", Permissions(), quotas=Quotas(replays=1, dead_letters=None))
    for number in range(3000):
        usage.require(who, "dead_letters", "S", str(number), number)
        usage.spend("dead_letters", "S", str(number))
        usage.require(who, "replays", "S", str(number), number)
        usage.spend("replays", "S", str(number))
    assert len(usage._buckets) <= 1000


def test_one_principal_cannot_fill_a_stream_with_consumers() -> None:
    """By default a principal's consumers are fewer than the 1,000 that nats-server makes of one stream."""
    quotas = Quotas()
    assert quotas.consumers is not None
    assert quotas.ephemeral_consumers is not None
    assert quotas.consumers + quotas.ephemeral_consumers < 1000
