"""Publishing several events with one call: what may be published is decided for each of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from google.rpc.error_details_pb2 import ErrorInfo

from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb
from windshift.rpc import ServerCall, StatusCode
from windshift.server.api.callers import admission_of, caller_of
from windshift.server.api.deadlines import answer_by
from windshift.server.api.errors import translate
from windshift.server.api.fields import timestamp
from windshift.server.auth.access import AuthorizedStream
from windshift.server.auth.policy import Principal
from windshift.server.domain import names
from windshift.server.domain.errors import (
    InvalidField,
    PermissionDenied,
    QuotaExceeded,
    WindshiftError,
    at_index,
)
from windshift.server.events.atomic import AtomicPublisher
from windshift.server.events.model import PublishRequest
from windshift.server.events.pipeline import Item, Pipeline, Result
from windshift.server.telemetry.propagation import TraceContext

log = logging.getLogger(__name__)

MOST_EVENTS: Final = 1000
"""Events of one request: the broker's limit on atomic batches."""

_new: Final = tuple.__new__  # as a named tuple's own __new__ does, in less than half of the time


def read_publish(
    request: pb.PublishEventRequest, trace: TraceContext | None, caller: Principal | None, peer: str
) -> PublishRequest:
    """Read one event; raise `InvalidField`."""
    if not request.HasField("data"):
        raise InvalidField("data", "is missing; set the event's data")
    data = request.data
    time = timestamp("timestamp", request.timestamp) if request.HasField("timestamp") else None
    expected = request.expected_last_id if request.HasField("expected_last_id") else None
    key = request.idempotency_key
    asker = peer if caller is None else caller.name
    return _new(
        PublishRequest,
        (request.subject, data.type_url, data.value, time, key, expected, trace, caller, asker),
    )


def read_events(
    events: Sequence[pb.PublishEventRequest], trace: TraceContext | None, call: ServerCall
) -> list[Item]:
    """Read several events. In the place of those that are malformed, or denied, there is the error."""
    caller, admission = caller_of(call), admission_of(call)
    denied: dict[str, WindshiftError] = {}
    items: list[Item] = []
    for event in events:
        try:
            if admission is not None and not admission.may_publish(event.subject):
                _require(admission, event.subject, denied)
            items.append(read_publish(event, trace, caller, call.peer))
        except WindshiftError as error:
            items.append(error)
    return items


def _require(admission: AuthorizedStream, subject: str, denied: dict[str, WindshiftError]) -> None:
    """Raise why the caller may not publish to a subject, if so. What is malformed is refused as that."""
    known = denied.get(subject)
    if known is not None:
        raise known
    try:
        admission.publish(subject)
    except (PermissionDenied, QuotaExceeded) as error:
        names.subject("subject", subject)
        denied[subject] = error
        raise


async def publish_each(
    events: Sequence[pb.PublishEventRequest],
    trace: TraceContext | None,
    call: ServerCall,
    pipeline: Pipeline,
) -> pb.PublishBatchResponse:
    """Publish events, each of them for itself."""
    items = read_events(events, trace, call)
    tell_denied(items, call)
    response = pb.PublishBatchResponse()
    write_results(response, await pipeline.publish_all(items, answer_by(call)), 0, call)
    return response


async def publish_atomic(
    events: Sequence[pb.PublishEventRequest],
    trace: TraceContext | None,
    call: ServerCall,
    publisher: AtomicPublisher,
) -> pb.PublishBatchResponse:
    """Publish all events or none."""
    requests: list[PublishRequest] = []
    for place, item in enumerate(read_events(events, trace, call)):
        if isinstance(item, WindshiftError):
            raise at_index(item, place)
        requests.append(item)
    response = pb.PublishBatchResponse()
    write_results(response, await publisher.publish(requests, answer_by(call)), 0, call)
    return response


def tell_denied(items: Sequence[Item], call: ServerCall) -> None:
    """Have the audit log told of what is denied though the call goes on."""
    admission = admission_of(call)
    if admission is not None:
        denials = (item for item in items if isinstance(item, PermissionDenied | QuotaExceeded))
        for error in dict.fromkeys(denials):
            admission.tell_denied(error)


def write_results(
    response: pb.PublishBatchResponse, results: Sequence[Result], first: int, call: ServerCall
) -> None:
    """Write what became of events, the first of which has the place `first`."""
    ids = response.ids
    for place, result in enumerate(results, first):
        if isinstance(result, Exception):
            ids.append(0)
            response.errors.append(_publish_error(place, result, call))
        else:
            seq, duplicate = result
            ids.append(seq)
            if duplicate:
                response.duplicates.append(place)


def _publish_error(place: int, error: Exception, call: ServerCall) -> pb.PublishError:
    told = translate(call.method, error, 0)
    if told is None:
        log.error("an event could not be published", exc_info=error, extra={"method": call.method})
        code, message = StatusCode.INTERNAL, "the server failed on this event; its log says why"
        return pb.PublishError(index=place, code=code.value, message=message, reason=code.name)
    info = next(detail for detail in told.details if isinstance(detail, ErrorInfo))
    return pb.PublishError(
        index=place, code=told.code.value, message=told.message, reason=info.reason, metadata=info.metadata
    )
