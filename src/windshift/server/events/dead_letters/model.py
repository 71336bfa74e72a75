"""Dead letters, their ids, filters and summaries, as plain values."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from functools import lru_cache
from heapq import nsmallest
from typing import Final, NamedTuple, Self

from windshift.nats.times import Time
from windshift.server.auth.subjects import SubjectPatterns
from windshift.server.events.deliveries import Delivery
from windshift.server.events.model import StreamSeq
from windshift.server.events.runs import SKEW_NS

_NAME: Final = "([A-Za-z0-9_-]{1,255})"
_ID: Final = re.compile(rf"{_NAME}\.{_NAME}\.([1-9][0-9]{{0,19}})\.(0|[1-9][0-9]{{0,19}})", re.ASCII)
_NAME_OR_ANY: Final = re.compile("[A-Za-z0-9_-]*")


class Cause(Enum):
    """Why a consumer gave up on an event. The values are stored."""

    MAX_ATTEMPTS = "MAX_ATTEMPTS"
    REJECTED = "REJECTED"


class DeadLetterId(NamedTuple):
    """Identifies a dead letter; as a string, it is what clients see and what subjects end with.

    Attributes:
        stream: the event's stream.
        consumer: the consumer that gave up.
        seq: the event's id.
        stored_ns: when the stream stored it, in nanoseconds since 1970. It distinguishes events with the same
            id in a stream that was deleted and recreated.
    """

    stream: str
    consumer: str
    seq: StreamSeq
    stored_ns: int

    def __str__(self) -> str:
        return f"{self.stream}.{self.consumer}.{self.seq}.{self.stored_ns}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the string form; raise `ValueError` for anything else, other spellings included."""
        found = _ID.fullmatch(text)
        if found is None:
            raise ValueError("not the id of a dead letter")
        return cls(found[1], found[2], StreamSeq(int(found[3])), int(found[4]))


def id_pattern(stream: str, consumer: str) -> str:
    """Return the NATS pattern of ids of a consumer, a stream or all; raise `ValueError` for invalid names."""
    if _NAME_OR_ANY.fullmatch(stream) is None or _NAME_OR_ANY.fullmatch(consumer) is None:
        raise ValueError("not the names of a stream and a consumer")
    return f"{stream or '*'}.{consumer or '*'}.>"


class Failure(NamedTuple):
    """Records that a consumer gave up on an event. Times are nanoseconds since 1970."""

    id: DeadLetterId
    attempts: int
    first_delivery_ns: int
    last_delivery_ns: int
    cause: Cause
    reason: str = ""
    error_type: str = ""
    replay_count: int = 0
    """The number of the replay that failed; 0 for the original delivery."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter with the complete event.

    Attributes:
        failure: what happened.
        time: when it was written.
        position: its sequence in the stream of dead letters; one that is rewritten gets a higher one.
        subject: the event's subject.
        type_name: full Protobuf name of the data, empty when the publisher named none.
        data: the serialized data; empty where it was not asked for.
        data_size: bytes of data, whether asked for or not.
        published: when the event was published; the broker's time when the publisher named none.
        idempotency_key: the publisher's, if any.
        trace_parent: W3C trace context, if any.
        trace_state: W3C trace context, if any.
        other_headers: headers of other programs.
    """

    failure: Failure
    time: Time
    position: int
    subject: str
    type_name: str
    data: bytes
    data_size: int
    published: Time
    idempotency_key: str | None = None
    trace_parent: str | None = None
    trace_state: str | None = None
    other_headers: dict[str, str] = field(default_factory=dict)

    @property
    def id(self) -> DeadLetterId:
        """Its id."""
        return self.failure.id

    @property
    def time_ns(self) -> int:
        """When it was written, in nanoseconds since 1970."""
        return self.time.unix_ns

    def delivery(self, attempt: int, reply: bytes = b"") -> Delivery:
        """Return the event as a delivery; `reply` takes its acknowledgements."""
        return Delivery(
            self.id.seq,
            self.subject,
            self.type_name,
            self.data,
            self.published,
            self.idempotency_key,
            self.trace_parent,
            self.trace_state,
            attempt,
            reply,
            self.id.stored_ns,
        )


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Selects dead letters; an unset field matches all. Times are nanoseconds since 1970."""

    stream: str = ""
    consumer: str = ""
    causes: frozenset[Cause] = frozenset()
    type_name: str = ""
    since_ns: int | None = None
    """Inclusive."""
    until_ns: int | None = None
    """Exclusive."""
    error_types: frozenset[str] = frozenset()
    text: str = ""
    """In lower case; somewhere in the reason, the error type or the subject, in whatever case."""
    subjects: tuple[str, ...] = ()
    """NATS patterns, of which the event's subject matches one."""
    event_ids: frozenset[int] = frozenset()

    def matches(self, dead_letter: DeadLetter) -> bool:
        """Whether a dead letter passes. Stream and consumer are not checked."""
        failure = dead_letter.failure
        return (
            (not self.causes or failure.cause in self.causes)
            and (not self.type_name or dead_letter.type_name == self.type_name)
            and (self.since_ns is None or dead_letter.time_ns >= self.since_ns)
            and (self.until_ns is None or dead_letter.time_ns < self.until_ns)
            and (not self.error_types or failure.error_type in self.error_types)
            and (not self.event_ids or failure.id.seq in self.event_ids)
            and (not self.subjects or _tree(self.subjects).takes(dead_letter.subject))
            and (not self.text or self._is_mentioned(dead_letter))
        )

    def _is_mentioned(self, dead_letter: DeadLetter) -> bool:
        failure = dead_letter.failure
        texts = (failure.reason, failure.error_type, dead_letter.subject)
        return any(self.text in text.lower() for text in texts)

    def is_past(self, dead_letter: DeadLetter, *, newest_first: bool) -> bool:
        """Whether nothing written after this one can pass, or nothing before it with `newest_first`.

        Times may fall from one dead letter to the next: another leader has another clock.
        """
        if newest_first:
            return self.since_ns is not None and dead_letter.time_ns < self.since_ns - SKEW_NS
        return self.until_ns is not None and dead_letter.time_ns >= self.until_ns + SKEW_NS

    @property
    def scan_from_ns(self) -> int | None:
        """When the first dead letter that may pass was written at the earliest; `None` for no limit."""
        return None if self.since_ns is None else self.since_ns - SKEW_NS

    @property
    def scan_to_ns(self) -> int | None:
        """When the last dead letter that may pass was written at the latest; `None` for no limit."""
        return None if self.until_ns is None else self.until_ns + SKEW_NS

    @property
    def pattern(self) -> str:
        """The NATS pattern of the ids that may pass."""
        return id_pattern(self.stream, self.consumer)

    @property
    def patterns_by_event(self) -> list[str]:
        """The NATS patterns of the ids that may pass, one for each event; none if all events may."""
        return [f"{self.stream or '*'}.{self.consumer or '*'}.{each}.*" for each in sorted(self.event_ids)]

    @property
    def prefix(self) -> str:
        """How the ids begin that may pass."""
        return ".".join([*filter(None, (self.stream, self.consumer)), ""]) if self.stream else ""

    @property
    def is_everything(self) -> bool:
        """Whether all of the stream and consumer pass."""
        return self == DeadLetterFilter(self.stream, self.consumer)

    @property
    def identity(self) -> tuple[object, ...]:
        """What tells this filter from others, in every process the same: the order of sets is not."""
        values = (getattr(self, each.name) for each in fields(self))
        return tuple(sorted(map(str, value)) if isinstance(value, frozenset) else value for value in values)


