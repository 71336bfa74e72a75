"""The last hour of streams and consumers in numbers, as the servers on the same broker remember it.

Two servers, those with the lowest ids, look every 10 seconds: more would only cost the broker. Each remembers
what it saw while it was one of them, and all are asked. A look at the streams is the one that lists share; of
the consumers those are looked at every time in which something has changed lately, and the others once a
minute. Looking takes about 2 % of the time: where it takes long, it is done less often.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from array import array
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple

from windshift.nats import NatsError
from windshift.nats.jetstream.api import JsonObject
from windshift.nats.times import NANOSECONDS
from windshift.server.admin.dead_letter_counts import DeadLetterCounts
from windshift.server.admin.gathering import Gathering
from windshift.server.admin.look import SLICE, Look, StreamRow
from windshift.server.admin.rings import IDLE, LENGTH, LONGEST_HOLD, Rings, Run, condensed, merged
from windshift.server.background.batches import batches
from windshift.server.domain.errors import ForbiddenByBroker, WindshiftError

log = logging.getLogger(__name__)

STEP: Final = 10.0
"""Seconds between two looks. All servers on a broker have to agree."""
MOST_STREAMS: Final = 500
MOST_CONSUMERS: Final = 1_000
"""Rings of each kind: with three numbers of four bytes they take 7 MB."""
MOST_NAMES: Final = 100
"""Streams, and as many consumers, that one question asks for."""
_LONGEST: Final = 511
_SKEW: Final = 6
"""Steps by which the clock of another server may be ahead."""
_LOOKING: Final = 2
"""Servers that look."""
_SHARE: Final = 50
"""Looking takes at most one part in so many of the time."""
_FORBIDDEN: Final = 600.0
"""Seconds after which what the broker forbade is tried again."""
_TIMEOUT: Final = 20.0
_FOR_LETTERS: Final = 5.0
"""Seconds of these that are left to count dead letters."""
_AT_ONCE: Final = 32


class Kind(Enum):
    """What is counted."""

    RATE = "rate"
    EVENTS = "events"
    BYTES = "bytes"
    LAG = "lag"
    IN_FLIGHT = "in flight"
    DEAD_LETTERS = "dead letters"


STREAM_KINDS: Final = (Kind.RATE, Kind.EVENTS, Kind.BYTES)
CONSUMER_KINDS: Final = (Kind.LAG, Kind.IN_FLIGHT, Kind.DEAD_LETTERS)


class Series(NamedTuple):
    """What one number was.

    Attributes:
        name: the stream, or the stream and the consumer with a slash between.
        start_ns: when the first step begins, in nanoseconds since 1970.
        step_ns: how long a step is.
        values: of each step; NaN = nobody looked.
    """

    name: str
    kind: Kind
    start_ns: int
    step_ns: int
    values: Sequence[float]


class History:
    """Looks, remembers, and asks all servers what they remember. `step` is seconds between two looks."""

    def __init__(
        self, look: Look, letters: DeadLetterCounts, gathering: Gathering, step: float = STEP
    ) -> None:
        self._look = look
        self._letters = letters
        self._gathering = gathering
        self._step = step
        self._loop = asyncio.get_running_loop()
        self._forget()
        gathering.answer("history", self._own)

    def _forget(self) -> None:
        self._streams = Rings(MOST_STREAMS, len(STREAM_KINDS))
        self._consumers = Rings(MOST_CONSUMERS, len(CONSUMER_KINDS))
        self._asked_streams = _Asked(MOST_STREAMS)
        self._asked_consumers = _Asked(MOST_CONSUMERS)
        self._before = _Sample()

    # --- Asking -------------------------------------------------------------------------------------------

    async def get(
        self, streams: Sequence[str], consumers: Sequence[str], since_ns: int, points: int
    ) -> tuple[list[Series], list[str]]:
        """Return what servers remember, and the ids of those that did not answer.

        Consumers are named by the stream's name, a slash and their own. `since_ns` is in nanoseconds since
        1970; `points` are the most values of a series, from 1 on.
        """
        now, step_ns = self._now(), int(self._step * NANOSECONDS)
        since = max(since_ns // step_ns, now - LENGTH + 1)
        question = {"streams": list(streams), "consumers": list(consumers), "since": since}
        gathered = await self._gathering.ask("history", question)
        runs: dict[tuple[str, Kind], list[Run]] = {
            (name, kind): [] for name in streams for kind in STREAM_KINDS
        }
        runs |= {(name, kind): [] for name in consumers for kind in CONSUMER_KINDS}
        entries = [entry for _, those in sorted(gathered.entries.items()) for entry in those]
        for some in batches(entries, _AT_ONCE):
            for name, kind, run in filter(None, map(_read, some)):
                if (name, kind) in runs and since <= run.start <= run.end <= now + _SKEW:
                    runs[name, kind].append(run)
            await asyncio.sleep(0)
        every = max(1, -(-(now + 1 - since) // points))
        series: list[Series] = []
        for keys in batches(list(runs), _AT_ONCE):
            for name, kind in keys:
                run = condensed(merged(runs[name, kind]), every, points, is_rate=kind is Kind.RATE)
                if run.values:
                    length = every * step_ns
                    series.append(Series(name, kind, run.start * length, length, run.values))
            await asyncio.sleep(0)
        return series, gathered.missing

    def _own(self, question: JsonObject) -> Iterator[JsonObject]:
        """Answer for this server; what is asked for is looked at from now on, for a while.

        Only so much can be: names of what is not there are not remembered. Of consumers those are that have a
        ring; of others their streams, the consumers of which are looked at then.
        """
        since = question.get("since")
        if not isinstance(since, int):
            return
        for rings, asked, kinds, names in (
            (self._streams, self._asked_streams, STREAM_KINDS, question.get("streams")),
            (self._consumers, self._asked_consumers, CONSUMER_KINDS, question.get("consumers")),
        ):
            for name in _texts(names):
                ring = rings.get(name)
                if ring is not None:
                    asked.add(name, self._now())
                    yield from (
                        _write(name, kind, ring.read(column, since)) for column, kind in enumerate(kinds)
                    )
                elif self._before.step < 0 or _stream(name) in self._before.streams:
                    self._asked_streams.add(_stream(name), self._now())

    def _now(self) -> int:
        return int(time.time() / self._step)

    # --- Looking ------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look, while this is one of the servers that do, until cancelled."""
        not_before = 0.0
        while True:
            rank = self._gathering.rank()
            moment = (rank + 0.5) / _LOOKING  # in the middle of its part of a step: they do not look at once
            await asyncio.sleep((moment - time.time() / self._step) % 1 * self._step)
            if self._before.step >= self._now() + _SKEW:
                self._forget()  # the clock was set back: until it is there again, none of it would be told
            began = self._loop.time()
            if rank >= _LOOKING or began < not_before or self._now() <= self._before.step:
                continue
            try:
                await self._sample(began + _TIMEOUT)
                took = self._loop.time() - began
                not_before = began + min(_SHARE * took, (LONGEST_HOLD - 1) * self._step)
            except ForbiddenByBroker:  # which is in the log
                not_before = began + _FORBIDDEN
            except (WindshiftError, NatsError, TimeoutError) as error:
                log.debug("nothing was seen for the history: %s", type(error).__name__)
            except Exception:
                log.exception("nothing was seen for the history")

    async def _sample(self, deadline: float) -> None:
        seen = await self._look.seen(deadline)
        if seen.at <= self._before.at:
            return  # nobody has looked since
        after = _Sample(seen.at, self._now(), seen.named)
        for rows in batches(seen.rows, SLICE):
            for row in rows:
                self._put_stream(row, after)
            await asyncio.sleep(0)
        await self._sample_consumers(seen.rows, after, deadline)
        self._before = after

    def _put_stream(self, row: StreamRow, after: _Sample) -> None:
        before, name = self._before, row.name
        is_wanted = row.changed_at > before.at or self._asked_streams.is_recent(name, after.step)
        ring = self._streams.claim(name, after.step) if is_wanted else self._streams.get(name)
        if ring is not None:
            rate = row.rate
            if name in before.last_ids:
                rate = max(0, row.last_id - before.last_ids[name]) / (after.at - before.at)
            ring.put(after.step, (rate, row.events, row.size))
            after.last_ids[name] = row.last_id

    # --- Consumers ----------------------------------------------------------------------------------------

    async def _sample_consumers(self, rows: Sequence[StreamRow], after: _Sample, deadline: float) -> None:
        with_consumers = {row.name for row in rows if row.consumers}
        active = self._active(after.step) & with_consumers
        found: dict[str, tuple[float, float]] = {}
        for some in batches(self._look.silent_last(active), _AT_ONCE):
            for each in await self._look.consumers_of(some, deadline - _FOR_LETTERS):
                name = f"{each.key.stream}/{each.key.name}"
                found[name] = each.pending, each.unsettled
                self._claim_consumer(name, found[name], after.step)
        at_rest = with_consumers - active
        for name, ring in self._consumers.items():
            if ring.last == self._before.step and _stream(name) in at_rest:
                found[name] = ring.latest[0], ring.latest[1]  # nothing changes in it
        kept = [name for name in found if self._consumers.get(name) is not None]
        letters = await self._letters.of([_split(name) for name in kept], deadline)
        for name in kept:
            kept_ring = self._consumers.get(name)
            if kept_ring is not None:
                kept_ring.put(after.step, (*found[name], letters[_split(name)]))

    def _active(self, step: int) -> set[str]:
        """Return the streams whose consumers are looked at, as far as they have any."""
        active = {name for name, ring in self._streams.items() if step - ring.claimed < IDLE}
        active.update(_stream(name) for name in self._asked_consumers.recent(step))
        is_round = (
            step // IDLE != self._before.step // IDLE
        )  # where nothing changes, it is looked once a minute
        for name, ring in self._consumers.items():
            if is_round or step - ring.claimed < IDLE:
                active.add(_stream(name))
        return active

    def _claim_consumer(self, name: str, values: tuple[float, float], step: int) -> None:
        """Give a consumer a ring if something changes in it or in its stream, or if there is room anyway."""
        ring, stream = self._consumers.get(name), self._streams.get(_stream(name))
        changed = self._consumers.has_room if ring is None else ring.latest[:2] != array("f", values).tolist()
        if stream is not None and stream.claimed == step:
            changed = True
        if changed or self._asked_consumers.is_recent(name, step):
            self._consumers.claim(name, step)


