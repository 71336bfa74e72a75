"""How a dead letter lies in JetStream: its headers, and what of the event goes where.

The entry has the event's own headers as they were, its data as the body, and the headers below. What cannot
stand there as it was (a name given twice, bytes that are no ASCII) lies in ``WS-DL-Headers``, so that nothing
of the event is lost. Headers that control NATS, ``Nats-…``, are left out, for they would work again; but for
the idempotency key, which is kept under another name.

An event that leaves no room for more headers is stored as a message of its own, the *rest*: its headers, an
empty line, and its data, all in the body. The entry then has only the end of the data, so that the rest is
smaller than the event was, and says how large the data is.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import quote, quote_from_bytes, unquote, unquote_to_bytes

from windshift.nats import headers as h
from windshift.nats.headers import HeaderLines
from windshift.nats.jetstream import StoredMessage
from windshift.nats.times import Time, from_unix_ns, parse_rfc3339
from windshift.server.events import headers
from windshift.server.events.dead_letters.letters import (
    Cause,
    DeadLetter,
    Failure,
    LetterId,
    id_text,
    read_id,
)

SUBJECTS: Final = "_WS.dead."
"""What the subjects of entries begin with; then comes the id."""
RESTS: Final = "_WS.rest."
"""What the subjects of rests begin with; then come the id and the writer."""

SUBJECT: Final = b"WS-DL-Subject"
ATTEMPTS: Final = b"WS-DL-Attempts"
FIRST_DELIVERY: Final = b"WS-DL-First-Delivery"
LAST_DELIVERY: Final = b"WS-DL-Last-Delivery"
CAUSE: Final = b"WS-DL-Cause"
REASON: Final = b"WS-DL-Reason"
ERROR_TYPE: Final = b"WS-DL-Error-Type"
REPLAY_COUNT: Final = b"WS-DL-Replay-Count"
MESSAGE_ID: Final = b"WS-DL-Message-Id"
"""The idempotency key, which the broker would otherwise apply to the entry."""
HEADERS: Final = b"WS-DL-Headers"
"""Base64 of header lines that cannot stand beside the others."""
REST: Final = b"WS-DL-Rest"
"""Bytes of the data, where the event is stored as a message of its own."""
WRITER: Final = b"WS-DL-Writer"
"""Which call wrote this: by it a repeated write knows its own entry."""

ROOM_FOR_CONDITIONS: Final = 256
"""Bytes that are left free for the headers under which an entry is written."""

_CONTROL = b"nats-"
_OURS = b"ws-dl-"
_PLAIN_NAME = re.compile(rb"[A-Za-z0-9_-]+")
_PLAIN_VALUE = re.compile(rb"(?:[!-~](?:[ -~]*[!-~])?)?")
_OF_EVENTS = (headers.DATA_TYPE, headers.PUBLISHED_TIME, headers.TRACE_PARENT, headers.TRACE_STATE)
_SHORT = 1024
"""Characters up to which a value of the event stands in the entry although there is a rest."""
_END = 1024
"""Bytes of the data that stand in the entry although there is a rest."""
_SAFE = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"


class Event(NamedTuple):
    """An event as it is kept: everything but the headers that control NATS."""

    subject: str
    headers: HeaderLines
    """With the idempotency key under its own name."""
    data: bytes


class Packed(NamedTuple):
    """What is to be stored."""

    headers: HeaderLines
    body: bytes
    rest: bytes | None
    """The body of the message that has to be stored first; `None` when everything fits into the entry."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry as it was read."""

    failure: Failure
    position: int
    time: Time
    writer: str
    event: Event
    """With the end of its data only, and without most headers, where there is a rest."""
    rest_size: int | None
    """Bytes of the data in the rest, if there is one."""

    @property
    def rest_subject(self) -> str:
        """Where the rest lies, if there is one."""
        return rest_subject(self.failure.id, self.writer)


def entry_subject(id: LetterId) -> str:  # noqa: A002 - as the field of the API is called
    """Return where a dead letter lies."""
    return SUBJECTS + id_text(id)


def rest_subject(id: LetterId, writer: str) -> str:  # noqa: A002
    """Return where the rest that one call wrote lies."""
    return f"{RESTS}{id_text(id)}.{writer}"


# --- Writing ------------------------------------------------------------------------------------------------


def kept_event(stored: StoredMessage) -> Event:
    """Take from a stored event what is kept of it."""
    lines = tuple(line for line in stored.headers if not line[0].lower().startswith(_CONTROL))
    key = next((line for line in stored.headers if line[0] == h.MESSAGE_ID), None)
    return Event(stored.subject, lines if key is None else (*lines, key), stored.body)


def pack(event: Event, failure: Failure, writer: str, max_payload: int) -> Packed:
    """Say what is to be stored so that no message, headers included, is larger than `max_payload`."""
    told = _own_headers(event, failure, writer) | _event_headers(event.headers)
    if _fits(told, len(event.data), max_payload):
        return Packed(tuple(told.items()), event.data, None)
    told = _own_headers(event, failure, writer) | _short_headers(event.headers)
    told[REST] = b"%d" % len(event.data)
    if not _fits(told, _END, max_payload):
        for name in (REASON, ERROR_TYPE, headers.TRACE_STATE, headers.DATA_TYPE, MESSAGE_ID):
            told.pop(name, None)
    cut = max(len(event.data) - _END, 0)
    rest = b"%b\r\n%b" % (_join_lines(event.headers), event.data[:cut])
    return Packed(tuple(told.items()), event.data[cut:], rest)


