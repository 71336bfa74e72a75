"""A semaphore that is fair between those who ask: each in turn, and the requests of one in order."""

from __future__ import annotations

import asyncio
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from windshift.nats.errors import Busy

_Queue: TypeAlias = OrderedDict[asyncio.Future[None], tuple[int, float]]
"""Each completes when its units are there; how many; by when."""

_SWEEP: Final = 0.05
"""Seconds between two looks for those whose time is over. A timer for each would cost as much as the rest."""


@dataclass(eq=False)
class FairSemaphore:
    """Hands out units: at once while there are some, then to waiting askers in turn.

    Askers are names; equal ones share a turn. Nobody overtakes a request that waits for what others have.
    More than `size`, or than `most`, is given when nobody, or the asker, has anything else.

    Args:
        size: how many units there are.
        most: returns how many of them an asker may have; None = all.
        max_waiting: how many requests may wait.
        max_waiting_each: how many requests of one asker may wait.

    Attributes:
        used: units handed out.
        waiting: how many requests wait.
    """

    size: int
    most: Callable[[str], int] | None = None
    max_waiting: int = field(default=sys.maxsize, kw_only=True)
    max_waiting_each: int = field(default=sys.maxsize, kw_only=True)
    used: int = 0
    waiting: int = 0
    _of: dict[str, int] = field(default_factory=dict)  # what each asker has, if that is bounded
    _queues: dict[str, _Queue] = field(default_factory=dict)
    # Those of them who take turns; the others wait for units that they have themselves. The first in line
    # waits for units that others have.
    _line: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _timer: asyncio.TimerHandle | None = None

    def take_now(self, asker: str, count: int = 1) -> bool:
        """Take units if they can be had without waiting."""
        if self._queues and (self._line or asker in self._queues):
            return False
        used = self.used
        if used and used + count > self.size:
            return False
        if self.most is None:  # calls cost on the hot path
            self.used = used + count
            return True
        if not self._may_have(asker, count):
            return False
        self._add(asker, count)
        return True

    async def take(self, asker: str, deadline: float, count: int = 1) -> None:
        """Take units, waiting for them until `deadline` (loop time).

        Raise `Busy` if there were none, or at once if too many requests wait.
        """
        if self.take_now(asker, count):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.wait(turn, asker, deadline, count)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self.withdraw(asker, turn)
            elif turn.exception() is None:  # the units came in this very moment
                self.give_back(asker, count)
            raise

    def wait(self, turn: asyncio.Future[None], asker: str, deadline: float, count: int = 1) -> None:
        """Put something in line after `take_now` took nothing. It has `Busy` at `deadline`.

        Raise `Busy` at once if too many requests wait.
        """
        queue = self._queues.get(asker)
        if self.waiting >= self.max_waiting or (queue and len(queue) >= self.max_waiting_each):
            raise Busy
        if queue is None:
            queue = self._queues[asker] = OrderedDict()
            if self._may_have(asker, count):
                self._line[asker] = None
        queue[turn] = count, deadline
        self.waiting += 1
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_SWEEP, self._sweep, loop)

    def withdraw(self, asker: str, turn: asyncio.Future[None]) -> None:
        """Note that something in line became done by itself: it waits no longer."""
        self._remove(asker, turn)
        self._hand_out(asker)  # others may want less

    def give_back(self, asker: str, count: int = 1) -> None:
        """Give units back, to those who wait."""
        if self.most is None:
            self.used -= count
        else:
            self._add(asker, -count)
        if self._queues:
            self._hand_out(asker)

    def give_back_late(self, asker: str, count: int, rest: float) -> None:
        """Give units back to others now; for `most`, their asker keeps them for `rest` seconds more."""

        def end() -> None:
            self.used += count
            self.give_back(asker, count)

        self.used -= count
        asyncio.get_running_loop().call_later(rest, end)
        self._hand_out()

    def pass_on(self, asker: str, heir: str, count: int) -> None:
        """Count units that one asker has as another's."""
        self._add(asker, -count)
        self._add(heir, count)
        if self._queues:
            self._hand_out(asker)

    def _may_have(self, asker: str, count: int) -> bool:
        has = self._of.get(asker, 0)
        return self.most is None or not has or has + count <= self.most(asker)

    def _add(self, asker: str, count: int) -> None:
        self.used += count
        if self.most is not None:
            self._of[asker] = has = self._of.get(asker, 0) + count
            if not has:
                del self._of[asker]

    def _remove(self, asker: str, turn: asyncio.Future[None]) -> None:
        queue = self._queues.get(asker)
        if queue is None or queue.pop(turn, None) is None:
            return
        self.waiting -= 1
        if not queue:
            del self._queues[asker]
            self._line.pop(asker, None)

    def _hand_out(self, *askers: str) -> None:
        """Give what there is to those who wait; some of these askers may be let have more than before."""
        for asker in askers:
            if asker in self._queues:
                self._line[asker] = None  # the last, if new
        while self._line:
            asker = next(iter(self._line))
            turn, (count, _) = next(iter(self._queues[asker].items()))
            waits = not turn.done()
            if waits:
                if not self._may_have(asker, count):
                    del self._line[asker]
                    continue
                if self.used and self.used + count > self.size:
                    return
                self._add(asker, count)
                self._line.move_to_end(asker)
            self._remove(asker, turn)
            if waits:
                turn.set_result(None)  # last: it may give back at once what it got

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        late = [
            (asker, turn)
            for asker, queue in self._queues.items()
            for turn, (_, deadline) in queue.items()
            if deadline <= now
        ]
        for asker, turn in late:
            if not turn.done():
                self._remove(asker, turn)
                turn.set_exception(Busy())
        self._hand_out(*self._queues)
        self._timer = loop.call_later(_SWEEP, self._sweep, loop) if self.waiting else None
