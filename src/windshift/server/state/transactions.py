"""Which check of a transaction the broker makes with which of its writes: a decision without I/O.

JetStream makes one check of one key with each message that it stores: of the key that is written, or of
another one that is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from windshift.nats.jetstream.kv import Put, Record
from windshift.server.domain import names
from windshift.server.domain.errors import InvalidField, UnsupportedCombination
from windshift.server.state.model import Check, Write

MOST_KEYS: Final = 100


def validate(checks: Sequence[Check], writes: Sequence[Write]) -> None:
    """Raise `InvalidField` or `UnsupportedCombination` for a transaction that cannot be."""
    if not writes:
        raise InvalidField("writes", "is empty; read the keys instead")
    written = _keys("writes", (write.key for write in writes))
    checked = _keys("checks", (check.key for check in checks))
    if len(written | checked) > MOST_KEYS:
        raise InvalidField("writes", f"must be of at most {MOST_KEYS} keys, with those that are checked")
    others, free = len(checked - written), len(written - checked)
    if others > free:
        raise UnsupportedCombination(
            f"{others} checks of keys that are not written need as many writes whose own keys are not "
            f"checked; there are {free}. The broker makes one check with each write: check fewer keys, or "
            "write more"
        )


def _keys(field: str, keys: Iterable[str]) -> set[str]:
    seen = set[str]()
    for position, key in enumerate(keys):
        names.key(f"{field}[{position}].key", key)
        if key in seen:
            raise InvalidField(f"{field}[{position}].key", f"{key!r} appears twice")
        seen.add(key)
    return seen


def puts(checks: Sequence[Check], writes: Sequence[Write], found: Mapping[str, Record]) -> list[Put]:
    """Return the messages of a valid transaction whose checks hold for what was found."""
    written = {write.key for write in writes}
    others = iter([check.key for check in checks if check.key not in written])
    result = []
    for key, value, ttl in writes:
        if key in found:
            result.append(Put(key, value, found[key].sequence, ttl))
        elif (other := next(others, None)) is not None:
            result.append(Put(key, value, found[other].sequence, ttl, other))
        else:
            result.append(Put(key, value, None, ttl))
    return result
