"""Bulk work, and what busy callers ask for, share a slice of each turn of the event loop.

A list of thousands of streams or a tail is many small steps, between which others run. Ten at once are ten
steps in each turn, and a publish, which takes four turns, waits for forty. So work runs step by step, by a
`Pacing`: when the slice of a turn is used up, whoever has a step to do stands in line for the next ones, in
which accounts take turns. What is no bulk work does so only while its account is busy, and somebody is about
who is not.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import ContextVar
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

T = TypeVar("T")

SLICE: Final = 0.0005
"""Seconds of each turn of the event loop that bulk work gets. The next turns make up for a longer step."""
SHORT_SLICE: Final = 0.00025
"""The same while somebody is about who uses little."""
REST: Final = 0.001
"""Seconds between two slices of bulk work meanwhile, so that the loop is idle when a small call comes."""
_SHARE: Final = 0.25
"""Of the time of a turn bulk work gets this much where that is more than a slice, and two slices at most: it
never stands still."""
_MOST_OWED: Final = 4 * SLICE
"""What is made up for: most of what took longer was other processes, on a busy machine."""
_MOST_WOKEN: Final = 16
_SHORTEST: Final = 1e-6
_ABOUT: Final = 0.05
"""Seconds after a step of bulk work, or for somebody busy, for which there may be more of it."""
_MEMORY: Final = 0.1
"""What the last step counts in how long a step usually takes."""


class Account(Protocol):
    """How much of the loop's time somebody used lately; times are those of ``perf_counter``."""

    def charge(self, seconds: float, now: float) -> None:
        """Add time that was used."""

    def is_busy(self, now: float) -> bool:
        """Tell whether it is more than a little."""


_Turn: TypeAlias = tuple[asyncio.Future[None], bool]
"""What a step waits for, and whether it is bulk work."""


