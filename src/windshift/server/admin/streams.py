"""Lists, shows, purges and deletes streams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, NamedTuple

from windshift.nats import JetStreamError
from windshift.nats.jetstream import codes
from windshift.nats.jetstream.api import JetStream, leave_subjects, subject_pages
from windshift.server.admin.dead_letter_counts import DeadLetterCounts
from windshift.server.admin.look import SLICE, Look, Page, StreamRow
from windshift.server.admin.probing import count_from
from windshift.server.admin.views import StreamView, stream_view
from windshift.server.auth.policy import Principal
from windshift.server.background.batches import batches, for_each
from windshift.server.background.pacing import pause
from windshift.server.domain.broker_errors import broker_errors
from windshift.server.domain.errors import (
    EventNotFound,
    NotAllowedByStream,
    StreamNotFound,
    TooManySubjects,
    WrongLastId,
)
from windshift.server.domain.pages import PageCut
from windshift.server.ownership.ownership import Ownership

MOST_SUBJECTS: Final = 100_000
_MOST_EVENTS: Final = 2**64
"""More than a subject can have."""
_AT_ONCE: Final = 12
"""Streams that one list asks for at once; the budget has room for no more answers to one asker."""


class StreamOrder(Enum):
    """What a list of streams is sorted by."""

    NAME = "name"
    EVENTS = "events"
    BYTES = "bytes"
    RATE = "rate"
    LAG = "lag"
    DEAD_LETTERS = "dead letters"
    NEWEST = "newest"


_VALUES: Final[Mapping[StreamOrder, Callable[[StreamRow], float]]] = {
    StreamOrder.EVENTS: lambda row: row.events,
    StreamOrder.BYTES: lambda row: row.size,
    StreamOrder.RATE: lambda row: row.rate,
    StreamOrder.NEWEST: lambda row: row.created_ns,
}
"""What a look knows already of what lists are sorted by."""


class StreamEntry(NamedTuple):
    """A stream in a list.

    Attributes:
        worst_lag: what the consumer that is furthest behind has yet to receive.
        dead_letters: those of its consumers.
        rate: events stored per second, as of the last two looks.
    """

    view: StreamView
    worst_lag: int
    dead_letters: int
    rate: float


@dataclass(frozen=True, slots=True)
class StreamQuery:
    """Which streams to list, and how.

    Attributes:
        find: text in lower case that is to be in a name or a subject; empty = all.
        descending: from large to small.
    """

    find: str = ""
    order: StreamOrder = StreamOrder.NAME
    descending: bool = False


async def _chosen(find: str, caller: Principal | None, rows: Sequence[StreamRow]) -> list[StreamRow]:
    """Return the rows to list, and let others run in between."""
    chosen: list[StreamRow] = []
    for some in batches(rows, SLICE):
        chosen += (row for row in some if row.contains(find) and (caller is None or caller.sees(row.name)))
        await asyncio.sleep(0)
    return chosen


@contextmanager
def _removal_errors(stream: str) -> Iterator[None]:
    """Do what `broker_errors` does; raise `NotAllowedByStream` where a stream lets nothing be removed."""
    with broker_errors(stream=stream):
        try:
            yield
        except JetStreamError as error:
            if not codes.forbids_removal(error):
                raise
            raise NotAllowedByStream(
                f"stream {stream!r} lets nobody remove events: another program made it so, for good "
                "(deny_delete, deny_purge or sealed)",
                {"name": stream},
            ) from error


@dataclass(frozen=True, slots=True)
class StreamAdmin:
    """Looks at streams, empties and deletes them. Deadlines are in the loop's time.

    All methods raise `BrokerUnavailable`, and those about one stream `StreamNotFound`; those that change
    something `OutcomeUnknown`.
    """

    _api: JetStream
    _look: Look
    _letters: DeadLetterCounts
    _ownership: Ownership | None = None

    # --- Looking ------------------------------------------------------------------------------------------

    async def page(
        self,
        query: StreamQuery,
        caller: Principal | None,
        size: int,
        after: tuple[float, str] | None,
        deadline: float,
    ) -> Page[StreamEntry, tuple[float, str]]:
        """List the streams that the caller may see. `after` is where the page before ended."""
        seen = await self._look.seen(deadline)
        rows = await _chosen(query.find, caller, seen.rows)
        value = await self._value(query.order, rows, deadline)
        cut = PageCut[tuple[float, str]](size, after, descending=query.descending)
        for some in batches(rows, SLICE):
            cut.add((float(value(row)), row.name) for row in some)
            await asyncio.sleep(0)
        keys, after = cut.page()
        entries = await self._entries([seen.named[name] for _, name in keys], deadline)
        return Page(entries, len(rows), after)

    async def get(self, name: str, deadline: float) -> StreamEntry:
        """Describe one stream as its leader has it now."""
        row = (await self._look.seen(deadline)).named.get(name)
        rate = 0.0 if row is None else row.rate
        entry = await self._entry(name, rate, await self._dead_letters_of([name], deadline), deadline)
        if entry is None:
            raise StreamNotFound(name)
        return entry

    async def _value(
        self, order: StreamOrder, rows: Sequence[StreamRow], deadline: float
    ) -> Callable[[StreamRow], float]:
        """Return what says of a stream what the list is sorted by."""
        if order is StreamOrder.LAG:
            lags = await self._lags(deadline)
            return lambda row: lags.get(row.name, 0)
        if order is StreamOrder.DEAD_LETTERS:
            letters = await self._dead_letters_of([row.name for row in rows], deadline)
            return lambda row: letters[row.name]
        return _VALUES.get(order, lambda _: 0)

    async def _lags(self, deadline: float) -> dict[str, int]:
        worst: dict[str, int] = {}
        for some in batches(await self._look.consumers(deadline), SLICE):
            for consumer in some:
                stream = consumer.key.stream
                worst[stream] = max(worst.get(stream, 0), consumer.pending)
            await asyncio.sleep(0)
        return worst

    async def _dead_letters_of(self, streams: Sequence[str], deadline: float) -> dict[str, int]:
        counts = await self._letters.of([(stream, "") for stream in streams], deadline)
        return {stream: count for (stream, _), count in counts.items()}

    async def _entries(self, rows: Sequence[StreamRow], deadline: float) -> list[StreamEntry]:
        letters = await self._dead_letters_of([row.name for row in rows], deadline)
        found = await for_each(
            rows, lambda row: self._entry(row.name, row.rate, letters, deadline), at_once=_AT_ONCE
        )
        return [entry for entry in found if entry is not None]

    async def _entry(
        self, name: str, rate: float, letters: Mapping[str, int], deadline: float
    ) -> StreamEntry | None:
        """Describe a stream; None when it was deleted meanwhile."""
        try:
            with broker_errors(stream=name):
                view = stream_view(await self._api.stream_info(name, deadline))
            worst = 0
            if view.consumers:
                rows = await self._look.rows_of(name, deadline)
                worst = max((row.pending for row in rows), default=0)
        except StreamNotFound:
            return None
        return StreamEntry(view, worst, letters[name], rate)

    async def subjects(
        self, stream: str, pattern: str, size: int, after: str | None, deadline: float
    ) -> tuple[list[tuple[str, int]], str | None]:
        """Return a page of the subjects that match, and where the next one begins, as `after` does here.

        Each is told with its number of events. May raise `TooManySubjects`.
        """
        request = {"subjects_filter": pattern or ">"}
        with broker_errors(stream=stream):
            answer = await self._api.call(f"STREAM.INFO.{stream}", request, deadline, read=leave_subjects)
        if int(answer.get("total") or 0) > MOST_SUBJECTS:
            raise TooManySubjects(MOST_SUBJECTS)
        cut = PageCut[tuple[str, int]](size, None if after is None else (after, _MOST_EVENTS))
        with broker_errors(stream=stream):
            for some in subject_pages(answer):
                cut.add(some)
                await pause()
        page, last = cut.page()
        return page, None if last is None else last[0]

    # --- Changing -----------------------------------------------------------------------------------------

    async def purge(self, stream: str, request: dict[str, Any], deadline: float, *, dry_run: bool) -> int:
        """Remove events, or count them.

        `request` is that of ``STREAM.PURGE``: ``filter``, and ``seq`` (the first id that stays) or ``keep``.
        May raise `NotAllowedByStream`.
        """
        if "seq" in request:  # beyond the last id the broker would leave out all ids up to there
            with broker_errors(stream=stream):
                info = await self._api.stream_info(stream, deadline)
            request = request | {"seq": min(request["seq"], int(info["state"]["last_seq"]) + 1)}
            if request["seq"] == 1:  # that is nothing; nats-server before 2.14.2 would remove everything
                return 0
        if dry_run:
            return await self._purgeable(stream, request, deadline)
        with _removal_errors(stream):
            return await self._api.purge_stream(stream, request, deadline)

    async def _purgeable(self, stream: str, request: dict[str, Any], deadline: float) -> int:
        filters = [request["filter"]] if "filter" in request else []
        count = await count_from(self._api, stream, 1, filters, deadline)
        if "keep" in request:
            return max(0, count - int(request["keep"]))
        if "seq" in request:
            return count - await count_from(self._api, stream, int(request["seq"]), filters, deadline)
        return count

    async def delete(self, stream: str, expected_last_id: int | None, deadline: float) -> None:
        """Delete a stream with all that is in it. May raise `WrongLastId`."""
        with broker_errors(stream=stream):
            if expected_last_id is not None:
                found = await self._api.find_stream(stream, deadline)
                if found is None:
                    raise StreamNotFound(stream)
                if found.last_sequence != expected_last_id:
                    raise WrongLastId(expected_last_id, found.last_sequence)
            await self._api.delete_stream(stream, deadline)
        if self._ownership is not None:
            self._ownership.stream_deleted(stream)

    async def delete_event(self, stream: str, sequence: int, deadline: float, *, erase: bool) -> None:
        """Delete one event; with `erase` its bytes are written over.

        May raise `EventNotFound` or `NotAllowedByStream`.
        """
        missing = codes.MESSAGE_GONE - {codes.STREAM_NOT_FOUND}
        with _removal_errors(stream):
            if not await self._api.delete_message(stream, sequence, deadline, erase=erase, missing=missing):
                raise EventNotFound(stream)
