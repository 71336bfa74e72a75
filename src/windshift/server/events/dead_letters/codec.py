"""How JetStream stores a dead letter: its headers, and which part of the event goes where.

A message holds the event's own headers unchanged, its data as the body, and the headers below. What cannot be
a header here (a repeated name, bytes that are not ASCII) goes into ``WS-DL-Headers``, so that nothing of the
event is lost. Headers that control NATS, ``Nats-…``, are left out, because they would take effect again; only
the idempotency key is kept, under another name.

If an event leaves no room for more headers, all but the end of it goes into an *overflow message*: in its
body are the headers, an empty line, and the data. The dead letter then has only the end of the data, so that
neither message is larger than the event was, and says how large the data is.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Self
from urllib.parse import quote, quote_from_bytes, unquote, unquote_to_bytes

from windshift.nats import headers as h
from windshift.nats.headers import HeaderLines
from windshift.nats.jetstream.api import StoredMessage
from windshift.nats.times import Time, from_unix_ns
from windshift.server.events import headers
from windshift.server.events.dead_letters.model import Cause, DeadLetter, DeadLetterId, Failure
from windshift.server.events.runs import BEGINNING

SUBJECTS: Final = "_WS.dead."
"""Prefix of the subjects of dead letters; the id follows."""
OVERFLOW_SUBJECTS: Final = "_WS.rest."
"""Prefix of the subjects of overflow messages; the id and the writer follow."""
CLAIM_SUBJECTS: Final = "_WS.claim."
"""Prefix of the subjects of claims; the id follows."""
_END_SUBJECTS: Final = "_WS.*."
"""Matches dead letters and claims, and no overflow message: those have one token more."""

SUBJECT: Final = b"WS-DL-Subject"
ATTEMPTS: Final = b"WS-DL-Attempts"
FIRST_DELIVERY: Final = b"WS-DL-First-Delivery"
LAST_DELIVERY: Final = b"WS-DL-Last-Delivery"
CAUSE: Final = b"WS-DL-Cause"
REASON: Final = b"WS-DL-Reason"
ERROR_TYPE: Final = b"WS-DL-Error-Type"
REPLAY_COUNT: Final = b"WS-DL-Replay-Count"
MESSAGE_ID: Final = b"WS-DL-Message-Id"
"""The idempotency key, which the broker would otherwise apply to the dead letter."""
HEADERS: Final = b"WS-DL-Headers"
"""Base64 of header lines that cannot be headers here."""
OVERFLOW: Final = b"WS-DL-Rest"
"""The size of the data, when there is an overflow message."""
WRITER: Final = b"WS-DL-Writer"
"""Which call wrote this: how a repeated write recognizes its own dead letter."""
ENDED: Final = b"WS-DL-Ended"
"""On what became of a replay: `EndedAt` of the event, which had ended before."""
CLAIMANT: Final = b"WS-Claimant"
"""Which delivery a claim was made for: how one that is made again is recognized."""

ROOM_FOR_CONDITIONS: Final = 768
"""Bytes left free for the headers that make a write conditional."""
_FRAME: Final = 200
"""Bytes, or so, that a message takes in the stream beside its subject, own headers and body."""

_CONTROL = b"nats-"
_OURS = b"ws-dl-"
_PLAIN_NAME = re.compile(rb"[A-Za-z0-9_-]+")
_PLAIN_VALUE = re.compile(rb"(?:[!-~](?:[ -~]*[!-~])?)?")
_OF_EVENTS = (headers.DATA_TYPE, headers.PUBLISHED_TIME, headers.TRACE_PARENT, headers.TRACE_STATE)
_SHORT = 1024
"""Longest header value of the event that is kept beside an overflow message."""
_END = 1024
"""Bytes of the data that are kept beside an overflow message."""
_SAFE = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"


class EventCopy(NamedTuple):
    """A copy of an event, without the headers that control NATS."""

    subject: str
    headers: HeaderLines
    """Includes the idempotency key under its own name."""
    data: bytes


class EndedAt(NamedTuple):
    """Where and when an event ended.

    Attributes:
        position: a sequence of the stream of dead letters; 0 for nowhere.
        time: when that was written.
    """

    position: int = 0
    time: Time = BEGINNING

    @classmethod
    def of(cls, stored: StoredMessage) -> Self:
        """Read it from what lies on the subjects on which an event ends; raise `ValueError`."""
        header = h.get(stored.block, ENDED)
        if header is None:
            return cls(stored.sequence, stored.time)
        position, _, unix_ns = header.partition(b".")
        return cls(int(position), from_unix_ns(int(unix_ns)))

    @property
    def header(self) -> tuple[bytes, bytes]:
        """The header with which what becomes of a replay says when the event ended."""
        return ENDED, b"%d.%d" % (self.position, self.time.unix_ns)


class Packed(NamedTuple):
    """What to store."""

    headers: HeaderLines
    body: bytes
    overflow: bytes | None
    """The body of the overflow message, to be stored first; `None` for no such message."""


@dataclass(frozen=True, slots=True)
class StoredDeadLetter:
    """A dead letter as it was read from the stream, without its overflow message.

    Attributes:
        failure: what happened.
        position: its sequence in the stream.
        time: when it was written.
        writer: which call wrote it.
        event: the event; with an overflow message, only the end of its data and few headers.
        data_size: bytes of the event's complete data.
        has_overflow: whether there is an overflow message.
    """

    failure: Failure
    position: int
    time: Time
    writer: str
    event: EventCopy
    data_size: int
    has_overflow: bool

    @property
    def overflow_subject(self) -> str:
        """The subject of its overflow message, if it has one."""
        return overflow_subject(self.failure.id, self.writer)


def entry_subject(letter_id: DeadLetterId) -> str:
    """Return the subject of a dead letter."""
    return f"{SUBJECTS}{letter_id}"


def claim_subject(letter_id: DeadLetterId) -> str:
    """Return the subject of the claim that an event ended without a dead letter."""
    return f"{CLAIM_SUBJECTS}{letter_id}"


def end_subjects(letter_id: DeadLetterId) -> str:
    """Return the pattern of the two subjects on which an event ends."""
    return f"{_END_SUBJECTS}{letter_id}"


def overflow_subject(letter_id: DeadLetterId, writer: str) -> str:
    """Return the subject of the overflow message that one call wrote."""
    return f"{OVERFLOW_SUBJECTS}{letter_id}.{writer}"


# --- Writing ------------------------------------------------------------------------------------------------


def copy_event(stored: StoredMessage) -> EventCopy:
    """Copy a stored event."""
    lines = tuple(line for line in stored.headers if not line[0].lower().startswith(_CONTROL))
    key = next((line for line in stored.headers if line[0] == h.MESSAGE_ID), None)
    return EventCopy(stored.subject, lines if key is None else (*lines, key), stored.body)


def pack(
    event: EventCopy, failure: Failure, writer: str, max_payload: int, ended: EndedAt | None = None
) -> Packed:
    """Split an event so that no message, headers included, has more than `max_payload` bytes.

    `writer` says which call writes it; `ended` when the event ended, if this is what became of a replay.
    """
    own = _own_headers(event, failure, writer) | dict([ended.header] if ended else [])
    lines = own | _event_headers(event.headers)
    if _fits(lines, len(event.data), max_payload):
        return Packed(tuple(lines.items()), event.data, None)
    lines = own | _short_headers(event.headers)
    lines[OVERFLOW] = b"%d" % len(event.data)
    if not _fits(lines, _END, max_payload):
        for name in (REASON, ERROR_TYPE, headers.TRACE_STATE, headers.DATA_TYPE, MESSAGE_ID):
            lines.pop(name, None)
    cut = max(len(event.data) - _END, 0)
    overflow = b"%b\r\n%b" % (_join_lines(event.headers), event.data[:cut])
    return Packed(tuple(lines.items()), event.data[cut:], overflow)


def stored_size(subject: str, headers: HeaderLines, body: bytes) -> int:
    """Return about how many bytes a message takes in the stream; the subject is in its conditions, too."""
    return _FRAME + 2 * len(subject) + len(h.block(headers)) + len(body)


def _fits(lines: Mapping[bytes, bytes], data_size: int, max_payload: int) -> bool:
    size = len(h.block(lines.items())) + ROOM_FOR_CONDITIONS
    return size <= h.MAX_BLOCK and size + data_size <= max_payload


def _own_headers(event: EventCopy, failure: Failure, writer: str) -> dict[bytes, bytes]:
    lines = {
        SUBJECT: _quote(event.subject),
        ATTEMPTS: b"%d" % failure.attempts,
        FIRST_DELIVERY: b"%d" % failure.first_delivery_ns,
        LAST_DELIVERY: b"%d" % failure.last_delivery_ns,
        CAUSE: failure.cause.value.encode(),
        WRITER: writer.encode(),
    }
    if failure.reason:
        lines[REASON] = _quote(failure.reason)
    if failure.error_type:
        lines[ERROR_TYPE] = _quote(failure.error_type)
    if failure.replay_count:
        lines[REPLAY_COUNT] = b"%d" % failure.replay_count
    return lines


def _event_headers(lines: HeaderLines) -> dict[bytes, bytes]:
    """Return an event's headers as a dead letter has them; those of one name keep their order."""
    kept: dict[bytes, bytes] = {}
    others = []
    seen: set[bytes] = set()
    for name, value in lines:
        if name == h.MESSAGE_ID:
            kept[MESSAGE_ID] = _outer_spaces(quote_from_bytes(value, _SAFE))
        elif name not in seen and _is_plain(name, value):
            kept[name] = value
        else:
            others.append((name, value))
        seen.add(name)
    if others:
        kept[HEADERS] = b64encode(_join_lines(others))
    return kept


