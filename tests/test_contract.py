"""The descriptors of the public protos against the contract, field for field.

Each row is written as the contract writes it: `name number type`, `?` after the number for proto3 `optional`,
`*` for `repeated`, and the fields of a oneof in braces after its name. Clients in the field depend on every
number.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, MethodDescriptor

from windshift._gen.windshift.admin.v1alpha1 import principals_pb2 as principals
from windshift._gen.windshift.admin.v1alpha1 import service_pb2 as admin
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as dead_letters
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as events
from windshift._gen.windshift.payload.v1 import payload_pb2 as payload
from windshift._gen.windshift.state.v1alpha1 import service_pb2 as state
from windshift._gen.windshift.test.v1 import test_pb2 as test

FILES = [module.DESCRIPTOR for module in (admin, principals, dead_letters, events, payload, state, test)]
LATER = Path(__file__).with_name("contract.txt")
"""Methods, fields and values that came after the contract, a line each. Lines are only ever added."""

EVENTS = {
    "EnsureStreamRequest": """
        name 1 string
        retention_policy 2? RetentionPolicy
        source {subjects 3 Subjects, mirror 4 StreamSource, aggregate 5 StreamSources}
        storage 6? Storage
        deduplication_window 7? Duration
        max_event_size 8? uint32""",
    "EnsureStreamRequest.RetentionPolicy": """
        max_age 1? Duration
        max_events 2? uint64
        max_events_per_subject 3? uint64
        max_bytes 4? uint64
        discard_policy 5? DiscardPolicy
        discard_new_per_subject 6? bool""",
    "EnsureStreamRequest.Subjects": "subjects 1* string",
    "EnsureStreamRequest.StreamSource": """
        name 1 string
        from 2? StreamPointer
        filter_subjects 3* string""",
    "EnsureStreamRequest.StreamSources": "sources 1* StreamSource",
    "EnsureStreamRequest.Storage": """
        type 1? StorageType
        replicas 2? uint32""",
    "EnsureStreamResponse": "",
    "EnsureConsumerRequest": """
        stream 1 string
        name 2? string
        subjects 3* string
        from 4? StreamPointer
        processing_timeout 5? Duration""",
    "EnsureConsumerResponse": "id 1 string",
    "DeleteConsumerRequest": """
        stream 1 string
        id 2 string""",
    "DeleteConsumerResponse": "",
    "StreamPointer": "pointer {start 1 bool, end 2 bool, time 3 Timestamp, offset 5 uint64}",
    "PublishEventRequest": """
        subject 1 string
        data 2 Any
        timestamp 3? Timestamp
        idempotency_key 4? string
        expected_last_id 5? uint64""",
    "PublishEventResponse": "id 1 uint64",
    "EventsRequest": "request {subscribe 1 Subscribe, ack 2 Ack, reject 3 Reject, ping 4 Ping}",
    "EventsRequest.Subscribe": """
        stream 1 string
        consumer 2 string
        max_processing_events 4? uint64""",
    "EventsRequest.Ack": "ids 1* uint64",
    "EventsRequest.Reject": """
        ids 1* uint64
        permanently 2? bool
        delay 3? Duration""",
    "EventsRequest.Ping": "ids 1* uint64",
    "EventsResponse": """
        response {event 1 Event, subscribed 2 Subscribed, ack_confirmation 3 AckConfirmation,
                  reject_confirmation 4 RejectConfirmation, ping_confirmation 5 PingConfirmation}""",
    "EventsResponse.Subscribed": "processing_timeout 1 Duration",
    "EventsResponse.AckConfirmation": """
        ids 1* uint64
        invalid_ids 2* uint64
        temporary_failed_ids 3* uint64""",
    "EventsResponse.RejectConfirmation": """
        ids 1* uint64
        invalid_ids 2* uint64
        temporary_failed_ids 3* uint64""",
    "EventsResponse.PingConfirmation": """
        ids 1* uint64
        invalid_ids 2* uint64
        temporary_failed_ids 3* uint64""",
    "Event": """
        id 1 uint64
        subject 2 string
        headers 3 Headers
        data 4 Any
        delivery_attempt 5 uint64""",
    "Headers": """
        timestamp 1 Timestamp
        idempotency_key 2? string
        trace_parent 3? string
        trace_state 4? string""",
}

STATE = {
    "EnsureStoreRequest": "store 1 string",
    "EnsureStoreResponse": "",
    "GetRequest": """
        store 1 string
        key 2 string""",
    "GetResponse": """
        last_updated 1? Timestamp
        revision 2 uint64
        value 3? Any""",
    "SetRequest": """
        store 1 string
        key 2 string
        value 3 Any
        create_only 4? bool
        last_revision 5? uint64""",
    "SetResponse": "revision 1 uint64",
    "DeleteRequest": """
        store 1 string
        key 2 string
        last_revision 3? uint64""",
    "DeleteResponse": "",
}

MESSAGES = {
    **{f"windshift.events.v1alpha1.{name}": fields for name, fields in EVENTS.items()},
    **{f"windshift.state.v1alpha1.{name}": fields for name, fields in STATE.items()},
    "windshift.test.v1.StringValue": "value 1 string",
}

ENUMS = {
    "windshift.events.v1alpha1.EnsureStreamRequest.DiscardPolicy": {
        "DISCARD_POLICY_UNSPECIFIED": 0,
        "DISCARD_POLICY_OLD": 1,
        "DISCARD_POLICY_NEW": 2,
    },
    "windshift.events.v1alpha1.EnsureStreamRequest.StorageType": {
        "STORAGE_TYPE_UNSPECIFIED": 0,
        "STORAGE_TYPE_FILE": 1,
        "STORAGE_TYPE_MEMORY": 2,
    },
}

_EVENTS = "windshift.events.v1alpha1.EventsService"
_STATE = "windshift.state.v1alpha1.StateService"
METHODS = {
    f"{_EVENTS}.EnsureStream": "EnsureStreamRequest -> EnsureStreamResponse",
    f"{_EVENTS}.EnsureConsumer": "EnsureConsumerRequest -> EnsureConsumerResponse",
    f"{_EVENTS}.DeleteConsumer": "DeleteConsumerRequest -> DeleteConsumerResponse",
    f"{_EVENTS}.PublishEvent": "PublishEventRequest -> PublishEventResponse",
    f"{_EVENTS}.Publish": "PublishEventRequest -> PublishEventResponse",
    f"{_EVENTS}.Events": "stream EventsRequest -> stream EventsResponse",
    f"{_EVENTS}.Consume": "stream EventsRequest -> stream EventsResponse",
    f"{_STATE}.EnsureStore": "EnsureStoreRequest -> EnsureStoreResponse",
    f"{_STATE}.Get": "GetRequest -> GetResponse",
    f"{_STATE}.Set": "SetRequest -> SetResponse",
    f"{_STATE}.Delete": "DeleteRequest -> DeleteResponse",
}

EXTENSIONS_START_AT = 100
"""Fields below this number are the contract's; our own additions start here."""

