"""Where a reader of dead letters left off, in a form that clients pass back unread.

A token belongs to its filter: with another one it would skip entries that nobody has seen.
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b
from typing import Final, NamedTuple

from windshift.server.errors import InvalidField
from windshift.server.events.dead_letters.store import LetterFilter

_TOKEN: Final = re.compile(rb"([1-9][0-9]{0,18})\.(0|[1-9][0-9]{0,18})\.([0-9a-f]{16})")
_LONGEST: Final = 128


class Place(NamedTuple):
    """Where a reader left off.

    Attributes:
        after: the position of the last entry that it saw, or that it need not see; 0 = the beginning.
        upto: the position of the last entry that it wants; 0 = it wants all.
    """

    after: int = 0
    upto: int = 0


BEGINNING: Final = Place()


def write_token(which: LetterFilter, place: Place) -> str:
    """Write where a reader left off; empty for the beginning."""
    if place.after == 0:
        return ""
    return urlsafe_b64encode(f"{place.after}.{place.upto}.{_digest(which)}".encode()).decode()


def read_token(field: str, which: LetterFilter, token: str) -> Place:
    """Return where to go on; an empty token is the beginning.

    Raises:
        InvalidField: it is none that `write_token` wrote for this filter.
    """
    if not token:
        return BEGINNING
    found = _TOKEN.fullmatch(_decoded(token))
    if found is None:
        raise InvalidField(field, "is no token of a page; pass on what the call before returned")
    if found[3].decode() != _digest(which):
        raise InvalidField(field, "is of another filter; begin anew without it")
    return Place(int(found[1]), int(found[2]))


def _decoded(token: str) -> bytes:
    try:
        return urlsafe_b64decode(token) if len(token) <= _LONGEST else b""
    except ValueError:
        return b""


def _digest(which: LetterFilter) -> str:
    causes = sorted(cause.value for cause in which.causes)
    parts = [which.stream, which.consumer, causes, which.type_name, which.since_ns, which.until_ns]
    return blake2b(json.dumps(parts).encode(), digest_size=8).hexdigest()