def _short_headers(lines: HeaderLines) -> dict[bytes, bytes]:
    """Return those of an event's headers that are kept beside an overflow message."""
    kept = _event_headers(tuple(line for line in lines if len(line[1]) <= _SHORT))
    return {name: value for name, value in kept.items() if name in (*_OF_EVENTS, MESSAGE_ID)}


def _is_plain(name: bytes, value: bytes) -> bool:
    """Whether a header can be kept unchanged."""
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
    """Encode a space at either end, which NATS would strip."""
    if quoted.startswith(" "):
        quoted = f"%20{quoted[1:]}"
    return (f"{quoted[:-1]}%20" if quoted.endswith(" ") else quoted).encode()


# --- Reading ------------------------------------------------------------------------------------------------


def read_entry(stored: StoredMessage) -> StoredDeadLetter:
    """Read an entry; raise `ValueError` for anything that Windshift did not write."""
    fields = {name: value.decode("latin-1") for name, value in stored.headers}
    try:
        failure = Failure(
            DeadLetterId.parse(stored.subject.removeprefix(SUBJECTS)),
            int(fields[ATTEMPTS]),
            int(fields[FIRST_DELIVERY]),
            int(fields[LAST_DELIVERY]),
            Cause(fields[CAUSE]),
            unquote(fields.get(REASON, "")),
            unquote(fields.get(ERROR_TYPE, "")),
            int(fields.get(REPLAY_COUNT, "0")),
        )
        event = EventCopy(unquote(fields[SUBJECT]), tuple(_event_lines(stored.headers)), stored.body)
        size = int(fields.get(OVERFLOW, len(stored.body)))
    except KeyError as missing:
        raise ValueError(f"a dead letter without {missing}") from None
    writer = fields.get(WRITER, "")
    return StoredDeadLetter(failure, stored.sequence, stored.time, writer, event, size, OVERFLOW in fields)


