"""Messages exactly as they lie in a stream, and what subjects a stream holds."""

from __future__ import annotations

from asyncio import sleep
from base64 import b64decode
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from windshift.server.nats.jetstream import JetStreamApi
from windshift.server.nats.timestamps import NANOSECONDS, Time, parse_rfc3339

HeaderLines: TypeAlias = tuple[tuple[bytes, bytes], ...]
"""Names and values in their order, repeated names and bytes that are no UTF-8 included."""

_NO_TIME: Final = Time(0, 0)
_AT_ONCE: Final = 1_000
"""Subjects that one turn of the event loop is busy with."""


class Stored(NamedTuple):
    """A message as a stream holds it, with its headers byte for byte."""

    subject: str
    sequence: int
    headers: HeaderLines
    body: bytes
    time: Time
    """When it was stored."""

    @property
    def unix_ns(self) -> int:
        """When it was stored, in nanoseconds since 1970."""
        return self.time.seconds * NANOSECONDS + self.time.nanos


def split_headers(block: bytes) -> HeaderLines:
    """Split a header block, a version line and then ``Name: value`` lines, without space around values."""
    parted = (line.partition(b":") for line in block.split(b"\r\n")[1:])
    return tuple((name.strip(), value.strip()) for name, colon, value in parted if colon)


async def read_exactly(
    api: JetStreamApi, stream: str, query: Mapping[str, Any], deadline: float
) -> Stored | None:
    """Read one message from the stream's leader; `None` if there is none.

    Raise `RefusedByBroker` (of a missing stream, too) or `BrokerUnavailable`; `deadline` is a loop time.
    """
    message = await api.raw_message(stream, query, deadline)
    if message is None:
        return None
    return Stored(
        message["subject"],
        message["seq"],
        split_headers(b64decode(message.get("hdrs", ""))),
        b64decode(message.get("data", "")),
        parse_rfc3339(message["time"]) or _NO_TIME,
    )


async def subjects(api: JetStreamApi, stream: str, pattern: str, deadline: float) -> AsyncIterator[list[str]]:
    """Ask the stream's leader for all subjects that match and have messages; yield some at a time.

    The broker gives at most 100,000 of them with one answer, and others get their turn meanwhile. What is
    added or removed between two such answers may be missed. Raise `RefusedByBroker` (of a missing stream,
    too) or `BrokerUnavailable`; `deadline` is a loop time.
    """
    offset = 0
    while True:
        request = {"subjects_filter": pattern, "offset": offset}
        answer = await api.call(f"STREAM.INFO.{stream}", request, deadline)
        found = list(answer["state"].get("subjects") or ())
        if not found:
            return
        for start in range(0, len(found), _AT_ONCE):
            yield found[start : start + _AT_ONCE]
            await sleep(0)
        offset += len(found)
        if offset >= int(answer.get("total") or 0):
            return
