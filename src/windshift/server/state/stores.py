"""Stores: get, set and delete values by key, conditionally if wanted.

A conditional write reads the key, decides, and writes expecting exactly what it read; if another write came
between, it starts over. So a deleted key counts as absent, though the broker keeps a marker with a revision
for it, and every refusal can tell the actual revision.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from heapq import merge
from itertools import islice
from time import perf_counter
from typing import Any, Final, Protocol, TypeVar

from windshift.nats import Backoff, NatsError, Outcome, Superseded, retry
from windshift.nats.jetstream.acks import PubAck
from windshift.nats.jetstream.api import Reading, StoredMessage
from windshift.nats.jetstream.kv import (
    BucketInfo,
    Buckets,
    Put,
    Record,
    last_of,
    record_of,
    stream_of,
    write_of,
)
from windshift.nats.times import NANOSECONDS, nanoseconds
from windshift.server.auth.policy import Principal
from windshift.server.background.batches import for_each
from windshift.server.broker.asking import asking
from windshift.server.broker.storing import Call, Storing
from windshift.server.domain import names
from windshift.server.domain.broker_errors import broker_errors, domain_error, is_invalid
from windshift.server.domain.errors import (
    BrokerUnavailable,
    InvalidField,
    KeyExists,
    KeyNotFound,
    RevisionMismatch,
    TransactionsNotSupported,
    TtlNotSupported,
    UnsupportedCombination,
)
from windshift.server.domain.pages import PAGE_BYTES
from windshift.server.ownership.ownership import Ownership
from windshift.server.state.model import ABSENT, Check, KeyRecord, Revision, Write
from windshift.server.state.transactions import puts, validate

T = TypeVar("T")

_AT_ONCE: Final = 32
"""Keys that are read at once for a list."""
_ENTRY_BYTES: Final = 512
"""What a revision counts beside its value: a store that keeps all may have very many."""
_OTHER_WRITER: Final = Backoff(timedelta(milliseconds=2), timedelta(milliseconds=50))
"""Pauses of a conditional write after conflicts."""


class Stores:
    """All stores. Deadlines are in the loop's time.

    A write whose reply is lost has an unknown outcome (`OutcomeUnknown`) and is never repeated: somebody else
    may have written in between.
    """

    def __init__(self, buckets: Buckets, ownership: Ownership | None = None) -> None:
        self._buckets = buckets
        self._ownership = ownership

    async def ensure(
        self,
        store: str,
        deadline: float,
        caller: Principal | None = None,
        history: int = 1,
        ttl: timedelta | None = None,
    ) -> None:
        """Create a store; let an existing one take transactions. Raise `QuotaExceeded` for too many.

        Args:
            store: its name.
            deadline: when to give up.
            caller: who becomes its owner.
            history: revisions of a key that it keeps.
            ttl: age at which its entries expire; None = never.
        """
        names.store_name("store", store)
        age = nanoseconds(ttl) if ttl else 0
        try:
            if caller is None or self._ownership is None:
                await self._buckets.ensure(store, deadline, None, history, age)
            elif not await self._buckets.allow_batches(store, deadline):
                async with self._ownership.store(caller, store, deadline) as metadata:
                    await self._buckets.ensure(store, deadline, metadata, history, age)
        except NatsError as error:
            if is_invalid(error):
                raise UnsupportedCombination(f"the broker refuses this store: {error.description}") from error
            raise domain_error(error) from error

    async def get(self, store: str, key: str, deadline: float) -> Record:
        """Return the last write of a key; it has no value if the key does not exist."""
        _check(store, key)
        return await self._read(store, key, deadline)

    def begin_get(
        self,
        store: str,
        key: str,
        deadline: float,
        asker: str,
        call: ReadCall,
        to_response: Callable[[Record], Any],
    ) -> Callable[[], None] | None:
        """Do what `get` does, without a task as long as that is possible.

        The call is answered with what `to_response` makes of that, or a task does the rest. Return what
        abandons the read until then; None = nothing was done. `asker` is who makes the call.
        """
        _check(store, key)
        reading = _Get(self._buckets, store, key, deadline, asker, call, to_response)
        return reading.abandon if reading.begin() else None

    async def _read(self, store: str, key: str, deadline: float) -> Record:
        with broker_errors():
            return await self._buckets.read(store, key, deadline)

    async def set(
        self,
        store: str,
        key: str,
        value: bytes,
        deadline: float,
        *,
        create_only: bool = False,
        last_revision: int | None = None,
        ttl: int | None = None,
    ) -> Revision:
        """Write a value and return its revision.

        It expires after `ttl` seconds, if given (`TtlNotSupported`).

        With `create_only` only if the key does not exist (`KeyExists`), with `last_revision` only if that
        is its revision, 0 meaning that it does not exist (`RevisionMismatch`).
        """
        _check(store, key)
        if create_only and last_revision is not None:
            raise InvalidField("last_revision", "cannot be combined with create_only; set one of them")
        if ttl is not None:
            ttl = await self._possible_ttl(store, ttl, deadline)
        if not create_only and last_revision is None:
            with broker_errors():
                return Revision(await self._buckets.put(store, Put(key, value, ttl=ttl), deadline))

        async def attempt() -> int:
            record = await self._buckets.read(store, key, deadline)
            if create_only and record.value is not None:
                raise KeyExists(key, record.sequence)
            _require_revision(last_revision, record)
            return await self._buckets.put(store, Put(key, value, record.sequence, ttl), deadline)

        return Revision(await _until_undisturbed(attempt, deadline))

    def begin_set(
        self,
        store: str,
        key: str,
        value: bytes,
        deadline: float,
        asker: str,
        call: Call,
        to_response: Callable[[int], Any],
    ) -> Callable[[], None]:
        """Do what `set` does without conditions, and without a task as long as that is possible.

        The call is answered with what `to_response` makes of the revision, or a task does the rest. Return
        what abandons the write until then. `asker` is who makes the call.
        """
        _check(store, key)
        write = write_of(store, Put(key, value), deadline, asker)
        return _Set(self._buckets, store, to_response).begin(self._buckets.writes, write, call)

    async def delete(
        self, store: str, key: str, deadline: float, *, last_revision: int | None = None
    ) -> None:
        """Delete a key. A missing key is fine, unless `last_revision` says otherwise."""
        _check(store, key)

        async def attempt() -> None:
            record = await self._buckets.read(store, key, deadline)
            _require_revision(last_revision, record)
            if record.value is not None:
                expected = None if last_revision is None else record.sequence
                await self._buckets.put(store, Put(key, None, expected), deadline)

        await _until_undisturbed(attempt, deadline)

    async def touch(self, store: str, key: str, ttl: int | None, deadline: float) -> Revision:
        """Have a key's value expire after `ttl` seconds from now, or never; return its revision now.

        Raise `KeyNotFound` or `TtlNotSupported`.
        """
        _check(store, key)
        expiry = await self._possible_ttl(store, ttl, deadline)

        async def attempt() -> int:
            record = await self._buckets.read(store, key, deadline)
            if record.value is None:
                raise KeyNotFound(key)
            return await self._buckets.put(store, Put(key, record.value, record.sequence, expiry), deadline)

        return Revision(await _until_undisturbed(attempt, deadline))

    async def transact(
        self, store: str, checks: Sequence[Check], writes: Sequence[Write], deadline: float
    ) -> list[Revision]:
        """Make all writes, or none if a check does not hold (`RevisionMismatch`); return their revisions.

        Raise `UnsupportedCombination` for checks that the broker cannot make, `TransactionsNotSupported` or
        `TtlNotSupported`. After `OutcomeUnknown` all are made, or none.
        """
        names.store_name("store", store)
        validate(checks, writes)
        with broker_errors():
            info = await self._buckets.info(store, deadline)
        if len(writes) > 1 and not info.keeps_batches:
            raise TransactionsNotSupported(store)
        if any(write.ttl is not None for write in writes):
            writes = [write._replace(ttl=_possible_ttl(info, write.ttl)) for write in writes]

        async def attempt() -> list[int]:
            found = await self._read_all(store, [check.key for check in checks], deadline)
            for check in checks:
                _require_revision(check.revision, found[check.key], check.key)
            return await self._buckets.put_all(store, puts(checks, writes, found), deadline, info.largest)

        return list(map(Revision, await _until_undisturbed(attempt, deadline)))

    async def _read_all(self, store: str, keys: Sequence[str], deadline: float) -> Mapping[str, Record]:
        """Read keys; values are empty, so that those of many keys are not held."""

        async def read(key: str) -> Record:
            record = await self._read(store, key, deadline)
            return record if record.value is None else record._replace(value=b"")

        return dict(zip(keys, await for_each(keys, read, at_once=_AT_ONCE), strict=True))

    async def _read_page(self, store: str, keys: Sequence[str], deadline: float) -> Mapping[str, Record]:
        """Read keys with their values; those behind a page of values are left out, whatever comes first."""
        found: dict[str, Record] = {}
        held = 0

        async def read(key: str) -> None:
            nonlocal held
            found[key] = record = await self._read(store, key, deadline)
            held += len(record.value or b"")
            if held > PAGE_BYTES:
                held = 0
                for each in filter(found.__contains__, keys):
                    if held > PAGE_BYTES:
                        del found[each]
                    else:
                        held += len(found[each].value or b"")

        await asyncio.gather(*map(read, keys))
        return found

    async def _possible_ttl(self, store: str, ttl: int | None, deadline: float) -> int | None:
        with broker_errors():
            return _possible_ttl(await self._buckets.info(store, deadline), ttl)

    # --- Looking ------------------------------------------------------------------------------------------

    async def all(self, deadline: float) -> list[BucketInfo]:
        """Describe all stores."""
        with broker_errors():
            found = await self._buckets.all(deadline)
        return [each for each in found if not each.name.startswith(names.RESERVED_STORES)]

    async def drop(self, store: str, deadline: float) -> None:
        """Delete a store with all that is in it; raise `StoreNotFound`."""
        names.store_name("store", store)
        with broker_errors():
            await self._buckets.delete(store, deadline)
        if self._ownership is not None:
            self._ownership.store_deleted(store)

    async def keys(
        self, store: str, pattern: str, after: str, size: int, deadline: float, *, with_values: bool
    ) -> tuple[list[KeyRecord], bool]:
        """List keys that have a value, in the order of their names, after one of them.

        A page ends at about 1 MiB of values too; tell whether there are more. What is written meanwhile may
        be missing.
        """
        names.store_name("store", store)
        with broker_errors():
            parts = [
                sorted(key for key in some if key > after)
                async for some in self._buckets.keys(store, pattern, deadline)
            ]
            found = merge(*parts)  # all of them at once would hold others up
            entries: list[KeyRecord] = []
            held = 0
            while some := list(islice(found, _AT_ONCE)):
                read = self._read_page if with_values else self._read_all
                records = await read(store, some, deadline)
                for key in some:
                    record = records.get(key)
                    if record is not None and record.value is None:
                        continue
                    if record is None or len(entries) == size or held > PAGE_BYTES:
                        return entries, True
                    entries.append((key, record))
                    held += len(record.value or b"")
        return entries, False

    async def history(self, store: str, key: str, after: int, deadline: float) -> tuple[list[Record], bool]:
        """Return the revisions of a key that the store keeps after one of them, oldest first.

        A page ends at about 1 MiB too; tell whether there are more.
        """
        _check(store, key)
        entries: list[Record] = []
        held = 0
        with broker_errors():
            while (record := await self._buckets.read_next(store, key, after, deadline)).sequence:
                if held > PAGE_BYTES:
                    return entries, True
                entries.append(record)
                held += _ENTRY_BYTES + len(record.value or b"")
                after = record.sequence
        return entries, False


class ReadCall(Call, Protocol):
    """A call that waits for a value."""

    def abort(self, error: Exception, /) -> None:
        """Tell its client of an error."""

    def charge(self, seconds: float, now: float, /) -> None:
        """Charge time that was spent on it to who makes it, at a time of ``perf_counter``."""


class _Get(Reading):
    """A read of a key without a task. One object costs less than the functions in its place."""

    __slots__ = ("_buckets", "_call", "_store", "_to_response")

    def __init__(
        self,
        buckets: Buckets,
        store: str,
        key: str,
        deadline: float,
        asker: str,
        call: ReadCall,
        to_response: Callable[[Record], Any],
    ) -> None:
        super().__init__(buckets.api, stream_of(store), last_of(store, key), deadline, asker)
        self._buckets = buckets
        self._store = store
        self._call = call
        self._to_response = to_response

    def answered(self, outcome: Outcome) -> None:
        """Have the time charged to who called, as that of a task would be."""
        began = perf_counter()
        super().answered(outcome)
        now = perf_counter()
        self._call.charge(now - began, now)

    def take(self, message: StoredMessage) -> None:
        try:
            response = self._to_response(record_of(message))
        except Exception as error:  # noqa: BLE001 -- whatever it is, the client must be answered
            self._call.abort(error)
        else:
            self._call.answer(response)

    def go_on(self, reading: Callable[[], Awaitable[StoredMessage | None]]) -> None:
        self._call.go_on(lambda: self._rest(reading))

    async def _rest(self, reading: Callable[[], Awaitable[StoredMessage | None]]) -> Any:
        asking.set(self._asker)
        with broker_errors():
            return self._to_response(await self._buckets.record(self._store, reading()))


@dataclass(slots=True, eq=False)
class _Set(Storing):
    """A write of a key without conditions."""

    buckets: Buckets
    store: str
    to_response: Callable[[int], Any]

    def response(self, sequence: int) -> Any:
        return self.to_response(sequence)

    async def finish(self, storing: Awaitable[PubAck]) -> Any:
        with broker_errors():
            return self.to_response(await self.buckets.stored(self.store, storing, self._write.deadline))

    def abandoned(self) -> None:
        """Do nothing: writes are not counted."""


async def _until_undisturbed(attempt: Callable[[], Awaitable[T]], deadline: float) -> T:
    """Read and write until no other write comes between; raise `BrokerUnavailable` at the deadline."""
    async for _ in retry(deadline, _OTHER_WRITER):
        try:
            with broker_errors():
                return await attempt()
        except Superseded:
            continue
    raise BrokerUnavailable


def _possible_ttl(info: BucketInfo, ttl: int | None) -> int | None:
    """Return when a value is to expire; None = never, or when the store says, if that is sooner.

    Raise `TtlNotSupported` unless values may expire: with a history the one before would be back.
    """
    if info.history != 1 or not info.keeps_ttl:
        raise TtlNotSupported(info.name)
    is_sooner = ttl is not None and 0 < info.max_age_ns < ttl * NANOSECONDS
    return None if is_sooner else ttl


def _check(store: str, key: str) -> None:
    names.store_name("store", store)
    names.key("key", key)


def _require_revision(expected: int | None, record: Record, key: str = "") -> None:
    """Raise `RevisionMismatch` if the caller expects another revision."""
    actual = ABSENT if record.value is None else Revision(record.sequence)
    if expected is not None and expected != actual:
        raise RevisionMismatch(expected, actual, key)
