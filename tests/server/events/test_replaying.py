"""Calls that replay and purge: how they end when the broker, the time or the server does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.server.events.keeping import Keeper, forget_all, keep
from tests.support.broker import Broker, in_seconds
from windshift.server.errors import BrokerUnavailable, OutcomeUnknown, StreamFull, WindshiftError
from windshift.server.events.dead_letters.given_up import GivenUp
from windshift.server.events.dead_letters.letters import Cause, LetterId
from windshift.server.events.dead_letters.page_tokens import BEGINNING, Place
from windshift.server.events.dead_letters.purging import Purged, Purging
from windshift.server.events.dead_letters.replaying import Replayed, Replaying, ReplayOrder
from windshift.server.events.dead_letters.replays import Replays
from windshift.server.events.dead_letters.store import DeadLetterStore, LetterFilter

Unique = Callable[[], str]

FAST = ReplayOrder(10_000, dry_run=False, limit=1_000)


class Failing(Replays):
    """Replays that fail from some call on."""

    def __init__(self, replays: Replays, error: WindshiftError, after: int) -> None:
        vars(self).update(vars(replays))
        self._error = error
        self._left = after

    async def replay(self, id: LetterId, replay_count: int, deadline: float) -> bool:  # noqa: A002
        """Replay, or fail."""
        if self._left == 0:
            raise self._error
        self._left -= 1
        return await super().replay(id, replay_count, deadline)


class Unremovable(DeadLetterStore):
    """Dead letters that cannot be removed from some call on."""

    def __init__(self, store: DeadLetterStore, after: int) -> None:
        vars(self).update(vars(store))
        self._left = after

    async def delete(self, *arguments: Any) -> bool:
        """Remove one, or fail."""
        if self._left == 0:
            raise BrokerUnavailable
        self._left -= 1
        return await super().delete(*arguments)


@pytest.fixture
async def keeper(broker: Broker) -> Keeper:
    """Keep dead letters on the shared broker, where there are none yet."""
    await forget_all(broker)
    return await keep(broker)


@pytest.fixture
async def stream(keeper: Keeper, unique: Unique) -> str:
    """Make a stream with a consumer ``c``, and forty dead letters of it."""
    name = await keeper.broker.stream(unique())
    config = {"durable_name": "c", "ack_policy": "explicit"}
    await keeper.broker.api.create_consumer(name, "c", config, in_seconds(5))
    await keeper.given_up(name, 40)
    return name


def replaying(keeper: Keeper, replays: Replays | None = None, told: GivenUp | None = None) -> Replaying:
    """Make what replays."""
    return Replaying(keeper.store, replays or keeper.replays, keeper.broker.api, told or GivenUp())


async def outstanding(keeper: Keeper, stream: str) -> int:
    """Count the replays that are outstanding."""
    return len(await keeper.replays.outstanding(stream, "", in_seconds(5)))


async def test_replays_are_counted(keeper: Keeper, stream: str) -> None:
    """Each that was begun is, and none that was not."""
    told = GivenUp()
    calls = replaying(keeper, told=told)
    dry = FAST._replace(dry_run=True)
    assert await calls.matching(LetterFilter(stream), dry, BEGINNING, in_seconds(10)) == Replayed(40)
    assert told.replays == 0
    assert await calls.matching(LetterFilter(stream), FAST, BEGINNING, in_seconds(10)) == Replayed(40)
    assert await calls.matching(LetterFilter(stream), FAST, BEGINNING, in_seconds(10)) == Replayed(0, 40)
    assert told.replays == 40


@pytest.mark.parametrize("error", [BrokerUnavailable(), OutcomeUnknown(), StreamFull()])
async def test_an_error_on_the_way(keeper: Keeper, stream: str, error: WindshiftError) -> None:
    """A call by filter says how far it came; the next one goes on there, and nothing is done twice."""
    which = LetterFilter(stream)
    broken = replaying(keeper, Failing(keeper.replays, error, 33))
    first = await broken.matching(which, FAST, BEGINNING, in_seconds(10))
    assert (first.replayed, first.next.after > 0) == (32, True)
    with pytest.raises(type(error)):
        await broken.matching(which, FAST, first.next, in_seconds(10))
    assert await outstanding(keeper, stream) == 33
    rest = await replaying(keeper).matching(which, FAST, first.next, in_seconds(10))
    assert rest == Replayed(7, 1)


async def test_errors_by_ids(keeper: Keeper, stream: str) -> None:
    """They are raised; the same call again does the rest."""
    page = await keeper.store.page(LetterFilter(stream), 0, 100, 1 << 20, in_seconds(5))
    ids = [letter.failure.id for letter in page.letters]
    with pytest.raises(BrokerUnavailable):
        await replaying(keeper, Failing(keeper.replays, BrokerUnavailable(), 5)).these(
            ids, FAST, in_seconds(10)
        )
    assert await replaying(keeper).these(ids, FAST, in_seconds(10)) == Replayed(35, 5)


async def test_a_drain(keeper: Keeper, stream: str) -> None:
    """A call by filter ends soon, and says how to go on; one by ids is done to its end."""
    calls = replaying(keeper)
    task = asyncio.create_task(
        calls.matching(
            LetterFilter(stream), ReplayOrder(20, dry_run=False, limit=1000), BEGINNING, in_seconds(60)
        )
    )
    async with asyncio.timeout(10):
        while await outstanding(keeper, stream) == 0:  # noqa: ASYNC110 - the broker is asked
            await asyncio.sleep(0.01)
        calls.drain()
        first = await task
    assert 0 < first.replayed < 40
    rest = await replaying(keeper).matching(LetterFilter(stream), FAST, first.next, in_seconds(10))
    assert first.replayed + rest.replayed == 40
    page = await keeper.store.page(LetterFilter(stream), 0, 2, 1 << 20, in_seconds(5))
    ids = [letter.failure.id for letter in page.letters]
    assert (await calls.these(ids, FAST, in_seconds(10))).already == 2


async def test_a_token_of_positions_that_are_gone(keeper: Keeper, stream: str) -> None:
    """A place beyond all there is leads nowhere."""
    place = Place(10**9, 10**9)
    assert await replaying(keeper).matching(LetterFilter(stream), FAST, place, in_seconds(10)) == Replayed()


async def test_a_purge_that_breaks_off(keeper: Keeper, stream: str) -> None:
    """It says how far it came, and the next call goes on there."""
    which = LetterFilter(stream, causes=frozenset({Cause.REJECTED}))
    broken = Purging(Unremovable(keeper.store, 32))
    first = await broken.matching(which, BEGINNING, in_seconds(10), dry_run=False)
    assert (first.purged, first.next.after > 0) == (32, True)
    with pytest.raises(BrokerUnavailable):
        await broken.matching(which, first.next, in_seconds(10), dry_run=False)
    rest = await Purging(keeper.store).matching(which, first.next, in_seconds(10), dry_run=False)
    assert rest == Purged(8)
    assert await keeper.store.count(stream, "", in_seconds(5)) == 0


async def test_a_purge_and_a_drain(keeper: Keeper, stream: str) -> None:
    """It ends at once, with what was done."""
    which = LetterFilter(stream, causes=frozenset({Cause.REJECTED}))
    calls = Purging(keeper.store)
    calls.drain()
    assert await calls.matching(which, BEGINNING, in_seconds(10), dry_run=False) == Purged()


async def test_a_purge_without_time(keeper: Keeper, stream: str) -> None:
    """What the deadline leaves no time for is left for the next call."""
    which = LetterFilter(stream, causes=frozenset({Cause.REJECTED}))
    with pytest.raises(BrokerUnavailable):
        await Purging(keeper.store).matching(which, BEGINNING, in_seconds(-1), dry_run=False)
    assert await keeper.store.count(stream, "", in_seconds(5)) == 40
