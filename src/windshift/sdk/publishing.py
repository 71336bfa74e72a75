"""Publishing: one event, many, or as many as a long-running program has."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterable, Iterable
from datetime import datetime
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from windshift import conventions as c
from windshift.protos import events

from .calling import Caller
from .errors import PublishManyError
from .publish_stream import PublishStream
from .retry import Repeat
from .times import timestamp

_END: Final = object()
METHOD = "/windshift.events.v1alpha1.EventsService/Publish"
MADE: Final = "\0make a key"
"""Stands for a key that is made at random; no valid key begins like this."""


class PublishReceipt(NamedTuple):
    """An event is stored.

    Attributes:
        id: its id in the stream; 0 where the publisher does without ids.
        duplicate: it was stored before, with the same key. Not told without ids.
    """

    id: int
    duplicate: bool = False


class Publish(NamedTuple):
    """An event to publish; see `Client.publish`."""

    subject: str
    message: object
    key: str | None = MADE
    expected_last_id: int | None = None
    time: datetime | None = None


async def publish(
    caller: Caller, event: Publish, timeout: float | None = None, stream: PublishStream | None = None
) -> PublishReceipt:
    """Publish an event, by a call of its own or by that of many; see `Client.publish`."""
    subject, message, key, expected_last_id, time = event
    request = events.PublishEventRequest(
        subject=caller.names.subject(subject),
        idempotency_key=_make_key() if key is MADE else key,
        expected_last_id=expected_last_id,
    )
    caller.payloads.pack_into(request.data, message)
    if time is not None:
        request.timestamp.CopyFrom(timestamp(time))
    repeat = Repeat.ONCE if key is None else Repeat.SAME
    if caller.tracing is None:
        first = None if stream is None else stream.publish
        response = await caller.call(
            METHOD, request, events.PublishEventResponse, repeat, timeout=timeout, first=first
        )
    else:
        with caller.tracing.publishing(request.subject) as span:
            response = await caller.call(
                METHOD, request, events.PublishEventResponse, repeat, timeout=timeout
            )
            span.set_attribute(c.MESSAGE_ID, str(response.id))
    return PublishReceipt(response.id, response.duplicate)


_KEY = 16  # characters: 12 random bytes
_KEYS_AT_ONCE = 256  # asking the kernel for random bytes costs as much as all the rest of a key
_keys: list[str] = []


def _make_key() -> str:
    while True:
        try:
            return _keys.pop()
        except IndexError:
            text = base64.urlsafe_b64encode(os.urandom(12 * _KEYS_AT_ONCE)).decode()
            _keys.extend(text[start : start + _KEY] for start in range(0, len(text), _KEY))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keys.clear)  # the keys at hand are the parent's


async def publish_many(
    caller: Caller,
    messages: Iterable[object] | AsyncIterable[object],
    subject: str | None,
    in_flight: int,
) -> list[PublishReceipt]:
    """Publish many events; see `Client.publish_many`."""
    results: list[Any] = []
    source = _Source(messages)
    failed = False
    broken: Exception | None = None

    async def work() -> None:
        nonlocal failed, broken
        while not failed and broken is None:
            try:
                message = await source.take()
                if message is _END:
                    return
                event = _event(message, subject)
            except Exception as error:  # noqa: BLE001 -- it is raised once the others are done
                broken = error
                return
            place = len(results)
            results.append(None)
            try:
                results[place] = await publish(caller, event, stream=stream)
            except Exception as error:  # noqa: BLE001 -- all are raised together
                results[place], failed = error, True

    async with PublishStream(caller, is_used=in_flight > 1) as stream, asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(work())
    if failed:
        raise PublishManyError(results)
    if broken is not None:
        raise broken
    return results


class _Source:
    """Messages of an iterator, for tasks that take them one by one.

    All tasks that wait go on together. A lock would let in one for each turn of the event loop, and each
    event would be sent alone.
    """

    def __init__(self, messages: Iterable[object] | AsyncIterable[object]) -> None:
        self._later = aiter(messages) if isinstance(messages, AsyncIterable) else None
        self._now = iter(()) if isinstance(messages, AsyncIterable) else iter(messages)
        self._free = asyncio.Event()
        self._free.set()

    async def take(self) -> object:
        """Return the next message, or `_END`."""
        if self._later is None:
            return next(self._now, _END)
        while not self._free.is_set():
            await self._free.wait()
        self._free.clear()
        try:
            return await anext(self._later, _END)
        finally:
            self._free.set()


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

    def __init__(self, caller: Caller, in_flight: int, *, without_ids: bool = False) -> None:
        if in_flight < 1:
            raise ValueError("in_flight must be at least 1")
        self._caller = caller
        self._room = asyncio.Semaphore(in_flight)
        self._running: set[asyncio.Task[PublishReceipt]] = set()
        self._failures: list[Exception] = []
        self._stream = PublishStream(caller, is_used=in_flight > 1, without_ids=without_ids)

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
        task = asyncio.ensure_future(publish(self._caller, event, stream=self._stream))
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
        await self._stream.close()
        if self._failures and error is None:
            raise ExceptionGroup(f"{len(self._failures)} events were not published", self._failures)
