"""How dead letters lie in JetStream: what goes in comes back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windshift.nats import headers as h
from windshift.nats.jetstream.api import StoredMessage
from windshift.nats.times import Time
from windshift.server.events.dead_letters.codec import (
    ROOM_FOR_CONDITIONS,
    EventCopy,
    Packed,
    StoredDeadLetter,
    copy_event,
    dead_letter,
    entry_subject,
    join_overflow,
    pack,
    read_entry,
)
from windshift.server.events.dead_letters.model import (
    Cause,
    DeadLetter,
    DeadLetterId,
    Failure,
)
from windshift.server.events.model import StreamSeq

MEBIBYTE = 1024 * 1024
ID = DeadLetterId("ORDERS", "billing", StreamSeq(17), 1_795_532_049_123_456_789)
WRITTEN = Time(1_795_532_050, 5)

names = st.text("ABCabc019_-", min_size=1, max_size=255)
ids = st.builds(
    DeadLetterId, names, names, st.integers(1, 2**64 - 1).map(StreamSeq), st.integers(0, 2**63 - 1)
)
failures = st.builds(
    Failure,
    ids,
    st.integers(1, 2**63),
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**63 - 1),
    st.sampled_from(Cause),
    st.text(max_size=1024),
    st.text(max_size=256),
    st.integers(0, 10**6),
)
tokens = st.sampled_from([b"A", b"a-b", b"WS-Data-Type", b"WS-DL-Cause", b"Status", b"\xff", b"x y", b""])
values = st.binary(max_size=60).map(lambda value: value.replace(b"\r\n", b"").strip())
datas = st.builds(bytes.__mul__, st.binary(max_size=2000), st.integers(0, 40))
lines = st.lists(st.tuples(tokens, values), max_size=8).map(tuple)


def event(*headers: tuple[bytes, bytes], data: bytes = b"data", subject: str = "orders.placed") -> EventCopy:
    """Make an event as it is kept."""
    return EventCopy(subject, headers, data)


def failure(**told: Any) -> Failure:
    """Say that a consumer gave up."""
    return Failure(ID, 3, 1_000, 2_000, Cause.MAX_ATTEMPTS)._replace(**told)


def stored(packed: Packed, id: DeadLetterId = ID) -> StoredMessage:  # noqa: A002
    """Store an entry as JetStream would, with what it adds."""
    block = h.block(((h.EXPECTED_LAST_SUBJECT_SEQUENCE, b"0"), *packed.headers))
    assert block.isascii()
    return StoredMessage(entry_subject(id), 42, block, packed.body, WRITTEN)


def read(packed: Packed, id: DeadLetterId = ID) -> tuple[StoredDeadLetter, EventCopy]:  # noqa: A002
    """Read an entry back, and put its event together."""
    entry = read_entry(stored(packed, id))
    return entry, entry.event if packed.overflow is None else join_overflow(entry.event, packed.overflow)


def written(kept: EventCopy, why: Failure | None = None, limit: int = MEBIBYTE) -> DeadLetter:
    """Write a dead letter and read it back."""
    why = why or failure()
    entry, back = read(pack(kept, why, "w", limit), why.id)
    return dead_letter(entry, back, with_data=True)


def by_name(headers: tuple[tuple[bytes, bytes], ...]) -> list[tuple[bytes, bytes]]:
    """Order headers by their names; those of one name keep their order."""
    return sorted(headers, key=lambda line: line[0])


@given(ids)
def test_ids_come_back(given_id: DeadLetterId) -> None:
    """An id that is written is read as the same id."""
    assert DeadLetterId.parse(str(given_id)) == given_id


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "a",
            "a.b.1",
            "a.b.1.2.3",
            "a.b.01.2",
            "a.b.1.02",
            "a.b.0.2",
            "a.b.-1.2",
            "a.b.1.-2",
            "a.b.1.+2",
        ),
        *("a b.c.1.2", "a.*.1.2", "a.>.1.2", ".b.1.2", "a.b.1.2\n", "a.b.1.2 ", "a.b.\u0661.2", "é.b.1.2"),
        *(f"{'a' * 256}.b.1.2", "a.b.1.2" + "0" * 20, "a.b.1_0.2"),
    ],
)
def test_other_texts_are_no_ids(text: str) -> None:
    """Anything else is refused, other spellings of the same id included."""
    with pytest.raises(ValueError):
        DeadLetterId.parse(text)


def test_the_longest_names_fit_into_a_subject() -> None:
    """Two names of 255 characters and two large numbers make a subject that NATS takes."""
    longest = DeadLetterId("s" * 255, "c" * 255, StreamSeq(2**64 - 1), 2**63 - 1)
    assert len(entry_subject(longest)) < 1024
    assert DeadLetterId.parse(str(longest)) == longest


@given(
    failures, lines, st.binary(max_size=3000), st.text(min_size=1, max_size=50), st.integers(12_000, 40_000)
)
def test_everything_comes_back(
    why: Failure, headers: tuple[tuple[bytes, bytes], ...], data: bytes, subject: str, limit: int
) -> None:
    """Any failure of any event is read as it was written, whether it takes one message or two."""
    kept = EventCopy(subject, headers, data)
    packed = pack(kept, why, "w", limit)
    entry, back = read(packed, why.id)
    assert entry.failure == why
    assert entry.writer == "w"
    assert (back.subject, back.data) == (subject, data)
    assert by_name(back.headers) == by_name(headers)
    assert dead_letter(entry, back, with_data=False).data_size == len(data)
    assert dead_letter(entry, entry.event, with_data=False).data_size == len(data)


@given(failures, lines, st.integers(0, MEBIBYTE), st.integers(0, 65_000))
def test_nothing_is_larger_than_the_broker_takes(
    why: Failure, headers: tuple[tuple[bytes, bytes], ...], size: int, long_header: int
) -> None:
    """No message of a dead letter is larger than its event was allowed to be."""
    headers = (*headers, (b"L", b"l" * long_header), (b"M", b"\xff" * (long_header // 2)))
    block = len(b"NATS/1.0\r\n\r\n") + sum(len(name) + len(value) + 3 for name, value in headers)
    kept = EventCopy("a.b", headers, bytes(max(0, min(size, MEBIBYTE - block))))
    packed = pack(kept, why, "w", MEBIBYTE)
    assert len(h.block(packed.headers)) + ROOM_FOR_CONDITIONS <= h.MAX_BLOCK
    assert len(h.block(packed.headers)) + ROOM_FOR_CONDITIONS + len(packed.body) <= MEBIBYTE
    if packed.overflow is not None:
        assert len(packed.overflow) + ROOM_FOR_CONDITIONS <= MEBIBYTE
    assert read(packed, why.id)[1].data == kept.data


@pytest.mark.parametrize("size", [MEBIBYTE, MEBIBYTE - 1, MEBIBYTE - 500, MEBIBYTE - 2000, 0])
def test_large_events_come_back_whole(size: int) -> None:
    """An event without headers that is as large as may be, or nearly, comes back."""
    data = bytes(range(256)) * (size // 256) + b"z" * (size % 256)
    kept = written(event(data=data), failure(reason="é" * 1024, error_type="ü" * 256))
    assert kept.data == data
    assert kept.failure.reason == "é" * 1024


def test_control_headers_are_left_out() -> None:
    """What would control NATS again is not kept, but for the idempotency key."""
    control = [
        *("Nats-Msg-Id", "Nats-Expected-Stream", "Nats-Expected-Last-Sequence", "Nats-Rollup", "Nats-TTL"),
        *("Nats-Expected-Last-Subject-Sequence", "Nats-Expected-Last-Msg-Id", "Nats-Schedule", "Nats-Incr"),
        *("Nats-Schedule-Target", "Nats-Scheduler", "Nats-Batch-Id", "Nats-Batch-Sequence", "nats-ttl"),
        *("Nats-Batch-Commit", "Nats-Stream-Source", "Nats-Marker-Reason", "Nats-Subject", "Nats-Sequence"),
    ]
    block = "NATS/1.0\r\nApp: 1\r\n" + "".join(f"{name}: key 1\r\n" for name in control) + "\r\n"
    kept = copy_event(StoredMessage("a", 1, block.encode(), b"", WRITTEN))
    packed = pack(kept, failure(), "w", MEBIBYTE)
    assert not [name for name, _ in packed.headers if name.lower().startswith(b"nats-")]
    assert written(kept).idempotency_key == "key 1"
    assert written(kept).other_headers == {"App": "1"}


def test_keys_of_principals() -> None:
    """The key is kept as the broker has it, and told as the publisher gave it."""
    block = b"NATS/1.0\r\nNats-Msg-Id: ws:billing:order 17\r\n\r\n"
    kept = copy_event(StoredMessage("a", 1, block, b"", WRITTEN))
    assert (h.MESSAGE_ID, b"ws:billing:order 17") in kept.headers
    assert written(kept).idempotency_key == "order 17"


def test_headers_that_cannot_stand_as_they_are() -> None:
    """Repeated names, bytes that are no text and names of ours survive, shown as well as can be."""
    kept = written(
        event(
            (b"Twice", b"1"),
            (b"Twice", b"2"),
            (b"Broken", b"a\xffb"),
            (b"Accent", "é".encode()),
            (b"WS-DL-Cause", b"mine"),
            (b"No Token", b"x"),
        )
    )
    assert kept.other_headers == {
        "Twice": "1, 2",
        "Broken": "a\N{REPLACEMENT CHARACTER}b",
        "Accent": "é",
        "WS-DL-Cause": "mine",
        "No Token": "x",
    }
    assert kept.failure.cause is Cause.MAX_ATTEMPTS


def test_what_an_event_says_of_itself() -> None:
    """Type, time, key and trace are read from the event's headers."""
    kept = written(
        event(
            (b"WS-Data-Type", b"acme.v1.Order"),
            (b"WS-Published-Time", b"2026-11-24T16:54:09.5Z"),
            (b"WS-Trace-Parent", b"00-a-b-01"),
            (b"WS-Trace-State", b"v=1"),
            (b"Nats-Msg-Id", "schlüssel".encode()),
        )
    )
    assert (kept.type_name, kept.trace_parent, kept.trace_state) == ("acme.v1.Order", "00-a-b-01", "v=1")
    assert kept.published == Time(1_795_539_249, 500_000_000)
    assert kept.idempotency_key == "schlüssel"
    assert (kept.position, kept.time) == (42, WRITTEN)
    assert not kept.other_headers


