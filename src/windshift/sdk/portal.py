"""An event loop in a thread of its own, for callers that have none."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, wait
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from .errors import WrongLoop

R = TypeVar("R")

_STOP = 2.0  # seconds that tasks have to end at the exit of the process
_log = logging.getLogger("windshift")


class Portal:
    """Runs coroutines in its thread. Any other thread may call it.

    Attributes:
        stopping: the process ends; who waits for a call is a daemon thread, and hears nothing more.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self.stopping = False
        self._thread = threading.Thread(target=self._run, name="windshift", daemon=True)
        self._thread.start()

    def run(self, function: Callable[[], Awaitable[R]]) -> R:
        """Await what a function returns in the thread, and return the outcome.

        What interrupts the wait, such as Ctrl-C, cancels the awaitable, and is raised when that has ended.

        Raises:
            WrongLoop: this is the portal's thread, which would wait for itself; or that of a process from
                which this one was forked off.
        """
        if self is not _portal:
            raise WrongLoop(
                "this belongs to the process from which this one was forked off", hint="begin anew"
            )
        if threading.current_thread() is self._thread:
            raise WrongLoop(
                "the synchronous client was called from its own thread, such as by `modify`'s change"
            )
        call = _Call(function, self)
        self._loop.call_soon_threadsafe(call.start, self._loop)
        try:
            return call.outcome.result()
        finally:
            if not call.outcome.done():
                self._loop.call_soon_threadsafe(call.cancel)
                wait([call.outcome])

    def start(self, function: Callable[[], Awaitable[object]]) -> None:
        """Await what a function returns in the thread, without waiting for it here."""
        if self is _portal and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_Call(function, self).start, self._loop)

    def stop(self) -> None:
        """Cancel everything and end the thread."""
        self.stopping = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP + 1.0)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        while not self.stopping:
            try:
                self._loop.run_forever()
            except BaseException:  # noqa: BLE001 -- a callback called sys.exit: that must not end the calls of others
                _log.exception("the thread of the synchronous client was interrupted")
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        closing = {asyncio.ensure_future(each.close()) for each in to_close}
        if tasks or closing:
            await asyncio.wait({*tasks, *closing}, timeout=_STOP)


class _Call(Generic[R]):
    """What one thread asks of the portal.

    Attributes:
        outcome: how it ended; whatever that is, the loop goes on.
    """

    def __init__(self, function: Callable[[], Awaitable[R]], where: Portal) -> None:
        self.outcome: Future[R] = Future()
        self._function = function
        self._portal = where

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._task = loop.create_task(self._conclude())
        self._task.add_done_callback(self._done)

    def cancel(self) -> None:
        self._task.cancel()

    async def _conclude(self) -> None:
        try:
            value = await self._function()
        except BaseException as error:  # noqa: BLE001 -- it is raised in the other thread
            if not self._portal.stopping:
                self.outcome.set_exception(error)
        else:
            self.outcome.set_result(value)

    def _done(self, task: asyncio.Task[None]) -> None:
        if not self.outcome.done() and not self._portal.stopping:  # cancelled before it began
            self.outcome.set_exception(asyncio.CancelledError())


to_close: WeakSet[Any] = WeakSet()
"""Clients, which are closed before the process ends."""
_portal: Portal | None = None
_lock = threading.Lock()
_abandoned: list[Any] = []  # of the parent of a forked process: nothing of it may be closed here


def portal() -> Portal:
    """Return the portal of this process."""
    global _portal  # noqa: PLW0603 -- there is one for a process
    if _portal is None:
        with _lock:
            if _portal is None:
                _portal = Portal()
    return _portal


def _forked() -> None:
    global _portal, _lock
    _abandoned.append(_portal)
    _portal, _lock = None, threading.Lock()


def _exit() -> None:
    if _portal is not None:
        _portal.stop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
atexit.register(_exit)
