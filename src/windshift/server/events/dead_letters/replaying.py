"""Sending dead letters back: to the consumer that gave up on the event, and to no other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, NamedTuple

from windshift.nats import NatsError
from windshift.nats.jetstream import JetStream
from windshift.server.broker_errors import domain_error
from windshift.server.errors import (
    BrokerUnavailable,
    ConsumerNotFound,
    OutcomeUnknown,
    StreamFull,
    StreamNotFound,
    WindshiftError,
)
from windshift.server.events.dead_letters.given_up import GivenUp
from windshift.server.events.dead_letters.letters import DeadLetter, LetterId
from windshift.server.events.dead_letters.listing import PAGE_BYTES, outstanding
from windshift.server.events.dead_letters.pace import AT_ONCE, Pace, groups, together
from windshift.server.events.dead_letters.page_tokens import BEGINNING, Place
from windshift.server.events.dead_letters.replays import Replays
from windshift.server.events.dead_letters.store import DeadLetterStore, LetterFilter

_PAGE: Final = 500


class ReplayOrder(NamedTuple):
    """How to replay.

    Attributes:
        rate: most replays per second.
        dry_run: only count.
        limit: most replays in all.
    """

    rate: int
    dry_run: bool
    limit: int


@dataclass(slots=True)
class Replayed:
    """What was done.

    Attributes:
        replayed: those whose event is delivered again now.
        already: those that were being replayed already.
        missing: those that there are not.
        without_consumer: those whose consumer or stream is gone.
        next: where to go on; the beginning = that was all.
    """

    replayed: int = 0
    already: int = 0
    missing: list[LetterId] = field(default_factory=list)
    without_consumer: int = 0
    next: Place = BEGINNING


class _Wanted(NamedTuple):
    """A dead letter whose event is to be delivered again, for which time."""

    id: LetterId
    replay_count: int


class Replaying:
    """Replays dead letters. Deadlines are times of the running loop.

    What is done twice is harmless, so whoever gets an error may simply ask again.
    """

    def __init__(self, store: DeadLetterStore, replays: Replays, api: JetStream, given_up: GivenUp) -> None:
        self._store = store
        self._replays = replays
        self._api = api
        self._given_up = given_up
        self._loop = asyncio.get_running_loop()
        self._draining = False

    def drain(self) -> None:
        """Have calls by filter end soon; they say how to go on."""
        self._draining = True

    async def these(self, ids: Sequence[LetterId], order: ReplayOrder, deadline: float) -> Replayed:
        """Replay some by their ids.

        Raises:
            StreamNotFound, ConsumerNotFound: nobody is there any more who could get one of them. Nothing was
                replayed.
        """
        outcome, run = Replayed(), self._run(order, deadline)
        wanted = await self._find(ids, outcome, deadline)
        await run.require_consumers(each.id for each in wanted)
        await run.look_up(each.id for each in wanted)
        for group in groups(wanted, run.pace.most):
            if not await run.wait():
                raise OutcomeUnknown("the deadline is too near for all of them at this rate; ask again")
            await run.replay(group, outcome)
        return outcome

    async def _find(self, ids: Sequence[LetterId], outcome: Replayed, deadline: float) -> list[_Wanted]:
        wanted = []
        for group in groups(list(dict.fromkeys(ids)), AT_ONCE):
            for each, letter in zip(group, await self._get(group, deadline), strict=True):
                if letter is None:
                    outcome.missing.append(each)
                else:
                    wanted.append(_wanted(letter))
        return wanted

    async def _get(self, ids: Sequence[LetterId], deadline: float) -> list[DeadLetter | None]:
        return await together(self._store.get(each, deadline) for each in ids)

    async def matching(
        self, which: LetterFilter, order: ReplayOrder, begin: Place, deadline: float
    ) -> Replayed:
        """Replay those that a filter lets through, until the limit is reached or the deadline nears.

        An error ends it too, but is raised only when nothing was done before it. Those that come back
        meanwhile, because the consumer gives up on them again, are not replayed once more.
        """
        upto = begin.upto or await self._store.last_position(deadline)
        begin = Place(begin.after, upto)
        outcome, run = Replayed(next=begin), self._run(order, deadline)
        try:
            run.outstanding = await self._replays.outstanding(which.stream, which.consumer, deadline)
            while await self._page(which, run, outcome):
                pass
        except (BrokerUnavailable, OutcomeUnknown, StreamFull):
            if outcome.next == begin:
                raise
        return outcome

    async def _page(self, which: LetterFilter, run: _Run, outcome: Replayed) -> bool:
        """Do a page; say whether to go on."""
        after, upto = outcome.next
        page = await self._store.page(which, after, _PAGE, PAGE_BYTES, run.deadline, with_data=False)
        letters = iter([letter for letter in page.letters if letter.position <= upto])
        while group := list(islice(letters, run.room(outcome))):
            if self._draining or not await run.wait():
                return False
            present = await run.with_consumer(group)
            await run.replay([_wanted(letter) for letter in present], outcome)
            outcome.without_consumer += len(group) - len(present)
            outcome.next = Place(group[-1].position, upto)
        if next(letters, None) is not None:
            return False
        there_are_more = page.more and page.after < upto
        outcome.next = Place(page.after, upto) if there_are_more else BEGINNING
        return there_are_more and run.room(outcome) > 0 and not self._draining

    def _run(self, order: ReplayOrder, deadline: float) -> _Run:
        return _Run(self._replays, self._api, self._given_up, order, deadline, self._loop)


class _Run:
    """One call: its pace, and what it knows of consumers and of replays that are under way."""

    def __init__(
        self,
        replays: Replays,
        api: JetStream,
        given_up: GivenUp,
        order: ReplayOrder,
        deadline: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._replays = replays
        self._api = api
        self._given_up = given_up
        self._order = order
        self.deadline = deadline
        self._loop = loop
        self.pace = Pace(order.rate)
        self.outstanding: frozenset[LetterId] = frozenset()
        self._problems: dict[tuple[str, str], WindshiftError | None] = {}

    def room(self, outcome: Replayed) -> int:
        """Return how many may be taken on next."""
        return min(self.pace.most, self._order.limit - outcome.replayed)

    async def wait(self) -> bool:
        """Wait until more may be done; false, at once, when that would be too late."""
        now = self._loop.time()
        pause = 0.0 if self._order.dry_run else self.pace.wait(now)
        if now + pause >= self.deadline:
            return False
        if pause > 0:
            await asyncio.sleep(pause)
        return True

    async def look_up(self, ids: Iterator[LetterId]) -> None:
        """Find out which are being replayed already."""
        self.outstanding = await outstanding(self._replays, ids, self.deadline)

    async def replay(self, wanted: Sequence[_Wanted], outcome: Replayed) -> None:
        """Replay these at once, and count them."""
        new = [each for each in wanted if each.id not in self.outstanding]
        outcome.already += len(wanted) - len(new)
        if self._order.dry_run:
            outcome.replayed += len(new)
            return
        began = self._loop.time()
        done = sum(await together(self._replay(each) for each in new))
        self.pace.did(done, began)
        outcome.replayed += done
        outcome.already += len(new) - done

    async def _replay(self, wanted: _Wanted) -> bool:
        replayed = await self._replays.replay(wanted.id, wanted.replay_count, self.deadline)
        if replayed:
            self._given_up.replayed()
        return replayed

    async def require_consumers(self, ids: Iterator[LetterId]) -> None:
        """Raise what stands in the way of delivering one of these."""
        for stream, consumer in dict.fromkeys((each.stream, each.consumer) for each in ids):
            problem = await self._problem(stream, consumer)
            if problem is not None:
                raise problem

    async def with_consumer(self, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
        """Leave out those that can be delivered to nobody."""
        ids = [letter.failure.id for letter in letters]
        problems = [await self._problem(each.stream, each.consumer) for each in ids]
        return [letter for letter, problem in zip(letters, problems, strict=True) if problem is None]

    async def _problem(self, stream: str, consumer: str) -> WindshiftError | None:
        key = stream, consumer
        if key not in self._problems:
            self._problems[key] = await self._look_for(stream, consumer)
        return self._problems[key]

    async def _look_for(self, stream: str, consumer: str) -> WindshiftError | None:
        try:
            found = await self._api.consumer(stream, consumer, self.deadline)
        except NatsError as refusal:
            error = domain_error(refusal, stream=stream, consumer=consumer)
            if isinstance(error, StreamNotFound | ConsumerNotFound):
                return error
            raise error from refusal
        return ConsumerNotFound(consumer) if found is None else None


def _wanted(letter: DeadLetter) -> _Wanted:
    return _Wanted(letter.failure.id, letter.failure.replay_count + 1)
