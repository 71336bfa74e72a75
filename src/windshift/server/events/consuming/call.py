"""A consume call: the asyncio around `ConsumeProtocol`, which decides everything.

A call has two tasks. One reads the client's commands. The other takes a turn whenever something happened: the
protocol takes in what arrived, deliveries and confirmations go to the client, more is pulled, and the work
that the protocol asks for is started, each piece in its own task. Everything sent in one turn leaves in one
write, on either side.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from time import monotonic
from typing import Any, Final

from windshift.nats import Backoff, Busy, Message, NatsError, NotConnected, Outcome, retry
from windshift.nats.jetstream.pulling import (
    ACK,
    NAK,
    PROGRESS,
    TERMINATE,
    Arrival,
    Notice,
    Puller,
    PullOptions,
)
from windshift.server.background.pacing import paced
from windshift.server.domain.errors import (
    BrokerUnavailable,
    QuotaExceeded,
    ShuttingDown,
    SubscribeExpected,
    WindshiftError,
)
from windshift.server.events.consuming import work as w
from windshift.server.events.consuming.commands import Command, Subscribe, check_subscribe
from windshift.server.events.consuming.consumer_state import (
    ConsumerSnapshot,
    find_consumer,
    with_tokens,
)
from windshift.server.events.consuming.ephemeral import keep_used, leave
from windshift.server.events.consuming.handover import DeliveryName, new_number
from windshift.server.events.consuming.interfaces import FLOODED, Client, ConsumeOptions, Gate
from windshift.server.events.consuming.protocol import ConsumeProtocol, prolong_every
from windshift.server.events.consuming.redelivery import Settled
from windshift.server.events.consuming.replay_feed import ReplayFeed, any_replays
from windshift.server.events.consuming.settlement import Group, PendingAck, grouped
from windshift.server.events.consuming.shared import Broker
from windshift.server.events.consuming.spans import ConsumeSpans
from windshift.server.events.consuming.state import CallState, Memory
from windshift.server.events.consuming.timer import DeadlineTimer, Signal
from windshift.server.events.consuming.tokens import Resumed, Tokens, key_of
from windshift.server.events.dead_letters.model import Failure
from windshift.server.events.dead_letters.store import UnreadableEntry
from windshift.server.events.deliveries import read_delivery
from windshift.server.events.model import ConsumerKey, StreamSeq
from windshift.server.events.notes import ELECTED, REPLAY
from windshift.server.events.runs import Run
from windshift.server.telemetry.log_throttle import LogThrottle

log = logging.getLogger(__name__)

_ELECTION: Final = 20.0
"""Seconds that a cluster may take to find another leader, and in which an answer is waited for."""
_LEARNING: Final = Backoff(timedelta(milliseconds=250), timedelta(milliseconds=500))
"""Pauses before the broker is asked again what has to be known."""
_stale = LogThrottle(10.0)


SHORTEST_PULL: Final = 5.0
"""Seconds until a pull request expires, at least."""


def renewed_in_time(options: PullOptions, timeout: timedelta) -> PullOptions:
    """Return timers that renew pull requests before half of a processing timeout is over.

    A delivery is younger than the request for it, so a young request shows that a delivery was not held up on
    its way, where nothing else does.
    """
    expires = min(options.expires, max(timeout.total_seconds() / 2, SHORTEST_PULL))
    return replace(options, expires=expires, heartbeat=min(options.heartbeat, expires / 2))


class Subscription:
    """One consume call: a client subscribes with its first message, and is attached to a consumer.

    Args:
        broker: NATS, and what the calls of this process share.
        client: the client.
        options: timers.
        gate: what the client may consume; None = everything.
    """

    __slots__ = ("_attachment", "_broker", "_client", "_ended", "_gate", "_options", "_patience")

    def __init__(
        self, broker: Broker, client: Client, options: ConsumeOptions, gate: Gate | None = None
    ) -> None:
        self._broker = broker
        self._client = client
        self._options = options
        self._gate = gate
        self._ended: WindshiftError | None = None
        self._patience: asyncio.Timeout | None = None
        self._attachment: _Attachment | None = None

    async def run(self) -> None:
        """Serve the call until the client has ended its side and everything is confirmed.

        When it is over, however it ended, events that the client had not settled are with the broker again.

        Raises:
            WindshiftError: the client made a mistake or may not consume this, the consumer is not there or
                not any more, the broker could not be reached at the start, or this server is about to stop.
        """
        if self._gate is not None:
            self._gate.follow(self._check, self.end)
        commands = await self._first_commands()
        command = next(commands, None)
        if not isinstance(command, Subscribe):
            raise SubscribeExpected
        size = check_subscribe(command)
        consumer = ConsumerKey(command.stream, command.consumer)
        if self._gate is not None:
            self._gate.use_consumer(*consumer)
        deadline = asyncio.get_running_loop().time() + self._options.lookup_timeout.total_seconds()
        found = await find_consumer(self._broker.api, *consumer, size, deadline)
        if command.linger is not None:
            notes = self._broker.dead_letters.notes
            found = await with_tokens(self._broker.api, notes, consumer, found, deadline)
        if self._ended is not None:
            raise self._ended
        shared = self._broker.dead_letters
        found = shared.calls.share(consumer, found)
        tokens = self._tokens(command, found)
        resumed = [] if tokens is None else [*filter(None, map(tokens.read, command.resume))]
        state, is_used = CallState(consumer, found, size, self._attach(consumer, found)), False
        state.gate = self._gate
        try:
            protocol = ConsumeProtocol(state, self._options, self._broker.room)
            protocol.incoming.max_message_size = command.max_message_size
            protocol.incoming.check()
            is_used, linger = True, None
            if command.linger is not None and tokens is not None:
                protocol.resuming.tokens = tokens
                linger = protocol.linger = command.linger
            self._attachment = _Attachment(self._broker, self._client, protocol, self._options)
            self._client.subscribed(command, found.timeout, linger)
            await keep_used(self._broker.api, consumer, found.state, deadline)
            await self._attachment.run(commands, resumed)
        finally:
            self._detach(state, found)
            if is_used:
                await self._leave(consumer, found, state.settled)

    def _tokens(self, command: Subscribe, found: ConsumerSnapshot) -> Tokens | None:
        """Return what writes and reads tokens; None if the client has none to do with them, or cannot."""
        key = key_of(found.state.config)
        if not key or (command.linger is None and not command.resume):
            return None
        consumer = ConsumerKey(command.stream, command.consumer)
        principal = "" if self._gate is None else self._gate.principal
        return Tokens(consumer, key, principal, self._broker.connection.server_id)

    async def _leave(self, consumer: ConsumerKey, found: ConsumerSnapshot, settled: Settled) -> None:
        notes, kept = self._broker.dead_letters.notes, self._options.ephemeral_kept
        await leave(self._broker.api, notes, consumer, settled, found.state, kept)

    def _attach(self, consumer: ConsumerKey, found: ConsumerSnapshot) -> Memory:
        """Share what the calls of this process remember together."""
        broker, shared = self._broker, self._broker.dead_letters
        settled = shared.settled.attach(consumer, found.run.name, asyncio.get_running_loop().time())
        latency = broker.counts.latencies.attach(consumer, durable=found.durable)
        return Memory(settled, shared.attempts, shared.pauses, broker.counts, latency)

    def _detach(self, state: CallState, found: ConsumerSnapshot) -> None:
        now = asyncio.get_running_loop().time()
        self._broker.dead_letters.settled.detach(state.consumer, state.run.name, now)
        state.counts.latencies.detach(state.consumer, state.latency, durable=found.durable)

    @property
    def window(self) -> tuple[ConsumerKey, int, int] | None:
        """The consumer, how many events the client may hold, and how many it holds; None before that."""
        if self._attachment is None:
            return None
        state = self._attachment.protocol.state
        return state.consumer, state.window.size, len(state.window)

    def held(self, seq: StreamSeq) -> tuple[ConsumerKey, int, float] | None:
        """Return the consumer, which attempt of an event the client holds, and for how many seconds.

        None = it does not hold the event.
        """
        if self._attachment is None:
            return None
        state = self._attachment.protocol.state
        held = state.window.get(seq)
        if held is None:
            return None
        return state.consumer, held.attempt, held.deadline - asyncio.get_running_loop().time()

    def drain(self) -> None:
        """End the call soon, with `ShuttingDown`, once what the client asked for so far is confirmed."""
        self.end(ShuttingDown())

    def end(self, error: WindshiftError) -> None:
        """End the call soon, with an error, once what the client asked for so far is confirmed."""
        self._ended = self._ended or error
        if self._attachment is not None:
            self._attachment.end(error)
        elif self._patience is not None:
            self._patience.reschedule(0)

    def _check(self) -> None:
        if self._attachment is not None:
            self._attachment.protocol.incoming.check()

    async def _first_commands(self) -> Iterator[Command]:
        """Wait for the client's first message, and what came with it."""
        seconds = self._options.subscribe_timeout.total_seconds()
        try:
            async with asyncio.timeout(seconds) as self._patience:
                commands = await self._client.receive()
        except TimeoutError:
            raise self._ended or SubscribeExpected from None
        finally:
            self._patience = None
        if commands is None:
            raise SubscribeExpected
        return commands


