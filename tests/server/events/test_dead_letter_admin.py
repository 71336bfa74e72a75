"""Calls that list, replay and purge: page tokens, rates, and how they end with the broker, time or server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, repeat
from typing import Any

import pytest

from tests.server.events.keeping import Keeper, forget_all, keep
from tests.support.broker import Broker, in_seconds
from windshift.server.domain.errors import (
    BrokerUnavailable,
    OutcomeUnknown,
    QuotaExceeded,
    StreamFull,
    WindshiftError,
)
from windshift.server.events.dead_letters.admin import (
    MAX_CONCURRENT,
    START,
    CancelResult,
    Cursor,
    DeadLetterAdmin,
    PurgeResult,
    RateLimit,
    ReplayOptions,
    ReplayResult,
)
from windshift.server.events.dead_letters.model import Cause, DeadLetterFilter, DeadLetterId
from windshift.server.events.dead_letters.replay_queue import Cancelling, ReplayQueue
from windshift.server.events.dead_letters.stats import DeadLetterStats
from windshift.server.events.dead_letters.store import DeadLetterStore

Unique = Callable[[], str]

FAST = ReplayOptions(10_000, dry_run=False, limit=1_000)


ALL = DeadLetterFilter()
SOME = DeadLetterFilter("s", "c", frozenset({Cause.REJECTED, Cause.MAX_ATTEMPTS}), "acme.v1.Order", 1, 2)


class Failing(ReplayQueue):
    """Replays that cannot be begun, or cancelled, from some call on."""

    def __init__(self, queue: ReplayQueue, errors: Iterator[WindshiftError], after: int) -> None:
        vars(self).update(vars(queue))
        self._errors = errors
        self._left = after

    async def add(self, id: DeadLetterId, replay_count: int, deadline: float) -> bool:  # noqa: A002
        """Replay, or fail."""
        self._count()
        return await super().add(id, replay_count, deadline)

    async def cancel(self, *arguments: Any) -> Cancelling:
        """Cancel, or fail."""
        self._count()
        return await super().cancel(*arguments)

    def _count(self) -> None:
        if self._left == 0:
            raise next(self._errors)
        self._left -= 1


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
    await keeper.broker.api.create_consumer(name, "c", config, in_seconds(30))
    await keeper.given_up(name, 40)
    return name


def admin(
    keeper: Keeper, queue: ReplayQueue | None = None, stats: DeadLetterStats | None = None
) -> DeadLetterAdmin:
    """Make what lists, replays and purges."""
    return DeadLetterAdmin(
        keeper.store, queue or keeper.replays, keeper.broker.api, stats or DeadLetterStats()
    )


async def outstanding(keeper: Keeper, stream: str) -> int:
    """Count the replays that are outstanding."""
    return len(await keeper.outstanding(stream))


async def test_replays_are_counted(keeper: Keeper, stream: str) -> None:
    """Each that was begun is, and none that was not."""
    stats = DeadLetterStats()
    calls = admin(keeper, stats=stats)
    dry = FAST._replace(dry_run=True)
    assert await calls.replay_matching(DeadLetterFilter(stream), dry, START, in_seconds(30)) == ReplayResult(
        40
    )
    assert stats.replays == 0
    assert await calls.replay_matching(DeadLetterFilter(stream), FAST, START, in_seconds(30)) == ReplayResult(
        40
    )
    assert await calls.replay_matching(DeadLetterFilter(stream), FAST, START, in_seconds(30)) == ReplayResult(
        0, 40
    )
    assert stats.replays == 40


@pytest.mark.parametrize("after", [5, 33])
@pytest.mark.parametrize(
    "error", [BrokerUnavailable(), OutcomeUnknown(), StreamFull(), QuotaExceeded("replays", 3)]
)
async def test_an_error_on_the_way(keeper: Keeper, stream: str, error: WindshiftError, after: int) -> None:
    """A call by filter says how far it came; the next one goes on there, and nothing is done twice."""
    which = DeadLetterFilter(stream)
    broken = admin(keeper, Failing(keeper.replays, repeat(error), after))
    first = await broken.replay_matching(which, FAST, START, in_seconds(30))
    assert (first.replayed, first.next.after > 0) == (after, after > 32)
    with pytest.raises(type(error)):
        await broken.replay_matching(which, FAST, first.next, in_seconds(30))
    assert await outstanding(keeper, stream) == after
    rest = await admin(keeper).replay_matching(which, FAST, first.next, in_seconds(30))
    assert rest == ReplayResult(40 - after, after % 32)


async def ids_of(keeper: Keeper, stream: str) -> list[DeadLetterId]:
    """Return the ids of all dead letters."""
    page = await keeper.store.page(DeadLetterFilter(stream), 0, 100, in_seconds(30), max_data=1 << 20)
    return [letter.failure.id for letter in page.dead_letters]


@pytest.mark.parametrize(
    ("after", "told"), [(0, BrokerUnavailable), (5, OutcomeUnknown), (32, OutcomeUnknown)]
)
async def test_errors_by_ids(keeper: Keeper, stream: str, after: int, told: type[WindshiftError]) -> None:
    """They are raised, as in doubt if some were done; the same call again does the rest."""
    ids, away = await ids_of(keeper, stream), repeat(BrokerUnavailable())
    with pytest.raises(told):
        await admin(keeper, Failing(keeper.replays, away, after)).replay(ids, FAST, in_seconds(30))
    assert await admin(keeper).replay(ids, FAST, in_seconds(30)) == ReplayResult(40 - after, after)
    with pytest.raises(told):
        await admin(keeper, Failing(keeper.replays, away, after)).cancel(ids, in_seconds(30))
    rest = await admin(keeper).cancel(ids, in_seconds(30))
    assert (rest.cancelled, len(rest.missing)) == (40 - after, after)
    with pytest.raises(told):
        await admin(replace(keeper, store=Unremovable(keeper.store, after))).purge(
            ids, in_seconds(30), dry_run=False
        )
    assert await admin(keeper).purge(ids, in_seconds(30), dry_run=False) == PurgeResult(
        40 - after, ids[:after]
    )


async def test_an_error_in_doubt_beside_others(keeper: Keeper, stream: str) -> None:
    """That the broker was not available says that nothing was done: it is not said then."""
    which, ids = DeadLetterFilter(stream), await ids_of(keeper, stream)

    def broken() -> DeadLetterAdmin:
        errors = chain([BrokerUnavailable(), OutcomeUnknown()], repeat(BrokerUnavailable()))
        return admin(keeper, Failing(keeper.replays, errors, 0))

    with pytest.raises(OutcomeUnknown):
        await broken().replay_matching(which, FAST, START, in_seconds(30))
    await admin(keeper).replay_matching(which, FAST, START, in_seconds(30))
    with pytest.raises(OutcomeUnknown):
        await broken().cancel(ids, in_seconds(30))


async def test_a_cancellation_that_breaks_off(keeper: Keeper, stream: str) -> None:
    """It says how many it cancelled, and the next call goes on there."""
    which = DeadLetterFilter(stream)
    await admin(keeper).replay_matching(which, FAST, START, in_seconds(30))
    broken = admin(keeper, Failing(keeper.replays, repeat(BrokerUnavailable()), 5))
    first = await broken.cancel_matching(which, START, in_seconds(30))
    assert (first.cancelled, first.next != START) == (5, True)
    with pytest.raises(BrokerUnavailable):
        await broken.cancel_matching(which, first.next, in_seconds(30))
    assert await admin(keeper).cancel_matching(which, first.next, in_seconds(30)) == CancelResult(35)


async def test_a_drain(keeper: Keeper, stream: str) -> None:
    """A call by filter ends soon, and says how to go on; one by ids is done to its end."""
    calls = admin(keeper)
    task = asyncio.create_task(
        calls.replay_matching(
            DeadLetterFilter(stream), ReplayOptions(20, dry_run=False, limit=1000), START, in_seconds(60)
        )
    )
    async with asyncio.timeout(30):
        while await outstanding(keeper, stream) == 0:  # noqa: ASYNC110 - the broker is asked
            await asyncio.sleep(0.01)
        calls.drain()
        first = await task
    assert 0 < first.replayed < 40
    rest = await admin(keeper).replay_matching(DeadLetterFilter(stream), FAST, first.next, in_seconds(30))
    assert first.replayed + rest.replayed == 40
    page = await keeper.store.page(DeadLetterFilter(stream), 0, 2, in_seconds(30), max_data=1 << 20)
    ids = [letter.failure.id for letter in page.dead_letters]
    assert (await calls.replay(ids, FAST, in_seconds(30))).already == 2


async def test_a_token_of_positions_that_are_gone(keeper: Keeper, stream: str) -> None:
    """A place beyond all there is leads nowhere."""
    place = Cursor(10**9, 10**9)
    assert (
        await admin(keeper).replay_matching(DeadLetterFilter(stream), FAST, place, in_seconds(30))
        == ReplayResult()
    )


@pytest.mark.parametrize("after", [5, 32, 35])
async def test_a_purge_that_breaks_off(keeper: Keeper, stream: str, after: int) -> None:
    """It says how far it came, and the next call goes on there."""
    which = DeadLetterFilter(stream, causes=frozenset({Cause.REJECTED}))
    broken = admin(replace(keeper, store=Unremovable(keeper.store, after)))
    first = await broken.purge_matching(which, START, in_seconds(30), dry_run=False)
    assert (first.purged, first.next != START, first.next.after > 0) == (after, True, after >= 32)
    with pytest.raises(BrokerUnavailable):
        await broken.purge_matching(which, first.next, in_seconds(30), dry_run=False)
    rest = await admin(keeper).purge_matching(which, first.next, in_seconds(30), dry_run=False)
    assert rest == PurgeResult(40 - after)
    assert await keeper.store.count(stream, "", in_seconds(30)) == 0


async def test_a_drain_before_the_first(keeper: Keeper, stream: str) -> None:
    """A call that ends before it did anything says that there is something left, and where to begin."""
    which = DeadLetterFilter(stream, causes=frozenset({Cause.REJECTED}))
    calls = admin(keeper)
    calls.drain()
    replayed = await calls.replay_matching(which, FAST, START, in_seconds(30))
    purged = await calls.purge_matching(which, START, in_seconds(30), dry_run=False)
    assert (replayed.replayed, purged.purged) == (0, 0)
    assert START not in (replayed.next, purged.next)
    rest = await admin(keeper).replay_matching(which, FAST, replayed.next, in_seconds(30))
    assert rest == ReplayResult(40)
    assert await admin(keeper).purge_matching(
        which, purged.next, in_seconds(30), dry_run=False
    ) == PurgeResult(40)


async def test_a_purge_without_time(keeper: Keeper, stream: str) -> None:
    """What the deadline leaves no time for is left for the next call."""
    which = DeadLetterFilter(stream, causes=frozenset({Cause.REJECTED}))
    with pytest.raises(BrokerUnavailable):
        await admin(keeper).purge_matching(which, START, in_seconds(-1), dry_run=False)
    assert await keeper.store.count(stream, "", in_seconds(30)) == 40


# Rates and batches


@pytest.mark.parametrize(("rate", "size"), [(1, 1), (20, 1), (100, 5), (10_000, MAX_CONCURRENT)])
def test_groups_follow_the_rate(rate: int, size: int) -> None:
    """A slow limit goes one by one, a fast one in groups."""
    assert RateLimit(rate).batch_size == size


@pytest.mark.parametrize("rate", [1, 7, 100, 10_000])
def test_the_rate_is_kept(rate: int) -> None:
    """In no second more is done than the rate and one group allow; with nothing to wait for, that much is."""
    limit, now, done = RateLimit(rate), 0.0, 0
    while now < 10:
        limit.did(limit.batch_size, now)
        done += limit.batch_size
        now += limit.wait(now)
    assert 10 * rate <= done <= 10 * rate + limit.batch_size


def test_idle_time_is_not_made_up_for() -> None:
    """After a pause the limit is what it was."""
    limit = RateLimit(10)
    limit.did(1, 0)
    assert limit.wait(5) == 0
    limit.did(1, 5)
    assert limit.wait(5) == pytest.approx(0.1)


def test_what_was_not_done_costs_no_time() -> None:
    """Looking at things without doing anything may go on at once."""
    limit = RateLimit(1)
    limit.did(0, 3)
    assert limit.wait(3) == 0
