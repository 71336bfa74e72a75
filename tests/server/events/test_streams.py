"""Ensuring streams on a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest

from tests.server.events.management import (
    Management,
    copy,
    eventually,
    manage,
    mirror,
    on,
    source_stream,
)
from tests.support.broker import Broker, connect, in_seconds
from tests.support.nats_server import NatsServer
from windshift.nats import JetStreamError, Message
from windshift.nats.jetstream.api import to_json
from windshift.server.domain.broker_errors import broker_errors
from windshift.server.domain.errors import (
    BrokerUnavailable,
    InvalidField,
    OutcomeUnknown,
    ReplicasUnavailable,
    StorageChange,
    StorageFull,
    SubjectsOverlap,
    UnsupportedCombination,
)
from windshift.server.events.specs import (
    AtEnd,
    DiscardPolicy,
    RetentionSpec,
    SourceSpec,
    StorageType,
)
from windshift.server.events.streams import LONGEST_CHOICE

Unique = Callable[[], str]


@pytest.fixture
def management(broker: Broker) -> Management:
    """Manage the shared broker."""
    return manage(broker)


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
    """A size for which the broker has no room is refused, and says which limit to lower."""
    name = unique()
    for storage in StorageType:
        with pytest.raises(StorageFull, match="max_bytes"):
            await management.ensure(
                on(name, name=name, retention=RetentionSpec(max_bytes=2**62), storage=storage)
            )


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
    assert await management.broker.api.stream_names(f"{name}.a", in_seconds(30)) == []
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
    updates: list[bytes] = []

    def note(message: Message) -> None:
        updates.append(message.subject)

    advisories = f"$JS.EVENT.ADVISORY.STREAM.UPDATED.{name}".encode()
    watch = management.broker.connection.subscribe(advisories, note)
    spec = on(f"{name}.*", name=name, retention=RetentionSpec(timedelta(hours=1), 5))
    first = await management.ensure(spec)
    assert await management.ensure(spec) == first
    assert not updates
    await management.ensure(replace(spec, max_event_size=9))
    await eventually(partial(length, updates), 1)
    watch.unsubscribe()


async def length(things: list[bytes]) -> int:
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
    with pytest.raises(JetStreamError, match="maximum messages per subject"):
        await management.publish(f"{name}.a")
    await management.ensure(
        on(f"{name}.>", name=name, retention=RetentionSpec(max_events=2, discard=DiscardPolicy.NEW))
    )
    with pytest.raises(JetStreamError, match="maximum messages"):
        await management.publish(f"{name}.c")
    await management.ensure(on(f"{name}.>", name=name, max_event_size=1))
    with pytest.raises(JetStreamError, match="size"):
        await management.publish(f"{name}.c", Nats_Msg_Id="x")


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
                    tasks.create_task(managements[number % 4].streams.ensure(spec, in_seconds(60)))
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
            tasks.create_task(management.streams.ensure(spec, in_seconds(60)))
    assert (await management.stored_stream(name))["max_msgs"] in range(1, 21)


async def test_more_than_fits_in_a_message(management: Management, unique: Unique) -> None:
    """A request that is larger than a message may be is refused, and the connection lives on."""
    name = unique()
    subjects = [f"{name}.{'x' * 200}.{number}" for number in range(5_000)]
    with pytest.raises(InvalidField, match=r"^subjects: needs "):
        await management.ensure(on(*subjects, name=name))
    with pytest.raises(JetStreamError, match="larger than a message may be"):
        await management.tell(f"STREAM.CREATE.{name}", name=name, subjects=subjects)
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
        with broker_errors():
            await api.change(f"STREAM.UPDATE.{name}", {"name": name}, in_seconds(0.2))


async def test_the_longest_fit_on_a_page_of_a_list(management: Management, unique: Unique) -> None:
    """However long subjects, sources and filters may be, 256 answers with them have 24 MiB at most."""
    origin = await source_stream(management, unique())
    filters = tuple(f"{origin}.{number:05}" for number in range(1000))
    room, of_origin, of_filter = LONGEST_CHOICE, 2 * (len(origin) + 20), 2 * (len(filters[0]) + 20)
    mirrored, copied = (room - of_origin) // of_filter, room // (of_origin + of_filter)
    sources = [SourceSpec(origin, AtEnd(), (each,)) for each in filters[:copied]]
    for spec in (
        mirror(unique(), SourceSpec(origin, filters=filters[:mirrored])),
        copy(unique(), *sources),
        on(*(f"{unique()}.{'x' * 200}" for _ in range(300)), name=unique()),
    ):
        await management.ensure(spec)
        info = await management.broker.api.stream_info(spec.name, in_seconds(30))
        assert len(to_json(info)) < 24 * 1024 * 1024 / 256
