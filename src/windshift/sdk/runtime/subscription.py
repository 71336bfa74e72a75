"""A subscription: calls one after the other, jobs that go on meanwhile, and a stop in good order."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from windshift.protos import events
from windshift.rpc import ClientCall, RpcError, StatusCode, Threads
from windshift.sdk.calling import Caller
from windshift.sdk.deliveries import ACK, Delivery, Outcome, Verdict, failure, log_failure, verdict_of
from windshift.sdk.errors import LeaseLost, NotSettled, TokenUnavailable, UnknownType
from windshift.sdk.events import Event
from windshift.sdk.functions import check_handler, is_async
from windshift.sdk.logs import handled
from windshift.sdk.metrics import metrics
from windshift.sdk.times import duration

from .jobs import Arrival, Job, Jobs

R = TypeVar("R")
Handler = Callable[[Delivery[Any]], Awaitable[object] | object]
Request = events.EventsRequest
Response = events.EventsResponse

THREADS = "windshift"
"""Prefix of the names of threads in which handlers run."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0  # seconds between calls
LINGER = 10.0
"""Seconds for which what is held is kept for this process when a call breaks."""
_LEAVE = 10.0  # seconds for the last confirmations
_LAST_WAIT = 2.0  # seconds for handlers that were cancelled
_LATE_INTERVAL = 5.0  # seconds in which events that were settled too late are counted
_AGAIN = frozenset(
    {
        StatusCode.UNAVAILABLE,
        StatusCode.UNKNOWN,
        StatusCode.INTERNAL,
        StatusCode.RESOURCE_EXHAUSTED,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.CANCELLED,
    }
)
_MOST_RESUMED = 5_000  # tokens that a server takes
_BATCH = 100
"""Events in one response. Servers that know no batches send them one by one."""

_ACTIONS = {
    Outcome.RETRY: Request.REJECT_ACTION_RETRY,
    Outcome.DEAD_LETTER: Request.REJECT_ACTION_DEAD_LETTER,
    Outcome.DROP: Request.REJECT_ACTION_DROP,
}
_log = logging.getLogger("windshift")


