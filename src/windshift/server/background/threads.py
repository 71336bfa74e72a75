"""Blocking work in threads that delay neither the event loop nor the end of the process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def in_thread(work: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Begin work in a thread of its own, and return what is to come of it.

    The thread is not one of the loop's own pool, for which the end of the process would wait. Nothing ends it
    but the work itself: who gives up waiting leaves it behind. What the work raises is raised by whoever
    awaits the future, and nobody has to.

    Args:
        work: must not touch the loop.
        name: of the thread.

    Raises:
        RuntimeError: no thread can be started.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()
    outcome.add_done_callback(_look_at)

    def settle(result: T | Exception) -> None:
        if outcome.done():  # cancelled meanwhile
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
            pass  # the loop is closed: nobody waits any more

    threading.Thread(target=run, name=name, daemon=True).start()
    return outcome


def _look_at(outcome: asyncio.Future[T]) -> None:
    """Keep an exception that nobody asks for from being reported as forgotten."""
    if not outcome.cancelled():
        outcome.exception()
