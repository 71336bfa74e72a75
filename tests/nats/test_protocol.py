"""The protocol without I/O: what a server sends, in any pieces, and what it is sent."""

from __future__ import annotations

import json
import re
import time
import tracemalloc
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.nats.fake_server import (
    OK,
    PING,
    PONG,
    Operation,
    error_frame,
    info_frame,
    message_frame,
    take_operation,
)
from windshift.nats import protocol
from windshift.nats.protocol import (
    MAX_LINE,
    MAX_MESSAGE,
    Broken,
    ErrorKind,
    Event,
    Message,
    Parser,
    Run,
    ServerError,
    ServerInfo,
    Signal,
    read_error,
)

# --- Pieces -----------------------------------------------------------------------------------------------


def parsed(*chunks: bytes) -> list[Event]:
    """Return the events of some bytes."""
    parser = Parser()
    return [event for chunk in chunks for event in parser.receive(chunk)]


def chunked(stream: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Cut a stream at the given places, some of which give empty pieces."""
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    return [stream[a:b] for a, b in pairwise(places)]


def kept(parser: Parser) -> int:
    """Return how many bytes a parser holds back."""
    return sum(map(len, parser._parts))


# --- What a server sends ----------------------------------------------------------------------------------

Said = tuple[bytes, Event | None]
"""A frame, and the event in it."""

TOLD = [
    ("Authorization Violation", ErrorKind.AUTHORIZATION),
    ("Authentication Timeout", ErrorKind.AUTHENTICATION_TIMEOUT),
    ("User Authentication Expired", ErrorKind.USER_EXPIRED),
    ("User Authentication Revoked", ErrorKind.USER_REVOKED),
    ("Account Authentication Expired", ErrorKind.ACCOUNT_EXPIRED),
    ("Stale Connection", ErrorKind.STALE),
    ("Slow Consumer", ErrorKind.SLOW_CONSUMER),
    ("Maximum Payload Violation", ErrorKind.MAX_PAYLOAD),
    ("maximum connections exceeded", ErrorKind.MAX_CONNECTIONS),
    ("maximum account active connections exceeded", ErrorKind.MAX_ACCOUNT_CONNECTIONS),
    ("maximum subscriptions exceeded", ErrorKind.MAX_SUBSCRIPTIONS),
    ("maximum control line exceeded", ErrorKind.MAX_CONTROL_LINE),
    ("Secure Connection - TLS Required", ErrorKind.TLS_REQUIRED),
    ("Invalid Subject", ErrorKind.INVALID_SUBJECT),
    ("Invalid Publish Subject", ErrorKind.INVALID_PUBLISH_SUBJECT),
    ("Parser Error", ErrorKind.PARSER),
    ("Unknown Protocol Operation", ErrorKind.UNKNOWN_OPERATION),
    ("Server Shutdown", ErrorKind.SHUTDOWN),
    ("Cannot Read My Mind", ErrorKind.OTHER),
    ("", ErrorKind.OTHER),
]
"""Texts as nats-server writes them, and others."""

FORBIDDEN = [
    (b'Permissions Violation for Publish to "x"', ErrorKind.PUBLISH_FORBIDDEN, b"x"),
    (b'Permissions Violation for Publish to "Orders.EU"', ErrorKind.PUBLISH_FORBIDDEN, b"Orders.EU"),
    (b'Permissions Violation for Subscription to "a.*.>"', ErrorKind.SUBSCRIPTION_FORBIDDEN, b"a.*.>"),
    (
        b'Permissions Violation for Subscription to "Foo.Bar" using queue "Qu\\"e"',
        ErrorKind.SUBSCRIPTION_FORBIDDEN,
        b"Foo.Bar",
    ),
    (b'Permissions Violation for Publish to "a\\"b"', ErrorKind.PUBLISH_FORBIDDEN, b'a"b'),
    (b'Permissions Violation for Publish to "a\\\\b"', ErrorKind.PUBLISH_FORBIDDEN, b"a\\b"),
    (b'Permissions Violation for Publish to "a\\\\"', ErrorKind.PUBLISH_FORBIDDEN, b"a\\"),
    (
        b'Permissions Violation for Publish to "\\xff\\xfe\\x80X"',
        ErrorKind.PUBLISH_FORBIDDEN,
        b"\xff\xfe\x80X",
    ),
    (b'Permissions Violation for Publish to "a\\x01\\x7f"', ErrorKind.PUBLISH_FORBIDDEN, b"a\x01\x7f"),
    (b'Permissions Violation for Publish to "a\\a\\b\\v\\fb"', ErrorKind.PUBLISH_FORBIDDEN, b"a\a\b\v\fb"),
    (
        b'Permissions Violation for Publish to "a\\u200bb\\ufeff\\U000e0001"',
        ErrorKind.PUBLISH_FORBIDDEN,
        "a\u200bb\ufeff\U000e0001".encode(),
    ),
    (
        'Permissions Violation for Publish to "üñ漢😀\ufffd"'.encode(),
        ErrorKind.PUBLISH_FORBIDDEN,
        "üñ漢😀\ufffd".encode(),
    ),
    (b"Permissions Violation for Publish to \"a'b'\"", ErrorKind.PUBLISH_FORBIDDEN, b"a'b'"),
    (
        b'Permissions Violation for Subscription to "x\\"_using_queue_\\"y" using queue "z"',
        ErrorKind.SUBSCRIPTION_FORBIDDEN,
        b'x"_using_queue_"y',
    ),
    (b'Permissions Violation for Publish with Reply of "x"', ErrorKind.PUBLISH_FORBIDDEN, b""),
    (b"Permissions Violation for Publish", ErrorKind.PUBLISH_FORBIDDEN, b""),
]
"""What nats-server 2.15 wrote on the wire to a user who was not allowed these subjects."""


def said_message(sid: int, subject: bytes, reply: bytes, headers: bytes, body: bytes) -> Said:
    """Return a message."""
    return message_frame(sid, subject, body, headers, reply), Message(sid, subject, reply, headers, body)


def said_error(text: str, kind: ErrorKind) -> Said:
    """Return an error that names no subject."""
    return error_frame(text), ServerError(kind)


def said_info(info: ServerInfo) -> Said:
    """Return a server's word of itself."""
    values = {name: getattr(info, name) for name in ServerInfo.__slots__}
    return info_frame(**values), info


subjects = st.binary(min_size=1, max_size=40).map(lambda subject: subject.translate(None, b" \t\r\n") or b"x")
bodies = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"", b"\r\n", b"\r", b"MSG a 1 1\r\n", b"PING\r\n"]),
    st.builds(bytes, st.sampled_from([5000, 70_000])),
)
messages = st.builds(
    said_message,
    st.integers(0, 10**18 - 1),
    subjects,
    st.one_of(st.just(b""), subjects),
    st.one_of(st.just(b""), st.binary(max_size=30), st.just(b"NATS/1.0 503\r\n\r\n")),
    bodies,
)
texts = st.text(st.characters(codec="utf-8"), max_size=10)
infos = st.builds(
    said_info,
    st.builds(
        ServerInfo,
        server_id=texts,
        client_id=st.integers(0, 2**64),
        max_payload=st.integers(1, 2**40),
        headers=st.booleans(),
        tls_required=st.booleans(),
        tls_available=st.booleans(),
        nonce=texts,
        connect_urls=st.lists(texts, max_size=3).map(tuple),
        ldm=st.booleans(),
    ),
)
plain: list[Said] = [
    (PING, Signal.PING),
    (PONG, Signal.PONG),
    (OK, None),
    (b"-ERR\r\n", ServerError(ErrorKind.OTHER)),
]
errors = st.one_of(
    st.sampled_from(TOLD).map(lambda told: said_error(*told)),
    st.sampled_from(FORBIDDEN).map(lambda told: (error_frame(told[0]), ServerError(told[1], told[2]))),
)
frames = st.one_of(messages, messages, infos, errors, st.sampled_from(plain))
cut_lists = st.lists(st.integers(0, 3000), max_size=15)


