"""What is handed out fairly to those who wait."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.broker import in_seconds
from windshift.nats import Busy
from windshift.nats.semaphore import FairSemaphore


async def test_first_come_first_served() -> None:
    """A slot that is given back goes to who waited longest."""
    semaphore = FairSemaphore(1)
    assert semaphore.take_now("")
    assert not semaphore.take_now("")
    order: list[int] = []

    async def work(number: int) -> None:
        await semaphore.take("", in_seconds(30))
        order.append(number)
        semaphore.give_back("")

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(work(number))
        await asyncio.sleep(0)
        semaphore.give_back("")
    assert order == [0, 1, 2, 3, 4]
    assert semaphore.used == 0


async def test_no_slot_by_the_deadline() -> None:
    """Who gets no slot by the deadline is told so, and takes none later."""
    semaphore = FairSemaphore(1)
    semaphore.take_now("")
    with pytest.raises(Busy):
        await semaphore.take("", in_seconds(0.01))
    semaphore.give_back("")
    assert semaphore.used == 0


async def test_too_many_wait() -> None:
    """Beyond the bound nobody even waits."""
    semaphore = FairSemaphore(1, max_waiting=2)
    semaphore.take_now("")
    waiting = [asyncio.create_task(semaphore.take("", in_seconds(30))) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        await semaphore.take("", in_seconds(30))
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)


async def test_who_gave_up_does_not_count() -> None:
    """Callers that gave up waiting make room for others."""
    semaphore = FairSemaphore(1, max_waiting=1)
    semaphore.take_now("")
    for _ in range(2):
        with pytest.raises(Busy):
            await semaphore.take("", in_seconds(0))
    gone = asyncio.create_task(semaphore.take("", in_seconds(30)))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    waiting = asyncio.create_task(semaphore.take("", in_seconds(30)))
    await asyncio.sleep(0)
    semaphore.give_back("")
    await waiting


async def test_cancelled_while_the_slot_comes() -> None:
    """A slot that was handed to a caller in the moment it was cancelled goes to the next one."""
    semaphore = FairSemaphore(1)
    semaphore.take_now("")
    first, second = (asyncio.create_task(semaphore.take("", in_seconds(30))) for _ in range(2))
    await asyncio.sleep(0)
    semaphore.give_back("")
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await second
    semaphore.give_back("")
    assert semaphore.used == 0


async def test_cancelled_while_waiting() -> None:
    """A caller that went away is passed over."""
    semaphore = FairSemaphore(1)
    semaphore.take_now("")
    gone = asyncio.create_task(semaphore.take("", in_seconds(30)))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    semaphore.give_back("")
    assert semaphore.used == 0


async def test_cancelled_after_the_deadline() -> None:
    """A caller that was cancelled is that, late or not, and leaves nothing."""
    semaphore = FairSemaphore(1)
    semaphore.take_now("")
    late = asyncio.create_task(semaphore.take("", in_seconds(0)))
    await asyncio.sleep(0)
    semaphore._sweep(asyncio.get_running_loop())
    late.cancel()
    with pytest.raises(asyncio.CancelledError):
        await late
    assert semaphore.waiting == 0
    semaphore.give_back("")
    assert semaphore.used == 0


async def test_askers_take_turns() -> None:
    """Who asks for one slot does not wait for all that another asks for."""
    semaphore = FairSemaphore(1)
    semaphore.take_now("")
    order: list[str] = []

    async def work(asker: str) -> None:
        await semaphore.take(asker, in_seconds(30))
        order.append(asker)
        semaphore.give_back(asker)

    async with asyncio.TaskGroup() as group:
        for asker in "aaaaabcc":
            group.create_task(work(asker))
        await asyncio.sleep(0)
        semaphore.give_back("")
    assert order == ["a", "b", "c", "a", "c", "a", "a", "a"]
    assert (semaphore.used, semaphore.waiting) == (0, 0)


async def test_nobody_overtakes_who_wants_several() -> None:
    """Small takers do not starve a large one; when it gives up they go on."""
    semaphore = FairSemaphore(4)
    assert semaphore.take_now("", 2)
    large = asyncio.create_task(semaphore.take("", in_seconds(30), 4))
    await asyncio.sleep(0)
    assert not semaphore.take_now("")
    small = asyncio.create_task(semaphore.take("", in_seconds(30)))
    await asyncio.sleep(0)
    assert not small.done()
    large.cancel()
    await asyncio.wait([large])
    await small
    assert (semaphore.used, semaphore.waiting) == (3, 0)
