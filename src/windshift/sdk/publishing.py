"""Publishing: one event, many, or as many as a long-running program has."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self

from windshift.protos import events

from .calling import Caller
from .errors import PublishManyError
from .retry import Repeat
from .times import timestamp

METHOD = "/windshift.events.v1alpha1.EventsService/Publish"
MADE: Final = "\0make a key"
"""Stands for a key that is made at random; no valid key begins like this."""


@dataclass(frozen=True, slots=True)
class PublishReceipt:
    """An event is stored.

    Attributes:
        id: its id in the stream.
        duplicate: it was stored before, with the same key.
    """

    id: int
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Publish:
    """An event to publish; see `Client.publish`."""

    subject: str
    message: object
    key: str | None = MADE
    expected_last_id: int | None = None
    time: datetime | None = None


async def publish(caller: Caller, event: Publish, timeout: float | None = None) -> PublishReceipt:
    """Publish an event; see `Client.publish`."""
    request = events.PublishEventRequest(
        subject=caller.names.subject(event.subject), data=caller.payloads.pack(event.message)
    )
    if event.key is not None:
        request.idempotency_key = _make_key() if event.key is MADE else event.key
    if event.expected_last_id is not None:
        request.expected_last_id = event.expected_last_id
    if event.time is not None:
        request.timestamp.CopyFrom(timestamp(event.time))
    repeat = Repeat.ONCE if event.key is None else Repeat.SAME
    response = await caller.call(METHOD, request, events.PublishEventResponse, repeat, timeout=timeout)
    return PublishReceipt(response.id, response.duplicate)


def _make_key() -> str:
    return base64.urlsafe_b64encode(os.urandom(12)).decode()


async def publish_many(
    caller: Caller,
    messages: Iterable[object] | AsyncIterable[object],
    subject: str | None,
    in_flight: int,
) -> list[PublishReceipt]:
    """Publish many events; see `Client.publish_many`."""
    if not 1 <= in_flight <= 200:
        raise ValueError("in_flight must be 1 to 200")
    results: list[Any] = []
    source = _events(messages, subject)
    taking = asyncio.Lock()
    failed = False
    broken: Exception | None = None

    async def work() -> None:
        nonlocal failed, broken
        while not failed and broken is None:
            async with taking:
                try:
                    event = await anext(source, None)
                except Exception as error:  # noqa: BLE001 -- it is raised once the others are done
                    broken = error
                    return
                if event is None:
                    return
                place = len(results)
                results.append(None)
            try:
                results[place] = await publish(caller, event)
            except Exception as error:  # noqa: BLE001 -- all are raised together
                results[place], failed = error, True

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(work())
    if failed:
        raise PublishManyError(results)
    if broken is not None:
        raise broken
    return results


async def _events(
    messages: Iterable[object] | AsyncIterable[object], subject: str | None
) -> AsyncIterator[Publish]:
    if isinstance(messages, AsyncIterable):
        async for message in messages:
            yield _event(message, subject)
    else:
        for message in messages:
            yield _event(message, subject)


def _event(message: object, subject: str | None) -> Publish:
    if isinstance(message, Publish):
        return message
    if subject is None:
        raise TypeError(
            "a message without a subject: give publish_many a subject, or it Publish(subject, message)"
        )
    return Publish(subject, message)


class Publisher:
    """Publishes in the background; made by `Client.publisher`.

    Leaving the block waits for everything that was sent, and raises an `ExceptionGroup` of what failed.
    """

    def __init__(self, caller: Caller, in_flight: int) -> None:
        if in_flight < 1:
            raise ValueError("in_flight must be at least 1")
        self._caller = caller
        self._room = asyncio.Semaphore(in_flight)
        self._running: set[asyncio.Task[PublishReceipt]] = set()
        self._failures: list[Exception] = []

    async def send(
        self,
        subject: str,
        message: object,
        *,
        key: str | None = MADE,
        expected_last_id: int | None = None,
        time: datetime | None = None,
    ) -> asyncio.Future[PublishReceipt]:
        """Wait for room, then publish in the background; see `Client.publish` for the arguments.

        Returns:
            A future of the receipt. An error is raised at the end of the block, whether the future is
            awaited or not.
        """
        await self._room.acquire()
        event = Publish(subject, message, key=key, expected_last_id=expected_last_id, time=time)
        task = asyncio.ensure_future(publish(self._caller, event))
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[PublishReceipt]) -> None:
        self._running.discard(task)
        self._room.release()
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._failures.append(error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._running:
            await asyncio.wait(self._running)
        if self._failures and error is None:
            raise ExceptionGroup(f"{len(self._failures)} events were not published", self._failures)
