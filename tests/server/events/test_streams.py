"""Ensuring streams on a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from nats.aio.msg import Msg

from tests.server.events.management import Management, eventually, manage
from tests.support.broker import Broker, connect, in_seconds
from tests.support.nats_server import NatsServer
from windshift.server.errors import (
    BrokerUnavailable,
    InvalidField,
    MirrorChange,
    OutcomeUnknown,
    ReplicasUnavailable,
    StorageChange,
    StreamNotFound,
    SubjectsOverlap,
    UnsupportedCombination,
)
from windshift.server.events.specs import (
    AtEnd,
    AtId,
    AtTime,
    DiscardPolicy,
    FromAggregate,
    FromMirror,
    FromSubjects,
    RetentionSpec,
    SourceSpec,
    StorageType,
    StreamSpec,
)
from windshift.server.nats.jetstream import RefusedByBroker

Unique = Callable[[], str]


@pytest.fixture
def management(broker: Broker) -> Management:
    """Manage the shared broker."""
    return manage(broker)


def on(*subjects: str, name: str, **options: Any) -> StreamSpec:
    """Wish for a stream of these subjects."""
    return StreamSpec(name, FromSubjects(subjects), **options)


def copy(name: str, *sources: SourceSpec) -> StreamSpec:
    """Wish for an aggregate."""
    return StreamSpec(name, FromAggregate(sources))


def mirror(name: str, source: SourceSpec, **options: Any) -> StreamSpec:
    """Wish for a mirror."""
    return StreamSpec(name, FromMirror(source), **options)


async def source_stream(management: Management, name: str, events: int = 0) -> str:
    """Make a stream with events on `<name>.1`, `<name>.2` and so on."""
    await management.ensure(on(f"{name}.>", name=name))
    await management.publish(*(f"{name}.{number}" for number in range(1, events + 1)))
    return name


async def test_defaults(management: Management, unique: Unique) -> None:
    """A new stream has the contract's defaults, in a file, and the broker adds nothing that limits it."""
    name = unique()
    stored = await management.ensure(on(f"{name}.>", name=name))
    expected = {
        "subjects": [f"{name}.>"],
        "storage": "file",
        "num_replicas": 1,
        "retention": "limits",
        "max_age": 0,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "max_bytes": -1,
        "max_msg_size": -1,
        "max_consumers": -1,
        "discard": "old",
        "duplicate_window": 120 * 10**9,
    }
    assert expected.items() <= stored.items()
    assert "discard_new_per_subject" not in stored


async def test_every_option_and_its_removal(management: Management, unique: Unique) -> None:
    """All options arrive, can be changed, and vanish when they are left out."""
    name = unique()
    plain = on(f"{name}.a", f"{name}.b.*", name=name, storage=StorageType.MEMORY)
    retention = RetentionSpec(
        timedelta(hours=1), 10, 2, 10_000, discard=DiscardPolicy.NEW, discard_new_per_subject=True
    )
    full = replace(
        plain,
        retention=retention,
        replicas=1,
        deduplication_window=timedelta(milliseconds=100),
        max_event_size=512,
    )
    first = await management.ensure(plain)
    stored = await management.ensure(full)
    expected = {
        "storage": "memory",
        "max_age": 3_600 * 10**9,
        "max_msgs": 10,
        "max_msgs_per_subject": 2,
        "max_bytes": 10_000,
        "max_msg_size": 512,
        "discard": "new",
        "discard_new_per_subject": True,
        "duplicate_window": 10**8,
    }
    assert expected.items() <= stored.items()
    changed = await management.ensure(replace(full, retention=replace(retention, max_events=11)))
    assert changed == stored | {"max_msgs": 11}
    assert await management.ensure(plain) == first


