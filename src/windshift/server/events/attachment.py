"""A client attached to a consumer: deliveries there, acknowledgements back, until one side ends it.

The decisions are made in `window`, `pulls` and `session`; this is the shell around them. An attachment runs
in two tasks. One reads the client's commands and passes them on to the broker. The other takes a turn
whenever something happened: it takes in what arrived, hands deliveries and confirmations to the client, and
asks for more. Everything that one turn sends leaves in one write, on either side.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from math import inf
from typing import Any, Protocol

from windshift.server.errors import AlreadySubscribed, BrokerUnavailable, ConsumerNotFound
from windshift.server.events.commands import Ack, Command, Fate, Ping, Reject, Subscribe, check_reject, judge
from windshift.server.events.counts import Counts
from windshift.server.events.lookup import find_timeout
from windshift.server.events.pulls import Pulls
from windshift.server.events.retries import RetryPolicy
from windshift.server.events.session import Confirmation, Errand, Kind, Session
from windshift.server.events.spans import ConsumeSpans, end_settlement, end_unanswered
from windshift.server.events.window import Held, Window
from windshift.server.nats.connection import Connection, NotConnected
from windshift.server.nats.consumers import ConsumerApi
from windshift.server.nats.deliveries import (
    ACK,
    PROGRESS,
    TERMINATE,
    Arrival,
    Deliveries,
    Delivery,
    Ended,
    Notice,
    PullOptions,
    StreamSeq,
    nak,
)
from windshift.server.nats.replies import NoReply, Outcome, Replies
from windshift.server.telemetry.tracer import Tracer

STALLED = 16 * 1024
"""Bytes that wait for the client to read before no more deliveries are handed to it."""

FLOODED = 256 * 1024
"""Bytes that wait for the client to read before no more commands are read from it. It leaves room for the
confirmations of a whole window: a client that settles all of it before it reads again must not be left
hanging."""


class Client(Protocol):
    """The client's end of a consume call. All sending queues and never blocks."""

    @property
    def queued(self) -> int:
        """Bytes that were sent and that the client has not read."""
        ...

    async def ready(self) -> None:
        """Wait until `queued` is `STALLED` or less. One task at a time."""
        ...

    async def receive(self) -> Iterator[Command] | None:
        """Return what the client sent, None after its last message.

        Iterating may raise what is wrong with a command.
        """
        ...

    def deliver(self, delivery: Delivery) -> None:
        """Hand over a delivery."""
        ...

    def confirm(self, confirmation: Confirmation) -> None:
        """Answer a command."""
        ...


@dataclass(frozen=True, slots=True)
class ConsumeOptions:
    """Timers of a consume call.

    Attributes:
        subscribe_timeout: how long the client may take to send its first message.
        lookup_timeout: how long the broker may take to find the consumer.
        confirm_timeout: how long it may take to answer an acknowledgement.
        stall_timeout: how long a client may leave unread what it was sent before the broker is asked no more
            on its behalf.
        pull: timers of the pull requests.
    """

    subscribe_timeout: timedelta = timedelta(seconds=10)
    lookup_timeout: timedelta = timedelta(seconds=5)
    confirm_timeout: timedelta = timedelta(seconds=5)
    stall_timeout: timedelta = timedelta(seconds=1)
    pull: PullOptions = field(default_factory=PullOptions)


@dataclass(frozen=True, slots=True)
class Broker:
    """The parts of NATS that consuming needs, and where what happens is counted and traced."""

    connection: Connection
    replies: Replies
    consumers: ConsumerApi
    counts: Counts = field(default_factory=Counts)
    tracer: Tracer | None = None


