"""What a client wants of a stream or a consumer, as plain values.

A spec is complete, with defaults for what the request left out, so that ensuring twice with one request means
the same. Few things may stay open because what is stored decides them: a stream's replicas and whether it
takes batches, a consumer's retry policy (`None` keeps what is stored), and where "the end" is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import TypeAlias

from windshift.server.events.retries import RetryPolicy

MAX_REPLICAS = 5
"""The broker's own limit (`StreamMaxReplicas` in nats-server)."""

SMALLEST_WINDOW = timedelta(milliseconds=100)
"""Below it the broker takes no age, no duplicates window and, here, no processing timeout."""

DEFAULT_DEDUPLICATION_WINDOW = timedelta(minutes=2)
DEFAULT_PROCESSING_TIMEOUT = timedelta(seconds=30)


class StorageType(Enum):
    """Where a stream's events lie. Fixed when the stream is created."""

    FILE = "file"
    MEMORY = "memory"


class DiscardPolicy(Enum):
    """What gives way when a limit of the stream is reached: the oldest events, or the new one."""

    OLD = "old"
    NEW = "new"


@dataclass(frozen=True, slots=True)
class AtStart:
    """From the first event that the stream still holds."""


@dataclass(frozen=True, slots=True)
class AtEnd:
    """Only what is stored after this call."""


@dataclass(frozen=True, slots=True)
class AtTime:
    """From the first event stored at or after a time, in nanoseconds since 1970."""

    unix_ns: int


@dataclass(frozen=True, slots=True)
class AtId:
    """From the event of this id (1 or more, perhaps not given to an event yet), or the first one after it."""

    stream_seq: int


StartPosition: TypeAlias = AtStart | AtEnd | AtTime | AtId


@dataclass(frozen=True, slots=True)
class RetentionSpec:
    """How much a stream keeps. `None` is no limit."""

    max_age: timedelta | None = None
    max_events: int | None = None
    max_events_per_subject: int | None = None
    max_bytes: int | None = None
    discard: DiscardPolicy = DiscardPolicy.OLD
    discard_new_per_subject: bool = False


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """Another stream to copy events from. No filters are all of its subjects."""

    stream: str
    start: StartPosition = AtStart()
    filters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FromSubjects:
    """The stream holds what is published on these subjects."""

    subjects: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FromMirror:
    """The stream is a copy of another one, ids included."""

    source: SourceSpec


@dataclass(frozen=True, slots=True)
class FromAggregate:
    """The stream collects the events of several others, under ids of its own."""

    sources: tuple[SourceSpec, ...]


StreamInput: TypeAlias = FromSubjects | FromMirror | FromAggregate


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """A whole stream.

    `max_event_size` is in bytes and counts the event's headers too; `None` leaves it to the broker.
    `atomic_batches` says whether several events can be stored all or none; `None` keeps what is stored, and a
    new stream has it where the broker can. `fast_ingest` says whether it takes events without telling ids;
    `None` keeps what is stored, and a new stream does not.
    """

    name: str
    source: StreamInput
    retention: RetentionSpec = field(default_factory=RetentionSpec)
    storage: StorageType = StorageType.FILE
    replicas: int | None = None
    deduplication_window: timedelta | None = None
    max_event_size: int | None = None
    atomic_batches: bool | None = None
    fast_ingest: bool | None = None


@dataclass(frozen=True, slots=True)
class ConsumerSpec:
    """A consumer. Without a name it is ephemeral; without subjects it is handed every event of the stream.

    `start` counts when the consumer is created and never after: an existing consumer keeps its position.
    `retry_policy` counts as a whole; `None` keeps the one that an existing consumer has.
    """

    stream: str
    name: str | None = None
    subjects: tuple[str, ...] = ()
    start: StartPosition = AtEnd()
    processing_timeout: timedelta = DEFAULT_PROCESSING_TIMEOUT
    retry_policy: RetryPolicy | None = None
