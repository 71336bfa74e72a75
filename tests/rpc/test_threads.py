"""Threads that the end of the process does not wait for."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from contextvars import ContextVar

import pytest

from windshift.rpc import Threads, in_thread

NUMBER = ContextVar("number", default=0)


async def test_threads_are_kept_and_end_when_they_are_closed() -> None:
    """A second piece of work has the thread of the first; context, results and errors go through."""
    threads = Threads(8, "kept")
    NUMBER.set(7)
    assert await threads.run(NUMBER.get) == 7
    first = await threads.run(threading.current_thread)
    assert (await threads.run(threading.current_thread), first.daemon) == (first, True)
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda: 1 // 0)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await asyncio.wait_for(threads.run(lambda: next(iter(()))), 30)
    threads.close()
    await in_thread(lambda: first.join(30), "other")
    assert not first.is_alive()
    with pytest.raises(RuntimeError, match="closed"):
        await threads.run(NUMBER.get)


async def test_work_runs_in_as_many_threads_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the most, and where the system gives no more, it waits for one; without any it fails."""
    both = threading.Barrier(2)
    threads = Threads(2, "two")
    async with asyncio.timeout(30):
        await asyncio.gather(*(threads.run(both.wait) for _ in range(4)))

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    one, none = Threads(8, "one"), Threads(8, "none")
    one.start()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    async with asyncio.timeout(30):
        names = await asyncio.gather(*(one.run(lambda: threading.current_thread().name) for _ in range(3)))
        with pytest.raises(RuntimeError, match="can't start"):
            await none.run(NUMBER.get)
    assert names == ["one_0"] * 3
    threads.close()
    one.close()


async def test_work_that_was_given_up_before_its_turn_is_not_done() -> None:
    """What runs already goes on."""
    threads, goes_on, done = Threads(1, "given up"), threading.Event(), list[int]()
    first = asyncio.ensure_future(threads.run(goes_on.wait))
    second = asyncio.ensure_future(threads.run(lambda: done.append(2)))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait({second})
    goes_on.set()
    await first
    await threads.run(lambda: done.append(3))
    assert done == [3]
    threads.close()


def test_a_process_ends_beside_work_that_does_not() -> None:
    """An executor would keep it."""
    code = """if True:
        import asyncio, threading
        from windshift.rpc import in_thread
        async def main():
            begun = threading.Event()
            task = asyncio.ensure_future(in_thread(lambda: begun.set() or threading.Event().wait(), "stuck"))
            while not begun.is_set():
                await asyncio.sleep(0)
        asyncio.run(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=50, text=True, stdout=-1, stderr=subprocess.STDOUT
    )
    assert done.stdout == ""
