"""What a client sets, and what is read of stores, as values."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest
from google.protobuf.any_pb2 import Any

from windshift._gen.windshift.state.v1alpha1.service_pb2 import GetResponse, SetRequest
from windshift.server.api import state
from windshift.server.domain.errors import ValueNotAny

UNKNOWN = b"\x78\x00"
"""A field that an `Any` does not have."""
MANY = UNKNOWN * 100_000


@pytest.fixture(autouse=True)
def _few_objects() -> Iterator[None]:
    """Have fields make no objects: each would be one of a hundred bytes."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 4 * len(MANY)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("unknown", [b"", UNKNOWN, MANY])
def test_unknown_fields_are_not_stored(unknown: bytes) -> None:
    """However many there are."""
    value = Any(type_url="x.Y", value=b"value")
    request = SetRequest(value=Any.FromString(value.SerializeToString() + unknown))
    assert state._value("value", request) == value.SerializeToString()


@pytest.mark.parametrize("unknown", [UNKNOWN, MANY])
def test_what_has_unknown_fields_is_no_value(unknown: bytes) -> None:
    """Another program may have stored millions of them."""
    value = Any(type_url="x.Y", value=b"value")
    with pytest.raises(ValueNotAny):
        state._read_any(GetResponse().value, "key", value.SerializeToString() + unknown)


@pytest.mark.parametrize(
    "encoded", [b"", b"\x0a\x00\x12\x00", b"\x12\x01a\x0a\x03x.Y", b"\x12\x01b\x12\x01a\x0a\x83\x00x.Y"]
)
def test_however_a_value_is_written(encoded: bytes) -> None:
    """Empty fields, in another order, twice, or longer than need be are those of an `Any`."""
    response = GetResponse()
    state._read_any(response.value, "key", encoded)
    assert response.value == Any.FromString(encoded)
