"""The names of the semantic conventions, against OpenTelemetry's own list of them."""

from __future__ import annotations

from opentelemetry.semconv._incubating.attributes import (
    db_attributes,
    host_attributes,
    messaging_attributes,
    process_attributes,
    rpc_attributes,
    service_attributes,
)
from opentelemetry.semconv.attributes import error_attributes, network_attributes, telemetry_attributes
from opentelemetry.semconv.schemas import Schemas

from windshift import conventions

MODULES = (
    db_attributes,
    error_attributes,
    host_attributes,
    messaging_attributes,
    network_attributes,
    process_attributes,
    rpc_attributes,
    service_attributes,
    telemetry_attributes,
)


def test_attribute_names_are_those_of_the_conventions() -> None:
    """Every dotted name is in OpenTelemetry's list, or our own."""
    known = {value for module in MODULES for value in vars(module).values() if isinstance(value, str)}
    named = {
        value for name, value in vars(conventions).items() if name.isupper() and isinstance(value, str)
    } - {conventions.SCHEMA_URL, conventions.SCOPE, conventions.CLIENT_SCOPE}
    ours = {value for value in named if "." in value and value not in known}
    assert ours == {
        conventions.SUBJECT,
        conventions.DELIVERY_ATTEMPT,
        conventions.DUPLICATE,
        conventions.PERMANENTLY,
        conventions.OUTCOME,
    }
    assert all(value.startswith("windshift.") for value in ours)


def test_operation_types_are_those_of_the_conventions() -> None:
    """The types of messaging operations are well-known ones."""
    known = {each.value for each in messaging_attributes.MessagingOperationTypeValues}
    assert {conventions.SEND, conventions.RECEIVE, conventions.SETTLE, conventions.PROCESS} <= known
    assert rpc_attributes.RpcSystemNameValues.GRPC.value == conventions.GRPC


def test_schema_url() -> None:
    """The schema is one that OpenTelemetry has published."""
    assert Schemas.V1_44_0.value == conventions.SCHEMA_URL
