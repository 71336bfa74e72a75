"""What the broker is told about a stream, decided without it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from windshift.nats import JetStreamError
from windshift.server.domain.errors import (
    InvalidField,
    MirrorChange,
    ReplicasUnavailable,
    StorageChange,
    StorageFull,
    StreamLimit,
    SubjectsOverlap,
    UnsupportedCombination,
)
from windshift.server.events.specs import (
    AtEnd,
    AtId,
    AtStart,
    AtTime,
    DiscardPolicy,
    FromAggregate,
    FromMirror,
    FromSubjects,
    RetentionSpec,
    SourceSpec,
    StartPosition,
    StorageType,
    StreamSpec,
)
from windshift.server.events.streams import (
    LONGEST_CHOICE,
    desired_config,
    refusal_error,
    refuse_contradictions,
)

SUBJECTS = StreamSpec("S", FromSubjects(("s.>",)))
LAST_IDS = {"A": 5, "B": 0}


AT_START = AtStart()


def mirror(start: StartPosition = AT_START, *filters: str, stream: str = "A") -> StreamSpec:
    """Wish for a mirror."""
    return StreamSpec("S", FromMirror(SourceSpec(stream, start, filters)))


def aggregate(*sources: SourceSpec) -> StreamSpec:
    """Wish for an aggregate."""
    return StreamSpec("S", FromAggregate(sources))


def config(spec: StreamSpec, stored: dict[str, Any] | None = None) -> dict[str, Any]:
    """Decide with the last ids of two streams, A and B."""
    return desired_config(stored, spec, LAST_IDS, 1)


def test_defaults() -> None:
    """A stream of which nothing is said but subjects has the contract's defaults."""
    assert config(SUBJECTS) == {
        "name": "S",
        "subjects": ["s.>"],
        "storage": "file",
        "num_replicas": 1,
        "allow_direct": True,
        "allow_atomic": True,
        "max_age": 0,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "max_bytes": -1,
        "max_msg_size": -1,
        "discard": "old",
        "duplicate_window": 120 * 10**9,
    }


def test_every_option() -> None:
    """Every option has its place in JetStream's configuration."""
    spec = StreamSpec(
        "S",
        FromSubjects(("a", "b.*")),
        RetentionSpec(
            timedelta(hours=1), 10, 2, 1_000, discard=DiscardPolicy.NEW, discard_new_per_subject=True
        ),
        StorageType.MEMORY,
        replicas=3,
        deduplication_window=timedelta(milliseconds=100),
        max_event_size=512,
    )
    assert config(spec) == {
        "name": "S",
        "subjects": ["a", "b.*"],
        "storage": "memory",
        "num_replicas": 3,
        "allow_direct": True,
        "allow_atomic": True,
        "max_age": 3_600 * 10**9,
        "max_msgs": 10,
        "max_msgs_per_subject": 2,
        "max_bytes": 1_000,
        "max_msg_size": 512,
        "discard": "new",
        "discard_new_per_subject": True,
        "duplicate_window": 10**8,
    }


@pytest.mark.parametrize(
    ("window", "max_age", "expected"),
    [
        (None, None, timedelta(minutes=2)),
        (None, timedelta(minutes=1), timedelta(minutes=1)),
        (None, timedelta(hours=1), timedelta(minutes=2)),
        (timedelta(0), timedelta(minutes=1), timedelta(minutes=1)),
        (timedelta(hours=1), None, timedelta(hours=1)),
    ],
)
def test_deduplication_window(
    window: timedelta | None, max_age: timedelta | None, expected: timedelta
) -> None:
    """The window is two minutes, or the events' age if that is shorter, unless it is said."""
    spec = replace(SUBJECTS, retention=RetentionSpec(max_age), deduplication_window=window)
    assert timedelta(microseconds=config(spec)["duplicate_window"] / 1000) == expected


def test_settings_by_others_stay() -> None:
    """What the contract has no field for survives an update, also what this version has never heard of."""
    foreign = {
        "description": "by hand",
        "retention": "interest",
        "max_consumers": 7,
        "allow_direct": True,
        "metadata": {"owner": "billing"},
        "from_the_future": {"a": [1, 2]},
    }
    stored = config(SUBJECTS) | foreign
    wanted = config(replace(SUBJECTS, source=FromSubjects(("t",))), stored)
    assert wanted == stored | {"subjects": ["t"]}


