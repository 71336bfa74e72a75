"""Who gets the time of the event loop, when more is asked for than one turn of it should take.

Everybody has an `Account` of the time that was spent on them lately: a connection, or a principal with all of
its connections. Whoever used little is served at once. The bytes of the others, who are *busy*, are parsed in
a slice of time of each turn, in which they take turns: a slice of time, not a number of frames, since a frame
costs from 0.04 µs to 50. So what somebody's call waits for, in each of the turns that it takes, is a slice.

Strangers, on whose connections nobody has authenticated, stand in a line of their own, and all of them
together get a share of the processor: however many they are, and however often they connect anew.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from time import perf_counter
from typing import Final, Protocol

SLICE: Final = 0.0005
"""CPU seconds of one slice: what a flood may add to each step of somebody else's call."""
LONG_SLICE: Final = 0.002
"""The same of one that has brought fewer than `FEW` useful events, while nobody is hindered by that. A slow
machine needs it: what comes of each slice is written by itself, to the broker too, and a write costs as much
as several calls."""
FEW: Final = 64
"""Events, of which a unary call brings two."""
STRANGERS_SLICE: Final = 0.00025
"""The same for strangers, whose first call needs less."""
STRANGERS_SHARE: Final = 0.2
"""Seconds in a second that strangers get together."""
STRANGERS_BURST: Final = 0.5
"""Seconds that they can save up: thousands of clients that come back after a restart."""
CONNECTION_COST: Final = 0.00015
"""Seconds that it takes to set a connection up, without TLS, where it cannot be measured."""
MOST_OF_REFUSAL: Final = 0.001
"""The most seconds charged for refusing a connection: its proxy was waited for, and others were served
meanwhile."""
CALL_COST: Final = 0.00005
"""Seconds that the handler of a stranger's call takes; the same."""

CROWD: Final = 512
"""Strangers that may wait with more than a first call needs: each has up to 256 KiB in memory meanwhile."""

LITTLE: Final = 0.05
"""Seconds in a second that somebody may use and not be busy."""
_SAVED: Final = 0.01
"""Seconds that may be used at once."""
_QUIET: Final = 0.002
"""Seconds that somebody has used at the most for whom busy ones wait. Ten connections that use a little more
than `LITTLE` each would else take turns to be busy: the longer one waits, the less it has used."""
_REMEMBERED: Final = 0.025
"""Seconds that count: who was busy is so for half a second more at the longest."""
_HURRY: Final = 0.0002
"""Seconds for each write at once on behalf of somebody busy: it costs as much as several calls."""
_HINDERED: Final = 0.1
"""Seconds for which somebody who uses little, or who hinders him, counts as being about."""


class Account:
    """How much of the loop's time somebody used lately; a leaky bucket."""

    __slots__ = ("_at", "_hurried_until", "_used")

    def __init__(self) -> None:
        self._used = self._at = self._hurried_until = 0.0

    def charge(self, seconds: float, now: float) -> None:
        """Add time that was used, at a time of ``perf_counter``."""
        left = max(0.0, self._used - (now - self._at) * LITTLE)
        self._used = min(left + seconds, _REMEMBERED)
        self._at = now

    def is_busy(self, now: float) -> bool:
        """Whether it is more than a little."""
        return self._used - (now - self._at) * LITTLE > _SAVED

    def is_quiet(self, now: float) -> bool:
        """Whether it is so little that busy ones wait."""
        return self._used - (now - self._at) * LITTLE < _QUIET

    def may_hurry(self, now: float) -> bool:
        """Tell whether something may leave at once again, and count it: a call needs two such writes."""
        until = max(self._hurried_until, now)
        if until - now > _HURRY:
            return False
        self._hurried_until = until + _HURRY
        return True


class _Waiting(Protocol):  # a `Connection` with bytes that wait
    stranger: bool
    account: Account

    def take_turn(self, seconds: float) -> bool: ...


