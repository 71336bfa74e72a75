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
from windshift.nats.errors import JetStreamError, MessageTooLarge, NoBucket, NoStream, NoTtl, Superseded
from windshift.nats.jetstream import codes
from windshift.nats.jetstream.api import JetStream, JsonObject, StoredMessage
from windshift.nats.jetstream.writes import Write, Writes
from windshift.nats.times import NANOSECONDS, Time

_OPERATION: Final = b"KV-Operation"
_DELETED: Final = h.block(((_OPERATION, b"DEL"),))
_MARKERS: Final = frozenset({b"DEL", b"PURGE"})
"""The values of `_OPERATION` on markers. A message with another, or none, is a value."""
_MARKER_REASON: Final = b"Nats-Marker-Reason"
"""Set by the server on its own markers, when a value expired or was purged."""

_PREFIX: Final = "KV_"

_OTHER_WRITE: Final = 0.005
"""Seconds until a read sees another write that a cluster has under way."""


class Record(NamedTuple):
    """A message of a key. Without a value it is a marker; sequence 0 = never written.

    Attributes:
        sequence: its sequence in the bucket's stream.
        value: what it holds.
        time: when it was written.
        ttl: seconds after that when it expires by itself; None = never, or when the bucket says.
    """

    sequence: int
    value: bytes | None = None
    time: Time = Time(0, 0)
    ttl: int | None = None


NEVER_WRITTEN: Final = Record(0)


class BucketInfo(NamedTuple):
    """A bucket, and how much it holds.

    Attributes:
        name: the bucket's name.
        keys: how many, with those whose last message is a marker.
        size: bytes.
        history: messages kept of each key.
        max_age_ns: age at which they expire, in nanoseconds; 0 = never.
        keeps_ttl: whether messages may expire by themselves.
    """

    name: str
    keys: int
    size: int
    history: int
    max_age_ns: int
    keeps_ttl: bool


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

    async def ensure(
        self,
        bucket: str,
        deadline: float,
        metadata: Mapping[str, str] | None = None,
        history: int = 1,
        max_age_ns: int = 0,
    ) -> None:
        """Create a bucket, with metadata perhaps; leave one that exists as it is.

        `history` is how many messages it keeps of each key, `max_age_ns` when they expire; 0 = never.
        """
        config = _config(bucket, self._default_replicas)
        config |= {"max_msgs_per_subject": history, "max_age": max_age_ns}
        if max_age_ns:  # a longer window is refused
            config["duplicate_window"] = min(config["duplicate_window"], max_age_ns)
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

    async def info(self, bucket: str, deadline: float) -> BucketInfo:
        """Describe a bucket."""
        try:
            return _info(await self._api.stream_info(_stream(bucket), deadline))
        except JetStreamError as error:
            raise _unless_missing(error, bucket) from error

    async def all(self, deadline: float) -> list[BucketInfo]:
        """Describe all buckets of the account."""
        return [
            _info(info)
            async for info in self._api.listed("STREAM.LIST", "streams", deadline)
            if info["config"]["name"].startswith(_PREFIX)
        ]

    async def delete(self, bucket: str, deadline: float) -> None:
        """Delete a bucket with all that is in it."""
        try:
            await self._api.change(f"STREAM.DELETE.{_stream(bucket)}", None, deadline)
        except JetStreamError as error:
            raise _unless_missing(error, bucket) from error

    async def keys(self, bucket: str, pattern: str, deadline: float) -> list[str]:
        """List the keys that match and have a message, those with a marker included."""
        start, found = len(_subject(bucket, "")), list[str]()
        try:
            async for subjects in self._api.subjects(_stream(bucket), _subject(bucket, pattern), deadline):
                found += [subject[start:] for subject in subjects]
        except JetStreamError as error:
            raise _unless_missing(error, bucket) from error
        return found

    async def history(self, bucket: str, key: str, deadline: float) -> list[Record]:
        """Read the messages that the bucket holds of a key from its leader, oldest first."""
        records: list[Record] = []
        query = {"seq": 1, "next_by_subj": _subject(bucket, key)}
        try:
            while (message := await self._api.message(_stream(bucket), query, deadline)) is not None:
                records.append(_record(message))
                query["seq"] = message.sequence + 1
        except JetStreamError as error:
            raise _unless_missing(error, bucket) from error
        return records

    async def put(
        self,
        bucket: str,
        key: str,
        value: bytes,
        deadline: float,
        expected: int | None = None,
        ttl: int | None = None,
    ) -> int:
        """Write a value, if `expected` is the sequence of the key's last message or `None`.

        `ttl` has it expire after so many seconds. Return the value's sequence. May also raise `NoTtl`.
        """
        headers = b"" if ttl is None else h.block(((h.TTL, b"%d" % ttl),))
        return await self._write(bucket, key, value, headers, deadline, expected)

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
            if error.err_code == codes.TTL_NOT_ENABLED:
                raise NoTtl(bucket) from None
            if error.err_code == codes.MESSAGE_TOO_LARGE:
                info = await self._api.stream_info(_stream(bucket), deadline)
                raise MessageTooLarge(int(info["config"]["max_msg_size"])) from error
            raise _unless_missing(error, bucket) from error


def _stream(bucket: str) -> str:
    return _PREFIX + bucket


def _info(info: JsonObject) -> BucketInfo:
    config, state = info["config"], info["state"]
    return BucketInfo(
        config["name"].removeprefix(_PREFIX),
        state.get("num_subjects", 0),
        state["bytes"],
        config.get("max_msgs_per_subject", 1),
        config.get("max_age", 0),
        bool(config.get("allow_msg_ttl")),
    )


def _subject(bucket: str, key: str) -> str:
    return f"$KV.{bucket}.{key}"


def _config(bucket: str, replicas: int) -> JsonObject:
    """Configure a bucket as NATS clients do: no limits.

    Values may expire by themselves (nats-server 2.11); the server then writes a marker in their place, which
    lives as long as the shortest value may: if it lived longer, such values would too (2.15).
    """
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
        "allow_msg_ttl": True,
        "subject_delete_marker_ttl": NANOSECONDS,
    }


def _record(message: StoredMessage) -> Record:
    is_marker = h.find(message.headers, _OPERATION) in _MARKERS
    if is_marker or h.find(message.headers, _MARKER_REASON) is not None:
        return Record(message.sequence, None, message.time)
    ttl = h.find(message.headers, h.TTL) or b""
    return Record(message.sequence, message.body, message.time, int(ttl) if ttl.isdigit() else None)


def _unless_missing(error: JetStreamError, bucket: str) -> Exception:
    return NoBucket(bucket) if error.err_code == codes.STREAM_NOT_FOUND else error