@given(st.lists(frames, max_size=8), cut_lists)
def test_any_frames_in_any_pieces(said: list[Said], cuts: list[int]) -> None:
    """What a server says is understood in the same way wherever it is cut, and nothing is left behind it."""
    stream = b"".join(frame for frame, _ in said)
    expected = [event for _, event in said if event is not None]
    assert parsed(stream) == expected
    parser = Parser()
    assert [event for chunk in chunked(stream, cuts) for event in parser.receive(chunk)] == expected
    assert parser.idle
    assert not parser.broken


def one_by_one(events: Sequence[Event], start: bytes) -> list[Event]:
    """Return the messages of runs as they are told without runs."""
    told: list[Event] = []
    for event in events:
        if isinstance(event, Run):
            pairs = zip(event.suffixes, event.bodies, strict=True)
            told += [Message(event.sid, start + suffix, b"", b"", body) for suffix, body in pairs]
        else:
            told.append(event)
    return told


replies = st.builds(
    said_message,
    st.sampled_from([7, 7, 7, 8, 70]),
    st.sampled_from([b"in.box.1", b"in.box.2.3", b"in.box.4.5.6.$FI", b"in.bo", b"in.box."]),
    st.sampled_from([b"", b"", b"", b"reply"]),
    st.sampled_from([b"", b"", b"", b"NATS/1.0 503\r\n\r\n"]),
    st.sampled_from(
        [b"", b"x", b'{"stream":"s","seq":1}', b"\r", b"\n", b"a\r\nMSG in.box.9 7 0\r\n", b"y" * 1000]
    ),
)
alike = st.one_of(replies, replies, replies, frames)


