"""Values of the domain of state."""

from __future__ import annotations

from typing import Final, NamedTuple, NewType

from windshift.nats.jetstream.kv import Record
from windshift.nats.times import Time

Revision = NewType("Revision", int)
"""The number of a write, growing with every write to the store. 0 = the key does not exist."""

ABSENT: Final = Revision(0)


class Entry(NamedTuple):
    """The value of a key: opaque bytes, and the write that they are from.

    Attributes:
        value: the bytes.
        revision: the number of the write.
        last_updated: the broker's time of it.
    """

    value: bytes
    revision: Revision
    last_updated: Time


class KeyRevision(NamedTuple):
    """One write of a key.

    Attributes:
        key: the key.
        revision: the number of the write.
        updated: the broker's time of it.
        value: what was written; None = the key was deleted, or its value expired.
        ttl: seconds after which the value expires; None = never, or when the store says.
    """

    key: str
    revision: Revision
    updated: Time
    value: bytes | None
    ttl: int | None

    @classmethod
    def of(cls, key: str, record: Record) -> KeyRevision:
        """Return the write that a record of the broker is."""
        return cls(key, Revision(record.sequence), record.time, record.value, record.ttl)


class Check(NamedTuple):
    """What a key must be for a transaction to happen: its revision; 0 = it must not exist."""

    key: str
    revision: int


class Write(NamedTuple):
    """A write of a key in a transaction.

    Attributes:
        key: the key.
        value: what it is to hold; None = nothing, delete it.
        ttl: seconds after which the value expires; None = never, or when the store says.
    """

    key: str
    value: bytes | None
    ttl: int | None = None
