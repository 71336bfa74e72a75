"""What operators do with dead letters: list, summarize, replay and purge them, and cancel replays.

A call that changes something by filter may take long. It stops early when the server drains, the deadline
nears or an error occurs, and returns a cursor for the next call.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from windshift.nats.jetstream.api import JetStream
from windshift.server.background.batches import batches, together
from windshift.server.domain.errors import (
    BrokerUnavailable,
    DeadLetterNotFound,
    InvalidField,
    OutcomeUnknown,
    QuotaExceeded,
    StreamFull,
    WindshiftError,
)
from windshift.server.domain.pages import PAGE_BYTES
from windshift.server.events.dead_letters.model import (
    By,
    DeadLetter,
    DeadLetterFilter,
    DeadLetterId,
    Failure,
    Summary,
)
from windshift.server.events.dead_letters.replay_queue import Cancelling, Pointer, ReplayQueue
from windshift.server.events.dead_letters.stats import DeadLetterStats
from windshift.server.events.dead_letters.store import DeadLetterStore
from windshift.server.events.model import ConsumerKey
from windshift.server.events.streams import missing_consumer

T = TypeVar("T")

MAX_CONCURRENT: Final = 32
"""Requests to the broker that one call has under way."""

_PAGE_SIZE: Final = 500
_BATCHES_PER_SECOND: Final = 20

_MOST_COUNTED: Final = 5_000
"""Dead letters that are looked at to count those that match."""
_LARGE: Final = 250_000
"""Messages in the stream from which on the broker takes too long to count those of one stream or consumer."""
_MOST_SUMMARIZED: Final = 50_000
_LAG: Final = 0.1
"""Seconds until a replica that lags behind is asked again."""
_SOME: Final = "the broker was not available for all of them; some are done; ask again"


class Cursor(NamedTuple):
    """Where a call left off.

    Attributes:
        after: the position to continue after; 0 = the beginning.
        upto: the last position of interest; 0 = no limit.
    """

    after: int = 0
    upto: int = 0


START: Final = Cursor()
"""The beginning; as the place to continue, it means that nothing is left."""


# --- Requests and results -----------------------------------------------------------------------------------


class Listing(NamedTuple):
    """A page of dead letters.

    Attributes:
        dead_letters: what is on it.
        replaying: ids of those that are being replayed.
        next: where to continue.
        total: how many match, on all pages; `None` where that is not known, and after the first page.
    """

    dead_letters: list[DeadLetter]
    replaying: frozenset[DeadLetterId]
    next: Cursor
    total: int | None


class ReplayOptions(NamedTuple):
    """How to replay.

    Attributes:
        rate: most replays per second.
        dry_run: only count.
        limit: most replays of a call by filter.
        allow: is asked before each one, by stream, consumer and time; raises `QuotaExceeded`.
    """

    rate: int
    dry_run: bool
    limit: int
    allow: Callable[[str, str, float], None] | None = None


@dataclass(slots=True)
class ReplayResult:
    """What a replay did.

    Attributes:
        replayed: dead letters whose event is being redelivered now.
        already: those that were already being replayed.
        missing: ids that do not exist.
        without_consumer: those whose consumer or stream is gone.
        next: where to continue.
    """

    replayed: int = 0
    already: int = 0
    missing: list[DeadLetterId] = field(default_factory=list)
    without_consumer: int = 0
    next: Cursor = START


@dataclass(slots=True)
class PurgeResult:
    """What a purge did.

    Attributes:
        purged: dead letters that were removed.
        missing: ids that do not exist.
        next: where to continue.
    """

    purged: int = 0
    missing: list[DeadLetterId] = field(default_factory=list)
    next: Cursor = START


@dataclass(slots=True)
class CancelResult:
    """What cancelling replays did.

    Attributes:
        cancelled: replays that nobody delivers any more.
        delivering: those that a subscriber has; they go on.
        missing: ids without a replay.
        next: where to continue.
    """

    cancelled: int = 0
    delivering: int = 0
    missing: list[DeadLetterId] = field(default_factory=list)
    next: Cursor = START


_AnyResult: TypeAlias = ReplayResult | PurgeResult | CancelResult
_AnItem = TypeVar("_AnItem", DeadLetter, Pointer)
_Read: TypeAlias = Callable[[int], Awaitable[tuple[Sequence[_AnItem], int]]]


# --- The calls ----------------------------------------------------------------------------------------------


@dataclass(eq=False)
class DeadLetterAdmin:
    """Lists, summarizes, replays and purges dead letters. Deadlines are in the loop's time.

    Replaying or purging twice is harmless, so a call that failed may be repeated.
    """

    _store: DeadLetterStore
    _queue: ReplayQueue
    _api: JetStream
    _stats: DeadLetterStats
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _draining: bool = False

    def drain(self) -> None:
        """End calls by filter soon."""
        self._draining = True

    async def list(
        self,
        which: DeadLetterFilter,
        begin: Cursor,
        size: int,
        deadline: float,
        *,
        with_data: bool,
        newest_first: bool = False,
    ) -> Listing:
        """Read up to `size` dead letters."""
        most = PAGE_BYTES if with_data else None
        page = await self._store.page(
            which, begin.after, size, deadline, max_data=most, newest_first=newest_first
        )
        replaying = await self._queue.outstanding_among((each.id for each in page.dead_letters), deadline)
        total = None
        if begin == START:
            total = await self._total(which, deadline) if page.more else len(page.dead_letters)
        return Listing(page.dead_letters, replaying, Cursor(page.after) if page.more else START, total)

    async def _total(self, which: DeadLetterFilter, deadline: float) -> int | None:
        """Count what matches, unless that takes long."""
        if which.stream and self._store.stream.messages > _LARGE:
            return None
        held = await self._store.count(which.stream, which.consumer, deadline)
        if which.is_everything:
            return held
        if held > _MOST_COUNTED:
            return None
        total, after, more = 0, 0, True
        while more:
            page = await self._store.page(which, after, _PAGE_SIZE, deadline)
            total, after, more = total + len(page.dead_letters), page.after, page.more
        return total

    async def summarize(self, which: DeadLetterFilter, by: Sequence[By], deadline: float) -> Summary:
        """Group the newest 50,000 dead letters of the filter's stream and consumer, and count them.

        It ends sooner at the deadline, or when there are too many groups.
        """
        summary, before, scanned = Summary(by), 0, 0
        while scanned < _MOST_SUMMARIZED and not summary.is_full:
            try:
                page = await self._store.page(which, before, _PAGE_SIZE, deadline, newest_first=True)
            except (BrokerUnavailable, OutcomeUnknown):
                if not scanned:
                    raise
                break
            for dead_letter in page.dead_letters:
                summary.add(dead_letter)
            before, scanned = page.after, scanned + page.scanned
            if not page.more:
                return summary
        summary.is_truncated = True
        return summary

    async def get(self, letter_id: DeadLetterId, deadline: float) -> tuple[DeadLetter, bool]:
        """Read one, and whether it is being replayed; raise `DeadLetterNotFound`."""
        dead_letter = await self._store.get(letter_id, deadline)
        if dead_letter is None:
            raise DeadLetterNotFound(str(letter_id))
        return dead_letter, letter_id in await self._queue.outstanding_among([letter_id], deadline)

    async def replay(
        self, ids: Iterable[DeadLetterId], options: ReplayOptions, deadline: float
    ) -> ReplayResult:
        """Replay some by id; none if a consumer is gone: raise `StreamNotFound` or `ConsumerNotFound`."""
        call = self._replay_call(options, deadline)
        found = await _for_each(self._failure, ids, deadline)
        call.result.missing = [each for each, failure in found.items() if failure is None]
        failures = [failure for failure in found.values() if failure is not None]
        for consumer in dict.fromkeys(_consumer(each) for each in failures):
            if problem := await call.problem(consumer):
                raise problem
        for batch in batches(failures, call.rate.batch_size):
            if not await call.wait():
                raise OutcomeUnknown("the deadline is too near for all of them at this rate; ask again")
            try:
                await call.replay(batch)
            except BrokerUnavailable as error:
                if call.result.replayed and not options.dry_run:
                    raise OutcomeUnknown(_SOME) from error
                raise
        return call.result

    async def _failure(self, letter_id: DeadLetterId, deadline: float) -> Failure | None:
        dead_letter = await self._store.get(letter_id, deadline)
        return None if dead_letter is None else dead_letter.failure

    async def replay_matching(
        self, which: DeadLetterFilter, options: ReplayOptions, begin: Cursor, deadline: float
    ) -> ReplayResult:
        """Replay those that match, up to the limit, except those that the consumer gives up on meanwhile."""
        upto = begin.upto or await self._store.last_position(deadline)
        call = self._replay_call(options, deadline)
        if upto == 0:  # none was ever written
            return call.result
        call.result.next = Cursor(begin.after, upto)
        with _keep_progress(call.result):
            async for batch in self._batches(
                partial(self._letters, which, deadline), call.result, call.ready
            ):
                await call.replay_deliverable(batch)
        return call.result

    def _replay_call(self, options: ReplayOptions, deadline: float) -> _ReplayCall:
        rate = RateLimit(options.rate)
        return _ReplayCall(self._queue, self._api, self._stats, options, deadline, rate)

    async def purge(self, ids: Iterable[DeadLetterId], deadline: float, *, dry_run: bool) -> PurgeResult:
        """Remove some by id, or only see which exist."""
        work = self._failure if dry_run else self._store.delete
        done = await _for_each(work, ids, deadline, lambda found: bool(found) and not dry_run)
        missing = [each for each, found in done.items() if not found]
        return PurgeResult(len(done) - len(missing), missing)

    async def purge_matching(
        self, which: DeadLetterFilter, begin: Cursor, deadline: float, *, dry_run: bool
    ) -> PurgeResult:
        """Remove those that match now, or only count them. Replays of them end by themselves."""
        if which.is_everything:  # the broker does it with one request
            if begin != START:
                raise InvalidField("page_token", "is not needed: this filter takes only one call")
            remove = self._store.count if dry_run else self._store.purge
            return PurgeResult(await remove(which.stream, which.consumer, deadline))

        upto = begin.upto or await self._store.last_position(deadline)
        result = PurgeResult()
        if upto == 0:  # none was ever written
            return result
        result.next = Cursor(begin.after, upto)
        with _keep_progress(result):
            async for batch in self._batches(
                partial(self._letters, which, deadline), result, partial(self._ready, deadline)
            ):
                work = () if dry_run else (self._store.delete(each.id, deadline) for each in batch)
                removed, errors = await together(work)
                result.purged += len(batch) if dry_run else sum(removed)
                _raise_one(errors)
        return result

    async def cancel(self, ids: Iterable[DeadLetterId], deadline: float) -> CancelResult:
        """Cancel the replays of some by id, as far as nobody has them yet."""
        clock = await self._queue.clock(deadline)
        if clock is None:  # nothing is outstanding
            return CancelResult(missing=list(dict.fromkeys(ids)))
        done = await _for_each(
            lambda each, until: self._queue.cancel(each, clock, until),
            ids,
            deadline,
            lambda came: came is Cancelling.CANCELLED,
        )
        counts = Counter(done.values())
        missing = [each for each, came in done.items() if came is Cancelling.NONE]
        return CancelResult(counts[Cancelling.CANCELLED], counts[Cancelling.LEASED], missing)

    async def cancel_matching(self, which: DeadLetterFilter, begin: Cursor, deadline: float) -> CancelResult:
        """Cancel the replays of those that match, except those that began or were given back meanwhile."""
        result, clock = CancelResult(), await self._queue.clock(deadline)
        if clock is None:
            return result
        upto = begin.upto or await self._queue.position(deadline)
        result.next = Cursor(begin.after, upto)
        with _keep_progress(result):
            while result.next != START:
                seen = result.next.after
                async for batch in self._batches(
                    partial(self._pointers, which, deadline), result, partial(self._ready, deadline)
                ):
                    chosen = [each for each in batch if await self._is_chosen(which, each, deadline)]
                    work = (self._queue.cancel(each.id, clock, deadline, each) for each in chosen)
                    came, errors = await together(work)
                    result.cancelled += came.count(Cancelling.CANCELLED)
                    _raise_one(errors)
                    result.delivering += came.count(Cancelling.LEASED)
                    seen = batch[-1].position
                if result.next != START:
                    break
                if clock.replicas > 1 and await self._is_left(which, seen, upto, deadline):
                    result.next = Cursor(seen, upto)
                    await asyncio.sleep(_LAG)
        return result

    async def _is_chosen(self, which: DeadLetterFilter, pointer: Pointer, deadline: float) -> bool:
        if which.is_everything:
            return True
        dead_letter = await self._store.find(pointer.id, deadline)
        return dead_letter is not None and which.matches(dead_letter)

    async def _is_left(self, which: DeadLetterFilter, after: int, upto: int, deadline: float) -> bool:
        """Whether the leader knows of a pointer that a replica did not have."""
        position = await self._queue.next_position(_selected(which), after, deadline)
        return position is not None and position <= upto

    # --- All that match -----------------------------------------------------------------------------------

    async def _letters(
        self, which: DeadLetterFilter, deadline: float, after: int
    ) -> tuple[Sequence[DeadLetter], int]:
        page = await self._store.page(which, after, _PAGE_SIZE, deadline)
        return page.dead_letters, page.after if page.more else 0

    async def _pointers(
        self, which: DeadLetterFilter, deadline: float, after: int
    ) -> tuple[Sequence[Pointer], int]:
        return await self._queue.page(_selected(which), after, deadline, _PAGE_SIZE)

    async def _ready(self, deadline: float) -> int:
        return MAX_CONCURRENT if self._loop.time() < deadline else 0

    async def _batches(
        self, read: _Read[_AnItem], result: _AnyResult, ready: Callable[[], Awaitable[int]]
    ) -> AsyncIterator[Sequence[_AnItem]]:
        """Yield what there is, and advance `result.next` past each batch once it is done.

        `read` returns some of it after a position, and the position to continue after; 0 = there is no more.
        `ready` waits until the next batch may begin, and returns its size; 0 ends the call.
        """
        while True:
            after, upto = result.next
            found, after = await read(after)
            left = [each for each in found if not upto or each.position <= upto]
            while left:
                size = 0 if self._draining else await ready()
                if size == 0:
                    return
                batch, left = left[:size], left[size:]
                yield batch
                result.next = Cursor(batch[-1].position, upto)
            more = after > 0 and (not upto or after < upto)
            result.next = Cursor(after, upto) if more else START
            if not more or self._draining or await ready() == 0:
                return


@dataclass(eq=False)
class _ReplayCall:
    """One call: its rate, and what it knows of consumers and of outstanding replays."""

    _queue: ReplayQueue
    _api: JetStream
    _stats: DeadLetterStats
    _options: ReplayOptions
    _deadline: float
    rate: RateLimit
    result: ReplayResult = field(default_factory=ReplayResult)
    _problems: dict[ConsumerKey, WindshiftError | None] = field(default_factory=dict)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    async def wait(self) -> bool:
        """Wait until the rate allows more; false, at once, when that is after the deadline."""
        now = self._loop.time()
        pause = 0.0 if self._options.dry_run else self.rate.wait(now)
        if now + pause >= self._deadline:
            return False
        if pause > 0:
            await asyncio.sleep(pause)
        return True

    async def ready(self) -> int:
        """Wait until the rate allows more, and return how many; 0 at the limit or the deadline."""
        room = min(self.rate.batch_size, self._options.limit - self.result.replayed)
        return room if room > 0 and await self.wait() else 0

    async def replay_deliverable(self, batch: Sequence[DeadLetter]) -> None:
        failures = [each.failure for each in batch]
        failures = [each for each in failures if await self.problem(_consumer(each)) is None]
        await self.replay(failures)
        self.result.without_consumer += len(batch) - len(failures)

    async def replay(self, failures: Sequence[Failure]) -> None:
        """Replay these concurrently, except those that are being replayed."""
        ids = [each.id for each in failures]
        outstanding = await self._queue.outstanding_among(ids, self._deadline)
        new = [each for each in failures if each.id not in outstanding]
        began = self._loop.time()
        begun, errors = await together(() if self._options.dry_run else map(self._replay, new))
        added = len(new) if self._options.dry_run else sum(begun)
        self.rate.did(added, began)
        self.result.replayed += added
        _raise_one(errors)
        self.result.already += len(failures) - added

    async def _replay(self, failure: Failure) -> bool:
        if self._options.allow is not None:
            self._options.allow(*_consumer(failure), self._loop.time())
        added = await self._queue.add(failure.id, failure.replay_count + 1, self._deadline)
        if added:
            self._stats.replayed(_consumer(failure))
        return added

    async def problem(self, consumer: ConsumerKey) -> WindshiftError | None:
        """Return `StreamNotFound` or `ConsumerNotFound` if a consumer does not exist."""
        if consumer not in self._problems:
            self._problems[consumer] = await missing_consumer(self._api, consumer, self._deadline)
        return self._problems[consumer]


def _selected(which: DeadLetterFilter) -> ConsumerKey:
    return ConsumerKey(which.stream, which.consumer)


def _consumer(failure: Failure) -> ConsumerKey:
    return ConsumerKey(failure.id.stream, failure.id.consumer)


@contextmanager
def _keep_progress(result: _AnyResult) -> Iterator[None]:
    """Suppress an error of the broker, or that it is too much, if something was done before it."""
    before = replace(result)
    try:
        yield
    except (BrokerUnavailable, OutcomeUnknown, StreamFull, QuotaExceeded):
        if result == before:
            raise


# --- Many at once -------------------------------------------------------------------------------------------


class RateLimit:
    """Limits a rate, in things per second. Idle time is not made up for.

    Attributes:
        batch_size: how many may be done at once.
    """

    __slots__ = ("_free_at", "_rate", "batch_size")

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._free_at = 0.0
        self.batch_size = max(1, min(MAX_CONCURRENT, rate // _BATCHES_PER_SECOND))

    def wait(self, now: float) -> float:
        """Return the seconds until more may be done."""
        return max(0.0, self._free_at - now)

    def did(self, count: int, began: float) -> None:
        """Record that `count` were done, starting at `began`."""
        self._free_at = max(self._free_at, began) + count / self._rate


async def _for_each(
    function: Callable[[DeadLetterId, float], Coroutine[Any, Any, T]],
    ids: Iterable[DeadLetterId],
    deadline: float,
    is_done: Callable[[T], bool] = lambda _: False,
) -> dict[DeadLetterId, T]:
    """Call a function for each id, repeated ones once, and return the results.

    Raise `OutcomeUnknown` in place of `BrokerUnavailable` where something was done, as `is_done` tells.
    """
    each_once = list(dict.fromkeys(ids))
    results: list[T] = []
    for some in batches(each_once, MAX_CONCURRENT):
        done, errors = await together(function(each, deadline) for each in some)
        results += done
        try:
            _raise_one(errors)
        except BrokerUnavailable as error:
            if any(map(is_done, results)):
                raise OutcomeUnknown(_SOME) from error
            raise
    return dict(zip(each_once, results, strict=True))


def _raise_one(errors: Sequence[BaseException]) -> None:
    """Raise the first of some errors, but not that nothing was done if another one does not say so."""
    if errors:
        raise min(errors, key=lambda error: isinstance(error, BrokerUnavailable))
