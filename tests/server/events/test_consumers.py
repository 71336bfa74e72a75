"""Ensuring and deleting consumers on a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.server.events.management import Management, manage
from tests.support.broker import Broker, connect, in_seconds
from tests.support.nats_server import NatsServer
from windshift.server.errors import (
    BrokerUnavailable,
    ConsumerNotFound,
    StreamNotFound,
    UnsupportedCombination,
)
from windshift.server.events.specs import AtId, AtStart, AtTime, ConsumerSpec, FromSubjects, StreamSpec

Unique = Callable[[], str]
DAY = 86_400 * 10**9


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
    assert await management.next_ids(stream, "c") == [4]


async def test_from_the_end_of_an_empty_stream(management: Management, unique: Unique) -> None:
    """The end of a stream without events is before its first one."""
    name = unique()
    await management.ensure(StreamSpec(name, FromSubjects((f"{name}.>",))))
    info = await management.consume(ConsumerSpec(name, "c"))
    assert info["config"]["opt_start_seq"] == 1
    await management.publish(f"{name}.x")
    assert await management.next_ids(name, "c") == [1]


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
    assert await management.next_ids(stream, "c") == [5, 6]
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
    assert await management.next_ids(stream, "c") == [6]


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
    """A stream that does not exist is named, for durables, ephemerals and deletions."""
    name = unique()
    for attempt in (
        management.consumers.ensure(ConsumerSpec(name, "c"), in_seconds(5)),
        management.consumers.ensure(ConsumerSpec(name), in_seconds(5)),
        management.consumers.delete(name, "c", in_seconds(5)),
    ):
        with pytest.raises(StreamNotFound) as caught:
            await attempt
        assert caught.value.name == name


async def test_delete(management: Management, stream: str) -> None:
    """A deleted consumer is gone; deleting what is not there says so by name."""
    await management.consume(ConsumerSpec(stream, "c"))
    ephemeral = (await management.consume(ConsumerSpec(stream)))["name"]
    for name in ("c", ephemeral):
        await management.consumers.delete(stream, name, in_seconds(5))
        with pytest.raises(ConsumerNotFound) as caught:
            await management.consumers.delete(stream, name, in_seconds(5))
        assert caught.value.name == name


async def test_many_at_once(nats_server: NatsServer, stream: str) -> None:
    """Many clients that ensure one durable at once all succeed, while events arrive."""
    async with AsyncExitStack() as stack:
        managements = [manage(await stack.enter_async_context(connect(nats_server.url))) for _ in range(4)]
        tasks: list[asyncio.Task[Any]] = []
        async with asyncio.TaskGroup() as group:
            for number in range(100):
                ensured = managements[number % 4].consumers.ensure(ConsumerSpec(stream, "c"), in_seconds(10))
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
    ):
        with pytest.raises(BrokerUnavailable):
            await attempt
