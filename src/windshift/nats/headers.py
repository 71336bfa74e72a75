"""Message headers: a block of bytes, built once and parsed only where needed (ADR-4).

A block is ``NATS/1.0``, optionally a status, then ``Name: value`` lines, then an empty line. No headers are
an empty block. JetStream's own header names are here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple, TypeAlias

HeaderLines: TypeAlias = tuple[tuple[bytes, bytes], ...]
"""Names and values in their order, repeated names and bytes that are no UTF-8 included."""

BEGIN: Final = b"NATS/1.0\r\n"
END: Final = b"\r\n"

MESSAGE_ID: Final = b"Nats-Msg-Id"
"""JetStream stores one message per id, stream and duplicates window."""
EXPECTED_LAST_SEQUENCE: Final = b"Nats-Expected-Last-Sequence"
EXPECTED_LAST_SUBJECT_SEQUENCE: Final = b"Nats-Expected-Last-Subject-Sequence"
EXPECTED_LAST_SUBJECT_SEQUENCE_SUBJECT: Final = b"Nats-Expected-Last-Subject-Sequence-Subject"
"""A pattern: whose last message is meant, where it is not the message's own subject."""
BATCH_ID: Final = b"Nats-Batch-Id"
"""Which messages belong together, in at most 64 characters (ADR-50)."""
BATCH_SEQUENCE: Final = b"Nats-Batch-Sequence"
"""Their numbers, from 1 up."""
BATCH_COMMIT: Final = b"Nats-Batch-Commit"
"""On the last of them, with the value ``1``: has all of them stored."""
TTL: Final = b"Nats-TTL"
"""Seconds after which the server removes the message: ``600`` or ``600s``. Others may write a Go duration."""
ROLLUP: Final = b"Nats-Rollup"
"""Has the message replace earlier ones, with the value ``sub`` or ``all``; other values are refused."""

MAX_BLOCK: Final = 65_535
"""The most bytes of headers that JetStream takes (``JSStreamHeaderExceedsMaximumErr``)."""

_BROKEN: Final = re.compile(rb"[\r\n]")
_BAD_NAME: Final = re.compile(rb"[^!-9;-~]")  # printable ASCII without the colon, as in HTTP


def line(name: bytes, value: bytes) -> bytes:
    """Return one line of a block.

    Raises:
        ValueError: the name or the value would end the line early, or the name is none.
    """
    if not name or _BAD_NAME.search(name) or _BROKEN.search(value):
        raise ValueError("a header's name or value has an invalid character")
    return b"%b: %b\r\n" % (name, value)


def block(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the block of some headers; empty for none. Raises `ValueError` as `line` does."""
    lines = b"".join([line(name, value) for name, value in headers])
    return BEGIN + lines + END if lines else b""


def split(headers: bytes) -> HeaderLines:
    """Return the lines of a block, without space around names and values. What is no line is left out."""
    parted = [each.partition(b":") for each in headers.split(b"\r\n")[1:]]
    return tuple([(name.strip(), value.strip()) for name, colon, value in parted if colon])


def get(headers: bytes, name: bytes) -> bytes | None:
    """Return the first value of a name, in exactly these letters; None if there is none."""
    start = headers.find(b"\r\n%b:" % name)
    if start < 0:
        return None
    return headers[start + len(name) + 3 :].partition(b"\r\n")[0].strip()


class Status(NamedTuple):
    """What a server says in the first line of a block, such as 503 for "nobody listens"."""

    code: int
    description: str


def status(headers: bytes) -> Status | None:
    """Return the status of a block; None of one without: a message like any other."""
    found = _STATUS.match(headers)
    return None if found is None else Status(int(found[1]), found[2].decode(errors="replace").strip())


_STATUS: Final = re.compile(rb"NATS/1\.0[ ]+([0-9]{3})([^\r\n]*)")
NO_RESPONDERS: Final = b"NATS/1.0 503"
"""How the block begins of the answer to a request that nobody listens to."""
