"""A process that runs an app: signals, health endpoints, and an end whatever handlers do."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from functools import partial
from types import FrameType
from typing import Any

from windshift.sdk.runtime.subscription import THREADS

from .health import health_endpoints
from .running import Running

STUCK = 1
"""Exit status of a process whose handlers do not end."""

_LAST_WAIT = 1.0  # seconds for what was cancelled to end
_log = logging.getLogger("windshift")


def run_until_told(
    name: str,
    running: Callable[[], AbstractAsyncContextManager[Running]],
    *,
    grace: float,
    health: tuple[str, int] | None,
    until: Callable[[], Awaitable[None]] | None,
) -> bool:
    """Run an app in the main thread until a signal, and return whether one came; see `App.run`.

    A second signal kills. A first one while it stops for another reason lets it finish. Threads that handlers
    have left running have `grace` seconds from the beginning of the stop.

    Raises:
        WindshiftError: an error that ended a consumer, or kept the app from starting.
        OSError: the port for health endpoints cannot be listened on.
    """
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        stopping: asyncio.Future[float] = loop.create_future()
        work = loop.create_task(_work(name, running, health, stopping))
        asked = False

        def stop() -> None:
            nonlocal asked
            if not (asked or stopping.done()):  # cancelled once more, it would not let handlers finish
                work.cancel()
            asked = True

        async def all_of_it() -> None:
            watch = None if until is None else asyncio.ensure_future(until())
            if watch is not None:
                watch.add_done_callback(lambda _: stop())
            try:
                await asyncio.wait([work])
            finally:
                if watch is not None:
                    watch.cancel()
                await _leave_nothing_behind(name, stopping.result() + grace if stopping.done() else 0.0)
            if watch is not None and watch.done() and not watch.cancelled():
                watch.result()
            if not (asked and work.cancelled()):
                work.result()

        with _signals(partial(loop.call_soon_threadsafe, stop)) as came:
            runner.run(all_of_it())
        return bool(came)


async def _work(
    name: str,
    running: Callable[[], AbstractAsyncContextManager[Running]],
    health: tuple[str, int] | None,
    stopping: asyncio.Future[float],
) -> None:
    """Run an app until an error ends it, or it is cancelled; `stopping` is set to when it begins to stop."""
    run: Running | None = None

    def not_ready() -> str:
        if run is None:
            return "starting"
        if run.stopping:
            return "draining"
        return "" if run.ready else "not every consumer is subscribed"

    async with AsyncExitStack() as stack:
        if health is not None:
            port = await stack.enter_async_context(health_endpoints(*health, not_ready))
            _log.info("%s: health on http://%s:%d", name, health[0], port)
        async with running() as run:
            _log.info("%s runs", name)
            try:
                await run.wait()
            finally:
                stopping.set_result(asyncio.get_running_loop().time())
                _log.info("%s stops", name)


async def _leave_nothing_behind(name: str, until: float) -> None:
    """Cancel the tasks that are left, and end the process if they, or threads, go on.

    Threads and generators may go on until this loop time, and for a second in any case.
    """
    loop = asyncio.get_running_loop()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    pending = await _unfinished(tasks)
    generators = loop.create_task(loop.shutdown_asyncgens())
    executor = loop.create_task(_end_executor(generators))
    give_up = max(until, loop.time() + _LAST_WAIT)
    while (_threads() or not executor.done()) and loop.time() < give_up:  # noqa: ASYNC110 -- threads tell nobody
        await asyncio.sleep(0.02)
    pending = await _unfinished(pending)  # which may have waited for threads
    left = {
        "tasks": bool(pending),
        "threads of handlers": _threads(),
        "asynchronous generators": not generators.done(),
        "threads of to_thread": generators.done() and not executor.done(),
    }
    if any(left.values()):
        what = ", ".join(kind for kind, is_left in left.items() if is_left)
        _log.error("%s: %s do not end; ended by force", name, what)
        end_now(STUCK)


async def _unfinished(tasks: set[asyncio.Task[Any]]) -> set[asyncio.Task[Any]]:
    """Return those of the tasks that do not end within a second."""
    return (await asyncio.wait(tasks, timeout=_LAST_WAIT))[1] if tasks else set()


async def _end_executor(generators: asyncio.Task[None]) -> None:
    """End the threads of `to_thread` behind the generators, which may use them, as the runner does."""
    await generators
    await asyncio.get_running_loop().shutdown_default_executor()


def _threads() -> bool:
    return any(thread.name.startswith(f"{THREADS}_") for thread in threading.enumerate())


def end_now(status: int) -> None:
    """End the process at once; what was written is flushed."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, RuntimeError):
            pass  # closed, or a signal came while it was being written
    os._exit(status)


@contextmanager
def _signals(stop: Callable[[], object]) -> Iterator[list[int]]:
    """Call `stop` on SIGTERM or SIGINT, and yield a list that gets the signal's number when one comes.

    A second one ends the process, even if a handler blocks the loop.
    """
    came: list[int] = []

    def handle(number: int, _: FrameType | None) -> None:
        if came:
            os._exit(128 + number)
        came.append(number)
        stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
