"""Ensuring and deleting consumers on a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.server.events.management import Letters, Management, Told, manage
from tests.support.broker import Broker, connect, in_seconds
from tests.support.nats_server import NatsServer
from windshift.nats import OutcomeUnknown, Unavailable
from windshift.nats.jetstream.api import JetStream
from windshift.server.domain import errors
from windshift.server.domain.errors import (
    BrokerUnavailable,
    ConsumerNotFound,
    StreamNotFound,
    UnsupportedCombination,
)
from windshift.server.events.notes import CONSUMER
from windshift.server.events.retries import METADATA_KEY, RetryPolicy, stored_policy
from windshift.server.events.runs import Run
from windshift.server.events.specs import AtId, AtStart, AtTime, ConsumerSpec, FromSubjects, StreamSpec

Unique = Callable[[], str]
DAY = 86_400 * 10**9
POLICY = RetryPolicy(5, timedelta(seconds=1), timedelta(minutes=1), 3.0, 0.5)
KEPT = RetryPolicy(dead_letters=True)


@pytest.fixture
def management(broker: Broker) -> Management:
    """Manage the shared broker."""
    return manage(broker)


@pytest.fixture
async def stream(management: Management, unique: Unique) -> str:
    """Make a stream with three events, on `<stream>.1` to `<stream>.3`."""
    name = unique()
    await management.ensure(StreamSpec(name, FromSubjects((f"{name}.>",))))
    await management.publish(*(f"{name}.{number}" for number in (1, 2, 3)))
    return name


async def test_durable(management: Management, stream: str) -> None:
    """A consumer with a name lies in the broker as the contract says."""
    info = await management.consume(ConsumerSpec(stream, "c"))
    expected = {
        "durable_name": "c",
        "name": "c",
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": 4,
        "ack_policy": "explicit",
        "ack_wait": 30 * 10**9,
        "max_deliver": -1,
        "replay_policy": "instant",
        "max_waiting": 10_000,
        "max_ack_pending": 20_000,
        "inactive_threshold": 30 * DAY,
    }
    config = info["config"]
    assert expected.items() <= config.items()
    assert not {"filter_subject", "filter_subjects"} & config.keys()


async def test_ephemeral(management: Management, stream: str) -> None:
    """A consumer without a name gets one of its own each time, and can be used by it."""
    one = await management.consume(ConsumerSpec(stream, start=AtStart()))
    two = await management.consume(ConsumerSpec(stream, start=AtStart()))
    assert one["name"] != two["name"]
    assert "durable_name" not in one["config"]
    assert one["config"]["inactive_threshold"] == DAY // 24
    assert await management.next_ids(stream, one["name"]) == [1, 2, 3]


async def test_from_the_end(management: Management, stream: str) -> None:
    """By default a consumer is handed what arrives after it was made, also after a purge."""
    await management.tell(f"STREAM.PURGE.{stream}")
    await management.consume(ConsumerSpec(stream, "c"))
    assert await management.next_ids(stream, "c") == []
    await management.publish(f"{stream}.x")
    assert await management.next_ids(stream, "c", most=1, wait=True) == [4]


async def test_from_the_end_of_an_empty_stream(management: Management, unique: Unique) -> None:
    """The end of a stream without events is before its first one."""
    name = unique()
    await management.ensure(StreamSpec(name, FromSubjects((f"{name}.>",))))
    info = await management.consume(ConsumerSpec(name, "c"))
    assert info["config"]["opt_start_seq"] == 1
    await management.publish(f"{name}.x")
    assert await management.next_ids(name, "c", most=1, wait=True) == [1]


async def test_from_start_id_and_time(management: Management, stream: str) -> None:
    """A consumer starts at the first event, at an id, or at the first event at or after a time."""
    for start, ids in (
        (AtStart(), [1, 2, 3]),
        (AtId(1), [1, 2, 3]),
        (AtId(3), [3]),
        (AtTime(await management.stored_at(stream, 2)), [2, 3]),
        (AtTime(await management.stored_at(stream, 2) + 1), [3]),
        (AtTime(0), [1, 2, 3]),
        (AtTime(2**63), []),
    ):
        info = await management.consume(ConsumerSpec(stream, start=start))
        assert await management.next_ids(stream, info["name"]) == ids


async def test_from_an_id_to_come(management: Management, stream: str) -> None:
    """An id that no event has yet is waited for; those before it are not handed out."""
    await management.consume(ConsumerSpec(stream, "c", start=AtId(5)))
    await management.publish(*[f"{stream}.x"] * 3)
    assert await management.next_ids(stream, "c", most=2, wait=True) == [5, 6]
    await management.consume(ConsumerSpec(stream, "far", start=AtId(2**64 - 1)))
    assert await management.next_ids(stream, "far") == []


@pytest.mark.parametrize(
    ("subjects", "ids"),
    [
        ((), [1, 2, 3, 4]),
        (("{s}.1",), [1]),
        (("{s}.1", "{s}.x.*"), [1, 4]),
        (("*.3",), [3]),
        (("*.x.>", "*.2"), [2, 4]),
        ((">",), [1, 2, 3, 4]),
        (("elsewhere.*",), []),
    ],
)
async def test_subjects(
    management: Management, stream: str, subjects: tuple[str, ...], ids: list[int]
) -> None:
    """No subject is every event; wildcards may come first; one outside of the stream's is no error."""
    await management.publish(f"{stream}.x.y")
    chosen = tuple(subject.format(s=stream) for subject in subjects)
    await management.consume(ConsumerSpec(stream, "c", chosen, AtStart()))
    assert await management.next_ids(stream, "c") == ids


