"""Many events published by one call, `PublishStream`, where the server has it."""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import chain, repeat
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from windshift import conventions as c
from windshift.protos import events
from windshift.rpc import ClientCall, RpcError, StatusCode

from .calling import Caller
from .errors import DOMAIN, WindshiftError, reason_of
from .retry import Repeat

_MOST: Final = 500
"""Events of one request; with those of the largest size it stays below the 8 MiB that a server reads."""
_LARGEST: Final = 8 * 1024
"""Bytes of an event; a larger one gains nothing, and would hold up those behind it."""
_AHEAD: Final = 65_536
"""Bytes that may wait to be written before no more events are sent: what is not sent is not in doubt."""
_REST: Final = 1.0
"""Seconds without such a call after one that had no results."""
_LAST_WORDS: Final = 1.0
"""Seconds for the server to end the call, when all events have their results."""

_Call = ClientCall[events.PublishStreamResponse]


class PublishReceipt(NamedTuple):
    """An event is stored.

    Attributes:
        id: its id in the stream; 0 where the publisher does without ids.
        duplicate: it was stored before, with the same key. Not told without ids.
    """

    id: int
    duplicate: bool = False


async def publish_alone(
    caller: Caller,
    request: events.PublishEventRequest,
    repeat: Repeat,
    span: Any,
    *,
    timeout: float | None,
    failed: RpcError | None = None,
) -> PublishReceipt:
    """Publish an event by a call of its own, see `Caller.call`; end the span, if the program traces."""
    call = caller.call(request, events.PublishEventResponse, repeat, timeout=timeout, failed=failed)
    if caller.tracing is None:
        response = await call
    else:
        with caller.tracing.around(span):
            response = await call
            span.set_attribute(c.MESSAGE_ID, str(response.id))
    return PublishReceipt(response.id, response.duplicate)


class _Sent(NamedTuple):
    """An event that waits for its result until the loop time `due`. Its user waits for the receipt."""

    request: events.PublishEventRequest
    repeat: Repeat
    due: float
    span: Any
    receipt: asyncio.Future[PublishReceipt]

    @property
    def waits(self) -> bool:
        """Whether its user still waits."""
        return not self.receipt.done()


