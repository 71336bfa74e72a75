"""An app that runs: its subscriptions, from the first delivery to the last confirmation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from windshift.sdk.client import Client, caller_of
from windshift.sdk.consumers import until_idle
from windshift.sdk.dead_letters import DeadLetter
from windshift.sdk.errors import ConsumerNotFound, StreamNotFound, WindshiftError
from windshift.sdk.runtime.subscription import Subscription, finish
from windshift.sdk.times import Seconds

from .consumer import AppConsumer, AppStream, Next

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0  # seconds between attempts to reach a server
_log = logging.getLogger("windshift")


async def prepare(
    name: str,
    client: Client,
    streams: Sequence[AppStream],
    consumers: Sequence[AppConsumer],
    *,
    patient: bool,
) -> None:
    """Ensure the streams and consumers of an app of this name.

    With `patient` it is tried again for as long as the server cannot be reached.

    Raises:
        WindshiftError: what could not be ensured.
    """
    pause = _FIRST_PAUSE
    while True:
        try:
            for stream in streams:
                if await _is_wanted(stream, client.stream(stream.name).info, StreamNotFound):
                    await client.streams.ensure(stream.name, stream.spec)
            for consumer in consumers:
                where = client.stream(consumer.stream.name)
                if await _is_wanted(consumer, where.consumer(consumer.name).info, ConsumerNotFound):
                    await where.consumers.ensure(consumer.name, consumer.spec)
        except WindshiftError as error:
            if not patient or not error.retryable:
                raise
            _log.warning("%s waits for the server: %s", name, error)
        else:
            return
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


async def _is_wanted(
    part: AppStream | AppConsumer, info: Callable[[], Awaitable[object]], missing: type[WindshiftError]
) -> bool:
    """Say whether to ensure a stream or consumer, which `info` describes, or says to be missing."""
    if part.ensure != "create":
        return part.ensure != "never"
    try:
        await info()
    except missing:
        return True
    return False


class Running:
    """An app that runs, made by `App.running`.

    Attributes:
        client: its client.
        stopping: whether what is held is being finished.
    """

    def __init__(self, name: str, client: Client, consumers: Sequence[AppConsumer]) -> None:
        self.client = client
        self.stopping = False
        self._name = name
        self._consumers = consumers
        self._tasks: dict[Subscription, asyncio.Task[None]] = {}
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def start(self, handlers: Mapping[AppConsumer, Next], concurrency: int | None) -> None:
        """Subscribe each consumer with the function that handles its deliveries."""
        for consumer, handler in handlers.items():
            handling = consumer.handling
            subscription = Subscription(
                caller_of(self.client),
                consumer.stream.name,
                consumer.name,
                handler,
                replace(handling, concurrency=concurrency or handling.concurrency),
            )
            task = asyncio.get_running_loop().create_task(subscription.run())
            task.add_done_callback(partial(self._ended, consumer))
            self._tasks[subscription] = task

    def _ended(self, consumer: AppConsumer, task: asyncio.Task[None]) -> None:
        if self.stopping or task.cancelled() or (error := task.exception()) is None:
            return
        _log.error(
            "%s: the consumer %s of %s ended: %s", self._name, consumer.name, consumer.stream.name, error
        )
        if not self._failure.done():
            self._failure.set_exception(error)
            self._failure.exception()  # nobody may be waiting

    @property
    def ready(self) -> bool:
        """Whether every consumer is subscribed."""
        return not self.stopping and all(subscription.is_open for subscription in self._tasks)

    def check(self) -> None:
        """Do nothing, or raise the error that ended a consumer.

        Raises:
            WindshiftError: that error.
        """
        if self._failure.done():
            self._failure.result()

    async def wait(self) -> None:
        """Wait until an error ends a consumer.

        Raises:
            WindshiftError: that error.
        """
        await asyncio.shield(self._failure)

    async def idle(self, timeout: Seconds = 10.0) -> None:
        """Wait until no consumer of the app has anything pending, unsettled or replaying.

        Raises:
            DeadlineExceeded: something still is after `timeout`, or the server did not say in the client's.
            WindshiftError: an error that ended a consumer.
        """
        now: list[int] | None = None

        async def is_idle() -> bool:
            nonlocal now
            self.check()
            before, now = now, await self._settled_to()
            return now is not None and now == before  # one consumer's handler may publish for another one

        await until_idle(is_idle, timeout, f"the app {self._name!r}")

    async def _settled_to(self) -> list[int] | None:
        """Return how far each consumer has come; None if one has something to do."""
        settled_to = []
        for consumer in self._consumers:
            info = await self.client.stream(consumer.stream.name).consumer(consumer.name).info()
            if info.pending or info.unsettled:
                return None
            settled_to.append(info.settled_to)
        for consumer in self._consumers:
            for letter in await self.dead_letters(consumer):
                if letter.replaying:
                    return None
        busy = any(subscription.busy for subscription in self._tasks)
        return None if busy else settled_to

    async def dead_letters(self, consumer: AppConsumer) -> list[DeadLetter]:
        """Return the dead letters of a consumer."""
        letters = self.client.dead_letters.list(stream=consumer.stream.name, consumer=consumer.name)
        return [letter async for letter in letters]

    async def stop(self, grace: float) -> None:
        """Finish what is held, then settle it, for all consumers at once; `grace` in seconds."""
        self.stopping = True
        await asyncio.gather(*(finish(each, task, grace) for each, task in self._tasks.items()))
