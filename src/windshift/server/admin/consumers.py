"""Lists and shows consumers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from windshift.nats.jetstream.api import ConsumerState, JetStream, consumer_state
from windshift.nats.times import NANOSECONDS, Time
from windshift.server.admin.look import SLICE, ConsumerRow, Look, Page
from windshift.server.admin.views import ConsumerDetails, consumer_details
from windshift.server.auth.policy import Principal
from windshift.server.background.batches import batches, for_each
from windshift.server.background.pacing import pause
from windshift.server.domain.broker_errors import broker_errors
from windshift.server.domain.errors import BrokerUnavailable, ConsumerNotFound, StreamNotFound
from windshift.server.domain.pages import PageCut
from windshift.server.events import consumers
from windshift.server.events.consumers import is_durable
from windshift.server.events.dead_letters.replay_queue import ReplayQueue
from windshift.server.events.dead_letters.store import DeadLetterStore
from windshift.server.events.model import ConsumerKey
from windshift.server.ownership.amounts import owner_of

_AT_ONCE: Final = 32
_MOST_AGES: Final = 1_000
"""Consumers whose oldest event is looked for when a list is sorted by that."""
_MOST_FILTERS: Final = 4
"""Filters of a consumer whose oldest event is looked for: each needs a request."""
_LATEST: Final = 2.0**40
"""Seconds since 1970 beyond all times: what has nothing unsettled, or is not known, comes last."""

Key = tuple[float, str, str]
"""What a list of consumers is sorted by: a number, the stream's name and the consumer's."""


class ConsumerOrder(Enum):
    """What a list of consumers is sorted by."""

    NAME = "name"
    PENDING = "pending"
    UNSETTLED = "unsettled"
    OLDEST = "oldest"


class ConsumerEntry(NamedTuple):
    """A consumer in a list.

    Attributes:
        view: what `Consumers.get` says of it.
        details: what operators see beside that.
        oldest_unsettled: when its oldest event was stored that is not settled; None = all are settled, or it
            has more filters than are looked for.
        waiting_replays: replays of its dead letters that are not settled.
    """

    view: consumers.ConsumerView
    details: ConsumerDetails
    oldest_unsettled: Time | None
    waiting_replays: int


@dataclass(frozen=True, slots=True)
class ConsumerAdmin:
    """Looks at consumers. Deadlines are in the loop's time.

    All methods raise `BrokerUnavailable`, `StreamNotFound` and `ConsumerNotFound`.
    """

    _api: JetStream
    _look: Look
    _dead_letters: DeadLetterStore
    _replays: ReplayQueue

    async def page(
        self,
        stream: str,
        order: ConsumerOrder,
        caller: Principal | None,
        size: int,
        after: Key | None,
        deadline: float,
    ) -> Page[ConsumerEntry, Key]:
        """List the consumers that the caller may see, of a stream, or of all when `stream` is empty."""
        rows = await (self._look.rows_of(stream, deadline) if stream else self._look.consumers(deadline))
        if caller is not None:
            rows = await _visible(caller, rows)
        values = await self._values(order, rows, deadline)
        cut = PageCut[Key](size, after)
        for part in batches(rows, SLICE):
            cut.add((float(values.get(row.key, _LATEST)), *row.key) for row in part)
            await pause()
        keys, after = cut.page()
        found = await self._entries([ConsumerKey(*key[1:]) for key in keys], deadline)
        return Page([entry for entry in found if entry is not None], len(rows), after)

    async def seen_by(
        self, caller: Principal, keys: Sequence[ConsumerKey], deadline: float
    ) -> list[ConsumerKey]:
        """Return those that the caller may see of what it names, and maybe some that are not there."""
        seen = await for_each(keys, lambda key: self._is_seen(caller, key, deadline), at_once=_AT_ONCE)
        return [key for key, is_seen in zip(keys, seen, strict=True) if is_seen]

    async def _is_seen(self, caller: Principal, key: ConsumerKey, deadline: float) -> bool:
        if not caller.sees(key.stream):
            return False
        if caller.sees_consumer(*key, durable=False, owner=""):
            return True
        try:
            with broker_errors(stream=key.stream):
                state = await self._api.consumer(*key, deadline)
        except (StreamNotFound, BrokerUnavailable):  # what is not known to be the caller's is left out
            return False
        if state is None:
            return False
        return caller.sees_consumer(*key, durable=is_durable(state.config), owner=owner_of(state.config))

    async def _values(
        self, order: ConsumerOrder, rows: Sequence[ConsumerRow], deadline: float
    ) -> dict[ConsumerKey, float]:
        """Return what consumers are sorted by, from small to large; those without a value come last."""
        match order:
            case ConsumerOrder.NAME:
                return {}
            case ConsumerOrder.PENDING:
                return {row.key: -row.pending for row in rows}
            case ConsumerOrder.UNSETTLED:
                return {row.key: -row.unsettled for row in rows}
            case ConsumerOrder.OLDEST:
                keys = [row.key for row in rows if row.pending or row.unsettled][:_MOST_AGES]
                entries = zip(keys, await self._entries(keys, deadline), strict=True)
                return {
                    key: entry.oldest_unsettled.unix_ns / NANOSECONDS
                    for key, entry in entries
                    if entry is not None and entry.oldest_unsettled is not None
                }

    async def _entries(self, keys: Sequence[ConsumerKey], deadline: float) -> list[ConsumerEntry | None]:
        return await for_each(keys, lambda key: self._entry(key, deadline), at_once=_AT_ONCE)

    async def _entry(self, key: ConsumerKey, deadline: float) -> ConsumerEntry | None:
        """Describe a consumer; None when it was deleted meanwhile."""
        try:
            with broker_errors(stream=key.stream, consumer=key.name):
                info = await self._api.consumer_info(key.stream, key.name, deadline)
                if info is None:
                    return None
                state = consumer_state(info)
                oldest = await self._oldest(key.stream, state, deadline)
            count = await self._dead_letters.count(key.stream, key.name, deadline)
            waiting = await self._replays.count(key, deadline)
        except (StreamNotFound, ConsumerNotFound):
            return None
        return ConsumerEntry(
            consumers.view(key.stream, key.name, state, count), consumer_details(info), oldest, waiting
        )

    async def _oldest(self, stream: str, state: ConsumerState, deadline: float) -> Time | None:
        subjects = consumers.chosen_subjects(state.config)
        if not (state.pending or state.unsettled) or len(subjects) > _MOST_FILTERS:
            return None
        found = [
            await self._api.message(stream, {"seq": state.settled_to + 1, "next_by_subj": subject}, deadline)
            for subject in subjects
        ]
        first = min(
            (each for each in found if each is not None), key=lambda each: each.sequence, default=None
        )
        return None if first is None else first.time


async def _visible(caller: Principal, rows: Sequence[ConsumerRow]) -> list[ConsumerRow]:
    streams = {name for name in {row.key.stream for row in rows} if caller.sees(name)}
    seen: list[ConsumerRow] = []
    for some in batches(rows, SLICE):
        seen += (
            row
            for row in some
            if row.key.stream in streams
            and caller.sees_consumer(*row.key, durable=row.durable, owner=row.owner)
        )
        await pause()
    return seen
