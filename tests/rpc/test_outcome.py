"""What the end of a response means to a client."""

from __future__ import annotations

import pytest

from windshift.rpc import StatusCode
from windshift.rpc.outcome import final_error, reset_error, response_error


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (b"400", StatusCode.INTERNAL),
        (b"401", StatusCode.UNAUTHENTICATED),
        (b"403", StatusCode.PERMISSION_DENIED),
        (b"404", StatusCode.UNIMPLEMENTED),
        (b"429", StatusCode.UNAVAILABLE),
        (b"502", StatusCode.UNAVAILABLE),
        (b"503", StatusCode.UNAVAILABLE),
        (b"504", StatusCode.UNAVAILABLE),
        (b"500", StatusCode.UNKNOWN),
        (b"302", StatusCode.UNKNOWN),
        (b"200", StatusCode.UNKNOWN),
    ],
)
def test_an_answer_that_is_not_grpc_counts_by_its_http_status(status: bytes, code: StatusCode) -> None:
    """A proxy's page becomes the code that gRPC's table gives; its kind is in the message."""
    error = response_error({b":status": status, b"content-type": b"text/html"})
    assert error is not None
    assert error.code is code
    assert status.decode() in error.message
    assert "text/html" in error.message


@pytest.mark.parametrize("content_type", [b"application/grpc", b"application/grpc+proto"])
def test_a_grpc_answer_is_no_error(content_type: bytes) -> None:
    """What counts then are the trailers."""
    assert response_error({b":status": b"200", b"content-type": content_type}) is None


def test_a_grpc_status_counts_more_than_the_http_status() -> None:
    """A server that sends both means the gRPC status."""
    assert response_error({b":status": b"503", b"grpc-status": b"5"}) is None


def test_status_zero_is_no_error() -> None:
    """OK, with or without metadata."""
    assert final_error(((b"grpc-status", b"0"), (b"x-cost", b"3"))) is None


def test_an_error_carries_the_other_trailers() -> None:
    """As metadata, without the fields of gRPC itself."""
    error = final_error(((b"grpc-status", b"5"), (b"grpc-message", b"no%20such"), (b"x-key-bin", b"AQI")))
    assert error is not None
    assert (error.code, error.message) == (StatusCode.NOT_FOUND, "no such")
    assert error.metadata == (("x-key-bin", b"\x01\x02"),)


def test_an_end_without_a_status_is_unknown() -> None:
    """A stream that just ends says nothing about the call."""
    error = final_error(())
    assert error is not None
    assert error.code is StatusCode.UNKNOWN


@pytest.mark.parametrize(
    ("reset", "code"),
    [
        (0x0, StatusCode.INTERNAL),
        (0x1, StatusCode.INTERNAL),
        (0x2, StatusCode.INTERNAL),
        (0x3, StatusCode.INTERNAL),
        (0x6, StatusCode.INTERNAL),
        (0x7, StatusCode.UNAVAILABLE),
        (0x8, StatusCode.CANCELLED),
        (0xB, StatusCode.RESOURCE_EXHAUSTED),
        (0xC, StatusCode.PERMISSION_DENIED),
        (0x99, StatusCode.UNKNOWN),
    ],
)
def test_a_reset_counts_by_its_code(reset: int, code: StatusCode) -> None:
    """By the table of the protocol."""
    assert reset_error(reset).code is code
