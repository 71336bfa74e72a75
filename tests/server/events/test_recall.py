"""What calls share of dead letters: one answer to which there are, and what ends with the connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.nats.waiting import eventually
from windshift.nats.jetstream.api import ConsumerState
from windshift.server.domain.errors import BrokerUnavailable
from windshift.server.events.consuming.shared import Shared
from windshift.server.events.consuming.work import EndOutcome
from windshift.server.events.model import ConsumerKey

KEY = ConsumerKey("S", "c")
STATE = ConsumerState({}, "today", 0, 0, 2, 5)


class Store:
    """Answers a recall, or fails it, and counts."""

    def __init__(self) -> None:
        self.asked = 0
        self.failing = False

    async def recall(self, stream: str, consumer: str, deadline: float, after: int) -> dict[int, int]:
        self.asked += 1
        await asyncio.sleep(0)
        if self.failing:
            raise BrokerUnavailable
        return {seq: 10 * seq for seq in (5, 6) if seq > after}


def shared(store: Store) -> Shared:
    """Share this store between calls."""
    unused, requests = cast("Any", None), cast("Any", SimpleNamespace(connection=None))
    return Shared(requests, unused, cast("Any", store), unused, unused, unused)


async def test_one_question_for_many_calls() -> None:
    """Calls that begin together get one answer, without what the broker knows to be delivered."""
    letters, store = {6: 60}, Store()
    some = shared(store)
    assert await asyncio.gather(*(some.recall(KEY, STATE, 1.0) for _ in range(3))) == [letters] * 3
    assert await some.recall(KEY, STATE, 1.0) == letters
    assert store.asked == 1


async def test_other_consumers_are_asked_for_on_their_own() -> None:
    """So is one that was made anew under the name."""
    store = Store()
    some = shared(store)
    await some.recall(KEY, STATE, 1.0)
    await some.recall(ConsumerKey("S", "d"), STATE, 1.0)
    await some.recall(KEY, ConsumerState({}, "tomorrow", 0, 0, 0, 0), 1.0)
    assert store.asked == 3


@pytest.mark.parametrize("doubt", [Shared.forget_recalls, Shared._lost])
async def test_asked_again_after_a_doubt(doubt: Callable[[Shared], None]) -> None:
    """What the broker said before it may have forgotten something counts no more, also without a call."""
    store = Store()
    some = shared(store)
    await some.recall(KEY, STATE, 1.0)
    doubt(some)
    await some.recall(KEY, STATE, 1.0)
    assert store.asked == 2


class SlowStore:
    """Answers recalls when it is told to."""

    def __init__(self) -> None:
        self.answers: list[asyncio.Future[dict[int, int]]] = []

    async def recall(self, stream: str, consumer: str, deadline: float, after: int) -> dict[int, int]:
        self.answers.append(asyncio.get_running_loop().create_future())
        return await self.answers[-1]


async def test_a_failure_from_before_a_doubt_ends_no_later_question() -> None:
    """Whoever comes after it still shares the later one."""
    store = SlowStore()
    some = shared(cast("Store", store))
    before = asyncio.create_task(some.recall(KEY, STATE, 1.0))
    await eventually(lambda: len(store.answers) == 1)
    some.forget_recalls()
    later = asyncio.create_task(some.recall(KEY, STATE, 1.0))
    await eventually(lambda: len(store.answers) == 2)
    store.answers[0].set_exception(BrokerUnavailable())
    with pytest.raises(BrokerUnavailable):
        await before
    last = asyncio.create_task(some.recall(KEY, STATE, 1.0))
    await asyncio.sleep(0)
    store.answers[1].set_result({6: 60})
    assert (await later, await last) == ({6: 60}, {6: 60})
    assert len(store.answers) == 2


async def test_failures_are_not_kept() -> None:
    """All calls that wait learn of a failure, and the next one asks again."""
    store = Store()
    some = shared(store)
    store.failing = True
    failed = await asyncio.gather(*(some.recall(KEY, STATE, 1.0) for _ in range(2)), return_exceptions=True)
    assert [type(error) for error in failed] == [BrokerUnavailable] * 2
    store.failing = False
    assert await some.recall(KEY, STATE, 1.0) == {6: 60}


async def test_a_call_that_ends_takes_nothing_from_others() -> None:
    """One that is cancelled while it waits does not end the question."""
    store = Store()
    some = shared(store)
    first = asyncio.create_task(some.recall(KEY, STATE, 1.0))
    second = asyncio.create_task(some.recall(KEY, STATE, 1.0))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == {6: 60}
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_what_is_not_to_outlive_the_connection() -> None:
    """Whether a dead letter was made is not known when the broker is lost meanwhile; later ones are made."""
    some = shared(Store())
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def keeping() -> EndOutcome:
        begun.set()
        await may_end.wait()
        return EndOutcome.DECIDED

    under_way = asyncio.create_task(some.unless_lost(keeping()))
    await begun.wait()
    some._lost()
    assert await under_way is EndOutcome.UNKNOWN
    may_end.set()
    assert await some.unless_lost(keeping()) is EndOutcome.DECIDED
