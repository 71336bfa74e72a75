"""Bytes that may be on their way from a server at once, shared fairly between those who ask.

nats-server closes a connection that leaves more than 64 MiB unread (the default of ``max_pending``): whoever
asks for more at once than is read in time would close it for all others. So each request takes as much of a
budget as its answer may have, before it is sent, and gives it back when the answer has arrived.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextvars import ContextVar
from typing import Final, NamedTuple

from windshift.nats.errors import Busy

MIB: Final = 1024 * 1024

ASKING: Final = 48 * MIB
"""Bytes of replies under way on one connection: three quarters of what a server tolerates."""

MOST_WAITING: Final = 5_000

asking: ContextVar[str] = ContextVar("asking", default="")
"""On whose behalf the current task sends requests. Equal names share their part of a budget."""


class Share(NamedTuple):
    """A share of a budget that somebody holds."""

    asker: str
    size: int


_Queue = OrderedDict[asyncio.Future[None], int]


class Budget:
    """Hands out bytes: at once while there are some, then to waiting askers in turn.

    The requests of one asker are served in order, and it gets at most half of the budget. A larger request,
    even one larger than the budget, is served if the asker holds nothing else.

    Args:
        size: bytes.
        max_waiting: the most waiting requests of one asker.

    Attributes:
        used: bytes handed out.
        waiting: how many requests wait.
    """

    def __init__(self, size: int = ASKING, max_waiting: int = MOST_WAITING) -> None:
        self._size = size
        self._most = size // 2
        self._max_waiting = max_waiting
        self._of: dict[str, int] = {}
        self._queues: OrderedDict[str, _Queue] = OrderedDict()
        self._is_short = False  # whether somebody waits for bytes that others hold
        self.used = self.waiting = 0

    def take_now(self, size: int) -> Share | None:
        """Take bytes if available now; otherwise None."""
        asker = asking.get()
        if self._queues and (self._is_short or asker in self._queues):
            return None
        return self._take(asker, size) if self._is_free(size) and self._may_have(asker, size) else None

    async def take(self, size: int, deadline: float) -> Share:
        """Take bytes, waiting for them until `deadline` (loop time).

        Raise `Busy` if there were none, or at once if too many requests of this asker wait.
        """
        share = self.take_now(size)
        if share is not None:
            return share
        asker = asking.get()
        queue = self._queues.get(asker)
        if queue is None:
            queue = self._queues[asker] = OrderedDict()
        elif len(queue) >= self._max_waiting:
            raise Busy
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        queue[turn] = size
        self.waiting += 1
        self._hand_out()
        timer = loop.call_at(deadline, _expire, turn)
        try:
            await turn
        except BaseException:
            self._leave(asker, turn, size)
            raise
        finally:
            timer.cancel()
        return Share(asker, size)

    def give_back(self, share: Share) -> None:
        """Give bytes back, to those who wait."""
        asker, size = share
        self.used -= size
        left = self._of[asker] - size
        if left:
            self._of[asker] = left
        else:
            del self._of[asker]
        if self._queues:
            self._hand_out()

    def _is_free(self, size: int) -> bool:
        return self.used + size <= self._size or not self.used

    def _may_have(self, asker: str, size: int) -> bool:
        has = self._of.get(asker, 0)
        return has + size <= self._most or not has

    def _take(self, asker: str, size: int) -> Share:
        self.used += size
        self._of[asker] = self._of.get(asker, 0) + size
        return Share(asker, size)

    def _hand_out(self) -> None:
        """Hand out bytes. Nobody overtakes an asker that waits for bytes that others hold."""
        self._is_short = False
        passed = 0
        while passed < len(self._queues):
            asker, queue = next(iter(self._queues.items()))
            turn, size = next(iter(queue.items()))
            if turn.done():  # it is about to stop waiting
                self._remove(asker, turn)
                passed = 0
                continue
            if not self._may_have(asker, size):
                self._queues.move_to_end(asker)
                passed += 1
                continue
            if not self._is_free(size):
                self._is_short = True
                return
            passed = 0
            self._take(asker, size)
            turn.set_result(None)
            self._remove(asker, turn)

    def _remove(self, asker: str, turn: asyncio.Future[None]) -> None:
        queue = self._queues[asker]
        del queue[turn]
        self.waiting -= 1
        if queue:
            self._queues.move_to_end(asker)
        else:
            del self._queues[asker]

    def _leave(self, asker: str, turn: asyncio.Future[None], size: int) -> None:
        """Stop waiting; give back what was handed out at this moment."""
        if turn in self._queues.get(asker, ()):
            self._remove(asker, turn)
            self._hand_out()
        elif not turn.cancelled() and turn.exception() is None:
            self.give_back(Share(asker, size))


def _expire(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_exception(Busy())