@dataclass(slots=True)
class _Sample:
    """What was seen last, `at` a loop time and in a step. The last ids are those of streams with a ring."""

    at: float = 0.0
    step: int = -1
    streams: Mapping[str, StreamRow] = field(default_factory=dict)
    last_ids: dict[str, int] = field(default_factory=dict)


class _Asked:
    """Names that somebody asked for lately, and when."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._steps: dict[str, int] = {}

    def add(self, name: str, step: int) -> None:
        if len(self._steps) >= self._most:
            self._steps = {name: self._steps[name] for name in self.recent(step)}
        if name in self._steps or len(self._steps) < self._most:
            self._steps[name] = step

    def is_recent(self, name: str, step: int) -> bool:
        """Whether somebody asked within the last minute."""
        return step - self._steps.get(name, -IDLE) < IDLE

    def recent(self, step: int) -> list[str]:
        return [name for name in self._steps if self.is_recent(name, step)]


def _split(name: str) -> tuple[str, str]:
    stream, _, consumer = name.partition("/")
    return stream, consumer


def _stream(name: str) -> str:
    return _split(name)[0]


# --- What servers tell each other -------------------------------------------------------------------------


def _texts(names: object) -> list[str]:
    """Read names; they may be anybody's."""
    found = names if isinstance(names, list) else []
    return [name for name in found[:MOST_NAMES] if isinstance(name, str) and len(name) <= _LONGEST]


def _write(name: str, kind: Kind, run: Run) -> JsonObject:
    """Write what a ring holds; the values as numbers of four bytes, the lowest first, in Base64."""
    return {
        "name": name,
        "kind": kind.value,
        "start": run.start,
        "values": b64encode(_little(run.values).tobytes()).decode(),
    }


def _read(entry: JsonObject) -> tuple[str, Kind, Run] | None:
    """Read what a server remembers; what is odd, or of another version, is left out."""
    name, start, values = entry.get("name"), entry.get("start"), array("f")
    try:
        kind = Kind(entry.get("kind"))
        values.frombytes(b64decode(entry["values"]))
    except (KeyError, TypeError, ValueError):
        return None
    if not isinstance(name, str) or not isinstance(start, int) or not 0 < len(values) <= LENGTH:
        return None
    return name, kind, Run(start, _little(values))


def _little(values: array[float]) -> array[float]:
    """Return values as the machine has them for those that are sent, and the other way round."""
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values