@given(st.lists(alike, max_size=12), cut_lists)
def test_runs(said: list[Said], cuts: list[int]) -> None:
    """Messages that come in runs are those that would have come one by one."""
    stream = b"".join(frame for frame, _ in said)
    parser = Parser()
    parser.expect(7, b"in.box.")
    events = [event for chunk in chunked(stream, cuts) for event in parser.receive(chunk)]
    assert one_by_one(events, b"in.box.") == [event for _, event in said if event is not None]
    assert parser.idle


def test_a_run() -> None:
    """Messages of an expected subscription come together, but for those before which something else comes."""
    parser = Parser()
    parser.expect(7, b"in.")
    one, two, ping = message_frame(7, b"in.1", b"a"), message_frame(7, b"in.2", b""), PING
    assert parser.receive(one + two) == [Run(7, [b"1", b"2"], [b"a", b""])]
    assert parser.receive(two + one[:-1]) == [Run(7, [b"2"], [b""])]
    assert parser.receive(one[-1:] + two) == [Run(7, [b"1", b"2"], [b"a", b""])]
    assert parser.receive(one + ping) == [Run(7, [b"1"], [b"a"]), Signal.PING]
    assert parser.receive(ping + one) == [Signal.PING, Message(7, b"in.1", b"", b"", b"a")]


@given(st.lists(frames, max_size=4).filter(lambda said: sum(len(frame) for frame, _ in said) < 3000))
def test_byte_by_byte(said: list[Said]) -> None:
    """Each event comes with the last byte of its frame, neither earlier nor later."""
    parser = Parser()
    for frame, event in said:
        for byte in frame[:-1]:
            assert parser.receive(bytes((byte,))) == []
        assert not parser.idle
        assert parser.receive(frame[-1:]) == ([] if event is None else [event])
        assert parser.idle


@given(frames.filter(lambda said: len(said[0]) < 400), frames)
def test_every_cut(first: Said, second: Said) -> None:
    """Two frames in two pieces, cut at every place of the first."""
    stream = first[0] + second[0]
    expected = [event for _, event in (first, second) if event is not None]
    for cut in range(len(first[0]) + 1):
        assert parsed(stream[:cut], b"", stream[cut:]) == expected


