"""What happened: every call of every client, and every fault. Times are of the machine's monotonic clock."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

LOST_WHILE_WRITING = "Internal error from Core"
"""The text of ``grpc.aio``'s INTERNAL for a connection that goes while it is written to."""


class Outcome(StrEnum):
    """What a client knows of a write after its last try."""

    DONE = "done"
    NOT_DONE = "not done"
    """It was refused for certain."""
    UNKNOWN = "unknown"
    """It may have happened, or may yet."""


class Told(StrEnum):
    """In which list of a confirmation an id came back."""

    CONFIRMED = "confirmed"
    INVALID = "invalid"
    FAILED = "failed for now"
    UNANSWERED = "unanswered"
    """The call ended before the confirmation came."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A call that ended with an error.

    Attributes:
        at: when.
        method: the last part of the method's name.
        code: the gRPC code.
        reason: that of the ErrorInfo; empty when the client's own library made the error.
        message: for people.
    """

    at: float
    method: str
    code: str
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Publish:
    """One event that somebody wanted stored, with all tries.

    Attributes:
        value: the event's text, which no other publish has.
        key: the idempotency key; empty without.
        expected: the last id that it was conditional on.
        id: what was answered; 0 without an answer, and in answers without ids.
        failures: the errors of all tries.
    """

    who: str
    stream: str
    subject: str
    value: str
    key: str
    expected: int | None
    start: float
    end: float
    id: int
    outcome: Outcome
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event as it reached a subscriber.

    Attributes:
        session: the call that it came on.
        server: the process that sent it.
    """

    consumer: str
    session: str
    server: str
    id: int
    attempt: int
    value: str
    at: float


@dataclass(frozen=True, slots=True)
class Settlement:
    """An ack, reject or ping of one id.

    Attributes:
        kind: ``ack``, ``reject``, ``ping``, or ``drop`` for a reject after which nothing may come.
    """

    consumer: str
    session: str
    server: str
    kind: str
    id: int
    start: float
    end: float
    told: Told


@dataclass(frozen=True, slots=True)
class Access:
    """One call on a key of a store; each try is one of its own.

    Attributes:
        kind: ``get``, ``set`` or ``delete``.
        expected: the revision that a write was conditional on (0: no such key); None for unconditional ones.
        value: what was to be written; unique among all writes.
        revision: of a write or a read that was answered; 0 for a missing key.
        found: the value that a read returned; empty for a missing key.
        actual: the revision that a refusal named; None for other refusals.
    """

    who: str
    key: str
    kind: str
    start: float
    end: float
    outcome: Outcome
    expected: int | None = None
    value: str = ""
    revision: int = 0
    found: str = ""
    actual: int | None = None


@dataclass(frozen=True, slots=True)
class Transaction:
    """One try of writing several keys.

    Attributes:
        checks: keys with the revisions that were expected; 0 for none.
        writes: keys with their new values; empty for a deletion.
        revisions: of the writes, once they were answered.
        refused_key: the key that a refusal named; empty for other refusals.
        actual: the revision that it told.
    """

    who: str
    start: float
    end: float
    outcome: Outcome
    checks: tuple[tuple[str, int], ...]
    writes: tuple[tuple[str, str], ...]
    revisions: tuple[int, ...] = ()
    refused_key: str = ""
    actual: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a key as a watch told it; empty for a deletion."""

    who: str
    key: str
    revision: int
    value: str
    at: float


@dataclass(frozen=True, slots=True)
class ReplayCall:
    """A call that begins the replay of one event, or cancels it, with all of its tries.

    Attributes:
        kind: ``replay`` or ``cancel``.
        told: of the last try, the field that counts the event; empty when none does.
    """

    kind: str
    id: int
    start: float
    end: float
    told: str


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that was done to a process.

    Attributes:
        target: the process, as in ``Delivery.server`` for servers.
    """

    kind: str
    target: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Stored:
    """An event as it lies in the stream."""

    id: int
    subject: str
    key: str
    value: str


@dataclass(slots=True)
class History:
    """All of it, in the order in which it was recorded."""

    publishes: list[Publish] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    settlements: list[Settlement] = field(default_factory=list)
    accesses: list[Access] = field(default_factory=list)
    transactions: list[Transaction] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    replay_calls: list[ReplayCall] = field(default_factory=list)
    """Those of one event one after the other."""
    failures: list[Failure] = field(default_factory=list)
    """Of all calls, those of publishes among them."""
    faults: list[Fault] = field(default_factory=list)

    def write(self, file: Path) -> None:
        """Write one JSON object a line, each with the name of its kind."""
        with file.open("w") as lines:
            for kind in dataclasses.fields(self):
                for record in getattr(self, kind.name):
                    lines.write(json.dumps({"record": kind.name, **dataclasses.asdict(record)}) + "\n")
