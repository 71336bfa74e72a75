"""The NATS client protocol without I/O: bytes in, events out; frames out as bytes.

Sources: docs.nats.io/reference/reference-protocols/nats-protocol, and ``parser.go``, ``client.go`` and
``errors.go`` of nats-server 2.15. Servers write operations in capitals with single spaces between arguments;
nothing else is accepted. (Replies of the server itself may have an empty reply subject with a space on either
side.) Subjects are any bytes but spaces: a stream may hold some that are not UTF-8.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any, Final, NamedTuple, TypeAlias

MAX_LINE: Final = 32 * 1024
"""Bytes of a control line. The longest is ``INFO``, with the addresses of a cluster."""
MAX_MESSAGE: Final = 64 * 1024 * 1024
"""Bytes of a message with its headers: the largest limit of a server (``MAX_PAYLOAD_MAX_SIZE``), and more
than JetStream's longest answers."""

PING: Final = b"PING\r\n"
PONG: Final = b"PONG\r\n"


# --- Frames -----------------------------------------------------------------------------------------------


def connect_frame(options: Mapping[str, Any]) -> bytes:
    """Return ``CONNECT``, the client's answer to the first ``INFO``."""
    return b"CONNECT %b\r\n" % json.dumps(options, separators=(",", ":")).encode()


_PUB: Final = b"PUB %b %b %d\r\n"
_HPUB: Final = b"HPUB %b %b %d %d\r\n%b"
_PUB_FRAME: Final = _PUB + b"%b\r\n"  # in one step: this is the hot path
HPUB_FRAME: Final = _HPUB + b"%b\r\n"
"""A message with headers: subject, reply subject, bytes of the headers, bytes of all, headers, payload."""


def publish_frame(subject: bytes, body: bytes, headers: bytes = b"", reply: bytes = b"") -> bytes:
    """Return ``PUB``, or ``HPUB`` for a message with headers.

    Subjects must not contain white space; this is not checked.
    """
    if headers:
        size = len(headers)
        return HPUB_FRAME % (subject, reply, size, size + len(body), headers, body)
    return _PUB_FRAME % (subject, reply, len(body), body)


def publish_frames(subjects: Iterable[bytes], body: bytes) -> bytes:
    """Return `publish_frame` of the same body to each of several subjects, at least one."""
    end = b"  %d\r\n%b\r\n" % (len(body), body)
    return b"PUB " + (end + b"PUB ").join(subjects) + end


def publish_parts(subject: bytes, body: bytes, headers: bytes, reply: bytes) -> tuple[bytes, bytes, bytes]:
    """Return what makes up the frame of a message, in order, without a copy of its body."""
    size = len(headers)
    if headers:
        head = _HPUB % (subject, reply, size, size + len(body), headers)
    else:
        head = _PUB % (subject, reply, len(body))
    return head, body, b"\r\n"


def subscribe_frame(subject: bytes, sid: int) -> bytes:
    """Return ``SUB``: messages to the subject arrive with this number."""
    return b"SUB %b %d\r\n" % (subject, sid)


def unsubscribe_frame(sid: int) -> bytes:
    """Return ``UNSUB``."""
    return b"UNSUB %d\r\n" % sid


# --- Events -----------------------------------------------------------------------------------------------


class Message(NamedTuple):
    """A message for one subscription. There is one per message, so it is a tuple.

    Attributes:
        sid: the subscription's number.
        subject: where it was published.
        reply: the reply subject; empty = none.
        headers: the block, see `windshift.nats.headers`; empty = none.
        body: the payload.
    """

    sid: int
    subject: bytes
    reply: bytes
    headers: bytes
    body: bytes


class Run(NamedTuple):
    """Messages for one subscription that follow each other, small ones without headers or a reply subject.

    Attributes:
        sid: the subscription's number.
        suffixes: the rest of their subjects, after what all of them begin with, see `Parser.expect`.
        bodies: their payloads.
    """

    sid: int
    suffixes: list[bytes]
    bodies: list[bytes]


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """``INFO``: sent when a connection begins, and again after changes.

    Attributes:
        server_id: its unique id.
        server_name: what its operator calls it.
        version: of nats-server.
        cluster: the name of its cluster; empty = none.
        client_id: the number of this connection there.
        max_payload: the most bytes of a message with its headers.
        headers: whether it supports headers.
        tls_required: whether it requires TLS.
        tls_available: whether it accepts TLS if the client starts it.
        nonce: what a client with an nkey signs; empty = no keys.
        connect_urls: ``host:port`` of the servers in the cluster.
        ldm: whether it is about to stop (lame-duck mode).
    """

    server_id: str = ""
    server_name: str = ""
    version: str = ""
    cluster: str = ""
    client_id: int = 0
    max_payload: int = 1024 * 1024
    headers: bool = False
    tls_required: bool = False
    tls_available: bool = False
    nonce: str = ""
    connect_urls: tuple[str, ...] = ()
    ldm: bool = False


