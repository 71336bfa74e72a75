"""The headers of events: read as they were written, by whomever."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from windshift.nats import headers as h
from windshift.nats.jetstream.writes import Write
from windshift.nats.times import Time
from windshift.server.auth.permissions import Permissions
from windshift.server.auth.policy import Principal
from windshift.server.domain.errors import InvalidField, ShuttingDown
from windshift.server.domain.names import MAX_IDEMPOTENCY_KEY, MAX_TYPE_NAME
from windshift.server.events import headers
from windshift.server.events.headers import _OWN, _PLAIN, given_key, message_id, now, others, read, read_lines
from windshift.server.events.model import Item, PublishRequest
from windshift.server.events.publish import write_of, writes_of
from windshift.server.telemetry.propagation import UNRECORDED, TraceContext

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
NOTHING = ("", None, None, None, None)

FIRST, LAST = -62_135_596_800, 253_402_300_799
"""The seconds of 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z."""

identifiers = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,40}", fullmatch=True)
type_names = st.lists(identifiers, min_size=1, max_size=30).map(".".join)
times = st.builds(Time, st.integers(FIRST, LAST), st.integers(0, 999_999_999))
printable = st.characters(min_codepoint=0x20, max_codepoint=0x7E)
texts = st.text(printable, min_size=1, max_size=MAX_IDEMPOTENCY_KEY).filter(lambda text: text == text.strip())
traces = st.builds(
    TraceContext,
    st.from_regex(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", fullmatch=True),
    st.one_of(st.just(""), texts),
)
requests = st.builds(
    PublishRequest,
    st.just("orders.new"),
    type_names.map(lambda name: f"type.googleapis.com/{name}"),
    st.just(b""),
    times,
    st.one_of(st.just(""), texts),
    st.one_of(st.none(), st.integers(0, 2**63 - 1)),
    st.one_of(st.none(), traces),
    st.one_of(st.none(), st.sampled_from(["ann", "b" * 64]).map(lambda name: Principal(name, Permissions()))),
)


def request(**more: Any) -> PublishRequest:
    """Ask for an event of a certain time."""
    return PublishRequest("orders.new", "x/acme.Placed", b"", Time(1_795_532_049, 5))._replace(**more)


def written_block(request: PublishRequest) -> bytes:
    """Return the headers that a publish writes."""
    return write_of(request, 0, now()).headers


def block(*lines: tuple[bytes, bytes]) -> bytes:
    """Write headers as another program might."""
    return h.BEGIN + b"".join(b"%b: %b\r\n" % line for line in lines) + h.END


# What publish writes


@given(requests)
@example(request(time=Time(FIRST, 0)))
@example(request(time=Time(LAST, 999_999_999)))
@example(request(time=Time(-1, 999_999_999)))
@example(request(idempotency_key="k" * MAX_IDEMPOTENCY_KEY))
@example(request(idempotency_key="k" + " " * (MAX_IDEMPOTENCY_KEY - 2) + "k", expected_last_id=0))
@example(request(idempotency_key="k" * MAX_IDEMPOTENCY_KEY, caller=Principal("b" * 64, Permissions())))
@example(request(idempotency_key="ws:ann:k"))
@example(request(idempotency_key="ws:"))
@example(request(type_url="x/" + "a" * 256))
@example(request(type_url="x/" + "a" * 257))
@example(request(type_url="x/" + "a" * MAX_TYPE_NAME))
@example(request(trace=TraceContext(PARENT, "a=1,b=2 c"), idempotency_key=": x"))
def test_what_publish_writes_is_read_back(wish: PublishRequest) -> None:
    """Type, time, key and trace context come back, whatever else was written."""
    written = written_block(wish)
    name = wish.type_url.rpartition("/")[2]
    trace = wish.trace
    expected = (
        name,
        wish.time,
        wish.idempotency_key or None,
        None if trace is None else trace.parent,
        None if trace is None else trace.state or None,
    )
    assert read(written) == read_lines(h.split(written)) == expected
    is_plain = wish.expected_last_id is None and len(name) <= 256
    assert (_PLAIN.fullmatch(written) is not None) == is_plain


few = st.builds(
    PublishRequest,
    st.sampled_from(["orders.new", "orders.new", "orders.old", "orders.*"]),
    st.sampled_from(["x/acme.Placed", "x/acme.Placed", "x/acme.Paid", "x/acme.Paid!"]),
    st.binary(max_size=2),
    st.sampled_from([None, None, Time(1, 2), Time(1, 3)]),
    st.sampled_from(["", "", "k", " k"]),
    st.sampled_from([None, None, 7, 2**64]),
    st.sampled_from([None, UNRECORDED, TraceContext(PARENT), TraceContext(PARENT, "a=b")]),
    st.none(),
    st.just("ann"),
)


@given(st.lists(st.one_of(few, few, few, st.just(ShuttingDown())), max_size=8))
def test_several_events(items: list[Item]) -> None:
    """They are worded, or refused, as they are one by one; what is no event is why it is none."""
    at = now()

    def alone(item: Item) -> Write | str:
        try:
            return write_of(item, 5.0, at) if isinstance(item, PublishRequest) else str(item)
        except InvalidField as error:
            return str(error)

    writes, errors = writes_of(items, 5.0, at)
    together = iter(writes)
    assert list(errors) == sorted(errors)
    assert [str(errors[place]) if place in errors else next(together) for place in range(len(items))] == list(
        map(alone, items)
    )
    assert next(together, None) is None
    assert all(error.__traceback__ is None for error in errors.values())


def test_the_plain_form() -> None:
    """Byte by byte: other programs write and read it, and the fast way depends on it."""
    written = written_block(request(idempotency_key="order 17", trace=TraceContext(PARENT, "a=1")))
    assert written == (
        b"NATS/1.0\r\n"
        b"WS-Data-Type: acme.Placed\r\n"
        b"WS-Published-Time: 2026-11-24T14:54:09.000000005Z\r\n"
        b"Nats-Msg-Id: order 17\r\n"
        b"WS-Trace-Parent: " + PARENT.encode() + b"\r\n"
        b"WS-Trace-State: a=1\r\n\r\n"
    )
    found = read(written)
    assert found == ("acme.Placed", Time(1_795_532_049, 5), "order 17", PARENT, "a=1")
    assert type(found[1]) is Time


scopes = st.sampled_from(["", "a", "b", "a-b"])
keys = st.text(st.sampled_from("ws:ab-"), min_size=1, max_size=12)


@given(scopes, keys, scopes, keys)
@example("a", "k", "", "ws:a:k")
@example("", "k", "", "ws::k")
def test_ids_of_keys_in_scopes(scope: str, key: str, other_scope: str, other_key: str) -> None:
    """No two keys of any scopes have the same id, and the key as it was given is in the id."""
    same = message_id(scope=scope, key=key) == message_id(scope=other_scope, key=other_key)
    assert same == ((scope, key) == (other_scope, other_key))
    assert given_key(message_id(key, scope)) == key.encode()


def test_a_key_in_a_scope() -> None:
    """Other programs that share the stream see the principal's name before its key."""
    written = written_block(request(idempotency_key="order 17", caller=Principal("billing", Permissions())))
    assert b"\r\nNats-Msg-Id: ws:billing:order 17\r\n" in written
    assert read(written)[2] == read_lines(h.split(written))[2] == "order 17"


