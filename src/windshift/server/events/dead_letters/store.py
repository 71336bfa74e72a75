"""The stream of dead letters: reading, counting and removing. `writer` writes to it."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from math import ceil, inf
from time import time_ns
from typing import Any, Final, NamedTuple, TypeAlias

from windshift.nats import headers as h
from windshift.nats import retry
from windshift.nats.headers import HeaderLines
from windshift.nats.jetstream.api import JetStream, JsonObject, StoredMessage
from windshift.nats.jetstream.writes import Writes
from windshift.nats.times import NANOSECONDS, nanoseconds
from windshift.server.auth.quotas import GiveBack, nothing_taken
from windshift.server.background.batches import spread
from windshift.server.background.pacing import pause
from windshift.server.broker.asking import asking
from windshift.server.domain.errors import BrokerUnavailable, OutcomeUnknown, StreamFull
from windshift.server.domain.names import EVERYTHING
from windshift.server.events.backwards import BackwardScan
from windshift.server.events.dead_letters.codec import (
    CLAIM_SUBJECTS,
    CLAIMANT,
    OVERFLOW_SUBJECTS,
    SUBJECTS,
    EndedAt,
    EventCopy,
    StoredDeadLetter,
    claim_subject,
    dead_letter,
    end_subjects,
    entry_subject,
    join_overflow,
    read_entry,
    stored_size,
)
from windshift.server.events.dead_letters.model import (
    DeadLetter,
    DeadLetterFilter,
    DeadLetterId,
    id_pattern,
)
from windshift.server.events.managed_stream import Conflict, ManagedStream, SizeLimit, TooManyResults
from windshift.server.events.model import StreamSeq
from windshift.server.events.positions import rfc3339
from windshift.server.events.runs import Run

log = logging.getLogger(__name__)

STREAM: Final = "WS_DEAD_LETTERS"

_LONGEST_CLAIM: Final = timedelta(days=100 * 365)
"""The time at which it expires must fit into 64 bits of nanoseconds since 1970; a later one is past."""
_KEPT: Final = timedelta(days=30)
_CLAIM_COUNTS: Final = timedelta(minutes=10)
"""A claim that is kept for so long counts once; one that is kept for longer counts as many times more."""

_CONFIG: Final[JsonObject] = {
    "name": STREAM,
    "description": "Events that consumers of Windshift gave up on.",
    "subjects": [f"{SUBJECTS}>", f"{OVERFLOW_SUBJECTS}>", f"{CLAIM_SUBJECTS}>"],
    "storage": "file",
    "retention": "limits",
    "max_msgs_per_subject": -1,
    "allow_rollup_hdrs": True,
    "discard": "new",
    "max_age": nanoseconds(_KEPT),
    "allow_direct": True,
    "allow_msg_ttl": True,
}
_NEEDED: Final = ("subjects", "max_msgs_per_subject", "allow_rollup_hdrs", "allow_direct", "allow_msg_ttl")

_REPLAY: Final = b"replay"
"""Who claims the end of a replay: whichever of its deliveries."""
_WRITTEN_WITHIN: Final = 5 * 60 * NANOSECONDS
"""Age from which an overflow message is not waiting for its entry any more."""
_MAX_SCANNED: Final = 500
"""Entries that one page scans at most."""
_MAX_BYTES_SCANNED: Final = 4 * 1024 * 1024
"""Bytes of entries after which a page stops scanning."""
_LOOK_AGAIN: Final = 1.0
"""Seconds until it is looked again how much room the stream has."""
_MOST_NAMED: Final = 100
"""Events whose dead letters are looked up, in place of scanning for them."""
_MOST_WINDOWS: Final = 20
"""Windows in which one page looks backwards."""
_MATCHED: Final = 48
"""Bytes of what the three wildcards of `recall` match: a word, and two numbers of 64 bits."""
_HEADER_SIZE: Final = 512
"""Approximate bytes of an entry without its data."""


Charge: TypeAlias = Callable[[int, int | None, float], GiveBack]
"""Counts bytes that are about to be written, for whoever leaves them; 0 only asks. It is told how many are
left for all, or None while there are plenty, and the loop's time. It returns what takes that back, and raises
`QuotaExceeded`."""


class Usage(NamedTuple):
    """How much the stream of dead letters holds, in bytes.

    Attributes:
        size: what it holds, overflow messages included.
        limit: what it may hold; 0 = no limit.
    """

    size: int = 0
    limit: int = 0

    @property
    def left(self) -> int:
        """How many bytes dead letters may still take: a fiftieth is for what else is written there."""
        return self.limit - self.limit // 50 - self.size

    def has_room(self, size: int) -> bool:
        """Whether a dead letter of this size may be written."""
        return not self.limit or size <= self.left

    @property
    def is_scarce(self) -> bool:
        """Whether more than half is used: what is left is shared then."""
        return self.limit > 0 and self.size * 2 > self.limit

    @property
    def is_nearly_full(self) -> bool:
        """Whether four fifths are used."""
        return self.limit > 0 and self.size * 5 >= self.limit * 4


class UnreadableEntry(Exception):
    """Where a dead letter should be is a message that this version did not write."""


class RecordedEnd(NamedTuple):
    """What lies on the subjects on which an event ends: a dead letter, a claim, or nothing.

    Attributes:
        position: its sequence in the stream; 0 for nothing.
        ended: when the event ended: what becomes of a replay later is no other end of it.
        entry: the dead letter.
        claimant: who claimed that the event ended otherwise: it was acknowledged, or dropped.
    """

    position: int = 0
    ended: EndedAt = EndedAt()
    entry: StoredDeadLetter | None = None
    claimant: bytes = b""

    def is_of(self, run: Run) -> bool:
        """Whether the event ended in this run of the consumer, not in an earlier one."""
        return self.ended.position > 0 and run.has(*self.ended)

    @property
    def is_of_replay(self) -> bool:
        """Whether a replay of the event was acknowledged, or dropped."""
        return self.claimant == _REPLAY


class Page(NamedTuple):
    """Some dead letters, in the order in which they were asked for.

    Attributes:
        dead_letters: the dead letters.
        after: the position to go on after.
        more: whether there were more after it.
        scanned: how many were looked at.
    """

    dead_letters: list[DeadLetter]
    after: int
    more: bool
    scanned: int


class DeadLetterStore:
    """All dead letters of one account. Deadlines are in the loop's time.

    Every method raises `BrokerUnavailable` when the broker does not answer in time. Where the stream of dead
    letters does not exist there are none.

    Attributes:
        stream: the stream itself.
        usage: how much it holds, as it was seen last.
    """

    def __init__(
        self, api: JetStream, writes: Writes, default_replicas: int, limit: SizeLimit | None = None
    ) -> None:
        self.stream = ManagedStream(api, writes, _CONFIG, _NEEDED, default_replicas, limit or SizeLimit())
        self.usage = Usage()
        self._under_way = 0  # bytes that are being written: the broker may not have them yet
        self._looking = asyncio.Lock()
        self._looked_at = -inf

    async def ensure(self, replicas: int | None, deadline: float) -> None:
        """Create the stream, or raise the number of its replicas; leave what others set.

        May also raise `StreamFull`, `ReplicasUnavailable`, `SubjectsOverlap` or `OutcomeUnknown`.
        """
        await self.stream.ensure(replicas, deadline)

    # --- Room -----------------------------------------------------------------------------------------------

    async def look_at_usage(self, deadline: float) -> Usage:
        """See how much the stream holds."""
        info = await self.stream.info(deadline)
        if info is None:
            self.usage = Usage()
        else:
            size = info["state"]["bytes"] + self._under_way
            self.usage = Usage(size, max(0, info["config"].get("max_bytes") or 0))
        return self.usage

    @asynccontextmanager
    async def room(self, size: int, deadline: float) -> AsyncIterator[None]:
        """Set room aside for a dead letter of this size, which is written in the block. Raise as below."""
        await self.require_room(size, deadline)
        self.usage = self.usage._replace(size=self.usage.size + size)
        self._under_way += size
        try:
            yield
        finally:
            self._under_way -= size

    async def require_room(self, size: int, deadline: float, charge: Charge | None = None) -> GiveBack:
        """Raise `StreamFull` unless a dead letter of this size leaves room for what else has to be written.

        Raise `QuotaExceeded` when whoever is charged may not leave it. The stream is looked at for whoever is
        charged, and while there is no room, once a second at most: what others write is seen late. Return
        what takes back what was charged.
        """
        if charge is not None or not self.usage.has_room(size):
            await self._look_again(deadline)
        if not self.usage.has_room(size):
            raise StreamFull(f"stream {STREAM} is full", "raise its limit, or replay or purge dead letters")
        if charge is None:
            return nothing_taken
        left = self.usage.left if self.usage.is_scarce else None
        return charge(size, left, asyncio.get_running_loop().time())

    async def _charge_claim(
        self, size: int, kept_for: timedelta, deadline: float, charge: Charge
    ) -> GiveBack:
        """Count a claim by how long it is kept; raise `QuotaExceeded`. It may use all the room there is."""
        await self._look_again(deadline)
        times = max(1.0, min(kept_for, _KEPT) / _CLAIM_COUNTS)
        left = self.usage.limit - self.usage.size if self.usage.is_scarce else None
        return charge(ceil(size * times), left, asyncio.get_running_loop().time())

    async def _look_again(self, deadline: float) -> None:
        """See how much the stream holds, unless that was seen just now; as the server: others wait for it."""
        async with self._looking:
            now = asyncio.get_running_loop().time()
            if now < self._looked_at + _LOOK_AGAIN:
                return
            asker = asking.set("")
            try:
                await self.look_at_usage(deadline)
            finally:
                asking.reset(asker)
            self._looked_at = now

    # --- One dead letter, as the stream's leader has it ----------------------------------------------------

    async def entry(self, letter_id: DeadLetterId, deadline: float) -> StoredDeadLetter | None:
        """Read an entry; `None` if there is none. May also raise `UnreadableEntry`."""
        stored = await self.stream.last(entry_subject(letter_id), deadline)
        if stored is None:
            return None
        try:
            return read_entry(stored)
        except ValueError as error:
            raise UnreadableEntry from error

    async def end(self, letter_id: DeadLetterId, deadline: float) -> RecordedEnd:
        """Read how an event ended, if it has. May also raise `UnreadableEntry`."""
        stored = await self.stream.last(end_subjects(letter_id), deadline)
        if stored is None:
            return RecordedEnd()
        try:
            ended = EndedAt.of(stored)
            if stored.subject.startswith(CLAIM_SUBJECTS):
                claimant = h.get(stored.block, CLAIMANT)
                return RecordedEnd(stored.sequence, ended, None, b"?" if claimant is None else claimant)
            return RecordedEnd(stored.sequence, ended, read_entry(stored))
        except ValueError as error:
            raise UnreadableEntry from error

    async def claim(
        self,
        letter_id: DeadLetterId,
        claimant: bytes,
        kept_for: timedelta,
        run: Run,
        deadline: float,
        charge: Charge | None = None,
    ) -> bool:
        """Decide that an event ended without a dead letter; false when it had ended before, in this run.

        Safe to repeat for the same claimant. May also raise `OutcomeUnknown` or `StreamFull`; `QuotaExceeded`
        when whoever is charged may not leave it.
        """
        give_back = nothing_taken
        if charge is not None:
            size = stored_size(claim_subject(letter_id), ((CLAIMANT, claimant),), b"")
            give_back = await self._charge_claim(size, kept_for, deadline, charge)
        try:
            is_claimed = await self._claim_first(letter_id, claimant, kept_for, run, deadline)
        except (BrokerUnavailable, StreamFull):
            give_back()
            raise
        if not is_claimed:
            give_back()
        return is_claimed

    async def _claim_first(
        self,
        letter_id: DeadLetterId,
        claimant: bytes,
        kept_for: timedelta,
        run: Run,
        deadline: float,
    ) -> bool:
        """Store a claim; false when the event had ended before, in this run."""
        end = RecordedEnd()
        async for _ in retry(deadline):
            conflict = await self._claim(letter_id, claimant, kept_for, end, deadline)
            if conflict is None:
                return True
            try:
                end = await self.end(letter_id, deadline)
            except UnreadableEntry:
                return False
            except BrokerUnavailable:  # an earlier attempt may be what was in the way
                raise OutcomeUnknown from None
            if end.claimant == claimant:
                return True
            if end.is_of(run) or (not end.position and conflict.is_certain):
                return False
        raise OutcomeUnknown

    async def claim_replay(
        self, letter_id: DeadLetterId, number: int, position: int, kept_for: timedelta, deadline: float
    ) -> bool:
        """Decide that a replayed event ended acknowledged, or dropped, and remove its dead letter.

        That lay at a position; another one is of a later run of the consumer, and stays. False when the
        consumer had given up on the event again. Safe to repeat. May also raise `OutcomeUnknown` or
        `StreamFull`.
        """
        async for _ in retry(deadline):
            try:
                end = await self.end(letter_id, deadline)
            except UnreadableEntry:
                return False
            if end.entry is not None and end.entry.failure.replay_count >= number:
                return False
            if end.position == position or not end.position:  # it was purged: it must not become one again
                if await self._claim(letter_id, _REPLAY, kept_for, end, deadline) is not None:
                    continue
                end = end._replace(claimant=_REPLAY)
            if end.claimant:
                await self.delete(letter_id, deadline, upto=position)
            return True
        raise BrokerUnavailable

    async def _claim(
        self,
        letter_id: DeadLetterId,
        claimant: bytes,
        kept_for: timedelta,
        known: RecordedEnd,
        deadline: float,
    ) -> Conflict | None:
        """Store a claim in place of what is known; return why not, if that is not there any more."""
        ttl = b"%ds" % ceil(min(kept_for, _LONGEST_CLAIM).total_seconds())
        headers: HeaderLines = ((CLAIMANT, claimant), (h.TTL, ttl))
        if claimant == _REPLAY:
            headers = (*headers, known.ended.header)
        try:
            await self.stream.put(
                claim_subject(letter_id), b"", headers, deadline, known.position, end_subjects(letter_id)
            )
        except Conflict as conflict:
            return conflict
        return None

    async def find(self, letter_id: DeadLetterId, deadline: float) -> DeadLetter | None:
        """Read a dead letter without its data, nor what an overflow message has; `None` if there is none."""
        try:
            entry = await self.entry(letter_id, deadline)
        except UnreadableEntry:
            return None
        return None if entry is None else dead_letter(entry, entry.event, with_data=False)

    async def event(self, entry: StoredDeadLetter, deadline: float) -> EventCopy | None:
        """Reassemble an entry's event; `None` if its overflow is gone, as the entry should be by now."""
        if not entry.has_overflow:
            return entry.event
        overflow = await self.stream.last(entry.overflow_subject, deadline)
        return None if overflow is None else join_overflow(entry.event, overflow.body)

    async def get(self, letter_id: DeadLetterId, deadline: float) -> DeadLetter | None:
        """Read a dead letter; `None` if there is none."""
        before = None
        async for _ in retry(deadline):
            try:
                entry = await self.entry(letter_id, deadline)
            except UnreadableEntry:
                log.warning("the dead letter %s cannot be read", letter_id)
                return None
            if entry is None:
                return None
            event = await self.event(entry, deadline)
            if event is not None:
                return dead_letter(entry, event, with_data=True)
            if entry == before:
                log.error("the data of the dead letter %s is gone", letter_id)
                return None
            before = entry
        raise BrokerUnavailable

    async def delete(self, letter_id: DeadLetterId, deadline: float, upto: int = sys.maxsize) -> bool:
        """Remove a dead letter, if it lies up to a position; false when there was none.

        May also raise `OutcomeUnknown`.
        """
        async for _ in retry(deadline):
            stored = await self.stream.last(entry_subject(letter_id), deadline)
            if stored is None or stored.sequence > upto:
                return False
            removed = await self.stream.delete(stored.sequence, deadline)
            try:
                entry = read_entry(stored)
            except ValueError:
                pass
            else:
                if entry.has_overflow:
                    await self.stream.delete_last(entry.overflow_subject, deadline)
            if removed:
                return True
            # it was rewritten meanwhile
        raise BrokerUnavailable

    # --- All of a consumer, of a stream, or all, as the leader has them ------------------------------------

    async def recall(
        self, stream: str, consumer: str, deadline: float, after: int = 0
    ) -> dict[StreamSeq, int]:
        """Return which events of a consumer behind one are dead letters or claimed, and their times.

        Times are nanoseconds since 1970. A million of them take some ten seconds.
        """
        found: dict[StreamSeq, int] = {}
        pattern = f"_WS.*.{stream}.{consumer}.*.*"
        async for subject in self.stream.subjects(pattern, deadline, len(pattern) + _MATCHED):
            rest, _, stored_ns = subject.rpartition(".")
            seq = int(rest.rpartition(".")[2])
            if seq > after:  # a stream that was made anew has the ids of another before it
                found[StreamSeq(seq)] = max(found.get(StreamSeq(seq), 0), int(stored_ns))
        return found

    async def purge(self, stream: str, consumer: str, deadline: float) -> int:
        """Remove all; return how many there were. May also raise `OutcomeUnknown`."""
        overflows = self.stream.subjects(OVERFLOW_SUBJECTS + id_pattern(stream, consumer), deadline)
        unneeded = [each async for each in overflows if await self._is_unneeded(each, deadline)]
        # Not those that come meanwhile: a purge that takes long is sent again.
        upto = await self.last_position(deadline)
        purged = await self.stream.purge(SUBJECTS + id_pattern(stream, consumer), deadline, upto)
        for subject in unneeded:
            await self.stream.delete_last(subject, deadline)
        return purged

    async def _is_unneeded(self, overflow: str, deadline: float) -> bool:
        """Whether an overflow message is useless without its present entry, and no write is under way."""
        id_text, _, writer = overflow.removeprefix(OVERFLOW_SUBJECTS).rpartition(".")
        try:
            entry = await self.entry(DeadLetterId.parse(id_text), deadline)
        except (UnreadableEntry, ValueError):
            return False
        if entry is not None and entry.writer == writer:
            return True
        stored = await self.stream.last(overflow, deadline)
        return stored is not None and time_ns() - stored.unix_ns > _WRITTEN_WITHIN

    async def last_position(self, deadline: float) -> int:
        """Return the position of the last dead letter ever written; 0 for none."""
        return await self.stream.last_position(deadline)

    async def next_position(self, stream: str, consumer: str, after: int, deadline: float) -> int | None:
        """Return the position of the first dead letter after a position; `None` for none."""
        return await self.stream.next_position(SUBJECTS + id_pattern(stream, consumer), after, deadline)

    # --- Many, as some replica has them: the latest may be missing ------------------------------------------

    async def page(
        self,
        which: DeadLetterFilter,
        after: int,
        limit: int,
        deadline: float,
        *,
        max_data: int | None = None,
        newest_first: bool = False,
    ) -> Page:
        """Read dead letters after a position (0: from the first), or towards older ones before it.

        A page scans a limited number of entries, so it may be empty although there are more.

        Args:
            limit: most dead letters, 1 or more.
            max_data: most bytes of data, except for the first. With `None` no data is read, and dead letters
                with an overflow message lack the headers of other programs.
            newest_first: whether to read backwards; from the last, if the position is 0.
        """
        max_bytes = sys.maxsize if max_data is None else max_data
        scan = await self._named(which, after, deadline, newest_first=newest_first)
        if scan is None and newest_first:
            scan = await self._backwards(which, after, limit, deadline)
        elif scan is None:
            query = scan_query(which, after, limit, max_bytes)
            batch = await self.stream.scan(SUBJECTS + which.pattern, query, deadline)
            scan = Scan(batch.messages, batch.left, after)
        scanned = await spread(partial(_found_or_position, SUBJECTS + which.prefix), scan.messages)
        chosen = choose(scanned, scan.left, which, limit, max_bytes, newest_first=newest_first)
        dead_letters = [letter for _, letter in chosen.found]
        if max_data is not None:
            dead_letters = await self._complete(chosen.found, deadline)
        looked_at = sum(isinstance(each, Found) for each in scanned)
        return Page(dead_letters, chosen.seen or scan.position, chosen.more, looked_at)

    async def _complete(self, found: list[Found], deadline: float) -> list[DeadLetter]:
        """Read the data. What was removed meanwhile, or rewritten further on, is left out."""
        dead_letters = []
        for entry, _ in found:
            event = await self.event(entry, deadline)
            if event is not None:
                dead_letters.append(dead_letter(entry, event, with_data=True))
            await pause()
        return dead_letters

    async def _named(
        self, which: DeadLetterFilter, after: int, deadline: float, *, newest_first: bool
    ) -> Scan | None:
        """Read the messages of a few events; `None` if the filter names none, or too many."""
        subjects = [SUBJECTS + each for each in which.patterns_by_event]
        if not 0 < len(subjects) <= _MOST_NAMED:
            return None
        query = {"multi_last": subjects, "batch": _MAX_SCANNED, "max_bytes": _MAX_BYTES_SCANNED}
        try:
            batch = await self.stream.batch(query | ({} if newest_first else {"seq": after + 1}), deadline)
        except TooManyResults:
            return None
        if not newest_first:
            return Scan([each for each in batch.messages if each.sequence > after], batch.left, after)
        if batch.left:
            return None
        return Scan(
            [each for each in batch.messages[::-1] if each.sequence < (after or sys.maxsize)], 0, after
        )

    async def _backwards(self, which: DeadLetterFilter, before: int, limit: int, deadline: float) -> Scan:
        """Read the last messages before a position, newest first."""
        info = await self.stream.info(deadline)
        if info is None:
            return Scan([], 0, 0)
        newest = before - 1 if before else await self._newest(which, info["state"]["last_seq"], deadline)
        want = min(limit, _MAX_SCANNED) if which.is_everything else _MAX_SCANNED
        scan = BackwardScan(max(1, info["state"]["first_seq"]), newest, want, _MAX_SCANNED)
        messages: list[StoredMessage] = []
        held = 0
        for _ in range(_MOST_WINDOWS):
            if scan.is_over or len(messages) >= want or held >= _MAX_BYTES_SCANNED:
                break
            size = min(scan.newest - scan.oldest + 1, _MAX_SCANNED)
            query = {"seq": scan.oldest, "batch": size, "max_bytes": _MAX_BYTES_SCANNED}
            found = scan.take(await self.stream.scan(SUBJECTS + which.pattern, query, deadline)) or ()
            messages += found
            held += sum(len(each.block) + len(each.body) for each in found)
        return Scan(messages, int(not scan.is_over), scan.newest + 1)

    async def _newest(self, which: DeadLetterFilter, last: int, deadline: float) -> int:
        """Return the position of the last dead letter that may pass, or a later one."""
        if which.scan_to_ns is None:
            return last
        query = {"start_time": rfc3339(which.scan_to_ns), "next_by_subj": EVERYTHING}
        found = await self.stream.message(query, deadline)
        return last if found is None else found.sequence - 1

    async def count(self, stream: str, consumer: str, deadline: float) -> int:
        """Count the dead letters of a consumer, a stream, or all."""
        if stream or consumer:
            try:
                pattern = SUBJECTS + id_pattern(stream, consumer)
            except ValueError:  # another program's name, by which nobody consumes here
                return 0
            return await self.stream.count(pattern, deadline)
        info = await self.stream.info(deadline)  # the few others are counted sooner than those
        others = [
            await self.stream.count(f"{each}>", deadline) for each in (CLAIM_SUBJECTS, OVERFLOW_SUBJECTS)
        ]
        return 0 if info is None else max(0, int(info["state"]["messages"]) - sum(others))

    async def version(self, deadline: float) -> tuple[int, int] | None:
        """Return what changes with every dead letter that is added or removed; None = there are none."""
        info = await self.stream.info(deadline)
        if info is None or not info["state"]["messages"]:
            return None
        return info["state"]["messages"], info["state"]["last_seq"]


