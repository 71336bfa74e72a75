"""One consume call of a subscription."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from windshift.protos import events
from windshift.rpc import ClientCall
from windshift.sdk.deliveries import Outcome
from windshift.sdk.times import duration

from .jobs import Arrival, Job, Jobs

Request = events.EventsRequest
Response = events.EventsResponse

_MOST_RESUMED = 5_000  # tokens that a server takes
_BATCH = 100
"""Events in one response. Servers that know no batches send them one by one."""

_ACTIONS = {
    Outcome.RETRY: Request.REJECT_ACTION_RETRY,
    Outcome.DEAD_LETTER: Request.REJECT_ACTION_DEAD_LETTER,
    Outcome.DROP: Request.REJECT_ACTION_DROP,
}


class SessionOwner(Protocol):
    """What a call needs of its subscription."""

    jobs: Jobs

    @property
    def withholding(self) -> bool:
        """Whether verdicts are kept back, because each would make room for another delivery."""
        ...

    def subscribed(self) -> None:
        """Note that the server answered."""

    def arrived(self, job: Job) -> None:
        """Take a job that is to be started."""

    def begin(self) -> None:
        """Start as many jobs as may run."""

    def leases(self, session: Session, late: float) -> None:
        """Prolong leases: a third of the timeout has passed, and `late` seconds more."""

    def settled(self, job: Job, *, lost: bool) -> None:
        """Note that a verdict is stored, or that somebody else has the event."""

    def released(self, jobs: list[Job]) -> None:
        """Note that events were released, so that their jobs are over."""

    def lost(self, job: Job) -> None:
        """Note that the lease of a job that runs is over."""


class Session:
    """One consume call.

    Attributes:
        number: its number, from 1.
        subscribed: whether the server answered.
        limits: whether it lets a call change its window, and go on with deliveries of another.
        answered: set when the server answered, or the call ended.
        quiet: set when nothing more will be delivered.
        timeout: seconds of a lease.
    """

    def __init__(self, owner: SessionOwner, number: int, call: ClientCall[Response]) -> None:
        self._owner = owner
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._asked: deque[tuple[bool, list[Job]]] = deque()  # (is it a ping, of which), in order
        self._acks: list[Job] = []
        self._flush: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = self._leaving = False
        self._resuming: list[Job] = []
        self.number = number
        self.subscribed = self.limits = False
        self.answered, self.quiet = asyncio.Event(), asyncio.Event()
        self.timeout = 30.0

    async def run(self, stream: str, consumer: str, window: int, linger: float) -> None:
        """Consume until the call ends.

        Args:
            stream: the stream's name.
            consumer: the consumer's name.
            window: how many events may be unsettled.
            linger: seconds for which they are kept for another call when this one breaks.

        Raises:
            RpcError: it ended with an error.
        """
        self._resuming = self._owner.jobs.resumable(min(window, _MOST_RESUMED))
        subscribe = Request.Subscribe(
            stream=stream,
            consumer=consumer,
            max_processing_events=window,
            resume=[job.token for job in self._resuming],
            linger=duration(linger),
            max_batch=_BATCH,
        )
        self._call.send(Request(subscribe=subscribe))
        try:
            while responses := await self._call.receive_many():
                now = self._loop.time()
                for response in responses:
                    self._take(response, now)
                self._owner.begin()
        finally:
            self._closed = True
            self.answered.set()
            self.quiet.set()
            for timer in (self._timer, self._flush):
                if timer is not None:
                    timer.cancel()

    @property
    def open(self) -> bool:
        """Whether the server delivers on this call."""
        return self.subscribed and not self._closed

    @property
    def is_sent(self) -> bool:
        """Whether the server may have been asked for deliveries."""
        return self._call.is_sent

    def say(self, job: Job) -> None:
        """Say what became of an event. Acks of one turn of the loop leave in one message."""
        if self._closed or self._owner.withholding or job.call != self.number or job.verdict is None:
            return
        job.said = self.number
        if job.verdict.outcome is Outcome.ACK:
            self._acks.append(job)
            if self._flush is None:
                self._flush = self._loop.call_soon(self._send_acks)
            return
        reject = Request.Reject(
            ids=[job.id],
            reason=job.verdict.reason,
            error_type=job.verdict.error_type,
            action=_ACTIONS[job.verdict.outcome],
        )
        if job.verdict.delay is not None:
            reject.delay.CopyFrom(duration(job.verdict.delay))
        self._send(Request(reject=reject), [job])

    def ping(self, jobs: list[Job]) -> None:
        """Ask for more time, in one message."""
        if jobs and not self._closed and not self._leaving:
            self._send(Request(ping=Request.Ping(ids=[job.id for job in jobs])), jobs, ping=True)

    def end_deliveries(self) -> None:
        """Have nothing more delivered; what was on its way comes before `quiet` is set."""
        if not self._closed and not self._leaving:
            self._call.send(Request(limit=Request.Limit(max_processing_events=0)))
            self._send(Request(ping=Request.Ping()), [], ping=True)

    def leave(self) -> None:
        """Say all verdicts and end the call, in one write. What is delivered meanwhile is not begun."""
        if self._closed or self._leaving:
            return
        if not self.is_sent:
            self._call.cancel()
            return
        for job in self._owner.jobs:
            if not job.said:
                self.say(job)
        self._send_acks()
        self._leaving = True
        self._call.close_send()

    def _send_acks(self) -> None:
        self._flush = None
        if self._acks:
            jobs, self._acks = self._acks, []
            self._send(Request(ack=Request.Ack(ids=[job.id for job in jobs])), jobs)

    def _send(self, request: Request, jobs: list[Job], *, ping: bool = False) -> None:
        if not self._leaving:
            self._asked.append((ping, jobs))
            self._call.send(request)

    def _take(self, response: Response, now: float) -> None:
        kind = response.WhichOneof("response")
        if kind == "event":
            if not self._leaving:
                self._deliver(response.event, now)
        elif kind == "batch":
            if not self._leaving:
                for event in response.batch.events:
                    self._deliver(event, now)
        elif kind == "subscribed":
            self.subscribed, self.limits = True, response.subscribed.HasField("linger")
            self.timeout = response.subscribed.processing_timeout.ToTimedelta().total_seconds()
            self._set_timer()
            self._owner.subscribed()
            self._resume(now)
            self.answered.set()
        elif kind is not None:
            self._confirm(getattr(response, kind), now)

    def _resume(self, now: float) -> None:
        """Go on with what earlier calls were given, and ask at once whether it still is ours."""
        jobs = self._owner.jobs
        jobs.call_began(now, self.timeout)
        resuming, self._resuming = self._resuming if self.limits else [], []
        decided = jobs.resume(resuming, self.number, now)
        for job in decided:
            self.say(job)
        self.ping([job for job in resuming if job.resumed == self.number and job.verdict is None])
        self._owner.released(jobs.not_resumed())

    def _deliver(self, event: events.Event, now: float) -> None:
        before = self._owner.jobs.get(event.id)
        job, arrival = self._owner.jobs.deliver(event, self.number, now)
        if before is not None and before is not job and not before.call:
            self._owner.released([before])  # no confirmation of its verdict will come
        if arrival is Arrival.NEW:
            self._owner.arrived(job)
        elif arrival is Arrival.DECIDED:
            self.say(job)

    def _confirm(self, confirmation: Response.AckConfirmation, now: float) -> None:
        ping, jobs = self._asked.popleft()
        if not jobs:
            self.quiet.set()
        done, invalid = set(confirmation.ids), set(confirmation.invalid_ids)
        known = self._owner.jobs
        for job in jobs:
            current = job.call == self.number and known.current(job)
            if ping:
                if current and job.id in invalid and job.verdict is None:
                    self._owner.lost(job)
            elif not current:
                self._owner.settled(job, lost=job.id not in done)  # its id is another job's by now
            elif job.id in done or job.id in invalid:
                if job.id in done:
                    known.settled(job, now)
                else:
                    known.refused(job, now)
                self._owner.settled(job, lost=job.id in invalid and not job.doubted)
            else:
                job.said = 0
                job.tries += 1
                self._loop.call_later(min(0.1 * 2.0**job.tries, 5.0), self._say_again, job)

    def _say_again(self, job: Job) -> None:
        if self._owner.jobs.current(job) and not job.said:
            self.say(job)

    def _set_timer(self) -> None:
        due = self._loop.time() + self.timeout / 3
        self._timer = self._loop.call_at(due, self._prolong, due)

    def _prolong(self, due: float) -> None:
        self._owner.leases(self, self._loop.time() - due)
        self._set_timer()
