"""Requests about streams and consumers, read into what the domain understands."""

from __future__ import annotations

from datetime import timedelta
from math import inf, nan
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import ParseDict
from google.protobuf.timestamp_pb2 import Timestamp

from windshift._gen.windshift.events.v1alpha1.service_pb2 import (
    DeleteConsumerRequest,
    EnsureConsumerRequest,
    EnsureStreamRequest,
    GetConsumerRequest,
    StreamPointer,
)
from windshift._gen.windshift.events.v1alpha1.service_pb2 import (
    RetryPolicy as PolicyMessage,
)
from windshift.server.api.streams import MOST_IN_A_LIST, read_consumer, read_stream, read_which_consumer
from windshift.server.domain.errors import InvalidField
from windshift.server.events.retries import RetryPolicy
from windshift.server.events.specs import (
    AtEnd,
    AtId,
    AtStart,
    AtTime,
    ConsumerSpec,
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

MOST = 2**63 - 1


def stream_request(**fields: Any) -> EnsureStreamRequest:
    """Make a valid request and give it these fields."""
    request = EnsureStreamRequest(name="s")
    if not fields.keys() & {"subjects", "mirror", "aggregate"}:
        request.subjects.subjects.append("a")
    return ParseDict(fields, request)


def consumer_request(**fields: Any) -> EnsureConsumerRequest:
    """Make a valid request and give it these fields."""
    return ParseDict(fields, EnsureConsumerRequest(stream="s"))


def test_a_stream_without_options() -> None:
    """What is not said is a default."""
    assert read_stream(stream_request()) == StreamSpec("s", FromSubjects(("a",)))


def test_a_stream_with_every_option() -> None:
    """Every field has its place."""
    request = stream_request(
        subjects={"subjects": ["a.*", "b.>"]},
        retention_policy={
            "max_age": "1.5s",
            "max_events": 1,
            "max_events_per_subject": 2,
            "max_bytes": 3,
            "discard_policy": "DISCARD_POLICY_NEW",
            "discard_new_per_subject": True,
        },
        storage={"type": "STORAGE_TYPE_MEMORY", "replicas": 5},
        deduplication_window="0.1s",
        max_event_size=4,
    )
    assert read_stream(request) == StreamSpec(
        "s",
        FromSubjects(("a.*", "b.>")),
        RetentionSpec(
            timedelta(seconds=1.5), 1, 2, 3, discard=DiscardPolicy.NEW, discard_new_per_subject=True
        ),
        StorageType.MEMORY,
        5,
        timedelta(milliseconds=100),
        4,
    )


def test_zeros_and_unspecified_are_defaults() -> None:
    """A zero that is said is no limit, an unspecified enum value is its default."""
    request = stream_request(
        retention_policy={
            "max_age": "0s",
            "max_events": 0,
            "max_events_per_subject": 0,
            "max_bytes": 0,
            "discard_policy": "DISCARD_POLICY_UNSPECIFIED",
            "discard_new_per_subject": False,
        },
        storage={"type": "STORAGE_TYPE_UNSPECIFIED"},
        deduplication_window="0s",
        max_event_size=0,
    )
    assert read_stream(request) == StreamSpec("s", FromSubjects(("a",)))


def test_the_largest_numbers_pass() -> None:
    """What the broker's types hold is fine."""
    request = stream_request(
        retention_policy={
            "max_age": "9223372036s",
            "max_events": MOST,
            "max_events_per_subject": MOST,
            "max_bytes": MOST,
        },
        max_event_size=2**31 - 1,
    )
    spec = read_stream(request)
    assert spec.retention == RetentionSpec(timedelta(seconds=9_223_372_036), MOST, MOST, MOST)
    assert spec.max_event_size == 2**31 - 1


def test_mirror_and_aggregate() -> None:
    """Sources have a start and filters of their own."""
    one = {"name": "one", "from": {"offset": 3}, "filter_subjects": ["*.a", "b.>"]}
    expected = SourceSpec("one", AtId(3), ("*.a", "b.>"))
    assert read_stream(stream_request(mirror=one)).source == FromMirror(expected)
    aggregate = stream_request(aggregate={"sources": [one, {"name": "two"}]})
    assert read_stream(aggregate).source == FromAggregate((expected, SourceSpec("two")))


def time(seconds: int, nanos: int = 0) -> StreamPointer:
    """Point at a time, be it one that a Timestamp must not hold."""
    return StreamPointer(time=Timestamp(seconds=seconds, nanos=nanos))


@pytest.mark.parametrize(
    ("pointer", "expected"),
    [
        (StreamPointer(), None),
        (StreamPointer(start=True), AtStart()),
        (StreamPointer(start=False), AtStart()),
        (StreamPointer(end=True), AtEnd()),
        (StreamPointer(end=False), AtEnd()),
        (StreamPointer(offset=1), AtId(1)),
        (StreamPointer(offset=MOST), AtId(MOST)),
        (time(1, 5), AtTime(1_000_000_005)),
        (time(0), AtTime(0)),
        (time(-1, 999_999_999), AtTime(-1)),
        (time(-62_135_596_800), AtTime(-62_135_596_800 * 10**9)),
        (time(253_402_300_799, 999_999_999), AtTime(253_402_300_800 * 10**9 - 1)),
    ],
)
def test_pointers(pointer: StreamPointer, expected: StartPosition | None) -> None:
    """`start` and `end` count by presence; a pointer with nothing set is none.

    None is the start for a source and the end for a consumer.
    """
    request = EnsureConsumerRequest(stream="s")
    getattr(request, "from").CopyFrom(pointer)
    assert read_consumer(request).start == (expected or AtEnd())
    stream = EnsureStreamRequest(name="s")
    stream.mirror.name = "m"
    getattr(stream.mirror, "from").CopyFrom(pointer)
    assert read_stream(stream).source == FromMirror(SourceSpec("m", expected or AtStart()))


BAD_DURATIONS = [
    Duration(nanos=1),
    Duration(nanos=99_999_999),
    Duration(seconds=-1),
    Duration(nanos=-1),
    Duration(seconds=1, nanos=-1),
    Duration(seconds=1, nanos=1_000_000_000),
    Duration(seconds=9_223_372_036, nanos=854_775_808),
    Duration(seconds=315_576_000_001),
    Duration(seconds=2**63 - 1),
]


@pytest.mark.parametrize("value", BAD_DURATIONS)
def test_durations_out_of_range(value: Duration) -> None:
    """Durations below 100 ms but not zero, negative ones, and those that nobody can hold are refused."""
    age, window, consumer = stream_request(), stream_request(), consumer_request()
    age.retention_policy.max_age.CopyFrom(value)
    window.deduplication_window.CopyFrom(value)
    consumer.processing_timeout.CopyFrom(value)
    assert refused(read_stream, age) == "retention_policy.max_age"
    assert refused(read_stream, window) == "deduplication_window"
    assert refused(read_consumer, consumer) == "processing_timeout"


def refused(read: Any, request: Any) -> str:
    """Read a request that must be refused, and return the path of the field."""
    with pytest.raises(InvalidField) as caught:
        read(request)
    return caught.value.field


@pytest.mark.parametrize(
    "pointer",
    [
        time(-62_135_596_801),
        time(253_402_300_800),
        time(0, -1),
        time(0, 1_000_000_000),
        StreamPointer(offset=0),
        StreamPointer(offset=2**63),
        StreamPointer(offset=2**64 - 1),
    ],
)
def test_pointers_out_of_range(pointer: StreamPointer) -> None:
    """A place that cannot be is refused wherever it stands, under its own path."""
    kind = pointer.WhichOneof("pointer")
    consumer, stream = consumer_request(), EnsureStreamRequest(name="s")
    getattr(consumer, "from").CopyFrom(pointer)
    stream.aggregate.sources.add(name="one")
    getattr(stream.aggregate.sources.add(name="two"), "from").CopyFrom(pointer)
    assert refused(read_consumer, consumer) == f"from.{kind}"
    assert refused(read_stream, stream) == f"aggregate.sources[1].from.{kind}"


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"name": ""}, "name"),
        ({"name": "a.b"}, "name"),
        ({"name": "KV_a"}, "name"),
        ({"name": "OBJ_a"}, "name"),
        ({"name": "WS_a"}, "name"),
        ({"name": "a" * 256}, "name"),
        ({"subjects": {}}, "subjects.subjects"),
        ({"subjects": {"subjects": ["a", ""]}}, "subjects.subjects[1]"),
        ({"subjects": {"subjects": [">"]}}, "subjects.subjects[0]"),
        ({"subjects": {"subjects": ["*.a"]}}, "subjects.subjects[0]"),
        ({"subjects": {"subjects": ["$JS.API.>"]}}, "subjects.subjects[0]"),
        ({"subjects": {"subjects": ["_INBOX.a"]}}, "subjects.subjects[0]"),
        ({"subjects": {"subjects": ["a"] * (MOST_IN_A_LIST + 1)}}, "subjects.subjects"),
        ({"mirror": {}}, "mirror.name"),
        ({"mirror": {"name": "s"}}, "mirror.name"),
        ({"mirror": {"name": "KV_a"}}, "mirror.name"),
        ({"mirror": {"name": "m", "filter_subjects": ["a", "$KV.>"]}}, "mirror.filter_subjects[1]"),
        ({"aggregate": {}}, "aggregate.sources"),
        ({"aggregate": {"sources": [{"name": "a"}, {"name": "s"}]}}, "aggregate.sources[1].name"),
        ({"storage": {"replicas": 0}}, "storage.replicas"),
        ({"storage": {"replicas": 6}}, "storage.replicas"),
        ({"storage": {"replicas": 2**32 - 1}}, "storage.replicas"),
        ({"storage": {"type": 3}}, "storage.type"),
        ({"storage": {"type": -1}}, "storage.type"),
        ({"retention_policy": {"discard_policy": 7}}, "retention_policy.discard_policy"),
        ({"retention_policy": {"max_events": MOST + 1}}, "retention_policy.max_events"),
        (
            {"retention_policy": {"max_events_per_subject": MOST + 1}},
            "retention_policy.max_events_per_subject",
        ),
        ({"retention_policy": {"max_bytes": 2**64 - 1}}, "retention_policy.max_bytes"),
        ({"max_event_size": 2**31}, "max_event_size"),
    ],
)
def test_refused_streams(fields: dict[str, Any], path: str) -> None:
    """What is malformed, reserved, empty or out of range is refused under the path of its field."""
    assert refused(read_stream, stream_request(**fields)) == path


