"""Length-prefixed messages, against a decoder that is written another way."""

from __future__ import annotations

import gzip
import random
import struct
import tracemalloc
import zlib
from collections.abc import Sequence
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from windshift.rpc import RpcError, StatusCode
from windshift.rpc.framing import MessageDecoder, decode_single, encode_message, gunzip

from .frames import chunked

LIMIT = 64


def reference(stream: bytes, *, compressed: bool) -> tuple[list[bytes], set[StatusCode]]:
    """Return the payloads of a whole stream and the error behind them, looking at one message at a time.

    Payloads are inflated when they are due. So where one is broken, and so is a prefix behind it, it may be
    either that is noticed.
    """
    found: list[bytes] = []
    errors: set[StatusCode] = set()
    while len(stream) >= 5:
        flag, size, rest = stream[0], int.from_bytes(stream[1:5], "big"), stream[5:]
        if flag > 1 or (flag == 1 and not compressed):
            return found, errors | {StatusCode.INTERNAL}
        if size > LIMIT:
            return found, errors | {StatusCode.RESOURCE_EXHAUSTED}
        if len(rest) < size:
            break
        payload = whole_member(rest[:size]) if flag else rest[:size]
        if not errors:
            if payload is None:
                errors.add(StatusCode.INTERNAL)
            elif len(payload) > LIMIT:
                errors.add(StatusCode.RESOURCE_EXHAUSTED)
            else:
                found.append(payload)
        stream = rest[size:]
    return found, errors


def whole_member(data: bytes) -> bytes | None:
    """Inflate exactly one gzip member."""
    inflater = zlib.decompressobj(31)
    with suppress(zlib.error):
        inflated = inflater.decompress(data)
        if inflater.eof and not inflater.unused_data:
            return inflated
    return None


def fed(decoder: MessageDecoder, chunks: Sequence[bytes]) -> tuple[list[bytes], StatusCode | None]:
    """Feed chunks until one fails."""
    found: list[bytes] = []
    for chunk in chunks:
        try:
            found += map(decoder.unpack, decoder.feed(chunk))
        except RpcError as error:
            return found, error.code
    return found, None


payloads = st.binary(max_size=LIMIT + 8)
plain = st.builds(lambda p: struct.pack(">BI", 0, len(p)) + p, payloads)
zipped = st.builds(
    lambda p: struct.pack(">BI", 1, len(z := gzip.compress(p, mtime=0))) + z, st.binary(max_size=30)
)
broken = st.builds(
    lambda flag, size, rest: struct.pack(">BI", flag, size) + rest,
    st.sampled_from([0, 1, 2, 0x80, 0xFF]),
    st.sampled_from([0, 1, LIMIT, LIMIT + 1, 0xFFFF_FFFF]),
    st.binary(max_size=LIMIT),
)
streams = st.lists(st.one_of(plain, zipped, broken, st.binary(max_size=9)), max_size=6).map(b"".join)
cut_lists = st.lists(st.integers(min_value=0, max_value=400), max_size=12)


@given(streams, cut_lists, st.booleans())
@example(b"\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00", [], True)
def test_any_bytes_in_any_chunks_decode_as_the_reference_says(
    stream: bytes, cuts: Sequence[int], compressed: bool
) -> None:
    """What comes out, and whether an error ends it, does not depend on where the chunks were cut."""
    expected, errors = reference(stream, compressed=compressed)
    decoder = MessageDecoder(LIMIT, gzip=compressed)
    found, raised = fed(decoder, chunked(stream, cuts))
    assert raised in errors if errors else raised is None
    assert found == expected[: len(found)] if errors else found == expected


@given(st.lists(st.binary(max_size=LIMIT), max_size=8), cut_lists)
def test_messages_survive_encoding_and_any_chunking(messages: list[bytes], cuts: Sequence[int]) -> None:
    """Encoded messages come out whole and in order, and nothing is left."""
    decoder = MessageDecoder(LIMIT)
    stream = b"".join(encode_message(message) for message in messages)
    assert fed(decoder, chunked(stream, cuts)) == (messages, None)
    assert not decoder.buffered


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 65_536])
def test_a_prefix_is_the_flag_and_the_length(size: int) -> None:
    """Of short messages and of long ones."""
    assert encode_message(bytes(size)) == struct.pack(">BI", 0, size) + bytes(size)


def test_a_message_in_tiny_chunks_takes_little_more_than_its_bytes() -> None:
    """However few there are in each: whoever sends them so does not have more held."""
    size = 100_000
    message, decoder = encode_message(bytes(size)), MessageDecoder(size)
    tracemalloc.start()
    try:
        for byte in message[:-1]:
            assert decoder.feed(bytes((byte,))) == []
        assert tracemalloc.get_traced_memory()[0] < 1.5 * size
    finally:
        tracemalloc.stop()
    assert decoder.buffered == len(message) - 1
    assert decoder.feed(message[-1:]) == [bytes(size)]


