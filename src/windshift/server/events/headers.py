"""How an event is stored in JetStream: its headers, whose names other programs read and write too.

The parts of a block that repeat (type, second) are cached. One regular expression reads blocks that Windshift
wrote; those of other programs are parsed line by line.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, TypeAlias

from windshift.nats import headers as h
from windshift.nats.times import NANOSECONDS, Time, parse_rfc3339

DATA_TYPE: Final = b"WS-Data-Type"
"""The full name of the Protobuf message that the body holds."""
PUBLISHED_TIME: Final = b"WS-Published-Time"
"""RFC 3339, written in UTC with ``Z`` and nanoseconds."""
TRACE_PARENT: Final = b"WS-Trace-Parent"
TRACE_STATE: Final = b"WS-Trace-State"

_new: Final = tuple.__new__  # as a named tuple's own __new__ does, in less than half of the time


# --- Writing ----------------------------------------------------------------------------------------------


def begin(data_type: str) -> bytes:
    """Return how the block of an event of this type begins; it goes on with the time."""
    return h.BEGIN + h.line(DATA_TYPE, data_type.encode()) + PUBLISHED_TIME + b": "


def time_line(seconds: int, nanos: int) -> bytes:
    """Return the rest of the line that `begin` ends with, of a time since 1970."""
    return b"%b.%09dZ\r\n" % (_second(seconds), nanos)


@lru_cache(maxsize=64)
def at(unix_ns: int) -> bytes:
    """Return the same for nanoseconds since 1970. Events that come together share them: hence the cache."""
    return time_line(*divmod(unix_ns, NANOSECONDS))


def now() -> bytes:
    """Return the same for the time that it is."""
    return at(time.time_ns())


@lru_cache(maxsize=64)
def _second(seconds: int) -> bytes:
    """Write a whole second since 1970. Events that follow each other mostly share it: hence the cache."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix("+00:00").encode()


_SCOPE: Final = "ws:"


def message_id(key: str, scope: str) -> bytes:
    """Return the id by which the broker finds duplicates, of a key that one principal gave an event.

    Principals that do not share keys have a scope each, their name. Without one the id is the key, but for
    a key that looks like one with a scope: nobody makes the id of somebody else.
    """
    if scope or key.startswith(_SCOPE):
        return f"{_SCOPE}{scope}:{key}".encode()
    return key.encode()


_SCOPED: Final = rb"ws:[A-Za-z0-9_-]{0,64}:"
_IN_SCOPE: Final = re.compile(rb"(?s:" + _SCOPED + rb"(.+))")


def given_key(message_id: bytes) -> bytes:
    """Return the key as it was given, of a message's id."""
    scoped = _IN_SCOPE.fullmatch(message_id)
    return message_id if scoped is None else scoped[1]


# --- Reading ----------------------------------------------------------------------------------------------


_OWN: Final = frozenset({DATA_TYPE, PUBLISHED_TIME, TRACE_PARENT, TRACE_STATE, h.MESSAGE_ID})
"""Names of headers that an event's own fields are read from."""

EventHeaders: TypeAlias = tuple[str, Time | None, str | None, str | None, str | None]
"""Type name (empty where none is named), time, idempotency key, trace parent and trace state."""


_PLAIN: Final = re.compile(
    rb"NATS/1\.0\r\n"
    rb"WS-Data-Type: ([!-~]{1,256})\r\n"
    rb"WS-Published-Time: ([0-9T:-]{19})\.([0-9]{9})Z\r\n"
    rb"(?:Nats-Msg-Id: (?:" + _SCOPED + rb")?([!-~](?:[ -~]*[!-~])?)\r\n)?"
    rb"(?:WS-Trace-Parent: ([!-~]+)\r\n)?"
    rb"(?:WS-Trace-State: ([!-~](?:[ -~]*[!-~])?)\r\n)?"
    rb"\r\n"
)
"""What a Windshift writes. Where this does not fit, `read_lines` reads the same, and anything else."""


class _Reader:
    """Reads headers, and remembers the last: those of events that were published together are the same."""

    __slots__ = ("_block", "_headers")

    def __init__(self) -> None:
        self._block = b""
        self._headers = read_lines(())

    def read(self, block: bytes) -> EventHeaders:
        """Read the headers of a message. Those of other programs, or none, are fine."""
        if block != self._block:
            self._block, self._headers = block, _read(block)
        return self._headers


def _read(block: bytes) -> EventHeaders:
    plain = _PLAIN.fullmatch(block)
    if plain is None:
        return read_lines(h.split(block))
    data_type, second, nanos, key, parent, state = plain.groups()
    seconds = _seconds(second)
    published = None if seconds is None else _new(Time, (seconds, int(nanos)))
    if key is None and parent is None and state is None:
        return _text(data_type), published, None, None, None
    key, parent, state = (None if each is None else each.decode() for each in (key, parent, state))
    return _text(data_type), published, key, parent, state


def others(block: bytes) -> h.HeaderLines:
    """Return the headers of a message that no field of the event is read from."""
    if _PLAIN.fullmatch(block) is not None:
        return ()
    return tuple([line for line in h.split(block) if line[0] not in _OWN])


@lru_cache(maxsize=64)
def _seconds(second: bytes) -> int | None:
    parsed = parse_rfc3339(second.decode() + "Z")
    return None if parsed is None else parsed.seconds


@lru_cache(maxsize=1024)
def _text(data_type: bytes) -> str:
    return data_type.decode()


def read_lines(lines: h.HeaderLines) -> EventHeaders:
    """Read headers that are split already."""
    found = dict(reversed(lines))
    key, parent, state = map(found.get, (h.MESSAGE_ID, TRACE_PARENT, TRACE_STATE))
    return (
        found.get(DATA_TYPE, b"").decode(errors="replace"),
        parse_rfc3339(found.get(PUBLISHED_TIME, b"").decode(errors="replace")),
        given_key(key).decode(errors="replace") if key else None,  # to the broker an empty one is none, too
        None if parent is None else parent.decode(errors="replace"),
        None if state is None else state.decode(errors="replace"),
    )


read: Final = _Reader().read
