"""Statuses in trailers."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo
from hypothesis import given
from hypothesis import strategies as st

from windshift.rpc import RpcError, StatusCode
from windshift.rpc.outcome import final_error
from windshift.rpc.status import (
    MAX_MESSAGE_LENGTH,
    decode_binary,
    encode_binary,
    percent_decode,
    percent_encode,
    status_trailers,
)

CLIENT_LIMIT = 8192
"""Bytes of headers that the strictest of the usual clients takes."""

texts = st.text(
    alphabet=st.one_of(st.characters(), st.sampled_from(["\udcff", " ", "%", "\n"])), max_size=200
)


@given(texts)
def test_messages_survive_percent_encoding(text: str) -> None:
    """All of Unicode arrives; lone surrogates, which no encoding has, become question marks."""
    expected = text.encode("utf-8", "replace").decode()
    assert percent_decode(percent_encode(text)) == expected


@given(texts)
def test_an_encoded_message_is_a_valid_header_value(text: str) -> None:
    """Printable ASCII without a space at either end, else HTTP/2 peers refuse the whole response."""
    value = percent_encode(text)
    assert all(0x20 <= byte <= 0x7E for byte in value)
    assert value == value.strip()


@given(st.text(alphabet="\0 %ä漢😀a\n", min_size=1, max_size=20).map(lambda text: text * 2000))
def test_an_encoded_message_fits_every_client(text: str) -> None:
    """However long the message and however much each character grows, it stays within what clients take."""
    value = percent_encode(text)
    assert len(value) <= CLIENT_LIMIT // 2
    assert text.encode().startswith(percent_decode(value).encode())


def test_a_long_message_is_cut_between_characters() -> None:
    """No half character is left at the end."""
    assert percent_encode("a" * 10_000) == b"a" * MAX_MESSAGE_LENGTH
    cut = percent_decode(percent_encode("漢" * 10_000))
    assert set(cut) == {"漢"}


@pytest.mark.parametrize("text", ["\n", "a\r\nb: c", "\0", "é", "100%", "%41", "\x7f"])
def test_what_a_header_cannot_hold_is_escaped_as_usual(text: str) -> None:
    """Every byte beyond printable ASCII, and the percent sign, becomes ``%XX`` in upper case."""
    assert percent_encode(text) == quote(text, safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~").encode()


@pytest.mark.parametrize(
    ("data", "text"),
    [(b"%", "%"), (b"%4", "%4"), (b"%zz", "%zz"), (b"a%41%", "aA%"), (b"%c3%a4", "ä"), (b"%ff", "\ufffd")],
)
def test_malformed_escapes_are_kept(data: bytes, text: str) -> None:
    """A client must not lose the rest of a message for one bad escape."""
    assert percent_decode(data) == text


@given(st.binary(max_size=100))
def test_any_bytes_can_be_decoded(data: bytes) -> None:
    """Decoding raises nothing."""
    percent_decode(data)


@given(st.binary(max_size=100))
def test_binary_values_survive(data: bytes) -> None:
    """With and without padding."""
    encoded = encode_binary(data)
    assert b"=" not in encoded
    assert decode_binary(encoded) == data
    assert decode_binary(encoded + b"=" * (-len(encoded) % 4)) == data


# -- errors -------------------------------------------------------------------------------------------------


@given(st.sampled_from([code for code in StatusCode if code]), texts, st.lists(texts, max_size=3))
def test_an_error_survives_the_way_through_trailers(code: StatusCode, text: str, reasons: list[str]) -> None:
    """Code, message and details arrive, whatever characters the message has."""
    details = [ErrorInfo(reason=reason.encode("utf-8", "replace").decode()) for reason in reasons]
    error = final_error(status_trailers(RpcError(code, text, details)))
    assert error is not None
    assert error.code is code
    assert error.message == text.encode("utf-8", "replace").decode()
    received = [ErrorInfo() for _ in error.details]
    for detail, target in zip(error.details, received, strict=True):
        assert isinstance(detail, AnyMessage)
        assert detail.Unpack(target)
    assert received == details


def test_details_that_are_packed_already_are_sent_as_they_are() -> None:
    """An ``Any`` is not packed into another."""
    packed = AnyMessage()
    packed.Pack(ErrorInfo(reason="R"))
    error = final_error(status_trailers(RpcError(StatusCode.ABORTED, "m", [packed])))
    assert error is not None
    assert list(error.details) == [packed]


@pytest.mark.parametrize("text", ["", "m" * 10_000, "漢" * 10_000])
def test_trailers_fit_every_client(text: str) -> None:
    """Details that are too large are left out, others arrive."""
    small, large = ErrorInfo(reason="R"), ErrorInfo(reason="x" * 100_000)
    trailers = status_trailers(RpcError(StatusCode.ABORTED, text, [large, small, large]))
    assert sum(len(name) + len(value) for name, value in trailers) < CLIENT_LIMIT
    error = final_error(trailers)
    assert error is not None
    assert len(error.details) == 1
    assert error.detail(ErrorInfo) == small


@pytest.mark.parametrize("text", ["m", "漢", "é", "mmmmé", "%", "m%", "😀", "m\n"])
def test_details_have_room_beside_any_message(text: str) -> None:
    """However it is written, and however long it is."""
    detail = ErrorInfo(reason="R" * 2_000)
    error = final_error(status_trailers(RpcError(StatusCode.ABORTED, text * 10_000, [detail])))
    assert error is not None
    assert error.detail(ErrorInfo) == detail


@pytest.mark.parametrize("value", [b"", b"99", b"-1", b"x", b"1x", b"\xff"])
def test_an_unreadable_status_is_unknown(value: bytes) -> None:
    """A client never takes a broken status for success."""
    error = final_error(((b"grpc-status", value),))
    assert error is not None
    assert error.code is StatusCode.UNKNOWN


@pytest.mark.parametrize("value", [b"!", b"AAAA", b"CAE", b"\xff"])
def test_unreadable_details_are_left_out(value: bytes) -> None:
    """The code and the message are worth more."""
    error = final_error(
        ((b"grpc-status", b"5"), (b"grpc-message", b"m"), (b"grpc-status-details-bin", value))
    )
    assert error is not None
    assert (error.code, error.message, tuple(error.details)) == (StatusCode.NOT_FOUND, "m", ())
