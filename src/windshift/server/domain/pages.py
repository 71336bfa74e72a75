"""Page tokens. A token is valid only with the request that it was returned for."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any, Final, Generic, TypeAlias, TypeVar

from windshift.server.domain.errors import InvalidField

Position: TypeAlias = tuple[Any, ...]
"""Strings and numbers that say where a list goes on."""

Key = TypeVar("Key", bound=tuple[Any, ...])
"""What a list is sorted by, and which no two of its entries have in common."""

_LONGEST: Final = 40 * 1024
"""Characters of a token: a subject of 4,096 bytes takes up to six times as much in JSON, 32 KiB in base64."""
LARGEST: Final = 2**63 - 1
"""What the broker's counters hold, and its durations in nanoseconds (292 years)."""
PAGE_BYTES: Final = 1024 * 1024
"""Bytes of data at which a page ends, about."""


def write_token(position: Position | None, *request: object) -> str:
    """Write a token; an empty one where there is no other page.

    `request` is what of the request decides which list it is.
    """
    if position is None:
        return ""
    return urlsafe_b64encode(json.dumps([*position, _digest(request)]).encode()).decode()


def read_token(field: str, token: str, types: tuple[type, ...], *request: object) -> Position | None:
    """Read a token; None for an empty one: the beginning.

    Args:
        field: the request's field.
        token: its value.
        types: of what the position holds.
        request: as it was given to `write_token`.

    Raises:
        InvalidField: `write_token` did not write it, or wrote it for another request.
    """
    if not token:
        return None
    try:
        read = json.loads(urlsafe_b64decode(token)) if len(token) <= _LONGEST else None
    except (ValueError, RecursionError):
        read = None
    if not isinstance(read, list) or list(map(type, read)) != [*types, str] or not all(map(_is_whole, read)):
        raise InvalidField(field, "is not a valid page token; pass the one that the last call returned")
    if read.pop() != _digest(request):
        raise InvalidField(field, "is of another request; begin anew without it")
    return tuple(read)


def _is_whole(value: object) -> bool:
    """Whether a number, if it is a whole one, may be a position in a stream."""
    return not isinstance(value, int) or 0 <= value <= LARGEST


def _digest(request: tuple[object, ...]) -> str:
    return blake2b(repr(request).encode(), digest_size=8).hexdigest()


class PageCut(Generic[Key]):
    """Cuts one page of a list out of its keys, which come some at a time: others can run in between.

    Args:
        size: keys on a page.
        after: the last key of the page before. It need not exist any more: nothing is skipped when entries
            are deleted between pages.
        descending: whether the list begins with the largest key.
    """

    def __init__(self, size: int, after: Key | None, *, descending: bool = False) -> None:
        self._size = size
        self._after = after
        self._descending = descending
        self._first: list[Key] = []

    def add(self, keys: Iterable[Key]) -> None:
        """Take some of the keys."""
        after, descending = self._after, self._descending
        if after is not None:
            keys = (key for key in keys if (key < after if descending else key > after))
        self._first = sorted((*self._first, *keys), reverse=descending)[: self._size + 1]

    def page(self) -> tuple[list[Key], Key | None]:
        """Return the keys of the page in their order, and the last of them if there is another page."""
        page = self._first[: self._size]
        return page, page[-1] if page and len(page) < len(self._first) else None