@dataclass(frozen=True, slots=True)
class Handling:
    """How deliveries are handled.

    Attributes:
        concurrency: handlers at once, or deliveries that an iterator has handed out.
        prefetch: deliveries that wait beside them; None = a quarter of `concurrency`, at least 2.
        types: classes of payloads to decode; none = every type.
        others: whether the handler gets payloads of other types too; if not, they become dead letters.
        max_lease: seconds for which the lease of a delivery is prolonged.
        linger: seconds for which what is held is kept for this process when a call breaks.
        decide: says what becomes of an event whose handler raised something.

    Raises:
        ValueError: `concurrency` is less than 1, `prefetch` less than 0, or `max_lease` not above 0.
    """

    concurrency: int = 32
    prefetch: int | None = None
    types: Sequence[type] = ()
    others: bool = False
    max_lease: float = 900.0
    linger: float = LINGER
    decide: Callable[[BaseException], Verdict] = verdict_of

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ValueError("concurrency must be at least 1")
        if self.prefetch is not None and self.prefetch < 0:
            raise ValueError("prefetch must be at least 0")
        if not self.max_lease > 0:
            raise ValueError("max_lease must be above 0")

    @property
    def window(self) -> int:
        """How many deliveries are held at once."""
        ahead = max(2, self.concurrency // 4) if self.prefetch is None else self.prefetch
        return self.concurrency + ahead


class Subscription:
    """Delivers the events of a consumer to a handler, or to who asks for the next one."""

    def __init__(
        self, caller: Caller, stream: str, consumer: str, handler: Handler | None, handling: Handling
    ) -> None:
        if handler is not None:
            check_handler(handler)
        self.jobs = Jobs()
        self._ready: asyncio.Queue[tuple[Job, Delivery[Any]]] = asyncio.Queue()
        self._caller = caller
        self._tracing = caller.tracing
        self._bare_stream, self._consumer = stream, consumer
        self._stream = caller.names.name(stream)
        self._metrics = metrics(self._stream, consumer)
        self._handler = handler
        self._handling = handling
        self._types = caller.payloads.filter(handling.types)
        self._has_types = bool(handling.types)
        self._threaded = handler is not None and not is_async(handler)
        self._is_coroutine = inspect.iscoroutinefunction(handler)
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Job] = deque()
        self._deliveries: dict[Job, Delivery[Any]] = {}
        self._waiters: dict[Job, asyncio.Future[None]] = {}
        self._tasks: dict[Job, asyncio.Task[None]] = {}
        self._running: set[Job] = set()
        self._session: Session | None = None
        self._stopping = asyncio.Event()
        self._settling = self._had_limits = False
        self._runner: asyncio.Task[None] | None = None
        self._gives_up = self._ended_for_good = False
        self._quiet = asyncio.Event()
        self._threads = Threads(handling.concurrency, THREADS)
        self._in_threads: set[Job] = set()
        self._late = 0  # settled too late since the first that was logged

    # -- calls ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Consume until `stop`, or until an error that another call would meet too.

        Raises:
            WindshiftError: that error.
            RuntimeError: no thread can be started for the handler.
        """
        self._runner = asyncio.current_task()
        try:
            if self._threaded:
                self._threads.start()  # later there may be none: when the process ends, Python makes no more
            await self._calls()
        finally:
            self._ended_for_good = True
            for task in self._tasks.values():
                task.cancel()
            if self._tasks:
                _, stuck = await asyncio.wait(self._tasks.values(), timeout=_LAST_WAIT)
                if stuck:
                    _log.error("%d handlers do not end although they are cancelled", len(stuck))
            for job in list(self._waiters):
                self._over(job, NotSettled("the subscription ended; the event may come again"))
            self._threads.close()
            self._quieten()

    async def _calls(self) -> None:
        number, pause, refused = 0, _FIRST_PAUSE, False
        while not self._settling and (not self._stopping.is_set() or self.busy):
            number += 1
            if self._metrics is not None and number > 1:
                self._metrics.reconnected()
            failure: RpcError | None = None
            try:
                await self._call(number)
            except RpcError as error:
                subscribed = self._session is not None and self._session.subscribed
                unauthenticated = error.code is StatusCode.UNAUTHENTICATED
                renew = unauthenticated and self._caller.credentials.renewable and not refused
                refused = unauthenticated and not subscribed
                if self._caller.closed or not (renew or error.code in _AGAIN):
                    raise self._caller.failure_of(error) from error
                _log.info("subscription to %s of %s: %s", self._consumer, self._stream, error)
                pause = _FIRST_PAUSE if subscribed else min(pause * 2, _LONGEST_PAUSE)
                failure = error
            except TokenUnavailable as error:
                _log.warning("subscription to %s of %s: %s", self._consumer, self._stream, error)
                pause = min(pause * 2, _LONGEST_PAUSE)
            finally:
                self.released(self.jobs.call_ended(number, self._loop.time()))
            if self._stopping.is_set() and not self.busy:
                return
            if failure is None:
                await asyncio.sleep(pause)
            else:
                await self._caller.pause(failure, pause)

    async def _call(self, number: int) -> None:
        self._session = None
        async with self._caller.stream(Request, Response) as call:
            if self._settling:
                return  # stopped while it was opened
            self._session = Session(self, number, call)
            await self._session.run(self._stream, self._consumer, self._size(), self._handling.linger)

    def _size(self) -> int:
        """Return how many events the next call may hold: during a stop no more than are held already."""
        if self._stopping.is_set() and self._had_limits:
            return max(1, len(self.jobs.resumable(self._handling.window)))
        return self._handling.window

    @property
    def is_open(self) -> bool:
        """Whether the server delivers to this subscription now."""
        session = self._session
        return session is not None and session.subscribed and not session.closed

    def released(self, jobs: Sequence[Job]) -> None:
        """Note that events were released, so that their jobs are over."""
        for job in jobs:
            if job.started:
                self._over(job, None)
        self._waiting = deque(job for job in self._waiting if self.jobs.current(job))
        self._quieten()

    # -- what its session tells ----------------------------------------------------------------------

    @property
    def withholding(self) -> bool:
        """Whether verdicts are kept back, because each would make room for another delivery."""
        return self._stopping.is_set() and not self._settling and not self._has_limits

    @property
    def _has_limits(self) -> bool:
        return self._session is not None and self._session.limits

    def subscribed(self) -> None:
        """Note that the server answered."""
        self._had_limits = self._has_limits
        if self._had_limits and self._stopping.is_set() and self._session is not None:
            self._session.end_deliveries()

    def arrived(self, job: Job) -> None:
        """Take a job that is to be started."""
        self._waiting.append(job)

    def begin(self) -> None:
        """Start as many jobs as may run."""
        while self._waiting and len(self._running) < self._handling.concurrency and not self._settling:
            job = self._waiting[0]
            if self.jobs.current(job) and not job.call:
                return  # it waits for a call that goes on with it
            self._waiting.popleft()
            if self.jobs.current(job):
                self._start(job)
        self._quieten()

    def _start(self, job: Job) -> None:
        job.started = True
        self._running.add(job)
        if self._metrics is not None:
            self._metrics.began()
        kind = self._types.find(job.event.data) if self._has_types else None
        event: Event[Any] = Event(job.event, self._caller.names, self._caller.payloads, kind)
        delivery = self._deliveries[job] = Delivery(event, self, job)
        if self._has_types and (verdict := self._refusal(event, kind)) is not None:
            log_failure(event, verdict, None)
            self._decide(job, verdict)
        elif self._handler is None:
            job.started = False  # not before who iterates gets it
            self._ready.put_nowait((job, delivery))
        else:
            self._tasks[job] = self._loop.create_task(self._work(job, delivery, self._handler))

    def _refusal(self, event: Event[Any], kind: type | None) -> Verdict | None:
        """Check the payload's type where only some are handled, and decode it."""
        if kind is None:
            return None if self._handling.others else verdict_of(UnknownType(event.type))
        try:
            _ = event.data
        except Exception as error:  # noqa: BLE001 -- what cannot be decoded becomes a dead letter
            return verdict_of(error)
        return None

    async def _work(self, job: Job, delivery: Delivery[Any], handler: Handler) -> None:
        raised: BaseException | None = None
        started = 0.0 if self._metrics is None else self._loop.time()
        handled.set((self._bare_stream, self._consumer, delivery.event))
        try:
            if self._tracing is not None:
                with self._tracing.processing(self._stream, self._consumer, job.event):
                    await handle(handler, delivery, threaded=self._threaded)
            elif self._is_coroutine:
                await handler(delivery)  # type: ignore[misc] # what a coroutine function returns
            else:
                await handle(handler, delivery, threaded=self._threaded)
        except asyncio.CancelledError as error:
            if not job.expired and self._is_ending:
                self._leave(job)  # the event is released with the call
                raise
            raised = _too_long() if job.expired else error
        except (KeyboardInterrupt, SystemExit):
            self._leave(job)  # the process ends, and its events are released
            raise
        except BaseException as error:  # noqa: BLE001 -- whatever a handler raises is a verdict
            raised = error
        finally:
            self._tasks.pop(job, None)
        given_back = None if job.verdict is not None else job.given_back
        verdict = (given_back or ACK) if raised is None else self._judged(raised)
        if self._metrics is not None:
            self._metrics.handled(self._loop.time() - started, raised)
        if raised is not None or given_back is not None:
            log_failure(delivery.event, verdict, raised)
        self._decide(job, verdict)
        self.begin()

    def _judged(self, error: BaseException) -> Verdict:
        try:
            return self._handling.decide(error)
        except Exception:  # noqa: BLE001 -- the program's own rules of verdicts
            _log.exception("no verdict could be made of a failure")
            return failure(error, Outcome.RETRY)

    @property
    def _is_ending(self) -> bool:
        """Whether handlers are cancelled by us; what their program cancels has failed."""
        cancelled = self._runner is not None and self._runner.cancelling() > 0
        return cancelled or self._gives_up or self._ended_for_good

    async def in_thread(self, job: Job, function: Callable[[], R]) -> R:
        """Run a function of a handler in a thread; at `max_lease` its handler is not cancelled meanwhile."""
        self._in_threads.add(job)
        try:
            return await self._threads.run(function)
        finally:
            self._in_threads.discard(job)

    def _leave(self, job: Job) -> None:
        """Give a job's place back, unless it was already."""
        if job in self._running:
            self._running.discard(job)
            if self._metrics is not None:
                self._metrics.ended()

    def _decide(self, job: Job, verdict: Verdict) -> None:
        if job.verdict is not None:
            return
        self._leave(job)
        job.verdict = verdict
        if self._metrics is not None:
            self._metrics.decided(verdict)
        if not self.jobs.current(job):
            self._over(job, LeaseLost(job.id))  # its id means another event now, or somebody else has it
        elif job.call == 0 and verdict.outcome is Outcome.RETRY and not job.token:
            self.jobs.drop(job)  # released with its call, which is the retry
            self._over(job, None)
        elif self._session is not None:
            self._session.say(job)
        self._quieten()

    def leases(self, session: Session, late: float) -> None:
        """Prolong what is held, and end what has been held for too long."""
        if late > session.timeout / 6:
            names = ", ".join(str(job.id) for job in self._tasks) or "none"
            _log.warning("the event loop was blocked for %.1f s; events being handled: %s", late, names)
        now = self._loop.time()
        due, expired = self.jobs.leases(session.number, now, session.timeout, self._handling.max_lease)
        session.ping(due)
        for job in expired:
            self._expire(job)
        for job in self.jobs.forget(now - max(2 * session.timeout, 10.0)):
            self._over(job, NotSettled("the connection was lost, and the event did not come again"))

    def _expire(self, job: Job) -> None:
        task = self._tasks.get(job)
        if job in self._in_threads:
            _log.error("event %d has been held for max_lease and is not settled; it goes to others", job.id)
        elif task is not None:
            self._loop.call_soon(task.cancel)  # behind its first step: what never ran could not decide
        else:  # handed out, and maybe forgotten
            self._deliveries[job].lost = True
            self._give_back(job, failure(_too_long(), Outcome.RETRY))

    def settled(self, job: Job, *, lost: bool) -> None:
        """Note that a verdict is stored, or that somebody else has the event."""
        if lost:
            if self._metrics is not None:
                self._metrics.lost()
            self._too_late(job)
            if job.verdict is ACK and job not in self._waiters:  # who waits is told, and may have undone it
                self.jobs.too_late(job, self._loop.time())
        self._over(job, LeaseLost(job.id) if lost else None)

    def _too_late(self, job: Job) -> None:
        """Log it, but no more than a line in each interval: after a fault there may be hundreds."""
        self._late += 1
        if self._late == 1:
            _log.warning("event %d was settled too late: another worker may handle it again", job.id)
            self._loop.call_later(_LATE_INTERVAL, self._more_too_late)

    def _more_too_late(self) -> None:
        more, self._late = self._late - 1, 0
        if more:
            text = "%d more events of %s were settled too late in the last %.0f s"
            _log.warning(text, more, self._stream, _LATE_INTERVAL)

    def lost(self, job: Job) -> None:
        """Note that the lease of a job that runs is over."""
        if not job.started:
            self.jobs.drop(job)
            return
        if job.resumed:
            job.call = job.resumed = 0  # if the event comes again, the job goes on with that
            job.token = b""
        if job in self._deliveries:
            self._deliveries[job].lost = True

    def _over(self, job: Job, error: Exception | None) -> None:
        self._deliveries.pop(job, None)
        waiter = self._waiters.pop(job, None)
        if waiter is not None and not waiter.done():
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)
                waiter.exception()  # nobody may be waiting any more
        self._quieten()

    # -- deliveries that are settled by hand ---------------------------------------------------------

    async def next(self) -> Delivery[Any]:
        """Wait for a delivery where there is no handler. Its time begins now, however long it was ready."""
        while True:
            job, delivery = await self._ready.get()
            if self.jobs.current(job):
                job.started, job.since = True, self._loop.time()
                return delivery
            self._leave(job)  # somebody else may have it
            self._over(job, None)
            self.begin()

    async def settle(self, job: Job, verdict: Verdict) -> None:
        """Settle what a job handles, and wait for the confirmation."""
        if job.verdict is not None or self._ended_for_good:
            raise LeaseLost(job.id)
        waiter = self._waiters[job] = self._loop.create_future()
        self._decide(job, verdict)
        self.begin()
        await waiter

    def give_back(self, job: Job, verdict: Verdict) -> None:
        """Settle what a job handles without waiting, unless it is about to be released with all others."""
        job.given_back = verdict  # for a handler that returns before that
        self._loop.call_soon(self._give_back, job, verdict)  # by then the subscription's block may be left

    def _give_back(self, job: Job, verdict: Verdict) -> None:
        if job.verdict is not None or self._stopping.is_set() or self._is_ending:
            return
        if (delivery := self._deliveries.get(job)) is not None:
            log_failure(delivery.event, verdict, None)
        self._decide(job, verdict)
        self.begin()

    def ping(self, job: Job) -> None:
        """Ask for more time now."""
        if self._session is not None and job.call == self._session.number and self.jobs.current(job):
            job.pinged = self._loop.time()
            self._session.ping([job])

    # -- stopping ------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether something is being handled, or waits for it, or is decided and waits for the next call."""
        if self._running or self._waiting:
            return True
        return any(job.token and not job.call and job.verdict is not None for job in self.jobs)

    def _quieten(self) -> None:
        if self._ended_for_good or (self._stopping.is_set() and not self.busy):
            self._quiet.set()

    async def stop(self, grace: float) -> None:
        """Have nothing more delivered, finish what is held, settle it, and end the call.

        A delivery that is not begun counts as an attempt all the same. A server that cannot be told to
        deliver nothing more is given all verdicts at the end, in one write: each would make room for another
        delivery.

        Args:
            grace: seconds after which what still runs is cancelled and released.
        """
        self._stopping.set()
        try:
            async with asyncio.timeout(grace):
                await self._finish()
        except TimeoutError:
            self._gives_up = True
            for task in self._tasks.values():
                task.cancel()
            await asyncio.sleep(0)
        self._settling = True
        if self._session is not None:
            self._session.leave()

    async def _finish(self) -> None:
        """Wait until nothing more is delivered, on this call or another, and nothing is handled."""
        if self._session is not None and self._session.limits:
            self._session.end_deliveries()
        is_finished = False
        while not is_finished:
            session = self._session
            if session is not None and session.call.is_sent:
                await session.answered.wait()  # deliveries may be on their way
                if session.limits:
                    await session.quiet.wait()
            self._quiet.clear()
            self._quieten()
            await self._quiet.wait()
            is_finished = session is self._session


