"""Key-value buckets on JetStream, compatible with other NATS clients (ADR-8).

A bucket is a stream, a key is a subject, a revision is a sequence. A deleted key is a marker: a message
without a value whose headers say so. It has a sequence, which "create" on a deleted key must expect.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from windshift.nats import headers as h
from windshift.nats.errors import (
    Forbidden,
    JetStreamError,
    MessageTooLarge,
    NoBatches,
    NoBucket,
    NoStream,
    NoTtl,
    Superseded,
    Unavailable,
)
from windshift.nats.jetstream import codes
from windshift.nats.jetstream.acks import PubAck
from windshift.nats.jetstream.api import (
    JetStream,
    JsonObject,
    StoredMessage,
    following_config,
    last_by_subject,
)
from windshift.nats.jetstream.writes import Part, Write, Writes, see_other_write, together
from windshift.nats.retry import retry
from windshift.nats.times import NANOSECONDS, Time, parse_duration

log = logging.getLogger(__name__)

_OPERATION: Final = b"KV-Operation"
_MARKERS: Final = frozenset({b"DEL", b"PURGE"})
"""The values of `_OPERATION` on markers. A message with another, or none, is a value."""
_MARKER_REASON: Final = b"Nats-Marker-Reason"
"""Set by the server on its own markers, when a value expired or was purged."""

_PREFIX: Final = "KV_"
_BATCHES: Final = "allow_atomic"
_MARKED: Final = 300 * NANOSECONDS
"""How long the server keeps its own markers."""


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


_new: Final = tuple.__new__  # as a named tuple's own __new__ does, in less than half of the time
NEVER_WRITTEN: Final = Record(0)


class Put(NamedTuple):
    """A write of a key.

    Attributes:
        key: the key.
        value: what it is to hold; None = delete it.
        expected: the sequence of a key's last message that this is conditional on; None = none.
        ttl: seconds after which the value expires; None = never.
        expected_of: whose last message is meant; empty = the key's own.
    """

    key: str
    value: bytes | None
    expected: int | None = None
    ttl: int | None = None
    expected_of: str = ""


class BucketInfo(NamedTuple):
    """A bucket, and how much it holds.

    Attributes:
        name: the bucket's name.
        keys: how many, with those whose last message is a marker.
        size: bytes.
        history: messages kept of each key.
        max_age_ns: age at which they expire, in nanoseconds; 0 = never.
        largest: bytes of a message with its headers; 0 = what the server takes at all.
        keeps_ttl: whether messages may expire by themselves.
        keeps_batches: whether messages may be stored all or none.
        created: when it was made, as the server writes it.
        last_sequence: of the last message ever written; 0 = none.
    """

    name: str
    keys: int
    size: int
    history: int
    max_age_ns: int
    largest: int
    keeps_ttl: bool
    keeps_batches: bool
    created: str
    last_sequence: int


@dataclass(eq=False)
class Buckets:
    """All key-value buckets of one account. Deadlines are in the loop's time.

    `asker` tells for whom a write is made, see `Write`; `writes` makes them, and `api` reads.

    Every method raises `NoBucket` and the errors of `JetStream`; writes also `Superseded` and the errors of
    `Writes.write`.
    """

    api: JetStream
    writes: Writes
    _default_replicas: int = 1
    _asker: Callable[[], str] = lambda: ""

    async def ensure(
        self,
        bucket: str,
        deadline: float,
        metadata: Mapping[str, str] | None = None,
        history: int = 1,
        max_age_ns: int = 0,
    ) -> None:
        """Create a bucket, with metadata perhaps; leave one that exists as it is, but for batches.

        `history` is how many messages it keeps of each key, `max_age_ns` when they expire; 0 = never.
        """
        config = _config(bucket, self._default_replicas)
        config |= {"max_msgs_per_subject": history, "max_age": max_age_ns}
        if max_age_ns:  # a longer window is refused
            config["duplicate_window"] = min(config["duplicate_window"], max_age_ns)
        if metadata:
            config["metadata"] = dict(metadata)
        async for _ in retry(deadline):
            if await self.allow_batches(bucket, deadline):
                return
            try:
                await self.api.create_stream(config, deadline)
            except JetStreamError as error:
                if error.err_code != codes.STREAM_NAME_EXISTS:  # somebody else was faster
                    raise
            else:
                return
        raise Unavailable

    async def allow_batches(self, bucket: str, deadline: float) -> bool:
        """Let a bucket store messages all or none, if it can, and if this user may change it.

        Return whether there is such a bucket.
        """
        found = await self.api.find_stream(stream_of(bucket), deadline)
        if found is None:
            return False
        if not found.config.get(_BATCHES):
            try:
                await self.api.update_stream(found.config | {_BATCHES: True}, deadline)
            except (JetStreamError, Forbidden) as error:  # a mirror cannot
                if error.err_code == codes.STREAM_NOT_FOUND:
                    return False
                log.info("bucket %s does not take several messages all or none", bucket)
        return True

    async def read(self, bucket: str, key: str, deadline: float) -> Record:
        """Read the last message of a key from the bucket's leader, which has every completed write."""
        message = self.api.message(stream_of(bucket), last_of(bucket, key), deadline)
        return await self.record(bucket, message)

    async def record(self, bucket: str, reading: Awaitable[StoredMessage | None]) -> Record:
        """Wait for the last message of a key, and return what it says."""
        try:  # as `_existing` does, which costs more: this is the hot path
            message = await reading
        except JetStreamError as error:
            raise _unless_missing(error, bucket) from error
        return NEVER_WRITTEN if message is None else record_of(message)

    async def info(self, bucket: str, deadline: float) -> BucketInfo:
        """Describe a bucket."""
        with _existing(bucket):
            return _info(await self.api.stream_info(stream_of(bucket), deadline))

    async def all(self, deadline: float) -> list[BucketInfo]:
        """Describe all buckets of the account."""
        return [
            _info(info)
            async for info in self.api.listed("STREAM.LIST", "streams", deadline)
            if info["config"]["name"].startswith(_PREFIX)
        ]

    async def delete(self, bucket: str, deadline: float) -> None:
        """Delete a bucket with all that is in it."""
        with _existing(bucket):
            await self.api.delete_stream(stream_of(bucket), deadline)

    async def keys(self, bucket: str, pattern: str, deadline: float) -> AsyncIterator[list[str]]:
        """Yield the keys that match and have a message, those with a marker included, some at a time."""
        start = len(_subject(bucket, ""))
        with _existing(bucket):
            async for subjects in self.api.subjects(stream_of(bucket), _subject(bucket, pattern), deadline):
                yield [subject[start:] for subject in subjects]

    async def read_next(self, bucket: str, key: str, after: int, deadline: float) -> Record:
        """Read the first message of a key after a sequence from the bucket's leader."""
        query = {"seq": after + 1, "next_by_subj": _subject(bucket, key)}
        return await self.record(bucket, self.api.message(stream_of(bucket), query, deadline))

    async def follow(
        self,
        bucket: str,
        pattern: str,
        begin: int | None,
        name: str,
        metadata: Mapping[str, str],
        deadline: float,
    ) -> int:
        """Create a consumer for a `Follower`, and return how many messages it has.

        It begins at a sequence, or, for None, with the last message of each key that matches.
        """
        config = following_config(name, (_subject(bucket, pattern),)) | {"metadata": dict(metadata)}
        if begin is None:
            config |= {"deliver_policy": "last_per_subject"}
        else:
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": begin}
        with _existing(bucket):
            return await self.api.create_hidden_consumer(stream_of(bucket), config, deadline)

    async def put(self, bucket: str, put: Put, deadline: float) -> int:
        """Write a key, and return the sequence of its message. May also raise `NoTtl`."""
        return await self._store(bucket, [put], deadline)

    async def put_all(self, bucket: str, puts: Sequence[Put], deadline: float, largest: int) -> list[int]:
        """Make all writes or none, one after the other, each of another key; return their sequences.

        May also raise `NoTtl`. Ask first whether the bucket `keeps_batches`, for more than one, and what is
        the `largest` message: the server does not tell of one before the last that it did not take.
        """
        last = await self._store(bucket, puts, deadline, largest)
        return list(range(last - len(puts) + 1, last + 1))

    async def _store(self, bucket: str, puts: Sequence[Put], deadline: float, largest: int = 0) -> int:
        asker = self._asker()
        if len(puts) > 1:
            parts = [_part(bucket, put) for put in puts]
            write = together(parts, deadline)._replace(asker=asker)
            if largest and any(len(part.headers) + len(part.body) > largest for part in write.before):
                raise MessageTooLarge(largest)
        else:  # on one replica the server writes a batch to a file of its own first
            write = write_of(bucket, puts[0], deadline, asker)
        return await self.stored(bucket, self.writes.write(write), deadline)

    async def stored(self, bucket: str, storing: Awaitable[PubAck], deadline: float) -> int:
        """Wait for the acknowledgement of a write to a bucket; return its sequence. Raise what `put` does."""
        try:
            return (await storing).sequence
        except NoStream:
            raise NoBucket(bucket) from None
        except JetStreamError as error:
            await see_other_write(error)
            if error.err_code == codes.MESSAGE_TOO_LARGE:
                info = await self.api.stream_info(stream_of(bucket), deadline)
                raise MessageTooLarge(int(info["config"]["max_msg_size"])) from error
            raise _refusal(error, bucket) from error


