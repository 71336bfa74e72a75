"""A thread that notices an event loop that stands still, says where, and ends the process if that lasts.

While the loop is blocked nothing else in the process works: no call, no probe, no signal. A process that
exits is restarted by whatever supervises it.

Time is measured by what this thread itself is awake for: when a process is stopped as a whole (SIGSTOP, a
frozen container, a laptop that sleeps), nothing is wrong with it. A loop that never releases the lock of the
interpreter, inside a library in C, is not noticed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Final

log = logging.getLogger(__name__)

STOOD_STILL: Final = 70
"""The exit status of a process that was ended: EX_SOFTWARE of sysexits.h."""

_TICK: Final = 0.5
_PATIENCE: Final = 5.0
"""Seconds for which the loop may stand still before that is logged."""
_FRAMES: Final = 50
_LOGGING: Final = 1.0
"""Seconds that logging may take: what holds up the loop may hold up that, too."""


class StandsStill(Exception):
    """Where all threads are; it is never raised, but logged as the traceback of a record."""


class Watchdog:
    """Watches the running event loop, from `start` to `stop`.

    Args:
        limit: seconds for which the loop may stand still before the process ends; 0 = for ever.
        before_end: called, in another thread than the loop's, before that.
        tick: seconds between two looks.
        patience: seconds until it is logged.

    Attributes:
        stalls: how often the loop stood still for longer than `patience`.
    """

    def __init__(
        self,
        limit: float,
        before_end: Callable[[], None] = lambda: None,
        *,
        tick: float = _TICK,
        patience: float = _PATIENCE,
    ) -> None:
        self._limit = limit
        self._before_end = before_end
        self._tick = tick
        self._patience = min(patience, limit) if limit else patience
        self._beats = 0
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = threading.Event()
        self._loop_thread = 0
        self.stalls = 0

    def start(self) -> None:
        """Begin, in the loop's thread."""
        self._loop_thread = threading.get_ident()
        self._beat(asyncio.get_running_loop())
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """End."""
        self._stopped.set()
        if self._timer is not None:
            self._timer.cancel()

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        self._beats += 1
        self._timer = loop.call_later(self._tick, self._beat, loop)

    def _watch(self) -> None:
        seen, still, is_told = self._beats, 0.0, False
        while not self._stopped.wait(self._tick):
            if self._beats != seen:
                if is_told:
                    _tell(logging.WARNING, f"the event loop goes on, after about {still:g} s")
                seen, still, is_told = self._beats, 0.0, False
                continue
            still += self._tick
            if still >= self._patience and not is_told:
                is_told = True
                self.stalls += 1
                _tell(logging.CRITICAL, f"the event loop has stood still for {still:g} s", self._stacks())
            if self._limit and still >= self._limit:
                self._end(still)

    def _end(self, still: float) -> None:
        text = f"the event loop has stood still for {still:g} s; the process ends, to be started anew"
        _tell(logging.CRITICAL, text, self._stacks())
        with suppress(Exception):
            self._before_end()
        os._exit(STOOD_STILL)

    def _stacks(self) -> StandsStill:
        """Say where all threads are, the loop's last: a traceback that is too long is cut from the front."""
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        frames = sys._current_frames()  # noqa: SLF001 - its documentation offers it for this
        frames.pop(threading.get_ident(), None)
        order = sorted(frames, key=lambda each: each == self._loop_thread)
        parts = [
            f"thread {names.get(each, each)}:\n" + "".join(traceback.format_stack(frames[each])[-_FRAMES:])
            for each in order
        ]
        return StandsStill("\n" + "\n".join(parts))


def _tell(level: int, text: str, stacks: StandsStill | None = None) -> None:
    """Log, or write to stderr when logging does not get anywhere; neither can hold up the watchdog."""
    if not _done(lambda: log.log(level, text, exc_info=stacks)):
        raw = f"windshift: {text}; logging is blocked{'' if stacks is None else str(stacks)}\n".encode()
        _done(lambda: os.write(2, raw))


def _done(work: Callable[[], object]) -> bool:
    """Do something in a thread; return whether it was done in time."""
    thread = threading.Thread(target=work, name="watchdog's log", daemon=True)
    thread.start()
    thread.join(_LOGGING)
    return not thread.is_alive()
