"""What is remembered of events that the broker may deliver again. No I/O, no clock.

A nats-server writes down how far a consumer has come some ten times per second. When one is killed that has
no replicas, it forgets the settlements of that last moment, though it had confirmed them, and delivers the
events once more. This process remembers, and settles them again without anybody noticing.

JetStream counts attempts and says nothing else of them: when the first began, and why the last failed, is
remembered here for the dead letters that events may become. All of it is bounded, is this process's own, and
ends with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Final, TypeAlias

from windshift.server.events.consuming.flow import InFlight, Replay
from windshift.server.events.dead_letters.model import Cause, DeadLetterId, Failure
from windshift.server.events.deliveries import Delivery, stored_at
from windshift.server.events.model import ConsumerKey, StreamSeq

RunKey: TypeAlias = tuple[ConsumerKey, str]
"""A consumer, and the name of its run."""

# --- Settled lately ---------------------------------------------------------------------------------------

GENERATION: Final = 1.0
"""Seconds. When a connection is lost, the settlements of the last one to two of these are known."""

AFTERWARDS: Final = 30.0
"""Seconds, in addition to two timeouts of the consumer, for which they are kept after a reconnect: what the
broker delivered before it was killed is redelivered after its timeout."""


HEARSAY: Final = 60.0
"""Seconds for which it is remembered at least what other servers have settled."""

KEPT_UNUSED: Final = 120.0
"""Seconds for which the settlements of a consumer are remembered after its last call."""

ANY_TIME: Final = 0
"""In place of when an event was stored, where that is not known."""


@dataclass(slots=True, eq=False)
class Settled:
    """The recently settled events of one consumer.

    Of each it is known when the stream stored it: a broker that has lost its last events assigns their ids
    again, and nobody has settled the new ones.

    Attributes:
        users: how many calls share this.
        doubted: whether the broker may have forgotten some.
        forgettable: what the broker had confirmed just before it was lost.
    """

    users: int = 0
    doubted: bool = False
    forgettable: dict[StreamSeq, int] = field(default_factory=dict)
    _latest: dict[StreamSeq, int] = field(default_factory=dict)
    _before: dict[StreamSeq, int] = field(default_factory=dict)
    _lost: dict[StreamSeq, int] = field(default_factory=dict)
    _next: float = -inf
    _until: float = inf

    def add(self, seq: StreamSeq, stored_ns: int, now: float) -> None:
        """Note that the broker has confirmed a settlement."""
        self.latest(now)[seq] = stored_ns

    def latest(self, now: float) -> dict[StreamSeq, int]:
        """Return where to note what the broker confirms at this moment: when each event was stored."""
        if now >= self._next:
            self._before = self._latest if now < self._next + GENERATION else {}
            self._latest = {}
            self._next = now + GENERATION
        return self._latest

    def lose(self, under_way: Mapping[StreamSeq, int]) -> None:
        """Note that the connection ended: the broker may forget recent settlements.

        `under_way` are events with an unanswered acknowledgement. It may still arrive or be sent again, so
        nobody else should get them meanwhile.
        """
        self.forgettable = self._before | self._latest
        self._lost |= self.forgettable
        self._lost |= under_way
        self._until = inf
        self.doubted = bool(self._lost)

    def hear(self, events: Mapping[StreamSeq, int], now: float) -> None:
        """Note what another server has settled, and what the broker may have forgotten, or be about to."""
        self._lost |= events
        self.doubted = bool(self._lost)
        self._until = max(self._until, now + HEARSAY) if self.users else inf

    def begin(self, now: float, timeout: float) -> None:
        """Note that a call begins; those after the first one do not change how long anything is kept."""
        if self._until == inf:
            self.recover(now, timeout)

    def was_unused(self, seconds: float) -> None:
        """Note that no call asked for anything: what the broker has forgotten may yet come."""
        self._until += seconds

    def recover(self, now: float, timeout: float) -> None:
        """Note that the broker is back; `timeout` is the consumer's, in seconds."""
        self._until = now + 2 * timeout + AFTERWARDS

    def wait(self, now: float, timeout: float) -> None:
        """Note that a call asks for nothing: unless others do, what the broker has forgotten may yet come."""
        if now >= self._next + GENERATION:  # nobody settles anything
            self.recover(now, timeout)

    def lately(self, seq: StreamSeq, stored_ns: int) -> bool:
        """Whether an event was settled recently, whether or not the broker has forgotten it."""
        wanted = stored_ns, ANY_TIME
        known = self._latest.get(seq), self._before.get(seq), self._lost.get(seq)
        return known[0] in wanted or known[1] in wanted or known[2] in wanted

    def knows(self, seq: StreamSeq, stored_ns: int, now: float) -> bool:
        """Whether an event was settled that the broker may have forgotten."""
        if now > self._until:
            self._lost = {}
            self.doubted = False
        return self._lost.get(seq) in (stored_ns, ANY_TIME)

    def lost_at(self, now: float) -> Mapping[StreamSeq, int]:
        """Return what the broker may have forgotten, as far as that still counts."""
        return {} if now > self._until else self._lost

    def has(self, seq: StreamSeq) -> bool:
        """Whether an event that had this id was settled recently."""
        return seq in self._latest or seq in self._before or seq in self._lost