def write_of(bucket: str, put: Put, deadline: float, asker: str) -> Write:
    """Return a write of one key, for `Writes`.

    A second attempt could undo somebody else's write in between, so it is not repeatable.
    """
    return Write(*_part(bucket, put), deadline, asker=asker)


def _part(bucket: str, put: Put) -> Part:
    headers = []
    if put.value is None:
        headers.append((_OPERATION, b"DEL"))
    if put.ttl is not None:
        headers.append((h.TTL, b"%d" % put.ttl))
    if put.expected is not None:
        headers.append((h.EXPECTED_LAST_SUBJECT_SEQUENCE, b"%d" % put.expected))
        if put.expected_of:
            other = _subject(bucket, put.expected_of).encode()
            headers.append((h.EXPECTED_LAST_SUBJECT_SEQUENCE_SUBJECT, other))
    return Part(_subject(bucket, put.key).encode(), put.value or b"", h.block(headers))


def _refusal(error: JetStreamError, bucket: str) -> Exception:
    match error.err_code:
        case codes.WRONG_LAST_SEQUENCE | codes.WRONG_LAST_SEQUENCE_UNTOLD:
            return Superseded()
        case codes.TTL_NOT_ENABLED:
            return NoTtl(bucket)
        case codes.BATCHES_NOT_ENABLED:
            return NoBatches(bucket)
        case _:
            return _unless_missing(error, bucket)


