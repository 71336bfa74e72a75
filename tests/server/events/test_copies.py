"""Mirrors and aggregates on a real broker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
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
from tests.support.broker import Broker, in_seconds
from windshift.server.domain.errors import MirrorChange, StreamNotFound, UnsupportedCombination
from windshift.server.events.specs import AtEnd, AtId, AtTime, RetentionSpec, SourceSpec

Unique = Callable[[], str]


@pytest.fixture
def management(broker: Broker) -> Management:
    """Manage the shared broker."""
    return manage(broker)


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
    state = (await management.broker.api.stream_info(name, in_seconds(30)))["mirror"]
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
    assert caught.value.metadata["name"] == missing


async def test_mirror_of_another_domain(management: Management, unique: Unique) -> None:
    """A mirror that another program set up over accounts or domains can be ensured: it is not looked up."""
    name, origin = unique(), unique()
    external = {"api": "$JS.elsewhere.API", "deliver": f"deliver.{name}"}
    await management.tell(f"STREAM.CREATE.{name}", name=name, mirror={"name": origin, "external": external})
    stored = await management.ensure(mirror(name, SourceSpec(origin)))
    assert stored["mirror"] == {"name": origin, "external": external}


# --- Aggregates -------------------------------------------------------------------------------------------


async def test_aggregate_of_another_domain(management: Management, unique: Unique) -> None:
    """The same is so for a source; named twice, the second one would be a stream of this domain."""
    name, origin = unique(), unique()
    source = {"name": origin, "external": {"api": "$JS.elsewhere.API", "deliver": f"deliver.{name}"}}
    await management.tell(f"STREAM.CREATE.{name}", name=name, sources=[source])
    assert (await management.ensure(copy(name, SourceSpec(origin))))["sources"] == [source]
    with pytest.raises(StreamNotFound) as caught:
        await management.ensure(copy(name, SourceSpec(origin), SourceSpec(origin)))
    assert caught.value.metadata["name"] == origin


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
