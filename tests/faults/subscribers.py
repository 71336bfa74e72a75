"""Consumers at work: they settle what they get in many ways, and come back when a call is cut off."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from tests.faults.calls import Connection, read_refused
from tests.faults.history import Delivery, History, Settlement, Told
from tests.support.client import EVENTS, text_of
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb

FINAL = ("ack", "drop")


@dataclass(slots=True)
class Consumption:
    """One consumer, with all of its subscribers.

    Attributes:
        settled: ids whose ack, or reject for good, was confirmed.
        max_batch: events in a response, for every other call of a subscriber; the rest get them one by one.
        keep: whether deliveries and settlements go into the history; millions of them would be too many.
        watch: is told of each delivery.
    """

    history: History
    stream: str
    consumer: str
    window: int = 100
    max_batch: int = 50
    keep: bool = True
    watch: Callable[[Delivery], None] | None = None
    delivered: set[int] = field(default_factory=set)
    settled: set[int] = field(default_factory=set)

    @property
    def name(self) -> str:
        """The consumer with its stream."""
        return f"{self.stream}.{self.consumer}"

    def saw(self, delivery: Delivery) -> None:
        """Put down a delivery."""
        self.delivered.add(delivery.id)
        if self.watch is not None:
            self.watch(delivery)
        if self.keep:
            self.history.deliveries.append(delivery)

    def heard(self, settlement: Settlement) -> None:
        """Put down how a settlement ended."""
        if settlement.kind in FINAL and settlement.told is Told.CONFIRMED:
            self.settled.add(settlement.id)
        if self.keep:
            self.history.settlements.append(settlement)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a subscriber may go: a connection, and the process that answers there at the moment."""

    connection: Connection
    process: Callable[[], str]


Behaviour = Callable[["Session", pb.Event], None]
"""Decides about an event by calling the session's methods, now or later."""


def acknowledge(session: Session, event: pb.Event) -> None:
    """Acknowledge at once."""
    session.settle("ack", event.id)


def hold(session: Session, event: pb.Event) -> None:
    """Do nothing."""


def together(luck: random.Random) -> Behaviour:
    """Acknowledge what comes within a moment in one message."""
    waiting: dict[Session, list[int]] = {}

    def flush(session: Session) -> None:
        session.settle("ack", *waiting.pop(session))

    def behave(session: Session, event: pb.Event) -> None:
        ids = waiting.setdefault(session, [])
        ids.append(event.id)
        if len(ids) == 1:
            session.later(luck.choice((0, 0.002, 0.02)), lambda: flush(session))

    return behave


def mixed(luck: random.Random) -> Behaviour:
    """Mostly acknowledge; reject some for a while, work on some for a while, drop a few."""

    def behave(session: Session, event: pb.Event) -> None:
        match luck.random():
            case chance if chance < 0.05:
                delay = pb.EventsRequest.Reject(ids=[event.id])
                delay.delay.FromMilliseconds(luck.randrange(300))
                session.send("reject", [event.id], pb.EventsRequest(reject=delay))
            case chance if chance < 0.1:
                session.settle("ping", event.id)
                session.later(luck.uniform(0, 0.2), lambda: session.settle("ack", event.id))
            case chance if chance < 0.12:
                session.settle("drop", event.id)
            case chance if chance < 0.2:
                session.later(luck.uniform(0, 0.05), lambda: session.settle("ack", event.id))
            case _:
                session.settle("ack", event.id)

    return behave