class Pacing:
    """Has the steps of bulk work wait for their turn. Make it in a running event loop.

    Attributes:
        is_shared: tells whether somebody who uses little is hindered: busy callers wait only then, bulk work
            rests, and slices are short. To be set.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: OrderedDict[Account | None, deque[_Turn]] = OrderedDict()
        self._callers_waiting = 0
        self._slice = self._typical = SLICE
        self._spent = self._began = 0.0
        self._scheduled_at = 0.0
        self._bulky_until = self._busy_until = 0.0
        self._next: asyncio.Handle | None = None
        self._rests = False  # until `_next`
        self.is_shared: Callable[[], bool] = lambda: True

    def run(
        self, work: Coroutine[Any, Any, T], account: Account | None = None, *, bulk: bool = True
    ) -> Coroutine[Any, Any, T]:
        """Run work, with all that it starts by `paced`.

        Args:
            work: what to run.
            account: is charged with it; None = nobody is.
            bulk: whether it waits for its turn in any case; otherwise it does so only while its account is
                busy and others are about.
        """
        return _run(_Steps(_Share(self, account, bulk), work))

    @property
    def is_over(self) -> bool:
        """Whether the slice of this turn is used up, or others wait already."""
        return self.is_used_up or bool(self._waiting)

    def is_bulky(self) -> bool:
        """Tell whether bulk work was done a moment ago."""
        return perf_counter() < self._bulky_until

    def is_busy(self) -> bool:
        """Tell whether bulk work was done a moment ago, or work for somebody busy."""
        return perf_counter() < self._busy_until

    def is_at_work(self) -> bool:
        """Tell whether there is bulk work, or the slice of this turn is used up by busy callers."""
        return self._spent >= self._slice or bool(self._waiting) or perf_counter() < self._bulky_until

    @property
    def step_is_long(self) -> bool:
        """Whether the step that runs now has used up the slice."""
        return self._spent + perf_counter() - self._began >= self._slice

    @property
    def is_used_up(self) -> bool:
        """Whether the slice of this turn is used up."""
        return self._spent >= self._slice

    def turn(self, account: Account | None, *, bulk: bool, first: bool = False) -> asyncio.Future[None]:
        """Return a future that is done when there may be time for a step; `first` = ahead of all who wait."""
        turn: asyncio.Future[None] = self._loop.create_future()
        queue = self._waiting.setdefault(account, deque())
        if first:
            queue.appendleft((turn, bulk))
            self._waiting.move_to_end(account, last=False)
        else:
            queue.append((turn, bulk))
        self._callers_waiting += not bulk
        self._schedule()
        return turn

    def begin(self, now: float, *, bulk: bool, busy: bool) -> None:
        """Note that a step begins."""
        self._began = now
        if bulk:
            self._bulky_until = now + _ABOUT
        if bulk or busy:
            self._busy_until = now + _ABOUT

    def end(self, took: float) -> None:
        """Note that one has ended that had to wait for its turn."""
        self._spent += took
        self._typical += (min(max(took, _SHORTEST), SLICE) - self._typical) * _MEMORY
        self._schedule()

    def _schedule(self) -> None:
        """Begin another slice in the next turn, or after a rest if nothing but bulk work waits."""
        rests = not self._callers_waiting and self.is_shared()
        if self._next is not None:
            if rests or not self._rests:
                return
            self._next.cancel()
        self._rests = rests
        self._scheduled_at = perf_counter()
        if rests:
            self._next = self._loop.call_later(REST, self._next_turn)
        else:
            self._next = self._loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        """Let as many steps begin as usually fit into a slice."""
        self._next = None
        took = perf_counter() - self._scheduled_at
        self._spent = min(max(0.0, self._spent - self._slice), _MOST_OWED)
        shortest = SHORT_SLICE if self.is_shared() else SLICE
        self._slice = min(max(shortest, took * _SHARE), 2 * shortest)
        if not self.is_used_up:
            self._wake(max(1, min(int(self._slice / self._typical), _MOST_WOKEN)))
        if self._waiting or self._spent:
            self._schedule()

    def _wake(self, count: int) -> None:
        while count and self._waiting:
            account, queue = self._waiting.popitem(last=False)
            turn, bulk = queue.popleft()
            if queue:
                self._waiting[account] = queue
            self._callers_waiting -= not bulk
            if not turn.done():
                turn.set_result(None)
                count -= 1


@dataclass(slots=True, eq=False)
class _Share:
    """How work is run, and its parts that have tasks of their own.

    Attributes:
        pacing: has its steps wait.
        account: is charged with it.
        bulk: whether it is bulk work now.
    """

    pacing: Pacing
    account: Account | None
    bulk: bool


_share: ContextVar[_Share | None] = ContextVar("share", default=None)
"""That of the work of which the current task is a part."""


def paced(work: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
    """Run a part of bulk work, which is to have a task of its own."""
    share = _share.get()
    return work if share is None else _run(_Steps(share, work))


def treat_as_bulk(bulk: bool) -> None:  # noqa: FBT001 - it says what
    """Have what the current task does wait its turn as bulk work, from its next step on, or no longer."""
    share = _share.get()
    if share is not None:
        share.bulk = bulk


async def pause() -> None:
    """Let others run if the step has become long."""
    share = _share.get()
    if share is None or share.pacing.step_is_long:
        await asyncio.sleep(0)


def hinders() -> bool:
    """Tell whether a long step would delay somebody who uses little: it should be in several."""
    share = _share.get()
    return share is not None and share.pacing.is_shared()


class _Steps(Generic[T]):
    """Runs a coroutine in the task that awaits this, each step when there is time for it."""

    __slots__ = ("_work", "share")

    def __init__(self, share: _Share, work: Coroutine[Any, Any, T]) -> None:
        self.share = share
        self._work = work

    def __del__(self) -> None:
        """Let go of work that was never begun: its task was cancelled first."""
        self._work.close()

    def __await__(self) -> Generator[Any, Any, T]:
        work, share = self._work, self.share
        pacing, account = share.pacing, share.account
        thrown: BaseException | None = None
        try:
            while True:
                began, bulk = perf_counter(), share.bulk
                busy = account is not None and account.is_busy(began)
                waits = bulk or (busy and pacing.is_shared())
                if waits and thrown is None and pacing.is_over:
                    try:
                        yield from pacing.turn(account, bulk=bulk)
                        while pacing.is_used_up:  # by those who were let in with this one
                            yield from pacing.turn(account, bulk=bulk, first=True)
                    except BaseException as error:  # noqa: BLE001 - it is for the work to handle
                        thrown = error
                    began = perf_counter()
                pacing.begin(began, bulk=bulk, busy=busy)
                try:
                    awaited = work.send(None) if thrown is None else work.throw(thrown)
                except StopIteration as stop:
                    return stop.value  # type: ignore[no-any-return]
                finally:
                    now = perf_counter()
                    if account is not None:
                        account.charge(now - began, now)
                    if waits:
                        pacing.end(now - began)
                thrown = None
                try:
                    yield awaited
                except BaseException as error:  # noqa: BLE001 - the same
                    thrown = error
        finally:
            thrown = None  # its traceback holds this frame: a cycle


async def _run(steps: _Steps[T]) -> T:
    _share.set(steps.share)
    return await steps