@given(frames, st.integers(1, 100))
def test_half_a_frame_is_waited_for(said: Said, missing: int) -> None:
    """A frame that is not whole is no event and no error."""
    parser = Parser()
    assert parser.receive(said[0][:-missing]) == []
    assert not parser.broken
    assert parser.idle == (missing >= len(said[0]))


def test_a_server_itself_answers_with_an_empty_reply() -> None:
    """What comes from within nats-server has two spaces where the reply would stand."""
    assert parsed(b"MSG _INBOX.a 1  2\r\nhi\r\nHMSG a 2  1 1\r\nh\r\n") == [
        Message(1, b"_INBOX.a", b"", b"", b"hi"),
        Message(2, b"a", b"", b"h", b""),
    ]


# --- What no server sends ---------------------------------------------------------------------------------

NO_FRAMES = [
    b"HELLO\r\n",
    b"\r\n",
    b" PING\r\n",
    b"ping\r\n",
    b"PINGPONG\r\n",
    b"OK\r\n",
    b"MSG\r\n",
    b"MSG a\r\n",
    b"MSG a 1\r\n",
    b"MSG a 1 \r\n\r\n",
    b"MSG a  0\r\n\r\n",
    b"MSG a b 1\r\n\0\r\n",
    b"MSG a -1 1\r\n\0\r\n",
    b"MSG a 1 -1\r\n",
    b"MSG a 1 +1\r\n\0\r\n",
    b"MSG a 1 1.0\r\n\0\r\n",
    b"MSG a 1 0x1\r\n\0\r\n",
    b"MSG a 1 1_0\r\n0123456789\r\n",
    b"MSG a 1 1000000000\r\n",
    b"MSG a 1 99999999999999999999999999\r\n",
    b"MSG a 1000000000000000000 0\r\n\r\n",
    b"MSG a 1 b c 0\r\n\r\n",
    b"MSG  1 0\r\n\r\n",
    b"MSG a\t1 0\r\n\r\n",
    "MSG a 1 ٣\r\n123\r\n".encode(),
    b"MSG a 1 0\n\n\r\n",
    b"MSG a 1 2\r\nabc\r\n",
    b"MSG a 1 2\r\nab\n\n",
    b"MSG a 1 2\r\nabPING\r\n",
    b"MSG a 1 0\r\nPING\r\n",
    b"HMSG a 1 1\r\n\0\r\n",
    b"HMSG a 1 2 1\r\nabc\r\n",
    b"HMSG a 1 999999999 1\r\na\r\n",
    b"HMSG a 1 -1 1\r\na\r\n",
    b"HMSG a 1 0 -1\r\n\r\n",
    b"HMSG a 1 1 1000000000\r\n",
    b"PUB a 0\r\n\r\n",
    b"\x16\x03\x01\x00\xf4\x01\x00\r\n",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"INFO\r\n",
    b"INFO {\r\n",
    b"INFO []\r\n",
    b"INFO null\r\n",
    b'INFO "x"\r\n',
    b"INFO {}{}\r\n",
    b"INFO \xff\xfe\r\n",
    b'INFO {"max_payload":0}\r\n',
    b'INFO {"max_payload":-1}\r\n',
    b"INFO " + b"[" * 30_000 + b"\r\n",
    b"INFO " + b'{"a":' * 6000 + b"\r\n",
    b'INFO {"max_payload":' + b"9" * 20_000 + b"}\r\n",
]


@pytest.mark.parametrize("bad", NO_FRAMES)
def test_what_is_no_frame_breaks_the_connection(bad: bytes) -> None:
    """What came before counts; one `Broken` is the last event ever, wherever the bytes were cut."""
    stream = PONG + bad + PING
    expected = parsed(stream)
    assert expected[0] is Signal.PONG
    assert isinstance(expected[1], Broken)
    assert len(expected) == 2
    for step in (1, 2, 3, 7, 1000) if len(bad) < 100 else (997, 5000):
        parser = Parser()
        chunks = [stream[start : start + step] for start in range(0, len(stream), step)]
        assert [event for chunk in chunks for event in parser.receive(chunk)] == expected
        assert parser.broken
        assert parser.receive(PING + message_frame(1, b"a", b"b")) == []
        assert kept(parser) == 0


