"""Streams of Windshift itself: created when missing, and written to conditionally."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from windshift.nats import JetStreamError, NatsError, NoDirectGet, NoStream, retry
from windshift.nats import headers as h
from windshift.nats.headers import HeaderLines
from windshift.nats.jetstream import codes
from windshift.nats.jetstream.acks import PubAck
from windshift.nats.jetstream.api import (
    LONGEST_SUBJECT,
    Batch,
    JetStream,
    JsonObject,
    StoredMessage,
    StreamState,
)
from windshift.nats.jetstream.writes import Write, Writes, see_other_write
from windshift.server.broker.asking import asking
from windshift.server.domain.broker_errors import broker_errors, domain_error
from windshift.server.domain.errors import (
    BrokerUnavailable,
    OutcomeUnknown,
    StreamFull,
    StreamLimit,
    SubjectsOverlap,
    TooManyInFlight,
    WindshiftError,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

_EXPECTED_STREAM: Final = b"Nats-Expected-Stream"
_OTHERWISE: Final = frozenset({codes.OTHER_STREAM, codes.ROLLUP_NOT_ALLOWED, codes.TTL_NOT_ENABLED})
"""The stream does not exist, or is not configured as it has to be."""
_ATTEMPTS_ON_DISK: Final = 4
_LARGE: Final = 10_000
"""Messages that the broker counts without anybody noticing."""
_SAMPLE: Final = 50


class Conflict(Exception):
    """The subject's last message is not the expected one; this attempt stored nothing.

    Uncertain on a cluster, where another write may have been under way that then failed.
    """

    def __init__(self, *, is_certain: bool) -> None:
        super().__init__()
        self.is_certain = is_certain


class TooManyResults(Exception):
    """The broker does not look for so many last messages at once."""


_TOO_MANY: Final = 413
_UNLIMITED: Final = -1
_STEP: Final = 4
"""By how much less is asked for when the broker cannot set aside as much: most of it is for others."""
_SMALLEST: Final = 256 * 1024
_SHARE: Final = 10
"""One such part of what an account may store is the most for a stream whose limit nobody asked for."""
_ASKED_FOR: Final = 2.0
"""Seconds that the broker has to tell what an account may store."""
_WHERE_REQUIRED: Final = 1 << 30
"""Bytes of a stream that is to have no limit where the broker wants one."""


@dataclass(frozen=True, slots=True)
class SizeLimit:
    """How many bytes a stream may have.

    Attributes:
        max_bytes: so many; 0 = no limit. Less when the broker cannot set aside as much.
        is_demanded: whether somebody asked for it. If not, an existing stream that has a limit keeps it, and
            one that has none gets twice as much as it holds, at least.
    """

    max_bytes: int = 0
    is_demanded: bool = False

    def of(self, stored: StreamState) -> Iterable[int]:
        """Return which ``max_bytes`` an existing stream should have, one after the other if it cannot."""
        if self.is_demanded:
            return sizes(self.max_bytes)
        if int(stored.config.get("max_bytes") or _UNLIMITED) > 0 or not self.max_bytes:
            return ()
        return sizes(max(self.max_bytes, 2 * stored.size))


def sizes(max_bytes: int) -> Iterator[int]:
    """Yield which ``max_bytes`` a stream should have, one after the other if the broker refuses them."""
    if not max_bytes:
        yield _UNLIMITED
    size = max_bytes or _WHERE_REQUIRED
    yield size
    while (size := size // _STEP) >= _SMALLEST:
        yield size
    if max_bytes:
        yield _UNLIMITED


@dataclass(eq=False)
class ManagedStream:
    """A stream that Windshift keeps for itself. While it does not exist, it reads as empty.

    Deadlines are in the loop's time. Reads are answered by the stream's leader, so that they see every
    completed write; they raise `BrokerUnavailable`.

    Attributes:
        name: its name.
        messages: how many it held when it was looked at last.
    """

    _api: JetStream
    _writes: Writes
    _config: JsonObject
    """Of a new stream. Of an existing one, only the keys in `_needed` are set and the number of replicas is
    raised; everything else is the operator's."""
    _needed: Sequence[str]
    """Keys without which the stream is useless."""
    _replicas: int
    """Replicas of a new stream, unless more are asked for."""
    _limit: SizeLimit = field(default_factory=SizeLimit)
    _asked: int | None = None
    messages: int = 0

    def __post_init__(self) -> None:
        self.name: str = self._config["name"]

    async def ensure(self, replicas: int | None, deadline: float) -> None:
        """Create the stream, or give it what it needs and at least this many replicas.

        Raise `BrokerUnavailable`, `OutcomeUnknown`, `StreamFull`, `ReplicasUnavailable` or `SubjectsOverlap`.
        """
        self._asked = max(replicas or 0, self._asked or 0) or None
        async for attempt in retry(deadline):
            try:
                return await self._ensure(deadline)
            except NatsError as error:
                # While nats-server removes its last stream, it may have no directory for a new one.
                is_passing = codes.is_broken_disk(error) and attempt < _ATTEMPTS_ON_DISK
                if error.err_code not in codes.STREAM_OVERTAKEN and not is_passing:
                    raise domain_error(error, stream=self.name) from error
        raise BrokerUnavailable

    async def _ensure(self, deadline: float) -> None:
        stored = await self._api.find_stream(self.name, deadline)
        if stored is None:
            await self._create(deadline)
            return
        wanted = changed_config(stored.config, self._config, self._needed, self._asked)
        if wanted != stored.config:
            await self._api.update_stream(wanted, deadline)

    async def _create(self, deadline: float) -> None:
        replicas = self._asked or self._replicas
        config = self._config | {"num_replicas": replicas}

        async def create(max_bytes: int) -> None:
            await self._api.create_stream(config | {"max_bytes": max_bytes}, deadline)

        await _with_size(sizes(await self._size(replicas, deadline)), create)

    async def _size(self, replicas: int, deadline: float) -> int:
        """Return how many bytes are to be set aside for a new stream; 0 = no limit."""
        size = self._limit.max_bytes
        if not size or self._limit.is_demanded:
            return size
        soon = min(deadline, asyncio.get_running_loop().time() + _ASKED_FOR)
        allowed = await self._api.storage_limit(replicas, soon)
        return size if allowed is None else min(size, max(_SMALLEST, allowed // _SHARE))

    async def apply_limit(self, deadline: float) -> None:
        """Give an existing stream its limit. May also raise `OutcomeUnknown`, `StreamFull` and others."""

        async def update(max_bytes: int) -> None:
            wanted = found.config | {"max_bytes": max_bytes, "discard": "new"}
            if wanted != found.config:
                await self._api.update_stream(wanted, deadline)

        with broker_errors(stream=self.name):
            stored = await self._api.find_stream(self.name, deadline)
            if stored is not None:
                found = stored
                await _with_size(self._limit.of(stored), update)

    async def put(
        self,
        subject: str,
        body: bytes,
        headers: HeaderLines,
        deadline: float,
        expected: int | None = None,
        among: str = "",
    ) -> PubAck:
        """Store a message if `expected` is the sequence of the subject's last one (0: none) or `None`.

        With `among`, a pattern, it is that of the last one among these subjects. What is written on one such
        condition must never be written without it.

        Create the stream when it is missing. Attempts are repeated, so storing the message twice must be
        harmless, or impossible under the condition. Raise `Conflict`, perhaps caused by an earlier attempt of
        this very call; `StreamFull`; `BrokerUnavailable` when nothing was stored; `OutcomeUnknown`.
        """
        conditions = [(_EXPECTED_STREAM, self.name.encode())]
        if expected is not None:
            conditions.append((h.EXPECTED_LAST_SUBJECT_SEQUENCE, b"%d" % expected))
        if among:
            conditions.append((h.EXPECTED_LAST_SUBJECT_SEQUENCE_SUBJECT, among.encode()))
        block = h.block((*headers, *conditions))
        write = Write(subject.encode(), body, block, deadline, repeatable=True, asker=asking.get())
        async for _ in retry(deadline):
            try:
                return await self._writes.write(write)
            except NoStream:
                pass
            except TooManyInFlight:
                raise BrokerUnavailable from None
            except NatsError as error:
                if error.err_code not in _OTHERWISE:
                    raise await _refusal(error, self.name) from error
            await self._recreate(deadline)
        raise BrokerUnavailable

    async def _recreate(self, deadline: float) -> None:
        log.info("stream %s does not exist, or not as it should be; creating it", self.name)
        try:
            await self.ensure(None, deadline)
        except (BrokerUnavailable, StreamFull, StreamLimit):
            raise
        except OutcomeUnknown:  # of creating the stream; the message was not stored
            raise BrokerUnavailable from None
        except SubjectsOverlap as error:
            raise BrokerUnavailable(
                f"another stream takes the subjects of {self.name}", "it must not, remove them there"
            ) from error
        except WindshiftError as error:
            log.exception("stream %s cannot be created", self.name)
            raise BrokerUnavailable(f"stream {self.name} cannot be made", "") from error

    async def info(self, deadline: float) -> JsonObject | None:
        """Return the broker's description of the stream; `None` if it does not exist."""
        info = await _unless_missing(self._api.stream_info(self.name, deadline))
        self.messages = 0 if info is None else int(info["state"]["messages"])
        return info

    async def last_position(self, deadline: float) -> int:
        """Return the sequence of the last message that was ever stored; 0 for none."""
        info = await self.info(deadline)
        return 0 if info is None else int(info["state"]["last_seq"])

    async def next_position(self, pattern: str, after: int, deadline: float) -> int | None:
        """Return the sequence of the first message after another that matches; `None` for none."""
        found = await self.message({"seq": after + 1, "next_by_subj": pattern}, deadline)
        return None if found is None else found.sequence

    async def message(self, query: JsonObject, deadline: float) -> StoredMessage | None:
        """Read a message; `None` if there is none."""
        return await _unless_missing(self._api.message(self.name, query, deadline))

    async def last(self, subject: str, deadline: float) -> StoredMessage | None:
        """Read the last message of a subject; `None` if there is none."""
        return await self.message({"last_by_subj": subject}, deadline)

    async def batch(self, query: JsonObject, deadline: float) -> Batch:
        """Read many messages with one request. Any replica answers, so the latest may be missing.

        Raise `TooManyResults` if more than 1,024 match a query with ``multi_last``.
        """
        async for _ in retry(deadline):
            try:
                return await self._api.batch(self.name, query, deadline)
            except NoDirectGet:  # an earlier version made the stream, or it is gone
                info = await self.info(deadline)
                if info is None:
                    return Batch([], 0)
                if not info["config"].get("allow_direct"):
                    await self.ensure(None, deadline)
            except NatsError as error:
                if isinstance(error, JetStreamError) and error.code == _TOO_MANY:
                    raise TooManyResults from error
                raise domain_error(error) from error
        raise BrokerUnavailable

    async def count(self, pattern: str, deadline: float) -> int:
        """Count the messages that match. Any replica answers, so the latest may be missing."""
        batch = await self.batch({"seq": 1, "next_by_subj": pattern, "batch": 1}, deadline)
        return len(batch.messages) + batch.left

    async def scan(self, pattern: str, query: JsonObject, deadline: float) -> Batch:
        """Read messages in their order: those that match a pattern, and perhaps others among them.

        With each answer to a query with a pattern the broker counts all that match from there on, about a
        microsecond for each, and does nothing else for this connection. So in a large stream a sample shows
        whether to read the next messages whatever they are: 500 of them cost as much as counting `_LARGE`.
        """
        prefix = _prefix(pattern)
        if self.messages > _LARGE and prefix:
            sample = (await self.batch(query | {"batch": min(query["batch"], _SAMPLE)}, deadline)).messages
            share = sum(each.subject.startswith(prefix) for each in sample) / max(1, len(sample))
            if share * share * self.messages >= _LARGE:
                return await self.batch(query, deadline)
        return await self.batch(query | {"next_by_subj": pattern}, deadline)

    async def subjects(
        self, pattern: str, deadline: float, longest: int = LONGEST_SUBJECT
    ) -> AsyncIterator[str]:
        """Yield the subjects of all messages that match, of which none has more than so many bytes."""
        found = aiter(self._api.subjects(self.name, pattern, deadline, longest))
        while some := await _unless_missing(anext(found, None)):
            for subject in some:
                yield subject

    async def delete(self, sequence: int, deadline: float) -> bool:
        """Remove a message; false when there was none. May also raise `OutcomeUnknown`."""
        with broker_errors():
            return await self._api.delete_message(self.name, sequence, deadline)

    async def delete_last(self, subject: str, deadline: float) -> None:
        """Remove the last message of a subject, if there is one. May also raise `OutcomeUnknown`."""
        found = await self.last(subject, deadline)
        if found is not None:
            await self.delete(found.sequence, deadline)

    async def purge(self, pattern: str, deadline: float, upto: int | None = None) -> int:
        """Remove all messages that match, up to a sequence; return how many. May raise `OutcomeUnknown`."""
        if upto == 0:  # nats-server before 2.14.2 would take it for no bound
            return 0
        which = {"filter": pattern} | ({} if upto is None else {"seq": upto + 1})
        request = self._api.change(f"STREAM.PURGE.{self.name}", which, deadline)
        return int((await _unless_missing(request) or {}).get("purged", 0))


def _prefix(pattern: str) -> str:
    """Return how the subjects begin that match a pattern, and no others; empty if that does not tell."""
    prefix, _, rest = pattern.partition("*")
    return "" if rest.strip(".*>") else prefix.rstrip(">")


async def _with_size(candidates: Iterable[int], tell: Callable[[int], Awaitable[None]]) -> None:
    """Tell the broker the first ``max_bytes`` that it accepts; if there is none, raise its first refusal."""
    refusal: NatsError | None = None
    for max_bytes in candidates:
        try:
            await tell(max_bytes)
        except NatsError as error:
            if error.err_code not in codes.OTHER_SIZE_WANTED:
                raise
            refusal = refusal or error
        else:
            return
    if refusal is not None:
        raise refusal


async def _unless_missing(work: Awaitable[T]) -> T | None:
    """Return the result of a request; `None` if the stream does not exist."""
    with broker_errors():
        try:
            return await work
        except NatsError as refusal:
            if refusal.err_code != codes.STREAM_NOT_FOUND:
                raise
    return None


def changed_config(
    stored: JsonObject, config: JsonObject, needed: Iterable[str], replicas: int | None
) -> JsonObject:
    """Return the configuration that an existing stream should have."""
    wanted = stored | {key: config[key] for key in needed}
    wanted["num_replicas"] = max(replicas or 1, stored.get("num_replicas") or 1)
    return wanted


async def _refusal(refusal: NatsError, stream: str) -> Exception:
    await see_other_write(refusal)
    code = refusal.err_code
    if code in (codes.WRONG_LAST_SEQUENCE, codes.WRONG_LAST_SEQUENCE_UNTOLD):
        return Conflict(is_certain=code == codes.WRONG_LAST_SEQUENCE)
    if isinstance(refusal, JetStreamError) and refusal.in_doubt:  # this says nothing of an earlier attempt
        return OutcomeUnknown()
    if codes.is_full(refusal):
        return StreamFull(f"stream {stream} is full", "raise its limits or remove something")
    if code in (codes.MESSAGE_TOO_LARGE, codes.HEADER_TOO_LARGE):
        return StreamFull(f"stream {stream} takes no message as large as this", "raise its limit")
    error = domain_error(refusal, stream=stream)
    if isinstance(error, (BrokerUnavailable, OutcomeUnknown, StreamFull)):
        return error
    log.error("stream %s refuses a message: %s", stream, refusal)
    return BrokerUnavailable(f"stream {stream} refuses the message", "")