@pytest.mark.parametrize("subjects", [("a.*", "a.b"), ("a", "a"), (">", "a")])
async def test_overlapping_subjects(management: Management, stream: str, subjects: tuple[str, ...]) -> None:
    """Subjects of which one covers the other are refused, when it is made and when it is changed."""
    with pytest.raises(UnsupportedCombination, match="overlap"):
        await management.consume(ConsumerSpec(stream, "c", subjects))
    await management.consume(ConsumerSpec(stream, "c"))
    with pytest.raises(UnsupportedCombination, match="overlap"):
        await management.consume(ConsumerSpec(stream, "c", subjects))


async def test_change_keeps_the_position(management: Management, stream: str) -> None:
    """Ensured again, a consumer gets the new subjects and timeout and stays where it is.

    What it went past under its old subjects it does not go back for.
    """
    await management.consume(ConsumerSpec(stream, "c", (f"{stream}.>",), AtStart(), timedelta(seconds=5)))
    assert await management.next_ids(stream, "c", most=2) == [1, 2]
    await management.publish(f"{stream}.x", f"{stream}.y")
    info = await management.consume(ConsumerSpec(stream, "c", (f"{stream}.x", f"{stream}.3"), AtId(1)))
    assert info["config"]["ack_wait"] == 30 * 10**9
    assert info["config"]["deliver_policy"] == "all"
    assert await management.next_ids(stream, "c") == [3, 4]
    info = await management.consume(ConsumerSpec(stream, "c", processing_timeout=timedelta(seconds=7)))
    assert info["config"]["ack_wait"] == 7 * 10**9
    await management.publish(f"{stream}.z")
    assert await management.next_ids(stream, "c", most=1, wait=True) == [6]