class SettledByConsumer:
    """The recently settled events of all consumers of this process.

    What was settled in one run of a consumer says nothing of another, so the run's name is part of the key.
    It tells a consumer that was deleted and created again from the one before, too.
    """

    def __init__(self) -> None:
        self._known: dict[RunKey, Settled] = {}
        self._unused: dict[RunKey, float] = {}

    def __len__(self) -> int:
        return len(self._known)

    def attach(self, consumer: ConsumerKey, run: str, now: float) -> Settled:
        """Share the memory of a consumer."""
        self._purge(now)
        key = consumer, run
        settled = self._known.setdefault(key, Settled())
        settled.users += 1
        settled.was_unused(now - self._unused.pop(key, now))
        return settled

    def detach(self, consumer: ConsumerKey, run: str, now: float) -> None:
        """Stop sharing it. It is kept for a while after its last user, because clients come back."""
        self._purge(now)
        key = consumer, run
        settled = self._known[key]
        settled.users -= 1
        if not settled.users:
            self._unused[key] = now

    def lately(self, consumer: ConsumerKey, run: str) -> Callable[[StreamSeq], bool]:
        """Return what says whether an event of a consumer that had an id was settled recently."""
        settled = self._known.get((consumer, run))
        return (lambda _: False) if settled is None else settled.has

    def lose(self) -> None:
        """Note that the connection ended, for all consumers."""
        for settled in self._known.values():
            settled.lose({})

    def forgettable(self) -> Iterator[tuple[ConsumerKey, str, dict[StreamSeq, int]]]:
        """Yield what the broker had confirmed just before it was lost, by consumer and run."""
        for (consumer, run), settled in self._known.items():
            if settled.forgettable:
                yield consumer, run, settled.forgettable
                settled.forgettable = {}

    def doubted(self, now: float) -> Iterator[tuple[ConsumerKey, str, Mapping[StreamSeq, int]]]:
        """Yield what the broker may have forgotten, and may deliver again, by consumer and run."""
        for (consumer, run), settled in self._known.items():
            if events := settled.lost_at(now):
                yield consumer, run, events

    def add(self, consumer: ConsumerKey, run: str, events: Mapping[StreamSeq, int], now: float) -> None:
        """Note what a server has settled just now, if that is of interest here."""
        settled = self._known.get((consumer, run))
        if settled is not None:
            settled.latest(now).update(events)

    def hear(self, consumer: ConsumerKey, run: str, events: Mapping[StreamSeq, int], now: float) -> None:
        """Note what another server has settled before the broker was lost.

        Clients of that server may come here next, so it is kept for a while also without a call.
        """
        self._purge(now)
        key = consumer, run
        settled = self._known.get(key)
        if settled is None:
            settled = self._known[key] = Settled()
            self._unused[key] = now
        settled.hear(events, now)

    def _purge(self, now: float) -> None:
        while self._unused:
            key, since = next(iter(self._unused.items()))
            if now < since + KEPT_UNUSED:
                return
            del self._unused[key], self._known[key]


