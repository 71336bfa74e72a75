"""Many events published by one call, `PublishStream`, where the server has it."""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import repeat
from types import TracebackType
from typing import Final, NamedTuple, Self

from windshift.protos import events
from windshift.rpc import ClientCall, RpcError, StatusCode

from .calling import Caller
from .errors import DOMAIN, WindshiftError, reason_of

_METHOD: Final = "/windshift.events.v1alpha1.EventsService/PublishStream"
_MOST: Final = 500
"""Events of one request; with those of the largest size it stays below the 8 MiB that a server reads."""
_LARGEST: Final = 8 * 1024
"""Bytes of an event; a larger one gains nothing, and would hold up those behind it."""
_REST: Final = 1.0
"""Seconds without such a call after one that had no results."""
_LAST_WORDS: Final = 1.0
"""Seconds for the server to end the call, when all events have their results."""

_Call = ClientCall[events.PublishStreamResponse]


class _Sent(NamedTuple):
    request: events.PublishEventRequest
    result: asyncio.Future[events.PublishEventResponse | None]


class PublishStream:
    """Publishes events in the order in which it gets them, by one call as long as that lasts, then the next.

    No event is sent before the server has taken up the call. It holds what its users wait for, and nothing
    else: they bound how much that is.

    Args:
        caller: makes the calls.
        is_used: whether to publish by it at all.
        without_ids: whether to do without ids, which are 0 then, and without being told of duplicates.
    """

    def __init__(self, caller: Caller, *, is_used: bool, without_ids: bool = False) -> None:
        self._caller = caller
        self._without_ids = without_ids
        self._is_used = is_used and caller.tracing is None  # a span needs a call of its own
        self._queued: list[_Sent] = []
        self._sent: deque[_Sent] = deque()
        self._call: _Call | None = None
        self._running: asyncio.Task[None] | None = None
        self._rests_until = 0.0

    async def publish(
        self, request: events.PublishEventRequest, timeout: float
    ) -> events.PublishEventResponse | None:
        """Publish an event; None = it was not, and needs a call of its own.

        Args:
            request: the event.
            timeout: seconds to wait for its result.

        Raises:
            RpcError: what a call of its own would have ended with; UNAVAILABLE when the call broke.
        """
        loop = asyncio.get_running_loop()
        if not self._is_used or self._caller.lacks_publish_stream or request.ByteSize() > _LARGEST:
            return None
        if self._running is None:
            if loop.time() < self._rests_until:
                return None
            self._running = loop.create_task(self._run())
        elif self._call is not None and not self._queued:
            loop.call_soon(self._flush)
        sent = _Sent(request, loop.create_future())
        self._queued.append(sent)
        try:
            async with asyncio.timeout(timeout):
                return await sent.result
        except TimeoutError:
            if sent in self._queued:
                raise RpcError(StatusCode.UNAVAILABLE, "no call began in time").unsent() from None
            raise RpcError(StatusCode.DEADLINE_EXCEEDED, "there was no result in time") from None

    async def close(self) -> None:
        """End the call, and take no more events."""
        self._is_used = False
        if self._running is None:
            return
        if self._call is not None:
            self._call.close_send()
            await asyncio.wait((self._running,), timeout=_LAST_WORDS)
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait((self._running,))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and self._running is not None:
            self._running.cancel()
        await self.close()

    def _flush(self) -> None:
        """Send what is queued and still waited for."""
        call, queued = self._call, [sent for sent in self._queued if not sent.result.done()]
        if call is None:
            return
        self._queued.clear()
        for start in range(0, len(queued), _MOST):
            some = queued[start : start + _MOST]
            self._sent.extend(some)
            requests = [sent.request for sent in some]
            call.send(events.PublishStreamRequest(events=requests, without_ids=self._without_ids))

    async def _run(self) -> None:
        """Make a call, until it ends."""
        error = RpcError(StatusCode.CANCELLED, "the call was given up")
        has_results = False
        try:
            async with self._caller.stream(_METHOD, events.PublishStreamResponse) as call:
                await call.initial_metadata()
                if not call.done:
                    self._call = call
                    self._flush()
                while responses := await call.receive_many():
                    has_results = True
                    for response in responses:
                        self._take(response)
            error = RpcError(StatusCode.UNAVAILABLE, "the server ended the call")
        except RpcError as failure:
            error = failure
            if error.code is StatusCode.UNIMPLEMENTED and self._call is None:
                self._caller.lacks_publish_stream = True
        except WindshiftError:  # there was no call, and a call of its own will say why
            pass
        finally:
            self._call = self._running = None
            if not has_results:
                self._rests_until = asyncio.get_running_loop().time() + _REST
            self._give_up(error)

    def _take(self, response: events.PublishStreamResponse) -> None:
        """Pass on results."""
        errors = {each.index: each for each in response.errors}
        duplicates = frozenset(response.duplicates)
        ids = response.ids or repeat(0, response.count)
        for number, event_id in enumerate(ids, response.first):
            result = self._sent.popleft().result
            if result.done():  # nobody waits for it any more
                continue
            refused = errors.get(number)
            if refused is None:
                duplicate = number in duplicates
                result.set_result(events.PublishEventResponse(id=event_id, duplicate=duplicate))
            else:
                result.set_exception(_as_error(refused))

    def _give_up(self, error: RpcError) -> None:
        """End the waiting for results of a call that has ended so."""
        untouched = reason_of(error)[0] == "SHUTTING_DOWN"
        message = f"the call was cut off: {error.message or error.code.name}"
        for sent in self._sent:
            if sent.result.done():
                continue
            if untouched:
                sent.result.set_result(None)
            else:
                sent.result.set_exception(RpcError(StatusCode.UNAVAILABLE, message))
        for sent in self._queued:
            if not sent.result.done():
                sent.result.set_result(None)
        self._sent.clear()
        self._queued.clear()


def _as_error(refused: events.PublishError) -> RpcError:
    """Return the error with which a call of its own would have ended."""
    from google.rpc.error_details_pb2 import ErrorInfo  # noqa: PLC0415 -- most streams have none

    code = StatusCode(refused.code)
    info = ErrorInfo(reason=refused.reason, domain=DOMAIN, metadata=refused.metadata)
    unexpected = code is StatusCode.INTERNAL  # without a reason of ours
    return RpcError(code, refused.message, () if unexpected else (info,))
