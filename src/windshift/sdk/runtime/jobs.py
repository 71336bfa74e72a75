"""What a subscription knows of the events that it was given, without I/O.

A job is the handling of one event by this process. It outlives the call that delivered the event: the next
call goes on with it, by its token. If it cannot and the event comes again, the job that still runs goes on
with that, or what it decided is said again.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from windshift.protos import events
from windshift.sdk.deliveries import ACK, Outcome, Verdict

Identity = tuple[str, int, int, int]

_REMEMBERED = 5.0  # seconds of confirmed acks
_NOTICED = 30.0  # seconds after which a call has ended at the latest whose server is gone: the keepalive's


@dataclass(slots=True, eq=False)
class Job:
    """The handling of one event.

    Attributes:
        id: id of the event.
        event: as it was delivered first.
        token: lets another call go on with it; empty = it has none.
        call: number of the call that holds it; 0 = none.
        since: when its time began: with its first delivery, or when who iterates got it.
        pinged: when its lease began anew.
        started: whether it was handed to a handler, or to who iterates.
        verdict: what the handler decided.
        given_back: what counts if its handler returns: a block in it was cancelled; None = it was not.
        said: number of the call on which that was said and is not answered; 0 = none.
        resumed: number of the call that goes on with it by its token; 0 = none.
        doubted: whether its ack was said on a call that ended before the answer.
        tries: settlements that failed for now.
        expired: its handler took longer than `max_lease`.
    """

    id: int
    event: events.Event
    token: bytes
    call: int
    since: float
    pinged: float
    started: bool = False
    verdict: Verdict | None = None
    given_back: Verdict | None = None
    said: int = 0
    resumed: int = 0
    doubted: bool = False
    tries: int = 0
    expired: bool = False

    @property
    def identity(self) -> Identity:
        """Tells whether an id means the same event: a stream may have been made anew."""
        return _identity(self.event)


def _identity(event: events.Event) -> Identity:
    time = event.headers.timestamp
    return event.subject, time.seconds, time.nanos, len(event.data.value)


class Arrival(Enum):
    """What to do with a delivery."""

    NEW = auto()
    """Handle it."""
    ADOPTED = auto()
    """Nothing: its job runs, or waits for its turn."""
    DECIDED = auto()
    """Say again what its job decided."""


class _Acked(NamedTuple):
    identity: Identity
    time: float
    call: int


@dataclass(slots=True)
class _Doubtful:
    """How long acks are remembered that were confirmed last before a call ended.

    Attributes:
        anew_until: until when a first attempt is one that the broker has forgotten to have delivered.
        until: the same of later attempts.
    """

    anew_until: float = math.inf
    until: float = math.inf


class Jobs:
    """All jobs of a subscription.

    A broker that is killed forgets the last acks that it confirmed. Their events come again when it is back:
    at once if it forgot that it delivered them, else when a lease is over. So acks that were confirmed
    last before a call ended are remembered until then.
    """

    def __init__(self) -> None:
        self._table: dict[int, Job] = {}
        self._acked: OrderedDict[int, _Acked] = OrderedDict()
        self._doubtful: dict[int, tuple[_Acked, _Doubtful]] = {}  # those of calls that ended, in their order
        self._ended = _Doubtful()  # of calls after which none was taken up yet

    def __len__(self) -> int:
        return len(self._table)

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._table.values()))

    def get(self, event_id: int) -> Job | None:
        """Return the job of an event."""
        return self._table.get(event_id)

    def current(self, job: Job) -> bool:
        """Say whether the job's event is still known under its id."""
        return self._table.get(job.id) is job

    def deliver(self, event: events.Event, call: int, now: float) -> tuple[Job, Arrival]:
        """Take an event that was delivered on a call."""
        event_id = event.id
        job = self._table.get(event_id)
        if job is not None and job.identity == _identity(event) and not _retried(job):
            job.call, job.pinged, job.token, job.resumed = call, now, event.token, 0
            return job, Arrival.ADOPTED if job.verdict is None else Arrival.DECIDED
        job = self._table[event_id] = Job(event_id, event, event.token, call, now, now)
        if self._was_acked(job, call, now):
            job.started, job.verdict = True, ACK
            return job, Arrival.DECIDED
        self._doubtful.pop(event_id, None)
        return job, Arrival.NEW

    def _was_acked(self, job: Job, call: int, now: float) -> bool:
        acked = self._acked.get(job.id)
        if acked is not None:
            return acked.call != call and now - acked.time < _REMEMBERED and acked.identity == job.identity
        if job.id not in self._doubtful:
            return False
        acked, doubtful = self._doubtful[job.id]
        # Later, a first attempt is that of a consumer that was moved back
        until = doubtful.anew_until if job.event.delivery_attempt <= 1 else doubtful.until
        return acked.identity == job.identity and now < until

    def call_began(self, now: float, timeout: float) -> None:
        """Note that a call was taken up, for a consumer with a lease of `timeout` seconds."""
        ended, self._ended = self._ended, _Doubtful()
        ended.anew_until = now + timeout + _REMEMBERED  # a killed server may have had it meanwhile
        ended.until = ended.anew_until + timeout
        self._forget_doubtful(now)

    def settled(self, job: Job, now: float) -> None:
        """Forget a job whose verdict was confirmed; remember for a while that it was acknowledged.

        JetStream takes an ack of a delivery that it has forgotten, too, and delivers the event anew on the
        call that went on with the job.
        """
        self.drop(job)
        if job.verdict is ACK:
            self._acked[job.id] = _Acked(job.identity, now, 0 if job.resumed else job.call)
            self._acked.move_to_end(job.id)
        while self._acked and next(iter(self._acked.values())).time < now - _REMEMBERED:
            self._acked.popitem(last=False)
        if self._doubtful:
            self._forget_doubtful(now)

    def _forget_doubtful(self, now: float) -> None:
        while self._doubtful:
            event_id, (_, doubtful) = next(iter(self._doubtful.items()))
            if now < doubtful.until:
                return
            del self._doubtful[event_id]

    def refused(self, job: Job, now: float) -> None:
        """Forget a job whose verdict was for a delivery that nobody knows (any more).

        If its ack was in doubt, it may be stored; or a broker that was killed has forgotten the delivery, and
        delivers the event anew.
        """
        self.drop(job)
        if job.doubted:
            self.too_late(job, now)

    def too_late(self, job: Job, now: float) -> None:
        """Remember that a job succeeded whose ack came too late: if the event comes here, it was handled."""
        self._acked[job.id] = _Acked(job.identity, now, 0)
        self._acked.move_to_end(job.id)

    def drop(self, job: Job) -> None:
        """Forget a job."""
        if self.current(job):
            del self._table[job.id]

    def call_ended(self, call: int, now: float) -> list[Job]:
        """Note that a call has ended; return the jobs that are over, because it released what it held.

        What has a token is kept for the next call. But a retry that was said and not answered may have been
        heard: to say it again could hit the next attempt.
        """
        for event_id, acked in self._acked.items():
            if now - acked.time < _REMEMBERED + _NOTICED:
                self._doubtful.pop(event_id, None)
                self._doubtful[event_id] = acked, self._ended
        self._acked.clear()
        over: list[Job] = []
        for job in list(self._table.values()):
            if job.call == call:
                was_said = job.said > 0
                job.call, job.said, job.pinged = 0, 0, now
                job.doubted = job.doubted or (was_said and job.verdict is ACK)
                is_kept = bool(job.token) and not (was_said and _retried(job))
                if not is_kept and (not job.started or _retried(job)):
                    del self._table[job.id]
                    over.append(job)
        return over

    def resumable(self, most: int) -> list[Job]:
        """Return the jobs that another call may go on with by their tokens, those that run first."""
        waiting = (job for job in self._table.values() if not job.call and job.token)
        return sorted(waiting, key=lambda job: not job.started)[:most]

    def resume(self, jobs: Iterable[Job], call: int, now: float) -> list[Job]:
        """Go on with jobs on a call; return those whose verdicts are to be said."""
        decided: list[Job] = []
        for job in jobs:
            if self.current(job) and not job.call:
                job.call = job.resumed = call
                job.pinged = now
                if job.verdict is not None:
                    decided.append(job)
        return decided

    def not_resumed(self) -> list[Job]:
        """Forget, and return, what no call goes on with, and what would be a new attempt if it came again."""
        over = [job for job in self._table.values() if not job.call and (not job.started or _retried(job))]
        for job in over:
            del self._table[job.id]
        return over

    def forget(self, before: float) -> list[Job]:
        """Forget, and return, what was decided while no call held it and did not come again.

        Somebody else has it.
        """
        gone = [
            job
            for job in self._table.values()
            if not job.call and job.verdict is not None and job.pinged < before
        ]
        for job in gone:
            del self._table[job.id]
        return gone

    def leases(self, call: int, now: float, timeout: float, max_lease: float) -> tuple[list[Job], list[Job]]:
        """Return the jobs whose leases are to be prolonged now, and those whose time is over.

        A lease takes `timeout` seconds; the time of a job is over `max_lease` seconds after it began. That
        of what no call holds, because it was lost, runs on.
        """
        due: list[Job] = []
        expired: list[Job] = []
        for job in self._table.values():
            if job.call not in (0, call) or job.said:
                continue
            if job.verdict is None and job.started and now - job.since >= max_lease:
                if not job.expired:
                    job.expired = True
                    expired.append(job)
            elif job.call and job.pinged <= now - timeout / 4:
                job.pinged = now
                due.append(job)
        return due, expired


def _retried(job: Job) -> bool:
    """Say whether the job wants its event again: then a redelivery is a new attempt."""
    return job.verdict is not None and job.verdict.outcome is Outcome.RETRY