# --- Pages, decided without I/O -----------------------------------------------------------------------------


class Scan(NamedTuple):
    """Messages that a page is chosen from, in its order.

    Attributes:
        messages: the messages.
        left: how many more there are, or any number if that is not known; 0 = none.
        position: where to go on after, if it is not after the last of them.
    """

    messages: list[StoredMessage]
    left: int
    position: int


class Found(NamedTuple):
    """An entry, and the dead letter that it holds, without data."""

    entry: StoredDeadLetter
    dead_letter: DeadLetter


class Chosen(NamedTuple):
    """What is on a page."""

    found: list[Found]
    seen: int
    """The position of the last entry that was looked at; 0 for none."""
    more: bool


def scan_query(which: DeadLetterFilter, after: int, limit: int, max_bytes: int) -> dict[str, Any]:
    """Return the request for the entries to scan, without their pattern."""
    query: dict[str, Any] = {"batch": _MAX_SCANNED, "max_bytes": _MAX_BYTES_SCANNED}
    if which.is_everything:  # then scan no more than fits
        query["batch"] = min(limit, _MAX_SCANNED)
        query["max_bytes"] = min(max_bytes + limit * _HEADER_SIZE, _MAX_BYTES_SCANNED)
    if after == 0 and which.scan_from_ns is not None:
        return query | {"start_time": rfc3339(which.scan_from_ns)}
    return query | {"seq": after + 1}