async def test_subjects_change_under_a_waiting_pull(management: Management, stream: str) -> None:
    """A subscriber that waits is handed what the changed subjects let through, also when none are left."""
    await management.consume(ConsumerSpec(stream, "c", ("elsewhere",)))
    waiting = asyncio.create_task(management.next_ids(stream, "c", most=2, wait=True))
    await management.consume(ConsumerSpec(stream, "c", (f"{stream}.a", f"{stream}.b")))
    await management.publish(f"{stream}.a", f"{stream}.z")
    spec = ConsumerSpec(stream, "c")
    info = await management.consume(spec)
    await management.publish(f"{stream}.z")
    ids = await waiting
    assert (ids[0], len(ids)) == (4, 2)
    assert (await management.consume(spec))["config"] == info["config"]
    await management.consume(ConsumerSpec(stream, "c", (f"{stream}.a",)))


async def test_ensuring_again_changes_nothing(management: Management, stream: str) -> None:
    """The same request once more tells the broker nothing, however far the stream has gone."""
    spec = ConsumerSpec(stream, "c", (f"{stream}.a", f"{stream}.b"))
    first = await management.consume(spec)
    await management.publish(f"{stream}.x")
    assert (await management.consume(spec))["config"] == first["config"]


async def test_settings_by_others_stay(management: Management, stream: str) -> None:
    """What another program set for a consumer, and the contract does not speak of, survives."""
    foreign = {"description": "by hand", "max_waiting": 5, "max_ack_pending": 6, "max_batch": 7}
    config = {"durable_name": "c", "ack_policy": "explicit", "metadata": {"owner": "billing"}} | foreign
    await management.tell(f"CONSUMER.CREATE.{stream}.c", stream_name=stream, config=config)
    info = await management.consume(ConsumerSpec(stream, "c", (f"{stream}.1",)))
    assert foreign.items() <= info["config"].items()
    assert info["config"]["metadata"]["owner"] == "billing"
    assert info["config"]["filter_subject"] == f"{stream}.1"


async def test_a_policy_stays_until_there_is_another(management: Management, stream: str) -> None:
    """A client that does not speak of the policy keeps it, and the metadata of others stays with any."""
    config = {"durable_name": "c", "ack_policy": "explicit", "metadata": {"owner": "billing"}}
    await management.tell(f"CONSUMER.CREATE.{stream}.c", stream_name=stream, config=config)
    for spec, policy in (
        (ConsumerSpec(stream, "c"), RetryPolicy()),
        (ConsumerSpec(stream, "c", retry_policy=POLICY), POLICY),
        (ConsumerSpec(stream, "c", (f"{stream}.1",)), POLICY),
        (ConsumerSpec(stream, "c", processing_timeout=timedelta(seconds=7)), POLICY),
        (ConsumerSpec(stream, "c", retry_policy=RetryPolicy(3)), RetryPolicy(3)),
        (ConsumerSpec(stream, "c"), RetryPolicy(3)),
        (ConsumerSpec(stream, "c", retry_policy=RetryPolicy()), RetryPolicy()),
    ):
        stored = (await management.consume(spec))["config"]
        assert stored_policy(stored) == policy
        assert stored["metadata"]["owner"] == "billing"
        assert stored["max_deliver"] == -1


@pytest.mark.parametrize("crash", [False, True])
async def test_a_policy_survives_restarts(
    own_nats_server: NatsServer, unique: Unique, *, crash: bool
) -> None:
    """It lies in the broker, and whoever connects after a restart finds it there."""
    name = unique()
    async with connect(own_nats_server.url) as broker:
        management = manage(broker)
        await management.ensure(StreamSpec(name, FromSubjects((f"{name}.>",))))
        await management.consume(ConsumerSpec(name, "c", retry_policy=POLICY))
        generated = (await management.consume(ConsumerSpec(name, retry_policy=KEPT)))["name"]
    (own_nats_server.kill if crash else own_nats_server.stop)()
    own_nats_server.start()
    async with connect(own_nats_server.url) as broker:
        management = manage(broker)
        assert (await management.consumers.get(name, "c", in_seconds(30))).retry_policy == POLICY
        assert (await management.consumers.get(name, generated, in_seconds(30))).retry_policy == KEPT
        assert stored_policy((await management.consume(ConsumerSpec(name, "c")))["config"]) == POLICY