class Session:
    """One `Events` call."""

    def __init__(
        self, name: str, consumption: Consumption, target: Target, behave: Behaviour, max_batch: int = 0
    ) -> None:
        self.name = name
        self._consumption = consumption
        self._max_batch = max_batch
        self._target = target
        self._behave = behave
        self.server = target.process()
        self.subscribed = False
        self._out: asyncio.Queue[pb.EventsRequest | None] = asyncio.Queue()
        self._asked: deque[tuple[str, Sequence[int], float]] = deque()
        self.over = False

    # What a behaviour may do

    def settle(self, kind: str, *ids: int) -> None:
        """Send an ``ack``, ``ping``, ``reject``, ``drop``, or ``bury`` (a reject for good)."""
        match kind:
            case "ack":
                request = pb.EventsRequest(ack={"ids": ids})
            case "ping":
                request = pb.EventsRequest(ping={"ids": ids})
            case "drop":
                drop = pb.EventsRequest.REJECT_ACTION_DROP
                request = pb.EventsRequest(reject=pb.EventsRequest.Reject(ids=ids, action=drop))
            case "bury":
                request = pb.EventsRequest(reject=pb.EventsRequest.Reject(ids=ids, permanently=True))
            case _:
                request = pb.EventsRequest(reject={"ids": ids})
        self.send(kind, ids, request)

    def send(self, kind: str, ids: Sequence[int], request: pb.EventsRequest) -> None:
        """Send a request that will be confirmed."""
        if not self.over:
            self._asked.append((kind, ids, time.monotonic()))
            self._out.put_nowait(request)

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        """Do something after a while, if the call still goes on."""
        asyncio.get_running_loop().call_later(seconds, what)

    def half_close(self) -> None:
        """Say no more; what was said will still be confirmed."""
        self._out.put_nowait(None)

    # The call

    async def run(self) -> None:
        """Make the call, and return at its end. Raise what ended it."""
        subscribe = pb.EventsRequest.Subscribe(
            stream=self._consumption.stream,
            consumer=self._consumption.consumer,
            max_processing_events=self._consumption.window,
            max_batch=self._max_batch,
        )
        call = self._target.connection.channel.stream_stream(
            f"/{EVENTS.full_name}/Events",
            request_serializer=pb.EventsRequest.SerializeToString,
            response_deserializer=pb.EventsResponse.FromString,
        )()
        writer = asyncio.create_task(self._write(call, pb.EventsRequest(subscribe=subscribe)))
        try:
            async for response in call:
                self._read(response)
        finally:
            self.over = True
            writer.cancel()
            call.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            self._leave_unanswered()

    async def _write(self, call: Any, request: pb.EventsRequest | None) -> None:
        with contextlib.suppress(
            grpc.aio.AioRpcError, asyncio.InvalidStateError
        ):  # the reader is told as well
            while request is not None:
                await call.write(request)
                request = await self._out.get()
            await call.done_writing()

    def _read(self, response: pb.EventsResponse) -> None:
        match response.WhichOneof("response"):
            case "event":
                self._take(response.event)
            case "batch":
                for event in response.batch.events:
                    self._take(event)
            case "subscribed":
                self.server = self._target.process()
                self.subscribed = True
            case str() as kind:
                self._confirm(kind, getattr(response, kind))
            case None:
                raise AssertionError("an empty response")

    def _take(self, event: pb.Event) -> None:
        delivery = Delivery(
            self._consumption.name, self.name, self.server, event.id, event.delivery_attempt,
            text_of(event.data), time.monotonic(),
        )  # fmt: skip
        self._consumption.saw(delivery)
        self._behave(self, event)

    def _confirm(self, confirmation: str, lists: Any) -> None:
        kind, ids, start = self._asked.popleft()
        said = "reject" if kind in ("drop", "bury") else kind
        told = {
            **dict.fromkeys(lists.ids, Told.CONFIRMED),
            **dict.fromkeys(lists.invalid_ids, Told.INVALID),
            **dict.fromkeys(lists.temporary_failed_ids, Told.FAILED),
        }
        if confirmation != f"{said}_confirmation" or told.keys() != set(ids):
            raise AssertionError(f"{kind} of {ids} was confirmed with {confirmation}: {lists}")
        for id_, word in told.items():
            self._put_down(kind, id_, start, word)
            if word is Told.FAILED and kind in FINAL:
                self.later(0.2, lambda id_=id_: self.settle(kind, id_))  # type: ignore[misc]

    def _leave_unanswered(self) -> None:
        for kind, ids, start in self._asked:
            for id_ in ids:
                self._put_down(kind, id_, start, Told.UNANSWERED)
        self._asked.clear()

    def _put_down(self, kind: str, id_: int, start: float, told: Told) -> None:
        settlement = Settlement(
            self._consumption.name, self.name, self.server, kind, id_, start, time.monotonic(), told
        )
        self._consumption.heard(settlement)


class Subscriber:
    """A client that consumes for as long as it is wanted: when a call is cut off, it makes another one."""

    def __init__(
        self,
        who: str,
        consumption: Consumption,
        targets: Sequence[Target],
        behave: Behaviour = acknowledge,
    ) -> None:
        self._who = who
        self._consumption = consumption
        self._targets = targets
        self._behave = behave
        self._wanted = True
        self._task: asyncio.Task[None] | None = None
        self.sessions = 0
        self.session: Session | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run())

    async def ready(self, within: float = 30.0) -> None:
        """Wait until a call is subscribed: the first one, or one that took its place."""
        async with asyncio.timeout(within):
            while self.session is None or not self.session.subscribed:  # noqa: ASYNC110 - calls come and go
                await asyncio.sleep(0.01)

    async def stop(self, within: float = 20.0) -> None:
        """Say no more, wait for the last confirmations, and end."""
        self._wanted = False
        if self._task is None:
            return
        if self.session is not None:
            self.session.half_close()
        done, _ = await asyncio.wait((self._task,), timeout=within)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=not done)

    def look(self) -> None:
        """Raise what ended it."""
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self._task.result()

    def vanish(self) -> None:
        """End the call at once."""
        self._wanted = False
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while self._wanted:
            target = self._targets[self.sessions % len(self._targets)]
            self.sessions += 1
            max_batch = self._consumption.max_batch if self.sessions % 2 else 0
            name = f"{self._who}.{self.sessions}"
            self.session = Session(name, self._consumption, target, self._behave, max_batch)
            try:
                await self.session.run()
            except grpc.aio.AioRpcError as error:
                refused = read_refused("Events", error)
                self._consumption.history.failures.append(refused.failure)
                if not refused.retryable:
                    raise AssertionError(f"{self.session.name} ended with {refused}") from error
                await asyncio.sleep(random.uniform(0.05, 0.2))