class PublishStream:
    """Publishes events in the order in which it gets them, by one call as long as that lasts, then the next.

    No event is sent before the server has taken up the call, nor while much that was sent before waits to be
    written. What that call cannot do, or what it failed to do, is left to calls for single events, and so are
    events with a span that is recorded: the call tells the server of one trace context for all. When an
    event has no result in time, the call is ended: what the server has not read of it is never stored. So
    none is held for longer than the client's timeout, and only what users wait for, or gave up themselves:
    they bound how much that is.

    Args:
        is_used: whether to publish by the call of many at all.
        without_ids: whether to do without ids, which are 0 then, and without being told of duplicates.
    """

    def __init__(self, caller: Caller, *, is_used: bool, without_ids: bool) -> None:
        self.caller = caller
        self._without_ids = without_ids
        self._is_used = is_used
        self._queued: list[_Sent] = []
        self._is_held = False  # what is queued, until there are results
        self._sent: deque[_Sent] = deque()
        self._call: _Call | None = None
        self._running: asyncio.Task[None] | None = None
        self._single: set[asyncio.Task[PublishReceipt]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._rests_until = 0.0

    def publish(self, request: events.PublishEventRequest, repeat: Repeat) -> asyncio.Future[PublishReceipt]:
        """Publish an event within the client's timeout; the future has its receipt, or a `WindshiftError`."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        tracing = self.caller.tracing
        span = None if tracing is None else tracing.publishing(request.subject)
        sent = _Sent(request, repeat, now + self.caller.timeout, span, loop.create_future())
        if not self._takes(sent) or (self._running is None and now < self._rests_until):
            self._leave(sent, None)
            return sent.receipt
        if self._running is None:
            self._running = loop.create_task(self._run(span))
        elif self._call is not None and not self._queued:
            loop.call_soon(self._flush)
        self._queued.append(sent)
        if self._timer is None:
            self._timer = loop.call_at(sent.due, self._give_up_late_ones)
        return sent.receipt

    async def close(self) -> None:
        """End the calls, and take no more events."""
        self._is_used = False
        if self._timer is not None:
            self._timer.cancel()
        try:
            if self._running is not None and self._call is not None:
                self._call.close_send()
                await asyncio.wait((self._running,), timeout=_LAST_WORDS)
        finally:
            tasks = [*self._single, *([] if self._running is None else [self._running])]
            for task in tasks:
                task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._abandon()
        await self.close()

    def _abandon(self) -> None:
        """End the call at once: nobody waits for results."""
        for sent in (*self._sent, *self._queued):
            sent.receipt.cancel()
        if self._running is not None:
            self._running.cancel()

    def _takes(self, sent: _Sent) -> bool:
        if not self._is_used or self.caller.lacks_publish_stream or sent.request.ByteSize() > _LARGEST:
            return False
        tracing = self.caller.tracing
        return tracing is None or not tracing.is_recorded(sent.span)

    def _flush(self) -> None:
        """Send what is queued and still waited for. What is too much goes when there are results."""
        call = self._call
        if call is None or call.done:
            return
        while self._queued and call.queued <= _AHEAD:
            some, self._queued = self._queued[:_MOST], self._queued[_MOST:]
            if some := [sent for sent in some if sent.waits]:
                self._sent.extend(some)
                requests = [sent.request for sent in some]
                call.send(events.PublishStreamRequest(events=requests, without_ids=self._without_ids))
        self._is_held = bool(self._queued)

    async def _run(self, span: Any) -> None:
        """Make a call, until it ends. It has the trace context of the event that it begins with."""
        error = RpcError(StatusCode.CANCELLED, "the call was given up")
        has_results = False
        try:
            async with self.caller.stream(
                events.PublishStreamRequest, events.PublishStreamResponse, span
            ) as call:
                await call.initial_metadata()
                if not call.done:
                    self._call = call
                    self._flush()
                while responses := await call.receive_many():
                    has_results = True
                    for response in responses:
                        self._take(response)
                    if self._is_held:
                        self._flush()
            error = RpcError(StatusCode.UNAVAILABLE, "the server ended the call")
        except RpcError as failure:
            error = failure
            if error.code is StatusCode.UNIMPLEMENTED and self._call is None:
                self.caller.lacks_publish_stream = True
        except WindshiftError:  # there was no call, and a call of its own will say why
            pass
        finally:
            self._call = self._running = None
            if not has_results:
                self._rests_until = asyncio.get_running_loop().time() + _REST
            self._give_up(error)

    def _take(self, response: events.PublishStreamResponse) -> None:
        errors = {each.index: each for each in response.errors}
        duplicates = frozenset(response.duplicates)
        ids = response.ids or repeat(0, response.count)
        for number, event_id in enumerate(ids, response.first):
            sent = self._sent.popleft()
            if not sent.waits:
                continue
            refused = errors.get(number)
            if refused is None:
                sent.receipt.set_result(PublishReceipt(event_id, number in duplicates))
            else:
                self._leave(sent, _as_error(refused))

    def _give_up(self, error: RpcError) -> None:
        """Leave what a call that has ended so has not answered."""
        untouched = reason_of(error)[0] in {"SHUTTING_DOWN", "TOO_MANY_IN_FLIGHT"}
        is_late = error.code is StatusCode.DEADLINE_EXCEEDED
        code = error.code if is_late else StatusCode.UNAVAILABLE  # in doubt, and worth another attempt
        message = f"the call was cut off: {error.message or error.code.name}"
        for sent in self._sent:
            if sent.waits:
                self._leave(sent, None if untouched else RpcError(code, message))
        for sent in self._queued:
            if sent.waits:
                self._leave(sent, None)
        self._sent.clear()
        self._queued.clear()

    def _give_up_late_ones(self) -> None:
        """Leave events whose time is over, and look again when that of the next one is."""
        loop = asyncio.get_running_loop()
        now, self._timer = loop.time(), None
        late = [sent for sent in self._queued if sent.due <= now]
        del self._queued[: len(late)]  # in the order in which they are due
        for sent in late:
            if sent.waits:
                self._leave(sent, RpcError(StatusCode.UNAVAILABLE, "no call took it in time").unsent())
        first = next(chain(self._sent, self._queued), None)
        if first is None:
            return
        if first.due > now:
            self._timer = loop.call_at(first.due, self._give_up_late_ones)
        elif self._call is not None:  # results come in order: there are none for the others either
            self._call.abandon(RpcError(StatusCode.DEADLINE_EXCEEDED, "there was no result in time"))

    def _leave(self, sent: _Sent, failed: RpcError | None) -> None:
        """Have an event published by a call of its own, or have that say what became of it."""
        left = sent.due - asyncio.get_running_loop().time()
        alone = publish_alone(self.caller, sent.request, sent.repeat, sent.span, timeout=left, failed=failed)
        task = asyncio.ensure_future(alone)
        self._single.add(task)

        def done(task: asyncio.Task[PublishReceipt]) -> None:
            self._single.discard(task)
            if sent.receipt.done():
                return
            if task.cancelled():
                sent.receipt.cancel()
            elif (error := task.exception()) is not None:
                sent.receipt.set_exception(error)
            else:
                sent.receipt.set_result(task.result())

        task.add_done_callback(done)
        sent.receipt.add_done_callback(lambda receipt: task.cancel() if receipt.cancelled() else None)


def _as_error(refused: events.PublishError) -> RpcError:
    """Return the error with which a call of its own would have ended."""
    from google.rpc.error_details_pb2 import ErrorInfo  # noqa: PLC0415 -- most streams have none

    info = ErrorInfo(reason=refused.reason, domain=DOMAIN, metadata=refused.metadata)
    return RpcError(StatusCode(refused.code), refused.message, (info,))
