"""The descriptors of the public protos against the contract, field for field.

Each row is written as the contract writes it: `name number type`, `?` after the number for proto3 `optional`,
`*` for `repeated`, and the fields of a oneof in braces after its name. Clients in the field depend on every
number.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, MethodDescriptor

from windshift._gen.windshift.admin.v1alpha1 import service_pb2 as admin
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as dead_letters
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as events
from windshift._gen.windshift.state.v1alpha1 import service_pb2 as state
from windshift._gen.windshift.test.v1 import test_pb2 as test

MODULES = (admin, dead_letters, events, state, test)
FILES = {module.DESCRIPTOR.package: module.DESCRIPTOR for module in MODULES}
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
    "windshift.events.v1alpha1": EVENTS,
    "windshift.state.v1alpha1": STATE,
    "windshift.test.v1": {"StringValue": "value 1 string"},
}

ENUMS = {
    "EnsureStreamRequest.DiscardPolicy": {
        "DISCARD_POLICY_UNSPECIFIED": 0,
        "DISCARD_POLICY_OLD": 1,
        "DISCARD_POLICY_NEW": 2,
    },
    "EnsureStreamRequest.StorageType": {
        "STORAGE_TYPE_UNSPECIFIED": 0,
        "STORAGE_TYPE_FILE": 1,
        "STORAGE_TYPE_MEMORY": 2,
    },
}

OWN_ENUMS = {
    "EventsRequest.RejectAction": {
        "REJECT_ACTION_UNSPECIFIED": 0,
        "REJECT_ACTION_RETRY": 1,
        "REJECT_ACTION_DEAD_LETTER": 2,
        "REJECT_ACTION_DROP": 3,
    },
}

METHODS = {
    "windshift.events.v1alpha1.EventsService": {
        "EnsureStream": "EnsureStreamRequest -> EnsureStreamResponse",
        "EnsureConsumer": "EnsureConsumerRequest -> EnsureConsumerResponse",
        "DeleteConsumer": "DeleteConsumerRequest -> DeleteConsumerResponse",
        "PublishEvent": "PublishEventRequest -> PublishEventResponse",
        "Publish": "PublishEventRequest -> PublishEventResponse",
        "Events": "stream EventsRequest -> stream EventsResponse",
        "Consume": "stream EventsRequest -> stream EventsResponse",
    },
    "windshift.state.v1alpha1.StateService": {
        "EnsureStore": "EnsureStoreRequest -> EnsureStoreResponse",
        "Get": "GetRequest -> GetResponse",
        "Set": "SetRequest -> SetResponse",
        "Delete": "DeleteRequest -> DeleteResponse",
    },
}

EXTENSIONS_START_AT = 100
"""Fields below this number are the contract's; our own additions start here."""

EXTENSIONS = {
    "windshift.events.v1alpha1": {
        "EnsureStreamRequest": """
            atomic_batches 100? bool
            fast_ingest 101? bool""",
        "EnsureConsumerRequest": "retry_policy 100? RetryPolicy",
        "PublishEventResponse": "duplicate 100 bool",
        "EventsRequest": "limit 100 Limit",
        "EventsRequest.Subscribe": """
            resume 101* bytes
            linger 102 Duration
            max_batch 103 uint32
            max_message_size 104 uint32""",
        "EventsResponse": "batch 100 EventBatch",
        "EventsRequest.Reject": """
            reason 100 string
            error_type 101 string
            action 102 RejectAction""",
        "EventsResponse.Subscribed": "linger 100 Duration",
        "Event": "token 100 bytes",
    },
    "windshift.state.v1alpha1": {
        "EnsureStoreRequest": """
            history 100? uint32
            ttl 101? Duration""",
        "SetRequest": "ttl 100? Duration",
    },
}
"""What the contract's messages have beside the contract's fields. These numbers stay, too."""

