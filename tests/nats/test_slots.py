"""The bound on writes that are under way."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.broker import in_seconds
from windshift.nats import TooManyInFlight, asking
from windshift.nats.jetstream.slots import Slots


async def test_first_come_first_served() -> None:
    """A slot that is given back goes to who waited longest."""
    slots = Slots(1, 10)
    assert slots.take_now()
    assert not slots.take_now()
    order: list[int] = []

    async def work(number: int) -> None:
        await slots.take(in_seconds(5))
        order.append(number)
        slots.give_back()

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(work(number))
        await asyncio.sleep(0)
        slots.give_back()
    assert order == [0, 1, 2, 3, 4]
    assert slots.free == 1


async def test_no_slot_by_the_deadline() -> None:
    """Who gets no slot by the deadline is told so, and takes none later."""
    slots = Slots(1, 10)
    slots.take_now()
    with pytest.raises(TooManyInFlight):
        await slots.take(in_seconds(0.01))
    slots.give_back()
    assert slots.free == 1


async def test_too_many_wait() -> None:
    """Beyond the bound nobody even waits."""
    slots = Slots(0, 2)
    waiting = [asyncio.create_task(slots.take(in_seconds(5))) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(TooManyInFlight):
        await slots.take(in_seconds(5))
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)


async def test_who_gave_up_does_not_count() -> None:
    """Callers that gave up waiting make room for others."""
    slots = Slots(0, 1)
    for _ in range(2):
        with pytest.raises(TooManyInFlight):
            await slots.take(in_seconds(0))
    gone = asyncio.create_task(slots.take(in_seconds(5)))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    waiting = asyncio.create_task(slots.take(in_seconds(5)))
    await asyncio.sleep(0)
    slots.give_back()
    await waiting


async def test_cancelled_while_the_slot_comes() -> None:
    """A slot that was handed to a caller in the moment it was cancelled goes to the next one."""
    slots = Slots(1, 10)
    slots.take_now()
    first, second = (asyncio.create_task(slots.take(in_seconds(5))) for _ in range(2))
    await asyncio.sleep(0)
    slots.give_back()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await second
    slots.give_back()
    assert slots.free == 1


async def test_cancelled_while_waiting() -> None:
    """A caller that went away is passed over."""
    slots = Slots(1, 10)
    slots.take_now()
    gone = asyncio.create_task(slots.take(in_seconds(5)))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    slots.give_back()
    assert slots.free == 1


async def test_cancelled_after_the_deadline() -> None:
    """A caller that was cancelled is that, late or not, and leaves nothing."""
    slots = Slots(0, 10)
    late = asyncio.create_task(slots.take(in_seconds(0)))
    late.get_loop().call_soon(late.cancel)
    with pytest.raises(asyncio.CancelledError):
        await late
    assert slots.waiting == 0
    slots.give_back()
    assert slots.free == 1


async def test_askers_take_turns() -> None:
    """Who asks for one slot does not wait for all that another asks for."""
    slots = Slots(1, 1000)
    slots.take_now()
    order: list[str] = []

    async def work(asker: str) -> None:
        asking.set(asker)
        await slots.take(in_seconds(5))
        order.append(asker)
        slots.give_back()

    async with asyncio.TaskGroup() as group:
        for asker in "aaaaabcc":
            group.create_task(work(asker))
        await asyncio.sleep(0)
        slots.give_back()
    assert order == ["a", "b", "c", "a", "c", "a", "a", "a"]
    assert (slots.free, slots.waiting) == (1, 0)


async def test_nobody_overtakes_who_wants_several() -> None:
    """Small takers do not starve a large one; when it gives up they go on."""
    slots = Slots(4, 10)
    assert slots.take_now(2)
    large = asyncio.create_task(slots.take(in_seconds(5), 4))
    await asyncio.sleep(0)
    assert not slots.take_now()
    small = asyncio.create_task(slots.take(in_seconds(5)))
    await asyncio.sleep(0)
    assert not small.done()
    large.cancel()
    await asyncio.wait([large])
    await small
    assert (slots.free, slots.waiting) == (1, 0)