class _Attachment:
    """The shell around one call's protocol.

    Args:
        broker: NATS, and what the calls of this process share.
        client: the client.
        protocol: decides.
        options: timers.
    """

    __slots__ = (
        "_broker",
        "_client",
        "_feed",
        "_is_stopped",
        "_keeping",
        "_loop",
        "_options",
        "_patience",
        "_puller",
        "_room",
        "_server",
        "_settled_to",
        "_shared",
        "_state",
        "_tasks",
        "_timer",
        "_wake",
        "protocol",
    )

    def __init__(
        self, broker: Broker, client: Client, protocol: ConsumeProtocol, options: ConsumeOptions
    ) -> None:
        self.protocol = protocol
        self._state = protocol.state
        self._broker = broker
        self._shared = broker.dead_letters
        self._client = client
        self._options = options
        self._patience = options.confirm_timeout.total_seconds()
        self._loop = asyncio.get_running_loop()
        pull = renewed_in_time(options.pull, self._state.found.timeout)
        self._puller = Puller(broker.connection, *self._state.consumer, pull, self._arrive)
        self._wake, self._room = Signal(self._loop), Signal(self._loop)
        self._timer = DeadlineTimer(self._loop, self._wake.set)
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_stopped = False
        self._keeping: dict[asyncio.Task[w.Ending], None] = {}
        self._feed: ReplayFeed | None = None
        self._server = broker.connection.server_id
        self._settled_to: asyncio.Task[int | None] | None = None
        if broker.tracer is not None:
            self._state.spans = ConsumeSpans(broker.tracer, *self._state.consumer)

    async def run(self, commands: Iterator[Command], resumed: Sequence[Resumed] = ()) -> None:
        """Serve until the end, and release what the client had not settled then.

        Args:
            commands: what the client sent along with its subscription.
            resumed: deliveries that it goes on with.

        Raises:
            Exception: what the call was ended with.
        """
        counts, shared = self._broker.counts, self._shared
        counts.attach(self._state.window)
        self.protocol.begin(self._loop.time())
        shared.calls.attach(self._state.consumer, self, self._state.found)
        shared.moves.tell(self._state.consumer, self)
        try:
            self._resume(resumed)
            self._start(self._read(commands))
            self._start(self._look_for_replays())
            await self._serve()
        finally:
            self.protocol.leave()
            shared.calls.detach(self._state.consumer, self)
            counts.detach(self._state.window)
            await self._stop()
            await self._release()
        if self._state.failure is not None:
            raise self._state.failure

    def end(self, failure: Exception | None) -> None:
        """End the call once everything that the client asked for is confirmed."""
        self._state.end(failure)
        self._wake.set()

    def hold_still(self, run: Run, until: float) -> None:
        """Drop what the client holds, and take nothing before the consumer is in this run."""
        self.protocol.hold_still(run, until)
        self._wake.set()

    @property
    def is_busy(self) -> bool:
        """Whether something about an event of the consumer is under way to the broker."""
        return self.protocol.is_busy

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        if self._is_stopped:
            work.close()
            return
        task = self._loop.create_task(paced(work))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        failure = None if task.cancelled() else task.exception()
        if isinstance(failure, Exception):  # nobody expected it: the call ends with it
            self._state.end(failure)
        self._wake.set()

    async def _stop(self) -> None:
        """End what still runs beside the call."""
        self._is_stopped = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _release(self) -> None:
        """Give the broker back what the client holds, and what is on its way to it.

        The inbox is closed first: the broker would else hand what comes back to this very call.
        """
        self._timer.stop()
        try:
            await self._puller.close()
        finally:
            replies, later = self.protocol.close(self._loop.time())
            for reply in later:
                self._puller.tell(reply, self.protocol.lingering)
            if self._feed is not None:
                replies = await self._feed.close(replies)
            for reply in replies:
                self._puller.tell(reply, NAK)

    # --- Turns --------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        protocol = self.protocol
        while True:
            if protocol.takes_inbox(self._loop.time()):
                self._puller.open()
            elif protocol.takes_drain():
                await self._puller.close()
                self._wake.set()
            self._turn()
            if protocol.is_over:
                return
            if self._wake.is_set():
                await asyncio.sleep(0)  # what was sent leaves first
            else:
                await self._wake.wait()
            self._wake.clear()

    def _turn(self) -> None:
        now, protocol, client = self._loop.time(), self.protocol, self._client
        settling, tokens = protocol.settling, protocol.resuming.tokens
        unread = client.queued
        protocol.advance(now)
        if self._state.effects.settled_again:
            self._tell_settled()
        if settling.settlements.has_confirmation:
            client.confirm(settling.confirmations())
        deliveries = protocol.incoming.deliverable(unread, now)
        if deliveries:
            written = () if tokens is None else [*map(protocol.resuming.token_of, deliveries)]
            client.deliver(deliveries, written)
        if not self._state.is_ending:
            if protocol.read_so_far(unread, now):
                self._wake.set()
            if unread < FLOODED and not protocol.holds_back:
                self._room.set()
            if self._feed is not None and protocol.has_room_for_replays:
                self._feed.make_room()
            pull = protocol.next_pull(now)
            if pull is not None and not self._puller.pull(*pull):
                protocol.unsent(pull)
        self._act()
        self._timer.set(protocol.due, now)  # there is to be a turn when time alone makes one necessary

    def _act(self) -> None:
        """Do what the protocol asks for."""
        effects = self._state.effects
        if effects.sends:
            sends, effects.sends = effects.sends, []
            for group in grouped(sends, self._state.doubts.changes):
                self._send(group)
        if effects.tells:
            tells, effects.tells = effects.tells, []
            for reply, payload in tells:
                self._tell(reply, payload)
        if effects.work:
            work, effects.work = effects.work, []
            for each in work:
                self._begin(each)
            self._wake.set()

    def _send(self, group: Group) -> None:
        *others, last = group.pending
        if self._feed is not None and self._feed.has(last.reply):
            last.sent = True
            self._start(self._settle_replay(self._feed, last))
            return
        try:
            if others:
                self._puller.tell_all([each.reply for each in others], ACK)
            self._broker.requests.send(
                last.reply, last.payload, b"", partial(self._answered, group), last.confirmation.expires
            )
        except NotConnected:
            for pending in group.pending:
                self.protocol.settling.not_sent(pending, self._loop.time())
            self._wake.set()
        else:
            for pending in group.pending:
                pending.sent = True

    async def _settle_replay(self, feed: ReplayFeed, pending: PendingAck) -> None:
        is_ours = await feed.settle(pending.reply, pending.payload, pending.confirmation.expires)
        self.protocol.settling.replay_settled(pending, self._loop.time(), is_ours=is_ours)

    def _tell(self, reply: bytes, payload: bytes) -> None:
        """Send an acknowledgement of a delivery, and do not ask what came of it."""
        if self._feed is None or not self._feed.tell(reply, payload):
            self._puller.tell(reply, payload)

    def _answered(self, group: Group, outcome: Outcome) -> None:
        # Not the loop's time: that is of when it woke, and it may have been asleep since.
        self.protocol.settling.group_answered(group, outcome, monotonic())
        self._wake.set()

    def _tell_settled(self) -> None:
        effects = self._state.effects
        settled, effects.settled_again = effects.settled_again, []
        self._shared.peers.tell_settled(self._state.consumer, self._state.run.name, settled)

    # --- Deliveries of earlier calls ----------------------------------------------------------------------

    def _resume(self, resumed: Sequence[Resumed]) -> None:
        """Go on with deliveries, and tell the calls that may have them."""
        if not resumed:
            return
        self.protocol.resuming.resume(resumed, new_number(), self._loop.time())
        self._act()
        taken_over = self.protocol.resuming.taken_over
        self._shared.peers.tell_taken(
            self._state.consumer, self.run_name, taken_over.number, taken_over.names
        )

    @property
    def run_name(self) -> str:
        """Name of the run of the consumer that the call is in."""
        return self._state.run.name

    def taken(self, number: int, deliveries: Iterable[DeliveryName]) -> list[StreamSeq]:
        """Let deliveries go that another call takes over; return the events that it is not to have."""
        kept = self.protocol.resuming.taken(number, deliveries, self._loop.time())
        self._wake.set()
        return kept

    def objected(self, number: int, seqs: Iterable[StreamSeq]) -> None:
        """Let deliveries go that this call was not to take over."""
        self.protocol.resuming.objected(number, seqs)
        self._wake.set()

    # --- The client's commands ----------------------------------------------------------------------------

    async def _read(self, commands: Iterator[Command]) -> None:
        batch: Iterator[Command] | None = commands
        protocol = self.protocol
        try:
            if protocol.holds_back:
                await self._make_room()
            while batch is not None:
                for command in batch:
                    if self._state.is_ending:
                        return
                    protocol.command(command, self._loop.time())
                    if protocol.holds_back:
                        await self._make_room()
                self._act()
                if protocol.settling.settlements.has_confirmation:
                    self._wake.set()
                if self._client.queued >= FLOODED:
                    await self._make_room()
                batch = await self._client.receive()
            self.end(None)
        except Exception as failure:  # noqa: BLE001 - whatever it is, the call ends with it, in good order
            self._act()
            self.end(failure)

    async def _make_room(self) -> None:
        self._act()
        self._room.clear()
        self._wake.set()
        await self._room.wait()

    # --- Called from NATS: only note what happened, and wake ----------------------------------------------

    def _arrive(self, arrival: Arrival) -> None:
        if isinstance(arrival, Message):
            self.protocol.incoming.delivered(read_delivery(arrival))
        elif arrival is Notice.ALIVE:
            self.protocol.heard(self._loop.time())
            return
        else:
            self.protocol.told(arrival, self._loop.time())
        self._wake.set()

    def noted(self, kind: str) -> None:
        """Look at what somebody did to the consumer."""
        if kind == REPLAY:
            self._ring_feed()
        elif kind == ELECTED:
            self.protocol.elected(self._loop.time())
        else:
            self._state.doubt()
        self._wake.set()

    def lost(self) -> None:
        """Note that the connection ended."""
        for task in self._keeping:
            task.cancel()
        self.protocol.lost(self._loop.time())
        self._wake.set()

    def connected(self) -> None:
        """Note that there is another connection."""
        before = self._server
        self._meet_broker()
        self.protocol.connected(self._loop.time(), is_same=before == self._server)
        self._wake.set()

    def replaced(self) -> None:
        """Note that another connection took over from one that still works."""
        self._meet_broker()
        self.protocol.replaced(self._loop.time())
        self._wake.set()

    def _meet_broker(self) -> None:
        """Note which nats-server this is connected to, and ask it for replays."""
        self._server = self._broker.connection.server_id
        if self.protocol.resuming.tokens is not None:
            self.protocol.resuming.tokens.connected(self._server)
        if self._feed is not None:
            self._feed.ring()

    # --- Work ---------------------------------------------------------------------------------------------

    def _begin(self, work: w.Work) -> None:
        match work:
            case w.ReportDropped(failure, event):
                said = () if event is None else (event.subject, event.type_name, event.trace_parent)
                self._shared.told.dropped(failure, *said)
            case w.ForgetRecalls():
                self._shared.forget_recalls()
            case _:
                self._start(self._do(work))

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
            case w.Keep():
                with self._prolonged(work.pending.reply, at_once=True):
                    ending = await self._keep(work.failure, work.pending.confirmation.expires)
                self.protocol.settling.prepared(work, ending, self._loop.time())
            case w.EndReplay():
                await self._end_replay(work)
            case w.Claim():
                await self._claim(work)
            case w.Check():
                begun = self._loop.time()
                has_ended = await self._has_ended(work.pending.seq, work.pending.reply)
                self.protocol.settling.checked(work, begun, self._loop.time(), has_ended=has_ended)
            case w.AwaitReader():
                await self._client.ready()
                self.protocol.reader_ready()
            case w.AwaitRoom():
                await self._await_room()

    async def _await_room(self) -> None:
        room = self._broker.room
        async for _ in retry(None, _LEARNING):
            try:
                share = await room.whole.take(room.largest, self._loop.time() + _ELECTION)
            except Busy:
                continue
            self.protocol.room_came(share)
            return

    async def _find(self) -> None:
        """Look the consumer up, and follow what was changed."""
        deadline = self._loop.time() + self._options.lookup_timeout.total_seconds()
        size = self._state.window.size
        found = await find_consumer(self._broker.api, *self._state.consumer, size, deadline)
        found = self._shared.calls.share(self._state.consumer, found)
        if found.run.follows(self._state.run):
            self._begin_run(found.run)
        self.protocol.consumer_seen(found)
        await keep_used(self._broker.api, self._state.consumer, found.state, deadline)

    def _begin_run(self, run: Run) -> None:
        """Go on with a consumer that was moved, and with the memory of its new run."""
        settled, now = self._shared.settled, self._loop.time()
        before, memory = self._state.run.name, settled.attach(self._state.consumer, run.name, now)
        self.protocol.begin_run(run, memory, now)
        settled.detach(self._state.consumer, before, now)

    async def _look_up(self) -> None:
        try:
            await self._find()
        except BrokerUnavailable:
            self.protocol.consumer_unseen()
        except Exception as failure:  # noqa: BLE001 - whatever it is, the call ends with it
            self._state.end(failure)

    async def _learn(self) -> None:
        dead: dict[StreamSeq, int] | None = None
        try:
            async for attempt in retry(None, _LEARNING):
                if attempt > 1:
                    self._tell_stale()
                try:
                    await self._find()
                    dead = await self._recall()
                    break
                except (BrokerUnavailable, NatsError):
                    continue
        except Exception as failure:  # noqa: BLE001 - whatever it is, the call ends with it
            self._state.end(failure)
        self.protocol.learned(dead)

    async def _recall(self) -> dict[StreamSeq, int]:
        found = self._state.found
        if not found.policy.dead_letters:
            return {}
        deadline = self._loop.time() + self._options.lookup_timeout.total_seconds()
        return dict(await self._shared.recall(self._state.consumer, found.state, deadline))

    def _tell_stale(self) -> None:
        if _stale.passes(monotonic()):
            log.warning(
                "a consume call waits: the broker does not say what the consumer has given up on",
                extra={"stream": self._state.consumer.stream, "consumer": self._state.consumer.name},
            )

    async def _raise_limit(self, work: w.RaiseLimit) -> None:
        deadline = self._loop.time() + self._options.lookup_timeout.total_seconds()
        try:
            await self._broker.api.update_consumer(*self._state.consumer, work.config, deadline)
        except (WindshiftError, NatsError):
            log.warning(
                "events that wait for another attempt hold most places of a consumer, and it gets no more",
                extra={"stream": self._state.consumer.stream, "consumer": self._state.consumer.name},
            )

    async def _verify(self, work: w.Verify) -> None:
        """Ask whether an event has ended, again if need be: to return it would cost it an attempt."""
        delivery, begun = work.delivery, self._loop.time()
        since = self._shared.pauses.arrived(begun)
        has_ended: bool | None = None
        with self._prolonged(delivery.reply):
            async for _ in retry(begun + _ELECTION, _LEARNING):
                has_ended = await self._is_over(work)
                if has_ended is not None:
                    break
        self.protocol.incoming.verified(work, since, begun, self._loop.time(), has_ended=has_ended)

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
        try:
            state = await self._broker.api.consumer(*self._state.consumer, self._loop.time() + self._patience)
        except NatsError:
            return None
        if state is None:
            return None
        return state.settled_to if state.unsettled else max(state.settled_to, state.delivered_to)

    async def _has_ended(self, seq: StreamSeq, reply: bytes) -> bool | None:
        """Whether an event is a dead letter, or its end was claimed; None: that cannot be told now."""
        try:
            end = await self._shared.store.end(
                self._state.failures.id(seq, reply), self._loop.time() + self._patience
            )
        except UnreadableEntry:
            return False
        except (WindshiftError, NatsError):
            return None
        return end.is_of(self._state.run)

    async def _keep(self, failure: Failure, deadline: float) -> w.Ending:
        """Make a dead letter of an event, unless somebody has settled it, or there are too many of late."""
        gate, run = self._state.gate, self._state.run
        if not await self._is_certain(failure.id.seq):
            return w.Ending.OTHERWISE
        is_replicated = self._state.found.state.is_replicated
        if not is_replicated:
            await self._shared.peers.heard()
            if not failure.replay_count and self._state.settled.lately(failure.id.seq):
                return w.Ending.OTHERWISE
        buried = None
        if gate is not None:
            try:
                gate.bury(failure.id.stream, self._loop.time())
            except QuotaExceeded as error:
                self._shared.told.not_kept(failure, error)
                return w.Ending.NOT_NOW
            buried = partial(gate.buried, failure.id.stream)
        keeping = self._shared.keep(failure, run, deadline, buried)
        return await (keeping if is_replicated else self._unless_lost(keeping))

    async def _is_certain(self, seq: StreamSeq) -> bool:
        """Whether the client still has an event that it went on with, after others had time to object."""
        certain_at = self.protocol.resuming.certain_at(seq)
        if certain_at <= self._loop.time():
            return True
        await asyncio.sleep(certain_at - self._loop.time())
        return self._state.window.get(seq) is not None

    async def _unless_lost(self, keeping: Coroutine[Any, Any, w.Ending]) -> w.Ending:
        """Make a dead letter, unless there is no connection; give up on that when it ends.

        A broker without replicas that was killed may have forgotten the delivery, and count another one as
        the first: a dead letter that comes only then would contradict how that one ends.
        """
        if not self._broker.connection.connected:
            keeping.close()
            return w.Ending.NOT_NOW
        task = self._loop.create_task(paced(keeping))
        self._keeping[task] = None
        try:
            await asyncio.wait([task])
        finally:
            del self._keeping[task]
            task.cancel()
        return w.Ending.UNKNOWN if task.cancelled() else task.result()

    async def _claim(self, work: w.Claim) -> None:
        pending, found = work.pending, self._state.found
        ending = await self._shared.claim(
            self._state.failures.id(pending.seq, pending.reply),
            pending.held.claimant,
            found.timeout,
            self._state.run,
            pending.confirmation.expires,
        )
        self.protocol.settling.claimed(work, ending, monotonic())

    async def _give_up(self, work: w.GiveUp) -> None:
        delivery, ending = work.delivery, w.Ending.DECIDED
        if work.keep:
            with self._prolonged(delivery.reply):
                ending = await self._keep(work.failure, self._loop.time() + self._patience)
        else:
            self._begin(w.ReportDropped(work.failure, delivery))
        self.protocol.incoming.gave_up(delivery, done=ending in (w.Ending.DECIDED, w.Ending.OTHERWISE))

    async def _terminate(self, reply: bytes) -> None:
        """Have the broker never redeliver an event. If that is lost, the event comes here again."""
        deadline = self._loop.time() + self._patience
        if self._feed is not None and self._feed.has(reply):
            await self._feed.settle(reply, TERMINATE, deadline)
        else:
            try:
                await self._broker.requests.request(reply, TERMINATE, b"", deadline)
            except NotConnected:
                pass
        self.protocol.incoming.decided(reply)

    async def _end_replay(self, work: w.EndReplay) -> None:
        pending, timeout = work.pending, self._state.found.timeout
        with self._prolonged(pending.reply, at_once=True):
            ending = await self._shared.end_replay(work.replay, timeout, pending.confirmation.expires)
        self.protocol.settling.prepared(work, ending, self._loop.time())

    @contextmanager
    def _prolonged(self, reply: bytes, *, at_once: bool = False) -> Iterator[None]:
        """Keep the broker from redelivering an event while it is dealt with, however long that takes."""
        pause = prolong_every(self._state.found.timeout)
        timer: asyncio.TimerHandle

        def prolong() -> None:
            nonlocal timer
            self._tell(reply, PROGRESS)
            timer = self._loop.call_later(pause, prolong)

        if at_once:
            prolong()
        else:
            timer = self._loop.call_later(pause, prolong)
        try:
            yield
        finally:
            timer.cancel()

    # --- Replays ------------------------------------------------------------------------------------------

    async def _look_for_replays(self) -> None:
        """See whether events are to be delivered again that the consumer had given up on."""
        if await any_replays(self._shared, self._state.consumer, self._loop.time() + self._patience):
            self._ring_feed()

    def _ring_feed(self) -> None:
        if self._state.is_ending:
            return
        if self._feed is None:
            self._feed = ReplayFeed(self._shared, self.protocol, self._options, self._wake)
            self._start(self._feed.run())
        self._feed.ring()