class Turns:
    """The lines in which connections wait.

    Attributes:
        others_wait: tells whether there is work, other than to parse bytes, that delays answers; to be set.
        is_bulky: tells whether there is bulk work: small calls go ahead of it, whoever makes them. To be set.
        is_busy_elsewhere: tells whether somebody busy, or bulk work, was at work a moment ago, other than to
            have bytes parsed; to be set.
        on_hurry: is called when bytes of somebody who uses little were parsed while others wait: what the
            server sends elsewhere because of them should leave at once, too. To be set.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = perf_counter) -> None:
        self._loop = loop
        self._clock = clock
        self._busy: OrderedDict[Account, deque[_Waiting]] = OrderedDict()
        self._others: deque[_Waiting] = deque()
        self._strangers: deque[_Waiting] = deque()
        self._next_turn: asyncio.Handle | None = None
        self._pausing = False  # only strangers wait, and their time is used up
        self._spent = 0.0  # of the slice of this turn
        self._passed_over = False  # whether the last turn had no time for busy ones
        self._quiet_until = self._busy_until = 0.0  # who uses little, who hinders him, is about
        self._credit = STRANGERS_BURST
        self._credited_at = self._clock()
        self.others_wait: Callable[[], bool] = lambda: False
        self.is_bulky: Callable[[], bool] = lambda: False
        self.is_busy_elsewhere: Callable[[], bool] = lambda: False
        self.on_hurry: Callable[[], None] = lambda: None

    def lets_in(self, account: Account) -> bool:
        """Tell whether bytes are parsed at once.

        Those of busy ones wait when half of the turn's slice is used, while somebody is about who is not.
        """
        now = self._clock()
        if not account.is_busy(now):
            if account.is_quiet(now):
                self._quiet_until = now + _HINDERED
            return True
        self._busy_until = now + _HINDERED
        return now >= self._quiet_until or (not self._busy and self._spent < SLICE / 2)

    def hurries(self, account: Account) -> bool:
        """Tell whether an answer should leave at once, and not with what else the turn brings."""
        some_wait = self._busy or self._others or (self._strangers and not self._pausing)
        if not (some_wait or self.others_wait()):
            return False
        now = self._clock()
        return not account.is_busy(now) or (self.is_bulky() and account.may_hurry(now))

    @property
    def is_pressed(self) -> bool:
        """Whether bytes of busy ones wait."""
        return bool(self._busy)

    @property
    def is_shared(self) -> bool:
        """Whether somebody who uses little is about, and somebody else who hinders him."""
        now = self._clock()
        return now < self._quiet_until and (now < self._busy_until or self.is_busy_elsewhere())

    def hinders(self, account: Account) -> bool:
        """Tell whether somebody's slices are short, since others are about who use less."""
        return self.is_shared and account.is_busy(self._clock())

    def charge(self, account: Account, seconds: float, now: float) -> None:
        """Add time that was used on bytes."""
        account.charge(seconds, now)
        self._spent += seconds
        if self._spent > SLICE / 2:
            self._schedule()

    def wait(self, connection: _Waiting) -> None:
        """Have ``take_turn`` called until nothing is left."""
        self._stand_in_line(connection)
        if not (connection.stranger and self._pausing):
            self._schedule()

    def _schedule(self) -> None:
        """Have the next turn taken, now if that is not so yet."""
        if self._pausing and self._next_turn is not None:
            self._next_turn.cancel()
            self._next_turn = None
        self._pausing = False
        if self._next_turn is None:
            self._next_turn = self._loop.call_soon(self._turn)

    def _stand_in_line(self, connection: _Waiting) -> None:
        account, now = connection.account, self._clock()
        if not connection.stranger and not account.is_busy(now):
            self._others.append(connection)
            return
        self._busy_until = now + _HINDERED
        if connection.stranger:
            self._strangers.append(connection)
        else:
            self._busy.setdefault(account, deque()).append(connection)

    @property
    def crowded(self) -> bool:
        """Whether so many strangers wait that those with much to parse have to go."""
        return len(self._strangers) >= CROWD

    def charge_strangers(self, seconds: float) -> None:
        """Take time that was spent on a stranger off the share of all."""
        self._credit -= seconds

    def strangers_wait(self) -> float:
        """Return the seconds until strangers get time again; 0 = they have some."""
        now = self._clock()
        self._credit = min(STRANGERS_BURST, self._credit + (now - self._credited_at) * STRANGERS_SHARE)
        self._credited_at = now
        return max(0.0, -self._credit) / STRANGERS_SHARE

    def _turn(self) -> None:
        """Give a slice to whoever uses little, to a stranger, and what they leave of it to busy ones.

        Where they left too little, busy ones go first in the next turn, and strangers have to wait.
        """
        self._next_turn = None
        self._pausing = False
        self._spent = 0.0
        enough = SLICE / 2 if self.is_shared else SLICE  # used of it, for nobody else to begin
        is_theirs, self._passed_over = self._passed_over, False
        if is_theirs and self._busy:  # they may have gone
            self._serve(self._next_busy())
        while self._others and self._spent < enough:
            self._serve(self._others.popleft())
        pause = self.strangers_wait() if self._strangers else 0.0
        if not is_theirs:
            if self._strangers and not pause:
                self._serve_stranger()
            self._passed_over = bool(self._busy) and self._spent >= enough
        while self._busy and self._spent < enough:
            self._serve(self._next_busy(), SLICE - self._spent)
        if self._others or self._busy or (self._strangers and not pause):
            self._schedule()
        elif self._strangers and self._next_turn is None:
            self._pausing = True
            self._next_turn = self._loop.call_later(pause, self._turn)

    def _serve_stranger(self) -> None:
        before = self._spent
        self._serve(self._strangers.popleft(), STRANGERS_SLICE)
        self.charge_strangers(self._spent - before)

    def _next_busy(self) -> _Waiting:
        account, queue = self._busy.popitem(last=False)
        connection = queue.popleft()
        if queue:
            self._busy[account] = queue
        return connection

    def _serve(self, connection: _Waiting, seconds: float = SLICE) -> None:
        if connection.take_turn(seconds):  # it may have authenticated meanwhile
            self._stand_in_line(connection)