def test_omitted_fields_return_to_their_defaults() -> None:
    """Limits that a request leaves out are removed; replicas stay."""
    stored = config(
        replace(
            SUBJECTS,
            retention=RetentionSpec(timedelta(minutes=1), 1, 1, 1, DiscardPolicy.NEW, True),
            replicas=3,
            max_event_size=9,
        )
    )
    assert config(SUBJECTS, stored) == config(SUBJECTS) | {"num_replicas": 3}


def test_replicas_change_when_asked() -> None:
    """Replicas that are named replace the stored ones."""
    assert config(replace(SUBJECTS, replicas=1), {"num_replicas": 3})["num_replicas"] == 1


def test_default_replicas_are_for_new_streams() -> None:
    """The server's default counts when nothing is stored and nothing is said."""
    assert desired_config(None, SUBJECTS, {}, 3)["num_replicas"] == 3
    assert desired_config({"num_replicas": 1}, SUBJECTS, {}, 3)["num_replicas"] == 1


def test_nothing_to_do() -> None:
    """Ensuring the same again gives the very configuration that is stored."""
    for spec in (SUBJECTS, mirror(AtEnd(), "a"), aggregate(SourceSpec("A", AtEnd()), SourceSpec("B"))):
        stored = config(spec)
        assert desired_config(stored, spec, {"A": 90, "B": 90}, 1) == stored


def test_deciding_leaves_the_stored_configuration_alone() -> None:
    """The stored configuration is an argument, not a thing to write in."""
    stored = config(aggregate(SourceSpec("A")))
    before = repr(stored)
    config(aggregate(SourceSpec("A", AtId(3)), SourceSpec("B")), stored)
    assert repr(stored) == before


def test_storage_cannot_change() -> None:
    """Another storage type is refused, also the default one that an omission stands for."""
    with pytest.raises(StorageChange, match="memory"):
        config(SUBJECTS, {"storage": "memory"})
    with pytest.raises(StorageChange, match="file"):
        config(replace(SUBJECTS, storage=StorageType.MEMORY), {"storage": "file"})


@pytest.mark.parametrize(
    ("start", "filters", "expected"),
    [
        (AtStart(), (), {}),
        (AtEnd(), (), {"opt_start_seq": 6}),
        (AtId(2), (), {"opt_start_seq": 2}),
        (AtTime(0), (), {"opt_start_time": "1970-01-01T00:00:00.000000000Z"}),
        (AtStart(), ("a.*",), {"filter_subject": "a.*"}),
        (
            AtStart(),
            ("a.*", "b"),
            {"subject_transforms": [{"src": "a.*", "dest": ""}, {"src": "b", "dest": ""}]},
        ),
    ],
)
def test_new_source(start: StartPosition, filters: tuple[str, ...], expected: dict[str, Any]) -> None:
    """Mirrors and aggregates write where they start and what they choose in the same way."""
    source = {"name": "A"} | expected
    assert config(mirror(start, *filters))["mirror"] == source
    assert config(aggregate(SourceSpec("A", start, filters)))["sources"] == [source]


@pytest.mark.parametrize(
    "spec",
    [SUBJECTS, aggregate(SourceSpec("A")), mirror(stream="B"), mirror(AtId(3)), mirror(AtStart(), "a")],
    ids=["to subjects", "to an aggregate", "other stream", "other start", "other filter"],
)
def test_mirrors_do_not_change(spec: StreamSpec) -> None:
    """A mirror stays one, of the same events."""
    with pytest.raises(MirrorChange):
        config(spec, config(mirror()))


def test_the_kind_is_named_first() -> None:
    """Where neither kind nor storage can be changed, the kind is what the caller should hear of."""
    for stored, spec in ((config(SUBJECTS), mirror()), (config(mirror()), mirror(stream="B"))):
        with pytest.raises(MirrorChange):
            config(spec, stored | {"storage": "memory"})


def test_nothing_becomes_a_mirror() -> None:
    """A stream that takes subjects, or collects others, cannot become a mirror."""
    for spec in (SUBJECTS, aggregate(SourceSpec("A"))):
        with pytest.raises(MirrorChange):
            config(mirror(), config(spec))


def test_mirrors_have_no_deduplication_window() -> None:
    """A mirror copies what its origin let through, and a cluster would take the window away again."""
    wanted = config(replace(mirror(), deduplication_window=timedelta(minutes=1)))
    assert "duplicate_window" not in wanted
    assert config(mirror(), wanted | {"duplicate_window": 1}) == wanted


