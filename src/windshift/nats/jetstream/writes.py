"""Writes to JetStream: one message, one answer, retried until the caller's deadline.

What is guaranteed, and what is not:

- Nothing is sent without a connection. A write that waits for one, for its slot or for a leader was not
  stored; `Unavailable` or `TooManyInFlight` says so.
- A write that may have arrived is sent again only if it has a key by which the server recognizes it.
  Otherwise, and at the deadline, its outcome is unknown; `OutcomeUnknown` says so.
- The answer to a later attempt says nothing about an earlier one that may have arrived: see
  `JetStreamError.in_doubt`.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, NamedTuple, TypeAlias

from windshift.nats import headers as h
from windshift.nats.budget import RATE
from windshift.nats.errors import (
    Busy,
    Forbidden,
    JetStreamError,
    MessageTooLarge,
    NatsError,
    NoStream,
    NotConnected,
    OutcomeUnknown,
    StorageFull,
    TooManyInFlight,
    Unavailable,
)
from windshift.nats.jetstream import codes
from windshift.nats.jetstream.acks import PubAck, Stored, match_plain, read_pub_ack
from windshift.nats.jetstream.api import JetStream
from windshift.nats.jetstream.bursts import Answer, Burst, Bursts
from windshift.nats.requests import Handler, NoReply, Outcome, Requests
from windshift.nats.retry import Backoff, retry
from windshift.nats.semaphore import FairSemaphore

_OTHER_WRITE: Final = 0.005
"""Seconds until a read sees another write that a cluster has under way."""


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """Limits and timers of writes."""

    max_in_flight: int = 256
    """Of small writes, each of which counts once. There is as much room for larger ones, a quarter for each
    asker, and for several that are sent together: these count once more for each 16 KiB. And as much again
    for those of several that are sent again."""
    max_waiting: int = 10_000
    doubt_after: timedelta = timedelta(seconds=1)
    """How long to wait for an answer before looking up whether any stream takes the subject."""
    attempt_timeout: timedelta = timedelta(seconds=3)
    """When a write that may be repeated is sent again: a leader that died does not answer."""
    backoff: Backoff = field(default_factory=Backoff)
    lookup_timeout: timedelta = timedelta(seconds=1)
    """How long looking up the stream of a subject may take."""


class Part(NamedTuple):
    """A message of several that are stored together."""

    subject: bytes
    body: bytes
    headers: bytes
    """A block, see `windshift.nats.headers`; empty = none."""


class Write(NamedTuple):
    """A message for JetStream. One per publish, so it is a tuple."""

    subject: bytes
    body: bytes
    headers: bytes
    """A block, see `windshift.nats.headers`; empty = none."""
    deadline: float
    """In the loop's time."""
    repeatable: bool = False
    """Whether the server would recognize this message, so that sending it twice is harmless."""
    before: tuple[Part, ...] = ()
    """What is stored with it, see `together`."""
    asker: str = ""
    """For whom: writes of different askers take turns where they have to wait for each other."""


async def see_other_write(refusal: NatsError) -> None:
    """Wait until a read sees another write to the subject, if a write was refused for that."""
    if refusal.err_code == codes.WRONG_LAST_SEQUENCE_UNTOLD:
        await asyncio.sleep(random.random() * _OTHER_WRITE)


def together(parts: Sequence[Part], deadline: float, *, repeatable: bool = False) -> Write:
    """Return the write of messages that are stored all or none, one after the other (ADR-50).

    Their stream must allow it (``allow_atomic``): older servers store them one by one, without a word. At
    most 1,000; no subject twice if they have conditions. The acknowledgement has the sequence of the last.
    It is `repeatable` if all messages have ids: the server refuses the whole of what it has stored before.
    """
    name = secrets.token_hex(11).encode()
    marked = [
        part._replace(headers=_in_batch(part.headers, name, number, is_last=number == len(parts)))
        for number, part in enumerate(parts, 1)
    ]
    return Write(*marked[-1], deadline, repeatable, tuple(marked[:-1]))