class ErrorKind(Enum):
    """The kinds of ``-ERR``: how the text begins, in lower case."""

    PUBLISH_FORBIDDEN = "permissions violation for publish"
    SUBSCRIPTION_FORBIDDEN = "permissions violation for subscription"
    AUTHORIZATION = "authorization violation"
    AUTHENTICATION_TIMEOUT = "authentication timeout"
    USER_EXPIRED = "user authentication expired"
    USER_REVOKED = "user authentication revoked"
    ACCOUNT_EXPIRED = "account authentication expired"
    STALE = "stale connection"
    SLOW_CONSUMER = "slow consumer"
    MAX_PAYLOAD = "maximum payload violation"
    MAX_CONNECTIONS = "maximum connections exceeded"
    MAX_ACCOUNT_CONNECTIONS = "maximum account active connections exceeded"
    MAX_SUBSCRIPTIONS = "maximum subscriptions exceeded"
    MAX_CONTROL_LINE = "maximum control line exceeded"
    TLS_REQUIRED = "secure connection - tls required"
    INVALID_SUBJECT = "invalid subject"
    INVALID_PUBLISH_SUBJECT = "invalid publish subject"
    PARSER = "parser error"
    UNKNOWN_OPERATION = "unknown protocol operation"
    SHUTDOWN = "server shutdown"
    OTHER = ""


class ServerError(NamedTuple):
    """An ``-ERR``. After some of them the server closes the connection.

    Attributes:
        kind: its value is safe to log; the server's text is not, since it may contain a subject.
        subject: the subject that the user may not publish or subscribe to; otherwise empty.
    """

    kind: ErrorKind
    subject: bytes = b""


class Signal(Enum):
    """An operation without arguments."""

    PING = "answer it at once"
    PONG = "the answer to the oldest unanswered ping"


class Broken(NamedTuple):
    """The server does not speak NATS, or lies about lengths: nothing after this can be parsed."""

    text: str


Event: TypeAlias = Message | Run | ServerInfo | ServerError | Signal | Broken

_new: Final = tuple.__new__  # as a named tuple's own __new__ does, in less than half of the time
_MOST_DIGITS: Final = 18
_DIGITS: Final = {size: b"%d" % size for size in range(1000)}
"""How servers write the sizes of the messages of a `Run`."""
_LONG: Final = 64 * 1024
"""Bytes from which on they are searched for a run only if their first message belongs to it."""

_MALFORMED: Final = "the arguments of a message are malformed"
_TOO_LARGE: Final = "a message is too large"


class _Unreadable(Exception):
    """The server did not send NATS."""


class Parser:
    """Parses what a server sends, in chunks of any size, into events in order."""

    __slots__ = ("_missing", "_parts", "_runs", "broken")

    def __init__(self) -> None:
        self._runs: list[tuple[bytes, int, re.Pattern[bytes]]] = []
        self._parts: list[bytes] = []  # the beginning of an incomplete event
        self._missing = 0  # bytes it needs at least
        self.broken = False
        """Whether nothing more can be parsed."""

    @property
    def idle(self) -> bool:
        """Whether no incomplete event is buffered."""
        return not self._parts

    def expect(self, sid: int, start: bytes) -> None:
        """Return messages of this subscription, whose subjects begin with `start`, in a `Run` if possible.

        They may still come one by one.
        """
        pattern = re.compile(rb"MSG " + re.escape(start) + rb"([^ \r\n]+) %d ([0-9]{1,3})\r\n(.*)\r\n" % sid)
        self._runs.append((b"MSG " + start, sid, pattern))

    def receive(self, data: bytes) -> list[Event]:
        """Take bytes; return the events that they complete. After `Broken` there are none."""
        if self._parts:
            self._parts.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return []
            data = b"".join(self._parts)
            self._parts.clear()
        events: list[Event] = []
        if not self.broken:
            for start, sid, pattern in self._runs:
                if data.startswith(start) and (len(data) < _LONG or pattern.match(data)):
                    data = _read_run(data, sid, pattern, events)
            try:
                self._read(data, events)
            except _Unreadable as error:
                self.broken = True
                events.append(Broken(str(error)))
        return events

    def _read(self, data: bytes, events: list[Event]) -> None:  # noqa: C901, PLR0912 - calls cost here
        position, end = 0, len(data)
        # Most messages go where the one before went, and many are as long
        last_sid = last_size = last_headers = None
        number = length = headers_length = 0
        while position < end:
            line_end = data.find(b"\r\n", position, position + MAX_LINE)
            if line_end < 0:
                if end - position >= MAX_LINE:
                    raise _Unreadable("a line is too long")
                self._keep(data, position, 1)
                return
            start = line_end + 2
            line = data[position:line_end]
            arguments = line.split(b" ")
            operation, count = arguments[0], len(arguments)
            if operation == b"MSG" and 3 < count < 6:
                headers, body = b"", start
                reply = arguments[3] if count == 5 else b""
            elif operation == b"HMSG" and 4 < count < 7:
                if arguments[-2] != last_headers:
                    last_headers = arguments[-2]
                    headers_length = _read_size(last_headers)
                body = start + headers_length
                headers = data[start:body]
                reply = arguments[3] if count == 6 else b""
            else:
                event = _read_line(line)
                if event is not None:
                    events.append(event)
                position = start
                continue
            subject, sid, size = arguments[1], arguments[2], arguments[-1]
            if sid != last_sid:
                last_sid, number = sid, _read_size(sid)
            if size != last_size:
                last_size, length = size, _read_size(size)
            stop = start + length
            if not subject:
                raise _Unreadable(_MALFORMED)
            if stop - start > MAX_MESSAGE:
                raise _Unreadable(_TOO_LARGE)
            if stop + 2 > end:
                self._keep(data, position, stop + 2 - end)
                return
            if body > stop or data[stop : stop + 2] != b"\r\n":
                raise _Unreadable("a message is not as long as it says")
            events.append(_new(Message, (number, subject, reply, headers, data[body:stop])))
            position = stop + 2

    def _keep(self, data: bytes, position: int, missing: int) -> None:
        self._parts.append(data[position:])
        self._missing = missing