# What others write


@pytest.mark.parametrize(
    "headers", [b"", h.BEGIN + h.END, b"NATS/1.0\r\n", b"NATS/1.0 100 Idle\r\n\r\n", b"\r\n"]
)
def test_no_headers(headers: bytes) -> None:
    """Who says nothing of an event has published it all the same."""
    assert read(headers) == NOTHING


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ((b"WS-Data-Type", b""), NOTHING),
        ((b"WS-Data-Type", b"a b"), ("a b", None, None, None, None)),
        ((b"WS-Data-Type", b"\xff"), ("\ufffd", None, None, None, None)),
        ((b"WS-Data-Type", "Größe".encode()), ("Größe", None, None, None, None)),
        ((b"ws-data-type", b"a"), NOTHING),
        (
            (b"WS-Published-Time", b"2026-11-24T16:54:09.5+02:00"),
            ("", Time(1_795_532_049, 500_000_000), None, None, None),
        ),
        ((b"WS-Published-Time", b"2026-11-24T14:54:09Z"), ("", Time(1_795_532_049, 0), None, None, None)),
        ((b"WS-Published-Time", b"yesterday"), NOTHING),
        ((b"WS-Published-Time", b"2026-02-30T00:00:00.000000000Z"), NOTHING),
        ((b"WS-Published-Time", b"2026-11-24T14:54:60.000000000Z"), NOTHING),
        ((b"WS-Published-Time", b"\xff"), NOTHING),
        ((b"Nats-Msg-Id", b""), NOTHING),
        ((b"Nats-Msg-Id", b"  two words \t"), ("", None, "two words", None, None)),
        ((b"Nats-Msg-Id", "schlüssel".encode()), ("", None, "schlüssel", None, None)),
        ((b"WS-Trace-Parent", b"not W3C"), ("", None, None, "not W3C", None)),
        ((b"WS-Trace-State", b"a=1"), ("", None, None, None, "a=1")),
        ((b"App", b"1"), NOTHING),
    ],
)
def test_one_header(line: tuple[bytes, bytes], expected: tuple[object, ...]) -> None:
    """Each is read by itself, in exactly these letters; bytes that are no text are replaced."""
    assert read(block(line)) == expected


