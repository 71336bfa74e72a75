"""What is asked of a server at once: bounded, and shared fairly."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar, copy_context
from typing import Any

import pytest

from tests.support.broker import in_seconds
from windshift.nats import Busy, Unanswered, Unavailable
from windshift.nats import budget as budget_module
from windshift.nats.budget import Budget, Share

asking: ContextVar[str] = ContextVar("asking", default="")


def take(budget: Budget, asker: str, size: int, seconds: float = 20) -> asyncio.Task[Share]:
    """Let somebody take some bytes as soon as he can."""
    context = copy_context()
    context.run(asking.set, asker)
    return asyncio.get_running_loop().create_task(budget.take(size, in_seconds(seconds)), context=context)


async def turns(count: int = 3) -> None:
    """Let everything happen that can happen now."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_is_there_is_taken_at_once() -> None:
    """Without waiting, as long as it is not used up; and given back."""
    budget = Budget(100, asker=asking.get)
    first, second = budget.take_now(30), budget.take_now(20)
    assert first is not None
    assert second is not None
    assert (budget.used, budget.waiting) == (50, 0)
    first.give_back()
    assert budget.used == 20


async def test_one_asker_has_half_at_most() -> None:
    """So that others find something at once."""
    budget = Budget(100, asker=asking.get)
    tasks = [take(budget, "a", 20) for _ in range(4)]
    await turns()
    assert [task.done() for task in tasks] == [True, True, False, False]
    other = take(budget, "b", 50)
    await turns()
    assert other.done()
    tasks[0].result().give_back()
    await turns()
    assert [task.done() for task in tasks] == [True, True, True, False]
    await _cancel(*tasks)


async def test_large_answers_come_one_at_a_time() -> None:
    """Until the asker gets a small one. The server's own requests are for many, and go on."""
    budget = Budget(100, asker=asking.get)
    for asker, limit in (("a", 1), ("b", 2), ("", 2)):
        first = await take(budget, asker, 20)
        first.arrived(100_000 if asker == "b" else 1_000_000)
        first.give_back()
        tasks = [take(budget, asker, 20) for _ in range(3)]
        await turns()
        assert sum(task.done() for task in tasks) == limit
        tasks[0].result().arrived(1)
        tasks[0].result().give_back()
        await turns()
        assert sum(task.done() for task in tasks[1:]) == 2
        for task in tasks[1:]:
            task.result().give_back()
    assert (budget.used, budget.waiting) == (0, 0)


@pytest.mark.parametrize("is_shared", [True, False])
async def test_who_gets_large_answers_rests_while_others_are_about(
    monkeypatch: pytest.MonkeyPatch, is_shared: bool
) -> None:
    """The next one waits; others do not, and it does not where it would wait for nobody."""
    monkeypatch.setattr(budget_module, "RATE", 1)
    budget = Budget(100, asker=asking.get)
    budget.is_shared = lambda: is_shared
    first = await take(budget, "a", 20)
    first.arrived(1_000_000)
    first.give_back()
    task, other = take(budget, "a", 20), take(budget, "b", 20)
    await turns()
    assert other.done()
    assert task.done() is not is_shared
    await _cancel(task)


async def test_who_rests_holds_nothing_that_others_could_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many do: what they had for answers that have come is not on its way any more."""
    monkeypatch.setattr(budget_module, "RATE", 1)
    budget = Budget(100)
    budget.is_shared = lambda: True
    for asker in "ab":
        share = await take(budget, asker, 50)
        share.arrived(1_000_000)
        share.give_back()
    assert budget.used <= 2
    other = take(budget, "c", 50)
    await turns()
    assert other.done()


async def test_those_who_wait_take_turns() -> None:
    """One of each, however many wait before it; each asker's in the order in which they were asked for."""
    budget = Budget(100, asker=asking.get)
    held = [await take(budget, who, 50) for who in ("x", "y")]
    order: list[str] = []
    tasks = []
    for who in ("a", "a", "a", "b", "c"):
        task = take(budget, who, 50)
        task.add_done_callback(lambda _, who=who: order.append(who))  # type: ignore[misc]
        tasks.append(task)
    await turns()
    assert (order, budget.waiting) == ([], 5)
    while held:
        held.pop(0).give_back()
        await turns()
        held += [task.result() for task in tasks if task.done()]
        tasks = [task for task in tasks if not task.done()]
    assert order == ["a", "b", "c", "a", "a"]
    assert (budget.used, budget.waiting) == (0, 0)


async def test_more_than_everything_is_for_one_alone() -> None:
    """It comes when nothing else is on its way, and nobody overtakes it meanwhile."""
    budget = Budget(100, asker=asking.get)
    small = await take(budget, "a", 10)
    large = take(budget, "b", 1000)
    late = take(budget, "c", 10)
    await turns()
    assert (large.done(), late.done()) == (False, False)
    small.give_back()
    await turns()
    assert (large.done(), late.done()) == (True, False)
    large.result().give_back()
    await turns()
    assert late.done()


