"""Blocking work in threads that delay neither the event loop nor the end of the process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def in_thread(work: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Start work in a new thread, and return a future of its result.

    It is not a thread of the loop's own pool, because the end of the process would wait for those. Cancelling
    the future does not stop the work. Nobody has to await the future; an exception is not reported then.

    Args:
        work: must not touch the loop.
        name: the name of the thread.

    Raises:
        RuntimeError: no thread can be started.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()
    outcome.add_done_callback(_look_at)

    def settle(result: T | Exception) -> None:
        if outcome.done():  # cancelled
            return
        if isinstance(result, Exception):
            outcome.set_exception(result)
        else:
            outcome.set_result(result)

    def run() -> None:
        result: T | Exception
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - it is raised again by whoever waits
            result = error
        try:
            loop.call_soon_threadsafe(settle, result)
        except RuntimeError:
            pass  # the loop is closed: nobody waits

    threading.Thread(target=run, name=name, daemon=True).start()
    return outcome


def _look_at(outcome: asyncio.Future[T]) -> None:
    """Retrieve the exception, so that asyncio does not report it."""
    if not outcome.cancelled():
        outcome.exception()
