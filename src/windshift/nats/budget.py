"""Bytes that may be on their way from a server at once, shared fairly between those who ask.

nats-server closes a connection that leaves more than 64 MiB unread (the default of ``max_pending``): whoever
asks for more at once than is read in time would close it for all others. So each request takes as much of a
budget as its answer may have, before it is sent, and gives it back when the answer has arrived.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from contextvars import ContextVar
from typing import Final, TypeAlias

from windshift.nats.errors import Busy

MIB: Final = 1024 * 1024

ASKING: Final = 48 * MIB
"""Bytes of replies under way on one connection: three quarters of what a server tolerates."""

MOST_WAITING: Final = 5_000

asking: ContextVar[str] = ContextVar("asking", default="")
"""On whose behalf the current task sends requests. Equal names share their part of a budget."""


Share: TypeAlias = tuple[str, int]
"""Who has a part of a budget, and how many bytes."""

_Turn: TypeAlias = tuple[asyncio.Future[None], int, float]
"""Completes when the bytes are there; how many; by when."""

_SWEEP: Final = 0.05
"""Seconds between two looks for those whose time is over. A timer for each would cost as much as the rest."""


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
        self._queues: OrderedDict[str, deque[_Turn]] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        self._late: dict[object, int] = {}
        self._late_size = 0
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
        asker, loop = asking.get(), asyncio.get_running_loop()
        queue = self._queues.get(asker)
        if queue is None:
            queue = self._queues[asker] = deque()
        elif len(queue) >= self._max_waiting:
            raise Busy
        turn: asyncio.Future[None] = loop.create_future()
        queue.append((turn, size, deadline))
        self.waiting += 1
        self._is_short = self._is_short or not self._is_free(size)
        if self._timer is None:
            self._timer = loop.call_later(_SWEEP, self._sweep, loop)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self.waiting -= 1
            elif turn.exception() is None:  # the bytes came in this very moment
                self.give_back((asker, size))
            raise
        return asker, size

    def give_back(self, share: Share) -> None:
        """Give bytes back, to those who wait."""
        self._free(share)
        self._drop(share[1])

    def leave(self, share: Share) -> object:
        """Note that nobody waits any more for what may come; return what to give to `came`.

        It counts until it has come, but no longer as the asker's. Much of it never comes, as when a leader
        has died: it never takes up more than half of the budget.
        """
        self._free(share)
        late, size = object(), share[1]
        self._late[late] = size
        self._late_size += size
        while self._late_size > self._most:
            self.came(next(iter(self._late)))
        return late

    def came(self, late: object) -> None:
        """Note that what nobody waited for has come, or never will."""
        size = self._late.pop(late, 0)
        if size:
            self._late_size -= size
            self._drop(size)

    def _free(self, share: Share) -> None:
        asker, size = share
        left = self._of[asker] - size
        if left:
            self._of[asker] = left
        else:
            del self._of[asker]

    def _drop(self, size: int) -> None:
        self.used -= size
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
        return asker, size

    def _hand_out(self) -> None:
        """Give what there is to those who wait. Nobody overtakes who waits for what others have."""
        self._is_short = False
        passed = 0
        while passed < len(self._queues):
            asker, queue = next(iter(self._queues.items()))
            turn, size, _ = queue[0]
            if not turn.done():
                if not self._may_have(asker, size):
                    self._queues.move_to_end(asker)
                    passed += 1
                    continue
                if not self._is_free(size):
                    self._is_short = True
                    return
                self._take(asker, size)
                self.waiting -= 1
                turn.set_result(None)
                self._queues.move_to_end(asker)
            passed = 0
            queue.popleft()
            if not queue:
                del self._queues[asker]

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tell those whose time is over."""
        now = loop.time()
        for queue in self._queues.values():
            for turn, _, deadline in queue:
                if deadline <= now and not turn.done():
                    self.waiting -= 1
                    turn.set_exception(Busy())
        self._timer = loop.call_later(_SWEEP, self._sweep, loop) if self.waiting else None
