"""What a consume call does beside its turns: the work that its protocol asks for (`work`), in tasks.

What comes of a piece of work goes to the part of the protocol that asked for it, and the call has a turn.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from time import monotonic
from typing import Any, Final

from windshift.nats import Backoff, NatsError, NotConnected, Unavailable, retry
from windshift.nats.jetstream.pulling import PROGRESS, TERMINATE
from windshift.server.background.pacing import paced
from windshift.server.domain.errors import BrokerUnavailable, QuotaExceeded, WindshiftError
from windshift.server.events.consuming import work as w
from windshift.server.events.consuming.consumer_state import find_consumer, keep_used
from windshift.server.events.consuming.flow import Replay
from windshift.server.events.consuming.interfaces import Client, ConsumeOptions
from windshift.server.events.consuming.pauses import fresh_time
from windshift.server.events.consuming.protocol import ConsumeProtocol
from windshift.server.events.consuming.replay_feed import ReplayFeed
from windshift.server.events.consuming.shared import Letters, Shared
from windshift.server.events.consuming.state import CallState
from windshift.server.events.consuming.timer import Signal
from windshift.server.events.dead_letters.model import Failure
from windshift.server.events.dead_letters.store import UnreadableEntry
from windshift.server.events.model import StreamSeq
from windshift.server.events.runs import Run
from windshift.server.telemetry.log_throttle import LogThrottle

log = logging.getLogger(__name__)

_ELECTION: Final = 20.0
"""Seconds that a cluster may take to find another leader, and in which an answer is waited for."""
_RECALL: Final = 600.0
"""Seconds that it may take to list the consumer's dead letters, which may be millions."""
_LEARNING: Final = Backoff(timedelta(milliseconds=250), timedelta(milliseconds=500))
"""Pauses before the broker is asked again what has to be known."""
_PROLONG_SHARE: Final = 3
_SHORTEST_PROLONG: Final = timedelta(milliseconds=30)
_stale, _undecided = LogThrottle(10.0), LogThrottle(10.0)


