"""How a client maps the end of a call to a status: headers, HTTP statuses and resets. Without I/O.

Sources: https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md and
https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md ("Responses", "Errors").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from google.protobuf.message import DecodeError, Message
from google.rpc.status_pb2 import Status

from .metadata import decode_metadata
from .status import RpcError, StatusCode, decode_binary, percent_decode

_HTTP_CODES = {
    b"400": StatusCode.INTERNAL,
    b"401": StatusCode.UNAUTHENTICATED,
    b"403": StatusCode.PERMISSION_DENIED,
    b"404": StatusCode.UNIMPLEMENTED,
    b"429": StatusCode.UNAVAILABLE,
    b"502": StatusCode.UNAVAILABLE,
    b"503": StatusCode.UNAVAILABLE,
    b"504": StatusCode.UNAVAILABLE,
}

_RESETS = {
    0x0: ("NO_ERROR", StatusCode.INTERNAL),
    0x1: ("PROTOCOL_ERROR", StatusCode.INTERNAL),
    0x2: ("INTERNAL_ERROR", StatusCode.INTERNAL),
    0x3: ("FLOW_CONTROL_ERROR", StatusCode.INTERNAL),
    0x4: ("SETTINGS_TIMEOUT", StatusCode.INTERNAL),
    0x5: ("STREAM_CLOSED", StatusCode.UNKNOWN),
    0x6: ("FRAME_SIZE_ERROR", StatusCode.INTERNAL),
    0x7: ("REFUSED_STREAM", StatusCode.UNAVAILABLE),
    0x8: ("CANCEL", StatusCode.CANCELLED),
    0x9: ("COMPRESSION_ERROR", StatusCode.INTERNAL),
    0xA: ("CONNECT_ERROR", StatusCode.INTERNAL),
    0xB: ("ENHANCE_YOUR_CALM", StatusCode.RESOURCE_EXHAUSTED),
    0xC: ("INADEQUATE_SECURITY", StatusCode.PERMISSION_DENIED),
    0xD: ("HTTP_1_1_REQUIRED", StatusCode.UNKNOWN),
}


def response_error(fields: Mapping[bytes, bytes]) -> RpcError | None:
    """Check the first headers of a response; None if they begin a gRPC response.

    A proxy or web server in between answers without ``grpc-status``: then the HTTP status decides.
    """
    status = fields.get(b":status", b"")
    content_type = fields.get(b"content-type", b"")
    if b"grpc-status" in fields or (status == b"200" and content_type.startswith(b"application/grpc")):
        return None
    kind = content_type.decode("latin-1") or "no content type"
    code = _HTTP_CODES.get(status, StatusCode.UNKNOWN)
    return RpcError(code, f"the server answered with HTTP status {status.decode('latin-1')} and {kind}")


def final_error(trailers: Sequence[tuple[bytes, bytes]]) -> RpcError | None:
    """Read the status at the end of a response; None means OK.

    A missing or unreadable ``grpc-status`` is UNKNOWN, unreadable details are left out. The other trailers
    become the error's metadata.
    """
    fields = dict(trailers)
    code = _code(fields.get(b"grpc-status", b""))
    if code is StatusCode.OK:
        return None
    message = percent_decode(fields.get(b"grpc-message", b""))
    if b"grpc-status" not in fields:
        message = "the server ended the call without a status"
    details = _details(fields.get(b"grpc-status-details-bin", b""))
    return RpcError(code, message, details, decode_metadata(trailers))


def _code(value: bytes) -> StatusCode:
    try:
        return StatusCode(int(value))
    except ValueError:
        return StatusCode.UNKNOWN


def _details(value: bytes) -> Sequence[Message]:
    try:
        return Status.FromString(decode_binary(value)).details
    except (ValueError, DecodeError):
        return ()


def reset_error(error_code: int) -> RpcError:
    """Return the error for a stream that the server reset, or closed without trailers."""
    name, code = _RESETS.get(error_code, (f"error {error_code:#x}", StatusCode.UNKNOWN))
    return RpcError(code, f"the server reset the call with {name}")
