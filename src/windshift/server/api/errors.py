"""What clients see of errors: the one table from reasons to gRPC codes, and the details beside them.

Every error carries a ``google.rpc.ErrorInfo`` with the domain ``windshift``, a stable reason and metadata; an
invalid field also a ``google.rpc.BadRequest``. An error in no table becomes INTERNAL with a fixed text, which
is the gRPC layer's part.
"""

from __future__ import annotations

from asyncio import CancelledError, get_running_loop
from collections.abc import Mapping

from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo

from windshift.rpc import NoRoom, RpcError, ServerCall, StatusCode
from windshift.rpc.service import UNLIMITED
from windshift.server.api.policies import POLICIES
from windshift.server.domain.errors import (
    ConnectionEnded,
    EventTooLarge,
    InvalidField,
    OutcomeUnknown,
    ShuttingDown,
    TooManyInFlight,
    WindshiftError,
)

DOMAIN = "windshift"
HINT = "hint"
"""In the metadata: what to do about it, which is also the end of the message."""
_LONGEST_DETAIL = 768
"""Bytes of a value in the metadata, and of a description: two have room in an error, whatever its message."""

CODES: Mapping[str, StatusCode] = {
    "INVALID_FIELD": StatusCode.INVALID_ARGUMENT,
    "SUBSCRIBE_EXPECTED": StatusCode.INVALID_ARGUMENT,
    "ALREADY_SUBSCRIBED": StatusCode.INVALID_ARGUMENT,
    "UNSUPPORTED_COMBINATION": StatusCode.INVALID_ARGUMENT,
    "EVENT_TOO_LARGE": StatusCode.INVALID_ARGUMENT,
    "STREAM_NOT_FOUND": StatusCode.NOT_FOUND,
    "CONSUMER_NOT_FOUND": StatusCode.NOT_FOUND,
    "STORE_NOT_FOUND": StatusCode.NOT_FOUND,
    "DEAD_LETTER_NOT_FOUND": StatusCode.NOT_FOUND,
    "UNBOUND_SUBJECT": StatusCode.FAILED_PRECONDITION,
    "WRONG_LAST_ID": StatusCode.ABORTED,
    "REVISION_MISMATCH": StatusCode.ABORTED,
    "KEY_EXISTS": StatusCode.ALREADY_EXISTS,
    "EVENT_NOT_FOUND": StatusCode.NOT_FOUND,
    "TOO_MANY_SUBJECTS": StatusCode.FAILED_PRECONDITION,
    "NOT_SUPPORTED_BY_BROKER": StatusCode.FAILED_PRECONDITION,
    "FORBIDDEN_BY_BROKER": StatusCode.FAILED_PRECONDITION,
    "NOT_ALLOWED_BY_STREAM": StatusCode.FAILED_PRECONDITION,
    "DUPLICATE_EVENT": StatusCode.ALREADY_EXISTS,
    "SEEK_NOT_POSSIBLE": StatusCode.FAILED_PRECONDITION,
    "SUBJECTS_OVERLAP": StatusCode.FAILED_PRECONDITION,
    "STORAGE_CHANGE": StatusCode.FAILED_PRECONDITION,
    "MIRROR_CHANGE": StatusCode.FAILED_PRECONDITION,
    "REPLICAS_UNAVAILABLE": StatusCode.FAILED_PRECONDITION,
    "VALUE_NOT_ANY": StatusCode.FAILED_PRECONDITION,
    "TTL_NOT_SUPPORTED": StatusCode.FAILED_PRECONDITION,
    "TRANSACTIONS_NOT_SUPPORTED": StatusCode.FAILED_PRECONDITION,
    "KEY_NOT_FOUND": StatusCode.NOT_FOUND,
    "STREAM_FULL": StatusCode.RESOURCE_EXHAUSTED,
    "STORAGE_FULL": StatusCode.RESOURCE_EXHAUSTED,
    "CONSUMER_LIMIT": StatusCode.RESOURCE_EXHAUSTED,
    "STREAM_LIMIT": StatusCode.RESOURCE_EXHAUSTED,
    "TOO_MANY_IN_FLIGHT": StatusCode.RESOURCE_EXHAUSTED,
    "BROKER_UNAVAILABLE": StatusCode.UNAVAILABLE,
    "SHUTTING_DOWN": StatusCode.UNAVAILABLE,
    "OUTCOME_UNKNOWN": StatusCode.DEADLINE_EXCEEDED,
    "QUOTA_EXCEEDED": StatusCode.RESOURCE_EXHAUSTED,
    "UNAUTHENTICATED": StatusCode.UNAUTHENTICATED,
    "IDENTITY_UNAVAILABLE": StatusCode.UNAVAILABLE,
    "PERMISSION_DENIED": StatusCode.PERMISSION_DENIED,
    "PRINCIPAL_NOT_FOUND": StatusCode.NOT_FOUND,
    "CONNECTION_ENDED": StatusCode.UNAVAILABLE,
}


