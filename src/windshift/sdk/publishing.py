"""Publishing: one event, many, or as many as a long-running program has."""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from datetime import datetime
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from windshift.protos import events
from windshift.rpc import Threads

from .calling import Caller
from .errors import ClientClosed, InvalidField, PublishManyError
from .publish_stream import PublishReceipt, PublishStream, publish_alone
from .retry import Repeat
from .times import timestamp

MOST_ATOMIC: Final = 1_000
"""Events that are stored all or none: as many as a server takes in one request, and the broker in a batch."""
_END: Final = object()
_MOST_TAKEN: Final = 100  # objects taken from an iterable at once in a thread,
_TAKING: Final = 0.005  # or what it gives in so many seconds
MADE: Final = "\0make a key"
"""Stands for a key that is made at random; no valid key begins like this."""


class Publish(NamedTuple):
    """An event to publish; see `Client.publish`."""

    subject: str
    message: object
    key: str | None = MADE
    expected_last_id: int | None = None
    time: datetime | None = None


async def publish(caller: Caller, event: Publish, timeout: float | None = None) -> PublishReceipt:
    """Publish an event by a call of its own; see `Client.publish`."""
    request = _request(caller, event)
    span = None if caller.tracing is None else caller.tracing.publishing(request.subject)
    return await publish_alone(caller, request, _repeat(event), span, timeout=timeout)


async def publish_atomic(
    caller: Caller, messages: Iterable[object], subject: str | None, timeout: float | None
) -> list[PublishReceipt]:
    """Publish events all or none; see `Client.publish_atomic`."""
    batch = [_event(message, subject) for message in islice(messages, MOST_ATOMIC + 1)]
    if len(batch) > MOST_ATOMIC:
        raise InvalidField(
            f"a batch has at most {MOST_ATOMIC:,} events, and this one has more; none was stored",
            metadata={"field": "events"},
        )
    if not batch:
        return []
    request = events.PublishBatchRequest(events=[_request(caller, event) for event in batch], atomic=True)
    repeat = Repeat.ONCE if any(event.key is None for event in batch) else Repeat.SAME
    span = None if caller.tracing is None else caller.tracing.publishing(batch[0].subject, len(batch))
    call = caller.call(request, events.PublishBatchResponse, repeat, timeout=timeout)
    if caller.tracing is None:
        response = await call
    else:
        with caller.tracing.around(span):
            response = await call
    duplicates = set(response.duplicates)
    return [PublishReceipt(number, place in duplicates) for place, number in enumerate(response.ids)]


def _request(caller: Caller, event: Publish) -> events.PublishEventRequest:
    subject, message, key, expected_last_id, time = event
    if key is not None and not isinstance(key, str):
        raise TypeError(f"a key is a text, not {key!r}")
    request = events.PublishEventRequest(
        subject=caller.names.subject(subject),
        idempotency_key=_make_key() if key is MADE else key,
        expected_last_id=expected_last_id,
    )
    caller.payloads.pack_into(request.data, message)
    if time is not None:
        request.timestamp.CopyFrom(timestamp(time))
    return request


def _repeat(event: Publish) -> Repeat:
    return Repeat.ONCE if event.key is None else Repeat.SAME


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


class Ahead(AsyncIterator[object]):
    """Takes what an iterable gives in a thread, many at once: it may take its time, and use the client.

    The thread is the same for all that it gives; `close` ends it.

    Attributes:
        taken: what it gave and nobody asked for yet.
    """

    def __init__(self, values: Iterable[object]) -> None:
        self.taken: deque[object] = deque()
        self._iterator = iter(values)
        self._error: BaseException | None = None
        self._given_up = False
        self._threads = Threads(1, "publish_many")

    async def __anext__(self) -> object:
        if not self.taken and self._error is None:
            try:
                await self._threads.run(self._take)
            except asyncio.CancelledError:
                self._given_up = True
                raise
        if self.taken:
            return self.taken.popleft()
        raise self._error or StopAsyncIteration

    def close(self) -> None:
        """End the thread, as soon as the iterable lets it."""
        self._threads.close()

    def _take(self) -> None:
        end = time.monotonic() + _TAKING
        try:
            for value in islice(self._iterator, _MOST_TAKEN):
                self.taken.append(value)
                if self._given_up or time.monotonic() > end:
                    return
        except BaseException as error:  # noqa: BLE001 -- it is raised behind what came before it
            self._error = error


async def publish_many(
    caller: Caller,
    messages: Iterable[object] | AsyncIterable[object],
    subject: str | None,
    in_flight: int,
    *,
    without_ids: bool,
) -> list[PublishReceipt]:
    """Publish many events; see `Client.publish_many`."""
    async with PublishStream(caller, is_used=in_flight > 1, without_ids=without_ids) as stream:
        return await _Many(stream, in_flight).publish(messages, subject)


