"""Publishing many events, one after the other, with several portions of them under way at once.

What is checked of an event, and what an answer of the broker means, is in `publish`. Here is their order, and
what is done for many at once.

Where no ids are asked for, a portion goes by JetStream's fast ingest, if its stream lets it: one answer says
how many of its events, from the first one on, are stored. The others are published as always, so what is
wrong with them is found there. Nothing else is under way meanwhile, or it could come before them.
"""

from __future__ import annotations

import asyncio
from asyncio import CancelledError
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias, cast

from windshift.nats.jetstream.acks import PubAck, Stored
from windshift.nats.jetstream.writes import Sent, Writes
from windshift.server.background.pacing import paced
from windshift.server.domain import names
from windshift.server.domain.errors import InvalidField, UnboundSubject, WindshiftError
from windshift.server.events import headers
from windshift.server.events.model import Item, PublishRequest, Results
from windshift.server.events.publish import Publisher, describe_ack, writes_of
from windshift.server.events.targets import Target, Targets
from windshift.server.telemetry.tracer import Span, error_type

Feed: TypeAlias = AsyncIterator[tuple[Sequence[Item], float]]
"""Events in their order, some at a time, and until when (loop time) these are to be stored."""
Take: TypeAlias = Callable[[Results], Awaitable[None]]
"""Takes the results of the next events."""

_AHEAD: Final = 8
"""Portions that may be sent before the results of the first of them are taken."""
_LOOKUP: Final = 1.0
"""Seconds that looking up a stream may delay its events: without that they are published as always."""
_UNASKED: Final = 5.0
"""Seconds for which a call looks none up when that failed."""


class _Portion(NamedTuple):
    """Events that are sent together.

    Attributes:
        first: the place of the first one among all.
        requests: those that are written.
        sent: what was sent of them; None = there were none.
        spans: of those that are traced, by their places in the portion.
        errors: why others are not written, by their places in the portion, in this order.
    """

    first: int
    requests: Sequence[PublishRequest]
    sent: Sent | None
    spans: dict[int, Span]
    errors: dict[int, WindshiftError]


_Ahead: TypeAlias = asyncio.Queue[_Portion | Exception | None]
"""Portions that were sent, in their order; at the end, why there are no more."""


