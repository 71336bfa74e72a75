"""Outstanding replays on a real broker: one pointer for each, leased to one, and gone when it is settled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import pytest

from tests.nats import waiting
from tests.server.events.keeping import Keeper, forget_all, keep
from tests.server.events.management import eventually
from tests.support.broker import Broker, connect, in_seconds
from tests.support.nats_server import NatsServer
from windshift.nats.jetstream.snapshots import restore_snapshot, take_snapshot
from windshift.nats.times import from_unix_ns
from windshift.server.domain.errors import BrokerUnavailable, OutcomeUnknown
from windshift.server.events.dead_letters import replay_queue, upkeep
from windshift.server.events.dead_letters.model import DeadLetterId
from windshift.server.events.dead_letters.replay_queue import (
    STREAM,
    Cancelling,
    Clock,
    Lease,
    Pointer,
    pointer_subject,
)
from windshift.server.events.dead_letters.stats import DeadLetterStats
from windshift.server.events.dead_letters.upkeep import DeadLetterUpkeep
from windshift.server.events.deliveries import stored_at
from windshift.server.events.managed_stream import ManagedStream
from windshift.server.events.model import ConsumerKey, StreamSeq
from windshift.server.events.notes import REPLAY

Unique = Callable[[], str]

LONG, SHORT = timedelta(seconds=60), timedelta(seconds=20)


@pytest.fixture
async def keeper(broker: Broker) -> Keeper:
    """Keep replays on the shared broker, where there are none yet."""
    await forget_all(broker)
    return await keep(broker)


def dead_letter_id(stream: str, consumer: str = "c", seq: int = 1) -> DeadLetterId:
    """Name a dead letter."""
    return DeadLetterId(stream, consumer, StreamSeq(seq), 1_795_532_049_123_456_789)


async def pointers(keeper: Keeper, stream: str, consumer: str = "c") -> list[Pointer]:
    """Read all pointers of a consumer."""
    found: list[Pointer] = []
    after = 0
    while True:
        page = await keeper.replays.page(ConsumerKey(stream, consumer), after, in_seconds(30))
        found += page.pointers
        after = page.after
        if not after:
            return found


async def wait(keeper: Keeper, pointer: Pointer) -> float:
    """Return the seconds until a pointer is free."""
    clock = await keeper.replays.clock(in_seconds(30))
    assert clock is not None
    return clock.seconds_until(pointer.free_at_ns, in_seconds(0))


async def leased(keeper: Keeper, one: DeadLetterId, timeout: timedelta = LONG) -> Lease:
    """Add a replay and lease it."""
    assert await keeper.replays.add(one, 1, in_seconds(30))
    (pointer,) = await pointers(keeper, one.stream)
    lease = await keeper.replays.lease(pointer, timeout, in_seconds(30))
    assert lease is not None
    return lease


async def test_a_pointer(keeper: Keeper, unique: Unique) -> None:
    """It says which dead letter is replayed, and for which time; its end makes room for the next."""
    one, replays = dead_letter_id(unique()), keeper.replays
    assert await replays.clock(in_seconds(30)) is None
    assert not await replays.any(ConsumerKey(one.stream, "c"), in_seconds(30))
    assert await replays.add(one, 3, in_seconds(30))
    assert await replays.any(ConsumerKey(one.stream, "c"), in_seconds(30))
    (pointer,) = await pointers(keeper, one.stream)
    assert (pointer.id, pointer.number, pointer.attempts) == (one, 3, 0)
    assert await wait(keeper, pointer) <= 0
    lease = await replays.lease(pointer, LONG, in_seconds(30))
    assert lease is not None
    assert (lease.id, lease.number, lease.attempt) == (one, 3, 1)
    assert stored_at(lease.reply) == one.stored_ns
    assert await keeper.outstanding(one.stream, one.consumer) == {one}
    assert await lease.end(in_seconds(30))
    assert await lease.end(in_seconds(30))
    assert not await lease.prolong(LONG, in_seconds(30))
    assert await keeper.outstanding(one.stream, one.consumer) == frozenset()
    assert await replays.add(one, 4, in_seconds(30))


async def test_one_lease_at_a_time(keeper: Keeper, unique: Unique) -> None:
    """Of many that read a pointer one gets it, and nobody else as long as the lease lasts."""
    one = dead_letter_id(unique())
    others = [await keep(keeper.broker) for _ in range(10)]
    assert await keeper.replays.add(one, 1, in_seconds(30))
    (pointer,) = await pointers(keeper, one.stream)
    leases = await asyncio.gather(*(each.replays.lease(pointer, SHORT, in_seconds(30)) for each in others))
    (lease,) = [each for each in leases if each is not None]
    (held,) = await pointers(keeper, one.stream)
    assert held.attempts == 1
    assert 0 < await wait(keeper, held) <= SHORT.total_seconds()
    assert await lease.prolong(LONG, in_seconds(30))
    (held,) = await pointers(keeper, one.stream)
    assert held.attempts == 1
    assert await wait(keeper, held) > SHORT.total_seconds()


async def test_what_this_process_has_dealt_with(keeper: Keeper, unique: Unique) -> None:
    """Other calls of the process leave a pointer alone that they have read before it was leased."""
    one = dead_letter_id(unique())
    assert await keeper.replays.add(one, 1, in_seconds(30))
    (pointer,) = await pointers(keeper, one.stream)
    assert not keeper.replays.is_taken(pointer)
    assert await keeper.replays.lease(pointer, LONG, in_seconds(30)) is not None
    assert keeper.replays.is_taken(pointer)
    (again,) = await pointers(keeper, one.stream)
    assert not keeper.replays.is_taken(again)


async def test_a_pointer_that_the_broker_brings_back(
    keeper: Keeper, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup has what was dealt with, as it was: it is dealt with again before long."""
    monkeypatch.setattr(replay_queue, "_TAKEN_FOR", 1.0, raising=False)
    one, broker, pieces = dead_letter_id(unique()), keeper.broker, list[bytes]()
    assert await keeper.replays.add(one, 1, in_seconds(30))
    snapshot = await take_snapshot(broker.api, STREAM, pieces.append)
    (pointer,) = await pointers(keeper, one.stream)
    lease = await keeper.replays.lease(pointer, LONG, in_seconds(30))
    assert lease is not None
    assert await lease.end(in_seconds(30))
    await forget_all(broker)
    await restore_snapshot(broker.api, snapshot, pieces)
    assert await pointers(keeper, one.stream) == [pointer]
    await waiting.eventually(lambda: not keeper.replays.is_taken(pointer))
    assert await keeper.replays.lease(pointer, LONG, in_seconds(30)) is not None