def choose(
    scanned: list[Found | int],
    left: int,
    which: DeadLetterFilter,
    limit: int,
    max_bytes: int,
    *,
    newest_first: bool = False,
) -> Chosen:
    """Choose the entries of a page: `limit` at most, with `max_bytes` of data, or a larger one alone.

    `scanned` has entries in the order of the page, and the positions of anything else. `left` is how many
    more follow; any number if that is not known. With `newest_first` they are in reverse.
    """
    chosen: list[Found] = []
    seen = size = 0
    for each in scanned:
        if isinstance(each, int):
            seen = each
            continue
        candidate = each.dead_letter
        if which.is_past(candidate, newest_first=newest_first):
            return Chosen(chosen, candidate.position, more=False)
        if which.matches(candidate):
            size += candidate.data_size
            if len(chosen) == limit or (chosen and size > max_bytes):
                return Chosen(chosen, seen, more=True)
            chosen.append(each)
        seen = candidate.position
    return Chosen(chosen, seen, more=left > 0)


def _found_or_position(prefix: str, stored: StoredMessage) -> Found | int:
    """Read an entry whose subject begins in this way; return the position of whatever else is there."""
    if not stored.subject.startswith(prefix):
        return stored.sequence
    try:
        entry = read_entry(stored)
    except ValueError:
        return stored.sequence
    return Found(entry, dead_letter(entry, entry.event, with_data=False))
