"""NATS key-value buckets on JetStream: what other NATS clients read and write is what stands here (ADR-8).

A bucket is a stream, a key is a subject of it, a revision is a sequence. A deleted key is a marker: a message
without a value whose headers say so. It keeps its sequence, so "create" on a deleted key must expect that.
"""

from __future__ import annotations

import asyncio
import random
from typing import Final, NamedTuple

from windshift.server.errors import (
    EventTooLarge,
    StoreNotFound,
    StreamFull,
    UnboundSubject,
    UnsupportedCombination,
)
from windshift.server.nats import headers as h
from windshift.server.nats.jetstream import (
    INVALID_CONFIG,
    MESSAGE_TOO_LARGE,
    NAME_IN_USE,
    STREAM_NOT_FOUND,
    WRONG_LAST_SEQUENCE,
    WRONG_LAST_SEQUENCE_UNTOLD,
    JetStreamApi,
    JsonObject,
    RefusedByBroker,
    StoredMessage,
    domain_error,
)
from windshift.server.nats.writes import Write, Writes

_OPERATION: Final = "KV-Operation"
_DELETED: Final = "DEL"
_MARKERS: Final = frozenset({_DELETED, "PURGE"})
"""What clients set `_OPERATION` to on a marker. With any other operation, or none, a message is a value."""
_MARKER_REASON: Final = "Nats-Marker-Reason"
"""Set by the broker on a marker of its own, when a value expired or was purged."""


_OTHER_WRITE: Final = 0.005
"""Seconds that another write, which a cluster has under way, may take to be seen by a read."""


class Record(NamedTuple):
    """The last message of a key. Without a value it is a marker; sequence 0 is none at all."""

    sequence: int
    value: bytes | None = None
    time: str = ""
    """When it was written: RFC 3339 in UTC."""


NEVER_WRITTEN: Final = Record(0)


class Superseded(Exception):
    """A write expected another last sequence of its key; nothing was stored."""


class Buckets:
    """All key-value buckets of one account. Deadlines are in the loop's time."""

    def __init__(self, api: JetStreamApi, writes: Writes, default_replicas: int = 1) -> None:
        self._api = api
        self._writes = writes
        self._default_replicas = default_replicas

    async def ensure(self, bucket: str, deadline: float) -> None:
        """Create a bucket; leave one that exists as it is."""
        try:
            await self._api.change(
                f"STREAM.CREATE.{_stream(bucket)}", _config(bucket, self._default_replicas), deadline
            )
        except RefusedByBroker as refusal:
            if refusal.err_code == NAME_IN_USE:
                return
            error = _error(refusal, bucket)
            if isinstance(error, RefusedByBroker) and (error.code == 400 or error.err_code == INVALID_CONFIG):
                error = UnsupportedCombination(f"the broker refuses this store: {refusal.description}")
            raise error from refusal

    async def read(self, bucket: str, key: str, deadline: float) -> Record:
        """Read the last message of a key from the bucket's leader, so that every completed write is seen.

        Raise `StoreNotFound`, `BrokerUnavailable`.
        """
        query = {"last_by_subj": _subject(bucket, key)}
        try:
            message = await self._api.message(_stream(bucket), query, deadline)
        except RefusedByBroker as refusal:
            raise _error(refusal, bucket) from refusal
        return NEVER_WRITTEN if message is None else _record(message)

    async def put(
        self, bucket: str, key: str, value: bytes, deadline: float, expected: int | None = None
    ) -> int:
        """Write a value, if `expected` is the sequence of the key's last message or `None`.

        Return the value's sequence. Raise `Superseded`, and the errors of `Writes.write`; `StoreNotFound`.
        """
        return await self._write(bucket, key, value, {}, deadline, expected)

    async def mark_deleted(self, bucket: str, key: str, deadline: float, expected: int | None = None) -> None:
        """Delete a key; otherwise like `put`."""
        await self._write(bucket, key, b"", {_OPERATION: _DELETED}, deadline, expected)

    async def _write(
        self,
        bucket: str,
        key: str,
        value: bytes,
        headers: dict[str, str],
        deadline: float,
        expected: int | None,
    ) -> int:
        if expected is not None:
            headers[h.EXPECTED_LAST_SUBJECT_SEQUENCE] = str(expected)
        # A second attempt could undo somebody else's write in between: nothing here is repeatable.
        write = Write(_subject(bucket, key), value, headers or None, deadline)
        try:
            return (await self._writes.write(write)).sequence
        except UnboundSubject:
            raise StoreNotFound(bucket) from None
        except RefusedByBroker as refusal:
            if refusal.err_code == WRONG_LAST_SEQUENCE_UNTOLD:
                await asyncio.sleep(random.random() * _OTHER_WRITE)
                raise Superseded from None
            if refusal.err_code == WRONG_LAST_SEQUENCE:
                raise Superseded from None
            if refusal.err_code == MESSAGE_TOO_LARGE:
                raise EventTooLarge(await self._size_limit(bucket, deadline)) from refusal
            if refusal.is_full:
                raise StreamFull from refusal
            raise _error(refusal, bucket) from refusal

    async def _size_limit(self, bucket: str, deadline: float) -> int:
        info = await self._api.stream_info(_stream(bucket), deadline)
        return int(info["config"]["max_msg_size"])


def _stream(bucket: str) -> str:
    return f"KV_{bucket}"


def _subject(bucket: str, key: str) -> str:
    return f"$KV.{bucket}.{key}"


def _config(bucket: str, replicas: int) -> JsonObject:
    """Word a bucket as NATS clients do: one value per key, no limits."""
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
    if message.headers.get(_OPERATION) in _MARKERS or _MARKER_REASON in message.headers:
        return Record(message.sequence, None, message.time)
    return Record(message.sequence, message.body, message.time)


def _error(refusal: RefusedByBroker, bucket: str) -> Exception:
    if refusal.err_code == STREAM_NOT_FOUND:
        return StoreNotFound(bucket)
    return domain_error(refusal)
