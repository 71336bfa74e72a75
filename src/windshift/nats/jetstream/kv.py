"""Key-value buckets on JetStream, compatible with other NATS clients (ADR-8).

A bucket is a stream, a key is a subject, a revision is a sequence. A deleted key is a marker: a message
without a value whose headers say so. It has a sequence, which "create" on a deleted key must expect.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Final, NamedTuple

from windshift.nats import headers as h
from windshift.nats.errors import JetStreamError, MessageTooLarge, NoBucket, NoStream, Superseded
from windshift.nats.jetstream import codes
from windshift.nats.jetstream.api import JetStream, JsonObject, StoredMessage
from windshift.nats.jetstream.writes import Write, Writes
from windshift.nats.times import Time

_OPERATION: Final = b"KV-Operation"
_DELETED: Final = h.block(((_OPERATION, b"DEL"),))
_MARKERS: Final = frozenset({b"DEL", b"PURGE"})
"""The values of `_OPERATION` on markers. A message with another, or none, is a value."""
_MARKER_REASON: Final = b"Nats-Marker-Reason"
"""Set by the server on its own markers, when a value expired or was purged."""

_OTHER_WRITE: Final = 0.005
"""Seconds until a read sees another write that a cluster has under way."""


class Record(NamedTuple):
    """The last message of a key. Without a value it is a marker; sequence 0 = never written."""

    sequence: int
    value: bytes | None = None
    time: Time = Time(0, 0)
    """When it was written."""


NEVER_WRITTEN: Final = Record(0)


class Buckets:
    """All key-value buckets of one account. Deadlines are in the loop's time.

    Every method raises `NoBucket` and the errors of `JetStream`; writes also `Superseded` and the errors of
    `Writes.write`.
    """

    def __init__(self, api: JetStream, writes: Writes, default_replicas: int = 1) -> None:
        self._api = api
        self._writes = writes
        self._default_replicas = default_replicas

    async def exists(self, bucket: str, deadline: float) -> bool:
        """Tell whether there is such a bucket."""
        return await self._api.find_stream(_stream(bucket), deadline) is not None

    async def ensure(self, bucket: str, deadline: float, metadata: Mapping[str, str] | None = None) -> None:
        """Create a bucket, with metadata perhaps; leave one that exists as it is."""
        config = _config(bucket, self._default_replicas)
        if metadata:
            config["metadata"] = dict(metadata)
        try:
            await self._api.create_stream(config, deadline)
        except JetStreamError as error:
            if error.err_code != codes.STREAM_NAME_EXISTS:
                raise

    async def read(self, bucket: str, key: str, deadline: float) -> Record:
        """Read the last message of a key from the bucket's leader, which has every completed write."""
        query = {"last_by_subj": _subject(bucket, key)}
        try:
            message = await self._api.message(_stream(bucket), query, deadline)
        except JetStreamError as error:
            raise _unless_missing(error, bucket) from error
        return NEVER_WRITTEN if message is None else _record(message)

    async def put(
        self, bucket: str, key: str, value: bytes, deadline: float, expected: int | None = None
    ) -> int:
        """Write a value, if `expected` is the sequence of the key's last message or `None`.

        Return the value's sequence.
        """
        return await self._write(bucket, key, value, b"", deadline, expected)

    async def mark_deleted(self, bucket: str, key: str, deadline: float, expected: int | None = None) -> None:
        """Delete a key; otherwise like `put`."""
        await self._write(bucket, key, b"", _DELETED, deadline, expected)

    async def _write(
        self, bucket: str, key: str, value: bytes, headers: bytes, deadline: float, expected: int | None
    ) -> int:
        if expected is not None:
            condition = h.line(h.EXPECTED_LAST_SUBJECT_SEQUENCE, b"%d" % expected)
            headers = (headers.removesuffix(h.END) or h.BEGIN) + condition + h.END
        # A second attempt could undo somebody else's write in between, so nothing here is repeatable.
        write = Write(_subject(bucket, key).encode(), value, headers, deadline)
        try:
            return (await self._writes.write(write)).sequence
        except NoStream:
            raise NoBucket(bucket) from None
        except JetStreamError as error:
            if error.err_code == codes.WRONG_LAST_SEQUENCE_UNTOLD:
                await asyncio.sleep(random.random() * _OTHER_WRITE)
                raise Superseded from None
            if error.err_code == codes.WRONG_LAST_SEQUENCE:
                raise Superseded from None
            if error.err_code == codes.MESSAGE_TOO_LARGE:
                info = await self._api.stream_info(_stream(bucket), deadline)
                raise MessageTooLarge(int(info["config"]["max_msg_size"])) from error
            raise _unless_missing(error, bucket) from error


def _stream(bucket: str) -> str:
    return f"KV_{bucket}"


def _subject(bucket: str, key: str) -> str:
    return f"$KV.{bucket}.{key}"


def _config(bucket: str, replicas: int) -> JsonObject:
    """Configure a bucket as NATS clients do: one value per key, no limits."""
    return {
        "name": _stream(bucket),
        "subjects": [_subject(bucket, ">")],
        "max_msgs_per_subject": 1,
        "storage": "file",
        "num_replicas": replicas,
        "discard": "new",
        "duplicate_window": 120_000_000_000,
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
    }


def _record(message: StoredMessage) -> Record:
    is_marker = h.find(message.headers, _OPERATION) in _MARKERS
    if is_marker or h.find(message.headers, _MARKER_REASON) is not None:
        return Record(message.sequence, None, message.time)
    return Record(message.sequence, message.body, message.time)


def _unless_missing(error: JetStreamError, bucket: str) -> Exception:
    return NoBucket(bucket) if error.err_code == codes.STREAM_NOT_FOUND else error
