"""The queue of replays: events to be redelivered to the consumer that gave up on them, and to no other.

An outstanding replay is a *pointer* in the stream ``WS_REPLAYS``. The broker keeps nothing else for it, above
all no JetStream consumer: replays cost only by how many wait. A server with a subscriber reads the pointers
of its consumer and leases a free one.

A pointer is the only message of its subject, which ends with the id of the dead letter. Its body is the
number of the replay; its headers say how often it was delivered, and until when it is leased. Pointers of
earlier versions have only the first header, and count as not delivered. A replay that was cancelled has the
number 0, which is past for every dead letter, until its pointer is deleted: nobody delivers it any more.

A lease is a condition, not a lock: a pointer is rewritten or deleted only while it is what this lease wrote
last. So a lease that somebody else has taken over, after whatever pause, has no effect.

Whether a replay is cancelled or its event acknowledged is decided by the pointer, too: an ack claims it
before the dead letter is removed. Nobody delivers or cancels what is claimed. Whoever meets it when its time
is over does the rest: the server died that claimed it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from enum import Enum
from math import inf
from typing import Final, NamedTuple

from windshift.nats import headers as h
from windshift.nats import retry
from windshift.nats.headers import HeaderLines
from windshift.nats.jetstream.api import JetStream, JsonObject, StoredMessage
from windshift.nats.jetstream.writes import Writes
from windshift.nats.times import NANOSECONDS, nanoseconds, parse_rfc3339
from windshift.server.background.batches import batches
from windshift.server.domain.broker_errors import broker_errors
from windshift.server.domain.errors import BrokerUnavailable, OutcomeUnknown
from windshift.server.events.dead_letters.model import DeadLetterId, id_pattern
from windshift.server.events.managed_stream import Conflict, ManagedStream
from windshift.server.events.model import ConsumerKey
from windshift.server.events.notes import REPLAY, Notes

STREAM: Final = "WS_REPLAYS"
SUBJECTS: Final = "_WS.replay."
WRITER: Final = b"WS-Writer"
"""Which call wrote this: how a repeated write recognizes its own pointer."""
_ATTEMPTS: Final = b"WS-Attempts"
"""How often the replay was delivered so far."""
_HELD: Final = b"WS-Held"
"""For how many nanoseconds from when this was stored nobody else may deliver it."""
_LETTER: Final = b"WS-Letter"
"""Where the dead letter lay whose event was acknowledged: a later one is of another run of the consumer."""
CANCELLED: Final = 0
"""The number of a replay that was cancelled."""
RETURNED: Final = "-returned"
"""Ends the writer of a pointer that nobody holds: it is as it was when a delivery was given back."""
_CLAIMED: Final = "-claimed"
"""Ends the writer of a pointer whose event was acknowledged, or dropped."""

_CONFIG: Final[JsonObject] = {
    "name": STREAM,
    "description": "Events that consumers of Windshift are to be given again.",
    "subjects": [f"{SUBJECTS}>"],
    "storage": "file",
    "retention": "limits",
    "max_msgs_per_subject": -1,
    "allow_rollup_hdrs": True,
    "discard": "new",
    "max_age": 30 * 24 * 60 * 60 * NANOSECONDS,
    "allow_direct": True,
}
_NEEDED: Final = ("subjects", "max_msgs_per_subject", "allow_rollup_hdrs", "allow_direct")
ALL: Final = ConsumerKey("", "")
"""Stands for all consumers."""
_PAGE: Final = 50
"""Pointers that are read at once."""
_LOOKED_UP: Final = 500
"""Dead letters whose pointers are looked for at once."""
_LOOKED_UP_BYTES: Final = 1024 * 1024
_AT_ONCE: Final = 50
"""Pointers that are read in one turn of the event loop."""
_CANCELLED: Final = b"%d" % CANCELLED
_IN_PLACE: Final = (h.ROLLUP, b"sub")
"""Has a pointer take the place of another for good. What a limit of one message per subject removes may come
back when the broker is killed after what took the place was deleted. The limit goes first, so that there must
be none."""
_MOST_TAKEN: Final = 10_000
"""Pointers that this process has dealt with are remembered."""
_TAKEN_FOR: Final = 10.0
"""Seconds for which they are: the broker may bring one back, when it is killed or restored from a backup."""


# --- Pointers -----------------------------------------------------------------------------------------------


class Pointer(NamedTuple):
    """An outstanding replay, as it was read.

    Attributes:
        id: the dead letter.
        number: which replay of it this is, from 1 up; `CANCELLED` if it is over.
        attempts: how often it was delivered so far.
        position: where the pointer lies in the stream. Whoever writes it anew moves it.
        free_at_ns: when it may be delivered, in nanoseconds since 1970 by the broker's clock.
        is_leased: whether somebody has a lease of it, until then.
        is_claimed: whether its event was acknowledged, or dropped: the dead letter is to be removed.
        letter: the position of that dead letter.
    """

    id: DeadLetterId
    number: int
    attempts: int
    position: int
    free_at_ns: int
    is_leased: bool
    is_claimed: bool
    letter: int


def pointer_subject(letter_id: DeadLetterId) -> str:
    """Return the subject of a pointer."""
    return f"{SUBJECTS}{letter_id}"


def pointer_pattern(consumer: ConsumerKey) -> str:
    """Return the NATS pattern of the pointers of a consumer."""
    return SUBJECTS + id_pattern(*consumer)


def pointer_headers(writer: str, attempts: int, held_ns: int) -> HeaderLines:
    """Return the headers of a pointer that is delivered the `attempts`-th time."""
    own = (WRITER, writer.encode()), (_ATTEMPTS, b"%d" % attempts), (_HELD, b"%d" % held_ns)
    return *own, _IN_PLACE


def read_pointer(stored: StoredMessage) -> Pointer:
    """Read a pointer; raise `ValueError` for what Windshift did not write."""
    number, attempts = int(stored.body), int(read_header(stored, _ATTEMPTS) or 0)
    writer = read_header(stored, WRITER)
    return Pointer(
        DeadLetterId.parse(stored.subject.removeprefix(SUBJECTS)),
        number,
        attempts,
        stored.sequence,
        stored.unix_ns + int(read_header(stored, _HELD) or 0),
        number != CANCELLED and attempts > 0 and not writer.endswith(RETURNED),
        writer.endswith(_CLAIMED),
        int(read_header(stored, _LETTER) or 0),
    )


def read_header(stored: StoredMessage, name: bytes) -> str:
    """Read a header; empty when it is not there."""
    return (h.get(stored.block, name) or b"").decode("latin-1")


class Pointers(NamedTuple):
    """Some of the pointers of a consumer, in the order in which they were written.

    Attributes:
        pointers: the pointers.
        after: the position to continue after; 0 when there are no more.
    """

    pointers: list[Pointer]
    after: int


class Clock(NamedTuple):
    """The broker's clock, as it was read last.

    Attributes:
        unix_ns: what it said, in nanoseconds since 1970.
        read_at: when, by the running loop's.
        replicas: how many replicas the stream of pointers has.
    """

    unix_ns: int
    read_at: float
    replicas: int

    def seconds_until(self, unix_ns: int, now: float) -> float:
        """Return the seconds from `now`, a time of the running loop, to a time of the broker's clock."""
        return (unix_ns - self.unix_ns) / NANOSECONDS - (now - self.read_at)