SCALARS = {
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_DOUBLE: "double",
    FieldDescriptor.TYPE_FLOAT: "float",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_UINT64: "uint64",
}


def notation(field: FieldDescriptor) -> str:
    """Write a field as the contract does."""
    target = field.message_type or field.enum_type
    mark = "*" if field.is_repeated else "?" if is_optional(field) else ""
    return f"{field.name} {field.number}{mark} {target.name if target else SCALARS[field.type]}"


def is_optional(field: FieldDescriptor) -> bool:
    """Tell whether a field is declared `optional`, which the compiler turns into a oneof of its own."""
    return field.containing_oneof is not None and field.containing_oneof.name == f"_{field.name}"


def messages_below(descriptor: Descriptor) -> list[Descriptor]:
    """Return a message and those nested in it."""
    nested = [found for child in descriptor.nested_types for found in messages_below(child)]
    return [descriptor, *nested]


def described(descriptor: Descriptor) -> set[str]:
    """Write the contract's fields of a message as the contract does, each oneof as one entry."""
    fields = [field for field in descriptor.fields if field.number < EXTENSIONS_START_AT]
    plain = {notation(f) for f in fields if f.containing_oneof is None or is_optional(f)}
    oneofs = {
        f"{oneof.name} {{{', '.join(notation(f) for f in oneof.fields if f.number < EXTENSIONS_START_AT)}}}"
        for oneof in descriptor.oneofs
        if not is_optional(oneof.fields[0])
    }
    return plain | oneofs