def join_overflow(event: EventCopy, overflow: bytes) -> EventCopy:
    """Reassemble an event from its entry and the body of its overflow message."""
    head, _, data = (b"\r\n" + overflow).partition(b"\r\n\r\n")
    return EventCopy(event.subject, tuple(_lines(head)), data + event.data)


def dead_letter(entry: StoredDeadLetter, event: EventCopy, *, with_data: bool) -> DeadLetter:
    """Make a dead letter of an entry and its event, reassembled or as in the entry."""
    type_name, published, idempotency_key, trace_parent, trace_state = headers.read_lines(event.headers)
    others: dict[str, str] = {}
    for name, value in event.headers:
        if name != h.MESSAGE_ID and name not in _OF_EVENTS:
            key, text = name.decode("utf-8", "replace"), value.decode("utf-8", "replace")
            others[key] = f"{others[key]}, {text}" if key in others else text
    return DeadLetter(
        entry.failure,
        entry.time,
        entry.position,
        event.subject,
        type_name,
        event.data if with_data else b"",
        entry.data_size,
        from_unix_ns(entry.failure.id.stored_ns) if published is None else published,
        idempotency_key,
        trace_parent,
        trace_state,
        others,
    )


def _event_lines(lines: HeaderLines) -> Iterator[tuple[bytes, bytes]]:
    """Yield the event's own headers among those of an entry."""
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