@given(st.lists(st.one_of(st.binary(max_size=30), frames.map(lambda said: said[0])), max_size=5), cut_lists)
def test_garbage_never_raises(parts: list[bytes], cuts: list[int]) -> None:
    """Any bytes give the same events in any pieces; there is one `Broken` at most, and it is the last."""
    stream = b"".join(parts)
    expected = parsed(stream)
    parser = Parser()
    assert [event for chunk in chunked(stream, cuts) for event in parser.receive(chunk)] == expected
    assert not any(isinstance(event, Broken) for event in expected[:-1])
    assert parser.broken == bool(expected and isinstance(expected[-1], Broken))


@given(st.binary(min_size=1).filter(lambda noise: noise[0] not in b"MHIP+-"))
def test_noise_ends_in_broken(noise: bytes) -> None:
    """As soon as there is a line, or more than any line has."""
    assert isinstance(parsed(noise, b"\r\n")[-1], Broken)
    assert isinstance(parsed(noise, b"x" * MAX_LINE)[-1], Broken)


# --- Bounds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [11, 4096, MAX_LINE + 100])
@pytest.mark.parametrize("start", [b"INFO {", b"MSG a 1 ", b"MSG ", b"x", b"-ERR '", b"PING "])
def test_a_line_without_an_end(start: bytes, step: int) -> None:
    """It is refused when it is longer than any line, and no more than that is kept."""
    stream, parser = start + b"y" * (MAX_LINE + 100), Parser()
    events: list[Event] = []
    for position in range(0, len(stream), step):
        events += parser.receive(stream[position : position + step])
        assert kept(parser) < MAX_LINE
    assert events == [Broken("a line is too long")]


@pytest.mark.parametrize("step", [1000, MAX_LINE * 2])
def test_the_longest_line(step: int) -> None:
    """A line of all bytes that a line may have is taken, one byte more is not."""
    spaces = MAX_LINE - len(b"INFO {}\r\n")
    for more, expected in ((0, [ServerInfo()]), (1, [Broken("a line is too long")])):
        stream = b"INFO {%b}\r\n" % (b" " * (spaces + more))
        assert parsed(*(stream[at : at + step] for at in range(0, len(stream), step))) == expected


@pytest.mark.parametrize("step", [1000, MAX_LINE * 4])
@pytest.mark.parametrize("size", [MAX_LINE, 2 * MAX_LINE])
def test_a_subject_that_is_too_long(size: int, step: int) -> None:
    """It breaks the connection in whatever pieces it comes."""
    long = b"s" * size
    for stream in (message_frame(1, long, b""), message_frame(1, b"a", b"", b"h", long)):
        events = parsed(*(stream[at : at + step] for at in range(0, len(stream), step)))
        assert len(events) == 1
        assert isinstance(events[0], Broken)


def test_the_longest_subjects() -> None:
    """Far longer ones than nats-server takes are understood."""
    long = b"s" * 16_000
    frame, event = said_message(10**18 - 1, long, long, b"h", b"b")
    assert parsed(frame[:20_000], frame[20_000:]) == parsed(frame) == [event]


@pytest.mark.parametrize("size", [MAX_MESSAGE + 1, 999_999_999])
@pytest.mark.parametrize("start", [b"MSG a 1 ", b"HMSG a 1 5 "])
def test_a_message_that_is_too_large_is_not_waited_for(start: bytes, size: int) -> None:
    """It is refused by its first line."""
    parser = Parser()
    assert parser.receive(b"%b%d\r\n" % (start, size)) == [Broken("a message is too large")]
    assert kept(parser) == 0


def test_the_largest_message_is_waited_for() -> None:
    """Whoever announces as much as a server can be set to take is believed."""
    parser = Parser()
    assert parser.receive(b"MSG a 1 %d\r\n" % MAX_MESSAGE) == []
    assert not parser.broken


