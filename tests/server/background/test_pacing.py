"""Bulk work, step by step behind one another."""

from __future__ import annotations

import asyncio
import gc

import pytest

from windshift.server.background import pacing as pacing_module
from windshift.server.background.batches import together
from windshift.server.background.pacing import SLICE, Pacing, hinders, paced, pause, treat_as_bulk


class _Clock:
    """A clock that stands still unless work is done."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    """Have steps take what the test says."""
    clock = _Clock()
    monkeypatch.setattr(pacing_module, "perf_counter", clock)
    return clock


class _Turns:
    """Counts turns of the event loop."""

    def __init__(self) -> None:
        self.count = 0
        self._loop = asyncio.get_running_loop()
        self._handle = self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self.count += 1
        self._handle = self._loop.call_soon(self._turn)

    def stop(self) -> None:
        """Count no more."""
        self._handle.cancel()


async def test_one_slice_in_each_turn(clock: _Clock) -> None:
    """However many calls work in bulk, a turn of the event loop has a step or two of theirs."""
    pacing, turns, steps = Pacing(), _Turns(), list[int]()

    async def work() -> None:
        for _ in range(10):
            clock.now += SLICE
            steps.append(turns.count)
            await asyncio.sleep(0)

    await asyncio.gather(*(pacing.run(work()) for _ in range(20)))
    turns.stop()
    assert len(steps) == 200
    assert max(steps.count(turn) for turn in set(steps)) <= 2


async def test_parts_of_the_work(clock: _Clock) -> None:
    """What bulk work does in tasks of its own waits as well."""
    pacing, turns, steps = Pacing(), _Turns(), list[int]()

    async def part() -> int:
        await asyncio.sleep(0)
        clock.now += SLICE
        steps.append(turns.count)
        return 1

    async def work() -> int:
        done, _ = await together(part() for _ in range(50))
        return sum(done)

    assert await pacing.run(work()) == 50
    turns.stop()
    assert max(steps.count(turn) for turn in set(steps)) <= 2


async def test_short_steps_share_a_slice(clock: _Clock) -> None:
    """Steps that take little run in the same turn."""
    pacing, turns = Pacing(), _Turns()
    pacing.is_shared = lambda: False

    async def work() -> None:
        for _ in range(20):
            clock.now += SLICE / 100
            await asyncio.sleep(0)

    await asyncio.gather(*(pacing.run(work()) for _ in range(10)))
    turns.stop()
    assert turns.count < 100


async def test_pause(clock: _Clock) -> None:
    """A long step of many short pieces is broken off when the slice is used up."""
    pacing, turns, pieces = Pacing(), _Turns(), list[int]()

    async def work() -> None:
        for _ in range(100):
            clock.now += SLICE / 10
            pieces.append(turns.count)
            await pause()

    await pacing.run(work())
    turns.stop()
    assert max(pieces.count(turn) for turn in set(pieces)) <= 11


@pytest.mark.parametrize("is_shared", [True, False])
async def test_steps_that_are_short_for_others(clock: _Clock, is_shared: bool) -> None:
    """A long step is broken off only while somebody is about who uses little."""
    pacing, turns, pieces = Pacing(), _Turns(), list[int]()
    pacing.is_shared = lambda: is_shared

    async def work() -> None:
        for _ in range(100):
            clock.now += SLICE / 10
            pieces.append(turns.count)
            if hinders():
                await pause()

    await pacing.run(work())
    turns.stop()
    most = max(pieces.count(turn) for turn in set(pieces))
    assert most <= 11 if is_shared else most == 100


@pytest.mark.parametrize("is_shared", [True, False])
async def test_slices_are_shorter_beside_small_calls(clock: _Clock, is_shared: bool) -> None:
    """They are half as long while somebody is about who uses little; otherwise work goes on in each turn."""
    pacing, turns, pieces = Pacing(), _Turns(), list[int]()
    pacing.is_shared = lambda: is_shared

    async def work() -> None:
        for _ in range(200):
            clock.now += SLICE / 20
            pieces.append(turns.count)
            await asyncio.sleep(0)

    await asyncio.gather(*(pacing.run(work()) for _ in range(20)))
    turns.stop()
    begun = len(pieces) // 4  # by then it is known how long a step takes
    some = [pieces.count(turn) for turn in sorted(set(pieces[begun:-begun]))]
    assert max(some) <= (12 if is_shared else 22)
    assert is_shared or sum(some) / (pieces[-begun] - pieces[begun]) > 2


async def test_bulk_work_rests_beside_small_calls(clock: _Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does so after a slice of it, but not while a busy caller waits."""
    monkeypatch.setattr(pacing_module, "REST", 3600.0)
    pacing, steps = Pacing(), list[str]()

    async def work(name: str) -> None:
        for _ in range(10):
            clock.now += SLICE
            steps.append(name)
            await asyncio.sleep(0)

    bulk = asyncio.create_task(pacing.run(work("bulk")))
    for _ in range(100):
        await asyncio.sleep(0)
    assert steps == ["bulk"]
    await pacing.run(work("busy"), _Account(busy=True), bulk=False)
    assert steps.count("busy") == 10
    assert steps.count("bulk") > 1
    bulk.cancel()


