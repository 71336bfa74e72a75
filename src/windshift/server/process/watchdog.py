"""A thread that notices a blocked event loop, logs where it is, and ends the process if that lasts.

While the loop is blocked nothing else in the process works: no call, no probe, no signal. A process that
exits is restarted by its supervisor.

Only time in which this thread itself is awake counts: a process that was stopped as a whole (SIGSTOP, a
frozen container, a sleeping laptop) is fine. A loop in a C library that never releases the interpreter lock
goes unnoticed.
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

BLOCKED: Final = 70
"""The exit status of an ended process: EX_SOFTWARE of sysexits.h."""

_TICK: Final = 0.5
_LOG_AFTER: Final = 5.0
"""Seconds for which the loop may be blocked before that is logged."""
_FRAMES: Final = 50
_LOGGING: Final = 1.0
"""Seconds that logging may take: what blocks the loop may block that too."""


class Stacks(Exception):
    """The stacks of all threads; never raised, but logged as a traceback."""


class Watchdog:
    """Watches the running event loop, from `start` to `stop`.

    Args:
        limit: seconds for which the loop may be blocked before the process ends; 0 = forever.
        before_end: called before that, in the watchdog's thread.
        tick: seconds between checks.
        log_after: seconds until a blocked loop is logged.

    Attributes:
        stalls: how often the loop was blocked for longer than `log_after`.
    """

    def __init__(
        self,
        limit: float,
        before_end: Callable[[], None] = lambda: None,
        *,
        tick: float = _TICK,
        log_after: float = _LOG_AFTER,
    ) -> None:
        self._limit = limit
        self._before_end = before_end
        self._tick = tick
        self._log_after = min(log_after, limit) if limit else log_after
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
        seen, blocked, is_logged = self._beats, 0.0, False
        while not self._stopped.wait(self._tick):
            if self._beats != seen:
                if is_logged:
                    _log(logging.WARNING, f"the event loop runs again, after about {blocked:g} s")
                seen, blocked, is_logged = self._beats, 0.0, False
                continue
            blocked += self._tick
            if blocked >= self._log_after and not is_logged:
                is_logged = True
                self.stalls += 1
                _log(logging.CRITICAL, f"the event loop has been blocked for {blocked:g} s", self._stacks())
            if self._limit and blocked >= self._limit:
                self._end(blocked)

    def _end(self, blocked: float) -> None:
        text = f"the event loop has been blocked for {blocked:g} s; ending the process, to be restarted"
        with suppress(Exception):
            _log(logging.CRITICAL, text, self._stacks())
        with suppress(Exception):
            self._before_end()
        os._exit(BLOCKED)

    def _stacks(self) -> Stacks:
        """Return the stacks of all threads, the loop's last: long tracebacks are cut at the front."""
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        frames = sys._current_frames()  # noqa: SLF001 - its documentation offers it for this
        frames.pop(threading.get_ident(), None)
        order = sorted(frames, key=lambda each: each == self._loop_thread)
        parts = [
            f"thread {names.get(each, each)}:\n" + "".join(traceback.format_stack(frames[each])[-_FRAMES:])
            for each in order
        ]
        return Stacks("\n" + "\n".join(parts))


def _log(level: int, text: str, stacks: Stacks | None = None) -> None:
    """Log, or write to stderr if logging is blocked; neither can block the watchdog."""
    if not _done(lambda: log.log(level, text, exc_info=stacks)):
        raw = f"windshift: {text}; logging is blocked{'' if stacks is None else str(stacks)}\n".encode()
        _done(lambda: os.write(2, raw))


def _done(work: Callable[[], object]) -> bool:
    """Do something in a thread; return whether there could be one, and it finished in time."""
    thread = threading.Thread(target=work, name="watchdog's log", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return False
    thread.join(_LOGGING)
    return not thread.is_alive()