def test_mirror_keeps_its_limits_changeable() -> None:
    """What a mirror keeps is no part of what it mirrors."""
    spec = replace(mirror(AtEnd()), retention=RetentionSpec(max_events=3))
    assert config(spec, config(mirror(AtId(2)))) == config(mirror(AtId(2))) | {"max_msgs": 3}


def test_stored_source_is_recognized_however_it_is_written() -> None:
    """The order of filters and the way of writing a start make no difference; the stored form stays.

    To the broker another order of filters would be another source, to be copied from its beginning. Clients
    give times back without their nanoseconds.
    """
    stored = {
        "name": "A",
        "opt_start_time": "1970-01-01T00:00:01.000000789Z",
        "subject_transforms": [{"src": "b", "dest": "x.b"}, {"src": "a", "dest": ""}],
        "external": {"api": "$JS.other.API"},
    }
    spec = SourceSpec("A", AtTime(10**9), ("a", "b"))
    assert config(aggregate(spec), config(SUBJECTS) | {"sources": [stored]})["sources"] == [stored]
    again = StreamSpec("S", FromMirror(spec))
    assert config(again, config(mirror()) | {"mirror": stored})["mirror"] == stored


def test_everything_is_the_same_as_no_filter() -> None:
    """A filter of `>` is none."""
    stored = config(mirror())
    assert config(mirror(AtStart(), ">"), stored) == stored


def test_aggregate_sources_come_and_go() -> None:
    """Sources are matched by stream and filters; asked for the end, they keep the start they have."""
    stored = config(aggregate(SourceSpec("A", AtId(2)), SourceSpec("A", AtStart(), ("x",))))
    wanted = config(aggregate(SourceSpec("B", AtEnd()), SourceSpec("A", AtEnd())), stored)
    assert wanted["sources"] == [{"name": "B", "opt_start_seq": 1}, {"name": "A", "opt_start_seq": 2}]
    wanted = config(aggregate(SourceSpec("A", AtId(9))), stored)
    assert wanted["sources"] == [{"name": "A", "opt_start_seq": 9}]


