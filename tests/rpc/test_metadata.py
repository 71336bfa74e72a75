"""Metadata and timeouts as header fields."""

from __future__ import annotations

import math
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windshift.rpc import RpcError
from windshift.rpc.metadata import (
    MAX_TIMEOUT,
    decode_metadata,
    encode_metadata,
    encode_timeout,
    parse_timeout,
)

UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}

names = st.text(alphabet=string.ascii_lowercase + string.digits + "-_.", min_size=1, max_size=12).filter(
    lambda name: not name.endswith("-bin") and not name.startswith("grpc-") and name not in {"te", "host"}
)
texts = st.text(alphabet=[chr(c) for c in range(0x20, 0x7F)], max_size=30).map(str.strip)


# -- grpc-timeout -------------------------------------------------------------------------------------------


@given(st.integers(min_value=0, max_value=99_999_999), st.sampled_from(sorted(UNITS)))
def test_a_timeout_is_its_amount_times_its_unit(amount: int, unit: str) -> None:
    """All six units are read; what no timer can hold is cut."""
    expected = min(amount * UNITS[unit], MAX_TIMEOUT)
    assert parse_timeout(f"{amount}{unit}".encode()) == pytest.approx(expected)


@pytest.mark.parametrize(
    "value",
    b"|1|S|-1S|+1S| 1S|1S |1 S|1.5S|123456789S|1s|1h|1SS|0x1S|1e3S|1_0S|\xb9S|1S\n|1\0S|\xd9\xa1S".split(
        b"|"
    ),
)
def test_a_malformed_timeout_is_refused(value: bytes) -> None:
    """One to eight ASCII digits and one unit, nothing else."""
    with pytest.raises(RpcError, match="INVALID_ARGUMENT: grpc-timeout"):
        parse_timeout(value)


@given(st.binary(max_size=12))
def test_any_bytes_are_a_timeout_or_an_error(value: bytes) -> None:
    """No input gives anything but seconds within bounds or RpcError."""
    try:
        seconds = parse_timeout(value)
    except RpcError:
        return
    assert 0 <= seconds <= MAX_TIMEOUT


@given(st.floats(min_value=0, max_value=MAX_TIMEOUT))
def test_a_written_timeout_reads_back_within_one_unit(seconds: float) -> None:
    """Eight digits keep at least six significant ones, and never promise more time than there is."""
    value = encode_timeout(seconds)
    unit = UNITS[value[-1:].decode()]
    assert len(value) <= 9
    assert seconds - unit * 1.01 <= parse_timeout(value) <= seconds * (1 + 1e-12)


@pytest.mark.parametrize("seconds", [-1.0, 0.0, -math.inf])
def test_a_deadline_that_has_passed_is_written_as_zero(seconds: float) -> None:
    """A timeout is never negative."""
    assert parse_timeout(encode_timeout(seconds)) == 0


def test_a_timeout_without_end_is_written_as_the_longest() -> None:
    """Beyond what eight digits of hours hold, nothing overflows."""
    assert encode_timeout(1e15) == encode_timeout(math.inf) == b"99999999H"


# -- metadata -----------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.one_of(st.tuples(names, texts), st.tuples(names.map("{}-bin".format), st.binary(max_size=30)))
    )
)
def test_metadata_survives_the_way_through_headers(pairs: list[tuple[str, str | bytes]]) -> None:
    """Order, repeated names, text and bytes arrive as they were sent."""
    assert list(decode_metadata(encode_metadata(pairs))) == pairs


def test_headers_of_http_and_grpc_are_no_metadata() -> None:
    """Pseudo headers, ``grpc-…``, ``te``, ``content-type``, ``user-agent`` and ``host`` are left out."""
    hidden = [
        b":path",
        b":method",
        b"te",
        b"content-type",
        b"user-agent",
        b"host",
        b"grpc-timeout",
        b"grpc-x",
    ]
    assert decode_metadata([*((name, b"v") for name in hidden), (b"x", b"1")]) == (("x", "1"),)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"AAEC", [b"\0\1\2"]),
        (b"AAE", [b"\0\1"]),
        (b"AAE=", [b"\0\1"]),
        (b"", [b""]),
        (b"AAE,AAEC", [b"\0\1", b"\0\1\2"]),
        (b"AAE=, AAEC", [b"\0\1", b"\0\1\2"]),
        (b"A", []),
        (b"!!!!", []),
        (b"AA EC", []),
        (b"!,AAEC", [b"\0\1\2"]),
        (b"\xff\xfe", []),
    ],
)
def test_binary_headers_may_be_padded_or_joined_and_bad_ones_are_left_out(
    value: bytes, expected: list[bytes]
) -> None:
    """Padding is optional, a comma joins two values, and what is no base64 does not fail the call."""
    assert list(decode_metadata([(b"x-bin", value)])) == [("x-bin", each) for each in expected]


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=12), st.binary(max_size=12))))
def test_any_headers_can_be_read(headers: list[tuple[bytes, bytes]]) -> None:
    """Whatever names and values came, reading them raises nothing."""
    for name, value in decode_metadata(headers):
        assert isinstance(value, bytes if name.endswith("-bin") else str)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "X",
        "a b",
        "a\n",
        "a:b",
        ":path",
        "ä",
        "grpc-status",
        "grpc-x",
        "te",
        "content-type",
        "host",
        "connection",
        "transfer-encoding",
        "upgrade",
        "keep-alive",
        "proxy-connection",
        "content-length",
    ],
)
def test_names_that_are_not_free_are_refused(name: str) -> None:
    """Upper case, other characters, and the headers of HTTP/2 and gRPC cannot be metadata."""
    with pytest.raises(ValueError, match="metadata name"):
        encode_metadata([(name, "v")])


@pytest.mark.parametrize("value", ["ä", "a\nb", "a\r\nb", "\0", "\x7f", "tab\there", "\udcff"])
def test_text_beyond_printable_ascii_is_refused(value: str) -> None:
    """A header cannot carry it, and a line break would end one."""
    with pytest.raises(ValueError, match="printable ASCII"):
        encode_metadata([("x", value)])


def test_binary_values_are_sent_unpadded() -> None:
    """As the protocol asks; text given for a binary name is sent as UTF-8."""
    assert encode_metadata([("a-bin", b"\0"), ("b-bin", "ä")]) == [(b"a-bin", b"AA"), (b"b-bin", b"w6Q")]
