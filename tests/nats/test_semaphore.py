"""What is handed out fairly to those who wait."""

from __future__ import annotations

import asyncio

import pytest

from tests.nats.waiting import eventually
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


class Turn(asyncio.Future[None]):
    """Stands in line without a task, and gives back at once what it gets."""

    def __init__(self, semaphore: FairSemaphore, name: str, order: list[str]) -> None:
        super().__init__()
        self._semaphore = semaphore
        self._name = name
        self._order = order

    def set_result(self, result: None, /) -> None:
        super().set_result(result)
        self._order.append(self._name)
        self._semaphore.give_back(self._name)

    def set_exception(self, error: type | BaseException, /) -> None:
        super().set_exception(error)
        self._order.append(f"{self._name} {type(self.exception()).__name__}")


async def test_without_a_task() -> None:
    """What gives back in its turn lets the next ones have theirs, each once; who is done has none."""
    semaphore, order = FairSemaphore(1, lambda _: 1), list[str]()
    assert semaphore.take_now("z")
    turns = [Turn(semaphore, asker, order) for asker in "aabca"]
    for turn, asker in zip(turns, "aabca", strict=True):
        semaphore.wait(turn, asker, in_seconds(30))
    turns[1].cancel()
    semaphore.withdraw("a", turns[1])
    assert (semaphore.waiting, order) == (4, [])
    semaphore.give_back("z")
    assert sorted(order) == ["a", "a", "b", "c"]
    assert order[0] == "a"
    assert (semaphore.used, semaphore.waiting) == (0, 0)


async def test_without_a_task_by_the_deadline() -> None:
    """It is told at its deadline, and gets nothing after it."""
    semaphore, order = FairSemaphore(1), list[str]()
    assert semaphore.take_now("z")
    turn = Turn(semaphore, "a", order)
    semaphore.wait(turn, "a", in_seconds(0.01))
    async with asyncio.timeout(20):
        while not turn.done():  # noqa: ASYNC110 - only the clock knows
            await asyncio.sleep(0.002)
    assert order == ["a Busy"]
    semaphore.give_back("z")
    assert (semaphore.used, semaphore.waiting) == (0, 0)


async def test_who_waits_for_his_own_units_holds_up_nobody() -> None:
    """Whoever else asks gets some at once, as long as there are some."""
    semaphore, order = FairSemaphore(10, lambda _: 4), list[str]()
    assert semaphore.take_now("a", 4)
    assert semaphore.take_now("b", 4)
    assert not semaphore.take_now("a", 3)
    semaphore.wait(Turn(semaphore, "a", order), "a", in_seconds(30), 3)
    assert semaphore.take_now("c", 2)
    assert not semaphore.take_now("a")


async def test_whoever_has_his_own_units_back_stands_in_line_again() -> None:
    """At its end, and he is served in his turn."""
    semaphore, order = FairSemaphore(4, lambda _: 2), list[str]()
    assert semaphore.take_now("a", 2)
    assert semaphore.take_now("z", 2)
    for asker in "aab":
        semaphore.wait(Turn(semaphore, asker, order), asker, in_seconds(30))
    semaphore.pass_on("a", "y", 1)
    assert order == []
    semaphore.give_back("z")
    assert order == ["b", "a", "a"]
    assert (semaphore.used, semaphore.waiting) == (3, 0)


async def test_whoever_rests_holds_up_nobody_else() -> None:
    """What is given back late is there for others at once, and for its asker once the time is over."""
    semaphore, order = FairSemaphore(4, lambda _: 4), list[str]()
    assert semaphore.take_now("a", 4)
    for asker in "ab":
        semaphore.wait(Turn(semaphore, asker, order), asker, in_seconds(30), 2)
    semaphore.give_back_late("a", 4, 0.05)
    assert (order, semaphore.used, semaphore.waiting) == (["b"], 1, 1)
    assert not semaphore.take_now("a")
    await eventually(lambda: order == ["b", "a"])
    assert (semaphore.used, semaphore.waiting) == (2, 0)


async def test_a_limit_that_was_raised() -> None:
    """It is found out, even if the asker gives nothing back."""
    limits = {"a": 1}
    semaphore = FairSemaphore(10, lambda asker: limits[asker])
    assert semaphore.take_now("a")
    waiting = asyncio.create_task(semaphore.take("a", in_seconds(60)))
    await asyncio.sleep(0)
    limits["a"] = 2
    await waiting
    assert semaphore.used == 2


async def test_those_who_gave_up_behind_another_make_room() -> None:
    """Cancelled or late, they do not count as waiting, whatever stands before them."""
    semaphore = FairSemaphore(1, max_waiting_each=2)
    semaphore.take_now("")
    first = asyncio.create_task(semaphore.take("a", in_seconds(60)))
    await asyncio.sleep(0)
    gone = asyncio.create_task(semaphore.take("a", in_seconds(60)))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    with pytest.raises(Busy):
        await semaphore.take("a", in_seconds(0))
    last = asyncio.create_task(semaphore.take("a", in_seconds(60)))
    await asyncio.sleep(0)
    for task in (first, last):
        assert not task.done()
        semaphore.give_back("" if task is first else "a")
        await task
    assert (semaphore.used, semaphore.waiting) == (1, 0)


async def test_many_who_wait_for_their_own_units_cost_nothing() -> None:
    """They are looked at when they give back or withdraw, not whenever others do."""
    looks = 0

    def most(_: str) -> int:
        nonlocal looks
        looks += 1
        return 1

    semaphore, order = FairSemaphore(10_000, most), list[str]()
    for number in range(1_000):
        assert semaphore.take_now(f"{number}")
        semaphore.wait(Turn(semaphore, f"{number}", order), f"{number}", in_seconds(60))
    assert semaphore.take_now("a")
    mine = [Turn(semaphore, "a", order) for _ in range(100)]
    for turn in mine:
        semaphore.wait(turn, "a", in_seconds(60))
    looks = 0
    for turn in mine:
        turn.cancel()
        semaphore.withdraw("a", turn)
    semaphore.give_back("a")
    semaphore.give_back("7")
    assert looks < 200
    assert (order, semaphore.used, semaphore.waiting) == (["7"], 999, 999)


async def test_a_late_turn_that_ends_others() -> None:
    """Whoever is told that his time is over may end others whose time is over too: they are told nothing."""
    semaphore, order = FairSemaphore(1), list[str]()
    assert semaphore.take_now("z")
    other = Turn(semaphore, "b", order)

    class Ending(Turn):
        def set_exception(self, error: type | BaseException, /) -> None:
            super().set_exception(error)
            other.cancel()
            semaphore.withdraw("b", other)

    semaphore.wait(Ending(semaphore, "a", order), "a", in_seconds(0))
    semaphore.wait(other, "b", in_seconds(0))
    semaphore._sweep(asyncio.get_running_loop())
    assert (order, semaphore.waiting) == (["a Busy"], 0)