def _in_batch(headers: bytes, name: bytes, number: int, *, is_last: bool) -> bytes:
    lines = h.line(h.BATCH_ID, name) + h.line(h.BATCH_SEQUENCE, b"%d" % number)
    if is_last:
        lines += h.line(h.BATCH_COMMIT, b"1")
    return (headers.removesuffix(h.END) or h.BEGIN) + lines + h.END


@dataclass(frozen=True, slots=True)
class Lane:
    """What writes of one kind share."""

    slots: FairSemaphore
    requests: Requests
    """Sends them."""


class Sent(NamedTuple):
    """Writes that were sent together; if they could not be, the answer to each is why."""

    writes: Sequence[Write]
    burst: Burst
    taken: FairSemaphore | None = None
    """Where they have slots."""
    slots: int = 0
    doubt_at: float = 0
    """When to find out why there are no answers, in loop time."""
    in_doubt: bool = False
    """Whether they had been sent before, and may have been stored then."""


class _Found(NamedTuple):
    until: float
    """When this expires, in loop time."""
    problem: NoReply | None = None
    """Why a write to it will not be answered; None = it will."""


Attempt: TypeAlias = tuple[Lane, bytes, str, int, float, float]
"""A write that was sent, and has slots: in which lane, its token, for whom, how many slots, and in loop time
when to wait no longer, and when to find out why there is no answer. One per publish: a named tuple takes
four times as long."""
Word: TypeAlias = Outcome | asyncio.Future[Outcome]
"""What came of a message, or what will."""
_Result: TypeAlias = Outcome | NotConnected

_AGAIN: Final = codes.TEMPORARY | {
    codes.DUPLICATE_IN_PROCESS,
    codes.BATCH_INCOMPLETE,
    codes.TOO_MANY_BATCHES,
}
_SLOT: Final = 16 * 1024
"""Bytes of a write for each slot. One that takes several is large: small ones do not wait for it."""
_HEADERS: Final = 256
"""Bytes that headers are taken to have, where many messages are counted before they are made."""
_FOUND_FOR: Final = 5.0
"""Seconds for which the stream of a subject is cached."""
_MOST_FOUND: Final = 4096
_BETWEEN_LOOKS: Final = 0.5
"""Seconds between looks whether somebody has found out why a write is not answered."""
_SHORT_LOOK: Final = 0.02
"""Seconds that a lookup of the stream may delay another attempt."""


