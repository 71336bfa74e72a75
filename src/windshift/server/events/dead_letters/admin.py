"""What operators do with dead letters: list, replay and purge them.

A replay or purge by filter may take long. It stops early when the server drains, the deadline nears or an
error occurs, and returns a cursor for the next call.
"""

from __future__ import annotations

import asyncio
import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final, NamedTuple, TypeVar

from windshift.nats import NatsError
from windshift.nats.jetstream.api import JetStream
from windshift.server.background.batches import batches, together
from windshift.server.domain.broker_errors import domain_error
from windshift.server.domain.errors import (
    BrokerUnavailable,
    ConsumerNotFound,
    DeadLetterNotFound,
    InvalidField,
    OutcomeUnknown,
    QuotaExceeded,
    StreamFull,
    StreamNotFound,
    WindshiftError,
)
from windshift.server.events.dead_letters.model import DeadLetter, DeadLetterFilter, DeadLetterId, Failure
from windshift.server.events.dead_letters.replay_queue import ReplayQueue
from windshift.server.events.dead_letters.stats import DeadLetterStats
from windshift.server.events.dead_letters.store import DeadLetterStore
from windshift.server.events.model import ConsumerKey

T = TypeVar("T")

MAX_CONCURRENT: Final = 32
"""Requests to the broker that one call has under way."""

_PAGE_SIZE: Final = 500
_PAGE_BYTES: Final = 1024 * 1024
"""Approximate bytes of data at which a page ends."""
_BATCHES_PER_SECOND: Final = 20

# --- Cursors ------------------------------------------------------------------------------------------------


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

_TOKEN: Final = re.compile(rb"(?!0\.0\.)(0|[1-9][0-9]{0,18})\.(0|[1-9][0-9]{0,18})\.([0-9a-f]{16})")
_MAX_TOKEN: Final = 128


def write_page_token(which: DeadLetterFilter, cursor: Cursor) -> str:
    """Write a cursor as a page token. It is bound to its filter: another one would skip unseen entries."""
    if cursor == START:
        return ""
    return urlsafe_b64encode(f"{cursor.after}.{cursor.upto}.{_digest(which)}".encode()).decode()


def read_page_token(name: str, which: DeadLetterFilter, token: str) -> Cursor:
    """Read a page token; empty is the beginning.

    Raises:
        InvalidField: `write_page_token` did not write it, or wrote it for another filter.
    """
    if not token:
        return START
    found = _TOKEN.fullmatch(_decode(token))
    if found is None:
        raise InvalidField(name, "is not a page token; use next_page_token of the previous response")
    if found[3].decode() != _digest(which):
        raise InvalidField(name, "belongs to another filter; start again without it")
    return Cursor(int(found[1]), int(found[2]))


def _decode(token: str) -> bytes:
    try:
        return urlsafe_b64decode(token) if len(token) <= _MAX_TOKEN else b""
    except ValueError:
        return b""


def _digest(which: DeadLetterFilter) -> str:
    causes = sorted(cause.value for cause in which.causes)
    parts = [which.stream, which.consumer, causes, which.type_name, which.since_ns, which.until_ns]
    return blake2b(json.dumps(parts).encode(), digest_size=8).hexdigest()


# --- Requests and results -----------------------------------------------------------------------------------


class Listing(NamedTuple):
    """A page of dead letters.

    Attributes:
        dead_letters: what is on it.
        replaying: ids of those that are being replayed, perhaps with others.
        next: where to continue.
    """

    dead_letters: list[DeadLetter]
    replaying: frozenset[DeadLetterId]
    next: Cursor


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


# --- The calls ----------------------------------------------------------------------------------------------


