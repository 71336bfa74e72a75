"""A consume call: the asyncio around `ConsumeProtocol`, which decides everything.

A call has two tasks. One reads the client's commands. The other takes a turn whenever something happened: the
protocol takes in what arrived, deliveries and confirmations go to the client, more is pulled, and the work
that the protocol asks for is started (`work_runner`). Everything sent in one turn leaves in one write, on
either side.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any, Final

from windshift.nats import Message, NotConnected, Outcome
from windshift.nats.jetstream.pulling import ACK, NAK, Arrival, Notice, Puller, PullOptions
from windshift.server.auth.access import AuthorizedCall
from windshift.server.background.pacing import hinders, paced, pause
from windshift.server.domain.errors import ShuttingDown, SubscribeExpected, WindshiftError
from windshift.server.events.consuming.commands import (
    Ack,
    Command,
    Ping,
    Reject,
    Subscribe,
    check_subscribe,
)
from windshift.server.events.consuming.consumer_state import (
    ConsumerSnapshot,
    find_consumer,
    keep_used,
    leave,
    with_tokens,
)
from windshift.server.events.consuming.interfaces import FLOODED, Client, ConsumeOptions
from windshift.server.events.consuming.pauses import fresh_time
from windshift.server.events.consuming.pending_acks import Group, PendingAck, grouped
from windshift.server.events.consuming.protocol import ConsumeProtocol
from windshift.server.events.consuming.replay_feed import ReplayFeed
from windshift.server.events.consuming.resuming import new_number
from windshift.server.events.consuming.shared import Shared
from windshift.server.events.consuming.spans import ConsumeSpans
from windshift.server.events.consuming.state import CallState
from windshift.server.events.consuming.timer import DeadlineTimer, Signal
from windshift.server.events.consuming.tokens import Resumed, Tokens
from windshift.server.events.consuming.work_runner import WorkRunner
from windshift.server.events.dead_letters.replay_queue import Lease
from windshift.server.events.deliveries import DeliveryName, read_delivery
from windshift.server.events.model import ConsumerKey, StreamSeq
from windshift.server.events.notes import ELECTED, REPLAY
from windshift.server.events.runs import Run
from windshift.server.events.token_key import key_of

_COMMANDS: Final = 8
"""Commands after which is looked whether the step has become long."""
_IDS: Final = 500
"""Ids of one command after which the same is done."""
_AT_ONCE, _ALL = 16, sys.maxsize
"""Events that are handed over in one step: while somebody is about who uses little; otherwise."""
SHORTEST_PULL: Final = 5.0
"""Seconds until a pull request expires, at least."""


def renewed_in_time(options: PullOptions, timeout: timedelta) -> PullOptions:
    """Return timers that renew pull requests before half of a processing timeout is over.

    A delivery is younger than the request for it, so a young request shows that a delivery was not held up on
    its way, where nothing else does.
    """
    expires = min(options.expires, max(timeout.total_seconds() / 2, SHORTEST_PULL))
    return replace(options, expires=expires, heartbeat=min(options.heartbeat, expires / 2))


@dataclass(slots=True, eq=False)
class ConsumeCall:
    """One consume call: a client subscribes with its first message, and is attached to a consumer.

    Without an authorizer the client may consume everything.
    """

    _shared: Shared
    _client: Client
    _options: ConsumeOptions
    _authorizer: AuthorizedCall | None = None
    _ended: WindshiftError | None = None
    _subscribe_timeout: asyncio.Timeout | None = None
    _attachment: _Attachment | None = None

    async def run(self) -> None:
        """Serve the call until the client has ended its side and everything is confirmed.

        When it is over, however it ended, events that the client had not settled are with the broker again.

        Raises:
            WindshiftError: the client made a mistake or may not consume this, the consumer is not there or
                not any more, the broker could not be reached at the start, or this server is about to stop.
        """
        if self._authorizer is not None:
            self._authorizer.follow(self._check, self.end)
        commands = await self._first_commands()
        command = next(commands, None)
        if not isinstance(command, Subscribe):
            raise SubscribeExpected
        size = check_subscribe(command)
        consumer = ConsumerKey(command.stream, command.consumer)
        if self._authorizer is not None:
            self._authorizer.use_consumer(*consumer)
        deadline = asyncio.get_running_loop().time() + self._options.lookup_timeout.total_seconds()
        found = await self._find(command, consumer, size, deadline)
        if self._ended is not None:
            raise self._ended
        shared = self._shared
        found = shared.calls.share(consumer, found)
        tokens = self._tokens(command, consumer, found)
        resumed = [] if tokens is None else [*filter(None, map(tokens.read, command.resume))]
        state, is_used = self._attach(consumer, found, size), False
        try:
            protocol = ConsumeProtocol(state, self._options, self._shared.room)
            protocol.incoming.max_message_size = command.max_message_size
            protocol.incoming.check()
            is_used, linger = True, None
            if command.linger is not None and tokens is not None:
                protocol.resuming.tokens = tokens
                linger = protocol.linger = command.linger
            self._attachment = _Attachment(self._shared, self._client, protocol, self._options)
            self._client.subscribed(command, found.timeout, linger)
            await keep_used(self._shared.api, consumer, found.info, deadline)
            await self._attachment.run(commands, resumed)
        finally:
            shared.settled.detach(consumer, state.run.name, asyncio.get_running_loop().time())
            if is_used:
                notes, kept = shared.notes, self._options.ephemeral_kept
                await leave(self._shared.api, notes, consumer, state.settled, found.info, kept)

    async def _find(
        self, command: Subscribe, consumer: ConsumerKey, size: int, deadline: float
    ) -> ConsumerSnapshot:
        """Look the consumer up; it has a key afterwards if the client wants tokens."""
        api, authorizer = self._shared.api, self._authorizer
        found = await find_consumer(api, consumer, size, deadline)
        if command.linger is None:
            return found
        if authorizer is not None:  # before anything of the consumer is changed
            authorizer.consume(*consumer, durable=found.durable, owner=found.owner, subjects=found.subjects)
        return await with_tokens(api, self._shared.notes, consumer, found, deadline)

    def _tokens(self, command: Subscribe, consumer: ConsumerKey, found: ConsumerSnapshot) -> Tokens | None:
        """Return what writes and reads tokens; None if the client has none to do with them, or cannot."""
        key = key_of(found.info.config)
        if not key or (command.linger is None and not command.resume):
            return None
        principal = "" if self._authorizer is None else self._authorizer.principal
        return Tokens(consumer, key, principal, self._shared.connection.server_id)

    def _attach(self, consumer: ConsumerKey, found: ConsumerSnapshot, size: int) -> CallState:
        """Return what is known at the beginning, with what the calls of this process remember together."""
        shared = self._shared
        settled = shared.settled.attach(consumer, found.run.name, asyncio.get_running_loop().time())
        latency = shared.counts.latencies.of(consumer, durable=found.durable, owner=found.owner)
        remembered = settled, shared.attempts, shared.pauses, shared.counts, latency
        return CallState(consumer, found, size, *remembered, authorizer=self._authorizer)

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
        state = None if self._attachment is None else self._attachment.protocol.state
        held = None if state is None else state.window.get(seq)
        if state is None or held is None:
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
        elif self._subscribe_timeout is not None and not self._subscribe_timeout.expired():
            self._subscribe_timeout.reschedule(0)

    def _check(self) -> None:
        if self._attachment is not None:
            self._attachment.protocol.incoming.check()

    async def _first_commands(self) -> Iterator[Command]:
        """Wait for the client's first message, and what came with it."""
        seconds = self._options.subscribe_timeout.total_seconds()
        try:
            async with asyncio.timeout(seconds) as self._subscribe_timeout:
                commands = await self._client.receive()
        except TimeoutError:
            raise self._ended or SubscribeExpected from None
        finally:
            self._subscribe_timeout = None
        return iter(()) if commands is None else commands