def expected(text: str) -> set[str]:
    """Split a row of the table above into its entries."""
    lines = (line.strip() for line in text.replace(",\n", ", ").splitlines())
    return {" ".join(line.split()) for line in lines if line}


def signature(method: MethodDescriptor) -> str:
    """Write the shape of a method."""
    sent = f"{'stream ' if method.client_streaming else ''}{method.input_type.name}"
    return f"{sent} -> {'stream ' if method.server_streaming else ''}{method.output_type.name}"


def all_messages() -> dict[str, Descriptor]:
    """Return every message by its whole name."""
    top = [message for file in FILES for message in file.message_types_by_name.values()]
    found = [message for descriptor in top for message in messages_below(descriptor)]
    return {message.full_name: message for message in found}


def all_enums() -> dict[str, EnumDescriptor]:
    """Return every enum by its whole name."""
    top = [enum for file in FILES for enum in file.enum_types_by_name.values()]
    nested = [enum for message in all_messages().values() for enum in message.enum_types]
    return {enum.full_name: enum for enum in (*top, *nested)}


def all_methods() -> dict[str, MethodDescriptor]:
    """Return every method by its whole name."""
    services = [service for file in FILES for service in file.services_by_name.values()]
    return {method.full_name: method for service in services for method in service.methods}


@pytest.mark.parametrize("name", MESSAGES)
def test_fields_have_the_names_numbers_and_types_of_the_contract(name: str) -> None:
    """Every message of the contract has exactly the contract's fields below number 100."""
    assert described(all_messages()[name]) == expected(MESSAGES[name])


@pytest.mark.parametrize("name", ENUMS)
def test_enums_have_the_values_of_the_contract(name: str) -> None:
    """Every enum of the contract has exactly the contract's values."""
    assert {value.name: value.number for value in all_enums()[name].values} == ENUMS[name]


@pytest.mark.parametrize("name", METHODS)
def test_methods_have_the_paths_and_shapes_of_the_contract(name: str) -> None:
    """Every method of the contract is there, with its messages and its streaming."""
    assert signature(all_methods()[name]) == METHODS[name]


def later_lines() -> set[str]:
    """Write every method, field and value that the contract does not know."""
    lines = {f"{name} {signature(each)}" for name, each in all_methods().items() if name not in METHODS}
    for name, message in all_messages().items():
        since = EXTENSIONS_START_AT if name in MESSAGES else 0
        lines |= {f"{name} {later(field)}" for field in message.fields if field.number >= since}
    for name, enum in all_enums().items():
        if name not in ENUMS:
            lines |= {f"{name} {value.name} {value.number}" for value in enum.values}
    return lines


def later(field: FieldDescriptor) -> str:
    """Write a field with the oneof that it is part of."""
    oneof = "" if field.containing_oneof is None or is_optional(field) else f", {field.containing_oneof.name}"
    return notation(field) + oneof


def test_what_came_later_stays() -> None:
    """What clients may depend on by now is written down, and nothing of it changes."""
    assert later_lines() == set(LATER.read_text().splitlines())