def stream_of(bucket: str) -> str:
    """Return the name of a bucket's stream."""
    return _PREFIX + bucket


def last_of(bucket: str, key: str) -> bytes:
    """Return the query for the last message of a key."""
    return last_by_subject(_subject(bucket, key))


def _info(info: JsonObject) -> BucketInfo:
    config, state = info["config"], info["state"]
    return BucketInfo(
        config["name"].removeprefix(_PREFIX),
        state.get("num_subjects", 0),
        state["bytes"],
        config.get("max_msgs_per_subject", 1),
        config.get("max_age", 0),
        max(0, config.get("max_msg_size", 0)),
        bool(config.get("allow_msg_ttl")),
        bool(config.get(_BATCHES)),
        info["created"],
        state["last_seq"],
    )


def _subject(bucket: str, key: str) -> str:
    return f"$KV.{bucket}.{key}"


def _config(bucket: str, replicas: int) -> JsonObject:
    """Configure a bucket as NATS clients do: no limits.

    Values may expire by themselves (nats-server 2.11); the server then writes a marker in their place, for
    those who follow the bucket, also when they were away for a while. With a history, values could not
    expire before such a marker would (2.15).
    """
    return {
        "name": stream_of(bucket),
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
        "subject_delete_marker_ttl": _MARKED,
        _BATCHES: True,
    }


def read_message(bucket: str, message: StoredMessage) -> tuple[str, Record]:
    """Return which key a message is of, and what it says."""
    return message.subject[len(_subject(bucket, "")) :], record_of(message)


def record_of(message: StoredMessage) -> Record:
    """Return what a message of a key says."""
    if not message.block:
        return _new(Record, (message.sequence, message.body, message.time, None))
    is_marker = h.get(message.block, _OPERATION) in _MARKERS
    if is_marker or h.get(message.block, _MARKER_REASON) is not None:
        return Record(message.sequence, None, message.time)
    ttl = h.get(message.block, h.TTL)
    return Record(message.sequence, message.body, message.time, None if ttl is None else _seconds(ttl))


@lru_cache(maxsize=64)
def _seconds(ttl: bytes) -> int | None:
    """Read a time to live as the server does, cut to whole seconds; None = the message stays.

    Cached, since the values of a bucket mostly share it.
    """
    text = ttl.decode(errors="replace")
    return (parse_duration(f"{text}s" if ttl.isdigit() else text) or 0) // NANOSECONDS or None


def _unless_missing(error: JetStreamError, bucket: str) -> Exception:
    return NoBucket(bucket) if error.err_code == codes.STREAM_NOT_FOUND else error


@contextmanager
def _existing(bucket: str) -> Iterator[None]:
    """Raise `NoBucket` in place of the server's error."""
    try:
        yield
    except JetStreamError as error:
        raise _unless_missing(error, bucket) from error