async def test_what_comes_to_nothing_is_bulk_work(clock: _Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """So are its parts, as long as it says so."""
    monkeypatch.setattr(pacing_module, "REST", 3600.0)
    pacing, steps = Pacing(), list[str]()

    async def part(name: str) -> None:
        for _ in range(10):
            clock.now += SLICE
            steps.append(name)
            await asyncio.sleep(0)

    async def work() -> None:
        its_part = asyncio.create_task(paced(part("part")))
        treat_as_bulk(False)
        await part("work")
        treat_as_bulk(True)
        await part("bulk")
        await its_part

    task = asyncio.create_task(pacing.run(work(), _Account(busy=True), bulk=False))
    for _ in range(200):
        await asyncio.sleep(0)
    assert steps.count("work") == steps.count("part") == 10
    assert steps.count("bulk") <= 2
    task.cancel()


@pytest.mark.parametrize("bulk", [True, False])
async def test_accounts_take_turns(clock: _Clock, bulk: bool) -> None:
    """However much work one of them has to do, another one's goes on."""
    pacing, steps = Pacing(), list[str]()
    much, little = _Account(busy=True), _Account(busy=True)

    async def work(name: str) -> None:
        for _ in range(10):
            clock.now += SLICE
            steps.append(name)
            await asyncio.sleep(0)

    floods = [asyncio.ensure_future(pacing.run(work("much"), much)) for _ in range(100)]
    await asyncio.sleep(0)
    await pacing.run(work("little"), little, bulk=bulk)
    assert len(steps) <= 40
    await asyncio.gather(*floods)


async def test_work_that_is_not_paced_hinders_nobody() -> None:
    """It has no share of the loop that others wait for."""
    assert not hinders()


async def test_bulk_work_is_noticed(clock: _Clock) -> None:
    """As long as it is done, and no longer; what busy callers do is none."""
    pacing = Pacing()
    assert not pacing.is_bulky()
    await pacing.run(asyncio.sleep(0), _Account(busy=True), bulk=False)
    assert not pacing.is_bulky()
    await pacing.run(asyncio.sleep(0))
    assert pacing.is_bulky()
    clock.now += 1.0
    assert not pacing.is_bulky()


async def test_outside_of_a_pacing() -> None:
    """Work that is not paced lets others run at each pause."""
    turns = _Turns()
    for _ in range(3):
        await pause()
    turns.stop()
    assert turns.count >= 2


async def test_what_comes_of_it() -> None:
    """The work's result and its exceptions are those of the whole."""
    pacing = Pacing()

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    assert await pacing.run(asyncio.sleep(0, "done")) == "done"
    with pytest.raises(ZeroDivisionError):
        await pacing.run(fail())


async def test_cancelled(clock: _Clock) -> None:
    """Work is cancelled where it waits, for others or in the line, and may clean up."""
    pacing, ended, forever = Pacing(), list[str](), asyncio.Event()
    pacing.is_shared = lambda: False

    async def work(name: str, *, busy: bool) -> None:
        try:
            while True:
                if busy:
                    clock.now += SLICE
                    await asyncio.sleep(0)
                else:
                    await forever.wait()
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    tasks = [asyncio.create_task(pacing.run(work(f"{n}", busy=n < 5))) for n in range(10)]
    for _ in range(20):
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    assert all(
        isinstance(each, asyncio.CancelledError)
        for each in await asyncio.gather(*tasks, return_exceptions=True)
    )
    assert sorted(ended) == [f"{n}" for n in range(10)]
    assert await pacing.run(asyncio.sleep(0, "still works")) == "still works"


@pytest.mark.filterwarnings("error")
async def test_cancelled_before_it_began() -> None:
    """Work whose task is cancelled first never begins, and nobody complains that it was not awaited."""
    task = asyncio.create_task(Pacing().run(asyncio.sleep(0)))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    gc.collect()


async def test_a_timeout_inside(clock: _Clock) -> None:
    """A timeout within the work ends only what it is of."""
    pacing = Pacing()

    async def work() -> str:
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            clock.now += SLICE
            return "late"
        return "never"

    assert await asyncio.gather(*(pacing.run(work()) for _ in range(5))) == ["late"] * 5


class _Account:
    """Somebody who is busy or not, and what was spent on him."""

    def __init__(self, *, busy: bool) -> None:
        self.busy = busy
        self.seconds = 0.0

    def charge(self, seconds: float, now: float) -> None:
        """Add it up."""
        self.seconds += seconds

    def is_busy(self, now: float) -> bool:
        """Tell."""
        return self.busy


@pytest.mark.parametrize(("busy", "shared"), [(False, True), (True, False), (True, True)])
async def test_work_for_an_account(clock: _Clock, busy: bool, shared: bool) -> None:
    """It waits while the account is busy and others are about, and is charged in any case."""
    pacing, turns, steps, account = Pacing(), _Turns(), list[int](), _Account(busy=busy)
    pacing.is_shared = lambda: shared

    async def part() -> None:
        clock.now += SLICE
        steps.append(turns.count)

    async def work() -> None:
        await together(part() for _ in range(20))

    await pacing.run(work(), account, bulk=False)
    turns.stop()
    assert account.seconds == pytest.approx(20 * SLICE)
    assert (max(steps.count(turn) for turn in set(steps)) <= 2) is (busy and shared)


async def test_bulk_work_does_not_hold_up_who_is_not_busy(clock: _Clock) -> None:
    """Such work goes on in each turn, however much of the other waits."""
    pacing, turns, steps = Pacing(), _Turns(), list[int]()

    async def bulk() -> None:
        for _ in range(20):
            clock.now += SLICE
            await asyncio.sleep(0)

    async def light() -> None:
        for _ in range(5):
            steps.append(turns.count)
            await asyncio.sleep(0)

    bulks = [asyncio.ensure_future(pacing.run(bulk())) for _ in range(10)]
    await asyncio.sleep(0)
    await pacing.run(light(), _Account(busy=False), bulk=False)
    assert steps == list(range(steps[0], steps[0] + 5))
    await asyncio.gather(*bulks)
    turns.stop()