def test_a_large_message_in_small_pieces_takes_linear_time() -> None:
    """Pieces are put together once: 8 MB of 1 KB each do not take 8,000 copies of megabytes."""
    body = bytes(8 * 1024 * 1024)
    stream = message_frame(1, b"a", body)
    begun, parser, events = time.process_time(), Parser(), list[Event]()
    for at in range(0, len(stream), 1024):
        events += parser.receive(stream[at : at + 1024])
    assert time.process_time() - begun < 2  # some 10 ms; 30 seconds if each piece copied what there is
    assert events == [Message(1, b"a", b"", b"", body)]


def test_a_large_message_takes_no_more_memory_than_it_must() -> None:
    """Twice its size while its pieces are put together, and once more for its body."""
    size = 8 * 1024 * 1024
    stream = message_frame(1, b"a", bytes(size))
    pieces = [stream[at : at + 65_536] for at in range(0, len(stream), 65_536)]
    parser = Parser()
    tracemalloc.start()
    try:
        for piece in pieces:
            parser.receive(piece)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2.5 * size


# --- A server's word of itself ----------------------------------------------------------------------------


def test_the_info_of_nats_server() -> None:
    """As 2.15 wrote it."""
    line = (
        b'INFO {"server_id":"ND","server_name":"ND","version":"2.15.1","proto":1,"git_commit":"b2fd3ef",'
        b'"go":"go1.27.2","host":"127.0.0.1","port":46377,"headers":true,"auth_required":true,'
        b'"max_payload":1048576,"jetstream":true,"client_id":5,"client_ip":"127.0.0.1","api_lvl":5,'
        b'"xkey":"XB","nonce":"n0nce","connect_urls":["10.0.0.1:4222","[::1]:4222"],"ldm":true} \r\n'
    )
    assert parsed(line) == [
        ServerInfo(
            server_id="ND",
            server_name="ND",
            version="2.15.1",
            client_id=5,
            headers=True,
            nonce="n0nce",
            connect_urls=("10.0.0.1:4222", "[::1]:4222"),
            ldm=True,
        )
    ]


def test_fields_that_are_left_out_have_defaults() -> None:
    """As those that nobody knows are left alone."""
    assert parsed(b'INFO {"new":[{}]}\r\n') == [ServerInfo()]


json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(1),
        st.floats(),
        st.text(max_size=5),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(ServerInfo.__slots__), json_values))
def test_fields_of_wrong_types_have_defaults(told: dict[str, Any]) -> None:
    """A field is taken when it has the type that it must have, and nothing else is."""
    (event,) = parsed(b"INFO %b\r\n" % json.dumps(told).encode())
    assert isinstance(event, ServerInfo)
    default = ServerInfo()
    for name in ServerInfo.__slots__:
        value, known = told.get(name), getattr(default, name)
        if name == "connect_urls":
            urls = value if isinstance(value, list) else []
            assert event.connect_urls == tuple(url for url in urls if isinstance(url, str))
        else:
            assert getattr(event, name) == (value if type(value) is type(known) else known)
            assert type(getattr(event, name)) is type(known)


# --- What a server forbids --------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "kind"), TOLD)
def test_kinds_of_errors(text: str, kind: ErrorKind) -> None:
    """The wording says the kind, in whatever letters."""
    for told in (text, text.lower(), text.upper()):
        assert read_error(f"'{told}'".encode()) == ServerError(kind)


def test_every_kind_is_known() -> None:
    """The tables above hold each."""
    assert {kind for _, kind in TOLD} | {kind for _, kind, _ in FORBIDDEN} == set(ErrorKind)


@pytest.mark.parametrize(("text", "kind", "subject"), FORBIDDEN)
def test_forbidden_subjects(text: bytes, kind: ErrorKind, subject: bytes) -> None:
    """Each comes as it was sent, byte for byte, out of Go's quotes."""
    assert read_error(b"'%b'" % text) == ServerError(kind, subject)
    assert parsed(error_frame(text)) == [ServerError(kind, subject)]


