"""One timer for whatever is due next."""

from __future__ import annotations

import asyncio
from math import inf

from windshift.server.events.consuming.timer import DeadlineTimer, Signal

LONG = 3600.0


async def test_what_is_due_already_rings_at_once_and_once() -> None:
    """Afterwards it may be set anew, as often as there is something overdue."""
    loop, rung = asyncio.get_running_loop(), asyncio.Event()
    timer = DeadlineTimer(loop, rung.set)
    for late in (1.0, 2.0, 3.0):
        rung.clear()
        timer.set(loop.time() - late, loop.time())
        timer.set(loop.time() - late, loop.time())
        await asyncio.wait_for(rung.wait(), 30)


async def test_the_earliest_time_counts() -> None:
    """What is later does not put it off; nothing that is due at all sets no timer."""
    loop, rung = asyncio.get_running_loop(), asyncio.Event()
    timer = DeadlineTimer(loop, rung.set)
    now = loop.time()
    for due in (inf, now + LONG, now, now + LONG, inf):
        timer.set(due, now)
    await asyncio.wait_for(rung.wait(), 30)


async def test_a_stopped_timer_does_not_ring() -> None:
    """Others that are due at the same time do."""
    loop, rung, other = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    now = loop.time()
    timer, second = DeadlineTimer(loop, rung.set), DeadlineTimer(loop, other.set)
    timer.set(now, now)
    second.set(now, now)
    timer.stop()
    await asyncio.wait_for(other.wait(), 30)
    assert not rung.is_set()


async def test_a_signal_lets_its_task_go_on() -> None:
    """At once if it was set before, when it is set otherwise; a cancelled wait leaves nothing behind."""
    signal = Signal()
    signal.set()
    await signal.wait()
    assert signal.is_set()
    signal.clear()
    waiting = asyncio.ensure_future(signal.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    signal.set()
    signal.clear()
    waiting = asyncio.ensure_future(signal.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    signal.set()
    signal.set()
    await waiting