# --- Leases -------------------------------------------------------------------------------------------------


class Lease:
    """One delivery of a replayed event, as long as nobody else may make another.

    Every method returns false when the pointer is not this lease's any more; then nothing was changed. They
    may be called at the same time, and are carried out one after the other. Each raises `BrokerUnavailable`
    or `OutcomeUnknown`, and may be repeated then. Deadlines are in the loop's time.

    Attributes:
        id: the dead letter.
        number: which replay of it this is.
        attempt: which delivery of the replay, from 1 up.
        since: when it began, in the loop's time.
        until: when it ends unless it is prolonged, in the loop's time.
        reply: what a delivery has where others have the subject for their acknowledgements. It is unique, and
            of the same form.
    """

    def __init__(self, stream: ManagedStream, pointer: Pointer) -> None:
        self.id: DeadLetterId = pointer.id
        self.number = pointer.number
        self.attempt = pointer.attempts + 1
        self.since = self.until = asyncio.get_running_loop().time()
        self._stream = stream
        self._subject = pointer_subject(pointer.id)
        self._sequence = pointer.position
        self._writer = secrets.token_hex(8)
        self._turn = asyncio.Lock()
        self._ended: bool | None = None
        self._is_claimed = False
        stream_name, consumer, seq, stored_ns = pointer.id
        fields = f"{self.attempt}.{seq}.{pointer.position}.{stored_ns}.0"
        self.reply = f"_WS.replaying.{stream_name}.{consumer}.{fields}".encode()

    @property
    def is_settled(self) -> bool:
        """Whether it was ended or given back."""
        return self._ended is True

    async def prolong(self, timeout: timedelta, deadline: float) -> bool:
        """Let nobody else deliver the event for as long as `timeout` from now on.

        Nobody does once it is claimed: whoever did that may say so again.
        """
        async with self._turn:
            if self._ended is not None:
                return False
            until = asyncio.get_running_loop().time() + timeout.total_seconds()
            if not self._is_claimed:
                is_written = await self._write(nanoseconds(timeout), self._writer, deadline)
                if not is_written and not self._is_claimed:
                    self._ended = False
                    return False
            self.until = until
            return True

    async def give_back(self, delay_ns: int, deadline: float) -> bool:
        """Let anybody deliver the event, as another attempt, once `delay_ns` nanoseconds are over."""
        async with self._turn:
            if self._is_claimed:
                return False
            if self._ended is None:
                self._ended = await self._write(delay_ns, f"{self._writer}{RETURNED}", deadline)
            return bool(self._ended)

    async def claim(self, letter: int, timeout: timedelta, deadline: float) -> bool:
        """Decide that the event is settled: its replay can be neither delivered nor cancelled any more.

        So can somebody who had the event before, and whose lease another one has by now: any attempt may be
        acknowledged. False when the replay was cancelled, or is over. Others do the rest after `timeout`:
        the dead letter is the one at the position `letter`.
        """
        body = b"%d" % self.number
        writer = f"{self._writer}{_CLAIMED}"
        headers = (*pointer_headers(writer, self.attempt, nanoseconds(timeout)), (_LETTER, b"%d" % letter))
        async with self._turn:
            async for _ in retry(deadline):
                try:
                    ack = await self._stream.put(
                        self._subject, body, headers, deadline, expected=self._sequence
                    )
                except Conflict:
                    found = await _last(self._stream, self._subject, deadline)
                    if found is None or found.body != body:
                        return False
                    self._sequence = found.sequence
                    self._is_claimed = read_header(found, WRITER).endswith(_CLAIMED)
                else:
                    self._sequence = ack.sequence
                    self._is_claimed = True
                if self._is_claimed:
                    self._ended = None
                    return True
        raise BrokerUnavailable

    async def end(self, deadline: float) -> bool:
        """End the replay."""
        async with self._turn:
            if self._ended is None:
                self._ended = await self._delete(deadline)
            return bool(self._ended)

    async def _write(self, held_ns: int, writer: str, deadline: float) -> bool:
        body, headers = b"%d" % self.number, pointer_headers(writer, self.attempt, held_ns)
        async for _ in retry(deadline):
            try:
                ack = await self._stream.put(self._subject, body, headers, deadline, expected=self._sequence)
            except Conflict:
                found = await self._find(deadline)
                if found is None:
                    return False
                if found == writer != self._writer:  # the answer to an earlier attempt was lost
                    return True
            else:
                self._sequence = ack.sequence
                return True
        raise BrokerUnavailable

    async def _delete(self, deadline: float) -> bool:
        async for _ in retry(deadline):
            if await self._stream.delete(self._sequence, deadline):
                return True
            if await self._find(deadline) is None:
                return False
        raise BrokerUnavailable

    async def _find(self, deadline: float) -> str | None:
        """See where the pointer is, and return who wrote it; `None` when it is not this lease's any more."""
        found = await _last(self._stream, self._subject, deadline)
        if found is None:
            return None
        writer = read_header(found, WRITER)
        is_ours, is_claimed = writer.startswith(self._writer), writer.endswith(_CLAIMED)
        if is_ours and is_claimed:  # the answer was lost
            self._is_claimed = True
        if found.sequence != self._sequence and (is_claimed or not is_ours):
            return None
        self._sequence = found.sequence
        return writer