def translate(path: str, error: Exception, max_payload: int) -> RpcError | None:
    """Say what the client of a call to ``path`` sees of ``error``; None for what nobody expected.

    ``max_payload`` is what the broker takes: a request that the gRPC layer did not even read was larger.
    """
    if isinstance(error, ConnectionEnded) and _writes(path):
        return _of_the_domain(OutcomeUnknown("an operator ended this connection before the broker answered"))
    if isinstance(error, WindshiftError):
        return _of_the_domain(error)
    if isinstance(error, NoRoom):
        return _with_details(error.code, error.message, TooManyInFlight.reason, {}, ())
    if isinstance(error, RpcError) and not error.details:
        return _of_the_wire(path, error, max_payload)
    return None


def code_of(call: ServerCall, failure: BaseException | None) -> StatusCode:
    """Say with which status a call ends whose handler raised this, or nothing."""
    match failure:
        case None:
            return StatusCode.OK
        case CancelledError():
            late = call.deadline is not None and get_running_loop().time() >= call.deadline
            return StatusCode.DEADLINE_EXCEEDED if late else StatusCode.CANCELLED
        case RpcError():
            return failure.code
        case WindshiftError():
            return CODES[failure.reason]
        case _:
            return StatusCode.INTERNAL


def _of_the_domain(error: WindshiftError) -> RpcError:
    more = (_bad_request(error.field, error.description),) if isinstance(error, InvalidField) else ()
    metadata = {**error.metadata, HINT: error.hint} if error.hint else error.metadata
    return _with_details(CODES[error.reason], error.message, error.reason, metadata, more)


def _bad_request(field: str, description: str) -> BadRequest:
    violation = BadRequest.FieldViolation(field=field, description=_cut(description))
    return BadRequest(field_violations=[violation])


def _writes(path: str) -> bool:
    policy = POLICIES.get(path)  # none of a method that does not exist
    return policy is not None and policy.writes


def _of_the_wire(path: str, error: RpcError, max_payload: int) -> RpcError:
    """Give an error of the gRPC layer the reason of the contract that fits it, or its code's name."""
    policy, writes = POLICIES.get(path), _writes(path)
    match error.code:
        case StatusCode.DEADLINE_EXCEEDED if writes:
            return _of_the_domain(OutcomeUnknown())
        case StatusCode.UNAVAILABLE if writes:  # cut off at the end of a drain
            return _of_the_domain(OutcomeUnknown("the server ended this call before the broker answered"))
        case StatusCode.UNAVAILABLE:
            return _of_the_domain(ShuttingDown())
        case StatusCode.INVALID_ARGUMENT:
            more = (_bad_request("", error.message),)
            return _with_details(error.code, error.message, "INVALID_FIELD", {"field": ""}, more)
        case StatusCode.RESOURCE_EXHAUSTED if policy is not None and policy.carries_payload:
            limit = max_payload if policy.max_size == UNLIMITED else policy.max_size
            return _of_the_domain(EventTooLarge(limit))
        case _:
            return _with_details(error.code, error.message, error.code.name, {}, ())


def _with_details(
    code: StatusCode, message: str, reason: str, metadata: Mapping[str, str], more: tuple[Message, ...]
) -> RpcError:
    cut = {key: _cut(value) for key, value in metadata.items()}
    return RpcError(code, message, (ErrorInfo(reason=reason, domain=DOMAIN, metadata=cut), *more))


def _cut(text: str) -> str:
    return text.encode()[:_LONGEST_DETAIL].decode(errors="ignore")