async def test_two_policies_at_once(nats_server: NatsServer, stream: str) -> None:
    """Of several that are ensured at once, through several servers, one is there whole, and all succeed."""
    wanted = [RetryPolicy(most, multiplier=float(most)) for most in range(1, 11)]
    async with AsyncExitStack() as stack:
        managements = [manage(await stack.enter_async_context(connect(nats_server.url))) for _ in range(4)]
        async with asyncio.TaskGroup() as group:
            for number, policy in enumerate(wanted):
                spec = ConsumerSpec(stream, "c", retry_policy=policy)
                group.create_task(managements[number % 4].consumers.ensure(spec, in_seconds(30)))
        stored = await managements[0].consumers.get(stream, "c", in_seconds(30))
    assert stored.retry_policy in wanted


async def test_a_policy_and_a_timeout_at_once(management: Management, stream: str) -> None:
    """Neither of two changes that one server is asked for at once undoes the other."""
    for number in range(1, 21):
        policy, timeout = RetryPolicy(number), timedelta(seconds=number)
        specs = (
            ConsumerSpec(stream, "c", processing_timeout=timeout, retry_policy=policy),
            *[ConsumerSpec(stream, "c", processing_timeout=timeout)] * 3,
        )
        await asyncio.gather(*(management.consumers.ensure(spec, in_seconds(30)) for spec in specs))
        stored = await management.consumers.get(stream, "c", in_seconds(30))
        assert (stored.retry_policy, stored.processing_timeout) == (policy, timeout)


async def test_a_place_for_dead_letters(broker: Broker, stream: str) -> None:
    """It is there before a consumer has dead letters, with the stream's replicas, and only then."""
    letters = Letters()
    management = manage(broker, dead_letters=letters)
    for spec, ensured in (
        (ConsumerSpec(stream, "c"), []),
        (ConsumerSpec(stream, "c", retry_policy=POLICY), []),
        (ConsumerSpec(stream, "c", retry_policy=KEPT), [1]),
        (ConsumerSpec(stream, "c", processing_timeout=timedelta(seconds=7)), [1]),
        (ConsumerSpec(stream, "d", retry_policy=KEPT), [1]),
        (ConsumerSpec(stream, retry_policy=KEPT), [1]),
        (ConsumerSpec(stream, "c", retry_policy=POLICY), []),
        (ConsumerSpec(stream, "c"), []),
    ):
        letters.ensured.clear()
        await management.consume(spec)
        assert letters.ensured == ensured


async def test_where_the_first_run_begins(broker: Broker, stream: str) -> None:
    """Behind all dead letters that were written before the consumer had any: clocks need not tell."""
    letters = Letters()
    management = manage(broker, dead_letters=letters)
    for name, policy, last, begins in (("a", KEPT, 0, 0), ("b", KEPT, 7, 7), ("c", POLICY, 9, 10)):
        letters.last = last
        await management.consume(ConsumerSpec(stream, name, retry_policy=policy))
        letters.last += 1
        await management.consume(ConsumerSpec(stream, name, retry_policy=KEPT))
        letters.last += 1
        await management.consume(ConsumerSpec(stream, name, retry_policy=RetryPolicy(9, dead_letters=True)))
        state = await broker.api.consumer(stream, name, in_seconds(30))
        assert state is not None
        assert Run.of(state) == Run(state.created, 0, begins)


async def test_no_policy_without_a_place_for_dead_letters(broker: Broker, stream: str) -> None:
    """When there can be none, the consumer is neither made nor changed."""

    class NoRoom(Letters):
        async def ensure(self, replicas: int | None, _deadline: float) -> None:
            raise BrokerUnavailable(f"no room for {replicas}")

    management = manage(broker, dead_letters=NoRoom())
    await management.consume(ConsumerSpec(stream, "c", retry_policy=POLICY))
    for name in ("c", "d"):
        with pytest.raises(BrokerUnavailable):
            await management.consume(ConsumerSpec(stream, name, retry_policy=KEPT))
    assert (await management.consumers.get(stream, "c", in_seconds(30))).retry_policy == POLICY
    with pytest.raises(ConsumerNotFound):
        await management.consumers.get(stream, "d", in_seconds(30))


