"""Blocks of headers: written, read, and never a way to write something else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windshift.nats import headers as h

NAME_BYTES = bytes(code for code in range(0x21, 0x7F) if code != ord(":"))

names = st.lists(st.sampled_from(list(NAME_BYTES)), min_size=1, max_size=20).map(bytes)
values = st.binary(max_size=30).map(lambda value: value.translate(None, b"\r\n").strip())
lines = st.lists(st.tuples(names, values), max_size=8)


@given(lines)
def test_what_is_written_is_read(headers: list[tuple[bytes, bytes]]) -> None:
    """Names and values of any bytes keep their order, repeated names included."""
    block = h.block(headers)
    assert h.split(block) == tuple(headers)
    assert h.status(block) is None
    for name, _ in headers:
        first = next(value for known, value in headers if known == name)
        assert h.get(block, name) == first


@given(lines)
def test_a_block_has_one_form(headers: list[tuple[bytes, bytes]]) -> None:
    """It begins with the version and ends with an empty line, and there is none without headers."""
    block = h.block(headers)
    if headers:
        assert block.startswith(b"NATS/1.0\r\n")
        assert block.endswith(b"\r\n\r\n")
        assert block.count(b"\r\n") == len(headers) + 2
        assert b"\r\n\r\n" not in block[:-4]
    else:
        assert block == b""


def test_lines_can_be_put_together() -> None:
    """A block is its beginning, lines and its end."""
    two = h.line(b"A", b"1") + h.line(b"B", b"")
    assert h.BEGIN + two + h.END == h.block([(b"A", b"1"), (b"B", b"")])
    assert h.line(h.MESSAGE_ID, b"x") == b"Nats-Msg-Id: x\r\n"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((b"A", value) for value in (b"1\r\nB: 2", b"1\nB: 2", b"1\r", b"\n", b"1\r\n\r\nbody")),
        *((name, b"1") for name in (b"", b"A:", b"A: 1\r\nB", b"A\n", b" A", b"A B", b"A\t", b"\x00")),
        *((name, b"1") for name in (b"A\x7f", "schön".encode(), b"\xff")),
    ],
)
def test_no_line_holds_another(name: bytes, value: bytes) -> None:
    """What would end a line early, or is no name, is refused."""
    with pytest.raises(ValueError):
        h.line(name, value)
    with pytest.raises(ValueError):
        h.block([(b"First", b"1"), (name, value)])


@given(st.binary(max_size=10), st.binary(max_size=10))
def test_whatever_is_written_is_one_line(name: bytes, value: bytes) -> None:
    """Any bytes are refused, or are one name and one value, and nothing of them is read as another."""
    try:
        block = h.block([(name, value)])
    except ValueError:
        return
    assert h.split(block) == ((name, value.strip()),)


@given(st.binary(max_size=60), st.booleans())
def test_whatever_arrives_is_read(noise: bytes, is_block: bool) -> None:
    """Others may store any bytes as headers: what is no line is left out, and nothing fails."""
    block = h.BEGIN + noise if is_block else noise
    for name, _ in h.split(block):
        h.get(block, name)
    h.status(block)


@pytest.mark.parametrize(
    ("block", "read"),
    [
        (b"", ()),
        (b"NATS/1.0", ()),
        (b"NATS/1.0\r\n\r\n", ()),
        (b"NATS/1.0 404 No Messages\r\n\r\n", ()),
        (b"NATS/1.0\r\nA:1\r\n\r\n", ((b"A", b"1"),)),
        (b"NATS/1.0\r\nA:  1 \t\r\n\r\n", ((b"A", b"1"),)),
        (b"NATS/1.0\r\nA: \r\nB:\r\n\r\n", ((b"A", b""), (b"B", b""))),
        (b"NATS/1.0\r\nA: 1:2\r\n\r\n", ((b"A", b"1:2"),)),
        (b"NATS/1.0\r\nno line\r\nA: 1\r\n\r\n", ((b"A", b"1"),)),
        (
            b"NATS/1.0\r\nA: \xff\xfe\r\na: 2\r\nA: 3\r\n\r\n",
            ((b"A", b"\xff\xfe"), (b"a", b"2"), (b"A", b"3")),
        ),
        (b"NATS/1.0\r\nA: 1", ((b"A", b"1"),)),
    ],
)
def test_blocks_of_others(block: bytes, read: h.HeaderLines) -> None:
    """Space around names and values does not count; letters do, and so does the order."""
    assert h.split(block) == read
    for name, value in dict(reversed(read)).items():
        assert h.get(block, name) == value
    assert h.get(block, b"Other") is None


def test_a_name_is_not_found_in_a_value() -> None:
    """Nor in the rest of a longer name."""
    block = h.block([(b"X-A", b"1"), (b"B", b"A: 2"), (b"Aa", b"3")])
    assert h.get(block, b"A") is None


@pytest.mark.parametrize(
    ("block", "status"),
    [
        (b"NATS/1.0 503\r\n\r\n", h.Status(503, "")),
        (b"NATS/1.0 404 No Messages\r\n\r\n", h.Status(404, "No Messages")),
        (
            b"NATS/1.0 409 Message Size Exceeds MaxBytes\r\nA: 1\r\n\r\n",
            h.Status(409, "Message Size Exceeds MaxBytes"),
        ),
        (b"NATS/1.0  100  Idle Heartbeat \r\n\r\n", h.Status(100, "Idle Heartbeat")),
        (b"NATS/1.0 400 \xff\r\n\r\n", h.Status(400, "\ufffd")),
        (b"NATS/1.0 408", h.Status(408, "")),
        (b"NATS/1.0\r\nA: 503\r\n\r\n", None),
        (b"NATS/1.0 x\r\n\r\n", None),
        (b"NATS/1.0 50\r\n\r\n", None),
        (b"NATS/2.0 503\r\n\r\n", None),
        (b"", None),
    ],
)
def test_a_status(block: bytes, status: h.Status | None) -> None:
    """It stands in the first line, and there only."""
    assert h.status(block) == status


def test_nobody_listens() -> None:
    """What nats-server answers a request with that nobody listens to is known by how it begins."""
    assert b"NATS/1.0 503\r\n\r\n".startswith(h.NO_RESPONDERS)
    assert h.status(h.NO_RESPONDERS + b"\r\n\r\n") == h.Status(503, "")
