"""The bound on writes that are under way."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.broker import in_seconds
from windshift.server.errors import TooManyInFlight
from windshift.server.nats.turns import Turns


async def test_first_come_first_served() -> None:
    """A turn that is given back goes to who waited longest."""
    turns = Turns(1, 10)
    assert turns.take_now()
    assert not turns.take_now()
    order: list[int] = []

    async def work(number: int) -> None:
        await turns.take(in_seconds(5))
        order.append(number)
        turns.give_back()

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(work(number))
        await asyncio.sleep(0)
        turns.give_back()
    assert order == [0, 1, 2, 3, 4]
    assert turns.free == 1


async def test_no_turn_by_the_deadline() -> None:
    """Who gets no turn by the deadline is told so, and takes none later."""
    turns = Turns(1, 10)
    turns.take_now()
    with pytest.raises(TooManyInFlight):
        await turns.take(in_seconds(0.01))
    turns.give_back()
    assert turns.free == 1


async def test_too_many_wait() -> None:
    """Beyond the bound nobody even waits."""
    turns = Turns(0, 2)
    waiting = [asyncio.create_task(turns.take(in_seconds(5))) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(TooManyInFlight):
        await turns.take(in_seconds(5))
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)


async def test_who_gave_up_does_not_count() -> None:
    """Callers that gave up waiting make room for others."""
    turns = Turns(0, 1)
    for _ in range(2):
        with pytest.raises(TooManyInFlight):
            await turns.take(in_seconds(0))
    gone = asyncio.create_task(turns.take(in_seconds(5)))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    waiting = asyncio.create_task(turns.take(in_seconds(5)))
    await asyncio.sleep(0)
    turns.give_back()
    await waiting


async def test_cancelled_while_the_turn_comes() -> None:
    """A turn that was handed to a caller in the moment it was cancelled goes to the next one."""
    turns = Turns(1, 10)
    turns.take_now()
    first, second = (asyncio.create_task(turns.take(in_seconds(5))) for _ in range(2))
    await asyncio.sleep(0)
    turns.give_back()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await second
    turns.give_back()
    assert turns.free == 1


async def test_cancelled_while_waiting() -> None:
    """A caller that went away is passed over."""
    turns = Turns(1, 10)
    turns.take_now()
    gone = asyncio.create_task(turns.take(in_seconds(5)))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    turns.give_back()
    assert turns.free == 1


async def test_cancelled_by_the_deadline() -> None:
    """A wait that is cancelled because its deadline passed says why it waited."""
    turns = Turns(0, 10)
    late = asyncio.create_task(turns.take(in_seconds(0)))
    late.get_loop().call_soon(late.cancel)
    with pytest.raises(TooManyInFlight):
        await late