async def test_too_much_is_asked_where_others_are_answered() -> None:
    """Who waited in vain is told so; and that nobody was answered, where that is why."""
    budget = Budget(100, asker=asking.get)
    held = [await take(budget, "a", 50), await take(budget, "b", 50)]
    waiting, other = take(budget, "a", 50, seconds=0.5), take(budget, "b", 50, seconds=0.5)
    await turns()
    held[1].give_back()
    with pytest.raises(Busy):
        await waiting
    budget.leave(held[0])
    budget.leave(await other)
    with pytest.raises(Unanswered):
        await take(budget, "c", 60, seconds=0.01)


async def test_nobody_waits_for_ever() -> None:
    """There is an end to the wait, and to how many of one asker wait; who leaves holds up nobody."""
    budget = Budget(100, max_waiting=2, asker=asking.get)
    held = [await take(budget, "a", 50), await take(budget, "b", 50)]
    with pytest.raises(Unanswered):
        await take(budget, "a", 50, seconds=0.01)
    waiting = [take(budget, "a", 50), take(budget, "a", 50)]
    await turns()
    with pytest.raises(Busy):
        await take(budget, "a", 50)
    other = take(budget, "b", 50)
    await turns()
    await _cancel(*waiting)
    assert budget.waiting == 1
    held[1].give_back()
    await turns()
    assert other.done()


async def test_what_came_in_the_moment_of_a_cancellation_is_given_back() -> None:
    """Nothing is lost of a budget, whatever happens to those who wait."""
    budget = Budget(100, asker=asking.get)
    held = [await take(budget, "x", 50), await take(budget, "y", 50)]
    task = take(budget, "a", 50)
    await turns()
    held.pop().give_back()
    task.cancel()
    await turns()
    assert task.cancelled()
    assert (budget.used, budget.waiting) == (50, 0)


async def test_what_nobody_waits_for_any_more() -> None:
    """It counts until it comes, as nobody's; and leaves half to others, for it may never come."""
    budget = Budget(100, asker=asking.get)
    lates = [await take(budget, "a", 20) for _ in range(2)]
    for late in lates:
        late.leave()
    assert budget.used == 40
    own = [await take(budget, "a", 20) for _ in range(2)]
    for each in own:
        each.leave()
    assert budget.used == 40  # the oldest count no more
    other = await take(budget, "b", 50)
    own[1].give_back()
    assert budget.used == 70
    for late in (*lates, *own):
        late.give_back()
    other.give_back()
    assert budget.used == 0


async def test_what_takes_long_is_left_once() -> None:
    """Whoever asks for it may have something else meanwhile; that it is given up later changes nothing."""
    budget = Budget(100, asker=asking.get)
    value, change = await take(budget, "a", 10), await take(budget, "a", 30)
    value.arrived(1_000_000)
    value.give_back()
    read = take(budget, "a", 10)
    await turns()
    assert not read.done()
    change.leave()
    await turns()
    assert read.done()
    change.leave()
    assert budget.used == 40
    change.give_back()
    change.leave()
    assert budget.used == 10
    read.result().leave()
    (await take(budget, "b", 40)).leave()
    assert budget.used == 50


async def _cancel(*tasks: asyncio.Task[Share]) -> None:
    for task in tasks:
        task.cancel()
    await turns()


async def test_waiting_without_a_task() -> None:
    """Who waits is handed a share in his turn, or why there is none; who waits no longer gets none."""
    budget, told = Budget(100, max_waiting=3, asker=asking.get), list[Any]()
    first = budget.take_now(50, "a")
    assert first is not None
    assert budget.take_now(10, "a") is None
    budget.wait(10, in_seconds(30), "a", told.append)
    abandon = budget.wait(20, in_seconds(30), "a", told.append)
    budget.wait(30, in_seconds(30), "a", told.append)
    with pytest.raises(Busy):
        budget.wait(10, in_seconds(30), "a", told.append)
    abandon()
    assert (budget.waiting, told) == (2, [])
    first.give_back()
    await turns()
    assert [share.size for share in told] == [10, 30]
    assert (budget.used, budget.waiting) == (40, 0)
    abandon()
    assert (budget.used, budget.waiting) == (40, 0)


async def test_all_that_wait_without_a_task_are_abandoned() -> None:
    """One by one, as when their connection ends: what one gives back is not handed to the next one."""
    budget, told = Budget(100, asker=asking.get), list[Any]()
    first = budget.take_now(50, "a")
    assert first is not None
    waiting = [budget.wait(50, in_seconds(30), "a", told.append) for _ in range(3)]
    first.give_back()
    for abandon in waiting:
        abandon()
    await turns()
    assert (budget.used, budget.waiting, told) == (0, 0, [])


@pytest.mark.parametrize(("answers", "why"), [(False, Unanswered), (True, Busy)])
async def test_waiting_without_a_task_until_the_deadline(answers: bool, why: type[Unavailable]) -> None:
    """Whether others were answered meanwhile says why there is nothing."""
    budget, told = Budget(100, asker=asking.get), list[Any]()
    held, other = budget.take_now(50, "a"), budget.take_now(10, "b")
    assert held is not None
    assert other is not None
    budget.wait(10, in_seconds(0.01), "a", told.append)
    if answers:
        other.give_back()
    async with asyncio.timeout(20):
        while not told:  # noqa: ASYNC110 - only the clock knows
            await asyncio.sleep(0.002)
    assert [type(each) for each in told] == [why]
