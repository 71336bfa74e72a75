"""Bytes that may be on their way from a server at once, shared fairly between those who ask.

nats-server closes a connection that leaves more than 64 MiB unread (the default of ``max_pending``): whoever
asks for more at once than is read in time would close it for all others. So each request takes as much of a
budget as its answer may have, before it is sent, and gives it back when the answer has arrived.
"""

from __future__ import annotations

from asyncio import Future, get_running_loop
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from windshift.nats.errors import Busy, Unanswered, Unavailable
from windshift.nats.semaphore import FairSemaphore

MIB: Final = 1024 * 1024

ASKING: Final = 48 * MIB
"""Bytes of replies under way on one connection: three quarters of what a server tolerates."""

MOST_WAITING: Final = 5_000
"""Requests of one asker that may wait."""

_NOBODY: Final = "\0"
"""Has what nobody waits for any more, and what takes long."""

LARGE: Final = 128 * 1024
"""Bytes from which on an answer is large."""

RATE: Final = 64 * MIB
"""Bytes of large answers that an asker gets in a second, and of large messages that he stores, while somebody
is about who uses little."""

_MOST_REMEMBERED: Final = 1_000
"""Askers of large answers."""


TakeShare: TypeAlias = Callable[["Share | Unavailable"], None]
"""Takes a share, or why there is none."""


class Budget:
    """Bytes, of which each asker has at most half. A larger request is served if the asker has nothing else.

    Whoever got a large answer has one request under way at a time, until he gets a small one: with many of
    them at once the broker has so much to do that others wait for it. While somebody is about who uses little
    of the event loop, the next one waits a while.

    Attributes:
        is_shared: tells whether somebody is hindered who uses little. To be set.

    Args:
        size: how many bytes.
        max_waiting: the most waiting requests of one asker.
        asker: tells on whose behalf the running task asks; empty = for nobody in particular.
    """

    def __init__(
        self, size: int = ASKING, max_waiting: int = MOST_WAITING, asker: Callable[[], str] = lambda: ""
    ) -> None:
        self._asker = asker
        self._bytes = FairSemaphore(
            size, lambda asker: 0 if asker in self._large else size // 2, max_waiting_each=max_waiting
        )
        self._large: OrderedDict[str, None] = OrderedDict()
        self._answered = 0
        self._late: dict[Share, None] = {}
        self._late_size = 0
        self._most_late = size // 2
        self.is_shared: Callable[[], bool] = lambda: False

    @property
    def used(self) -> int:
        """Bytes handed out."""
        return self._bytes.used

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return self._bytes.waiting

    def take_now(self, size: int, asker: str | None = None) -> Share | None:
        """Take bytes if available now; otherwise None. Without an `asker` it is for whom the task asks."""
        asker = self._asker() if asker is None else asker
        return Share(self, asker, size) if self._bytes.take_now(asker, size) else None

    async def take(self, size: int, deadline: float) -> Share:
        """Take bytes, waiting for them until `deadline` (loop time).

        Raise `Busy` if there were none, or at once if too many requests of this asker wait; `Unanswered` if
        nobody was answered in all that time.
        """
        share = self.take_now(size)
        if share is None:
            asker, answered = self._asker(), self._answered
            try:
                await self._bytes.take(asker, deadline, size)
            except Busy as error:
                raise self._refusal(error, answered, deadline) from None
            share = Share(self, asker, size)
        return share

    def wait(self, size: int, deadline: float, asker: str, handler: TakeShare) -> Callable[[], None]:
        """Wait as `take` does, without a task, after `take_now` took nothing; return what ends that.

        Raise `Busy` at once if too many wait. The share comes in the turn of the loop after the one in which
        it is there: when a connection ends, its requests are abandoned one by one, and what one gives back
        must not have the next one sent.
        """
        turn: Future[None] = get_running_loop().create_future()
        answered, is_over = self._answered, False

        def tell(_: Future[None]) -> None:
            nonlocal is_over
            if not is_over:
                is_over = True
                error = turn.exception()
                if isinstance(error, Busy):
                    handler(self._refusal(error, answered, deadline))
                else:
                    handler(Share(self, asker, size))

        def abandon() -> None:
            nonlocal is_over
            if is_over:
                return
            is_over = True
            if turn.cancel():
                self._bytes.withdraw(asker, turn)
            elif turn.exception() is None:  # the bytes are there, and nobody was told
                self._bytes.give_back(asker, size)

        turn.add_done_callback(tell)
        self._bytes.wait(turn, asker, deadline, size)
        return abandon

    def _refusal(self, error: Busy, answered: int, deadline: float) -> Unavailable:
        """Say why a request got nothing which began to wait when so many had been answered."""
        is_over = get_running_loop().time() >= deadline
        return Unanswered() if self._answered == answered and is_over else error

    def arrived(self, share: Share, size: int) -> None:
        """Note how many bytes an answer had."""
        self._large.pop(share.asker, None)
        if share.asker and size >= LARGE:  # the server's own requests are for many
            share.rest = size / RATE
            self._large[share.asker] = None
            if len(self._large) > _MOST_REMEMBERED:
                self._large.popitem(last=False)

    def give_back(self, share: Share) -> None:
        """Give bytes back, once, to those who wait."""
        if share in self._late:
            del self._late[share]
            self._late_size -= share.size
        else:
            self._answered += 1
        size, share.size = share.size, 0
        if share.rest and self.is_shared():
            self._bytes.give_back_late(share.asker, size, share.rest)
        else:
            self._bytes.give_back(share.asker, size)

    def leave(self, share: Share) -> None:
        """Note that nobody waits any more for what may come, or that it takes long.

        It counts until it has come, but no longer as the asker's. Much of it never comes, as when a leader
        has died: it never takes up more than half of the budget.
        """
        self._bytes.pass_on(share.asker, _NOBODY, share.size)
        share.asker = _NOBODY
        self._late[share] = None
        self._late_size += share.size
        while self._late_size > self._most_late:
            self.give_back(next(iter(self._late)))


@dataclass(slots=True, eq=False)
class Share:
    """Bytes of a budget that somebody has for an answer."""

    _budget: Budget
    asker: str
    size: int
    rest: float = 0.0
    """Seconds until the asker's next request may be sent, after a large answer."""

    def arrived(self, size: int) -> None:
        """Note that the answer has come, with so many bytes, and is about to be read."""
        self._budget.arrived(self, size)

    def give_back(self) -> None:
        """Give them back; there is nothing to give back after that."""
        if self.size:
            self._budget.give_back(self)

    def leave(self) -> None:
        """Note that nobody waits any more for what they were taken for, or that it takes long.

        It may come, or not. After the first time this does nothing.
        """
        if self.size and self.asker != _NOBODY:
            self._budget.leave(self)
