"""Blocking work in threads that the end of the process does not wait for."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

R = TypeVar("R")


class Threads:
    """Daemon threads of an event loop, made as they are needed, and kept for more work.

    Executors are no good for work that may never end, nor for threads that outlive the main one: once that
    has ended, they take no more work, and the process does not end before theirs is done.

    Args:
        most: threads at once; what is beyond waits.
        name: begins the threads' names.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = 0
        self._pending = 0  # works that run or wait
        self._closed = False

    def start(self) -> None:
        """Start a thread, unless there is one.

        Raises:
            RuntimeError: no thread can be started.
        """
        if not self._threads:
            self._add()

    async def run(self, function: Callable[[], R]) -> R:
        """Run a function in a thread, with the same context, and return its result.

        Cancelling this does not stop a function that runs; one that waits is not run.

        Raises:
            RuntimeError: there is no thread, and none can be started; or they are closed; or the function
                raised StopIteration.
        """
        if self._closed:
            raise RuntimeError("the threads are closed")
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[R] = loop.create_future()
        in_context = partial(contextvars.copy_context().run, function)

        def settle(result: Any, error: BaseException | None) -> None:
            self._pending -= 1
            if outcome.done():  # cancelled
                return
            if error is None:
                outcome.set_result(result)
            else:
                outcome.set_exception(error)

        def work() -> None:
            came = (None, None) if outcome.done() else _outcome_of(in_context)
            try:
                loop.call_soon_threadsafe(settle, *came)
            except RuntimeError:
                pass  # the loop is closed: nobody waits

        self._make_room()
        self._pending += 1
        self._work.put(work)
        del work
        return await outcome

    def close(self) -> None:
        """End the threads, each as soon as it has nothing to do."""
        if not self._closed:
            self._closed = True
            for _ in range(self._threads):
                self._work.put(None)

    def _make_room(self) -> None:
        """Add a thread if all are busy. Where the system gives no more, those that there are have to do."""
        if self._pending < self._threads or self._threads >= self._most:
            return
        try:
            self._add()
        except RuntimeError:
            if not self._threads:
                raise

    def _add(self) -> None:
        name = f"{self._name}_{self._threads}"
        threading.Thread(target=_serve, args=(self._work,), name=name, daemon=True).start()
        self._threads += 1


def _outcome_of(function: Callable[[], R]) -> tuple[R | None, BaseException | None]:
    try:
        return function(), None
    except StopIteration as raised:  # a future cannot carry it
        failure = RuntimeError("the function raised StopIteration")
        failure.__cause__ = raised
        return None, failure
    except BaseException as raised:  # noqa: BLE001 -- it is raised again where it is awaited
        return None, raised


def _serve(work: SimpleQueue[Callable[[], None] | None]) -> None:
    while (each := work.get()) is not None:
        each()
        del each  # and what it holds, until there is more


async def in_thread(function: Callable[[], R], name: str) -> R:
    """Run a function in a thread of its own; see `Threads.run`."""
    threads = Threads(1, name)
    try:
        return await threads.run(function)
    finally:
        threads.close()