def test_a_stream_needs_a_source() -> None:
    """Without a source there is no stream."""
    assert refused(read_stream, EnsureStreamRequest(name="s")) == "source"


def test_consumers() -> None:
    """A consumer has a name or none, subjects or none, a timeout or the default one."""
    assert read_consumer(consumer_request()) == ConsumerSpec("s")
    request = consumer_request(
        name="c", subjects=["*.a", ">"], processing_timeout="0.1s", **{"from": {"start": True}}
    )
    expected = ConsumerSpec("s", "c", ("*.a", ">"), AtStart(), timedelta(milliseconds=100))
    assert read_consumer(request) == expected
    assert read_consumer(consumer_request(processing_timeout="0s")) == ConsumerSpec("s")


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"stream": ""}, "stream"),
        ({"stream": "KV_a"}, "stream"),
        ({"name": ""}, "name"),
        ({"name": "a.b"}, "name"),
        ({"subjects": ["a", "b..c"]}, "subjects[1]"),
        ({"subjects": ["$JS.>"]}, "subjects[0]"),
        ({"subjects": ["a"] * (MOST_IN_A_LIST + 1)}, "subjects"),
    ],
)
def test_refused_consumers(fields: dict[str, Any], path: str) -> None:
    """What is malformed or reserved is refused under the path of its field."""
    assert refused(read_consumer, consumer_request(**fields)) == path


