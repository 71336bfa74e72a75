"""The deadlines of many calls behind one timer, without I/O.

One event loop timer per call would cost more than the rest of its bookkeeping, and nearly all calls end
before their deadline.
"""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

T = TypeVar("T")

_COMPACT_ABOVE = 64


class Deadlines(Generic[T]):
    """A heap of deadlines."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, list[T]]] = []
        self._count = 0
        self._discarded = 0

    @property
    def next(self) -> float | None:
        """The earliest deadline, which may be a discarded one; None = none."""
        return self._heap[0][0] if self._heap else None

    def add(self, deadline: float, item: T) -> list[T]:
        """Add an item and return its ticket, for ``discard``."""
        self._count += 1
        ticket = [item]
        heapq.heappush(self._heap, (deadline, self._count, ticket))
        return ticket

    def discard(self, ticket: list[T]) -> None:
        """Forget an item. No effect after ``pop_due`` returned it."""
        if not ticket:
            return
        ticket.clear()
        self._discarded += 1
        if self._discarded > _COMPACT_ABOVE and self._discarded * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2]]
            heapq.heapify(self._heap)
            self._discarded = 0

    def pop_due(self, now: float) -> list[T]:
        """Remove and return the items whose deadline has come, in its order."""
        due = []
        while self._heap and (self._heap[0][0] <= now or not self._heap[0][2]):
            ticket = heapq.heappop(self._heap)[2]
            if ticket:
                due.append(ticket.pop())
            else:
                self._discarded -= 1
        return due
