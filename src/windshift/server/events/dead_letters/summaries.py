"""Summaries: how many dead letters there are of each kind, without I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from heapq import nsmallest
from typing import Final

from windshift.nats.times import Time
from windshift.server.events.dead_letters.model import DeadLetter

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


class Group:
    """Dead letters that are alike.

    Attributes:
        count: how many.
        first: when the first of them was written.
        last: when the last of them was.
        sample: the one that was added first.
    """

    __slots__ = ("count", "first", "last", "sample")

    def __init__(self, sample: DeadLetter) -> None:
        self.count = 0
        self.first = self.last = sample.time
        self.sample = sample.id

    def add(self, time: Time) -> None:
        """Count one."""
        self.count += 1
        self.first, self.last = min(self.first, time), max(self.last, time)


class Summary:
    """Groups of dead letters, and how many were added.

    Attributes:
        total: dead letters in all groups.
        is_truncated: whether there are more than were added; whoever adds them says so.

    Args:
        by: what dead letters of one group have in common.
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
        key = tuple([value(dead_letter) for value in self._values])
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(dead_letter)
        group.add(dead_letter.time)
        self.total += 1

    def largest(self, limit: int) -> list[tuple[tuple[str, ...], Group]]:
        """Return the largest groups with what they have in common, the largest first."""
        return nsmallest(limit, self._groups.items(), key=lambda item: (-item[1].count, item[0]))
