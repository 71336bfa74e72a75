"""What streams and consumers are to be, and how they travel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal, NamedTuple, TypedDict

from google.protobuf.message import Message

from windshift.protos import events

from .names import Names
from .pointers import END, START, Position, pointer, read_position
from .times import Seconds, duration, timedelta_of

_Stream = events.EnsureStreamRequest


class Source(NamedTuple):
    """A stream that events are copied from.

    Attributes:
        name: its name.
        start: where copying begins. It counts only when the copy is made.
        subjects: filters; none = everything.
    """

    name: str
    start: Position = START
    subjects: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSpec:
    """What a stream is. Exactly one of `subjects`, `mirror` and `aggregate` is needed.

    Attributes:
        subjects: subjects that are bound to it.
        mirror: the stream that it is a copy of.
        aggregate: the streams that it is made of.
        max_age: events older than this are dropped; None = never.
        max_events: number of events kept; None = any.
        max_events_per_subject: number of events kept of each subject; None = any.
        max_bytes: bytes kept, headers counted; None = any.
        discard: what a full stream does: drop the `old` events, or refuse the `new` one.
        discard_new_per_subject: refuse also what is beyond `max_events_per_subject`.
        storage: on disk (`file`) or in `memory`; fixed when the stream is made.
        replicas: copies in a cluster; None = as it is, or as the server is set up.
        deduplication_window: how long keys are remembered; None = 2 minutes.
        max_event_size: bytes of the largest event; None = what the broker takes.
        fast_ingest: whether a publisher `without_ids` may hand over many events at a time; None = as it is,
            and not for a new stream.
    """

    subjects: Sequence[str] = ()
    mirror: Source | None = None
    aggregate: Sequence[Source] = ()
    max_age: Seconds | None = None
    max_events: int | None = None
    max_events_per_subject: int | None = None
    max_bytes: int | None = None
    discard: Literal["old", "new"] = "old"
    discard_new_per_subject: bool = False
    storage: Literal["file", "memory"] = "file"
    replicas: int | None = None
    deduplication_window: Seconds | None = None
    max_event_size: int | None = None
    fast_ingest: bool | None = None

    def with_fields(self, fields: StreamFields) -> StreamSpec:
        """Return it with some fields changed."""
        return replace(self, **fields)

    def proto(self, name: str, names: Names) -> events.EnsureStreamRequest:
        """Return it for the wire."""
        window = self.deduplication_window
        request = _Stream(
            name=names.name(name),
            retention_policy=_Stream.RetentionPolicy(
                max_age=None if self.max_age is None else duration(self.max_age),
                max_events=self.max_events,
                max_events_per_subject=self.max_events_per_subject,
                max_bytes=self.max_bytes,
                discard_policy=f"DISCARD_POLICY_{self.discard.upper()}",
                discard_new_per_subject=self.discard_new_per_subject,
            ),
            storage=_Stream.Storage(type=f"STORAGE_TYPE_{self.storage.upper()}", replicas=self.replicas),
            deduplication_window=None if window is None else duration(window),
            max_event_size=self.max_event_size,
        )
        if self.fast_ingest is not None:
            request.fast_ingest = self.fast_ingest
        if self.subjects:
            request.subjects.subjects.extend(names.subjects(self.subjects))
        if self.mirror is not None:
            request.mirror.CopyFrom(_source(self.mirror, names))
        if self.aggregate:
            request.aggregate.sources.extend(_source(source, names) for source in self.aggregate)
        return request


class StreamFields(TypedDict, total=False):
    """The fields of a `StreamSpec`, which says what they mean, as keyword arguments."""

    subjects: Sequence[str]
    mirror: Source | None
    aggregate: Sequence[Source]
    max_age: Seconds | None
    max_events: int | None
    max_events_per_subject: int | None
    max_bytes: int | None
    discard: Literal["old", "new"]
    discard_new_per_subject: bool
    storage: Literal["file", "memory"]
    replicas: int | None
    deduplication_window: Seconds | None
    max_event_size: int | None
    fast_ingest: bool | None


def _source(source: Source, names: Names) -> events.EnsureStreamRequest.StreamSource:
    if not isinstance(source, Source):
        raise TypeError(f"what is copied is a ws.Source, such as ws.Source('orders'), not {source!r}")
    message = _Stream.StreamSource(
        name=names.name(source.name), filter_subjects=names.subjects(source.subjects)
    )
    getattr(message, "from").CopyFrom(pointer(source.start))
    return message


def read_stream_spec(proto: events.EnsureStreamRequest, names: Names) -> StreamSpec:
    """Read a spec from the wire."""
    policy = proto.retention_policy
    new = policy.discard_policy == _Stream.DISCARD_POLICY_NEW
    return StreamSpec(
        subjects=tuple(names.bare_subject(subject) for subject in proto.subjects.subjects),
        mirror=_read_source(proto.mirror, names) if proto.HasField("mirror") else None,
        aggregate=tuple(_read_source(source, names) for source in proto.aggregate.sources),
        max_age=timedelta_of(policy, "max_age"),
        max_events=_value_of(policy, "max_events"),
        max_events_per_subject=_value_of(policy, "max_events_per_subject"),
        max_bytes=_value_of(policy, "max_bytes"),
        discard="new" if new else "old",
        discard_new_per_subject=policy.discard_new_per_subject,
        storage="memory" if proto.storage.type == _Stream.STORAGE_TYPE_MEMORY else "file",
        replicas=_value_of(proto.storage, "replicas"),
        deduplication_window=timedelta_of(proto, "deduplication_window"),
        max_event_size=_value_of(proto, "max_event_size"),
        fast_ingest=proto.fast_ingest,
    )


def _value_of(message: Message, field: str) -> Any:
    return getattr(message, field) if message.HasField(field) else None


def _read_source(proto: events.EnsureStreamRequest.StreamSource, names: Names) -> Source:
    return Source(
        names.bare_name(proto.name),
        read_position(getattr(proto, "from")),
        tuple(names.bare_subject(subject) for subject in proto.filter_subjects),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """What happens to events that are not acknowledged. None = the server's default.

    Attributes:
        max_attempts: how often an event is delivered at most; None = without end.
        initial: how long after the first reject it is delivered again; 50 ms.
        maximum: the longest such time; 30 seconds.
        multiplier: what each such time is of the one before; 2.
        jitter: by which share of it each such time may be shorter; 0.2.
        dead_letters: whether events that are given up on are kept as dead letters.
    """

    max_attempts: int | None = None
    initial: Seconds | None = None
    maximum: Seconds | None = None
    multiplier: float | None = None
    jitter: float | None = None
    dead_letters: bool = True

    def proto(self) -> events.RetryPolicy:
        """Return it for the wire."""
        return events.RetryPolicy(
            max_attempts=self.max_attempts,
            initial_backoff=None if self.initial is None else duration(self.initial),
            max_backoff=None if self.maximum is None else duration(self.maximum),
            backoff_multiplier=self.multiplier,
            jitter=self.jitter,
            dead_letters=self.dead_letters,
        )


def read_retry_policy(proto: events.RetryPolicy) -> RetryPolicy:
    """Read a policy from the wire."""
    return RetryPolicy(
        max_attempts=proto.max_attempts or None,
        initial=timedelta_of(proto, "initial_backoff"),
        maximum=timedelta_of(proto, "max_backoff"),
        multiplier=_value_of(proto, "backoff_multiplier"),
        jitter=_value_of(proto, "jitter"),
        dead_letters=proto.dead_letters,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerSpec:
    """What a consumer is.

    Attributes:
        subjects: filters; none = everything.
        start: where it begins: at the end, unless something else is said. It counts only when the consumer is
            made.
        timeout: how long a subscriber may take over an event before it is delivered again. A running
            handler has it prolonged.
        retry: what happens to events that are not acknowledged; None = as it is; a new consumer retries for
            ever.
    """

    subjects: Sequence[str] = ()
    start: Position = END
    timeout: Seconds = timedelta(seconds=30)
    retry: RetryPolicy | None = None

    def with_fields(self, fields: ConsumerFields) -> ConsumerSpec:
        """Return it with some fields changed."""
        return replace(self, **fields)

    def proto(self, stream: str, name: str | None, names: Names) -> events.EnsureConsumerRequest:
        """Return it for the wire.

        Raises:
            TypeError: a field is not what it should be.
        """
        if self.retry is not None and not isinstance(self.retry, RetryPolicy):
            raise TypeError(f"retry is a ws.RetryPolicy, not {self.retry!r}")
        request = events.EnsureConsumerRequest(
            stream=names.name(stream),
            name=name,
            subjects=names.subjects(self.subjects),
            processing_timeout=duration(self.timeout),
            retry_policy=None if self.retry is None else self.retry.proto(),
        )
        getattr(request, "from").CopyFrom(pointer(self.start))
        return request


class ConsumerFields(TypedDict, total=False):
    """The fields of a `ConsumerSpec`, which says what they mean, as keyword arguments."""

    subjects: Sequence[str]
    start: Position
    timeout: Seconds
    retry: RetryPolicy | None
