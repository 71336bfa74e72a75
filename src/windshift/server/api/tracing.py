"""The spans of calls.

The domain makes a span for each event that is published: `Publish` and `PublishStream` have no other. Probes
and reflection have none. A call to a store is traced as what it is to its caller, a database operation; every
other call as a remote procedure call. The span of a consume call lasts as long as the call; its deliveries
belong to the traces of their events.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from windshift import conventions as c
from windshift.rpc import Method, ServerCall
from windshift.server.api.errors import code_of
from windshift.server.api.policies import Trace, policy_of
from windshift.server.domain.errors import KeyExists, KeyNotFound, RevisionMismatch, ValueNotAny
from windshift.server.telemetry.calls import FAULTS
from windshift.server.telemetry.propagation import Extract
from windshift.server.telemetry.tracer import Span, Tracer, current_span, error_type

_OF_STORED: Final = (KeyExists, KeyNotFound, RevisionMismatch, ValueNotAny)
"""Failures that show that the store is there."""


def trace_calls(tracer: Tracer, extract: Extract, method: Method) -> Method:
    """Have the calls of a method recorded where the tracer says so; the others may take the shortcut.

    None are where the domain does it, or nobody.
    """
    trace = policy_of(method.path).trace
    if trace is Trace.NONE:
        return method
    handler, shortcut, path = method.handler, method.shortcut, method.path
    of_store = trace is Trace.STORE
    kind = c.SpanKind.CLIENT if of_store else c.SpanKind.SERVER

    async def traced(*arguments: Any) -> Any:
        call: ServerCall = arguments[-1]
        span = tracer.start(kind, extract(call)) if call.span is None else call.span
        if not isinstance(span, Span):
            return await handler(*arguments)
        current_span.set(span)
        failure: BaseException | None = None
        try:
            return await handler(*arguments)
        except BaseException as error:
            failure = error
            raise
        finally:
            if of_store:
                _describe_operation(span, path, arguments[0].store, failure)
            else:
                _describe_call(span, path, call, failure)
            span.end()
            failure = None  # its traceback holds this frame: a cycle

    if shortcut is None:
        return replace(method, handler=traced)

    def begin(request: Any, call: ServerCall) -> bool:
        span = tracer.start(kind, extract(call))
        call.span = span or False
        return span is None and shortcut(request, call)

    return replace(method, handler=traced, shortcut=begin)


def _describe_operation(span: Span, path: str, store: str, failure: BaseException | None) -> None:
    """Describe an operation on a store, without its key, which may be anything.

    The store's name may be anything too: it is told only where there certainly is such a store.
    """
    operation = path.rpartition("/")[2]
    span.attributes = {c.DB_SYSTEM_NAME: c.NATS, c.DB_OPERATION_NAME: operation}
    exists = failure is None or isinstance(failure, _OF_STORED)
    if exists:
        span.attributes[c.DB_COLLECTION_NAME] = store
    span.name = c.span_name(operation, store if exists else None)
    if failure is not None:
        span.fail(error_type(failure))


def _describe_call(span: Span, path: str, call: ServerCall, failure: BaseException | None) -> None:
    code = code_of(call, failure)
    host, _, port = call.peer.rpartition(":")
    span.name = path[1:]
    span.attributes = {
        c.RPC_SYSTEM_NAME: c.GRPC,
        c.RPC_METHOD: path[1:],
        c.RPC_RESPONSE_STATUS_CODE: code.name,
    }
    if port.isdigit():
        span.attributes[c.NETWORK_PEER_ADDRESS] = host.strip("[]")
        span.attributes[c.NETWORK_PEER_PORT] = int(port)
    if code.name in FAULTS:
        span.fail(code.name)