def test_headers_in_any_order() -> None:
    """Order does not matter, nor what stands between; of several with one name the first counts."""
    lines = (
        (b"WS-Trace-State", b"a=1"),
        (b"App", b"1"),
        (b"Nats-Msg-Id", b"first"),
        (b"WS-Published-Time", b"2026-11-24T14:54:09.000000005Z"),
        (b"WS-Data-Type", b"acme.Placed"),
        (b"Nats-Msg-Id", b"second"),
        (b"WS-Data-Type", b"acme.Other"),
        (b"WS-Trace-Parent", PARENT.encode()),
    )
    assert read(block(*lines)) == ("acme.Placed", Time(1_795_532_049, 5), "first", PARENT, "a=1")


@pytest.mark.parametrize(
    "moment", [b"2026-02-30T00:00:00", b"2026-11-24T24:00:00", b"0000-01-01T00:00:00", b"T" * 19]
)
def test_a_plain_form_with_an_impossible_time(moment: bytes) -> None:
    """It has none, and the rest counts."""
    headers = block(
        (b"WS-Data-Type", b"a.B"), (b"WS-Published-Time", moment + b".000000001Z"), (b"Nats-Msg-Id", b"k")
    )
    assert _PLAIN.fullmatch(headers)
    assert read(headers) == read_lines(h.split(headers)) == ("a.B", None, "k", None, None)


NAMES = [
    b"WS-Data-Type",
    b"WS-Published-Time",
    b"Nats-Msg-Id",
    b"WS-Trace-Parent",
    b"WS-Trace-State",
    b"App",
    b"",
]
VALUES = [
    *(
        b"acme.v1.Order",
        b"a b",
        b" a",
        b"a ",
        b"",
        b"a\tb",
        b"a\x7f",
        b"\xc3\xa4",
        b"\xff",
        b"a\rb",
        b"a\nb",
        b":",
    ),
    *(b"2026-11-24T14:54:09.000000005Z", b"2026-11-24T14:54:09.5Z", b"2026-02-30T14:54:09.000000005Z"),
    *(b"9999-12-31T23:59:59.999999999Z", b"0001-01-01T00:00:00.000000000Z", b"a" * 256, b"a" * 257),
]
plain_lines = st.tuples(
    *(
        st.lists(st.sampled_from(VALUES).map(lambda value, name=name: (name, value)), max_size=1)  # type: ignore[misc]
        for name in NAMES
    )
).map(lambda found: [line for lines in found for line in lines])
any_lines = st.lists(
    st.tuples(st.sampled_from(NAMES), st.one_of(st.sampled_from(VALUES), st.binary(max_size=30))), max_size=8
)
separators = st.sampled_from([b": ", b":", b" : ", b":  ", b" "])


@given(
    st.one_of(plain_lines, any_lines),
    st.one_of(st.just(b": "), separators),
    st.sampled_from([h.BEGIN, b"NATS/1.0 \r\n", b"NATS/1.0 408 Timeout\r\n", b"nats/1.0\r\n", b""]),
    st.sampled_from([h.END, b"", b"\r\n\r\n", b"x"]),
)
def test_the_fast_way_reads_what_the_slow_one_does(
    lines: list[tuple[bytes, bytes]], separator: bytes, begin: bytes, end: bytes
) -> None:
    """However a block is made, both say the same of it."""
    headers = begin + b"".join(name + separator + value + b"\r\n" for name, value in lines) + end
    assert read(headers) == read_lines(h.split(headers))
    assert others(headers) == tuple(line for line in h.split(headers) if line[0] not in _OWN)


def test_headers_after_others() -> None:
    """What was read last is read again, and something else in between as what that is."""
    one, other = (headers.begin(name) + headers.at(10**18) + b"\r\n" for name in ("one.Type", "other.Type"))
    assert [read(block)[0] for block in (one, one, other, b"", one, other, other)] == [
        "one.Type", "one.Type", "other.Type", "", "one.Type", "other.Type", "other.Type"
    ]  # fmt: skip


@given(st.binary(max_size=200))
def test_any_bytes_are_headers(headers: bytes) -> None:
    """Reading fails over nothing."""
    assert read(headers) == read_lines(h.split(headers))