async def test_a_lease_that_was_taken_over(keeper: Keeper, unique: Unique) -> None:
    """It can be neither prolonged nor given back nor ended, whatever its holder believes of the time."""
    one = dead_letter_id(unique())
    for method in ("prolong", "give_back", "end"):
        late = await leased(keeper, one, timedelta(0))
        (pointer,) = await pointers(keeper, one.stream)
        lease = await keeper.replays.lease(pointer, LONG, in_seconds(30))
        assert lease is not None
        assert lease.attempt == 2
        if method == "prolong":
            assert not await late.prolong(LONG, in_seconds(30))
        elif method == "give_back":
            assert not await late.give_back(0, in_seconds(30))
        else:
            assert not await late.end(in_seconds(30))
        assert not late.is_settled
        assert await lease.end(in_seconds(30))


async def test_giving_back(keeper: Keeper, unique: Unique) -> None:
    """Anybody may take it as the next attempt, at once or after the delay."""
    one = dead_letter_id(unique())
    lease = await leased(keeper, one)
    assert await lease.give_back(0, in_seconds(30))
    (pointer,) = await pointers(keeper, one.stream)
    assert await wait(keeper, pointer) <= 0
    again = await keeper.replays.lease(pointer, LONG, in_seconds(30))
    assert again is not None
    assert again.attempt == 2
    assert await again.give_back(20 * 10**9, in_seconds(30))
    (pointer,) = await pointers(keeper, one.stream)
    assert 15 < await wait(keeper, pointer) <= 20