class DeadLetterAdmin:
    """Lists, replays and purges dead letters. Deadlines are in the loop's time.

    Replaying or purging twice is harmless, so a call that failed may be repeated.
    """

    def __init__(
        self, store: DeadLetterStore, queue: ReplayQueue, api: JetStream, stats: DeadLetterStats
    ) -> None:
        self._store = store
        self._queue = queue
        self._api = api
        self._stats = stats
        self._loop = asyncio.get_running_loop()
        self._draining = False

    def drain(self) -> None:
        """End calls by filter soon."""
        self._draining = True

    async def list(
        self, which: DeadLetterFilter, begin: Cursor, size: int, deadline: float, *, with_data: bool
    ) -> Listing:
        """Read up to `size` dead letters."""
        page = await self._store.page(which, begin.after, size, _PAGE_BYTES, deadline, with_data=with_data)
        replaying = await self._queue.outstanding_among((each.id for each in page.dead_letters), deadline)
        return Listing(page.dead_letters, replaying, Cursor(page.after) if page.more else START)

    async def get(self, id: DeadLetterId, deadline: float) -> tuple[DeadLetter, bool]:  # noqa: A002
        """Read one, and whether it is being replayed; raise `DeadLetterNotFound`."""
        dead_letter = await self._store.get(id, deadline)
        if dead_letter is None:
            raise DeadLetterNotFound(str(id))
        return dead_letter, id in await self._queue.outstanding_among([id], deadline)

    async def replay(
        self, ids: Iterable[DeadLetterId], options: ReplayOptions, deadline: float
    ) -> ReplayResult:
        """Replay some by id.

        Raises:
            StreamNotFound, ConsumerNotFound: for one of them there is no consumer. Nothing was replayed.
        """
        call = self._replay_call(options, deadline)
        found = await _for_each(self._failure, ids, deadline)
        call.result.missing = [each for each, failure in found.items() if failure is None]
        failures = [failure for failure in found.values() if failure is not None]
        for consumer in dict.fromkeys(_consumer(each) for each in failures):
            if problem := await call.problem(consumer):
                raise problem
        call.outstanding = await self._queue.outstanding_among((each.id for each in failures), deadline)
        for batch in batches(failures, call.rate.batch_size):
            if not await call.wait():
                raise OutcomeUnknown("the deadline is too near for all of them at this rate; ask again")
            await call.replay(batch)
        return call.result

    async def _failure(self, id: DeadLetterId, deadline: float) -> Failure | None:  # noqa: A002
        dead_letter = await self._store.get(id, deadline)
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
            call.outstanding = await self._queue.outstanding(which.stream, which.consumer, deadline)
            async for batch in self._batches(which, call.result, deadline, call.ready):
                await call.replay_deliverable(batch)
        return call.result

    def _replay_call(self, options: ReplayOptions, deadline: float) -> _ReplayCall:
        return _ReplayCall(self._queue, self._api, self._stats, options, deadline)

    async def purge(self, ids: Iterable[DeadLetterId], deadline: float, *, dry_run: bool) -> PurgeResult:
        """Remove some by id, or only see which exist."""
        done = await _for_each(self._failure if dry_run else self._store.delete, ids, deadline)
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

        async def ready() -> int:
            return MAX_CONCURRENT if self._loop.time() < deadline else 0

        upto = begin.upto or await self._store.last_position(deadline)
        result = PurgeResult()
        if upto == 0:  # none was ever written
            return result
        result.next = Cursor(begin.after, upto)
        with _keep_progress(result):
            async for batch in self._batches(which, result, deadline, ready):
                work = () if dry_run else (self._store.delete(each.id, deadline) for each in batch)
                result.purged += len(batch) if dry_run else sum(await together(work))
        return result

    async def _batches(
        self,
        which: DeadLetterFilter,
        result: ReplayResult | PurgeResult,
        deadline: float,
        ready: Callable[[], Awaitable[int]],
    ) -> AsyncIterator[Sequence[DeadLetter]]:
        """Yield what matches, and advance `result.next` past each batch once it is done.

        `ready` waits until the next batch may begin, and returns its size; 0 ends the call.
        """
        while True:
            after, upto = result.next
            page = await self._store.page(which, after, _PAGE_SIZE, _PAGE_BYTES, deadline, with_data=False)
            left = [each for each in page.dead_letters if not upto or each.position <= upto]
            while left:
                size = 0 if self._draining else await ready()
                if size == 0:
                    return
                batch, left = left[:size], left[size:]
                yield batch
                result.next = Cursor(batch[-1].position, upto)
            more = page.more and (not upto or page.after < upto)
            result.next = Cursor(page.after, upto) if more else START
            if not more or self._draining or await ready() == 0:
                return


class _ReplayCall:
    """One call: its rate, and what it knows of consumers and of outstanding replays."""

    def __init__(
        self,
        queue: ReplayQueue,
        api: JetStream,
        stats: DeadLetterStats,
        options: ReplayOptions,
        deadline: float,
    ) -> None:
        self._queue = queue
        self._api = api
        self._stats = stats
        self._options = options
        self._deadline = deadline
        self._loop = asyncio.get_running_loop()
        self._problems: dict[ConsumerKey, WindshiftError | None] = {}
        self.rate = RateLimit(options.rate)
        self.outstanding: frozenset[DeadLetterId] = frozenset()
        self.result = ReplayResult()

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
        """Replay those whose consumer exists."""
        failures = [each.failure for each in batch]
        failures = [each for each in failures if await self.problem(_consumer(each)) is None]
        await self.replay(failures)
        self.result.without_consumer += len(batch) - len(failures)

    async def replay(self, failures: Sequence[Failure]) -> None:
        """Replay these concurrently."""
        new = [each for each in failures if each.id not in self.outstanding]
        began = self._loop.time()
        added = len(new) if self._options.dry_run else sum(await together(map(self._replay, new)))
        self.rate.did(added, began)
        self.result.replayed += added
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
            self._problems[consumer] = await self._look_up(consumer)
        return self._problems[consumer]

    async def _look_up(self, consumer: ConsumerKey) -> WindshiftError | None:
        try:
            found = await self._api.consumer(*consumer, self._deadline)
        except NatsError as refusal:
            error = domain_error(refusal, stream=consumer.stream, consumer=consumer.name)
            if isinstance(error, StreamNotFound | ConsumerNotFound):
                return error
            raise error from refusal
        return ConsumerNotFound(consumer.name) if found is None else None


def _consumer(failure: Failure) -> ConsumerKey:
    return ConsumerKey(failure.id.stream, failure.id.consumer)


@contextmanager
def _keep_progress(result: ReplayResult | PurgeResult) -> Iterator[None]:
    """Suppress an error of the broker, or that it is too much, if something was done before it."""
    begin = result.next
    try:
        yield
    except (BrokerUnavailable, OutcomeUnknown, StreamFull, QuotaExceeded):
        if result.next == begin:
            raise


# --- Many at once -------------------------------------------------------------------------------------------


class RateLimit:
    """Limits a rate. Idle time is not made up for.

    Attributes:
        batch_size: how many may be done at once.

    Args:
        rate: how many per second.
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
) -> dict[DeadLetterId, T]:
    """Call a function for each id, repeated ones once, and return the results."""
    results: dict[DeadLetterId, T] = {}
    for batch in batches(list(dict.fromkeys(ids)), MAX_CONCURRENT):
        done = await together(function(each, deadline) for each in batch)
        results.update(zip(batch, done, strict=True))
    return results