class Pipeline:
    """Publishes many events in their order."""

    def __init__(self, publisher: Publisher, writes: Writes, targets: Targets) -> None:
        self._publisher = publisher
        self._writes = writes
        self._targets = targets
        self._always = asyncio.Event()
        self._always.set()

    async def publish_all(self, items: Sequence[Item], deadline: float) -> Results:
        """Publish events until `deadline` (loop time); return what became of each."""
        results = Results(0, [], [], {})

        async def feed() -> Feed:
            yield items, deadline

        async def take(some: Results) -> None:
            results.ids.extend(some.ids)
            results.duplicates.extend(some.duplicates)
            results.errors.update(some.errors)

        await self.publish(feed(), take)
        return results

    async def publish(self, feed: Feed, take: Take, *, without_ids: bool = False) -> None:
        """Publish events in the order of `feed`, and have their results taken in that order.

        `without_ids` says that nobody asks for ids, nor for what is a duplicate: they may be wrong.

        As long as one of them is in trouble (no answer, a refusal that is looked into), no others are sent.
        What the feed raises is raised when all that came before has its results.
        """
        ahead: _Ahead = asyncio.Queue()
        room, steady = asyncio.Semaphore(_AHEAD), asyncio.Event()
        steady.set()
        sending = asyncio.create_task(paced(self._send(feed, ahead, room, steady, without_ids=without_ids)))
        try:
            while (portion := await ahead.get()) is not None:
                if isinstance(portion, Exception):
                    raise portion
                await take(await self._results(portion, steady))
                del portion  # it is not to be in memory until the next one comes
                room.release()
                if ahead.empty():  # all that was sent before the trouble, if there was any, is settled
                    steady.set()
        finally:
            portion = None  # an error keeps this frame: a cycle
            sending.cancel()
            await asyncio.wait((sending,))
            while not ahead.empty():
                self._abandon(ahead.get_nowait())

    # --- Sending ------------------------------------------------------------------------------------------

    async def _send(
        self,
        feed: Feed,
        ahead: _Ahead,
        room: asyncio.Semaphore,
        steady: asyncio.Event,
        *,
        without_ids: bool,
    ) -> None:
        loop = asyncio.get_running_loop()
        target: Target | None = None
        first, ask_at = 0, 0.0
        try:
            async for items, deadline in feed:
                if without_ids and loop.time() >= ask_at:
                    try:
                        target = await self._target(items, deadline, target)
                    except WindshiftError:
                        target, ask_at = None, loop.time() + _UNASKED
                stream = _ingesting(items, target)
                for some in self._portions(items, stream):
                    await room.acquire()
                    portion = await self._send_some(first, some, deadline, steady, stream)
                    ahead.put_nowait(portion)
                    self._watch(portion, ahead, steady)
                    first += len(some)
                    del some, portion  # the feed may wait for long
                del items
        except Exception as error:  # noqa: BLE001 - it is raised where results are taken
            ahead.put_nowait(error)
        else:
            ahead.put_nowait(None)

    async def _target(self, items: Sequence[Item], deadline: float, last: Target | None) -> Target | None:
        """Return the stream that takes all of these events, with luck the last one; None = there is none.

        Raise a `WindshiftError` if it cannot be looked up.
        """
        subjects = {item.subject for item in items if isinstance(item, PublishRequest)}
        if not subjects:
            return last
        now = asyncio.get_running_loop().time()
        if last is None or last.until <= now or not _takes(last, subjects):
            first = next(iter(subjects))
            try:
                names.subject("subject", first)
                last = await self._targets.of(first, min(deadline, now + _LOOKUP))
            except (InvalidField, UnboundSubject):  # each event will be told what is wrong with it
                return None
        return last if _takes(last, subjects) else None

    def _portions(self, items: Sequence[Item], stream: str) -> Iterator[Sequence[Item]]:
        sizes = [len(item.body) if isinstance(item, PublishRequest) else 0 for item in items]
        parts = self._writes.batches(sizes) if stream else self._writes.portions(sizes)
        return (items[part] for part in parts)

    async def _send_some(
        self, first: int, items: Sequence[Item], deadline: float, steady: asyncio.Event, stream: str
    ) -> _Portion:
        spans = self._publisher.begin_spans(items)
        writes, errors = writes_of(_traced(items, spans) if spans else items, deadline, headers.now())
        for place in spans.keys() & errors.keys():
            _end(spans.pop(place), errors[place])
        sent = await self._writes.send_all(writes, steady, stream) if writes else None
        if stream:
            steady.clear()  # until it is known what is stored of these
        return _Portion(first, _written(items, errors), sent, spans, errors)

    def _watch(self, portion: _Portion, ahead: _Ahead, steady: asyncio.Event) -> None:
        """Have no others sent when this is in trouble, also while results of those before are not taken.

        Its slots are free as soon as it has its answers.
        """
        sent = portion.sent
        if sent is None:
            return

        def look(_: asyncio.Future[None]) -> None:
            if ahead.empty():
                return  # it is being settled, or was: trouble shows there, where its slots are given back
            if not self._writes.are_stored(sent):
                steady.clear()  # first: its slots wake those who would overtake it
            self._writes.abandon_all(sent)

        if sent.burst.done.done():
            look(sent.burst.done)
        else:
            sent.burst.done.add_done_callback(look)

    # --- Results ------------------------------------------------------------------------------------------

    async def _results(self, portion: _Portion, steady: asyncio.Event) -> Results:
        first, requests, sent, spans, errors = portion
        outcomes: Stored | Sequence[PubAck | Exception] = ()
        if sent is not None:
            try:
                outcomes = await self._outcomes(requests, sent, steady)
            except CancelledError:
                self._abandon(portion)
                raise
        if spans:
            places = (place for place in range(len(requests) + len(errors)) if place not in errors)
            for place, outcome in zip(places, outcomes, strict=True):
                _end(spans.get(place), outcome)
        return self._publisher.results(first, requests, outcomes, errors)

    async def _outcomes(
        self, requests: Sequence[PublishRequest], sent: Sent, steady: asyncio.Event
    ) -> Stored | Sequence[PubAck | Exception]:
        acks = await self._writes.answered(sent)
        if isinstance(acks, Stored):
            return acks
        stored = [ack for ack in acks if ack is not None]
        if len(stored) == len(acks):
            return stored
        steady.clear()
        outcomes: dict[int, PubAck | Exception] = {}
        untaken, repeatable = self._writes.untaken(sent), self._writes.repeatable(sent)
        rest: list[int] = []
        is_over = False  # whether the broker stores again what it had not answered
        for place, ack in enumerate(acks):
            if place in untaken or (is_over and place in repeatable):
                rest.append(place)
                continue
            outcomes[place] = outcome = ack or await self._concluded(requests[place], sent, place)
            is_over = is_over or (place in repeatable and isinstance(outcome, PubAck))
        for part in self._writes.portions([len(requests[place].body) for place in rest]):
            places = rest[part]
            again = await self._writes.send_again(sent, places, self._always)
            repeated = await self._outcomes([requests[place] for place in places], again, steady)
            outcomes.update(zip(places, repeated, strict=True))
        return [outcomes[place] for place in range(len(acks))]

    async def _concluded(self, request: PublishRequest, sent: Sent, place: int) -> PubAck | Exception:
        """Do for one event what goes beyond the broker's first answer."""
        try:
            return await self._publisher.settled(
                request, sent.writes[place], self._writes.conclude(sent, place)
            )
        except Exception as error:  # noqa: BLE001 - it is the result of this event
            if error.__cause__ is not None:  # as a rule the answer, which would keep what it answers: a cycle
                error.__cause__.with_traceback(None)
            return error

    def _abandon(self, portion: _Portion | Exception | None) -> None:
        """Let go of events that nobody waits for any more."""
        if isinstance(portion, _Portion):
            if portion.sent is not None:
                self._writes.abandon_all(portion.sent)
            for _ in portion.requests:
                self._publisher.failed(CancelledError())
            for span in portion.spans.values():
                _end(span, CancelledError())


