"""``StateService``: each method converts the request, calls the domain and converts the result."""

from __future__ import annotations

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.unknown_fields import UnknownFieldSet

from windshift._gen.windshift.state.v1alpha1 import service_pb2 as pb
from windshift.rpc import ServerCall
from windshift.server.api.callers import caller_of
from windshift.server.api.deadlines import answer_by
from windshift.server.api.fields import number
from windshift.server.domain.errors import InvalidField, ValueNotAny
from windshift.server.state.model import Entry
from windshift.server.state.stores import Stores

STATE = pb.DESCRIPTOR.services_by_name["StateService"]


class StateService:
    """Stores of values by key."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    async def ensure_store(self, request: pb.EnsureStoreRequest, call: ServerCall) -> pb.EnsureStoreResponse:
        """Create a store, or leave it as it is."""
        await self._stores.ensure(request.store, answer_by(call), caller_of(call))
        return pb.EnsureStoreResponse()

    async def get(self, request: pb.GetRequest, call: ServerCall) -> pb.GetResponse:
        """Read a key; nothing but revision 0 says that it does not exist."""
        entry = await self._stores.get(request.store, request.key, answer_by(call))
        return pb.GetResponse() if entry is None else _response(request.key, entry)

    async def set(self, request: pb.SetRequest, call: ServerCall) -> pb.SetResponse:
        """Write a key."""
        revision = await self._stores.set(
            request.store,
            request.key,
            _value(request),
            answer_by(call),
            create_only=request.create_only,
            last_revision=_last_revision(request),
        )
        return pb.SetResponse(revision=revision)

    async def delete(self, request: pb.DeleteRequest, call: ServerCall) -> pb.DeleteResponse:
        """Delete a key."""
        await self._stores.delete(
            request.store, request.key, answer_by(call), last_revision=_last_revision(request)
        )
        return pb.DeleteResponse()


def _last_revision(request: pb.SetRequest | pb.DeleteRequest) -> int | None:
    if not request.HasField("last_revision"):
        return None
    return number("last_revision", request.last_revision)


def _value(request: pb.SetRequest) -> bytes:
    if not request.HasField("value"):
        raise InvalidField("value", "is missing; set the value, or delete the key")
    # No more than the two fields of an Any: with others it would be taken for no Any when it is read.
    return Any(type_url=request.value.type_url, value=request.value.value).SerializeToString()


def _response(key: str, entry: Entry) -> pb.GetResponse:
    response = pb.GetResponse(revision=entry.revision, value=_any(key, entry.value))
    seconds, nanos = entry.last_updated
    response.last_updated.CopyFrom(Timestamp(seconds=seconds, nanos=nanos))
    return response


def _any(key: str, value: bytes) -> Any:
    """Parse a stored value.

    Bytes that another program wrote may happen to parse, but hardly into the two fields of an `Any` alone.
    """
    try:
        parsed = Any.FromString(value)
    except DecodeError:
        raise ValueNotAny(key) from None
    if len(UnknownFieldSet(parsed)) > 0:
        raise ValueNotAny(key)
    return parsed