async def _last(stream: ManagedStream, subject: str, deadline: float) -> StoredMessage | None:
    """Read a pointer after something was written that may have been stored."""
    try:
        return await stream.last(subject, deadline)
    except BrokerUnavailable:
        raise OutcomeUnknown from None


# --- The queue ----------------------------------------------------------------------------------------------


class Cancelling(Enum):
    """What came of cancelling a replay."""

    CANCELLED = "nobody delivers it"
    LEASED = "a subscriber has it"
    NONE = "there is none"


class ReplayQueue:
    """The outstanding replays of one account. Deadlines are in the loop's time.

    Every method raises `BrokerUnavailable` when the broker does not answer in time; those that write also
    raise `OutcomeUnknown` when it may have received the request.
    """

    def __init__(self, api: JetStream, writes: Writes, notes: Notes, default_replicas: int) -> None:
        self._api = api
        self._stream = ManagedStream(api, writes, _CONFIG, _NEEDED, default_replicas)
        self._notes = notes
        self._taken: dict[Pointer, float] = {}  # until when

    # --- What is outstanding ------------------------------------------------------------------------------

    async def add(self, letter_id: DeadLetterId, replay_count: int, deadline: float) -> bool:
        """Have an event redelivered; false when a replay is already outstanding. May raise `StreamFull`.

        Safe to call concurrently: there is one pointer, and one caller adds it.
        """
        try:
            return await self._add(pointer_subject(letter_id), b"%d" % replay_count, deadline)
        finally:  # even if nothing is new: the earlier notification may have been lost
            self._notes.send(REPLAY, letter_id.stream, letter_id.consumer)

    async def _add(self, subject: str, body: bytes, deadline: float) -> bool:
        writer, replaced = (WRITER, secrets.token_hex(8).encode()), 0
        async for _ in retry(deadline):
            try:
                headers = (writer, _IN_PLACE) if replaced else (writer,)
                await self._stream.put(subject, body, headers, deadline, expected=replaced)
            except Conflict as conflict:
                found = await _last(self._stream, subject, deadline)
                if found is not None and found.body != _CANCELLED:
                    return writer in found.headers
                if found is None and conflict.is_certain and not replaced:  # there was one, settled by now
                    return False
                replaced = 0 if found is None else found.sequence
            else:
                return True
        raise BrokerUnavailable

    async def cancel(
        self, letter_id: DeadLetterId, clock: Clock, deadline: float, seen: Pointer | None = None
    ) -> Cancelling:
        """End the replay of a dead letter, unless a subscriber has it. Safe to repeat.

        It is decided once, also against those who want to deliver it: whoever writes the pointer first.
        `seen` is its pointer, as some replica had it; it may be outdated.
        """
        async for _ in retry(deadline):
            pointer, seen, was_seen = seen or await self.find(letter_id, deadline), None, seen is not None
            if pointer is None:
                return Cancelling.NONE
            is_free = clock.seconds_until(pointer.free_at_ns, _now()) <= 0
            if pointer.is_claimed or (pointer.is_leased and not is_free):
                if not was_seen:
                    return Cancelling.LEASED
            elif await self._cancel(pointer, deadline):
                return Cancelling.CANCELLED
        raise BrokerUnavailable

    async def _cancel(self, pointer: Pointer, deadline: float) -> bool:
        """Write that a replay is over, and delete that; false when somebody else was faster."""
        lease = Lease(self._stream, pointer._replace(number=CANCELLED))
        with self._taking(pointer):
            if not await lease.prolong(timedelta(0), deadline):
                return False
            await lease.end(deadline)  # or whoever met it in between has done so
            return True

    async def outstanding_among(
        self, ids: Iterable[DeadLetterId], deadline: float
    ) -> frozenset[DeadLetterId]:
        """Return which of some dead letters have a replay outstanding.

        Any replica answers, so the latest may be missing, and some may be there that are over.
        """
        found: set[DeadLetterId] = set()
        for batch in batches([pointer_subject(each) for each in ids], _LOOKED_UP):
            query = {"multi_last": batch, "batch": len(batch), "max_bytes": _LOOKED_UP_BYTES}
            read = await self._stream.batch(query, deadline)
            pointers = [each async for each in self._readable(read.messages, deadline)]
            found.update(each.id for each in pointers if each.number != CANCELLED)
        return frozenset(found)

    async def find(self, letter_id: DeadLetterId, deadline: float) -> Pointer | None:
        """Read the pointer of a dead letter, as the stream's leader has it; `None` if there is none."""
        stored = await self._stream.last(pointer_subject(letter_id), deadline)
        found = [] if stored is None else [each async for each in self._readable([stored], deadline)]
        return found[0] if found else None

    async def count(self, consumer: ConsumerKey, deadline: float) -> int:
        """Count the outstanding replays of a consumer. Any replica answers: the latest may be missing."""
        try:
            pattern = pointer_pattern(consumer)
        except ValueError:  # another program's name, by which nobody consumes here
            return 0
        return await self._stream.count(pattern, deadline)

    async def any(self, consumer: ConsumerKey, deadline: float) -> bool:
        """Whether a consumer has replays outstanding, as the stream's leader knows."""
        return await self.next_position(consumer, 0, deadline) is not None

    async def clock(self, deadline: float) -> Clock | None:
        """Read the broker's clock; `None` when nothing is outstanding."""
        info = await self._stream.info(deadline)
        if info is None or not info["state"]["messages"]:
            return None
        time = parse_rfc3339(info["ts"])
        unix_ns = 0 if time is None else time.unix_ns
        return Clock(unix_ns, _now(), info["config"].get("num_replicas") or 1)

    async def page(self, consumer: ConsumerKey, after: int, deadline: float, size: int = _PAGE) -> Pointers:
        """Read pointers of a consumer, of a stream or of `ALL`, after a position (0: from the first).

        Any replica answers, so the latest may be missing, and some may be there that are gone. A page may
        have fewer than `size`, or none, and still not be the last.
        """
        query = {"seq": after + 1, "batch": size}
        batch = await self._stream.scan(pointer_pattern(consumer), query, deadline)
        pointers = [each async for each in self._readable(batch.messages, deadline) if _is_of(each, consumer)]
        more = bool(batch.left and batch.messages)
        return Pointers(pointers, batch.messages[-1].sequence if more else 0)

    async def next_position(self, consumer: ConsumerKey, after: int, deadline: float) -> int | None:
        """Return the position of the first pointer after another, as the stream's leader has them."""
        return await self._stream.next_position(pointer_pattern(consumer), after, deadline)

    async def _readable(self, stored: Iterable[StoredMessage], deadline: float) -> AsyncIterator[Pointer]:
        """Read pointers, and remove what is none: somebody else wrote it."""
        for number, each in enumerate(stored, 1):
            try:
                pointer = read_pointer(each)
            except ValueError:
                await self._stream.delete(each.sequence, deadline)
            else:
                yield pointer
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)

    # --- Delivering ---------------------------------------------------------------------------------------

    def is_taken(self, pointer: Pointer) -> bool:
        """Whether this process has just dealt with a pointer, which may have been read before that."""
        return self._taken.get(pointer, -inf) > _now()

    async def lease(self, pointer: Pointer, timeout: timedelta, deadline: float) -> Lease | None:
        """Take a replay to deliver it, for as long as `timeout`; `None` when somebody else was faster."""
        lease = Lease(self._stream, pointer)
        with self._taking(pointer):
            return lease if await lease.prolong(timeout, deadline) else None

    async def drop(self, pointer: Pointer, deadline: float) -> bool:
        """End a replay whose event is not to be delivered; false when somebody else was faster."""
        with self._taking(pointer):
            return await self._stream.delete(pointer.position, deadline)

    @contextmanager
    def _taking(self, pointer: Pointer) -> Iterator[None]:
        """Keep the other calls of this process away from a pointer: what they have read of it is outdated."""
        self._taken[pointer] = _now() + _TAKEN_FOR
        if len(self._taken) > _MOST_TAKEN:
            del self._taken[next(iter(self._taken))]
        try:
            yield
        except BaseException:  # it is as it was, or the next one sees that it is not
            self._taken.pop(pointer, None)
            raise

    # --- Consumers that are gone --------------------------------------------------------------------------

    async def position(self, deadline: float) -> int:
        """Return the position of the last pointer ever written; 0 for none."""
        return await self._stream.last_position(deadline)

    async def forget(self, consumer: ConsumerKey, upto: int, deadline: float) -> int:
        """End the replays of a consumer that is gone, those after the position `upto` excepted."""
        return await self._stream.purge(pointer_pattern(consumer), deadline, upto=upto)

    async def remove_old_consumers(self, deadline: float) -> None:
        """Delete the JetStream consumers by which earlier versions delivered pointers, unless one is in use.

        Such a server makes them anew when it needs them.
        """
        with broker_errors():
            info = await self._stream.info(deadline)
            if info is None or not info["state"].get("consumer_count"):
                return
            found = self._api.listed(f"CONSUMER.LIST.{STREAM}", "consumers", deadline)
            for name in [each["name"] async for each in found if _is_old(each)]:
                await self._api.delete_consumer(STREAM, name, deadline)


def _is_old(consumer: JsonObject) -> bool:
    """Whether an earlier version made a JetStream consumer, and nobody pulls from it."""
    ours = str(consumer["config"].get("description", "")).startswith("Replays of consumer ")
    return ours and not consumer.get("num_waiting")


def _is_of(pointer: Pointer, consumer: ConsumerKey) -> bool:
    stream, name = consumer
    return stream in ("", pointer.id.stream) and name in ("", pointer.id.consumer)


def _now() -> float:
    return asyncio.get_running_loop().time()