def backoff(field: str, value: Duration) -> PolicyMessage:
    """Make a policy of one duration."""
    policy = PolicyMessage()
    getattr(policy, field).CopyFrom(value)
    return policy


OUT_OF_RANGE = [-1, -1e-9, 100.001, inf, -inf, nan]
SECOND, MINUTE, YEAR = timedelta(seconds=1), timedelta(minutes=1), timedelta(days=365)


@pytest.mark.parametrize(
    ("fields", "policy"),
    [
        ({}, RetryPolicy(dead_letters=True)),
        ({"max_attempts": 5}, RetryPolicy(5, dead_letters=True)),
        ({"max_attempts": 0}, RetryPolicy(dead_letters=True)),
        ({"max_attempts": 1_000_000}, RetryPolicy(1_000_000, dead_letters=True)),
        ({"dead_letters": True}, RetryPolicy(dead_letters=True)),
        ({"dead_letters": False}, RetryPolicy()),
        (
            {
                "max_attempts": 7,
                "initial_backoff": "1s",
                "max_backoff": "60s",
                "backoff_multiplier": 1.5,
                "jitter": 1,
                "dead_letters": False,
            },
            RetryPolicy(7, SECOND, MINUTE, 1.5, 1.0),
        ),
        ({"initial_backoff": "60s"}, RetryPolicy(None, MINUTE, MINUTE, dead_letters=True)),
        ({"initial_backoff": "30s"}, RetryPolicy(None, MINUTE / 2, MINUTE / 2, dead_letters=True)),
        ({"max_backoff": "0.05s"}, RetryPolicy(max_backoff=SECOND / 20, dead_letters=True)),
        (
            {"initial_backoff": "0.001s", "max_backoff": "31536000s"},
            RetryPolicy(None, SECOND / 1000, YEAR, dead_letters=True),
        ),
        (
            {"initial_backoff": "31536000s", "max_backoff": "31536000s"},
            RetryPolicy(None, YEAR, YEAR, dead_letters=True),
        ),
        ({"initial_backoff": "0.001000999s"}, RetryPolicy(None, SECOND / 1000, dead_letters=True)),
        ({"backoff_multiplier": 1}, RetryPolicy(multiplier=1.0, dead_letters=True)),
        ({"backoff_multiplier": 100, "jitter": 0}, RetryPolicy(multiplier=100, jitter=0, dead_letters=True)),
    ],
)
def test_retry_policies(fields: dict[str, Any], policy: RetryPolicy) -> None:
    """What a policy leaves out is a default, and zero counts where it means something."""
    assert read_consumer(consumer_request(retry_policy=fields)) == ConsumerSpec("s", retry_policy=policy)


