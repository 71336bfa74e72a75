"""Which dead letters a page has: decided without I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from windshift.nats.times import NANOSECONDS, Time
from windshift.server.events.dead_letters.codec import RESTS, SUBJECTS, Entry, letter
from windshift.server.events.dead_letters.letters import Cause, DeadLetter
from windshift.server.events.positions import rfc3339

MOST_SCANNED: Final = 500
"""Entries that one page looks at, at most."""
BYTES_SCANNED: Final = 4 * 1024 * 1024
"""Bytes of entries after which a page looks at no more."""

_SKEW_NS: Final = 60 * NANOSECONDS
"""By how much times may fall from one entry to the next: another leader has another clock."""
_HEADERS: Final = 512
"""About the bytes of an entry without its data."""
_NAME: Final = re.compile("[A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Which dead letters; what is left out does not restrict. Times are nanoseconds since 1970."""

    stream: str = ""
    consumer: str = ""
    causes: frozenset[Cause] = frozenset()
    type_name: str = ""
    since_ns: int | None = None
    """Those of this time or later."""
    until_ns: int | None = None
    """Those before this time."""

    def takes(self, one: DeadLetter) -> bool:
        """Whether a dead letter, which is of the right stream and consumer, passes."""
        time = _unix_ns(one.time)
        return (
            (not self.causes or one.failure.cause in self.causes)
            and (not self.type_name or one.type_name == self.type_name)
            and (self.since_ns is None or time >= self.since_ns)
            and (self.until_ns is None or time < self.until_ns)
        )

    def is_over(self, time: Time) -> bool:
        """Whether nothing after an entry of this time can pass."""
        return self.until_ns is not None and _unix_ns(time) >= self.until_ns + _SKEW_NS

    @property
    def is_everything(self) -> bool:
        """Whether each dead letter of the right stream and consumer passes."""
        return not self.causes and not self.type_name and self.since_ns is None and self.until_ns is None


class Page(NamedTuple):
    """Some dead letters, in the order in which they were written."""

    letters: list[DeadLetter]
    after: int
    """The position to go on after."""
    more: bool
    """Whether there were more after it."""


def subjects_of(stream: str, consumer: str) -> str:
    """Choose the entries of a consumer, of a stream, or all."""
    return SUBJECTS + ids_of(stream, consumer)


def rests_of(stream: str, consumer: str) -> str:
    """Choose the rests of a consumer, of a stream, or all."""
    return RESTS + ids_of(stream, consumer)


def ids_of(stream: str, consumer: str) -> str:
    """Choose what names dead letters of a consumer, of a stream, or all; raise `ValueError` for no names."""
    if _NAME.fullmatch(stream) is None or _NAME.fullmatch(consumer) is None:
        raise ValueError("no names of a stream and a consumer")
    return f"{stream or '*'}.{consumer or '*'}.>"


def scan_query(
    which: LetterFilter, after: int, most: int, most_bytes: int, *, with_data: bool
) -> dict[str, Any]:
    """Word the request for the entries to look at."""
    query: dict[str, Any] = {
        "next_by_subj": subjects_of(which.stream, which.consumer),
        "batch": min(most, MOST_SCANNED) if which.is_everything else MOST_SCANNED,
        "max_bytes": min(BYTES_SCANNED, most_bytes + most * _HEADERS)
        if with_data and which.is_everything
        else BYTES_SCANNED,
    }
    if after == 0 and which.since_ns is not None:
        return query | {"start_time": rfc3339(which.since_ns - _SKEW_NS)}
    return query | {"seq": after + 1}


class Chosen(NamedTuple):
    """What a scan found."""

    entries: list[Entry]
    seen: int
    """The position of the last entry that was looked at; 0 = none was."""
    more: bool


def choose(
    entries: list[Entry | int], left: int, which: LetterFilter, most: int, most_bytes: int, *, with_data: bool
) -> Chosen:
    """Choose the entries of a page.

    Args:
        entries: what was scanned, in order; where something cannot be read its position.
        left: how many more there are after these.
        which: the filter.
        most: how many the page may have.
        most_bytes: how much data it may have, but for its first entry.
        with_data: whether it has data at all.
    """
    chosen: list[Entry] = []
    last = size = 0
    for entry in entries:
        if isinstance(entry, int):
            last = entry
            continue
        if which.is_over(entry.time):
            return Chosen(chosen, entry.position, more=False)
        one = letter(entry, entry.event, with_data=False)
        if which.takes(one):
            size += one.data_size if with_data else 0
            if len(chosen) == most or (chosen and size > most_bytes):
                return Chosen(chosen, last, more=True)
            chosen.append(entry)
        last = entry.position
    return Chosen(chosen, last, more=left > 0)


def _unix_ns(time: Time) -> int:
    return time.seconds * NANOSECONDS + time.nanos