def _begin(stream: PublishStream, event: Publish) -> asyncio.Future[PublishReceipt]:
    """Begin to publish an event; the future has what became of it, also if it cannot be encoded."""
    try:
        return stream.publish(_request(stream.caller, event), _repeat(event))
    except Exception as error:  # noqa: BLE001 -- it is that of one event
        receipt: asyncio.Future[PublishReceipt] = asyncio.get_running_loop().create_future()
        receipt.set_exception(error)
        return receipt


class _Many:
    """Publishes what an iterator gives, so many at once, until one fails."""

    def __init__(self, stream: PublishStream, in_flight: int) -> None:
        self._stream = stream
        self._results: list[Any] = []
        self._in_flight = self._room = in_flight
        self._done = asyncio.Event()
        self._failed = False
        self._taking: asyncio.Timeout | None = None

    async def publish(
        self, messages: Iterable[object] | AsyncIterable[object], subject: str | None
    ) -> list[PublishReceipt]:
        broken: Exception | None = None
        try:
            async with asyncio.timeout(None) as self._taking:
                await self._take(messages, subject)
        except Exception as error:  # noqa: BLE001 -- it is raised once the others are done
            broken = error
        finally:
            self._taking = None
            if isinstance(messages, Ahead):
                messages.close()
        while self._room < self._in_flight:
            await self._change()
        if self._failed:
            if isinstance(messages, Ahead):
                self._results.extend([None] * len(messages.taken))  # its thread may still add one
            raise PublishManyError(self._results)
        if broken is not None:
            raise broken
        return self._results

    async def _take(self, messages: Iterable[object] | AsyncIterable[object], subject: str | None) -> None:
        """Take messages while there is room, and begin to publish them."""
        later = aiter(messages) if isinstance(messages, AsyncIterable) else None
        now = iter(()) if isinstance(messages, AsyncIterable) else iter(messages)
        while not self._failed:
            if not self._room:
                await self._change()
                continue
            message = next(now, _END) if later is None else await anext(later, _END)
            if message is _END:
                return
            receipt = _begin(self._stream, _event(message, subject))
            self._room -= 1
            receipt.add_done_callback(partial(self._note, len(self._results)))
            self._results.append(None)

    async def _change(self) -> None:
        self._done.clear()
        await self._done.wait()

    def _note(self, place: int, receipt: asyncio.Future[PublishReceipt]) -> None:
        """Keep what became of an event; once one failed, no more are taken, nor waited for."""
        self._room += 1
        self._done.set()
        if receipt.cancelled():
            return
        error = receipt.exception()
        self._results[place] = receipt.result() if error is None else error
        if error is not None and not self._failed:
            self._failed = True
            if self._taking is not None:
                self._taking.reschedule(asyncio.get_running_loop().time())


def _event(message: object, subject: str | None) -> Publish:
    if isinstance(message, Publish):
        return message
    if subject is None:
        raise TypeError(
            "a message without a subject: give one for all, or put it into Publish(subject, message)"
        )
    return Publish(subject, message)


_MOST_ERRORS: Final = 100
"""Errors that a publisher keeps: it may live for months."""


class Publisher:
    """Publishes in the background; made by `Client.publisher`.

    Leaving the block waits for everything that was sent, and raises an `ExceptionGroup` of what failed, with
    the first 100 errors, without the tracebacks of those that nobody awaited.
    """

    def __init__(self, caller: Caller, in_flight: int, *, without_ids: bool) -> None:
        if in_flight < 1:
            raise ValueError("in_flight must be at least 1")
        self._room = asyncio.Semaphore(in_flight)
        self._running: set[asyncio.Future[PublishReceipt]] = set()
        self._errors: list[Exception] = []  # the first ones
        self._failed = 0
        self._left = False
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

        Raises:
            ClientClosed: the block is left, so that nobody would hear of an error.
        """
        await self._room.acquire()
        if self._left:
            self._room.release()
            raise ClientClosed("the publisher is closed: its block was left")
        event = Publish(subject, message, key=key, expected_last_id=expected_last_id, time=time)
        receipt = _begin(self._stream, event)
        self._running.add(receipt)
        receipt.add_done_callback(self._done)
        return receipt

    def _done(self, receipt: asyncio.Future[PublishReceipt]) -> None:
        self._running.discard(receipt)
        self._room.release()
        if not receipt.cancelled() and isinstance(error := receipt.exception(), Exception):
            self._failed += 1
            if len(self._errors) < _MOST_ERRORS:
                _drop_tracebacks(error)
                self._errors.append(error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._left = True
        async with self._stream:
            if self._running:
                await asyncio.wait(self._running)
        if self._errors and error is None:
            only = f"; the first {_MOST_ERRORS} errors are:" if self._failed > _MOST_ERRORS else ""
            raise ExceptionGroup(f"{self._failed} events were not published{only}", self._errors)


def _drop_tracebacks(error: BaseException) -> None:
    """Drop the tracebacks of an error, which hold the event. Awaiting the future restores them."""
    each: BaseException | None = error
    while each is not None and each.__traceback__ is not None:
        each.__traceback__ = None
        each = each.__cause__ or each.__context__
