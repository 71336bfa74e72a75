"""A client attached to a consumer: deliveries there, acknowledgements back, until one side ends it.

The decisions are made in `window`, `pulls` and `session`; this is the shell around them. An attachment runs
in two tasks. One reads the client's commands and passes them on to the broker. The other takes a turn
whenever something happened: it takes in what arrived, hands deliveries and confirmations to the client, and
asks for more. Everything that one turn sends leaves in one write, on either side.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Iterator
from math import inf
from typing import Any

from windshift.nats import Message
from windshift.nats.jetstream import Arrival, Ended, Notice, Puller
from windshift.server.errors import ForbiddenByBroker, WindshiftError
from windshift.server.events.consuming.alarm import Alarm
from windshift.server.events.consuming.commands import Command
from windshift.server.events.consuming.following import Following
from windshift.server.events.consuming.lookup import Found
from windshift.server.events.consuming.parties import FLOODED, STALLED, Broker, Client, ConsumeOptions, Gate
from windshift.server.events.consuming.pulls import Pulls
from windshift.server.events.consuming.replay_feed import ReplayFeed, any_replays
from windshift.server.events.consuming.session import Session
from windshift.server.events.consuming.settling import Settling
from windshift.server.events.consuming.triage import Triage
from windshift.server.events.consuming.window import Held, Replay, Window
from windshift.server.events.deliveries import Delivery, read_delivery
from windshift.server.events.model import ConsumerKey
from windshift.server.events.notes import CONSUMER, REPLAY
from windshift.server.events.spans import ConsumeSpans, end_unanswered


class Attachment:
    """A client attached to a consumer.

    Args:
        broker: NATS.
        client: the client.
        consumer: what names the consumer.
        found: the consumer, as it was found just now.
        window: the deliveries that the client holds; empty.
        options: timers.
        gate: what the client may consume; None = everything.
    """

    __slots__ = (
        "_alarm",
        "_arrived",
        "_backlog",
        "_broker",
        "_client",
        "_consumer",
        "_counts",
        "_ending",
        "_failure",
        "_feed",
        "_following",
        "_group",
        "_loop",
        "_options",
        "_patience",
        "_puller",
        "_pulls",
        "_reopen",
        "_resuming",
        "_room",
        "_session",
        "_settling",
        "_shared",
        "_spans",
        "_tasks",
        "_triage",
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
        consumer: ConsumerKey,
        found: Found,
        window: Window,
        options: ConsumeOptions,
        gate: Gate | None = None,
    ) -> None:
        self._broker = broker
        self._counts = broker.counts
        self._spans = None if broker.tracer is None else ConsumeSpans(broker.tracer, *consumer)
        self._client = client
        self._consumer = consumer
        self._window = window
        self._options = options
        self._patience = options.confirm_timeout.total_seconds()
        self._session = Session(window, self._patience)
        self._pulls = Pulls(window, options.pull.silence)
        self._puller = Puller(broker.connection, *consumer, options.pull, self._arrive)
        self._loop = asyncio.get_running_loop()
        shared = self._shared = broker.dead_letters
        self._triage = Triage(
            shared,
            broker.requests,
            self._puller,
            consumer,
            found.state.created,
            self._patience,
            self._start,
            self._decided,
        )
        self._wake = asyncio.Event()
        self._alarm = Alarm(self._loop, self._wake.set)
        self._following = Following(
            broker.api,
            consumer,
            found,
            window,
            self._triage,
            options.lookup_timeout.total_seconds(),
            self._start,
            self.end,
        )
        self._following.gate = gate
        self._settling = Settling(
            self._session,
            broker.requests,
            self._triage,
            broker.counts,
            self._spans,
            self._start,
            self._wake.set,
            self._ask_again,
        )
        self._feed: ReplayFeed | None = None
        self._backlog: deque[tuple[Delivery, Replay | None, float]] = deque()
        self._arrived: list[Delivery] = []
        self._unsent: deque[tuple[Delivery, Held]] = deque()
        self._room = asyncio.Event()
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()
        self._withdraw_at = inf
        self._reopen = True
        self._withdraw = self._resuming = self._ending = False
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
        connection.on_moved.append(self._move)
        self._counts.attach(self._window)
        self._triage.recover(self._loop.time(), self._following.found.timeout.total_seconds())
        self._window.tell_expired(self._triage.failures.failed)
        notes = self._shared.notes
        silence = (
            notes.listen(REPLAY, *self._consumer, self._ring_feed),
            notes.listen(CONSUMER, *self._consumer, self._ask_again),
        )
        try:
            async with self._group:
                self._start(self._read(commands))
                self._start(self._look_for_replays())
                await self._serve()
                for task in self._tasks:
                    task.cancel()
        finally:
            self._ending = True
            connection.on_lost.remove(self._lose)
            connection.on_connected.remove(self._recover)
            connection.on_moved.remove(self._move)
            for stop in silence:
                stop()
            self._triage.close()
            self._counts.detach(self._window)
            await self._release()
        if self._failure is not None:
            raise self._failure

    def check(self) -> None:
        """Raise `PermissionDenied` unless the client may have what the consumer chooses."""
        self._following.check(self._following.found)

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
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._wake.set()

    async def _release(self) -> None:
        """Give the broker back what the client holds, and what is on its way to it.

        The inbox is closed first: the broker would else hand what comes back to this very call.
        """
        self._alarm.stop()
        try:
            await self._puller.close()
        finally:
            for delivery in self._arrived:
                self._puller.hand_back(delivery.reply)
            for waiting, _, _ in self._backlog:
                self._puller.hand_back(waiting.reply)
            for reply in self._triage.undecided:
                self._puller.hand_back(reply)
            released = self._session.release()
            self._counts.released += len(released)
            for seq, held in released:
                self._triage.failures.failed(seq, held)
                self._puller.hand_back(held.reply)

    # -- turns ---------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        while True:
            if self._reopen and not self._following.stale and not self._ending and not self._resuming:
                self._reopen = False
                self._window.lose_requests()
                self._puller.open()
            elif self._withdraw:
                self._withdraw = False
                self._window.lose_requests()
                await self._puller.close()
                self._reopen = True
                self._wake.set()
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
        due = min(self._session.due, self._pulls.due, self._withdraw_at, self._settling.slots.due)
        self._alarm.set(due, now)  # there is to be a turn when time alone makes one necessary

    def _tick(self, now: float) -> None:
        if self._session.due <= now:
            end_unanswered(self._session.tick(now))
        if self._pulls.due <= now:
            requested = self._window.requested
            if self._pulls.tick(now):
                self._following.doubt()
                self._doubt_settlements(now)
                self._reopen = self._reopen or requested > 0
                self._wake.set()
        if self._pulls.stuck(now):
            self._withdraw = True
            self._wake.set()
        if self._withdraw_at <= now:
            self._withdraw_at = inf
            if self._window.requested:
                self._withdraw = True
                self._wake.set()
        if self._settling.slots.due <= now and self._settling.slots.look(now):
            self._following.doubt()
        if not self._ending:
            self._following.tick()

    def _take_in(self, now: float) -> None:
        """Hold the deliveries that arrived; those that there is no room for wait: replays took it."""
        self._take_waiting(now)
        if self._arrived:
            arrived, self._arrived = self._arrived, []
            since = self._shared.alertness.arrived(now)
            self._pulls.arrived(arrived, now)
            for delivery in arrived:
                self._window.arrive()
                if self._triage.passes(delivery, now) and (
                    self._backlog or not self._hold(delivery, None, since)
                ):
                    self._backlog.append((delivery, None, since))
        self._window.waiting = len(self._backlog) + len(self._triage.undecided)

    def _take_waiting(self, now: float) -> None:
        while self._backlog and self._window.has_room:
            delivery, replay, since = self._backlog.popleft()
            if since + self._following.found.timeout.total_seconds() > now:  # it is not with the broker again
                self._hold(delivery, replay, since)

    def _hold(self, delivery: Delivery, replay: Replay | None, since: float) -> bool:
        """Hand a delivery to the client soon; false when there is no room."""
        held = self._window.admit(delivery.id, delivery.reply, delivery.attempt, since, replay)
        if held is None:
            return False
        if self._spans is not None:
            held.span = self._spans.deliver(delivery)
        self._unsent.append((delivery, held))
        return True

    def _decided(self, delivery: Delivery | None, since: float) -> None:
        """Take a delivery that was not decided about when it arrived, or note that it is none any more."""
        if delivery is not None:  # it was counted all the while, so there is room, but for what replays took
            self._backlog.append((delivery, None, since))
        self._wake.set()

    def _forward(self, now: float) -> None:
        """Hand deliveries to the client as long as it reads them."""
        client, unsent = self._client, self._unsent
        queued = client.queued
        while unsent and queued <= STALLED:
            delivery, held = unsent.popleft()
            if self._window.holds(delivery.id, held, now):
                if held.replay is None and self._triage.is_stale(delivery):
                    self._window.remove(delivery.id, held)
                    continue
                try:
                    self._following.let_through(delivery.subject)
                except WindshiftError as error:
                    self.end(error)
                    return
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
        if self._feed is not None and self._has_room_for_replays:
            self._feed.make_room()
        if self._unsent or self._resuming or self._reopen:
            return
        pull = self._pulls.next(now, busy=self._session.busy)
        if pull is not None and not self._puller.pull(pull.batch, pull.max_bytes):
            self._pulls.unsent(pull)

    # -- the client's commands -----------------------------------------------------------------------

    async def _read(self, commands: Iterator[Command]) -> None:
        batch: Iterator[Command] | None = commands
        try:
            while batch is not None:
                for command in batch:
                    if self._ending:
                        return
                    self._settling.obey(command)
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

    # -- called from NATS: only note what happened, and wake -----------------------------------------

    def _arrive(self, arrival: Arrival) -> None:
        if isinstance(arrival, Message):
            self._arrived.append(read_delivery(arrival))
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
                self._doubt_settlements(now)
                self._reopen = True
            case Notice.FORBIDDEN:
                self.end(ForbiddenByBroker())
            case _:
                self._pulls.refused(now)
                if arrival is not Notice.REFUSED:
                    self._doubt_settlements(now)
                    self._following.doubt(deleted=arrival is Notice.DELETED)

    def _doubt_settlements(self, now: float) -> None:
        """Note that the broker may have lost what it was told last: another of its servers speaks now."""
        self._triage.lose(self._session.acks_under_way())
        self._triage.recover(now, self._following.found.timeout.total_seconds())
        self._following.stale |= self._triage.policy.dead_letters

    def _lose(self) -> None:
        self._window.lose_requests()
        self._triage.lose(self._session.acks_under_way())

    def _recover(self) -> None:
        self._triage.recover(self._loop.time(), self._following.found.timeout.total_seconds())
        self._following.stale = self._reopen = True
        for errand in self._session.unanswered():
            errand.is_repeated = True
            self._settling.send(errand)
        if self._feed is not None:
            self._feed.lose()
        self._wake.set()

    def _move(self) -> None:
        """Ask by way of the new connection, once what is on its way by the old one has arrived."""
        self._withdraw = True
        if self._feed is not None:
            self._feed.lose()
        self._wake.set()

    def _ask_again(self) -> None:
        """Look the consumer up: somebody changed it, or it is not heard."""
        self._following.doubt()
        self._wake.set()

    # -- replays -------------------------------------------------------------------------------------

    async def _look_for_replays(self) -> None:
        """See whether events are to be delivered again that the consumer had given up on."""
        if await any_replays(self._shared, self._consumer, self._loop.time() + self._patience):
            self._ring_feed()

    def _ring_feed(self) -> None:
        if self._ending:
            return
        feed = self._feed
        if feed is None:
            feed = self._feed = ReplayFeed(
                self._broker.connection,
                self._shared,
                self._consumer,
                lambda: self._following.found.timeout,
                self._options.pull,
                self._patience,
                lambda: self._has_room_for_replays,
                self._replay,
            )
            self._start(feed.run())
        feed.ring()

    @property
    def _has_room_for_replays(self) -> bool:
        return self._window.has_room and not self._backlog and not self._resuming and not self._unsent

    def _replay(self, delivery: Delivery, replay: Replay) -> None:
        """Take an event that is delivered again though the consumer had given up on it."""
        if self._triage.policy.is_beyond(delivery.attempt):
            self._triage.give_up(delivery, replay)
        else:
            self._backlog.append((delivery, replay, self._loop.time()))
        self._wake.set()
