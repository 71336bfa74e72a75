"""The one rule for trying again: never without a pause, and never past the deadline."""

from __future__ import annotations

import asyncio
import importlib
import threading
from datetime import timedelta

import pytest

from tests.support.broker import in_seconds
from windshift.nats import Backoff, retry

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])

MODULE = importlib.import_module("windshift.nats.retry")  # by that name the package has the class
SHORT = Backoff(timedelta(milliseconds=1), timedelta(milliseconds=4))


class Turns:
    """Numbers the turns of the event loop: who goes on without letting others run gets the same number."""

    def __init__(self) -> None:
        self._number = 0
        self._ends = False

    def now(self) -> int:
        """Return the number of this turn."""
        if not self._ends:
            self._ends = True
            asyncio.get_running_loop().call_soon(self._end)
        return self._number

    def _end(self) -> None:
        self._number += 1
        self._ends = False


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Write down pauses instead of making them, but for those of a server in another thread."""
    made: list[float] = []
    mine = threading.get_ident()

    async def pause(seconds: float) -> None:
        if threading.get_ident() != mine:
            await asyncio.sleep(seconds)
        else:
            made.append(seconds)

    monkeypatch.setattr(MODULE, "sleep", pause)
    return made


async def test_the_first_attempt_comes_at_once(pauses: list[float]) -> None:
    """Without a pause, and even after the deadline."""
    async for attempt in retry(in_seconds(-1)):
        assert (attempt, pauses) == (1, [])
        break
    assert [attempt async for attempt in retry(in_seconds(-1))] == [1]
    assert pauses == []


async def test_a_pause_before_every_other_attempt(pauses: list[float]) -> None:
    """One pause per attempt but the first, however many there are."""
    async for attempt in retry(None):
        assert len(pauses) == attempt - 1
        if attempt == 1000:
            break


async def test_a_first_attempt_that_was_made_elsewhere(pauses: list[float]) -> None:
    """Counting from two there is a pause before the first attempt, and none without time for it."""
    async for attempt in retry(None, first=2):
        assert (attempt, len(pauses)) == (2, 1)
        break
    assert [attempt async for attempt in retry(in_seconds(0), first=2)] == []


async def test_pauses_grow_up_to_the_longest(pauses: list[float]) -> None:
    """Each is half to the whole of a value that doubles."""
    backoff = Backoff(timedelta(seconds=1), timedelta(seconds=8))
    async for attempt in retry(None, backoff):
        if attempt == 8:
            break
    for pause, whole in zip(pauses, (1, 2, 4, 8, 8, 8, 8), strict=True):
        assert whole / 2 <= pause <= whole


async def test_pauses_are_at_most_half_of_what_is_left(pauses: list[float]) -> None:
    """So that there is always another attempt in time, whatever the backoff."""
    deadline, backoff = in_seconds(10), Backoff(timedelta(hours=1), timedelta(hours=1))
    async for attempt in retry(deadline, backoff):
        if attempt == 4:
            break
    assert len(pauses) == 3
    assert all(0 < pause <= 5 for pause in pauses)


async def test_a_pause_lets_the_clock_move(pauses: list[float]) -> None:
    """It is a millisecond or more even where the backoff says nothing: uvloop's clock counts those."""
    async for attempt in retry(None, Backoff(timedelta(), timedelta())):
        if attempt == 10:
            break
    assert min(pauses) >= 0.001


async def test_it_ends_before_the_deadline(pauses: list[float]) -> None:
    """An attempt that could not take 20 ms is not begun."""
    begun = [attempt async for attempt in retry(in_seconds(0.019))]
    assert (begun, pauses) == ([1], [])


@pytest.mark.parametrize("backoff", [None, SHORT, Backoff(timedelta(), timedelta())])
async def test_a_dependency_that_fails_at_once_for_ever(backoff: Backoff | None) -> None:
    """The loop runs others between any two attempts, and it ends at the deadline: it once hung for good."""
    loop, turns = asyncio.get_running_loop(), Turns()
    begun, attempts = loop.time(), list[int]()
    async for _ in retry(begun + 0.3, backoff):
        attempts.append(turns.now())  # and fail at once
    took = loop.time() - begun
    assert 0.27 <= took < 20
    assert len(attempts) == len(set(attempts))  # others may run between any two of them
    assert 2 <= len(attempts) <= 301  # at least a millisecond apart


async def test_no_deadline_never_ends() -> None:
    """It goes on until it is left or cancelled, and others run meanwhile."""
    attempts = 0

    async def try_for_ever() -> None:
        nonlocal attempts
        async for attempt in retry(None, SHORT):
            attempts = attempt

    trying = asyncio.create_task(try_for_ever())
    while attempts < 100:
        assert not trying.done()
        await asyncio.sleep(0.001)
    trying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trying


async def test_a_clock_that_jumps(pauses: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """After a jump past the deadline, as of a machine that slept, there is no other attempt."""
    clock = Clock()
    monkeypatch.setattr(MODULE, "get_running_loop", lambda: clock)
    attempts = 0
    async for attempt in retry(3600):
        attempts = attempt
        if attempt == 5:
            clock.now = 7200
    assert (attempts, len(pauses)) == (5, 4)


class Clock:
    """A loop that has nothing but the time."""

    now = 0.0

    def time(self) -> float:
        return self.now