@lru_cache(maxsize=64)
def _tree(subjects: tuple[str, ...]) -> SubjectPatterns:
    return SubjectPatterns(subjects)


# --- Summaries ----------------------------------------------------------------------------------------------

_MOST_GROUPS: Final = 10_000
"""Groups of one summary; each has texts of up to a few kilobytes."""


class By(Enum):
    """What dead letters of one group have in common."""

    STREAM = "stream"
    CONSUMER = "consumer"
    CAUSE = "cause"
    ERROR_TYPE = "error type"
    TYPE = "type"
    SUBJECT = "subject"
    REASON = "reason"


_VALUES: Final[Mapping[By, Callable[[DeadLetter], str]]] = {
    By.STREAM: lambda each: each.id.stream,
    By.CONSUMER: lambda each: each.id.consumer,
    By.CAUSE: lambda each: each.failure.cause.value,
    By.ERROR_TYPE: lambda each: each.failure.error_type,
    By.TYPE: lambda each: each.type_name,
    By.SUBJECT: lambda each: each.subject,
    By.REASON: lambda each: each.failure.reason.partition("\n")[0],
}


@dataclass(slots=True)
class Group:
    """Dead letters that are alike.

    Attributes:
        sample: the one that was added first.
        first: when the first of them was written.
        last: when the last of them was.
        count: how many.
    """

    sample: DeadLetterId
    first: Time
    last: Time
    count: int = 0

    def add(self, time: Time) -> None:
        """Count one."""
        self.count += 1
        self.first, self.last = min(self.first, time), max(self.last, time)


class Summary:
    """Groups of dead letters with `by` in common, and how many were added.

    Attributes:
        total: dead letters in all groups.
        is_truncated: whether there are more than were added; whoever adds them says so.
    """

    def __init__(self, by: Sequence[By]) -> None:
        self._values = [_VALUES[each] for each in by]
        self._groups: dict[tuple[str, ...], Group] = {}
        self.total = 0
        self.is_truncated = False

    @property
    def is_full(self) -> bool:
        """Whether there are as many groups as it may have."""
        return len(self._groups) >= _MOST_GROUPS

    def add(self, dead_letter: DeadLetter) -> None:
        """Count a dead letter."""
        key, time = tuple([value(dead_letter) for value in self._values]), dead_letter.time
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(dead_letter.id, time, time)
        group.add(time)
        self.total += 1

    def largest(self, limit: int) -> list[tuple[tuple[str, ...], Group]]:
        """Return the largest groups with what they have in common, the largest first."""
        return nsmallest(limit, self._groups.items(), key=lambda item: (-item[1].count, item[0]))
