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
"""Bytes of answers that may be on their way on one connection: three quarters of what a server tolerates."""

MOST_WAITING: Final = 5_000

asking: ContextVar[str] = ContextVar("asking", default="")
"""On whose behalf the running task asks. Those who share a name share its part of a budget."""


class Share(NamedTuple):
    """A part of a budget that somebody has."""

    asker: str
    size: int


_Queue = OrderedDict[asyncio.Future[None], int]


class Budget:
    """Hands out bytes: at once while there are some; then to those who wait, one of each in turn.

    Each asker is served in the order in which it asked, and may have half of all at most. What is larger than
    that, or than everything, is handed out to who has nothing else.

    Args:
        size: in bytes.
        max_waiting: how many requests of one asker may wait.

    Attributes:
        used: bytes that are handed out.
        waiting: how many requests wait.
    """

    def __init__(self, size: int = ASKING, max_waiting: int = MOST_WAITING) -> None:
        self._size = size
        self._most = size // 2
        self._max_waiting = max_waiting
        self._of: dict[str, int] = {}
        self._queues: OrderedDict[str, _Queue] = OrderedDict()
        self._is_short = False  # somebody waits for bytes that others have
        self.used = self.waiting = 0

    def take_now(self, size: int) -> Share | None:
        """Take some bytes if that is possible now; None if not."""
        asker = asking.get()
        if self._queues and (self._is_short or asker in self._queues):
            return None
        return self._take(asker, size) if self._is_free(size) and self._may_have(asker, size) else None

    async def take(self, size: int, deadline: float) -> Share:
        """Take some bytes, and wait for them until `deadline` (loop time).

        Raise `Busy` when there were none, or at once when too many requests of this asker wait already.
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
        """Give bytes back: those who wait get them."""
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
        """Give what there is to those who wait. Nobody overtakes who waits for what others have."""
        self._is_short = False
        passed = 0
        while passed < len(self._queues):
            asker, queue = next(iter(self._queues.items()))
            turn, size = next(iter(queue.items()))
            if turn.done():  # it waits no more, and does not know yet
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
        """Wait no more; give back what came in this very moment."""
        if turn in self._queues.get(asker, ()):
            self._remove(asker, turn)
            self._hand_out()
        elif not turn.cancelled() and turn.exception() is None:
            self.give_back(Share(asker, size))


def _expire(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_exception(Busy())