def quoted(subject: bytes) -> bytes:
    """Quote as Go's ``%q`` does, with an escape for everything that is no printable ASCII."""
    escaped = "".join(
        f"\\{chr(byte)}" if byte in b'"\\' else chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}"
        for byte in subject
    )
    return f'"{escaped}"'.encode()


@given(subjects)
def test_any_subject_survives_its_quotes(subject: bytes) -> None:
    """Whatever bytes a subject has, who waits for it can be told."""
    for text in (b"Publish to %b", b"Subscription to %b", b'Subscription to %b using queue "q"'):
        assert read_error(b"'Permissions Violation for " + text % quoted(subject) + b"'").subject == subject


@given(st.binary(max_size=30))
def test_any_quotes_are_read(noise: bytes) -> None:
    """Escapes that Go never writes, or a quote without an end, fail nobody."""
    read_error(b"'Permissions Violation for Publish to \"" + noise)
    read_error(noise)


@pytest.mark.parametrize(
    "escape", [b"\\U00110000", b"\\UFFFFFFFF", b"\\ud800", b"\\x", b"\\xg0", b"\\", b"\\q"]
)
def test_odd_escapes_are_read(escape: bytes) -> None:
    """The kind counts all the same."""
    error = read_error(b"'Permissions Violation for Publish to \"a" + escape + b"\"'")
    assert error.kind is ErrorKind.PUBLISH_FORBIDDEN


# --- What a server is sent --------------------------------------------------------------------------------


def operations(stream: bytes) -> list[Operation]:
    """Read what a client writes as a server does."""
    unread, found = bytearray(stream), list[Operation]()
    while (operation := take_operation(unread)) is not None:
        found.append(operation)
    assert not unread
    return found


replies = st.one_of(st.just(b""), subjects)


@given(st.lists(st.tuples(subjects, replies, st.binary(max_size=20), bodies), max_size=5))
def test_what_is_published_is_understood(published: list[tuple[bytes, bytes, bytes, bytes]]) -> None:
    """Any subject, with and without a reply and headers, one behind the other."""
    stream = b"".join(
        protocol.publish_frame(subject, body, headers, reply) for subject, reply, headers, body in published
    )
    parts = [
        protocol.publish_parts(subject, body, headers, reply) for subject, reply, headers, body in published
    ]
    assert b"".join(map(b"".join, parts)) == stream
    for (subject, reply, headers, body), operation in zip(published, operations(stream), strict=True):
        sizes = (b"%d" % len(headers),) if headers else ()
        assert operation == Operation(
            b"HPUB" if headers else b"PUB",
            (subject, *((reply,) if reply else ()), *sizes, b"%d" % (len(headers) + len(body))),
            headers,
            body,
        )


@given(st.lists(subjects, min_size=1, max_size=5), bodies)
def test_a_body_to_several_subjects(several: list[bytes], body: bytes) -> None:
    """It is the same as one frame behind the other."""
    frames = [protocol.publish_frame(subject, body) for subject in several]
    assert protocol.publish_frames(several, body) == b"".join(frames)


@given(subjects, st.integers(1, 10**12))
def test_subscriptions_are_understood(subject: bytes, sid: int) -> None:
    """They come and go by number."""
    number = b"%d" % sid
    assert operations(protocol.subscribe_frame(subject, sid) + protocol.unsubscribe_frame(sid)) == [
        Operation(b"SUB", (subject, number)),
        Operation(b"UNSUB", (number,)),
    ]


@given(st.dictionaries(st.text(max_size=5), st.one_of(st.text(max_size=20), st.booleans(), st.integers())))
def test_connect_is_one_line(options: dict[str, Any]) -> None:
    """Whatever a password holds, it ends no line early."""
    frame = protocol.connect_frame(options)
    assert re.search(rb"[\r\n]", frame[:-2]) is None
    ((name, (said,), _, _),) = operations(frame)
    assert (name, json.loads(said)) == (b"CONNECT", options)


def test_signals_are_understood() -> None:
    """Both directions have the same."""
    assert operations(protocol.PING + protocol.PONG) == [Operation(b"PING"), Operation(b"PONG")]
