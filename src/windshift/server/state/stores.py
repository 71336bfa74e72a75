"""Stores: get, set and delete values by key, conditionally if wanted.

A conditional write reads the key, decides, and writes expecting exactly what it read; if another write came
between, it starts over. So a deleted key counts as absent, though the broker keeps a marker with a revision
for it, and every refusal can tell the actual revision.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from windshift.nats import Backoff, NatsError, Superseded, retry
from windshift.nats.jetstream.kv import Buckets, Record
from windshift.server.auth.policy import Principal
from windshift.server.domain import names
from windshift.server.domain.broker_errors import broker_errors, domain_error, is_invalid
from windshift.server.domain.errors import (
    BrokerUnavailable,
    InvalidField,
    KeyExists,
    RevisionMismatch,
    UnsupportedCombination,
)
from windshift.server.ownership.ownership import Ownership
from windshift.server.state.model import ABSENT, Entry, Revision

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

    async def ensure(self, store: str, deadline: float, caller: Principal | None = None) -> None:
        """Create a store; leave an existing one as it is. Raise `QuotaExceeded` when there are too many."""
        names.store_name("store", store)
        try:
            if caller is None or self._ownership is None:
                await self._buckets.ensure(store, deadline)
            elif not await self._buckets.exists(store, deadline):
                async with self._ownership.store(caller, store, deadline) as metadata:
                    await self._buckets.ensure(store, deadline, metadata)
        except NatsError as error:
            if is_invalid(error):
                raise UnsupportedCombination(f"the broker refuses this store: {error.description}") from error
            raise domain_error(error) from error

    async def get(self, store: str, key: str, deadline: float) -> Entry | None:
        """Return the latest value of a key; `None` if it does not exist."""
        _check(store, key)
        return _entry(await self._read(store, key, deadline))

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
    ) -> Revision:
        """Write a value and return its revision.

        With `create_only` only if the key does not exist (`KeyExists`), with `last_revision` only if that
        is its revision, 0 meaning that it does not exist (`RevisionMismatch`).
        """
        _check(store, key)
        if create_only and last_revision is not None:
            raise InvalidField("last_revision", "cannot be combined with create_only; set one of them")
        if not create_only and last_revision is None:
            with broker_errors():
                return Revision(await self._buckets.put(store, key, value, deadline))
        async for _ in retry(deadline, _OTHER_WRITER):
            record = await self._read(store, key, deadline)
            if create_only:
                _require_absent(key, record)
            else:
                _require_revision(last_revision, record)
            try:
                with broker_errors():
                    return Revision(await self._buckets.put(store, key, value, deadline, record.sequence))
            except Superseded:
                continue
        raise BrokerUnavailable

    async def delete(
        self, store: str, key: str, deadline: float, *, last_revision: int | None = None
    ) -> None:
        """Delete a key. A missing key is fine, unless `last_revision` says otherwise."""
        _check(store, key)
        async for _ in retry(deadline, _OTHER_WRITER):
            record = await self._read(store, key, deadline)
            _require_revision(last_revision, record)
            if record.value is None:
                return None
            try:
                expected = None if last_revision is None else record.sequence
                with broker_errors():
                    return await self._buckets.mark_deleted(store, key, deadline, expected)
            except Superseded:
                continue
        raise BrokerUnavailable


def _check(store: str, key: str) -> None:
    names.store_name("store", store)
    names.key("key", key)


def _revision(record: Record) -> Revision:
    return ABSENT if record.value is None else Revision(record.sequence)


def _entry(record: Record) -> Entry | None:
    if record.value is None:
        return None
    return Entry(record.value, Revision(record.sequence), record.time)


def _require_absent(key: str, record: Record) -> None:
    if record.value is not None:
        raise KeyExists(key, record.sequence)


def _require_revision(expected: int | None, record: Record) -> None:
    """Raise `RevisionMismatch` if the caller expects another revision."""
    actual = _revision(record)
    if expected is not None and expected != actual:
        raise RevisionMismatch(expected, actual)