# --- Failed attempts --------------------------------------------------------------------------------------

MOST_REMEMBERED: Final = 20_000
"""The most events whose failed attempts are remembered."""
_MOST_OF_ONE: Final = 4
"""One run may have a quarter of these at the expense of others."""
_QUIET_NS: Final = 3600 * 10**9
"""For how long nothing has failed in a run that makes room for others first."""

EventKey: TypeAlias = tuple[StreamSeq, int]
"""An event's id, and when the stream stored it: a recreated stream assigns ids again."""


@dataclass(slots=True)
class Attempts:
    """The failed attempts of one event. Times are nanoseconds since 1970.

    Attributes:
        first_ns: when the first one began.
        last_ns: when the last one began.
        reason: from the last reject.
        error_type: from the last reject.
        over: up to which attempt all are known to be over: the broker answered their rejects in time.
        over_at: when it answered the last of them.
        attempt: which one failed last; 0 = not known.
        next_ns: when the next one is due.
    """

    first_ns: int
    last_ns: int
    reason: str = ""
    error_type: str = ""
    over: int = 0
    over_at: float = -inf
    attempt: int = 0
    next_ns: int = 0


class FailedAttempts:
    """The failed attempts of events, by the run of the consumer, as what is settled.

    Where there are too many, those are forgotten that failed longest ago: of a run in which nothing has
    failed for long (its consumer may be gone), of a run that has many, or of that which failed longest ago.

    Attributes:
        trusted_since: when the broker may last have delivered something early, or forgotten something.
    """

    def __init__(self, limit: int = MOST_REMEMBERED) -> None:
        self._limit = limit
        self._count = 0
        self.trusted_since = -inf
        self._known: dict[RunKey, dict[EventKey, Attempts]] = {}  # each in the order of what failed last

    def __len__(self) -> int:
        return self._count

    def failed(
        self,
        run: RunKey,
        event: EventKey,
        began_ns: int,
        reason: str = "",
        error_type: str = "",
        *,
        attempt: int = 0,
        next_ns: int = 0,
    ) -> None:
        """Note a failed attempt that began at `began_ns`; the next one is due at `next_ns`."""
        events = self._known[run] = self._known.pop(run, {})
        known = events.pop(event, None)
        if known is None:
            known = Attempts(began_ns, began_ns)
            self._count += 1
        known.last_ns, known.attempt, known.next_ns = began_ns, attempt, next_ns
        if reason or error_type:
            known.reason, known.error_type = reason, error_type
        events[event] = known
        if self._count > self._limit:
            first, events_of_first = next(iter(self._known.items()))
            is_quiet = began_ns - next(reversed(events_of_first.values())).last_ns > _QUIET_NS
            crowded = first if is_quiet or len(events) <= max(1, self._limit // _MOST_OF_ONE) else run
            self.forget(crowded, next(iter(self._known[crowded])))

    def get(self, run: RunKey, event: EventKey) -> Attempts | None:
        """Return what is known of an event."""
        events = self._known.get(run)
        return None if events is None else events.get(event)

    def forget(self, run: RunKey, event: EventKey) -> None:
        """Forget an event: it is settled."""
        events = self._known.get(run)
        if events is not None and events.pop(event, None) is not None:
            self._count -= 1
            if not events:
                del self._known[run]

    def forget_all(self, run: RunKey) -> None:
        """Forget the events of a run: it is over."""
        self._count -= len(self._known.pop(run, ()))


@dataclass(slots=True, eq=False)
class Failures:
    """Remembers failed attempts at one consumer's events, and builds `Failure`s of those given up on."""

    _attempts: FailedAttempts
    _run: RunKey
    _unix_ns: Callable[[], int]

    def rejected(
        self,
        seq: StreamSeq,
        held: InFlight,
        now: float,
        cause: Cause,
        reason: str = "",
        error_type: str = "",
    ) -> Failure:
        """Return the record of an event that is given up on with the attempt `held`."""
        letter_id, number = self._letter(held.replay, seq, held.reply)
        began, known = self._began(held, now), self._known(letter_id)
        first = known.first_ns if known else began
        return Failure(letter_id, held.attempt, first, began, cause, reason, error_type, number)

    def exhausted(self, delivery: Delivery, replay: Replay | None, attempts: int) -> Failure:
        """Return the record of an event whose attempts are used up, with none in flight."""
        letter_id, number = self._letter(replay, delivery.id, delivery.reply)
        known = self._known(letter_id) or Attempts(0, 0)
        return Failure(
            letter_id,
            attempts,
            known.first_ns,
            known.last_ns,
            Cause.MAX_ATTEMPTS,
            known.reason,
            known.error_type,
            number,
        )

    def refused(self, delivery: Delivery, replay: Replay | None, reason: str, error_type: str) -> Failure:
        """Return the record of an event that is given up on before a client has this attempt."""
        letter_id, number = self._letter(replay, delivery.id, delivery.reply)
        known, now = self._known(letter_id), self._unix_ns()
        first = known.first_ns if known else now
        return Failure(letter_id, delivery.attempt, first, now, Cause.REJECTED, reason, error_type, number)

    def _letter(self, replay: Replay | None, seq: StreamSeq, reply: bytes) -> tuple[DeadLetterId, int]:
        """Return which dead letter an event becomes, and which replay of it failed; 0 = none did."""
        return (self.id(seq, reply), 0) if replay is None else (replay.id, replay.number)

    def _known(self, letter_id: DeadLetterId) -> Attempts | None:
        return self._attempts.get(self._run, (letter_id.seq, letter_id.stored_ns))

    def failed(
        self,
        seq: StreamSeq,
        held: InFlight,
        now: float,
        reason: str = "",
        error_type: str = "",
        *,
        delay_ns: int = 0,
    ) -> None:
        """Remember a failed attempt that is not the last; the next one is due after a delay."""
        self._attempts.failed(
            self._run,
            _key(seq, held.reply),
            self._began(held, now),
            reason,
            error_type,
            attempt=held.attempt,
            next_ns=self._unix_ns() + delay_ns,
        )

    def over(self, seq: StreamSeq, held: InFlight, now: float) -> None:
        """Note that the broker has taken the reject of an attempt in time: nobody holds that any more."""
        known = self._attempts.get(self._run, _key(seq, held.reply))
        if known is not None and self._is_over(known, held.attempt - 1):
            known.over, known.over_at = held.attempt, now

    def is_first(self, seq: StreamSeq, reply: bytes, attempt: int) -> bool:
        """Whether nobody can hold an earlier attempt of an event."""
        if attempt == 1:
            return True
        known = self._attempts.get(self._run, _key(seq, reply))
        return known is not None and self._is_over(known, attempt - 1)

    def _is_over(self, known: Attempts, attempt: int) -> bool:
        return attempt == 0 or (known.over == attempt and known.over_at > self._attempts.trusted_since)

    def settled(self, seq: StreamSeq, reply: bytes) -> None:
        """Forget what is known of an event."""
        self._attempts.forget(self._run, _key(seq, reply))

    def begin_run(self, run: RunKey) -> None:
        """Forget everything: the consumer was moved."""
        self._attempts.forget_all(self._run)
        self._run = run

    def id(self, seq: StreamSeq, reply: bytes) -> DeadLetterId:
        """Return the id of an event's dead letter, from a delivery of it."""
        consumer, _ = self._run
        return DeadLetterId(*consumer, seq, stored_at(reply))

    def _began(self, held: InFlight, now: float) -> int:
        return self._unix_ns() - round((now - held.since) * 1e9)


def _key(seq: StreamSeq, reply: bytes) -> EventKey:
    return seq, stored_at(reply)