@dataclass(slots=True, eq=False)
class WorkRunner:
    """The tasks of one call.

    `_tell` sends an acknowledgement of a delivery, by its reply subject; `_wake` is set when a task is
    over, and when the consumer was seen.
    """

    _shared: Shared
    _client: Client
    _protocol: ConsumeProtocol
    _options: ConsumeOptions
    _feed: ReplayFeed
    _tell: Callable[[bytes, bytes], None]
    _wake: Signal
    _state: CallState = field(init=False)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _is_stopped: bool = False
    _settled_to: asyncio.Task[int | None] | None = None

    def __post_init__(self) -> None:
        self._state = self._protocol.state

    # --- Tasks --------------------------------------------------------------------------------------------

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside the turns. The call ends with what it raises."""
        if self._is_stopped:
            work.close()
            return
        task = self._loop.create_task(paced(work))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        failure = None if task.cancelled() else task.exception()
        if isinstance(failure, Exception):
            self._state.end(failure)
        self._wake.set()

    async def stop(self) -> None:
        """End what still runs; nothing is started any more."""
        self._is_stopped = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def begin(self, work: w.Work) -> None:
        """Do a piece of work: now, or in a task where it takes time."""
        match work:
            case w.ReportDropped(failure, event):
                self._shared.stats.dropped(failure, event)
            case w.ForgetRecalls():
                self._shared.forget_recalls()
            case _:
                self.start(self._do(work))

    async def _do(self, work: w.Work) -> None:  # noqa: C901 - a table of what is done for which work
        """Do a piece of work, and tell the protocol what came of it."""
        match work:
            case w.LookUp():
                await self._look_up()
            case w.Learn():
                await self._learn()
            case w.RaiseLimit():
                await self._raise_limit(work)
            case w.Verify():
                await self._verify(work)
            case w.GiveUp():
                await self._give_up(work)
            case w.Terminate():
                await self._terminate(work.reply)
            case w.Keep() | w.EndReplay():
                await self._prepare(work)
            case w.Claim():
                await self._claim(work)
            case w.Check():
                begun = self._loop.time()
                has_ended = await self._has_ended(work.pending.seq, work.pending.reply)
                self._protocol.settling.checked(work, begun, self._loop.time(), has_ended=has_ended)
            case w.BringReplays():
                await self._feed.run()
            case w.AwaitReader():
                await self._client.ready()
                self._protocol.reader_ready()
            case w.AwaitRoom():
                await self._await_room()

    def _deadline(self, timeout: timedelta) -> float:
        return self._loop.time() + timeout.total_seconds()

    async def _await_room(self) -> None:
        room = self._shared.room
        async for _ in retry(None, _LEARNING):
            with suppress(Unavailable):
                share = await room.whole.take(room.largest, self._loop.time() + _ELECTION)
                self._protocol.pacer.take_room(share)
                return

    # --- The consumer -------------------------------------------------------------------------------------

    async def _look_up(self) -> None:
        try:
            await self._find()
        except BrokerUnavailable:
            self._state.doubts.unseen()

    async def _learn(self) -> None:
        dead: Letters | None = None
        try:
            async for attempt in retry(None, _LEARNING):
                if attempt > 1 and _stale.passes(monotonic()):
                    log.warning(
                        "a consume call waits: the broker does not say what the consumer has given up on",
                        extra={"stream": self._state.consumer.stream, "consumer": self._state.consumer.name},
                    )
                try:
                    await self._find()
                    dead = await self._recall()
                    break
                except (BrokerUnavailable, NatsError):
                    continue
        finally:
            self._protocol.learned(dead)

    async def _find(self) -> None:
        deadline = self._deadline(self._options.lookup_timeout)
        size = self._state.window.size
        found = await find_consumer(self._shared.api, self._state.consumer, size, deadline)
        found = self._shared.calls.share(self._state.consumer, found)
        if found.run.follows(self._state.run):
            self._begin_run(found.run)
        self._protocol.consumer_seen(found)
        self._wake.set()  # what waited for that leaves now: it may take long until the work is over
        await keep_used(self._shared.api, self._state.consumer, found.info, deadline)

    def _begin_run(self, run: Run) -> None:
        """Go on with a consumer that was moved, and with the memory of its new run."""
        settled, now = self._shared.settled, self._loop.time()
        before, memory = self._state.run.name, settled.attach(self._state.consumer, run.name, now)
        self._protocol.begin_run(run, memory, now)
        settled.detach(self._state.consumer, before, now)

    async def _recall(self) -> Letters:
        found = self._state.found
        if not found.policy.dead_letters:
            return {}
        return await self._shared.recall(self._state.consumer, found.info, self._loop.time() + _RECALL)

    async def _raise_limit(self, work: w.RaiseLimit) -> None:
        deadline = self._deadline(self._options.lookup_timeout)
        try:
            await self._shared.api.update_consumer(*self._state.consumer, work.config, deadline)
        except (WindshiftError, NatsError):
            log.warning(
                "events that wait for another attempt hold most places of a consumer, and it gets no more",
                extra={"stream": self._state.consumer.stream, "consumer": self._state.consumer.name},
            )

    # --- Whether an event has ended -----------------------------------------------------------------------

    async def _verify(self, work: w.Verify) -> None:
        """Ask whether an event has ended, again if need be: to return it would cost it an attempt."""
        delivery, begun = work.delivery, self._loop.time()
        has_ended: bool | None = None
        with self._prolonged(delivery.reply):
            async for _ in retry(begun + _ELECTION, _LEARNING):
                has_ended = await self._is_over(work)
                if has_ended is not None:
                    break
        self._protocol.incoming.verified(work, begun, self._loop.time(), has_ended=has_ended)

    async def _is_over(self, work: w.Verify) -> bool | None:
        """Whether nobody is to work on an event any more; None: that cannot be told now."""
        delivery = work.delivery
        if work.is_late:
            settled_to = await self._ask_settled_to()
            if settled_to is None or delivery.id <= settled_to:
                return None if settled_to is None else True
            if not self._state.policy.dead_letters:
                return False
        return await self._has_ended(delivery.id, delivery.reply)

    async def _ask_settled_to(self) -> int | None:
        """Ask up to which event all are settled; once for all deliveries that arrived together."""
        if self._settled_to is None:
            self._settled_to = self._loop.create_task(self._find_settled_to())
        return await asyncio.shield(self._settled_to)

    async def _find_settled_to(self) -> int | None:
        self._settled_to = None  # who asks from now on wants a later answer
        deadline = self._deadline(self._options.confirm_timeout)
        try:
            state = await self._shared.api.consumer(*self._state.consumer, deadline)
        except NatsError:
            return None
        # The answer came by another connection than notes do: have those sent before it arrive.
        if state is None or await self._shared.requests.round_trip(deadline) is None:
            return None
        if state.unsettled:
            return state.settled_to
        return max(state.settled_to, state.delivered_to)

    async def _has_ended(self, seq: StreamSeq, reply: bytes) -> bool | None:
        """Whether an event is a dead letter, or its end was claimed; None: that cannot be told now."""
        deadline = self._deadline(self._options.confirm_timeout)
        try:
            end = await self._shared.store.end(self._state.failures.id(seq, reply), deadline)
        except UnreadableEntry:
            return False
        except (WindshiftError, NatsError):
            return None
        return end.is_of(self._state.run)

    # --- How an event ends --------------------------------------------------------------------------------

    async def _prepare(self, work: w.Keep | w.EndReplay) -> None:
        """Decide how an event ends, before its settlement is sent."""
        pending = work.pending
        deadline = pending.confirmation.expires
        if isinstance(work, w.Keep):
            with self._prolonged(pending.reply, at_once=True):
                ending = await self._keep(work.failure, deadline)
        else:
            ending = await _decided(self._end_replay(pending.reply, work.replay, deadline))
        self._protocol.settling.prepared(work, ending, self._loop.time())

    async def _end_replay(self, reply: bytes, replay: Replay, deadline: float) -> bool:
        """Decide that a replayed event ended acknowledged, or dropped; false when it had ended otherwise."""
        store, lease = self._shared.store, self._feed.lease(reply)
        timeout = self._state.found.timeout
        is_claimed = lease is not None and await lease.claim(replay.position, timeout, deadline)
        if not is_claimed and await store.find(replay.id, deadline) is not None:
            return False
        return await store.claim_replay(*replay, self._state.claimed_for, deadline)

    async def _claim(self, work: w.Claim) -> None:
        pending, state = work.pending, self._state
        event = state.failures.id(pending.seq, pending.reply)
        claimant, deadline = pending.held.claimant, pending.confirmation.expires
        charge = None if state.authorizer is None else state.authorizer.claim
        claim = self._shared.store.claim(
            event, claimant, self._state.claimed_for, state.run, deadline, charge
        )
        self._protocol.settling.claimed(work, await _decided(claim), fresh_time(self._loop))

    async def _give_up(self, work: w.GiveUp) -> None:
        delivery, ending = work.delivery, w.EndOutcome.DECIDED
        if work.keep:
            with self._prolonged(delivery.reply):
                ending = await self._keep(work.failure, self._deadline(self._options.confirm_timeout))
        else:
            self.begin(w.ReportDropped(work.failure, delivery))
        is_decided = ending in (w.EndOutcome.DECIDED, w.EndOutcome.OTHERWISE)
        self._protocol.incoming.gave_up(delivery, done=is_decided)

    async def _keep(self, failure: Failure, deadline: float) -> w.EndOutcome:
        """Make a dead letter of an event, unless somebody has settled it, or there are too many of late.

        All that comes before it is written is given up, too, when a connection to a broker without replicas
        ends meanwhile: see `unless_lost`.
        """
        if self._state.found.info.is_replicated:
            return await self._bury(failure, deadline)
        if not self._shared.connection.connected:
            return w.EndOutcome.NOT_NOW
        return await self._shared.unless_lost(self._bury(failure, deadline))

    async def _bury(self, failure: Failure, deadline: float) -> w.EndOutcome:
        authorizer = self._state.authorizer
        if not await self._is_certain(failure.id.seq):
            return w.EndOutcome.OTHERWISE
        if not self._state.found.info.is_replicated:
            await self._shared.peers.heard()
            if not failure.replay_count and self._state.settled.lately(failure.id.seq, failure.id.stored_ns):
                return w.EndOutcome.OTHERWISE
        charge = None
        if authorizer is not None:
            try:
                authorizer.bury(failure.id.stream, self._loop.time())
            except QuotaExceeded as error:
                self._shared.stats.not_kept(failure, error)
                return w.EndOutcome.NOT_NOW
            charge = partial(authorizer.weigh, failure.id.stream)
        return await self._shared.keep(failure, self._state.run, deadline, charge)

    async def _is_certain(self, seq: StreamSeq) -> bool:
        """Whether the client still has an event that it went on with, after others had time to object."""
        certain_at = self._protocol.resuming.certain_at(seq)
        if certain_at <= self._loop.time():
            return True
        await asyncio.sleep(certain_at - self._loop.time())
        return self._state.window.get(seq) is not None

    async def _terminate(self, reply: bytes) -> None:
        """Have the broker never redeliver an event. If that is lost, the event comes here again."""
        deadline = self._deadline(self._options.confirm_timeout)
        lease = self._feed.lease(reply)
        if lease is not None:
            await self._feed.settle(lease, TERMINATE, deadline)
        else:
            with suppress(NotConnected):
                await self._shared.requests.request(reply, TERMINATE, b"", deadline)
        self._protocol.incoming.decided(reply)

    @contextmanager
    def _prolonged(self, reply: bytes, *, at_once: bool = False) -> Iterator[None]:
        """Keep the broker from redelivering an event while it is dealt with, however long that takes."""
        pause = max(self._state.found.timeout / _PROLONG_SHARE, _SHORTEST_PROLONG).total_seconds()
        if at_once:
            self._tell(reply, PROGRESS)
        timer: list[asyncio.TimerHandle] = []  # the next one
        timer.append(self._loop.call_later(pause, self._prolong, timer, reply, pause))
        try:
            yield
        finally:
            timer.pop().cancel()

    def _prolong(self, timer: list[asyncio.TimerHandle], reply: bytes, pause: float) -> None:
        """Do it once, and again after the pause. A function for that would hold itself: a cycle."""
        self._tell(reply, PROGRESS)
        timer[0] = self._loop.call_later(pause, self._prolong, timer, reply, pause)


async def _decided(claim: Awaitable[bool]) -> w.EndOutcome:
    """Return what came of a claim; it never fails."""
    try:
        return w.EndOutcome.DECIDED if await claim else w.EndOutcome.OTHERWISE
    except (WindshiftError, NatsError) as error:
        if _undecided.passes(monotonic()):
            log.warning("the end of an event cannot be decided now: %s", type(error).__name__)
        return w.EndOutcome.UNKNOWN
