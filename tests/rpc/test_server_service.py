"""Names of rpcs as names of methods, and the binding of services."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest

from windshift.rpc import Service
from windshift.rpc.service import snake_case

from .serving import SERVICE, count, echo


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Get", "get"),
        ("PublishEvent", "publish_event"),
        ("EnsureKeyValueStore", "ensure_key_value_store"),
        ("publish", "publish"),
        ("V1Publish", "v1_publish"),
        ("GetURL", "get_url"),
    ],
)
def test_rpc_names_become_method_names(name: str, expected: str) -> None:
    """A capital after a small letter or a digit begins a word."""
    assert snake_case(name) == expected


def test_only_implemented_methods_are_bound() -> None:
    """A service has the methods that its implementation has, under their full paths."""
    service = Service(SERVICE, SimpleNamespace(unary_call=echo, streaming_input_call=count, other=1))
    assert service.name == "grpc.testing.TestService"
    assert sorted(service.methods) == [
        "/grpc.testing.TestService/StreamingInputCall",
        "/grpc.testing.TestService/UnaryCall",
    ]
    upload = service.methods["/grpc.testing.TestService/StreamingInputCall"]
    assert (upload.client_streaming, upload.server_streaming, upload.streaming) == (True, False, True)
    assert upload.request_type.DESCRIPTOR.name == "StreamingInputCallRequest"


def test_fields_are_no_handlers() -> None:
    """What has an rpc's name and is no method, but an object that happens to be called so, is not bound."""
    service = Service(SERVICE, SimpleNamespace(unary_call=object(), empty_call=partial(echo)))
    assert not service.methods