def _fits(told: Mapping[bytes, bytes], data_size: int, max_payload: int) -> bool:
    size = len(h.block(told.items())) + ROOM_FOR_CONDITIONS
    return size <= h.MAX_BLOCK and size + data_size <= max_payload


def _own_headers(event: Event, failure: Failure, writer: str) -> dict[bytes, bytes]:
    told = {
        SUBJECT: _quote(event.subject),
        ATTEMPTS: b"%d" % failure.attempts,
        FIRST_DELIVERY: b"%d" % failure.first_delivery_ns,
        LAST_DELIVERY: b"%d" % failure.last_delivery_ns,
        CAUSE: failure.cause.value.encode(),
        WRITER: writer.encode(),
    }
    if failure.reason:
        told[REASON] = _quote(failure.reason)
    if failure.error_type:
        told[ERROR_TYPE] = _quote(failure.error_type)
    if failure.replay_count:
        told[REPLAY_COUNT] = b"%d" % failure.replay_count
    return told


def _event_headers(lines: HeaderLines) -> dict[bytes, bytes]:
    """Word the headers of an event for the entry."""
    told: dict[bytes, bytes] = {}
    others = []
    for name, value in lines:
        if name == h.MESSAGE_ID:
            told[MESSAGE_ID] = _outer_spaces(quote_from_bytes(value, _SAFE))
        elif _is_plain(name, value) and name not in told:
            told[name] = value
        else:
            others.append((name, value))
    if others:
        told[HEADERS] = b64encode(_join_lines(others))
    return told


def _short_headers(lines: HeaderLines) -> dict[bytes, bytes]:
    """Word what an entry shows of an event whose headers are in the rest."""
    told = _event_headers(tuple(line for line in lines if len(line[1]) <= _SHORT))
    return {name: value for name, value in told.items() if name in (*_OF_EVENTS, MESSAGE_ID)}


def _is_plain(name: bytes, value: bytes) -> bool:
    """Whether a header can stand in the entry as it is."""
    return (
        _PLAIN_NAME.fullmatch(name) is not None
        and _PLAIN_VALUE.fullmatch(value) is not None
        and not name.lower().startswith(_OURS)
    )


def _join_lines(lines: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join(b"%b:%b\r\n" % line for line in lines)


def _quote(text: str) -> bytes:
    """Percent-encode what a header cannot hold; most text stays readable."""
    return _outer_spaces(quote(text, _SAFE, errors="replace"))


def _outer_spaces(quoted: str) -> bytes:
    """Encode a space at either end, which NATS would take away."""
    if quoted.startswith(" "):
        quoted = f"%20{quoted[1:]}"
    return (f"{quoted[:-1]}%20" if quoted.endswith(" ") else quoted).encode()


# --- Reading ------------------------------------------------------------------------------------------------


def read_entry(stored: StoredMessage) -> Entry:
    """Read an entry; raise `ValueError` for what Windshift did not write."""
    told = {name: value.decode("latin-1") for name, value in stored.headers}
    try:
        failure = Failure(
            read_id(stored.subject.removeprefix(SUBJECTS)),
            int(told[ATTEMPTS]),
            int(told[FIRST_DELIVERY]),
            int(told[LAST_DELIVERY]),
            Cause(told[CAUSE]),
            unquote(told.get(REASON, "")),
            unquote(told.get(ERROR_TYPE, "")),
            int(told.get(REPLAY_COUNT, "0")),
        )
        event = Event(unquote(told[SUBJECT]), tuple(_event_lines(stored.headers)), stored.body)
        rest_size = int(told[REST]) if REST in told else None
    except KeyError as missing:
        raise ValueError(f"no {missing} in a dead letter") from None
    return Entry(failure, stored.sequence, stored.time, told.get(WRITER, ""), event, rest_size)


def join_rest(event: Event, rest: bytes) -> Event:
    """Put an event together again whose entry names a rest."""
    head, _, data = (b"\r\n" + rest).partition(b"\r\n\r\n")
    return Event(event.subject, tuple(_lines(head)), data + event.data)


def letter(entry: Entry, event: Event, *, with_data: bool) -> DeadLetter:
    """Make a dead letter of its entry and the event, which is the entry's own unless that names a rest."""
    told: dict[bytes, str] = {}
    others: dict[str, str] = {}
    for name, value in event.headers:
        known, text = name.decode("utf-8", "replace"), value.decode("utf-8", "replace")
        if name in _OF_EVENTS or name == h.MESSAGE_ID:
            told[name] = text
        else:
            others[known] = f"{others[known]}, {text}" if known in others else text
    published = parse_rfc3339(told.get(headers.PUBLISHED_TIME, ""))
    return DeadLetter(
        entry.failure,
        entry.time,
        entry.position,
        event.subject,
        told.get(headers.DATA_TYPE, ""),
        event.data if with_data else b"",
        len(event.data) if entry.rest_size is None else entry.rest_size,
        from_unix_ns(entry.failure.id.stored_ns) if published is None else published,
        told.get(h.MESSAGE_ID),
        told.get(headers.TRACE_PARENT),
        told.get(headers.TRACE_STATE),
        others,
    )


def _event_lines(lines: HeaderLines) -> Iterator[tuple[bytes, bytes]]:
    """Find the event's own headers among those of an entry."""
    set_aside = b""
    for name, value in lines:
        if name == MESSAGE_ID:
            yield h.MESSAGE_ID, unquote_to_bytes(value)
        elif name == HEADERS:
            set_aside = b64decode(value, validate=True)
        elif not name.lower().startswith((_CONTROL, _OURS)):
            yield name, value
    yield from _lines(set_aside)


def _lines(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    for line in block.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:
            yield name, value
