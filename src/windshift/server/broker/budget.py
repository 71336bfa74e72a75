"""Bytes that may be on their way from a server at once, shared fairly between those who ask.

nats-server closes a connection that leaves more than 64 MiB unread (the default of ``max_pending``): whoever
asks for more at once than is read in time would close it for all others. So each request takes as much of a
budget as its answer may have, before it is sent, and gives it back when the answer has arrived.
"""

from __future__ import annotations

from asyncio import get_running_loop
from typing import Final

from windshift.nats.errors import Busy, Unanswered
from windshift.nats.semaphore import FairSemaphore
from windshift.server.broker.asking import asking

MIB: Final = 1024 * 1024

ASKING: Final = 48 * MIB
"""Bytes of replies under way on one connection: three quarters of what a server tolerates."""

MOST_WAITING: Final = 5_000
"""Requests of one asker that may wait."""

_NOBODY: Final = "\0"
"""Has what nobody waits for any more."""


class Budget:
    """Bytes, of which each asker has at most half. A larger request is served if the asker has nothing else.

    Args:
        size: how many bytes.
        max_waiting: the most waiting requests of one asker.
    """

    def __init__(self, size: int = ASKING, max_waiting: int = MOST_WAITING) -> None:
        self._bytes = FairSemaphore(size, size // 2, max_waiting_each=max_waiting)
        self._answered = 0
        self._late: dict[Share, None] = {}
        self._late_size = 0
        self._most_late = size // 2

    @property
    def used(self) -> int:
        """Bytes handed out."""
        return self._bytes.used

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return self._bytes.waiting

    def take_now(self, size: int) -> Share | None:
        """Take bytes if available now; otherwise None."""
        asker = asking.get()
        return Share(self, asker, size) if self._bytes.take_now(asker, size) else None

    async def take(self, size: int, deadline: float) -> Share:
        """Take bytes, waiting for them until `deadline` (loop time).

        Raise `Busy` if there were none, or at once if too many requests of this asker wait; `Unanswered` if
        nobody was answered in all that time.
        """
        share = self.take_now(size)
        if share is None:
            asker, answered = asking.get(), self._answered
            try:
                await self._bytes.take(asker, deadline, size)
            except Busy:
                if self._answered == answered and get_running_loop().time() >= deadline:
                    raise Unanswered from None
                raise
            share = Share(self, asker, size)
        return share

    def give_back(self, share: Share) -> None:
        """Give bytes back, once, to those who wait."""
        if share in self._late:
            del self._late[share]
            self._late_size -= share.size
        else:
            self._answered += 1
        self._bytes.give_back(share.asker, share.size)
        share.size = 0

    def leave(self, share: Share) -> None:
        """Note that nobody waits any more for what may come.

        It counts until it has come, but no longer as the asker's. Much of it never comes, as when a leader
        has died: it never takes up more than half of the budget.
        """
        self._bytes.pass_on(share.asker, _NOBODY, share.size)
        share.asker = _NOBODY
        self._late[share] = None
        self._late_size += share.size
        while self._late_size > self._most_late:
            self.give_back(next(iter(self._late)))


class Share:
    """Bytes of a budget that somebody has; a share for `windshift.nats.requests`."""

    __slots__ = ("_budget", "asker", "size")

    def __init__(self, budget: Budget, asker: str, size: int) -> None:
        self._budget = budget
        self.asker = asker
        self.size = size

    def give_back(self) -> None:
        """Give them back; there is nothing to give back after that."""
        if self.size:
            self._budget.give_back(self)

    def leave(self) -> None:
        """Note that nobody waits any more for what they were taken for; it may come, or not."""
        self._budget.leave(self)