async def test_largest_numbers(management: Management, unique: Unique) -> None:
    """The largest numbers that the broker's types hold are taken as they are."""
    name, most = unique(), 2**63 - 1
    longest = timedelta(microseconds=most // 1000)
    stored = await management.ensure(
        on(name, name=name, retention=RetentionSpec(longest, most, most), max_event_size=2**31 - 1)
    )
    assert stored["max_msgs"] == stored["max_msgs_per_subject"] == most
    assert stored["max_age"] == most // 1000 * 1000
    assert stored["max_msg_size"] == 2**31 - 1


async def test_more_bytes_than_the_broker_has(management: Management, unique: Unique) -> None:
    """A size for which the broker has no room is refused as a number out of its range."""
    name = unique()
    for storage in StorageType:
        with pytest.raises(InvalidField) as caught:
            await management.ensure(
                on(name, name=name, retention=RetentionSpec(max_bytes=2**62), storage=storage)
            )
        assert caught.value.field == "retention_policy.max_bytes"


async def test_deduplication_window_follows_age(management: Management, unique: Unique) -> None:
    """By default keys are remembered for two minutes, or as long as the events live if that is less."""
    name = unique()
    short = on(name, name=name, retention=RetentionSpec(timedelta(seconds=30)))
    assert (await management.ensure(short))["duplicate_window"] == 30 * 10**9
    assert (await management.ensure(replace(short, retention=RetentionSpec())))["duplicate_window"] == (
        120 * 10**9
    )
    assert (await management.ensure(short))["duplicate_window"] == 30 * 10**9


async def test_subjects_come_and_go(management: Management, unique: Unique) -> None:
    """Events on added subjects are stored, those on removed ones no more; what is stored stays."""
    name = unique()
    await management.ensure(on(f"{name}.a", f"{name}.b", name=name))
    await management.publish(f"{name}.a", f"{name}.b")
    await management.ensure(on(f"{name}.b", f"{name}.c.>", name=name))
    await management.publish(f"{name}.b", f"{name}.c.d")
    assert await management.broker.api.stream_names(f"{name}.a", in_seconds(5)) == []
    assert await management.subjects(name) == {f"{name}.a": 1, f"{name}.b": 2, f"{name}.c.d": 1}


async def test_settings_by_others_stay(management: Management, unique: Unique) -> None:
    """What another program set, and the contract has no field for, survives."""
    name = unique()
    foreign = {
        "description": "made by hand",
        "allow_direct": True,
        "compression": "s2",
        "max_consumers": 5,
        "deny_delete": True,
        "metadata": {"owner": "billing"},
        "consumer_limits": {"max_ack_pending": 7},
        "republish": {"src": f"{name}.>", "dest": f"seen-{name}.>"},
    }
    await management.tell(f"STREAM.CREATE.{name}", name=name, subjects=[f"{name}.>"], max_msgs=3, **foreign)
    stored = await management.ensure(on(f"{name}.>", name=name))
    assert stored["max_msgs"] == -1
    assert stored["metadata"]["owner"] == "billing"
    assert {key: value for key, value in stored.items() if key in foreign and key != "metadata"} == {
        key: value for key, value in foreign.items() if key != "metadata"
    }


async def test_ensuring_again_changes_nothing(management: Management, unique: Unique) -> None:
    """A repeated request tells the broker nothing at all: no update is made, no advisory sent."""
    name = unique()
    updates: list[str] = []

    def note(message: Msg) -> None:
        updates.append(message.subject)

    watch = await management.broker.connection.subscribe(f"$JS.EVENT.ADVISORY.STREAM.UPDATED.{name}", note)
    spec = on(f"{name}.*", name=name, retention=RetentionSpec(timedelta(hours=1), 5))
    first = await management.ensure(spec)
    assert await management.ensure(spec) == first
    assert not updates
    await management.ensure(replace(spec, max_event_size=9))
    await eventually(partial(length, updates), 1)
    await watch.unsubscribe()


async def length(things: list[str]) -> int:
    """Count, for `eventually`."""
    return len(things)


async def test_subjects_of_another_stream(management: Management, unique: Unique) -> None:
    """A subject that another stream takes is refused, at creation and at a change."""
    name, other = unique(), unique()
    await management.ensure(on(f"{name}.>", name=name))
    with pytest.raises(SubjectsOverlap):
        await management.ensure(on(f"{name}.a", name=other))
    await management.ensure(on(f"{other}.a", name=other))
    with pytest.raises(SubjectsOverlap):
        await management.ensure(on(f"{other}.a", f"{name}.*", name=other))


async def test_subjects_that_overlap_each_other(management: Management, unique: Unique) -> None:
    """A stream's own subjects must not overlap, nor repeat each other."""
    name = unique()
    for subjects in (("a.>", "a.b"), ("a", "a"), ("a.*.c", "a.b.*")):
        with pytest.raises(UnsupportedCombination, match="overlaps"):
            await management.ensure(on(*(f"{name}.{subject}" for subject in subjects), name=name))


async def test_storage_change(management: Management, unique: Unique) -> None:
    """The storage type stays; a default is a type too."""
    name = unique()
    memory = on(name, name=name, storage=StorageType.MEMORY)
    await management.ensure(memory)
    with pytest.raises(StorageChange):
        await management.ensure(on(name, name=name))
    assert (await management.ensure(memory))["storage"] == "memory"


async def test_replicas_on_a_single_server(broker: Broker, unique: Unique) -> None:
    """One server keeps one replica, whether more are asked for by the request or by the default."""
    name = unique()
    with pytest.raises(ReplicasUnavailable):
        await manage(broker).ensure(on(name, name=name, replicas=3))
    with pytest.raises(ReplicasUnavailable):
        await manage(broker, default_replicas=3).ensure(on(name, name=name))
    await manage(broker, default_replicas=3).ensure(on(name, name=name, replicas=1))
    assert (await manage(broker, default_replicas=3).ensure(on(name, name=name)))["num_replicas"] == 1
    with pytest.raises(ReplicasUnavailable):
        await manage(broker).ensure(on(name, name=name, replicas=2))


@pytest.mark.parametrize("again", [False, True])
async def test_discard_new_per_subject(management: Management, unique: Unique, again: bool) -> None:
    """Discarding new events per subject without its company is refused on new and on stored streams."""
    name = unique()
    if again:
        await management.ensure(
            on(
                f"{name}.*",
                name=name,
                retention=RetentionSpec(
                    max_events_per_subject=1, discard=DiscardPolicy.NEW, discard_new_per_subject=True
                ),
            )
        )
    with pytest.raises(UnsupportedCombination):
        await management.ensure(
            on(f"{name}.*", name=name, retention=RetentionSpec(discard_new_per_subject=True))
        )


async def test_limits_work(management: Management, unique: Unique) -> None:
    """Limits do what they say: old events give way, new ones are refused, per stream and per subject."""
    name = unique()
    await management.ensure(on(f"{name}.>", name=name, retention=RetentionSpec(max_events_per_subject=1)))
    await management.publish(f"{name}.a", f"{name}.a", f"{name}.b")
    assert await management.subjects(name) == {f"{name}.a": 1, f"{name}.b": 1}
    full = RetentionSpec(max_events_per_subject=1, discard=DiscardPolicy.NEW, discard_new_per_subject=True)
    await management.ensure(on(f"{name}.>", name=name, retention=full))
    with pytest.raises(RefusedByBroker, match="maximum messages per subject"):
        await management.publish(f"{name}.a")
    await management.ensure(
        on(f"{name}.>", name=name, retention=RetentionSpec(max_events=2, discard=DiscardPolicy.NEW))
    )
    with pytest.raises(RefusedByBroker, match="maximum messages"):
        await management.publish(f"{name}.c")
    await management.ensure(on(f"{name}.>", name=name, max_event_size=1))
    with pytest.raises(RefusedByBroker, match="size"):
        await management.publish(f"{name}.c", Nats_Msg_Id="x")


# --- Mirrors ----------------------------------------------------------------------------------------------


async def test_mirror(management: Management, unique: Unique) -> None:
    """A mirror copies another stream, ids included, and can be ensured again."""
    name, origin = unique(), await source_stream(management, unique(), events=3)
    stored = await management.ensure(mirror(name, SourceSpec(origin)))
    assert stored["mirror"] == {"name": origin}
    assert "subjects" not in stored
    await eventually(partial(management.broker.messages, name), 3)
    assert await management.ensure(mirror(name, SourceSpec(origin))) == stored


@pytest.mark.parametrize("empty", [False, True])
async def test_mirror_from_the_end(management: Management, unique: Unique, empty: bool) -> None:
    """From the end is what arrives after the call; ensured again it is still the end of back then."""
    name, origin = unique(), await source_stream(management, unique(), events=0 if empty else 3)
    spec = mirror(name, SourceSpec(origin, AtEnd()))
    stored = await management.ensure(spec)
    await management.publish(f"{origin}.x", f"{origin}.y")
    assert await management.ensure(spec) == stored
    await eventually(partial(management.subjects, name), {f"{origin}.x": 1, f"{origin}.y": 1})


async def test_mirror_from_an_id_and_a_time(management: Management, unique: Unique) -> None:
    """A mirror starts at an id, or at the first event stored at or after a time."""
    origin = await source_stream(management, unique(), events=3)
    rest = {f"{origin}.2": 1, f"{origin}.3": 1}
    for start in (AtId(2), AtTime(await management.stored_at(origin, 2))):
        name = unique()
        await management.ensure(mirror(name, SourceSpec(origin, start)))
        await eventually(partial(management.subjects, name), rest)
        assert await management.ensure(mirror(name, SourceSpec(origin, start)))


@pytest.mark.parametrize(
    ("unix_ns", "events"),
    [(-62_135_596_800 * 10**9, 2), (0, 2), (8_000_000_000 * 10**9, 0), (253_402_300_799 * 10**9, 0)],
)
async def test_far_times(management: Management, unique: Unique, unix_ns: int, events: int) -> None:
    """The ages before and after the broker's own counting of time are still before and after."""
    name, origin = unique(), await source_stream(management, unique(), events=2)
    await management.ensure(mirror(name, SourceSpec(origin, AtTime(unix_ns))))
    await eventually(partial(is_copying, management, name), True)
    expected = {f"{origin}.{number}": 1 for number in range(1, events + 1)}
    await eventually(partial(management.subjects, name), expected)


async def is_copying(management: Management, name: str) -> bool:
    """Whether a mirror is connected to its origin, and level with it."""
    state = (await management.broker.api.stream_info(name, in_seconds(5)))["mirror"]
    return bool(state["active"] >= 0 and state["lag"] == 0)


@pytest.mark.parametrize("kind", ["mirror", "aggregate"])
async def test_filters(management: Management, unique: Unique, kind: str) -> None:
    """One filter or several, wildcards too, choose what is copied; the subjects stay."""
    origin = unique()
    await management.ensure(on(f"{origin}.>", name=origin))
    await management.publish(*(f"{origin}.{rest}" for rest in ("a", "b", "c", "d.e", "d.f.g")))
    for filters, chosen in (
        (("a",), {"a"}),
        (("a", "b"), {"a", "b"}),
        (("*", "d.>"), {"a", "b", "c", "d.e", "d.f.g"}),
        (("*.e", "c"), {"d.e", "c"}),
    ):
        name = unique()
        source = SourceSpec(origin, filters=tuple(f"{origin}.{rest}" for rest in filters))
        spec = mirror(name, source) if kind == "mirror" else copy(name, source)
        stored = await management.ensure(spec)
        await eventually(partial(management.subjects, name), {f"{origin}.{rest}": 1 for rest in chosen})
        reordered = replace(source, filters=source.filters[::-1])
        again = mirror(name, reordered) if kind == "mirror" else copy(name, reordered)
        assert await management.ensure(again) == stored


@pytest.mark.parametrize("kind", ["mirror", "aggregate"])
async def test_overlapping_filters(management: Management, unique: Unique, kind: str) -> None:
    """Filters of one source must not overlap."""
    name, origin = unique(), await source_stream(management, unique())
    source = SourceSpec(origin, filters=(f"{origin}.*", f"{origin}.1"))
    with pytest.raises(UnsupportedCombination, match="overlap"):
        await management.ensure(mirror(name, source) if kind == "mirror" else copy(name, source))


async def test_mirror_change(management: Management, unique: Unique) -> None:
    """A mirror cannot become anything else, nor mirror anything else; nothing is changed by trying."""
    name, origin = unique(), await source_stream(management, unique(), events=3)
    other = await source_stream(management, unique())
    before = await management.ensure(mirror(name, SourceSpec(origin)))
    for spec in (
        on(f"{name}.>", name=name),
        copy(name, SourceSpec(origin)),
        mirror(name, SourceSpec(other)),
        mirror(name, SourceSpec(origin, AtId(2))),
        mirror(name, SourceSpec(origin, filters=(f"{origin}.1",))),
    ):
        with pytest.raises(MirrorChange):
            await management.ensure(spec)
    assert await management.stored_stream(name) == before
    for stream in (other, (await management.ensure(copy(unique(), SourceSpec(origin))))["name"]):
        with pytest.raises(MirrorChange):
            await management.ensure(mirror(stream, SourceSpec(origin)))
    limited = mirror(name, SourceSpec(origin), retention=RetentionSpec(max_events=1))
    assert await management.ensure(limited) == before | {"max_msgs": 1}


@pytest.mark.parametrize("kind", ["mirror", "aggregate"])
async def test_missing_source(management: Management, unique: Unique, kind: str) -> None:
    """A stream to copy from that does not exist is named."""
    name, origin, missing = unique(), await source_stream(management, unique()), unique()
    spec = copy(name, SourceSpec(origin), SourceSpec(missing))
    with pytest.raises(StreamNotFound) as caught:
        await management.ensure(spec if kind == "aggregate" else mirror(name, SourceSpec(missing)))
    assert caught.value.name == missing


async def test_mirror_of_another_domain(management: Management, unique: Unique) -> None:
    """A mirror that another program set up over accounts or domains can be ensured: it is not looked up."""
    name, origin = unique(), unique()
    external = {"api": "$JS.elsewhere.API", "deliver": f"deliver.{name}"}
    await management.tell(f"STREAM.CREATE.{name}", name=name, mirror={"name": origin, "external": external})
    stored = await management.ensure(mirror(name, SourceSpec(origin)))
    assert stored["mirror"] == {"name": origin, "external": external}


# --- Aggregates -------------------------------------------------------------------------------------------


async def test_aggregate(management: Management, unique: Unique) -> None:
    """An aggregate collects several streams, each from its own start and by its own filters."""
    name = unique()
    one, two, three = [await source_stream(management, unique(), events=3) for _ in range(3)]
    spec = copy(
        name,
        SourceSpec(one),
        SourceSpec(two, AtId(3)),
        SourceSpec(three, AtEnd(), (f"{three}.x", f"{three}.y")),
    )
    stored = await management.ensure(spec)
    await management.publish(f"{three}.x", f"{three}.z", f"{two}.x")
    expected = {f"{one}.1": 1, f"{one}.2": 1, f"{one}.3": 1, f"{two}.3": 1, f"{two}.x": 1, f"{three}.x": 1}
    await eventually(partial(management.subjects, name), expected)
    assert await management.ensure(spec) == stored


async def test_aggregate_gains_and_loses_sources(management: Management, unique: Unique) -> None:
    """A source that is added is copied, one that is removed no more, one that stays is not copied twice."""
    name = unique()
    one, two, three = [await source_stream(management, unique(), events=1) for _ in range(3)]
    await management.ensure(copy(name, SourceSpec(one), SourceSpec(two)))
    await eventually(partial(management.broker.messages, name), 2)
    await management.ensure(copy(name, SourceSpec(three), SourceSpec(two)))
    await management.publish(f"{one}.x", f"{two}.x", f"{three}.x")
    expected = {f"{stream}.1": 1 for stream in (one, two, three)} | {f"{two}.x": 1, f"{three}.x": 1}
    await eventually(partial(management.subjects, name), expected)


async def test_aggregate_keeps_one_event_per_key(management: Management, unique: Unique) -> None:
    """The window of an aggregate spans its sources: of two events with one key the first stays."""
    name = unique()
    one, two = [await source_stream(management, unique()) for _ in range(2)]
    await management.publish(f"{one}.a", Nats_Msg_Id="k")
    await management.ensure(copy(name, SourceSpec(one), SourceSpec(two)))
    await eventually(partial(management.subjects, name), {f"{one}.a": 1})
    await management.publish(f"{two}.a", Nats_Msg_Id="k")
    await management.publish(f"{two}.b")
    await eventually(partial(management.subjects, name), {f"{one}.a": 1, f"{two}.b": 1})


async def test_aggregate_and_subjects_change_into_each_other(management: Management, unique: Unique) -> None:
    """A stream may stop taking subjects and collect others, and the other way round; its events stay."""
    name, origin = (
        await source_stream(management, unique(), events=1),
        await source_stream(management, unique(), events=1),
    )
    stored = await management.ensure(copy(name, SourceSpec(origin)))
    assert "subjects" not in stored
    await eventually(partial(management.subjects, name), {f"{name}.1": 1, f"{origin}.1": 1})
    stored = await management.ensure(on(f"{name}.>", name=name))
    assert "sources" not in stored
    assert await management.broker.messages(name) == 2


async def test_aggregate_repeats_and_cycles(management: Management, unique: Unique) -> None:
    """The same source twice, or a stream that collects itself by way of others, is refused."""
    one, two = await source_stream(management, unique()), unique()
    with pytest.raises(UnsupportedCombination, match="duplicate"):
        await management.ensure(copy(two, SourceSpec(one), SourceSpec(one)))
    await management.ensure(copy(two, SourceSpec(one)))
    with pytest.raises(UnsupportedCombination, match="cycle"):
        await management.ensure(copy(one, SourceSpec(two)))


# --- Many at once, and the way to the broker --------------------------------------------------------------


async def test_many_at_once(nats_server: NatsServer, unique: Unique) -> None:
    """Many clients that ensure one stream at once all succeed, whatever its kind."""
    name = unique()
    async with AsyncExitStack() as stack:
        managements = [manage(await stack.enter_async_context(connect(nats_server.url))) for _ in range(4)]
        origin = await source_stream(managements[0], unique(), events=2)
        for spec in (
            on(f"{name}.>", name=name),
            mirror(f"{name}m", SourceSpec(origin, AtEnd())),
            copy(f"{name}a", SourceSpec(origin, AtEnd()), SourceSpec(name)),
        ):
            async with asyncio.TaskGroup() as tasks:
                for number in range(100):
                    tasks.create_task(managements[number % 4].streams.ensure(spec, in_seconds(10)))
                    if number % 10 == 0:
                        tasks.create_task(managements[0].publish(f"{origin}.x"))


async def test_many_at_once_who_disagree(management: Management, unique: Unique) -> None:
    """Clients that want different things of one stream all succeed too, and one of them wins."""
    name = unique()
    specs = [
        on(f"{name}.>", name=name, retention=RetentionSpec(max_events=number)) for number in range(1, 21)
    ]
    async with asyncio.TaskGroup() as tasks:
        for spec in specs:
            tasks.create_task(management.streams.ensure(spec, in_seconds(10)))
    assert (await management.stored_stream(name))["max_msgs"] in range(1, 21)


async def test_more_than_fits_in_a_message(management: Management, unique: Unique) -> None:
    """A request that is larger than a message may be is refused, and the connection lives on."""
    name = unique()
    subjects = [f"{name}.{'x' * 200}.{number}" for number in range(5_000)]
    with pytest.raises(UnsupportedCombination, match="larger"):
        await management.ensure(on(*subjects, name=name))
    assert management.broker.connection.reconnects == 0


async def test_without_a_broker(own_nats_server: NatsServer, unique: Unique) -> None:
    """While the broker is away nothing is done, and that is said by the deadline."""
    name = unique()
    async with connect(own_nats_server.url) as broker:
        own_nats_server.kill()
        with pytest.raises(BrokerUnavailable):
            await manage(broker).streams.ensure(on(name, name=name), in_seconds(0.2))
        own_nats_server.start()
        await manage(broker).ensure(on(name, name=name))


async def test_broker_that_does_not_answer(
    own_nats_server: NatsServer, own_broker: Broker, unique: Unique
) -> None:
    """A change that was sent and not answered has an unknown outcome; a question that was not is harmless."""
    management, name = manage(own_broker), unique()
    await management.ensure(on(name, name=name))
    own_nats_server.freeze()
    try:
        with pytest.raises(OutcomeUnknown):
            await StreamChange(management).update(name)
        with pytest.raises(BrokerUnavailable):
            await management.streams.ensure(on(name, name=name), in_seconds(0.2))
    finally:
        own_nats_server.thaw()


class StreamChange:
    """The second half of an ensure, when the first was answered."""

    def __init__(self, management: Management) -> None:
        self._management = management

    async def update(self, name: str) -> None:
        """Tell the broker something, without asking it before."""
        api = self._management.broker.api
        await api.change(f"STREAM.UPDATE.{name}", {"name": name}, in_seconds(0.2))