def _is_long(command: Command) -> bool:
    """Tell whether a command has so many ids that it takes as long as many others."""
    return isinstance(command, Ack | Ping | Reject) and len(command.ids) >= _IDS


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Do what gives events back, also when the client goes away meanwhile."""
    task = asyncio.get_running_loop().create_task(paced(work))
    try:
        await asyncio.wait((task,))
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        raise
    task.result()


class _Attachment:
    """The shell around one call's protocol: takes its turns, reads the client, and hears of the broker.

    It is what `calls` knows as a `Call`. What is known is the protocol's (`CallState`), the other tasks are
    the runner's, replays the feed's.
    """

    __slots__ = (
        "_client",
        "_feed",
        "_loop",
        "_puller",
        "_room",
        "_runner",
        "_shared",
        "_state",
        "_timer",
        "_wake",
        "protocol",
    )

    def __init__(
        self, shared: Shared, client: Client, protocol: ConsumeProtocol, options: ConsumeOptions
    ) -> None:
        self.protocol = protocol
        self._state = protocol.state
        self._shared = shared
        self._client = client
        self._loop = asyncio.get_running_loop()
        pull = renewed_in_time(options.pull, self._state.found.timeout)
        self._puller = Puller(shared.connection, *self._state.consumer, pull, self._arrive)
        self._wake, self._room = Signal(), Signal()
        self._timer = DeadlineTimer(self._loop, self._on_time)
        self._feed = ReplayFeed(shared, protocol, options.confirm_timeout.total_seconds(), self._wake)
        self._runner = WorkRunner(shared, client, protocol, options, self._feed, self._tell, self._wake)
        if shared.tracer is not None:
            self._state.spans = ConsumeSpans(shared.tracer, *self._state.consumer)

    async def run(self, commands: Iterator[Command], resumed: Sequence[Resumed] = ()) -> None:
        """Serve until the end, and release what the client had not settled then; raise why the call ended.

        `commands` came along with the subscription; `resumed` are deliveries that the client goes on with.
        """
        shared = self._shared
        self._shared.counts.holdings.add(self._state.window)
        self.protocol.begin(self._loop.time())
        shared.calls.attach(self._state.consumer, self, self._state.found)
        try:
            self._resume(resumed)
            self._runner.start(self._read(commands))
            self._runner.start(self._feed.look())
            await self._serve()
        finally:
            self.protocol.leave()
            try:
                await self._runner.stop()
            finally:  # also when the client goes away meanwhile
                await _to_its_end(self._release())
                # They hold this: cycles, which would be left to the collector, and that holds up everybody
                del self._puller, self._runner, self._timer
        failure, self._state.failure = self._state.failure, None
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # its traceback holds this frame: the same

    def end(self, failure: Exception | None) -> None:
        self._state.end(failure)
        self._wake.set()

    def hold_still(self, run: Run, until: float) -> None:
        self.protocol.hold_still(run, until)
        self._wake.set()

    @property
    def is_busy(self) -> bool:
        return self.protocol.is_busy

    async def _release(self) -> None:
        """Give the broker back what the client holds, and what is on its way to it.

        The inbox is closed first: the broker would else hand what comes back to this very call. Until then
        another call may take over what this one holds.
        """
        self._timer.stop()
        try:
            await self._puller.close()
        finally:
            self._shared.calls.detach(self._state.consumer, self)
            replies, later = self.protocol.close(self._loop.time())
            self._shared.counts.holdings.discard(self._state.window)
            self._tell_all(later, self.protocol.lingering)
            self._tell_all([reply for reply in replies if not self._feed.tell(reply, NAK)], NAK)
            await self._feed.close()

    def _tell_all(self, replies: Sequence[bytes], payload: bytes) -> None:
        """Send an acknowledgement of each delivery, and do not ask what came of it."""
        if replies:
            with suppress(NotConnected):
                self._puller.tell_all(replies, payload)

    # --- Turns --------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        protocol = self.protocol
        while True:
            self._turn()
            if protocol.is_over:
                return
            if protocol.takes_inbox(self._loop.time()):
                self._puller.open()
                self._wake.set()
            elif protocol.takes_drain():
                await _to_its_end(self._puller.close())
                self._wake.set()
            if self._wake.is_set():
                await asyncio.sleep(0)  # what was sent leaves first
            else:
                await self._wake.wait()
            self._wake.clear()

    def _turn(self) -> None:
        now, protocol = self._loop.time(), self.protocol
        unread = self._client.queued
        protocol.advance(now)
        self._hand_over(unread, now)
        if not self._state.is_ending:
            if protocol.read_so_far(unread, now):
                self._wake.set()
            if unread < FLOODED and not protocol.holds_back:
                self._room.set()
            if self._feed.is_running and protocol.has_room_for_replays:
                self._feed.make_room()
            pull = protocol.next_pull(now)
            if pull is not None and not self._puller.pull(*pull):
                protocol.pacer.unsent(pull)
        self._act()
        self._timer.set(protocol.due, now)  # there is to be a turn when time alone makes one necessary

    def _hand_over(self, unread: int, now: float) -> None:
        """Send the client confirmations and deliveries."""
        protocol, client, effects = self.protocol, self._client, self._state.effects
        settling, tokens = protocol.settling, protocol.resuming.tokens
        if effects.settled_again:
            settled, effects.settled_again = effects.settled_again, {}
            self._shared.peers.tell_settled(self._state.consumer, self.run_name, settled)
        if settling.settlements.has_confirmation:
            client.confirm(settling.confirmations())
        most = _AT_ONCE if len(protocol.incoming.unsent) > _AT_ONCE and hinders() else _ALL
        deliveries = protocol.incoming.deliverable(unread, now, most)
        if deliveries:
            written = () if tokens is None else [*map(protocol.resuming.token_of, deliveries)]
            client.deliver(deliveries, written)
            if len(deliveries) == most:
                self._wake.set()

    def _on_time(self) -> None:
        """Have a turn, unless there is time left: the broker was heard since the timer was set, as a rule."""
        due, now = self.protocol.due, self._loop.time()
        if due > now:
            self._timer.set(due, now)
        else:
            self._wake.set()

    def _act(self) -> None:
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
                self._runner.begin(each)
            self._wake.set()

    def _send(self, group: Group) -> None:
        *others, last = group.pending
        lease = self._feed.lease(last.reply)
        if lease is not None:
            last.sent = True
            self._runner.start(self._settle_replay(last, lease))
            return
        try:
            if others:
                self._puller.tell_all([each.reply for each in others], ACK)
            self._shared.requests.send(
                last.reply, last.payload, b"", partial(self._answered, group), last.confirmation.expires
            )
        except NotConnected:
            for pending in group.pending:
                self.protocol.settling.not_sent(pending, self._loop.time())
            self._wake.set()
        else:
            for pending in group.pending:
                pending.sent = True

    async def _settle_replay(self, pending: PendingAck, lease: Lease) -> None:
        is_ours = await self._feed.settle(lease, pending.payload, pending.confirmation.expires)
        self.protocol.settling.replay_settled(pending, self._loop.time(), is_ours=is_ours)

    def _tell(self, reply: bytes, payload: bytes) -> None:
        if not self._feed.tell(reply, payload):
            self._puller.tell(reply, payload)

    def _answered(self, group: Group, outcome: Outcome) -> None:
        self.protocol.settling.group_answered(group, outcome, fresh_time(self._loop))
        self._wake.set()

    # --- Deliveries of earlier calls ----------------------------------------------------------------------

    def _resume(self, resumed: Sequence[Resumed]) -> None:
        """Go on with deliveries, and tell the calls that may have them."""
        if not resumed:
            return
        self.protocol.resuming.resume(resumed, new_number(), self._loop.time())
        self._act()
        taken_over = self.protocol.resuming.taken_over
        peers = self._shared.peers
        peers.tell_taken(self._state.consumer, self.run_name, taken_over.number, taken_over.names)

    @property
    def run_name(self) -> str:
        return self._state.run.name

    def taken(self, number: int, deliveries: Iterable[DeliveryName]) -> list[StreamSeq]:
        with self._waking_if_less_is_held():
            return self.protocol.resuming.taken(number, deliveries, self._loop.time())

    def objected(self, number: int, seqs: Iterable[StreamSeq]) -> None:
        with self._waking_if_less_is_held():
            self.protocol.resuming.objected(number, seqs)

    @contextmanager
    def _waking_if_less_is_held(self) -> Iterator[None]:
        """Have the call take a turn if it let something go: most have nothing of what others tell of."""
        window = self._state.window
        before = len(window)
        yield
        if len(window) < before:
            self._wake.set()

    # --- The client's commands ----------------------------------------------------------------------------

    async def _read(self, commands: Iterator[Command]) -> None:
        batch: Iterator[Command] | None = commands
        protocol = self.protocol
        try:
            if protocol.holds_back:
                await self._make_room()
            while batch is not None:
                for number, command in enumerate(batch, 1):
                    if self._state.is_ending:
                        return
                    protocol.command(command, self._loop.time())
                    if protocol.holds_back:
                        await self._make_room()
                    elif (number % _COMMANDS == 0 or _is_long(command)) and hinders():
                        await pause()
                self._act()
                if protocol.settling.settlements.has_confirmation or self._state.doubts.withheld:
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
            self.protocol.incoming.arrived.append(read_delivery(arrival))
        else:
            self.protocol.pull_status(arrival, self._loop.time())
            if arrival is Notice.ALIVE:
                return
        self._wake.set()

    def noted(self, kind: str) -> None:
        if kind == REPLAY:
            self._feed.ring()
        elif kind == ELECTED:
            self.protocol.elected(self._loop.time())
        else:
            self._state.doubt()
        self._wake.set()

    def lost(self) -> None:
        self.protocol.lost(self._loop.time())
        self._wake.set()

    def connected(self, *, is_same: bool) -> None:
        self._meet_broker()
        self.protocol.connected(self._loop.time(), is_same=is_same)
        self._wake.set()

    def replaced(self) -> None:
        self._meet_broker()
        self.protocol.replaced(self._loop.time())
        self._wake.set()

    def _meet_broker(self) -> None:
        """Have tokens name the nats-server that this is connected to, and ask it for replays."""
        if self.protocol.resuming.tokens is not None:
            self.protocol.resuming.tokens.connected(self._shared.connection.server_id)
        self._feed.look_again()