async def test_a_claim(keeper: Keeper, unique: Unique) -> None:
    """Nobody cancels the replay any more, nor gives it back; whoever meets it later sees what it is.

    Who has claimed it has it, as long as that is not done.
    """
    one = dead_letter_id(unique())
    lease = await leased(keeper, one, timedelta(0))
    assert await lease.claim(7, timedelta(0), in_seconds(30))
    assert await lease.claim(7, LONG, in_seconds(30))
    assert not await lease.give_back(0, in_seconds(30))
    assert await lease.prolong(LONG, in_seconds(30))
    assert await cancelled(keeper, one) is Cancelling.LEASED
    (pointer,) = await pointers(keeper, one.stream)
    assert (pointer.is_claimed, pointer.number, pointer.attempts, pointer.letter) == (True, 1, 1, 7)
    assert await wait(keeper, pointer) > SHORT.total_seconds()
    assert await lease.end(in_seconds(30))
    assert await cancelled(keeper, one) is Cancelling.NONE


async def test_a_claim_that_is_met_when_its_time_is_over(keeper: Keeper, unique: Unique) -> None:
    """It cannot be cancelled then either."""
    one = dead_letter_id(unique())
    lease = await leased(keeper, one)
    assert await lease.claim(7, timedelta(0), in_seconds(30))
    assert await cancelled(keeper, one) is Cancelling.LEASED


async def test_a_late_claim(keeper: Keeper, unique: Unique) -> None:
    """Any attempt may be acknowledged, also by two; none that was cancelled, or replayed once more."""
    one = dead_letter_id(unique())
    late = await leased(keeper, one, timedelta(0))
    (pointer,) = await pointers(keeper, one.stream)
    lease = await keeper.replays.lease(pointer, timedelta(0), in_seconds(30))
    assert lease is not None
    assert await late.claim(7, LONG, in_seconds(30))
    assert await lease.claim(7, LONG, in_seconds(30))
    assert await lease.end(in_seconds(30))
    assert not await late.claim(7, LONG, in_seconds(30))

    late = await leased(keeper, one, timedelta(0))
    assert await cancelled(keeper, one) is Cancelling.CANCELLED
    assert not await late.claim(7, LONG, in_seconds(30))

    late = await leased(keeper, one, timedelta(0))
    assert await late.end(in_seconds(30))
    assert await keeper.replays.add(one, 2, in_seconds(30))
    assert not await late.claim(7, LONG, in_seconds(30))