def test_many_sources_in_another_order() -> None:
    """Each is looked at a few times, however many there are, and stays as it is."""
    looks = 0

    class Source(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            nonlocal looks
            looks += 1
            return super().get(key, default)

    sources = [SourceSpec("A", AtEnd(), (f"a.{number}",)) for number in range(400)]
    stored = config(aggregate(*sources))
    stored["sources"] = [Source(source) for source in stored["sources"]]
    assert config(aggregate(*sources[::-1]), stored)["sources"] == stored["sources"][::-1]
    assert looks < 10 * len(sources)


def test_subjects_and_aggregates_change_into_each_other() -> None:
    """What the broker can do is done: only mirrors are fixed."""
    collected = config(aggregate(SourceSpec("A")))
    assert config(SUBJECTS, collected) == config(replace(SUBJECTS, atomic_batches=False))
    assert config(aggregate(SourceSpec("A")), config(SUBJECTS)) == collected


def test_an_aggregate_that_is_published_to() -> None:
    """What another program has bound to it stays, with the ways to publish; that it collects can end."""
    both = config(replace(SUBJECTS, fast_ingest=True)) | {"sources": [{"name": "A"}]}
    wanted = config(aggregate(SourceSpec("A"), SourceSpec("B")), both)
    assert wanted == both | {"sources": [{"name": "A"}, {"name": "B"}]}
    assert config(SUBJECTS, both) == config(replace(SUBJECTS, fast_ingest=True))


def test_fast_ingest() -> None:
    """A new stream is without it, and an existing one stays as it is."""
    allowed = config(replace(SUBJECTS, fast_ingest=True))
    assert allowed == config(SUBJECTS) | {"allow_batched": True}
    assert config(SUBJECTS, allowed) == allowed
    assert config(replace(SUBJECTS, fast_ingest=False), allowed) == config(SUBJECTS)
    assert config(aggregate(SourceSpec("A")), allowed) == config(aggregate(SourceSpec("A")))
    with pytest.raises(UnsupportedCombination, match="fast_ingest"):
        refuse_contradictions(replace(aggregate(SourceSpec("A")), fast_ingest=True))


def test_atomic_batches() -> None:
    """A new stream that is published to takes them where the broker can; an existing one stays as it is."""
    older = desired_config(None, SUBJECTS, LAST_IDS, 1, takes_batches=False)
    assert "allow_atomic" not in older
    assert "allow_atomic" not in config(SUBJECTS, older)
    assert config(replace(SUBJECTS, atomic_batches=True), older) == config(SUBJECTS)
    assert config(replace(SUBJECTS, atomic_batches=False), config(SUBJECTS)) == older
    with pytest.raises(UnsupportedCombination, match="atomic_batches"):
        refuse_contradictions(replace(aggregate(SourceSpec("A")), atomic_batches=True))


@pytest.mark.parametrize(
    "retention",
    [
        RetentionSpec(discard_new_per_subject=True),
        RetentionSpec(discard_new_per_subject=True, discard=DiscardPolicy.NEW),
        RetentionSpec(discard_new_per_subject=True, discard=DiscardPolicy.NEW, max_events_per_subject=0),
        RetentionSpec(discard_new_per_subject=True, max_events_per_subject=1),
    ],
)
def test_discard_new_per_subject_needs_its_company(retention: RetentionSpec) -> None:
    """Discarding new events per subject needs the policy and a limit per subject."""
    with pytest.raises(UnsupportedCombination, match="discard_new_per_subject"):
        refuse_contradictions(replace(SUBJECTS, retention=retention))


def test_window_fits_in_age() -> None:
    """Keys cannot be remembered for longer than the events are kept."""
    spec = replace(
        SUBJECTS, retention=RetentionSpec(timedelta(seconds=1)), deduplication_window=timedelta(seconds=2)
    )
    with pytest.raises(UnsupportedCombination, match="deduplication_window"):
        refuse_contradictions(spec)
    refuse_contradictions(replace(spec, deduplication_window=timedelta(seconds=1)))


@pytest.mark.parametrize(
    ("err_code", "code", "error"),
    [
        (10065, 400, SubjectsOverlap),
        (10074, 500, ReplicasUnavailable),
        (10055, 400, MirrorChange),
        (10147, 400, UnsupportedCombination),
        (10052, 500, UnsupportedCombination),
        (10140, 400, UnsupportedCombination),
        (10027, 400, StreamLimit),
        (10047, 500, StorageFull),
        (10122, 400, InvalidField),
        (10113, 400, InvalidField),
        (10049, 500, JetStreamError),
    ],
)
def test_refusals(err_code: int, code: int, error: type[Exception]) -> None:
    """The broker's error codes become the contract's; a text that may hold a path becomes no message."""
    spec = replace(SUBJECTS, retention=RetentionSpec(max_bytes=1))
    assert isinstance(refusal_error(JetStreamError(err_code, code, "why"), spec), error)


def subjects_of(size: int) -> StreamSpec:
    """Wish for subjects that need so many bytes together."""
    full, rest = divmod(size, 128)
    lengths = [125] * full + [rest - 3] * (rest > 3)
    return StreamSpec("S", FromSubjects(tuple(f"s{n:05}".ljust(each, "x") for n, each in enumerate(lengths))))


def test_subjects_may_have_so_many_bytes_together() -> None:
    """Lists of streams have all of them: more than nats-server keeps for a connection would end it."""
    allowed = subjects_of(LONGEST_CHOICE)
    assert config(allowed)["subjects"] == list(allowed.source.subjects)  # type: ignore[union-attr]
    with pytest.raises(InvalidField, match=r"^subjects: needs 65552 bytes .*, and may have 65536"):
        config(subjects_of(LONGEST_CHOICE + 16))


def test_sources_count_twice() -> None:
    """A stream's state has their names and filters again."""
    filters = tuple(f"f{number:05}".ljust(108, "x") for number in range(256))
    with pytest.raises(InvalidField, match=r"^mirror: needs 65578 "):
        config(mirror(AT_START, *filters))
    assert config(mirror(AT_START, *filters[1:]))
    sources = tuple(SourceSpec("A", AT_START, (each,)) for each in filters)
    with pytest.raises(InvalidField, match=r"^aggregate: needs 65560 "):
        config(aggregate(*sources[:220]))
    assert config(aggregate(*sources[:219]))


def test_what_was_longer_may_stay() -> None:
    """Another program made it: it may be changed otherwise, and become shorter, but not longer."""
    before = {"name": "S", "storage": "file", "subjects": list(subjects_of(70_000).source.subjects)}  # type: ignore[union-attr]
    spec = replace(subjects_of(70_000), retention=RetentionSpec(max_events=1))
    assert config(spec, before)["max_msgs"] == 1
    assert config(subjects_of(66_000), before)
    with pytest.raises(InvalidField, match=r"^subjects: "):
        config(subjects_of(70_128), before)
