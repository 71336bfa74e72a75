"""Consumers: make, list, describe, pause, move and delete them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeVar, Unpack, overload

from windshift.protos import admin, events
from windshift.rpc import StatusCode

from .calling import Caller, pages
from .deliveries import Delivery
from .errors import DeadlineExceeded, WindshiftError
from .names import Names
from .pointers import Position, pointer
from .retry import Repeat
from .runtime.subscription import LINGER, Handler, Handling, Subscription, finish
from .specs import ConsumerFields, ConsumerSpec, RetryPolicy, read_retry_policy
from .times import Seconds, moment_of, seconds, timestamp

T = TypeVar("T")


class ConsumerInfo(NamedTuple):
    """A consumer, and how far it has come.

    Attributes:
        stream: its stream.
        name: its name, or its generated id.
        durable: whether it has a name.
        subjects: its filters.
        timeout: how long a subscriber may take over an event.
        retry: what happens to events that are not acknowledged.
        pending: events that it has yet to deliver.
        unsettled: events that were delivered and are not settled.
        settled_to: every event up to this id is settled.
        dead_letters: events that it gave up on.
        paused_until: when it goes on; None = it is not paused. Known only from a list.
        oldest_unsettled: when the oldest unsettled event was stored. Known only from a list, with at most 4
            filters.
        waiting_replays: replays of its dead letters that are not settled. Known only from a list.
        subscriptions: calls that consume from it, at all servers. Known only from a list.
    """

    stream: str
    name: str
    durable: bool
    subjects: tuple[str, ...]
    timeout: timedelta
    retry: RetryPolicy
    pending: int
    unsettled: int
    settled_to: int
    dead_letters: int
    paused_until: datetime | None = None
    oldest_unsettled: datetime | None = None
    waiting_replays: int = 0
    subscriptions: int = 0


class Sought(NamedTuple):
    """A consumer was moved, or could be.

    Attributes:
        next_id: it delivers no event before this id.
        was: every event before this id was settled; moved back to it, the consumer misses none.
        pending: events that it has yet to deliver.
    """

    next_id: int
    was: int
    pending: int


def _info(proto: events.GetConsumerResponse, names: Names) -> ConsumerInfo:
    return ConsumerInfo(
        stream=names.bare_name(proto.stream),
        name=proto.id,
        durable=proto.durable,
        subjects=tuple(names.bare_subject(subject) for subject in proto.subjects),
        timeout=proto.processing_timeout.ToTimedelta(),
        retry=read_retry_policy(proto.retry_policy),
        pending=proto.pending,
        unsettled=proto.unsettled,
        settled_to=proto.settled_to,
        dead_letters=proto.dead_letters,
    )


class Consumer:
    """A consumer by its name; whether it exists shows at the first call.

    Attributes:
        stream: the name of its stream.
        name: its name, or its generated id.
    """

    def __init__(self, caller: Caller, stream: str, name: str) -> None:
        self._caller = caller
        self.stream = stream
        self.name = name

    @property
    def _stream(self) -> str:
        return self._caller.names.name(self.stream)

    async def info(self) -> ConsumerInfo:
        """Describe the consumer.

        Raises:
            NotFound: the stream or the consumer does not exist.
        """
        request = events.GetConsumerRequest(stream=self._stream, id=self.name)
        response = await self._caller.call(request, events.GetConsumerResponse, Repeat.READ)
        return _info(response, self._caller.names)

    async def delete(self) -> None:
        """Delete the consumer. Who consumes from it gets `ConsumerNotFound`.

        Raises:
            NotFound: the stream or the consumer does not exist.
        """
        request = events.DeleteConsumerRequest(stream=self._stream, id=self.name)
        await self._caller.call(
            request, events.DeleteConsumerResponse, Repeat.SAME, gone=StatusCode.NOT_FOUND
        )

    async def pause(self, until: datetime | Seconds) -> datetime:
        """Deliver nothing new until a time, or for so long; return that time. What is held can be settled.

        Raises:
            ValueError: the time is not ahead, or after the year 9999.
            NotFound: the stream or the consumer does not exist.
            WindshiftError: the time is over by the server's clock, so the consumer is not paused any more.
        """
        now = datetime.now(UTC)
        try:
            end = until if isinstance(until, datetime) else now + timedelta(0, seconds(until))
        except OverflowError as error:
            raise ValueError("this duration is too long: a pause ends before the year 10000") from error
        if end.tzinfo is not None and end <= now:
            raise ValueError(f"a pause ends at a time that is ahead, not {until!r}")
        paused_until = moment_of(await self._pause(end), "paused_until")
        if paused_until is None:
            message = f"consumer {self.name!r} is not paused: that time is over by the server's clock"
            hint = "" if isinstance(until, datetime) else "is the clock of this machine right?"
            raise WindshiftError(message, hint=hint)
        return paused_until

    async def resume(self) -> None:
        """End a pause."""
        await self._pause(None)

    async def seek(self, to: Position, *, dry_run: bool = False) -> Sought:
        """Move the consumer to another event: from there on everything is delivered anew, as first attempts.

        Subscribers stay, on all servers, but what they hold is not theirs any more. Handlers that run go on;
        if their event comes to the same process meanwhile, they count for that delivery.

        Args:
            to: where; an id may be at most the next one of the stream.
            dry_run: only say what would come of it.

        Raises:
            NotFound: the stream or the consumer does not exist.
            SeekNotPossible: it was made to begin later, or the broker is too old.
        """
        request = admin.SeekConsumerRequest(
            stream=self._stream, consumer=self.name, to=pointer(to), dry_run=dry_run
        )
        repeat = Repeat.READ if dry_run else Repeat.ONCE
        response = await self._caller.call(request, admin.SeekConsumerResponse, repeat)
        return Sought(response.next_id, response.was, response.pending)

    @overload
    def subscribe(
        self,
        *,
        types: Sequence[type[T]],
        concurrency: int = 1,
        prefetch: int | None = None,
        max_lease: Seconds = 900.0,
        linger: Seconds = LINGER,
    ) -> AbstractAsyncContextManager[AsyncIterator[Delivery[T]]]: ...

    @overload
    def subscribe(
        self,
        *,
        concurrency: int = 1,
        prefetch: int | None = None,
        max_lease: Seconds = 900.0,
        linger: Seconds = LINGER,
    ) -> AbstractAsyncContextManager[AsyncIterator[Delivery[Any]]]: ...

    @asynccontextmanager
    async def subscribe(
        self,
        *,
        types: Sequence[type] = (),
        concurrency: int = 1,
        prefetch: int | None = None,
        max_lease: Seconds = 900.0,
        linger: Seconds = LINGER,
    ) -> AsyncIterator[AsyncIterator[Delivery[Any]]]:
        """Iterate over deliveries, until the block is left: `async with ... as deliveries`.

        What was delivered and not settled when the block is left goes to others, and counts as an attempt;
        `run` and `running` finish it instead.

        Args:
            types: only these are handed out, others become dead letters; none = every type.
            concurrency: deliveries that are handed out and not settled, at most.
            prefetch: deliveries that wait beside them; None = a quarter of `concurrency`, at least 2.
            max_lease: how long the lease of a delivery that was handed out is prolonged. Then it is rejected,
                and another one is handed out in its place.
            linger: how long what is held is kept for this process when its call breaks, at most 60 seconds;
                others get it so much later when the process dies.

        Raises:
            WindshiftError: from the iteration, an error that another call would meet too.
        """
        handling = _handling(types, concurrency, prefetch, max_lease, linger)
        subscription = Subscription(self._caller, self.stream, self.name, None, handling)
        running = asyncio.ensure_future(subscription.run())
        try:
            yield _deliveries(subscription, running)
        finally:
            await finish(subscription, running, 0.0)

    async def run(
        self,
        handler: Handler,
        *,
        types: Sequence[type] = (),
        concurrency: int = 32,
        prefetch: int | None = None,
        max_lease: Seconds = 900.0,
        linger: Seconds = LINGER,
        grace: Seconds = 30.0,
    ) -> None:
        """Handle events until the task is cancelled. Then what is held is finished, and settled in one write.

        An event is acknowledged when its handler returns. What the handler raises rejects it: `RetryLater`,
        `GiveUp` and `Drop` say how; a payload that cannot be decoded becomes a dead letter; every other
        exception means another attempt by the consumer's retry policy. Delivery is at least once.

        Args:
            handler: a coroutine function, or a function that runs in a thread.
            types: only these are handed to it, others become dead letters; none = every type.
            concurrency: handlers at once.
            prefetch: deliveries that wait beside them; None = a quarter of `concurrency`, at least 2.
            max_lease: how long the lease of a delivery is prolonged. Then its handler is cancelled and the
                event rejected; a thread cannot be cancelled, so its event goes to others.
            linger: how long what is held is kept for this process when its call breaks, at most 60 seconds;
                others get it so much later when the process dies.
            grace: after a cancellation, how long handlers may take to finish before they are cancelled.

        Raises:
            WindshiftError: an error that another call would meet too.
            TypeError: the handler is no function, or a type no class that can be a payload.
        """
        handling, last = _handling(types, concurrency, prefetch, max_lease, linger), seconds(grace)
        subscription = Subscription(self._caller, self.stream, self.name, handler, handling)
        running = asyncio.ensure_future(subscription.run())
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            if not running.done():
                await finish(subscription, running, last)
            raise

    @asynccontextmanager
    async def running(
        self,
        handler: Handler,
        *,
        types: Sequence[type] = (),
        concurrency: int = 32,
        prefetch: int | None = None,
        max_lease: Seconds = 900.0,
        linger: Seconds = LINGER,
        grace: Seconds = 30.0,
    ) -> AsyncIterator[None]:
        """Handle events beside the block; leaving it is like cancelling `run`, whose arguments it takes.

        Raises:
            WindshiftError: at the end of the block, an error that another call would have met too.
        """
        handling, last = _handling(types, concurrency, prefetch, max_lease, linger), seconds(grace)
        subscription = Subscription(self._caller, self.stream, self.name, handler, handling)
        running = asyncio.ensure_future(subscription.run())
        try:
            yield
        finally:
            failed = running.done()
            await finish(subscription, running, last)
        if failed:
            running.result()

    async def idle(self, timeout: Seconds = 10.0) -> None:
        """Wait until nothing is pending and nothing is unsettled.

        Raises:
            DeadlineExceeded: something still is after `timeout`, or the server did not say in the client's.
        """

        async def is_idle() -> bool:
            info = await self.info()
            return not (info.pending or info.unsettled)

        await until_idle(is_idle, timeout, f"consumer {self.name!r}")

    async def _pause(self, until: datetime | None) -> admin.PauseConsumerResponse:
        request = admin.PauseConsumerRequest(
            stream=self._stream, consumer=self.name, until=None if until is None else timestamp(until)
        )
        return await self._caller.call(request, admin.PauseConsumerResponse, Repeat.SAME)

    def __repr__(self) -> str:
        return f"Consumer({self.stream!r}, {self.name!r})"


async def until_idle(is_idle: Callable[[], Awaitable[bool]], timeout: Seconds, what: str) -> None:
    """Ask whether something is idle until it is.

    Raises:
        DeadlineExceeded: it is not after `timeout`; `what` says in the text what it is.
    """
    pause = 0.01
    try:
        async with asyncio.timeout(seconds(timeout)):
            while not await is_idle():
                await asyncio.sleep(pause)
                pause = min(0.5, pause * 1.5)
    except WindshiftError:  # some of which are a TimeoutError
        raise
    except TimeoutError as error:
        raise DeadlineExceeded(f"{what} has events that are not settled") from error


def _handling(
    types: Sequence[type], concurrency: int, prefetch: int | None, max_lease: Seconds, linger: Seconds
) -> Handling:
    return Handling(concurrency, prefetch, types, max_lease=seconds(max_lease), linger=seconds(linger))


async def _deliveries(
    subscription: Subscription, running: asyncio.Future[None]
) -> AsyncIterator[Delivery[Any]]:
    """Yield what is ready, until the subscription ends."""
    while True:
        next_one: asyncio.Future[Any] = asyncio.ensure_future(subscription.next())
        try:
            await asyncio.wait({next_one, running}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not next_one.done():
                next_one.cancel()
        if not next_one.done():
            running.result()
            return
        yield next_one.result()


class Consumers:
    """The consumers of a stream."""

    def __init__(self, caller: Caller, stream: str) -> None:
        self._caller = caller
        self._stream = stream

    async def ensure(
        self,
        name: str | None,
        spec: ConsumerSpec | None = None,
        **fields: Unpack[ConsumerFields],
    ) -> Consumer:
        """Make a consumer, or change it to this; it keeps its position.

        Args:
            name: its name, shared by all its subscribers; None = an ephemeral one with a generated id.
            spec: what it is to be.
            **fields: the same, or what differs from `spec`: the fields of a `ConsumerSpec`.

        Raises:
            StreamNotFound: the stream does not exist.
        """
        spec = (spec or ConsumerSpec()).with_fields(fields)
        request = spec.proto(self._stream, name, self._caller.names)
        response = await self._caller.call(request, events.EnsureConsumerResponse, Repeat.SAME)
        return Consumer(self._caller, self._stream, response.id)

    async def get(self, name: str) -> ConsumerInfo:
        """Describe a consumer.

        Raises:
            NotFound: the stream or the consumer does not exist.
        """
        return await Consumer(self._caller, self._stream, name).info()

    async def list(self) -> AsyncIterator[ConsumerInfo]:
        """List the consumers of the stream by name.

        Those of `client.stream("")` are the consumers of all streams of the client's namespace, by stream.
        """
        names = self._caller.names
        request = admin.ListConsumersRequest(stream=names.name(self._stream))
        found = pages(self._caller, request, admin.ListConsumersResponse, lambda page: page.consumers)
        async for info in found:
            if names.owns(info.consumer.stream):
                yield _info(info.consumer, names)._replace(
                    paused_until=moment_of(info, "paused_until"),
                    oldest_unsettled=moment_of(info, "oldest_unsettled"),
                    waiting_replays=info.waiting_replays,
                    subscriptions=info.subscriptions,
                )

    async def delete(self, name: str) -> None:
        """Delete a consumer; see `Consumer.delete`."""
        await Consumer(self._caller, self._stream, name).delete()
