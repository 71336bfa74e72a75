"""Values of the domain of state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NewType

from windshift.nats.times import Time

Revision = NewType("Revision", int)
"""The number of a write, growing with every write to the store. 0 = the key does not exist."""

ABSENT: Final = Revision(0)


@dataclass(frozen=True, slots=True)
class Entry:
    """The value of a key: opaque bytes, and the write that they are from."""

    value: bytes
    revision: Revision
    last_updated: Time
    """The broker's time of the write."""
