"""Publishing several events with one call: what may be published is decided for each of them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from typing import Final, TypeAlias

from google.rpc.error_details_pb2 import ErrorInfo

from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb
from windshift.rpc import ServerCall, StatusCode
from windshift.server.api.callers import admission_of, asker_of, caller_of
from windshift.server.api.deadlines import DEFAULT, answer_by
from windshift.server.api.errors import translate
from windshift.server.api.fields import few, timestamp
from windshift.server.api.policies import MOST_EVENTS
from windshift.server.auth.access import AuthorizedCall
from windshift.server.auth.policy import Principal
from windshift.server.background.batches import batches
from windshift.server.background.pacing import pause, treat_as_bulk
from windshift.server.domain import names
from windshift.server.domain.errors import (
    InvalidField,
    PermissionDenied,
    QuotaExceeded,
    ShuttingDown,
    WindshiftError,
    at_index,
)
from windshift.server.events.atomic import AtomicPublisher
from windshift.server.events.model import Item, PublishRequest, Results
from windshift.server.events.pipeline import Feed, Pipeline
from windshift.server.telemetry.propagation import Extract, TraceContext

log = logging.getLogger(__name__)

_new: Final = tuple.__new__  # as a named tuple's own __new__ does, in less than half of the time

_Denied: TypeAlias = dict[str, WindshiftError | None]
"""Why the caller may not publish to subjects; None = it may after all."""
_DENIED: Final = (PermissionDenied, QuotaExceeded)
_AT_ONCE: Final = 64
"""Events after which it is looked whether others should run."""
_ERRORS_AT_ONCE: Final = 16
"""Errors after which the same is done: each may take long to be worded."""
_STREAM_SIZE: Final = 16_384
"""Bytes that an open stream takes, about. Anybody may open some."""
_LONGEST_PAUSE: Final = 1.0
"""Seconds after which a stream that waits for its quota looks at it again: the rules may have changed."""


def read_publish(
    request: pb.PublishEventRequest, trace: TraceContext | None, caller: Principal | None, asker: str
) -> PublishRequest:
    """Read one event; raise `InvalidField`."""
    data = request.data
    type_url = data.type_url
    if not type_url and not request.HasField("data"):
        raise InvalidField("data", "is missing; set the event's data")
    time = timestamp("timestamp", request.timestamp) if request.HasField("timestamp") else None
    expected = request.expected_last_id if request.HasField("expected_last_id") else None
    key = request.idempotency_key
    return _new(
        PublishRequest,
        (request.subject, type_url, data.value, time, key, expected, trace, caller, asker),
    )


async def read_events(
    events: Sequence[pb.PublishEventRequest], trace: TraceContext | None, call: ServerCall, *, goes_on: bool
) -> list[Item]:
    """Read several events, and let others run in between.

    In the place of those that are malformed, or denied, there is the error. While most of them are, the call
    waits as bulk work does. Where it goes on though some are denied, the audit log is told of these.
    """
    items: list[Item] = []
    denied: _Denied = {}
    refused = 0
    for some in batches(events, _AT_ONCE):
        read = _read_some(some, trace, call, denied)
        items += read
        refused += len(read) - [*map(type, read)].count(PublishRequest)
        if 2 * refused > len(items):
            treat_as_bulk(True)
        await pause()
    admission = admission_of(call)
    if goes_on and admission is not None:
        for error in denied.values():
            if isinstance(error, _DENIED):
                admission.tell_denied(error)
    return items


def _read_some(
    events: Sequence[pb.PublishEventRequest],
    trace: TraceContext | None,
    call: ServerCall,
    denied: _Denied,
) -> list[Item]:
    caller, admission, asker = caller_of(call), admission_of(call), asker_of(call)
    items: list[Item] = []
    allowed = None  # the subject that was looked up last: most events have that of the one before
    for event in events:
        if admission is not None and (subject := event.subject) != allowed:
            if admission.may_publish(subject):
                allowed = subject
            elif error := _denial(admission, subject, denied):
                items.append(error)
                continue
        try:
            items.append(read_publish(event, trace, caller, asker))
        except WindshiftError as error:
            items.append(error.with_traceback(None))  # which has this frame, and so all events: a cycle
    return items


def _denial(admission: AuthorizedCall, subject: str, known: _Denied) -> WindshiftError | None:
    """Return why the caller may not publish to a subject, if so; look at each subject once."""
    if subject not in known:
        known[subject] = _look_at_denial(admission, subject)
    return known[subject]


def _look_at_denial(admission: AuthorizedCall, subject: str) -> WindshiftError | None:
    """Return why the caller may not publish to a subject, if so. What is malformed is refused as that.

    The error has no traceback: it would keep the frames of who reads events, and so all of these.
    """
    try:
        admission.publish(subject)
        return None
    except _DENIED as error:
        denied = error.with_traceback(None)
    try:
        names.subject("subject", subject)
    except InvalidField as error:
        return error.with_traceback(None)
    return denied


async def publish_stream(call: ServerCall, extract: Extract, pipeline: Pipeline) -> None:
    """Publish events as they come, each of them for itself; a drain ends the call when they have results."""
    loop = asyncio.get_running_loop()
    drained: asyncio.Future[None] = loop.create_future()

    def drain() -> None:
        drained.set_result(None)
        call.stop_receiving()

    call.on_drain = drain
    call.overhead = _STREAM_SIZE
    call.begin_response()
    trace = extract(call)
    requests, kept = await call.receive_kept()
    without_ids = bool(requests) and requests[0].without_ids

    waiting: deque[tuple[int, int]] = deque()  # what has no results yet: up to which event, and its bytes

    async def feed() -> Feed:
        nonlocal requests, kept
        number = 0
        while requests:
            more = sum(len(each.events) for each in requests)
            if more:
                waiting.append((number + more, kept))
            else:
                call.let_go(kept)
            for events in _gathered(requests):
                await _wait_for_quota(call, len(events), drained)
                deadline = loop.time() + DEFAULT
                if call.deadline is not None:
                    deadline = min(deadline, answer_by(call, streams=True))
                items = await read_events(events, trace, call, goes_on=True)
                number += len(items)
                yield items, deadline
                del events, items
            requests = []  # nothing of what has its results is in memory while the client sends nothing
            await pause()  # requests without events wait for nothing else
            requests, kept = await call.receive_kept()
        if drained.done():
            raise ShuttingDown

    async def take(results: Results) -> None:
        response = pb.PublishStreamResponse(first=results.first, count=len(results.ids))
        await write_results(response, results, call, without_ids=without_ids)
        await call.ready()
        call.send(response)
        while waiting and waiting[0][0] <= results.first + len(results.ids):
            call.let_go(waiting.popleft()[1])

    await pipeline.publish(feed(), take, without_ids=without_ids)


def _gathered(requests: Sequence[pb.PublishStreamRequest]) -> Iterator[list[pb.PublishEventRequest]]:
    """Put the events of requests together, as many as one request may have."""
    events: list[pb.PublishEventRequest] = []
    for request in requests:
        number = len(few("events", request.events, MOST_EVENTS))
        if len(events) + number > MOST_EVENTS:
            yield events
            events = []
        events.extend(request.events)
    if events:
        yield events


async def _wait_for_quota(call: ServerCall, number: int, drained: asyncio.Future[None]) -> None:
    """Wait until the caller may publish more, and count so many events. Raise `ShuttingDown`."""
    admission = admission_of(call)
    if admission is None:
        return
    while (seconds := admission.pause(asyncio.get_running_loop().time())) > 0:
        await asyncio.wait((drained,), timeout=min(seconds, _LONGEST_PAUSE))
        if drained.done():
            raise ShuttingDown
    admission.count_calls(number)


async def publish_each(
    events: Sequence[pb.PublishEventRequest],
    trace: TraceContext | None,
    call: ServerCall,
    pipeline: Pipeline,
) -> pb.PublishBatchResponse:
    """Publish events, each of them for itself."""
    items = await read_events(events, trace, call, goes_on=True)
    response = pb.PublishBatchResponse()
    await write_results(response, await pipeline.publish_all(items, answer_by(call)), call)
    return response


async def publish_atomic(
    events: Sequence[pb.PublishEventRequest],
    trace: TraceContext | None,
    call: ServerCall,
    publisher: AtomicPublisher,
) -> pb.PublishBatchResponse:
    """Publish all events or none."""
    requests: list[PublishRequest] = []
    for place, item in enumerate(await read_events(events, trace, call, goes_on=False)):
        if isinstance(item, WindshiftError):
            publisher.failed(len(events), item)
            try:
                raise at_index(item, place)
            finally:
                del item  # its traceback holds this frame, and so all events: a cycle
        requests.append(item)
    response = pb.PublishBatchResponse()
    await write_results(response, await publisher.publish(requests, answer_by(call)), call)
    return response


async def write_results(
    response: pb.PublishBatchResponse | pb.PublishStreamResponse,
    results: Results,
    call: ServerCall,
    *,
    without_ids: bool = False,
) -> None:
    """Write what became of events. While most of them come to nothing, the call waits as bulk work does."""
    treat_as_bulk(2 * len(results.errors) > len(results.ids))
    if not without_ids:
        response.ids.extend(results.ids)
        response.duplicates.extend(results.duplicates)
    worded: dict[Hashable, pb.PublishError] = {}
    for some in batches(list(results.errors.items()), _ERRORS_AT_ONCE):
        for place, error in some:
            if (wording := worded.get(same := _what_is_told(error))) is None:
                wording = worded[same] = _publish_error(error, call)
            written = response.errors.add()
            written.CopyFrom(wording)
            written.index = place
        await pause()


def _what_is_told(error: Exception) -> Hashable:
    """Return what is the same of errors that are worded alike."""
    if isinstance(error, WindshiftError):
        return error.reason, error.message, error.hint, *error.metadata.items()
    return error


def _publish_error(error: Exception, call: ServerCall) -> pb.PublishError:
    failure = translate(call.method, error, 0)
    if failure is None:
        log.error("an event could not be published", exc_info=error, extra={"method": call.method})
        code, message = StatusCode.INTERNAL, "the server failed on this event; its log says why"
        return pb.PublishError(code=code.value, message=message, reason=code.name)
    info = next(detail for detail in failure.details if isinstance(detail, ErrorInfo))
    return pb.PublishError(
        code=failure.code.value,
        message=failure.message,
        reason=info.reason,
        metadata=info.metadata,
    )