@pytest.mark.parametrize("first", [b"a", b"\xc3\xa4"])
def test_repeated_headers(first: bytes) -> None:
    """Of several headers with one name the first counts, as it does for who gets the event."""
    lines = tuple(
        (name, value)
        for value in (first, b"b")
        for name in (b"WS-Data-Type", b"WS-Trace-Parent", b"WS-Trace-State", b"Nats-Msg-Id")
    )
    kept = written(copy_event(StoredMessage("a", 1, h.block(lines), b"", WRITTEN)))
    told = (kept.type_name, kept.idempotency_key, kept.trace_parent, kept.trace_state)
    assert told == (first.decode(),) * 4
    assert not kept.other_headers


def test_an_event_that_says_nothing() -> None:
    """Without headers the time is the broker's, and the rest is empty."""
    kept = written(event())
    assert kept.published == Time(1_795_532_049, 123_456_789)
    assert (kept.type_name, kept.idempotency_key, kept.trace_parent) == ("", None, None)


def test_type_and_key_are_known_without_the_overflow() -> None:
    """Of an event that takes two messages, a list without data still knows type, time and key."""
    kept = event(
        (b"WS-Data-Type", b"acme.v1.Order"), (b"Nats-Msg-Id", b"k"), (b"A", b"x"), data=bytes(MEBIBYTE - 100)
    )
    entry, _ = read(pack(kept, failure(), "w", MEBIBYTE))
    shown = dead_letter(entry, entry.event, with_data=False)
    assert (shown.type_name, shown.idempotency_key) == ("acme.v1.Order", "k")
    assert (shown.data, shown.data_size) == (b"", MEBIBYTE - 100)


@pytest.mark.parametrize("missing", [b"WS-DL-Cause", b"WS-DL-Attempts", b"WS-DL-Subject", None])
def test_foreign_entries_are_told_apart(missing: bytes | None) -> None:
    """What Windshift did not write is no entry."""
    packed = pack(event(), failure(), "w", MEBIBYTE)
    headers = () if missing is None else tuple(line for line in packed.headers if line[0] != missing)
    with pytest.raises(ValueError):
        read_entry(stored(packed._replace(headers=headers)))


@pytest.mark.parametrize(
    ("name", "value"), [(b"WS-DL-Cause", b"LATER"), (b"WS-DL-Attempts", b"many"), (b"WS-DL-Headers", b"!")]
)
def test_entries_of_other_versions_are_told_apart(name: bytes, value: bytes) -> None:
    """A value that this version does not know makes no wrong entry."""
    packed = pack(event(), failure(), "w", MEBIBYTE)
    with pytest.raises(ValueError):
        read_entry(stored(packed._replace(headers=tuple({**dict(packed.headers), name: value}.items()))))