class Session:
    """One consume call.

    Attributes:
        number: its number, from 1.
        call: the call; until it is sent, the server was not asked for deliveries.
        closed: whether it has ended.
        subscribed: whether the server answered.
        limits: whether it lets a call change its window, and go on with deliveries of another.
        answered: set when the server answered, or the call ended.
        quiet: set when nothing more will be delivered.
        timeout: seconds of a lease.
    """

    def __init__(self, owner: Subscription, number: int, call: ClientCall[Response]) -> None:
        self._owner = owner
        self.call = call
        self._loop = asyncio.get_running_loop()
        self._asked: deque[tuple[bool, list[Job]]] = deque()  # (is it a ping, of which), in order
        self._acks: list[Job] = []
        self._flush: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.closed = self._leaving = False
        self._resuming: list[Job] = []
        self.number = number
        self.subscribed = self.limits = False
        self.answered, self.quiet = asyncio.Event(), asyncio.Event()
        self.timeout = 30.0

    async def run(self, stream: str, consumer: str, window: int, linger: float) -> None:
        """Consume until the call ends, with at most so many events unsettled (`window`).

        They are kept for another call for `linger` seconds when this one breaks.

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
        self.call.send(Request(subscribe=subscribe))
        try:
            while responses := await self.call.receive_many():
                now = self._loop.time()
                for response in responses:
                    self._take(response, now)
                self._owner.begin()
        finally:
            self.closed = True
            self.answered.set()
            self.quiet.set()
            for timer in (self._timer, self._flush):
                if timer is not None:
                    timer.cancel()

    def say(self, job: Job) -> None:
        """Say what became of an event. Acks of one turn of the loop leave in one message."""
        if self.closed or self._owner.withholding or job.call != self.number or job.verdict is None:
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
        if jobs and not self.closed and not self._leaving:
            self._send(Request(ping=Request.Ping(ids=[job.id for job in jobs])), jobs, ping=True)

    def end_deliveries(self) -> None:
        """Have nothing more delivered; what was on its way comes before `quiet` is set."""
        if not self.closed and not self._leaving:
            self.call.send(Request(limit=Request.Limit(max_processing_events=0)))
            self._send(Request(ping=Request.Ping()), [], ping=True)

    def leave(self) -> None:
        """Say all verdicts and end the call, in one write. What is delivered meanwhile is not begun."""
        if self.closed or self._leaving:
            return
        if not self.call.is_sent:
            self.call.cancel()
            return
        for job in self._owner.jobs:
            if not job.said:
                self.say(job)
        self._send_acks()
        self._leaving = True
        self.call.close_send()

    def _send_acks(self) -> None:
        self._flush = None
        if self._acks:
            jobs, self._acks = self._acks, []
            self._send(Request(ack=Request.Ack(ids=[job.id for job in jobs])), jobs)

    def _send(self, request: Request, jobs: list[Job], *, ping: bool = False) -> None:
        if not self._leaving:
            self._asked.append((ping, jobs))
            self.call.send(request)

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


def _too_long() -> TimeoutError:
    return TimeoutError("took longer than max_lease")


async def handle(handler: Handler, delivery: Delivery[Any], *, threaded: bool) -> None:
    """Have a handler handle a delivery, in a thread or not."""
    result = await delivery.in_thread(lambda: handler(delivery)) if threaded else handler(delivery)
    if inspect.isawaitable(result):  # also of a function around a coroutine function
        await result


async def finish(subscription: Subscription, running: asyncio.Future[None], grace: float) -> None:
    """Stop a subscription that runs in a task, and wait for its end."""
    if running.done():
        if not running.cancelled():
            running.exception()  # it is told to who iterates, or to who leaves the block
        return
    try:
        await subscription.stop(grace)
        await asyncio.wait([running], timeout=_LEAVE + _LAST_WAIT)
    finally:
        running.cancel()
        await asyncio.wait([running])
        if not running.cancelled() and (error := running.exception()) is not None:
            _log.warning("a subscription ended with an error while it was stopped: %s", error)