def _traced(items: Sequence[Item], spans: Mapping[int, Span]) -> Sequence[Item]:
    """Have events that are recorded carry the contexts of their spans."""
    return [
        item._replace(trace=spans[place].context)
        if place in spans and isinstance(item, PublishRequest)
        else item
        for place, item in enumerate(items)
    ]


def _written(items: Sequence[Item], errors: Mapping[int, WindshiftError]) -> Sequence[PublishRequest]:
    if not errors:
        return cast("Sequence[PublishRequest]", items)
    return [
        item for place, item in enumerate(items) if place not in errors and isinstance(item, PublishRequest)
    ]


def _takes(target: Target, subjects: Iterable[str]) -> bool:
    return all(map(target.subjects.takes, subjects))


def _ingesting(items: Sequence[Item], target: Target | None) -> str:
    """Return the stream whose fast ingest takes these events; empty = they are published as always.

    A cluster passes over a key that is being stored for somebody else as if it were stored.
    """
    if target is None or not target.fast_ingest:
        return ""
    if target.is_replicated and any(
        isinstance(item, PublishRequest) and item.idempotency_key for item in items
    ):
        return ""
    return target.stream


def _end(span: Span | None, outcome: PubAck | BaseException) -> None:
    if span is None:
        return
    if isinstance(outcome, BaseException):
        span.fail(error_type(outcome))
    else:
        describe_ack(span, outcome)
    span.end()