@pytest.mark.parametrize(
    ("policy", "field"),
    [
        (PolicyMessage(max_attempts=1_000_001), "max_attempts"),
        (PolicyMessage(max_attempts=2**32 - 1), "max_attempts"),
        *[
            (backoff(name, value), name)
            for name in ("initial_backoff", "max_backoff")
            for value in (
                Duration(),
                Duration(nanos=999_999),
                Duration(nanos=-1),
                Duration(seconds=-1),
                Duration(seconds=1, nanos=-1),
                Duration(nanos=1_000_000_000),
                Duration(seconds=31_536_000, nanos=1),
                Duration(seconds=2**63 - 1),
            )
        ],
        (PolicyMessage(max_backoff=Duration(nanos=49_999_999)), "max_backoff"),
        (
            PolicyMessage(initial_backoff=Duration(seconds=2), max_backoff=Duration(seconds=1)),
            "max_backoff",
        ),
        *[(PolicyMessage(backoff_multiplier=value), "backoff_multiplier") for value in OUT_OF_RANGE],
        (PolicyMessage(backoff_multiplier=0.999), "backoff_multiplier"),
        (PolicyMessage(backoff_multiplier=0), "backoff_multiplier"),
        *[(PolicyMessage(jitter=value), "jitter") for value in OUT_OF_RANGE],
        (PolicyMessage(jitter=1.001), "jitter"),
    ],
)
def test_refused_retry_policies(policy: PolicyMessage, field: str) -> None:
    """What is out of range or no number is refused under the path of its field."""
    request = consumer_request()
    request.retry_policy.CopyFrom(policy)
    assert refused(read_consumer, request) == f"retry_policy.{field}"


@pytest.mark.parametrize("kind", [DeleteConsumerRequest, GetConsumerRequest])
def test_which_consumer(kind: type[DeleteConsumerRequest | GetConsumerRequest]) -> None:
    """A consumer is deleted and looked at by stream and id, which have to be names."""
    assert read_which_consumer(kind(stream="s", id="c")) == ("s", "c")
    assert refused(read_which_consumer, kind(id="c")) == "stream"
    assert refused(read_which_consumer, kind(stream="WS_a", id="c")) == "stream"
    assert refused(read_which_consumer, kind(stream="s")) == "id"
    assert refused(read_which_consumer, kind(stream="s", id="c.d")) == "id"