@given(st.binary(max_size=LIMIT), st.integers(min_value=1, max_value=5 + LIMIT))
def test_a_cut_message_is_incomplete(message: bytes, missing: int) -> None:
    """A stream that ends inside a message says so, one that ends before it does not."""
    stream = encode_message(message)[:-missing]
    decoder = MessageDecoder(LIMIT)
    assert decoder.feed(stream) == []
    assert decoder.buffered == len(stream)


@given(st.one_of(plain, zipped, broken, st.binary(max_size=80)))
def test_the_short_way_takes_exactly_one_plain_message(data: bytes) -> None:
    """``decode_single`` gives what the decoder gives for one whole plain message, and None otherwise."""
    expected, errors = reference(data, compressed=False)
    whole = not errors and len(expected) == 1 and len(data) == 5 + len(expected[0])
    assert decode_single(data, LIMIT) == (expected[0] if whole else None)


@pytest.mark.parametrize("chunk", [1, 2, 4, 5, 6, 1000])
def test_a_message_of_the_limit_passes_and_one_byte_more_does_not(chunk: int) -> None:
    """The limit itself is allowed."""
    for size, code in ((LIMIT, None), (LIMIT + 1, StatusCode.RESOURCE_EXHAUSTED)):
        stream = encode_message(bytes(size))
        chunks = [stream[i : i + chunk] for i in range(0, len(stream), chunk)]
        assert fed(MessageDecoder(LIMIT), chunks)[1] == code


@pytest.mark.parametrize(
    ("prefix", "code"),
    [
        (b"\x00\xff\xff\xff\xff", StatusCode.RESOURCE_EXHAUSTED),
        (b"\x00\x00\x00\x00\x41", StatusCode.RESOURCE_EXHAUSTED),
        (b"\xff\x00\x00\x00\x01", StatusCode.INTERNAL),
        (b"\x02\x00\x00\x00\x00", StatusCode.INTERNAL),
        (b"\x01\x00\x00\x00\x00", StatusCode.INTERNAL),
    ],
)
def test_a_bad_prefix_is_refused_before_any_payload(prefix: bytes, code: StatusCode) -> None:
    """Neither a huge length nor an unknown flag waits for, or buffers, what follows it."""
    decoder = MessageDecoder(LIMIT)
    assert fed(decoder, [prefix[:3], prefix[3:]]) == ([], code)
    assert decoder.buffered <= 5


def test_a_gzip_bomb_stops_at_the_limit() -> None:
    """Inflating stops just above the limit, however much would come."""
    limit = 1 << 20
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(compressor.compress(bytes(1 << 20)) for _ in range(64)) + compressor.flush()
    assert len(bomb) < limit  # 64 MiB in less than 1 MiB
    tracemalloc.start()
    try:
        outcome = fed(MessageDecoder(limit, gzip=True), [struct.pack(">BI", 1, len(bomb)) + bomb])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert outcome == ([], StatusCode.RESOURCE_EXHAUSTED)
    assert peak < 8 * limit


@given(st.binary(max_size=200))
def test_gzip_survives(data: bytes) -> None:
    """What was compressed comes out, up to the limit to the byte."""
    packed = gzip.compress(data)
    assert gunzip(packed, len(data)) == data
    if data:
        with pytest.raises(RpcError) as raised:
            gunzip(packed, len(data) - 1)
        assert raised.value.code is StatusCode.RESOURCE_EXHAUSTED


@given(st.binary(max_size=100), st.binary(min_size=1, max_size=9))
def test_gzip_with_more_behind_it_is_an_error(data: bytes, more: bytes) -> None:
    """One message is one member: nothing is dropped silently, not even a second member."""
    for rest in (more, gzip.compress(more)):
        with pytest.raises(RpcError) as raised:
            gunzip(gzip.compress(data) + rest, 1000)
        assert raised.value.code is StatusCode.INTERNAL


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 200_000])
def test_gzip_of_any_length_survives(size: int) -> None:
    """It is inflated piece by piece."""
    payload = random.Random(size).randbytes(size)
    assert gunzip(gzip.compress(payload, 1), size) == payload
    assert gunzip(memoryview(gzip.compress(payload, 1)), size) == payload


@given(st.binary(max_size=100), st.integers(min_value=1, max_value=40))
def test_truncated_gzip_is_an_error(data: bytes, missing: int) -> None:
    """A compressed message whose end is missing is refused, not delivered in part."""
    with pytest.raises(RpcError) as raised:
        gunzip(gzip.compress(data)[:-missing], 1000)
    assert raised.value.code is StatusCode.INTERNAL


@given(st.binary(max_size=100))
def test_bytes_that_are_no_gzip_are_an_error_or_a_message(data: bytes) -> None:
    """Arbitrary bytes raise nothing but an RpcError."""
    with suppress(RpcError):
        gunzip(data, 1000)
