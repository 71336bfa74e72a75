"""Converts requests about streams and consumers to their specs, and specs of streams back."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Final, TypeVar

from windshift._gen.windshift.admin.v1alpha1.service_pb2 import PauseConsumerRequest, SeekConsumerRequest
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb
from windshift.nats.times import nanoseconds
from windshift.server.api.fields import duration, duration_ns, elements, known, number, real, unix_ns
from windshift.server.domain import names
from windshift.server.domain.errors import InvalidField
from windshift.server.events import retries, specs
from windshift.server.events.model import ConsumerKey

T = TypeVar("T")

MOST_IN_A_LIST: Final = 4096
"""Subjects, filters or sources in one request. The broker compares each with each, under a lock."""

LARGEST_EVENT_SIZE: Final = 2**31 - 1

_DISCARD: Final = {0: specs.DiscardPolicy.OLD, 1: specs.DiscardPolicy.OLD, 2: specs.DiscardPolicy.NEW}
_STORAGE: Final = {0: specs.StorageType.FILE, 1: specs.StorageType.FILE, 2: specs.StorageType.MEMORY}


def read_stream(request: pb.EnsureStreamRequest) -> specs.StreamSpec:
    """Read what a stream is to be; raise `InvalidField`."""
    names.stream_name("name", request.name)
    storage = request.storage
    window = duration("deduplication_window", request.deduplication_window, specs.SMALLEST_WINDOW)
    return specs.StreamSpec(
        request.name,
        _input(request),
        _retention(request.retention_policy),
        known("storage.type", storage.type, _STORAGE),
        _replicas(storage.replicas) if storage.HasField("replicas") else None,
        window,
        number("max_event_size", request.max_event_size, LARGEST_EVENT_SIZE) or None,
        request.atomic_batches if request.HasField("atomic_batches") else None,
        request.fast_ingest if request.HasField("fast_ingest") else None,
    )


def read_consumer(request: pb.EnsureConsumerRequest) -> specs.ConsumerSpec:
    """Read what a consumer is to be; raise `InvalidField`."""
    names.stream_name("stream", request.stream)
    name = request.name if request.HasField("name") else None
    if name is not None:
        names.consumer_name("name", name)
    elements("subjects", request.subjects, MOST_IN_A_LIST, names.filter_subject)
    timeout = duration("processing_timeout", request.processing_timeout, specs.SMALLEST_WINDOW)
    return specs.ConsumerSpec(
        request.stream,
        name,
        tuple(request.subjects),
        read_pointer("from", getattr(request, "from"), specs.AtEnd()),
        timeout or specs.DEFAULT_PROCESSING_TIMEOUT,
        _retry_policy(request.retry_policy) if request.HasField("retry_policy") else None,
    )


def read_consumer_key(request: PauseConsumerRequest | SeekConsumerRequest) -> ConsumerKey:
    """Read which consumer is to be paused or moved; raise `InvalidField`."""
    names.stream_name("stream", request.stream)
    names.consumer_name("consumer", request.consumer)
    return ConsumerKey(request.stream, request.consumer)


def check_scope(prefix: str, stream: str, consumer: str) -> None:
    """Raise `InvalidField` unless these name a consumer, a stream, or all: then both are empty."""
    if stream:
        names.stream_name(f"{prefix}stream", stream)
    if consumer:
        names.consumer_name(f"{prefix}consumer", consumer)
        if not stream:
            needs = f"needs {prefix}stream: names of consumers are the stream's own"
            raise InvalidField(f"{prefix}consumer", needs)


def read_which_consumer(request: pb.DeleteConsumerRequest | pb.GetConsumerRequest) -> tuple[str, str]:
    """Read which consumer of which stream is meant; raise `InvalidField`."""
    names.stream_name("stream", request.stream)
    names.consumer_name("id", request.id)
    return request.stream, request.id


def _input(request: pb.EnsureStreamRequest) -> specs.StreamInput:
    match request.WhichOneof("source"):
        case "subjects":
            subjects = tuple(request.subjects.subjects)
            elements("subjects.subjects", subjects, MOST_IN_A_LIST, names.stream_subject)
            return specs.FromSubjects(_some("subjects.subjects", subjects))
        case "mirror":
            return specs.FromMirror(_source(request.name, "mirror", request.mirror))
        case "aggregate":
            field, read = "aggregate.sources", partial(_source, request.name)
            sources = elements(field, request.aggregate.sources, MOST_IN_A_LIST, read)
            return specs.FromAggregate(_some(field, tuple(sources)))
        case _:
            raise InvalidField("source", "set one of subjects, mirror and aggregate")


def _source(stream: str, field: str, source: pb.EnsureStreamRequest.StreamSource) -> specs.SourceSpec:
    names.stream_name(f"{field}.name", source.name)
    if source.name == stream:
        raise InvalidField(f"{field}.name", "must be another stream")
    begin = read_pointer(f"{field}.from", getattr(source, "from"), specs.AtStart())
    elements(f"{field}.filter_subjects", source.filter_subjects, MOST_IN_A_LIST, names.filter_subject)
    return specs.SourceSpec(source.name, begin, tuple(source.filter_subjects))


def _retention(policy: pb.EnsureStreamRequest.RetentionPolicy) -> specs.RetentionSpec:
    field = "retention_policy"
    return specs.RetentionSpec(
        duration(f"{field}.max_age", policy.max_age, specs.SMALLEST_WINDOW),
        number(f"{field}.max_events", policy.max_events) or None,
        number(f"{field}.max_events_per_subject", policy.max_events_per_subject) or None,
        number(f"{field}.max_bytes", policy.max_bytes) or None,
        known(f"{field}.discard_policy", policy.discard_policy, _DISCARD),
        policy.discard_new_per_subject,
    )


def read_pointer(field: str, pointer: pb.StreamPointer, absent: specs.StartPosition) -> specs.StartPosition:
    """Read where to start. `start` and `end` count by presence, whatever their value."""
    match pointer.WhichOneof("pointer"):
        case "start":
            return specs.AtStart()
        case "end":
            return specs.AtEnd()
        case "time":
            return specs.AtTime(unix_ns(f"{field}.time", pointer.time))
        case "offset":
            if pointer.offset == 0:
                raise InvalidField(f"{field}.offset", "ids begin at 1; leave it out or set start")
            return specs.AtId(number(f"{field}.offset", pointer.offset))
        case _:
            return absent


def _retry_policy(policy: pb.RetryPolicy) -> retries.RetryPolicy:
    """Read a policy that is there: what it leaves out is a default, whatever is stored."""
    field = "retry_policy"
    initial = _backoff(policy, "initial_backoff", retries.SHORTEST_BACKOFF) or retries.DEFAULT_INITIAL_BACKOFF
    longest = _backoff(policy, "max_backoff", initial) or max(initial, retries.DEFAULT_MAX_BACKOFF)
    multiplier, jitter = retries.DEFAULT_MULTIPLIER, retries.DEFAULT_JITTER
    if policy.HasField("backoff_multiplier"):
        multiplier = real(
            f"{field}.backoff_multiplier", policy.backoff_multiplier, 1, retries.LARGEST_MULTIPLIER
        )
    if policy.HasField("jitter"):
        jitter = real(f"{field}.jitter", policy.jitter, 0, 1)
    return retries.RetryPolicy(
        number(f"{field}.max_attempts", policy.max_attempts, retries.MOST_ATTEMPTS) or None,
        initial,
        longest,
        multiplier,
        jitter,
        policy.dead_letters if policy.HasField("dead_letters") else True,
    )


def _backoff(policy: pb.RetryPolicy, name: str, shortest: timedelta) -> timedelta | None:
    """Read a time between attempts, cut to microseconds; None if it is absent. Zero is none and refused."""
    if not policy.HasField(name):
        return None
    path = f"retry_policy.{name}"
    value_ns = duration_ns(path, getattr(policy, name))
    if not nanoseconds(shortest) <= value_ns <= nanoseconds(retries.LONGEST_BACKOFF):
        at_least = "1 ms" if shortest == retries.SHORTEST_BACKOFF else f"initial_backoff ({shortest})"
        raise InvalidField(
            path,
            f"must be from {at_least} to {retries.LONGEST_BACKOFF.days} days; leave it out for the default",
        )
    return timedelta(microseconds=value_ns // 1000)


def _replicas(value: int) -> int:
    if not 1 <= value <= specs.MAX_REPLICAS:
        raise InvalidField("storage.replicas", f"must be 1 to {specs.MAX_REPLICAS}")
    return value


def _some(field: str, values: tuple[T, ...]) -> tuple[T, ...]:
    if not values:
        raise InvalidField(field, "must not be empty")
    return values


# --- Writing ----------------------------------------------------------------------------------------------


def write_stream(spec: specs.StreamSpec) -> pb.EnsureStreamRequest:
    """Write the request that would make a stream."""
    request = pb.EnsureStreamRequest(
        name=spec.name,
        storage={"type": f"STORAGE_TYPE_{spec.storage.name}", "replicas": spec.replicas},
        max_event_size=spec.max_event_size,
    )
    if spec.atomic_batches is not None:
        request.atomic_batches = spec.atomic_batches
    if spec.fast_ingest:
        request.fast_ingest = True
    if spec.deduplication_window is not None:
        request.deduplication_window.FromTimedelta(spec.deduplication_window)
    _write_input(request, spec.source)
    if spec.retention != specs.RetentionSpec():
        _write_retention(request.retention_policy, spec.retention)
    return request


def _write_input(request: pb.EnsureStreamRequest, source: specs.StreamInput) -> None:
    match source:
        case specs.FromSubjects(subjects):
            request.subjects.subjects.extend(subjects)
        case specs.FromMirror(one):
            _write_source(request.mirror, one)
        case specs.FromAggregate(sources):
            for each in sources:
                _write_source(request.aggregate.sources.add(), each)


def _write_source(message: pb.EnsureStreamRequest.StreamSource, source: specs.SourceSpec) -> None:
    message.name = source.stream
    message.filter_subjects.extend(source.filters)
    pointer: pb.StreamPointer = getattr(message, "from")
    match source.start:
        case specs.AtId(stream_seq):
            pointer.offset = stream_seq
        case specs.AtTime(unix_ns):
            pointer.time.FromNanoseconds(unix_ns)
        case specs.AtEnd():
            pointer.end = True
        case specs.AtStart():
            pass


def _write_retention(policy: pb.EnsureStreamRequest.RetentionPolicy, spec: specs.RetentionSpec) -> None:
    if spec.max_age is not None:
        policy.max_age.FromTimedelta(spec.max_age)
    for name in ("max_events", "max_events_per_subject", "max_bytes"):
        value = getattr(spec, name)
        if value is not None:
            setattr(policy, name, value)
    if spec.discard is specs.DiscardPolicy.NEW:
        policy.discard_policy = pb.EnsureStreamRequest.DISCARD_POLICY_NEW
    if spec.discard_new_per_subject:
        policy.discard_new_per_subject = True