OWN_EVENTS = {
    "RetryPolicy": """
        max_attempts 1? uint32
        initial_backoff 2? Duration
        max_backoff 3? Duration
        backoff_multiplier 4? double
        jitter 5? double
        dead_letters 6? bool""",
    "GetConsumerRequest": """
        stream 1 string
        id 2 string""",
    "GetConsumerResponse": """
        stream 1 string
        id 2 string
        durable 3 bool
        subjects 4* string
        processing_timeout 5 Duration
        retry_policy 6 RetryPolicy
        pending 7 uint64
        unsettled 8 uint64
        settled_to 9 uint64
        dead_letters 10 uint64""",
}
"""Messages that the contract does not know."""

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


def extensions(descriptor: Descriptor) -> set[str]:
    """Write those fields of a message that the contract does not know."""
    return {notation(field) for field in descriptor.fields if field.number >= EXTENSIONS_START_AT}


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


def all_messages(package: str) -> dict[str, Descriptor]:
    """Return every message of a package by its name within it."""
    top = FILES[package].message_types_by_name.values()
    found = [message for descriptor in top for message in messages_below(descriptor)]
    return {message.full_name.removeprefix(f"{package}."): message for message in found}


@pytest.mark.parametrize(
    ("package", "name"), [(package, name) for package, names in MESSAGES.items() for name in names]
)
def test_fields_have_the_names_numbers_and_types_of_the_contract(package: str, name: str) -> None:
    """Every message has exactly the contract's fields below number 100."""
    assert described(all_messages(package)[name]) == expected(MESSAGES[package][name])


def test_a_message_that_the_contract_does_not_know_is_an_extension() -> None:
    """No message of the contract is missing from the tables of this test."""
    for package, names in MESSAGES.items():
        assert set(names) <= set(all_messages(package))


@pytest.mark.parametrize(
    ("package", "name"), [(package, name) for package, names in MESSAGES.items() for name in names]
)
def test_additions_have_their_names_numbers_and_types(package: str, name: str) -> None:
    """Messages of the contract have the additions of the table, and no other."""
    added = EXTENSIONS.get(package, {}).get(name, "")
    assert extensions(all_messages(package)[name]) == expected(added)


@pytest.mark.parametrize("name", OWN_EVENTS)
def test_own_messages_keep_their_fields(name: str) -> None:
    """Messages beside the contract's have exactly the fields of the table."""
    assert described(all_messages("windshift.events.v1alpha1")[name]) == expected(OWN_EVENTS[name])


def later_lines() -> set[str]:
    """Write every method that came after the contract, and every field and value of such messages."""
    lines: set[str] = set()
    for package, file in FILES.items():
        for service in file.services_by_name.values():
            known = METHODS.get(service.full_name, {})
            methods = (each for each in service.methods if each.name not in known)
            lines |= {f"{method.full_name} {signature(method)}" for method in methods}
        for name, message in all_messages(package).items():
            if name not in MESSAGES.get(package, {}):
                lines |= {f"{package}.{name} {notation(field)}" for field in message.fields}
                for enum in message.enum_types:
                    values = (f"{value.name} {value.number}" for value in enum.values)
                    lines |= {f"{package}.{name}.{enum.name} {value}" for value in values}
    return lines


def test_what_came_later_stays() -> None:
    """What clients may depend on by now is written down, and nothing of it changes."""
    assert later_lines() == set(LATER.read_text().splitlines())


@pytest.mark.parametrize("name", [*ENUMS, *OWN_ENUMS])
def test_enums_have_their_values(name: str) -> None:
    """Every enum has exactly the values of its table."""
    parent, enum = name.split(".")
    found: EnumDescriptor = all_messages("windshift.events.v1alpha1")[parent].enum_types_by_name[enum]
    assert {value.name: value.number for value in found.values} == (ENUMS | OWN_ENUMS)[name]


@pytest.mark.parametrize("service", METHODS)
def test_methods_have_the_paths_and_shapes_of_the_contract(service: str) -> None:
    """Every method of the contract is there, with its messages and its streaming."""
    package, _, name = service.rpartition(".")
    found = FILES[package].services_by_name[name].methods_by_name
    assert {method: signature(found[method]) for method in METHODS[service]} == METHODS[service]
