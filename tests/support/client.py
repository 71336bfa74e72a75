"""A client of the API as others write it: grpcio, and messages generated from the protos."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status

from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as dead_letters_pb
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as events_pb
from windshift._gen.windshift.state.v1alpha1 import service_pb2 as state_pb
from windshift._gen.windshift.test.v1.test_pb2 import StringValue

EVENTS = events_pb.DESCRIPTOR.services_by_name["EventsService"]
DEAD_LETTERS = dead_letters_pb.DESCRIPTOR.services_by_name["DeadLettersService"]
STATE = state_pb.DESCRIPTOR.services_by_name["StateService"]

M = TypeVar("M", bound=Message)
Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a client learns from an error."""

    code: str
    reason: str
    metadata: dict[str, str]
    fields: tuple[str, ...]
    """The violations of a ``BadRequest``."""
    message: str
    hint: str
    """The end of the message that says what to do; it comes in the metadata."""


REPEAT_UNAVAILABLE = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.5s",
                    "maxBackoff": "4s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)
"""A service config that repeats what a broker without a leader could not do: nothing happened."""


class Client:
    """Calls on one channel; methods by their Protobuf names."""

    def __init__(
        self,
        address: str,
        credentials: grpc.ChannelCredentials | None = None,
        *,
        service_config: str | None = None,
        max_message_size: int | None = None,
    ) -> None:
        options: list[tuple[str, str | int]] = []
        if service_config:
            options.append(("grpc.service_config", service_config))
        if max_message_size is not None:  # -1 = any; grpcio takes 4 MiB by default
            options.append(("grpc.max_receive_message_length", max_message_size))
        self.channel = (
            grpc.insecure_channel(address, options)
            if credentials is None
            else grpc.secure_channel(address, credentials, options)
        )

    def call(
        self, method: Any, request: Message, timeout: float | None = 30, metadata: Metadata | None = None
    ) -> Any:
        """Make a unary call of a method descriptor."""
        call = self.channel.unary_unary(
            f"/{method.containing_service.full_name}/{method.name}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        return call(request, timeout=timeout, metadata=metadata)

    def ensure_stream(self, name: str, *subjects: str, **options: Any) -> str:
        """Ensure a stream in memory; give its name."""
        request = events_pb.EnsureStreamRequest(name=name, **options)
        request.storage.type = events_pb.EnsureStreamRequest.STORAGE_TYPE_MEMORY
        request.subjects.subjects.extend(subjects or [f"{name}.>"])
        self.call(EVENTS.methods_by_name["EnsureStream"], request)
        return name

    def publish(
        self,
        subject: str,
        text: str = "text",
        timeout: float | None = 30,
        metadata: Metadata | None = None,
        method: str = "PublishEvent",
        **fields: Any,
    ) -> int:
        """Publish a text; give the event's id."""
        request = events_pb.PublishEventRequest(subject=subject, **{"data": any_of(text), **fields})
        response: events_pb.PublishEventResponse = self.call(
            EVENTS.methods_by_name[method], request, timeout, metadata
        )
        return response.id

    def ensure_store(self, store: str) -> str:
        """Ensure a store; give its name."""
        self.call(STATE.methods_by_name["EnsureStore"], state_pb.EnsureStoreRequest(store=store))
        return store

    def get(self, store: str, key: str, timeout: float | None = 30) -> state_pb.GetResponse:
        """Get a key."""
        request = state_pb.GetRequest(store=store, key=key)
        response: state_pb.GetResponse = self.call(STATE.methods_by_name["Get"], request, timeout)
        return response

    def set(self, store: str, key: str, text: str = "text", timeout: float | None = 30, **fields: Any) -> int:
        """Set a key to a text; give the revision."""
        request = state_pb.SetRequest(store=store, key=key, **{"value": any_of(text), **fields})
        response: state_pb.SetResponse = self.call(STATE.methods_by_name["Set"], request, timeout)
        return response.revision

    def delete(self, store: str, key: str, **fields: Any) -> None:
        """Delete a key."""
        request = state_pb.DeleteRequest(store=store, key=key, **fields)
        self.call(STATE.methods_by_name["Delete"], request)


def any_of(text: str) -> AnyMessage:
    """Pack a text."""
    packed = AnyMessage()
    packed.Pack(StringValue(value=text))
    return packed


def text_of(packed: AnyMessage) -> str:
    """Unpack a text."""
    value = StringValue()
    assert packed.Unpack(value)
    return value.value


@contextmanager
def refused(code: str, reason: str) -> Iterator[list[Refusal]]:
    """Expect an error of this code and reason; the list holds it afterwards."""
    caught: list[Refusal] = []
    try:
        yield caught
    except grpc.RpcError as error:
        refusal = read_refusal(error)
        assert (refusal.code, refusal.reason) == (code, reason), refusal
        caught.append(refusal)
    else:
        raise AssertionError(f"not refused with {code} {reason}")


def refused_in_time(code: str, reason: str, attempt: Callable[[float], object]) -> None:
    """Expect an error of this code and reason just before a call's deadline, so many seconds away.

    On a busy machine the server's word may come too late; then the call is made again, with more time.
    """
    for seconds in (0.5, 3, 20):
        try:
            with refused(code, reason):
                attempt(seconds)
        except AssertionError:
            if seconds == 20:
                raise
        else:
            return


def read_refusal(error: Any) -> Refusal:
    """Read an error with its details, and verify what every error must have."""
    trailers = dict(error.trailing_metadata() or ())
    status = Status.FromString(trailers.get("grpc-status-details-bin", b""))
    info, bad = _detail(status, ErrorInfo), _detail(status, BadRequest)
    assert info is not None, f"an error without ErrorInfo: {error}"
    assert info.domain == "windshift"
    assert status.message == error.details() != ""
    metadata = dict(info.metadata)
    hint = metadata.pop("hint", "")
    assert status.message.endswith(hint)
    return Refusal(
        error.code().name,
        info.reason,
        metadata,
        tuple(violation.field for violation in bad.field_violations) if bad is not None else (),
        status.message,
        hint,
    )


def _detail(status: Status, kind: type[M]) -> M | None:
    for packed in status.details:
        detail = kind()
        if packed.Unpack(detail):
            return detail
    return None
