"""Work in threads that nobody has to wait for."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import pytest

from windshift.server.background.threads import in_thread


async def test_what_comes_of_it() -> None:
    """Whoever awaits the work gets what it returns, or has raised what it raises."""
    assert await in_thread(threading.current_thread, "some work") is not threading.current_thread()
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 // 0, "some work")


async def test_nobody_has_to_ask() -> None:
    """Work that fails after everybody has given up, or that was cancelled, is reported nowhere."""
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    go_on = threading.Event()

    def fail() -> None:
        go_on.wait(30)
        raise ZeroDivisionError

    left, cancelled = in_thread(fail, "left"), in_thread(fail, "cancelled")
    cancelled.cancel()
    go_on.set()
    await asyncio.wait([left], timeout=30)
    assert left.done()
    await asyncio.sleep(0)
    del left, cancelled
    gc.collect()
    assert reported == []