class Writes:
    """Writes to streams. All writes of a process must use one instance, which bounds them together.

    Args:
        requests: sends what is small, or several together.
        api: JetStream's API.
        options: limits and timers.
        large: sends what is large and alone, on another connection: a small write does not come behind it.
            None = the same sends all.

    Attributes:
        is_shared: tells whether somebody is hindered who uses little. To be set.
    """

    def __init__(
        self,
        requests: Requests,
        api: JetStream,
        options: WriteOptions | None = None,
        large: Requests | None = None,
    ) -> None:
        self._connection = requests.connection
        self._requests = requests
        self._api = api
        self._options = options or WriteOptions()
        self._doubt_after = self._options.doubt_after.total_seconds()
        self._attempt_timeout = self._options.attempt_timeout.total_seconds()
        size, waiting = self._options.max_in_flight, self._options.max_waiting
        self._small = Lane(FairSemaphore(size, max_waiting=waiting), requests)
        slots_of_large = FairSemaphore(size, lambda _: max(1, size // 4), max_waiting=waiting)
        self._large = Lane(slots_of_large, requests if large is None else large)
        self._together = Lane(FairSemaphore(size, max_waiting=waiting), requests)
        # Who has these waits for nothing but the server. Who has slots of `_together`, and no answers, may
        # have them until what was sent before is settled: some of it may have to be sent again for that.
        self._again = FairSemaphore(size, max_waiting=waiting)
        self._all_slots = (self._small.slots, slots_of_large, self._together.slots, self._again)
        self._bursts = Bursts(requests.connection)
        self.is_shared: Callable[[], bool] = lambda: False
        self._patient = 0
        self._found: dict[bytes, _Found] = {}
        self._looking: dict[bytes, asyncio.Task[_Found]] = {}

    @property
    def in_flight(self) -> int:
        """How many slots are taken by writes that wait for an answer; a large one takes several."""
        return sum(slots.used for slots in self._all_slots)

    @property
    def waiting(self) -> int:
        """How many writes wait for a slot."""
        return sum(slots.waiting for slots in self._all_slots)

    async def write(self, write: Write) -> PubAck:
        """Store a message, and return the acknowledgement.

        Raise `JetStreamError` for an error that another attempt would meet too, `NoStream`, `MessageTooLarge`
        for more than the server takes now, `StorageFull`, `TooManyInFlight`, `Unavailable` or
        `OutcomeUnknown`.
        """
        if self._api.refusal:
            self._api.refuse_if_full()
        if write.before:
            await self._make_way(write)
        return await self._conclude(write, await self._attempt(write))

    def begin(self, write: Write, handler: Handler) -> Attempt:
        """Send a single message and return at once.

        `handler` is called once, with the outcome, which is for `stored`, and if that does not settle it, for
        `wait_on` at once, and what that returns for `finish`. Until then `abandon` ends it. Raise a
        `NatsError` if it cannot be sent now; `write` waits where that helps.
        """
        if self._api.refusal:
            self._api.refuse_if_full()
        slots = 1 if len(write.body) < _SLOT else self._slots_for(write)
        lane = self._small if slots == 1 else self._large
        if not lane.slots.take_now(write.asker, slots):
            raise TooManyInFlight
        return self._send(lane, write, slots, handler)

    def stored(self, attempt: Attempt, outcome: Outcome) -> int | None:
        """Return the sequence if the outcome is that it is stored now: then there is nothing left to do."""
        plain = match_plain(outcome) if isinstance(outcome, bytes) else None
        if plain is None:
            return None
        lane, _, asker, slots, _, _ = attempt
        if lane is self._small:  # calls cost on the hot path
            lane.slots.give_back(asker, slots)
        else:
            self._give_back(lane, asker, slots)
        return int(plain[2])

    def wait_on(self, write: Write, attempt: Attempt, outcome: Outcome) -> Word:
        """Wait on if there is no answer yet. Called by the handler: it may come before a task runs."""
        lane, token, _, _, until, doubt_at = attempt
        if outcome is NoReply.TIMED_OUT and doubt_at < until:
            return lane.requests.wait_on(token, write.subject, until)
        return outcome

    async def finish(self, write: Write, attempt: Attempt, word: Word) -> PubAck:
        """Do what `write` does after its first message was sent, and `wait_on` returned this."""
        return await self._conclude(write, await self._await_word(write, attempt, word))

    def abandon(self, attempt: Attempt) -> None:
        """Let go of a write that was sent."""
        lane, token, asker, slots, _, _ = attempt
        lane.requests.forget(token)
        lane.slots.give_back(asker, slots)

    def _give_back(self, lane: Lane, asker: str, slots: int) -> None:
        """Give slots back after an answer; after a large write its asker rests while it hinders others."""
        if lane is self._large and asker and self.is_shared():  # the server's own writes are for many
            lane.slots.give_back_late(asker, slots, slots * _SLOT / RATE)
        else:
            lane.slots.give_back(asker, slots)

    # --- Many at once -------------------------------------------------------------------------------------

    def portions(self, sizes: Sequence[int]) -> Iterator[slice]:
        """Cut writes, by the sizes of their bodies, into portions for `send_all`: all slots are for four."""
        return _cut([1 + size // _SLOT for size in sizes], max(1, self._options.max_in_flight // 4))

    def batches(self, sizes: Sequence[int]) -> Iterator[slice]:
        """Do the same for batches of fast ingest: a batch waits for one answer, so its bytes count."""
        return _cut([size + _HEADERS for size in sizes], _SLOT * max(1, self._options.max_in_flight // 16))

    async def send_all(self, writes: Sequence[Write], steady: asyncio.Event, stream: str = "") -> Sent:
        """Send single messages of one asker with the same deadline, in their order, when there is room.

        Nothing is sent as long as `steady` is not set. `answered` must follow, or `abandon_all`: these give
        the slots back. All have answers at some time, also before that: `NoReply.TIMED_OUT` if nothing else.

        Args:
            stream: stores them all and lets them be sent as a batch of fast ingest, which they are then:
                sequences and duplicates are not told, and `untaken` says which ones are to be sent again.
        """
        if stream:
            count = 1 + sum(len(write.body) + len(write.headers) for write in writes) // _SLOT
        else:
            count = self._count(writes)
        slots = (self._small if count == 1 else self._together).slots
        return await self._send_many(writes, steady, stream, slots, count)

    def _count(self, writes: Sequence[Write]) -> int:
        return sum([1 + len(write.body) // _SLOT for write in writes])

    async def _send_many(
        self, writes: Sequence[Write], steady: asyncio.Event, stream: str, slots: FairSemaphore, count: int
    ) -> Sent:
        asker, deadline = writes[0].asker, writes[0].deadline
        count = min(count, self._options.max_in_flight)
        try:
            if self._api.refusal:
                self._api.refuse_if_full()
            await self._connection.wait_ready(deadline)
            while True:
                await steady.wait()
                if self._bursts.behind:
                    await self._bursts.catch_up(deadline)
                await slots.take(asker, deadline, count)
                if steady.is_set() and not self._bursts.behind:
                    break
                slots.give_back(asker, count)  # there is trouble, which may need them
        except NatsError as error:
            return self._unsent(writes, TooManyInFlight() if isinstance(error, Busy) else error)
        now = self._requests.loop.time()
        try:
            if now >= deadline:
                raise Unavailable
            burst = self._bursts.ingest(writes, stream) if stream else self._bursts.send(writes)
        except NatsError as error:
            slots.give_back(asker, count)
            return self._unsent(writes, error)
        until, doubt_at = deadline, now + min(self._doubt_after, (deadline - now) / 2)
        if all(write.repeatable for write in writes):
            until = min(deadline, now + self._attempt_timeout)
        timer = self._requests.loop.call_at(until, burst.give_up, NoReply.TIMED_OUT)
        burst.done.add_done_callback(lambda _: timer.cancel())
        return Sent(writes, burst, slots, count, min(until, doubt_at))

    def _unsent(self, writes: Sequence[Write], error: NatsError) -> Sent:
        burst = Burst(b"", [write.subject for write in writes], self._requests.loop)
        burst.give_up(error)
        return Sent(writes, burst)

    def abandon_all(self, sent: Sent) -> None:
        """Let go of writes that were sent. What was let go already stays so."""
        if self._bursts.forget(sent.burst) and sent.taken is not None:
            sent.taken.give_back(sent.writes[0].asker, sent.slots)

    async def answered(self, sent: Sent) -> Stored | Sequence[PubAck | None]:
        """Wait for the answers to what was sent; return the acknowledgements.

        None = there is more to be done: `conclude` does it. `Stored` says that there is not.
        """
        burst = sent.burst
        try:
            if not burst.done.done():
                await asyncio.wait((burst.done,), timeout=sent.doubt_at - self._requests.loop.time())
            if not burst.done.done():
                await self._doubt_all(burst)
        finally:
            self.abandon_all(sent)
        return burst.stored() or list(map(_acknowledged, burst.answers))

    def are_stored(self, sent: Sent) -> bool:
        """Tell, when all have answers, whether these look like acknowledgements: `answered` reads them."""
        return sent.burst.stored() is not None or all(
            b'"error":' not in answer if isinstance(answer, bytes) else isinstance(answer, PubAck)
            for answer in sent.burst.answers
        )

    def untaken(self, sent: Sent) -> set[int]:
        """Return the places of writes that a batch did not take; they are certainly not stored."""
        return {place for place, answer in enumerate(sent.burst.answers) if answer is NoReply.NOT_TAKEN}

    def repeatable(self, sent: Sent) -> set[int]:
        """Return the places of writes that were not answered, and may be sent again."""
        answers = zip(sent.writes, sent.burst.answers, strict=True)
        return {
            place
            for place, (write, answer) in enumerate(answers)
            if answer is NoReply.NO_RESPONDERS
            or isinstance(answer, NotConnected)
            or (answer in _LOST and write.repeatable)
        }

    async def send_again(self, sent: Sent, places: Sequence[int], steady: asyncio.Event) -> Sent:
        """Send some of the writes again, as `send_all` does, when there is somebody to take them.

        `answered` must follow at once, or `abandon_all`.
        """
        in_doubt = sent.in_doubt or any(sent.burst.answers[place] in _LOST for place in places)
        writes = [sent.writes[place] for place in places]
        again = await self._send_many(writes, steady, "", self._again, self._count(writes))
        return again._replace(in_doubt=in_doubt)

    async def conclude(self, sent: Sent, place: int) -> PubAck:
        """Do what `write` does after its first attempt, for one of the writes whose answers are there."""
        answer = sent.burst.answers[place]
        try:
            if isinstance(answer, NatsError) and not isinstance(answer, NotConnected):
                raise answer
            if answer is None or isinstance(answer, PubAck):
                raise OutcomeUnknown  # cannot be: `answered` was not awaited, or had the acknowledgement
            return await self._conclude(sent.writes[place], answer)
        except JetStreamError as refusal:
            refusal.in_doubt = refusal.in_doubt or sent.in_doubt
            raise
        except _NOT_STORED:
            if sent.in_doubt:
                raise OutcomeUnknown from None
            raise

    async def _doubt_all(self, burst: Burst) -> None:
        """Wait on as `_doubt` does, for all that have no answer yet."""
        subjects = {burst.subjects[place] for place in burst.missing()[: self._options.max_in_flight]}
        looking = {subject: self._look_up(subject) for subject in subjects}
        await asyncio.wait(looking.values())
        for place in burst.missing():
            subject = burst.subjects[place]
            problem = looking[subject].result().problem if subject in looking else None
            if problem is not None:
                burst.answer(place, problem)
        while not burst.done.done() and not self._api.refusal:
            await asyncio.wait((burst.done,), timeout=_BETWEEN_LOOKS)
        burst.give_up(NoReply.TIMED_OUT)

    # --- Steps --------------------------------------------------------------------------------------------

    def _slots_for(self, write: Write) -> int:
        size = len(write.body)
        for part in write.before:
            size += len(part.body)
        return 1 if size < _SLOT else min(1 + size // _SLOT, self._options.max_in_flight)

    def _send(self, lane: Lane, write: Write, slots: int, handler: Handler) -> Attempt:
        """Send with slots, which are free again if it could not be sent, or if its time is over."""
        subject, body, headers, until, is_repeatable, before, asker = write  # calls cost on the hot path
        now = self._requests.loop.time()
        if now >= until:
            lane.slots.give_back(asker, slots)
            raise Unavailable
        doubt_after, longest = self._doubt_after, (until - now) / 2
        doubt_at = now + (doubt_after if doubt_after < longest else longest)  # noqa: FURB136 - calls cost
        if is_repeatable:
            until = min(until, now + self._attempt_timeout)
            doubt_at = min(until, doubt_at)
        try:
            for part in before:
                self._connection.publish(*part)
            token = lane.requests.send(subject, body, headers, handler, doubt_at)
        except NatsError:
            lane.slots.give_back(asker, slots)
            raise
        return lane, token, asker, slots, until, doubt_at

    async def _make_way(self, write: Write) -> None:
        """Wait until all messages of a batch can be sent at once. Raise `MessageTooLarge` for one of them."""
        limit = self._connection.max_payload
        if any(len(part.headers) + len(part.body) > limit for part in write.before):
            raise MessageTooLarge(limit)
        await self._connection.wait_ready(write.deadline)

    async def _attempt(self, write: Write) -> _Result:
        """Take slots, send once, and wait for the answer."""
        slots = self._slots_for(write)
        lane = self._small if slots == 1 else self._together if write.before else self._large
        try:
            await lane.slots.take(write.asker, write.deadline, slots)
        except Busy:
            raise TooManyInFlight from None
        first: asyncio.Future[Word] = self._requests.loop.create_future()

        def take(outcome: Outcome) -> None:
            first.set_result(self.wait_on(write, attempt, outcome))

        try:
            attempt = self._send(lane, write, slots, take)
        except NotConnected as error:
            return error
        try:
            word = await first
        except asyncio.CancelledError:
            self.abandon(attempt)
            raise
        return await self._await_word(write, attempt, word)

    async def _await_word(self, write: Write, attempt: Attempt, word: Word) -> Outcome:
        """Wait for the answer that is still to come, if it is, and free the slots."""
        lane, token, asker, slots, _, _ = attempt
        try:
            if isinstance(word, asyncio.Future):
                return await self._doubt(attempt, write.subject, word)
        except asyncio.CancelledError:
            lane.requests.forget(token)
            raise
        finally:
            self._give_back(lane, asker, slots)
        return word

    async def _conclude(self, write: Write, result: _Result) -> PubAck:
        """Return the acknowledgement, or go on after an inconclusive first attempt."""
        ack = _read(result)
        return ack or await self._persist(write, result)

    async def _doubt(self, attempt: Attempt, subject: bytes, answer: asyncio.Future[Outcome]) -> Outcome:
        """Wait on, and look up meanwhile whether any stream will answer.

        The server itself says `NO_RESPONDERS` only if nobody at all subscribes to the subject.
        """
        lane, token, *_ = attempt
        requests = lane.requests
        looking = self._look_up(subject)
        await asyncio.wait((looking, answer), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            problem = looking.result().problem
            if problem is not None:
                requests.forget(token)
                return problem
        while not answer.done():
            if self._api.refusal:  # a disk that takes nothing is why there was no answer
                requests.forget(token)
                return NoReply.TIMED_OUT
            await asyncio.wait((answer,), timeout=_BETWEEN_LOOKS)
        return await answer

    async def _persist(self, write: Write, result: _Result) -> PubAck:
        """Go on after an inconclusive first attempt."""
        sent = _may_have_arrived(result)
        if self._patient >= self._options.max_waiting:
            raise OutcomeUnknown if sent else TooManyInFlight
        self._patient += 1
        try:
            await self._consider(write, result, sent=sent)
            async for _ in retry(write.deadline, self._options.backoff, first=2):
                await self._connection.wait_ready(write.deadline)
                result = await self._attempt(write)
                ack = _read(result)
                if ack is not None:
                    return ack
                sent = sent or _may_have_arrived(result)
                await self._consider(write, result, sent=sent)
        except _NOT_STORED:
            if sent:
                raise OutcomeUnknown from None
            raise
        except JetStreamError as error:
            error.in_doubt = sent
            raise
        finally:
            self._patient -= 1
        raise OutcomeUnknown if sent else Unavailable

    async def _consider(self, write: Write, result: _Result, *, sent: bool) -> None:
        """Return if the write is to be sent again; otherwise raise the caller's error."""
        if result is NoReply.UNANSWERING:
            raise OutcomeUnknown(_NO_ACK)
        if sent and not write.repeatable:
            raise OutcomeUnknown
        self._api.refuse_if_full()
        if result is NoReply.FORBIDDEN:
            raise Forbidden(write.subject.decode())
        if result is NoReply.NO_RESPONDERS:
            # During elections the API may be away for longer than the stream.
            looking = self._look_up(write.subject)
            await asyncio.wait((looking,), timeout=_SHORT_LOOK)
            if looking.done() and looking.result().problem is NoReply.NO_RESPONDERS:
                raise NoStream(write.subject.decode(errors="replace"))

    def _look_up(self, subject: bytes) -> asyncio.Task[_Found]:
        """Look up the stream of a subject, once for concurrent callers."""
        looking = self._looking.get(subject)
        if looking is None:
            looking = self._looking[subject] = self._requests.loop.create_task(self._find(subject))
            looking.add_done_callback(lambda _: self._looking.pop(subject, None))
        return looking

    async def _find(self, subject: bytes) -> _Found:
        """Look up the stream of a subject; assume that there is one if it cannot be looked up now."""
        now = self._requests.loop.time
        known = self._found.get(subject)
        if known is not None and known.until > now():
            return known
        until = now() + self._options.lookup_timeout.total_seconds()
        try:
            streams = await self._api.stream_names(subject.decode(), until)
        except (NatsError, UnicodeDecodeError):
            return _Found(now())
        if not streams:
            return _Found(now(), NoReply.NO_RESPONDERS)
        problem = None if await self._answers(streams[0], until) else NoReply.UNANSWERING
        if len(self._found) >= _MOST_FOUND:
            self._found.clear()
        self._found[subject] = found = _Found(now() + _FOUND_FOR, problem)
        return found

    async def _answers(self, stream: str, deadline: float) -> bool:
        """Return whether a stream acknowledges what it stores; assume so if it cannot be looked up now."""
        try:
            info = await self._api.stream_info(stream, deadline)
        except NatsError:
            return True
        return not info["config"].get("no_ack", False)


_NO_ACK: Final = (
    "the stream is set not to answer (no_ack), so nobody can tell whether it stored this; have it answer"
)

_GONE: Final = frozenset({NoReply.NO_RESPONDERS, NoReply.FORBIDDEN, NoReply.NOT_TAKEN})
"""The reasons for which a message certainly did not arrive."""
_LOST: Final = frozenset({NoReply.TIMED_OUT, NoReply.DISCONNECTED})
"""Those for which it may have arrived, and another attempt has a chance."""
_NOT_STORED: Final = (Unavailable, MessageTooLarge, TooManyInFlight, NoStream, StorageFull)
"""What an attempt raises that has stored nothing, though an earlier one may have."""


def _cut(costs: Sequence[int], most: int) -> Iterator[slice]:
    """Cut a sequence by what its elements cost; one that costs more than `most` stands alone."""
    if 0 < sum(costs) <= most:
        yield slice(0, len(costs))
        return
    cost, start, place = 0, 0, -1
    for place, more in enumerate(costs):
        if cost and cost + more > most:
            yield slice(start, place)
            cost, start = 0, place
        cost += more
    if cost:
        yield slice(start, place + 1)


def _read(result: _Result) -> PubAck | None:
    """Return the acknowledgement; `None` = try again. Raise a final refusal."""
    if not isinstance(result, bytes):
        return None
    try:
        return read_pub_ack(result)
    except JetStreamError as error:
        if error.err_code in _AGAIN:
            return None
        raise
    except ValueError:
        raise OutcomeUnknown("something other than a stream answered; the write may be stored") from None


def _acknowledged(answer: Answer | None) -> PubAck | None:
    """Return what an answer acknowledges; None = it is no acknowledgement."""
    if not isinstance(answer, bytes):
        return answer if isinstance(answer, PubAck) else None
    try:
        return read_pub_ack(answer)
    except (JetStreamError, ValueError):
        return None


def _may_have_arrived(result: _Result) -> bool:
    return isinstance(result, NoReply) and result not in _GONE