async def test_changes_are_told(broker: Broker, stream: str) -> None:
    """A change of an existing consumer is told to all servers; a new one, and no change, are not."""
    told = Told()
    management = manage(broker, notes=told)
    for spec, notes in (
        (ConsumerSpec(stream, "c"), 0),
        (ConsumerSpec(stream, "c"), 0),
        (ConsumerSpec(stream, "c", retry_policy=POLICY), 1),
        (ConsumerSpec(stream, "c", retry_policy=POLICY), 0),
        (ConsumerSpec(stream, "c", (f"{stream}.1",)), 1),
        (ConsumerSpec(stream, "c", (f"{stream}.1",), processing_timeout=timedelta(seconds=7)), 1),
        (ConsumerSpec(stream), 0),
    ):
        told.notes.clear()
        await management.consume(spec)
        assert told.notes == [(CONSUMER, stream, "c")] * notes


async def test_an_unanswered_change_is_told(
    broker: Broker, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be done: the next attempt, or the next call, then finds nothing to change."""
    told = Told()
    management = manage(broker, notes=told)
    await management.consume(ConsumerSpec(stream, "c"))
    update = JetStream.update_consumer

    async def unanswered(*arguments: Any, **options: Any) -> None:
        await update(*arguments, **options)
        raise OutcomeUnknown

    monkeypatch.setattr(JetStream, "update_consumer", unanswered)
    await management.consume(ConsumerSpec(stream, "c", retry_policy=POLICY))
    assert told.notes == [(CONSUMER, stream, "c")]


@pytest.mark.parametrize("asked", ["consumer", "dead letters"])
async def test_an_unanswered_change_before_the_broker_is_gone(
    broker: Broker, stream: str, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    """It may be done, whatever then keeps the next attempt from seeing whether it is."""
    is_gone = False

    class Leaving(Letters):
        async def ensure(self, replicas: int | None, deadline: float) -> None:
            if is_gone and asked == "dead letters":
                raise BrokerUnavailable
            await super().ensure(replicas, deadline)

    told = Told()
    management = manage(broker, dead_letters=Leaving(), notes=told)
    await management.consume(ConsumerSpec(stream, "c", retry_policy=KEPT))
    update, consumer = JetStream.update_consumer, JetStream.consumer

    async def unanswered(*arguments: Any) -> None:
        nonlocal is_gone
        await update(*arguments)
        is_gone = True
        raise OutcomeUnknown

    async def look(*arguments: Any) -> Any:
        if is_gone and asked == "consumer":
            raise Unavailable
        return await consumer(*arguments)

    monkeypatch.setattr(JetStream, "update_consumer", unanswered)
    monkeypatch.setattr(JetStream, "consumer", look)
    spec = ConsumerSpec(stream, "c", processing_timeout=timedelta(seconds=7))
    with pytest.raises(errors.OutcomeUnknown):
        await management.consumers.ensure(spec, in_seconds(20))
    assert (await management.stored_consumer(stream, "c"))["config"]["ack_wait"] == 7 * 10**9
    assert (CONSUMER, stream, "c") in told.notes


async def test_a_change_while_a_place_for_dead_letters_is_made(broker: Broker, stream: str) -> None:
    """What was read before it was there, which may take seconds, is not written back."""
    another = manage(broker)

    class Slow(Letters):
        async def ensure(self, _replicas: int | None, _deadline: float) -> None:
            await another.consume(ConsumerSpec(stream, "c", retry_policy=POLICY))

    management = manage(broker, dead_letters=Slow())
    await another.consume(ConsumerSpec(stream, "c", retry_policy=KEPT))
    info = await management.consume(ConsumerSpec(stream, "c", processing_timeout=timedelta(seconds=7)))
    assert stored_policy(info["config"]) == POLICY
    assert info["config"]["ack_wait"] == 7 * 10**9


async def test_get(broker: Broker, stream: str) -> None:
    """A consumer says what it is, how far it has come, and how much is left."""
    letters = Letters()
    letters.counted = {(stream, "c"): 7, (stream, "d"): 8}
    management = manage(broker, dead_letters=letters)
    spec = ConsumerSpec(stream, "c", (f"{stream}.*",), AtStart(), timedelta(seconds=5), POLICY)
    await management.publish(f"{stream}.4", f"{stream}.5")
    await management.consume(spec)
    seen = await management.consumers.get(stream, "c", in_seconds(30))
    assert (seen.stream, seen.id, seen.durable, seen.subjects) == (stream, "c", True, (f"{stream}.*",))
    assert (seen.processing_timeout, seen.retry_policy) == (timedelta(seconds=5), POLICY)
    assert (seen.pending, seen.unsettled, seen.settled_to, seen.dead_letters) == (5, 0, 0, 7)
    assert await management.next_ids(stream, "c", most=3) == [1, 2, 3]
    seen = await management.consumers.get(stream, "c", in_seconds(30))
    assert (seen.pending, seen.unsettled, seen.settled_to) == (2, 3, 0)


async def test_an_unreadable_policy_is_shown_as_what_is_done(management: Management, stream: str) -> None:
    """What another program wrote in its place means: no limit, and dead letters."""
    config = {"durable_name": "c", "ack_policy": "explicit", "metadata": {METADATA_KEY: "5"}}
    await management.tell(f"CONSUMER.CREATE.{stream}.c", stream_name=stream, config=config)
    assert (await management.consumers.get(stream, "c", in_seconds(30))).retry_policy == KEPT
    await management.consume(ConsumerSpec(stream, "c", retry_policy=POLICY))
    assert (await management.consumers.get(stream, "c", in_seconds(30))).retry_policy == POLICY


async def test_consumers_of_another_kind(management: Management, stream: str) -> None:
    """A consumer of another program that cannot serve a consume call is left alone and refused."""
    for name, config in {
        "push": {"deliver_subject": f"deliver.{stream}", "ack_policy": "explicit"},
        "careless": {"ack_policy": "none"},
    }.items():
        await management.tell(
            f"CONSUMER.CREATE.{stream}.{name}", stream_name=stream, config={"durable_name": name} | config
        )
        with pytest.raises(UnsupportedCombination, match="another program"):
            await management.consume(ConsumerSpec(stream, name))


async def test_limits_of_stream_and_account(tmp_path: Path, unique: Unique) -> None:
    """Where stream or broker allow fewer unsettled events, the consumer gets what is allowed."""
    config = tmp_path / "nats.conf"
    config.write_text("jetstream { limits { max_ack_pending: 500 } }")
    server = NatsServer(tmp_path, "--config", str(config))
    server.start()
    try:
        async with connect(server.url) as broker:
            management, name = manage(broker), unique()
            limits = {"max_ack_pending": 50, "inactive_threshold": DAY}
            await management.tell(f"STREAM.CREATE.{name}", name=name, consumer_limits=limits)
            info = await management.consume(ConsumerSpec(name, "c"))
            assert limits.items() <= info["config"].items()
            other = unique()
            await management.tell(f"STREAM.CREATE.{other}", name=other)
            info = await management.consume(ConsumerSpec(other, "c"))
            assert info["config"]["max_ack_pending"] == 500
    finally:
        server.kill()


async def test_work_queue(management: Management, unique: Unique) -> None:
    """On a work queue of another program a consumer from the start works; from elsewhere it is refused."""
    name = unique()
    await management.tell(f"STREAM.CREATE.{name}", name=name, subjects=[f"{name}.>"], retention="workqueue")
    with pytest.raises(UnsupportedCombination, match=r"from\.start"):
        await management.consume(ConsumerSpec(name, "c"))
    await management.consume(ConsumerSpec(name, "c", (f"{name}.a",), AtStart()))
    with pytest.raises(UnsupportedCombination, match="share no subjects"):
        await management.consume(ConsumerSpec(name, "d", (f"{name}.*",), AtStart()))


async def test_missing_stream(management: Management, unique: Unique) -> None:
    """A stream that does not exist is named, whatever is done with a consumer of it."""
    name = unique()
    for attempt in (
        management.consumers.ensure(ConsumerSpec(name, "c"), in_seconds(30)),
        management.consumers.ensure(ConsumerSpec(name), in_seconds(30)),
        management.consumers.delete(name, "c", in_seconds(30)),
        management.consumers.get(name, "c", in_seconds(30)),
    ):
        with pytest.raises(StreamNotFound) as caught:
            await attempt
        assert caught.value.metadata["name"] == name


async def test_delete(management: Management, stream: str) -> None:
    """A deleted consumer is gone; deleting what is not there says so by name."""
    await management.consume(ConsumerSpec(stream, "c"))
    ephemeral = (await management.consume(ConsumerSpec(stream)))["name"]
    for name in ("c", ephemeral):
        await management.consumers.delete(stream, name, in_seconds(30))
        with pytest.raises(ConsumerNotFound) as caught:
            await management.consumers.delete(stream, name, in_seconds(30))
        assert caught.value.metadata["name"] == name
        with pytest.raises(ConsumerNotFound):
            await management.consumers.get(stream, name, in_seconds(30))


async def test_many_at_once(nats_server: NatsServer, stream: str) -> None:
    """Many clients that ensure one durable at once all succeed, while events arrive."""
    async with AsyncExitStack() as stack:
        managements = [manage(await stack.enter_async_context(connect(nats_server.url))) for _ in range(4)]
        tasks: list[asyncio.Task[Any]] = []
        async with asyncio.TaskGroup() as group:
            for number in range(100):
                ensured = managements[number % 4].consumers.ensure(ConsumerSpec(stream, "c"), in_seconds(60))
                tasks.append(group.create_task(ensured))
                if number % 5 == 0:
                    group.create_task(managements[0].publish(f"{stream}.x"))
    assert {task.result() for task in tasks} == {"c"}


async def test_without_a_broker(own_nats_server: NatsServer, own_broker: Broker) -> None:
    """While the broker is away nothing is done, and that is said by the deadline."""
    own_nats_server.kill()
    management = manage(own_broker)
    for attempt in (
        management.consumers.ensure(ConsumerSpec("S", "c"), in_seconds(0.2)),
        management.consumers.delete("S", "c", in_seconds(0.2)),
        management.consumers.get("S", "c", in_seconds(0.2)),
    ):
        with pytest.raises(BrokerUnavailable):
            await attempt


async def test_waiting_for_a_turn_ends_in_time(own_nats_server: NatsServer, own_broker: Broker) -> None:
    """Many that want the same consumer of a broker that is away are all told by their own deadlines."""
    own_nats_server.kill()
    management = manage(own_broker)
    began = in_seconds(0)
    first = asyncio.create_task(management.consumers.ensure(ConsumerSpec("S", "c"), in_seconds(30)))
    others = [management.consumers.ensure(ConsumerSpec("S", "c"), in_seconds(0.2)) for _ in range(100)]
    outcomes = await asyncio.gather(*others, return_exceptions=True)
    assert all(isinstance(outcome, BrokerUnavailable) for outcome in outcomes)
    assert in_seconds(0) - began < 15, "one after the other they had been 20 seconds"
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
