"""The parser against bytes of chance: frames that were mutated, cut and put together, in any pieces."""

from __future__ import annotations

import os
from random import Random
from typing import Final

import pytest

from tests.nats.fake_server import OK, PING, PONG, error_frame, info_frame, message_frame
from windshift.nats.protocol import (
    MAX_LINE,
    MAX_MESSAGE,
    Broken,
    Event,
    Message,
    Parser,
    Run,
    ServerError,
    ServerInfo,
    Signal,
)

PARTS: Final = 10
"""Tests that share the work, so that all cores have some."""

EXAMPLES: Final = 5 * int(os.environ.get("WINDSHIFT_TEST_FUZZ", "50"))
"""Inputs of each part: 1,000,000 in all of ``make fuzz``. When nobody asks for a number they are the same at
every run."""

SEED: Final = Random().getrandbits(64) if "WINDSHIFT_TEST_FUZZ" in os.environ else 0

NUMBERS: Final = (b"0", b"1", b"2", b"7", b"-1", b"999999999", b"1000000000", b"67108865", b"00", b"1e3", b"")
PIECES: Final = (
    b" ",
    b"  ",
    b"\t",
    b"\r\n",
    b"\r",
    b"\n",
    b"\0",
    b"\xff",
    b'"',
    b"'",
    b"{",
    b"}",
    b"MSG ",
    b"HMSG ",
)
WHOLE: Final = (
    PING,
    PONG,
    OK,
    b"-ERR\r\n",
    error_frame('Permissions Violation for Publish to "a\\"b\\xff"'),
    error_frame('Permissions Violation for Subscription to "a.>" using queue "q"'),
    error_frame("Authorization Violation"),
    info_frame(),
    info_frame(connect_urls=["a:1", 2], ldm=True, max_payload=2**70, nonce=None),
    b"INFO {}\r\n",
    b'INFO {"max_payload":0}\r\n',
    message_frame(1, b"a", b""),
    message_frame(1, b"a.b", b"body", b"NATS/1.0\r\nA: 1\r\n\r\n", b"_INBOX.x.1"),
    message_frame(10**17, b"\xff\xfe", b"\r\n", b"", b"r"),
    message_frame(2, b"x", b"MSG a 1 1\r\n\0\r\n"),
    message_frame(3, b"x", b"", b"NATS/1.0 503\r\n\r\n"),
    message_frame(4, b"y", bytes(5000)),
    b"MSG a 1  3\r\nabc\r\n",
    message_frame(7, b"in.1", b"a"),
    message_frame(7, b"in.2", b"MSG in.3 7 1\r\nb\r\n"),
    message_frame(7, b"in.4", b"") * 3,
)
"""Frames to begin with."""

EXPECTED: Final = (7, b"in.")
"""The subscription whose messages may come in runs, as some of these frames do."""


def any_frame(chance: Random) -> bytes:
    """Return a frame, valid or with numbers that lie."""
    if chance.random() < 0.7:
        return chance.choice(WHOLE)
    number = chance.choice
    body = chance.randbytes(chance.choice((0, 1, 2, 7, 30)))
    if chance.random() < 0.5:
        return b"MSG a %b %b\r\n%b\r\n" % (number(NUMBERS), number(NUMBERS), body)
    return b"HMSG a %b %b %b\r\n%b\r\n" % (number(NUMBERS), number(NUMBERS), number(NUMBERS), body)


def mutated(chance: Random, data: bytes) -> bytes:
    """Return the bytes after one accident."""
    at = chance.randrange(len(data) + 1)
    to = min(len(data), at + chance.choice((1, 1, 2, 5, 50)))
    before, struck, behind = data[:at], data[at:to], data[to:]
    instead = (
        b"",
        struck * 2,
        chance.choice(PIECES) + struck,
        chance.choice(NUMBERS),
        chance.choice(NUMBERS) + struck,
        chance.randbytes(to - at),
    )
    return chance.choice((before, struck + behind, *(before + other + behind for other in instead)))


def any_input(chance: Random) -> bytes:
    """Return some frames, most of them after an accident or two."""
    frames = [any_frame(chance) for _ in range(chance.choice((1, 1, 2, 3, 6)))]
    for _ in range(chance.choice((0, 1, 1, 2, 4))):
        which = chance.randrange(len(frames))
        frames[which] = mutated(chance, frames[which])
    if chance.random() < 0.02:
        frames.insert(
            chance.randrange(len(frames) + 1), chance.choice((b"x", b"MSG ", b"INFO ")) + b"y" * MAX_LINE
        )
    return b"".join(frames)


def any_pieces(chance: Random, stream: bytes) -> list[bytes]:
    """Cut a stream into pieces, some of which are empty."""
    if len(stream) < 200 and chance.random() < 0.1:
        return [bytes((byte,)) for byte in stream]
    cuts = sorted(chance.randrange(len(stream) + 1) for _ in range(chance.choice((1, 1, 2, 5, 20))))
    return [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


def one_by_one(events: list[Event]) -> list[Event]:
    """Return events with the messages that runs stand for."""
    sid, start = EXPECTED
    single: list[Event] = []
    for event in events:
        if isinstance(event, Run):
            assert event.sid == sid
            single += [
                Message(sid, start + suffix, b"", b"", body)
                for suffix, body in zip(event.suffixes, event.bodies, strict=True)
            ]
        else:
            single.append(event)
    return single


def check(chance: Random) -> None:
    """Parse an input at once and in pieces."""
    stream = any_input(chance)
    whole, parser = Parser(), Parser()
    if chance.random() < 0.5:
        whole.expect(*EXPECTED)
        parser.expect(*EXPECTED)
    expected = one_by_one(whole.receive(stream))
    events: list[Event] = []
    for piece in any_pieces(chance, stream):
        events += parser.receive(piece)
        kept = sum(map(len, parser._parts))
        assert kept < MAX_LINE or kept + parser._missing < MAX_MESSAGE + MAX_LINE
        assert not (parser.broken and parser._parts)
    events = one_by_one(events)
    assert events == expected
    assert parser._parts == whole._parts or b"".join(parser._parts) == b"".join(whole._parts)
    check_end(parser, events, stream)


def check_end(parser: Parser, events: list[Event], stream: bytes) -> None:
    """See that the events are ones that the bytes can hold, and that nothing follows the end."""
    broken = [isinstance(event, Broken) for event in events]
    assert not any(broken[:-1])
    assert parser.broken == any(broken)
    for event in events:
        match event:
            case Message(sid, subject, reply, headers, body):
                assert 0 <= sid < 10**18
                assert subject
                assert b" " not in subject + reply
                assert headers + body in stream
            case ServerInfo():
                assert event.max_payload > 0
            case _:
                assert isinstance(event, Broken | ServerError | Signal)
    if parser.broken:
        assert parser.receive(PING) == []
        assert parser.idle


@pytest.mark.parametrize("part", range(PARTS))
def test_any_bytes(part: int) -> None:
    """No exception, the same events in any pieces, bounded memory, and nothing after the first breach."""
    seeds = Random(SEED + part)
    for number in range(EXAMPLES):
        seed = seeds.getrandbits(64)
        try:
            check(Random(seed))
        except BaseException:
            print(f"input {number} of part {part} with SEED {SEED}: check(Random({seed}))")  # noqa: T201 - to find it
            raise