class Attachment:
    """A client attached to a consumer.

    Args:
        broker: NATS.
        client: the client.
        stream: the stream's name.
        consumer: the consumer's name.
        window: the deliveries that the client holds; empty.
        options: timers.
    """

    __slots__ = (
        "_arrived",
        "_broker",
        "_client",
        "_consumer",
        "_counts",
        "_deliveries",
        "_doubt",
        "_ending",
        "_failure",
        "_group",
        "_looking_up",
        "_loop",
        "_options",
        "_pulls",
        "_reopen",
        "_resuming",
        "_room",
        "_session",
        "_spans",
        "_stream",
        "_tasks",
        "_timer",
        "_unsent",
        "_wake",
        "_window",
        "_withdraw",
        "_withdraw_at",
    )

    def __init__(
        self,
        broker: Broker,
        client: Client,
        stream: str,
        consumer: str,
        window: Window,
        options: ConsumeOptions,
    ) -> None:
        self._broker = broker
        self._counts = broker.counts
        self._spans = None if broker.tracer is None else ConsumeSpans(broker.tracer, stream, consumer)
        self._client = client
        self._stream = stream
        self._consumer = consumer
        self._window = window
        self._options = options
        self._session = Session(window, options.confirm_timeout.total_seconds())
        self._pulls = Pulls(window, options.pull.silence)
        self._deliveries = Deliveries(broker.connection, stream, consumer, options.pull, self._arrive)
        self._loop = asyncio.get_running_loop()
        self._arrived: list[Delivery] = []
        self._unsent: deque[tuple[Delivery, Held]] = deque()
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()
        self._withdraw_at = inf
        self._reopen = True
        self._withdraw = self._resuming = self._looking_up = self._ending = False
        self._doubt: Notice | None = None
        self._failure: Exception | None = None

    async def run(self, commands: Iterator[Command]) -> None:
        """Serve until the end, and release what the client had not settled then.

        Args:
            commands: what the client sent along with its subscription.

        Raises:
            Exception: what the attachment was ended with.
        """
        connection = self._broker.connection
        connection.on_lost.append(self._lose)
        connection.on_connected.append(self._recover)
        self._counts.attach(self._window)
        try:
            async with self._group:
                self._start(self._read(commands))
                await self._serve()
                for task in self._tasks:
                    task.cancel()
        finally:
            self._ending = True
            connection.on_lost.remove(self._lose)
            connection.on_connected.remove(self._recover)
            self._counts.detach(self._window)
            await self._release()
        if self._failure is not None:
            raise self._failure

    def end(self, failure: Exception | None) -> None:
        """End the attachment once everything that the client asked for is confirmed; the first end counts.

        Args:
            failure: what `run` raises then; None is a proper end.
        """
        if not self._ending:
            self._ending = True
            self._failure = failure
            self._wake.set()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _release(self) -> None:
        """Give the broker back what the client holds, and what is on its way to it.

        The inbox is closed first: the broker would else hand what comes back to this very call.
        """
        if self._timer is not None:
            self._timer.cancel()
        try:
            await self._deliveries.close()
        finally:
            for delivery in self._arrived:
                self._deliveries.hand_back(delivery.reply)
            released = self._session.release()
            self._counts.released += len(released)
            for held in released:
                self._deliveries.hand_back(held.reply)

    # -- turns ---------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        while True:
            if self._reopen and not self._ending and not self._resuming:
                self._reopen = False
                self._window.lose_requests()
                await self._deliveries.open()
            elif self._withdraw:
                self._withdraw = False
                self._window.lose_requests()
                await self._deliveries.close()
                self._reopen = True
            self._turn()
            if self._ending and self._session.confirmed:
                return
            await self._wake.wait()
            self._wake.clear()

    def _turn(self) -> None:
        now = self._loop.time()
        self._tick(now)
        for confirmation in self._session.confirmations():
            if confirmation.invalid_ids:
                self._counts.invalid += len(confirmation.invalid_ids)
            if confirmation.temporary_failed_ids:
                self._counts.failed += len(confirmation.temporary_failed_ids)
            self._client.confirm(confirmation)
        if not self._ending:
            self._take_in(now)
            self._forward(now)
            self._pull(now)
        self._arm(now)

    def _tick(self, now: float) -> None:
        if self._session.due <= now:
            end_unanswered(self._session.tick(now))
        if self._pulls.due <= now:
            requested = self._window.requested
            if self._pulls.tick(now):
                self._doubt = self._doubt or Notice.UNHEARD
                self._reopen = self._reopen or requested > 0
                self._wake.set()
        if self._withdraw_at <= now:
            self._withdraw_at = inf
            if self._window.requested:
                self._withdraw = True
                self._wake.set()
        if self._doubt is not None and not self._looking_up and not self._ending:
            self._looking_up = True
            self._start(self._look_up(self._doubt))
            self._doubt = None

    def _take_in(self, now: float) -> None:
        """Hold the deliveries that arrived; those that there is no room for go back."""
        if not self._arrived:
            return
        arrived, self._arrived = self._arrived, []
        self._pulls.heard(now)
        for delivery in arrived:
            held = self._window.admit(delivery.id, delivery.reply, delivery.attempt, now)
            if held is None:
                self._deliveries.hand_back(delivery.reply)
            else:
                if self._spans is not None:
                    held.span = self._spans.deliver(delivery)
                self._unsent.append((delivery, held))

    def _forward(self, now: float) -> None:
        """Hand deliveries to the client as long as it reads them."""
        client, unsent = self._client, self._unsent
        queued = client.queued
        while unsent and queued <= STALLED:
            delivery, held = unsent.popleft()
            if self._window.holds(delivery.id, held, now):
                client.deliver(delivery)
                if held.span is not None:
                    held.span.end()
                self._counts.delivered += 1
                if delivery.attempt > 1:
                    self._counts.redelivered += 1
                self._pulls.delivered(delivery)
                queued += len(delivery.data)
        queued = client.queued
        if queued > STALLED and not self._resuming:
            self._resuming = True
            self._withdraw_at = now + self._options.stall_timeout.total_seconds()
            self._pulls.stalled()
            self._start(self._resume())
        if queued < FLOODED and not self._session.saturated:
            self._room.set()

    async def _resume(self) -> None:
        """Wait until the client reads again."""
        await self._client.ready()
        self._resuming = False
        self._withdraw_at = inf
        self._wake.set()

    def _pull(self, now: float) -> None:
        if self._unsent or self._resuming or self._reopen:
            return
        pull = self._pulls.next(now, busy=self._session.busy)
        if pull is not None and not self._deliveries.pull(pull.batch, pull.max_bytes):
            self._pulls.unsent(pull)

    def _arm(self, now: float) -> None:
        """See to it that there is a turn when time alone makes one necessary."""
        due = min(self._session.due, self._pulls.due, self._withdraw_at)
        timer = self._timer
        if due == inf or (timer is not None and timer.when() <= due):
            return
        if timer is not None:
            timer.cancel()
        self._timer = self._loop.call_at(max(due, now), self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._wake.set()

    # -- the client's commands -----------------------------------------------------------------------

    async def _read(self, commands: Iterator[Command]) -> None:
        batch: Iterator[Command] | None = commands
        try:
            while batch is not None:
                for command in batch:
                    if self._ending:
                        return
                    self._obey(command)
                    if self._session.saturated:
                        await self._make_room()
                if self._client.queued >= FLOODED:
                    await self._make_room()
                batch = await self._client.receive()
            self.end(None)
        except Exception as failure:  # noqa: BLE001 - whatever it is, the call ends with it, in good order
            self.end(failure)

    async def _make_room(self) -> None:
        self._room.clear()
        self._wake.set()
        await self._room.wait()

    def _obey(self, command: Command) -> None:
        match command:
            case Ack():
                self._pass_on(Kind.ACK, command.ids, ACK)
            case Ping():
                self._pass_on(Kind.PING, command.ids, PROGRESS)
            case Reject():
                check_reject(command)
                verdict = judge(command, RetryPolicy(), 1, 0)
                payload = nak(verdict.delay_ns) if verdict.fate is Fate.AGAIN else TERMINATE
                self._pass_on(Kind.REJECT, command.ids, payload)
            case Subscribe():
                raise AlreadySubscribed

    def _pass_on(self, kind: Kind, ids: Sequence[StreamSeq], payload: bytes) -> None:
        errands = self._session.command(kind, ids, payload, self._loop.time())
        for errand in errands:
            if self._spans is not None and errand.held.span is not None:
                self._spans.settle(errand, errand.held.span)
            self._send(errand)
        if not errands:
            self._wake.set()

    def _send(self, errand: Errand) -> None:
        """Send a message to the broker.

        Without a connection it waits for the next one, or for its time to end.
        """
        deadline = errand.confirmation.expires
        try:
            self._broker.replies.send(
                errand.reply, errand.payload, None, partial(self._answered, errand), deadline
            )
        except NotConnected:
            pass

    # -- called from NATS: only note what happened, and wake -----------------------------------------

    def _answered(self, errand: Errand, outcome: Outcome) -> None:
        if outcome is NoReply.DISCONNECTED:
            return  # sent again on the next connection, or failed when its time is over
        if isinstance(outcome, bytes) and not errand.answered:
            self._count(errand)
        end_settlement(errand, outcome)
        self._session.answer(errand, stored=isinstance(outcome, bytes), now=self._loop.time())
        if outcome is NoReply.NO_RESPONDERS:
            self._doubt = self._doubt or Notice.UNHEARD
        self._wake.set()

    def _count(self, errand: Errand) -> None:
        kind, counts = errand.confirmation.kind, self._counts
        if kind is Kind.ACK:
            counts.acknowledged += 1
        elif kind is Kind.PING:
            counts.prolonged += 1
        elif errand.payload == TERMINATE:
            counts.terminated += 1
        else:
            counts.rejected += 1

    def _arrive(self, arrival: Arrival) -> None:
        if isinstance(arrival, Delivery):
            self._arrived.append(arrival)
            self._wake.set()
        elif arrival is Notice.ALIVE:
            self._pulls.heard(self._loop.time())
        else:
            self._note(arrival, self._loop.time())
            self._wake.set()

    def _note(self, arrival: Ended | Notice, now: float) -> None:
        self._pulls.heard(now)
        match arrival:
            case Ended():
                self._pulls.ended(arrival)
            case Notice.LOST:
                self._reopen = True
            case _:
                self._pulls.refused(now)
                if arrival is not Notice.REFUSED:
                    self._doubt = arrival

    def _lose(self) -> None:
        self._window.lose_requests()

    def _recover(self) -> None:
        self._reopen = True
        for errand in self._session.unanswered():
            self._send(errand)
        self._wake.set()

    # -- doubt ---------------------------------------------------------------------------------------

    async def _look_up(self, doubt: Notice) -> None:
        """See whether the consumer still is there, and end the call when it is not."""
        window, deadline = self._window.size, self._loop.time() + self._options.lookup_timeout.total_seconds()
        try:
            await find_timeout(self._broker.consumers, self._stream, self._consumer, window, deadline)
            if doubt is Notice.DELETED:  # and made again since
                self.end(ConsumerNotFound(self._consumer))
        except BrokerUnavailable:
            pass  # the next request will bring the doubt back
        except Exception as failure:  # noqa: BLE001 - whatever it is, the call ends with it
            self.end(failure)
        finally:
            self._looking_up = False
            self._wake.set()