async def test_a_claim_whose_answer_was_lost(
    keeper: Keeper, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds: what its holder, who does not know of it, writes next changes nothing."""
    one = dead_letter_id(unique())
    lease, put = await leased(keeper, one, timedelta(0)), ManagedStream.put

    async def lose_the_answer(*arguments: Any, **options: Any) -> None:
        await put(*arguments, **options)
        raise OutcomeUnknown

    monkeypatch.setattr(ManagedStream, "put", lose_the_answer)
    with pytest.raises(OutcomeUnknown):
        await lease.claim(7, timedelta(0), in_seconds(30))
    monkeypatch.undo()
    assert await lease.prolong(LONG, in_seconds(30))
    assert not await lease.give_back(0, in_seconds(30))
    assert await cancelled(keeper, one) is Cancelling.LEASED
    (pointer,) = await pointers(keeper, one.stream)
    assert pointer.is_claimed
    assert await lease.claim(7, LONG, in_seconds(30))
    assert await lease.end(in_seconds(30))


@pytest.mark.parametrize("was_delivered", [False, True])
async def test_what_was_cancelled_before_the_broker_was_killed(
    own_broker: Broker, own_nats_server: NatsServer, *, was_delivered: bool
) -> None:
    """It stays cancelled, however long ago its pointer was written."""
    keeper, one = await keep(own_broker), dead_letter_id("s")
    if was_delivered:
        lease = await leased(keeper, one)
        assert await lease.give_back(0, in_seconds(30))
    else:
        assert await keeper.replays.add(one, 1, in_seconds(30))
    for seq in range(200):  # so that the broker begins another file
        await keeper.publish(f"_WS.replay.{dead_letter_id('t', seq=seq)}", b"1" * 100_000)
    assert await cancelled(keeper, one) is Cancelling.CANCELLED
    own_nats_server.kill()
    await own_broker.lost()
    own_nats_server.start()
    await own_broker.connection.wait_ready(in_seconds(30))
    assert await pointers(keeper, "s") == []


async def cancelled(keeper: Keeper, one: DeadLetterId) -> Cancelling:
    """Cancel a replay."""
    clock = await keeper.replays.clock(in_seconds(30))
    if clock is None:
        return Cancelling.NONE
    return await keeper.replays.cancel(one, clock, in_seconds(30))


def test_the_clock_of_the_broker() -> None:
    """Times are those of the broker, whatever this machine believes; only what passes here counts."""
    clock = Clock(5_000_000_000, 100.0, 1)
    assert clock.seconds_until(7_000_000_000, 100.0) == 2
    assert clock.seconds_until(7_000_000_000, 101.5) == 0.5
    assert from_unix_ns(clock.unix_ns).seconds == 5


async def test_pages(keeper: Keeper, unique: Unique) -> None:
    """All of a consumer's pointers are found, in the order in which they were written, and nobody else's."""
    stream = unique()
    ids = [dead_letter_id(stream, seq=number + 1) for number in range(230)]
    for each in ids:
        await keeper.replays.add(each, 1, in_seconds(30))
    for consumer in ("cc", "d"):
        await keeper.replays.add(dead_letter_id(stream, consumer), 1, in_seconds(30))
    assert [pointer.id for pointer in await pointers(keeper, stream)] == ids
    assert [pointer.id.consumer for pointer in await pointers(keeper, stream, "d")] == ["d"]


async def test_no_pointers(keeper: Keeper, unique: Unique) -> None:
    """What is no pointer is passed over, and removed."""
    stream = unique()
    one = dead_letter_id(stream)
    await keeper.replays.add(one, 1, in_seconds(30))
    await keeper.publish(f"_WS.replay.{stream}.c.1")
    await keeper.publish(f"_WS.replay.{dead_letter_id(stream, seq=2)}", b"x")
    await keeper.publish(f"_WS.replay.{dead_letter_id(stream, seq=3)}", b"1", {"WS-Attempts": "x"})
    assert [pointer.id for pointer in await pointers(keeper, stream)] == [one]
    assert await keeper.broker.messages(STREAM) == 1


async def test_a_stream_of_an_earlier_version(keeper: Keeper, unique: Unique) -> None:
    """Its pointers are found, its consumers go unless somebody pulls from them."""
    stream, api = unique(), keeper.broker.api
    old = {
        "name": STREAM,
        "subjects": ["_WS.replay.>"],
        "retention": "workqueue",
        "max_msgs_per_subject": 1,
        "discard": "new",
    }
    await api.create_stream(old, in_seconds(30))
    unused, used, other = "0" * 40, "1" * 40, "other"
    for name in (unused, used, other):
        config = {
            "name": name,
            "durable_name": name,
            "ack_policy": "explicit",
            "description": "" if name == other else "Replays of consumer c of stream s.",
            "filter_subject": f"_WS.replay.{stream}.{name}.>",
            "inactive_threshold": 30 * 24 * 60 * 60 * 10**9,
        }
        await api.create_consumer(STREAM, name, config, in_seconds(30))
    inbox = keeper.broker.connection.inbox()
    keeper.broker.connection.subscribe(inbox, lambda _: None)
    pull = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{used}".encode()
    keeper.broker.connection.publish(pull, b'{"batch":1,"expires":30000000000}', reply=inbox)
    one = dead_letter_id(stream)
    await keeper.publish(f"_WS.replay.{one}", b"2", {"WS-Writer": "somebody"})
    (pointer,) = await pointers(keeper, stream)
    lease = await keeper.replays.lease(pointer, LONG, in_seconds(30))
    assert lease is not None
    assert (lease.number, lease.attempt) == (2, 1)
    await keeper.replays.remove_old_consumers(in_seconds(30))
    info = await api.call(f"CONSUMER.NAMES.{STREAM}", {}, in_seconds(30))
    assert sorted(info["consumers"]) == [used, other]
    assert await lease.end(in_seconds(30))


async def test_consumers_that_are_gone(keeper: Keeper, unique: Unique) -> None:
    """Their replays end; those of consumers that are there, or that came since, do not."""
    stream, api = await keeper.broker.stream(unique()), keeper.broker.api
    await api.create_consumer(
        stream, "there", {"durable_name": "there", "ack_policy": "explicit"}, in_seconds(30)
    )
    gone = [dead_letter_id(stream, "gone"), dead_letter_id("nowhere")]
    there = dead_letter_id(stream, "there")
    for each in (*gone, there):
        await keeper.replays.add(each, 1, in_seconds(30))
    cleaner = DeadLetterUpkeep(keeper.store, keeper.replays, api, keeper.notes, DeadLetterStats())
    await cleaner.clean(await cleaner.look(in_seconds(30)), in_seconds(30))
    assert await keeper.outstanding("", "") == {there}
    upto = await keeper.replays.position(in_seconds(30))
    later = there._replace(seq=StreamSeq(2))
    await keeper.replays.add(later, 1, in_seconds(30))
    assert await keeper.replays.forget(ConsumerKey(stream, "there"), upto, in_seconds(30)) == 1
    assert await keeper.outstanding("", "") == {later}


async def test_a_look(keeper: Keeper, unique: Unique) -> None:
    """Calls of this process are told of replays whose note was lost, and metrics how many there are."""
    stream, stats, heard = unique(), DeadLetterStats(), list[str]()
    for seq in (1, 2):
        await keeper.replays.add(dead_letter_id(stream, seq=seq), 1, in_seconds(30))
    await keeper.broker.requests.round_trip(in_seconds(30))
    keeper.notes.listen(REPLAY, stream, "c", lambda: heard.append("c"))
    await DeadLetterUpkeep(keeper.store, keeper.replays, keeper.broker.api, keeper.notes, stats).look(
        in_seconds(30)
    )
    assert heard == ["c"]
    assert stats.outstanding[ConsumerKey(stream, "c")] == 2


async def test_many_replays_at_once(keeper: Keeper, unique: Unique) -> None:
    """Of many replays of one dead letter one is outstanding; exactly one caller began it."""
    one = dead_letter_id(unique())
    begun = await asyncio.gather(*(keeper.replays.add(one, 1, in_seconds(30)) for _ in range(100)))
    assert begun.count(True) == 1
    subject = pointer_subject(one)  # others may be left by other tests
    info = await keeper.broker.api.call(f"STREAM.INFO.{STREAM}", {"subjects_filter": subject}, in_seconds(30))
    assert info["state"]["subjects"] == {subject: 1}
    assert await keeper.outstanding(one.stream) == {one}


async def test_outstanding_ones_of_some(keeper: Keeper, unique: Unique) -> None:
    """It is told of those that are asked for only, and pointers are read by stream and consumer."""
    stream, other = unique(), unique()
    ids = [
        dead_letter_id(stream),
        dead_letter_id(stream, seq=2),
        dead_letter_id(stream, "d"),
        dead_letter_id(other),
    ]
    ask = keeper.replays.outstanding_among
    assert await ask(ids, in_seconds(30)) == frozenset()
    assert await ask([], in_seconds(30)) == frozenset()
    for each in ids[:3]:
        await keeper.replays.add(each, 1, in_seconds(30))
    assert await ask(ids, in_seconds(30)) == set(ids[:3])
    assert await ask(ids[1:2], in_seconds(30)) == {ids[1]}
    assert await ask(ids[3:], in_seconds(30)) == frozenset()
    assert await keeper.outstanding(stream) == set(ids[:3])
    assert await keeper.outstanding(stream, "c") == set(ids[:2])
    assert await keeper.outstanding(other) == frozenset()
    with pytest.raises(ValueError):
        await keeper.outstanding("*", "c")


async def test_whom_it_concerns_is_told(keeper: Keeper, unique: Unique) -> None:
    """Each call to replay is announced, also where the replay is outstanding already."""
    heard: list[int] = []
    one = dead_letter_id(unique())
    keeper.notes.listen(REPLAY, one.stream, one.consumer, lambda: heard.append(1))
    for _ in range(2):
        await keeper.replays.add(one, 1, in_seconds(30))
    await keeper.broker.requests.round_trip(in_seconds(30))
    assert len(heard) == 2


async def test_the_broker_is_away(own_broker: Broker, own_nats_server: NatsServer) -> None:
    """Without a broker a replay fails by its deadline; pointers survive the broker's end."""
    keeper = await keep(own_broker)
    one = dead_letter_id("s")
    await keeper.replays.add(one, 1, in_seconds(30))
    own_nats_server.kill()
    await own_broker.lost()
    with pytest.raises(BrokerUnavailable):
        await keeper.replays.add(one, 1, in_seconds(0.3))
    own_nats_server.start()
    assert not await keeper.replays.add(one, 1, in_seconds(20))
    assert await keeper.outstanding("s", "c") == {one}


async def test_looks_at_many(keeper: Keeper, unique: Unique, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look reads a part of many, the next one goes on there, and all are counted once in the end."""
    monkeypatch.setattr(upkeep, "_PAGE", 2)
    monkeypatch.setattr(upkeep, "_PAGES_PER_LOOK", 2)
    stream, stats = unique(), DeadLetterStats()
    consumers = [ConsumerKey(stream, f"c{number}") for number in range(5)]
    for consumer in consumers:
        await keeper.replays.add(dead_letter_id(*consumer), 1, in_seconds(30))
    looking = DeadLetterUpkeep(keeper.store, keeper.replays, keeper.broker.api, keeper.notes, stats)
    assert await looking.look(in_seconds(30)) == set(consumers[:4])
    assert stats.outstanding == {}
    assert await looking.look(in_seconds(30)) == {consumers[4]}
    assert stats.outstanding == dict.fromkeys(consumers, 1)
    assert await looking.look(in_seconds(30)) == set(consumers[:4])


@pytest.mark.timeout(120)
async def test_on_a_cluster(cluster: list[NatsServer], unique: Unique) -> None:
    """By way of all members of a cluster one caller begins a replay, and one leases it."""
    async with AsyncExitStack() as stack:
        brokers = [await stack.enter_async_context(connect(server.url)) for server in cluster]
        await brokers[0].api.call("INFO", None, in_seconds(60))
        await forget_all(brokers[0])
        keepers = [await keep(broker, default_replicas=3) for broker in brokers]
        one = dead_letter_id(unique())
        for count in range(1, 6):
            again = one._replace(seq=StreamSeq(count))
            begun = await asyncio.gather(
                *(keepers[n % 3].replays.add(again, count, in_seconds(30)) for n in range(12))
            )
            assert begun.count(True) == 1

        async def found() -> int:
            return len(await pointers(keepers[1], one.stream))

        await eventually(found, 5)
        for pointer in await pointers(keepers[1], one.stream):
            leases = await asyncio.gather(
                *(each.replays.lease(pointer, LONG, in_seconds(30)) for each in keepers)
            )
            (lease,) = [each for each in leases if each is not None]
            assert await lease.prolong(LONG, in_seconds(30))
            assert await lease.end(in_seconds(30))
        await eventually(lambda: keepers[1].outstanding(one.stream, "c"), frozenset())
