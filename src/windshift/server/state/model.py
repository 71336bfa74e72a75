"""Values of the domain of state."""

from __future__ import annotations

from typing import Final, NamedTuple, NewType, TypeAlias

from windshift.nats.jetstream.kv import Record

Revision = NewType("Revision", int)
"""The number of a write, growing with every write to the store. 0 = the key does not exist."""

ABSENT: Final = Revision(0)

KeyRecord: TypeAlias = tuple[str, Record]
"""A key, and one write of it; without a value it was deleted, or its value expired."""


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
