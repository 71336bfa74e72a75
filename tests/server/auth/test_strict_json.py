"""JSON in which nothing is ambiguous."""

from __future__ import annotations

import pytest

from windshift.server.auth.strict_json import read_object


def test_an_object_is_read() -> None:
    """Plain JSON is read as ever."""
    assert read_object(b'{"a": {"b": [1, 2.5, null, true, "x"]}}') == {"a": {"b": [1, 2.5, None, True, "x"]}}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b'"a"',
        b"{",
        b"{} {}",
        b'{"a": 1, "a": 2}',
        b'{"a": 1, "\\u0061": 1}',
        b'{"x": {"a": 1, "a": 1}}',
        b'{"x": [{"a": 1, "a": 1}]}',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a": "\xff"}',
        b"\xef\xbb\xbf{}",
        '{"a": 1}'.encode("utf-16"),
        b"{'a': 1}",
        b'{"a": 01}',
        b'{"a": 1,}',
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(text: bytes) -> None:
    """Names that stand twice, numbers that are none, other encodings, endless nesting: all are refused."""
    with pytest.raises(ValueError):
        read_object(text)