def _read_run(data: bytes, sid: int, pattern: re.Pattern[bytes], events: list[Event]) -> bytes:
    """Read the messages that this begins with; return the rest: all of it if something else is in between."""
    parts = pattern.split(data)
    suffixes, sizes, bodies = parts[1::4], parts[2::4], parts[3::4]
    if any(parts[:-1:4]) or list(map(_DIGITS.get, map(len, bodies))) != sizes:
        return data
    if suffixes:
        events.append(_new(Run, (sid, suffixes, bodies)))
    return parts[-1]


def _read_size(digits: bytes) -> int:
    if not digits.isdigit():
        raise _Unreadable(_MALFORMED)
    if len(digits) > _MOST_DIGITS:
        raise _Unreadable(_TOO_LARGE)
    return int(digits)


def _read_line(line: bytes) -> Event | None:
    operation, _, rest = line.partition(b" ")
    match operation.rstrip(b" \t"):
        case b"PING":
            return Signal.PING
        case b"PONG":
            return Signal.PONG
        case b"+OK":
            return None
        case b"-ERR":
            return read_error(rest)
        case b"INFO":
            return _read_info(rest)
        case _:
            raise _Unreadable("an operation is unknown")


_SUBJECT: Final = re.compile(rb'violation for (?:publish|subscription) to "((?:[^"\\]|\\.)*)"', re.IGNORECASE)
_ESCAPED: Final = re.compile(
    rb"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U(00(?:0[0-9a-f]|10)[0-9a-f]{4})|(.))", re.DOTALL
)
_LETTERS: Final = {b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


def read_error(text: bytes) -> ServerError:
    """Parse the text after ``-ERR``, which is in single quotes; its wording determines the kind."""
    reported = text.strip().strip(b"'")
    small = reported.lower().decode("latin-1")
    kind = next(kind for kind in ErrorKind if small.startswith(kind.value))
    subject = _SUBJECT.search(reported) if kind in _FORBIDDEN else None
    return ServerError(kind, _ESCAPED.sub(_unescaped, subject[1]) if subject else b"")


def _unescaped(found: re.Match[bytes]) -> bytes:
    """Return the bytes of an escape sequence: subjects are quoted by Go's ``%q``."""
    byte, short, long, letter = found.groups()
    if byte is not None:
        return bytes((int(byte, 16),))
    if letter is not None:
        return _LETTERS.get(letter, letter)
    return chr(int(short or long, 16)).encode(errors="replace")


_FORBIDDEN: Final = (ErrorKind.PUBLISH_FORBIDDEN, ErrorKind.SUBSCRIPTION_FORBIDDEN)


def _read_info(text: bytes) -> ServerInfo:
    """Parse the JSON of ``INFO``. Fields that are missing or have a wrong type get their defaults."""
    try:
        reported = json.loads(text)
    except (ValueError, RecursionError):
        reported = None
    if not isinstance(reported, dict):
        raise _Unreadable("the server's INFO is not a JSON object")
    known: dict[str, Any] = {}
    for each in fields(ServerInfo):
        value = reported.get(each.name)
        if each.name == "connect_urls":
            known[each.name] = (
                tuple(url for url in value if isinstance(url, str)) if isinstance(value, list) else ()
            )
        elif type(value) is type(each.default):
            known[each.name] = value
    info = ServerInfo(**known)
    if info.max_payload < 1:
        raise _Unreadable("the server takes no messages")
    return info
