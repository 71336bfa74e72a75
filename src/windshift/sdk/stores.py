"""Stores: values by key, with compare-and-swap."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from itertools import islice
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, TypeVar, overload
from weakref import WeakValueDictionary

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from windshift.protos import state
from windshift.rpc import StatusCode

from .calling import Caller, pages
from .errors import Conflict, InvalidField, OutcomeUnknown, WindshiftError
from .events import CaughtUp
from .retry import Repeat
from .times import Seconds, duration, moment, moment_of, timedelta_of

T = TypeVar("T")

_MOST_KEYS = 100  # of a transaction
_turns: WeakValueDictionary[tuple[object, ...], asyncio.Lock] = WeakValueDictionary()


def _turn(caller: Caller, store: str, key: str) -> asyncio.Lock:
    """Return the lock of those who change a key; it is there while somebody has it or waits for it."""
    place = (asyncio.get_running_loop(), caller, store, key)  # a forked process has a loop of its own
    lock = _turns.get(place)
    if lock is None:
        lock = _turns[place] = asyncio.Lock()
    return lock


def _text(key: str) -> str:
    """Return a key; raise TypeError for anything but a text."""
    if not isinstance(key, str):
        raise TypeError(f"a key is a text, not {key!r}")
    return key


class Entry(NamedTuple, Generic[T]):
    """The value of a key.

    Attributes:
        key: the key.
        value: its value.
        revision: its revision, which grows with each write to the store.
        updated: when it was written, by the broker's clock.
        expires: when it expires; None = never, or when the store's `ttl` says. Only lists and histories tell.
    """

    key: str
    value: T
    revision: int
    updated: datetime
    expires: datetime | None = None


class Revision(NamedTuple, Generic[T]):
    """One revision of a key, or a key without its value; see `Entry`. `value` is None for a deletion."""

    key: str
    value: T | None
    revision: int
    updated: datetime
    deleted: bool = False
    expires: datetime | None = None


class StoreInfo(NamedTuple):
    """A store, and what it holds.

    Attributes:
        name: its name.
        keys: keys, deleted ones that are remembered included.
        bytes: bytes held.
        history: revisions of a key that it keeps.
        ttl: age at which its entries expire; None = never.
    """

    name: str
    keys: int
    bytes: int
    history: int
    ttl: timedelta | None


class Store(Generic[T]):
    """A store whose values are of one type, or any messages.

    Attributes:
        name: its name.
        kind: type of its values; None = any.
    """

    def __init__(self, caller: Caller, name: str, kind: type[T] | None) -> None:
        if kind is not None:
            caller.payloads.name(kind)
        self._caller = caller
        self._store = caller.names.name(name)
        self.name = name
        self.kind = kind

    async def get(self, key: str) -> Entry[T] | None:
        """Read a key; None if it does not exist. The latest write is seen.

        Raises:
            Undecodable: the value is of another type than the store's.
        """
        request = state.GetRequest(store=self._store, key=_text(key))
        response = await self._caller.call(request, state.GetResponse, Repeat.READ)
        if not response.HasField("value"):
            return None
        return Entry(key, self._value(response.value), response.revision, moment(response.last_updated))

    async def set(self, key: str, value: T, *, ttl: Seconds | None = None) -> int:
        """Write a key whatever it holds, and return the revision.

        Args:
            key: the key.
            value: the value.
            ttl: when it expires, in whole seconds; needs a store with a history of 1. None, or longer than
                the store's = as that says.

        Raises:
            OutcomeUnknown: it may be written or not; repeating it could overwrite what somebody wrote since.
        """
        return await self._write(key, value, ttl)

    async def create(self, key: str, value: T, *, ttl: Seconds | None = None) -> int:
        """Write a key that does not exist, and return the revision.

        Raises:
            KeyExists: it does.
            OutcomeUnknown: see `set`.
        """
        return await self._write(key, value, ttl, create_only=True)

    async def update(self, key: str, value: T, *, revision: int, ttl: Seconds | None = None) -> int:
        """Write a key that has this revision (0 = does not exist), and return the new one.

        Raises:
            RevisionMismatch: it has another one.
            OutcomeUnknown: see `set`.
        """
        return await self._write(key, value, ttl, last_revision=revision)

    async def delete(self, key: str, *, revision: int | None = None) -> None:
        """Delete a key. Deleting one that does not exist succeeds.

        Args:
            key: the key.
            revision: only if it has this one.

        Raises:
            RevisionMismatch: it has another one.
            OutcomeUnknown: see `set`.
        """
        request = state.DeleteRequest(store=self._store, key=_text(key), last_revision=revision)
        await self._caller.call(request, state.DeleteResponse, Repeat.ONCE)

    async def touch(self, key: str, ttl: Seconds) -> int:
        """Give a key another time to live, from now on, and return its new revision; 0 = it does not expire.

        Raises:
            KeyNotFound: it does not exist.
            TtlNotSupported: the store has a history.
        """
        request = state.TouchRequest(store=self._store, key=_text(key), ttl=duration(ttl))
        response = await self._caller.call(request, state.TouchResponse, Repeat.ONCE)
        return response.revision

    async def modify(
        self, key: str, change: Callable[[T], T | None], *, attempts: int = 10, ttl: Seconds | None = None
    ) -> Entry[T]:
        """Read a key, change its value, and write it if nobody else wrote meanwhile; otherwise begin again.

        Changes of one key by one client take turns, so that it competes with other clients only.

        Args:
            key: the key. If it does not exist, the value is an empty message.
            change: changes the value that it is given, or returns another one. It runs once for each
                attempt, so it should do nothing else.
            attempts: how often to try.
            ttl: see `set`.

        Returns:
            What was written; `updated` is by this machine's clock.

        Raises:
            Conflict: others were faster in all attempts.
            OutcomeUnknown: the change may be written or not, and writing it again did not tell.
            TypeError: the key does not exist, and the store has no type, or one without an empty value.
        """
        async with _turn(self._caller, self._store, key):
            for attempt in range(1, attempts + 1):
                entry = await self.get(key)
                value = self._empty() if entry is None else entry.value
                changed = change(value)
                value = value if changed is None else changed
                try:
                    revision = await self._swap(key, value, entry.revision if entry else 0, ttl)
                except Conflict:
                    if attempt == attempts:
                        raise
                    await asyncio.sleep(random.random() * min(0.5, 0.005 * 2**attempt))
                else:
                    return Entry(key, value, revision, datetime.now(UTC))
        raise ValueError("attempts must be at least 1")

    async def transact(
        self,
        sets: Mapping[str, T] = MappingProxyType({}),
        *,
        deletes: Iterable[str] = (),
        checks: Mapping[str, int] = MappingProxyType({}),
        ttl: Seconds | None = None,
    ) -> dict[str, int]:
        """Write several keys, all or none, if all checks hold at that moment; return the revisions by key.

        Up to 100 keys, with those that are checked. There may be no more checks of keys that are not written
        than writes whose own key is not checked.

        Args:
            sets: values by key.
            deletes: keys to delete; those that do not exist too have a revision then.
            checks: revisions that keys must have; 0 = the key must not exist.
            ttl: when the values expire; see `set`.

        Raises:
            InvalidField: there are more keys.
            RevisionMismatch: a key has another revision; its `key` says which.
            UnsupportedCombination: there are too many checks.
            TransactionsNotSupported: the store is an older one; ensure it again.
            OutcomeUnknown: all is written, or nothing.
        """
        removed = list(islice(deletes, _MOST_KEYS + 1))
        if len(removed) > _MOST_KEYS:
            raise InvalidField(
                f"a transaction has at most {_MOST_KEYS} keys; nothing was written",
                metadata={"field": "writes"},
            )
        lives = None if ttl is None else duration(ttl)
        set_, write = state.TransactRequest.Set, state.TransactRequest.Write
        writes = [
            write(key=_text(key), set=set_(value=self._payload(value), ttl=lives))
            for key, value in sets.items()
        ]
        request = state.TransactRequest(
            store=self._store,
            checks=[
                state.TransactRequest.Check(key=_text(key), revision=revision)
                for key, revision in checks.items()
            ],
            writes=[*writes, *(write(key=_text(key), delete=True) for key in removed)],
        )
        response = await self._caller.call(request, state.TransactResponse, Repeat.ONCE)
        return {each.key: revision for each, revision in zip(request.writes, response.revisions, strict=True)}

    async def watch(
        self,
        filter: str = "",  # noqa: A002 -- the field's name
        *,
        existing: bool = False,
        from_revision: int = 0,
    ) -> AsyncIterator[Revision[T] | CaughtUp]:
        """Follow the keys that match until the loop is left: every change in order, each once.

        Values that expire come as deletions. `CaughtUp` comes once, between what there was and what is new. A
        watch that breaks goes on behind the last change. It misses what the store has forgotten by then: more
        than its history of one key, and expiries of more than five minutes before.

        Args:
            filter: which keys; empty = all.
            existing: begin with what the keys hold.
            from_revision: or with this revision, the one after the last that was seen; 0 = with what is
                written from now on.

        Raises:
            StoreNotFound: the store does not exist, or was deleted.
            InvalidField: the store has not reached `from_revision`, or not any more what was seen: it was
                made anew, or has lost that.
            Undecodable: a value is of another type than the store's.
        """
        request = state.WatchRequest(
            store=self._store, filter=filter, existing=existing, from_revision=from_revision
        )
        warned = False
        async with aclosing(self._caller.watch(request, state.WatchResponse)) as responses:
            async for response in responses:
                is_change = response.HasField("entry")
                seen = response.entry.revision if is_change else response.up_to_date.revision
                request.existing, request.from_revision = False, seen + 1
                if is_change:
                    yield self._revision(response.entry)
                elif not warned:
                    warned = True
                    yield CaughtUp()

    def keys(self, filter: str = "") -> AsyncIterator[Revision[T]]:  # noqa: A002 -- the field's name
        """List the keys that match, in no particular order, without their values."""
        return self._list(filter, values=False)

    async def list(self, filter: str = "") -> AsyncIterator[Entry[T]]:  # noqa: A002 -- the field's name
        """List the keys that match with their values, in no particular order.

        What is written meanwhile may be missing.

        Raises:
            Undecodable: a value is of another type than the store's.
        """
        async for entry in self._list(filter, values=True):
            if entry.value is not None:
                yield Entry(entry.key, entry.value, entry.revision, entry.updated, entry.expires)

    async def history(self, key: str) -> Sequence[Revision[T]]:
        """Return the revisions of a key that the store keeps, oldest first, deletions included."""
        request = state.HistoryRequest(store=self._store, key=_text(key))
        found = pages(self._caller, request, state.HistoryResponse, lambda page: page.entries)
        return [self._revision(entry) async for entry in found]

    async def _list(self, pattern: str, *, values: bool) -> AsyncIterator[Revision[T]]:
        request = state.ListKeysRequest(store=self._store, filter=pattern, with_values=values)
        async for entry in pages(self._caller, request, state.ListKeysResponse, lambda page: page.entries):
            yield self._revision(entry)

    async def _write(
        self,
        key: str,
        value: T,
        ttl: Seconds | None,
        *,
        create_only: bool = False,
        last_revision: int | None = None,
    ) -> int:
        request = state.SetRequest(
            store=self._store,
            key=_text(key),
            value=self._payload(value),
            create_only=create_only,
            last_revision=last_revision,
            ttl=None if ttl is None else duration(ttl),
        )
        response = await self._caller.call(request, state.SetResponse, Repeat.ONCE)
        return response.revision

    async def _swap(self, key: str, value: T, revision: int, ttl: Seconds | None) -> int:
        """Write on a revision. In doubt, write again on the same one: at most one of the two can land."""
        doubt: OutcomeUnknown | None = None
        while True:
            try:
                return await self._write(key, value, ttl, last_revision=revision)
            except OutcomeUnknown as error:
                if doubt is not None:
                    raise
                doubt = error
            except WindshiftError as error:  # it says what became of this write, not of the one before
                if doubt is None:
                    raise
                raise doubt from error

    def _payload(self, value: T) -> AnyMessage:
        if self.kind is not None and not isinstance(value, self.kind):
            raise TypeError(f"store {self.name!r} holds {self.kind.__name__}, not {type(value).__name__}")
        return self._caller.payloads.pack(value)

    def _value(self, payload: AnyMessage) -> T:
        if self.kind is not None:
            return self._caller.payloads.unpack_as(payload, self.kind)
        return self._caller.payloads.unpack(payload)  # type: ignore[return-value] # a store without a type holds messages of any

    def _empty(self) -> T:
        if self.kind is None:
            raise TypeError(
                f"store {self.name!r} has no type, so a key that does not exist has no empty value"
            )
        try:
            return self.kind()
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"a key that does not exist has no empty value: {self.kind.__name__} needs arguments"
            ) from error

    def _revision(self, entry: state.Entry) -> Revision[T]:
        return Revision(
            entry.key,
            self._value(entry.value) if entry.HasField("value") else None,
            entry.revision,
            moment(entry.updated),
            entry.deleted,
            moment_of(entry, "expires"),
        )

    def __repr__(self) -> str:
        return f"Store({self.name!r})"


class Stores:
    """The stores of a server."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    @overload
    async def ensure(
        self, name: str, kind: type[T], *, history: int | None = None, ttl: Seconds | None = None
    ) -> Store[T]: ...

    @overload
    async def ensure(
        self, name: str, kind: None = None, *, history: int | None = None, ttl: Seconds | None = None
    ) -> Store[Message]: ...

    async def ensure(
        self,
        name: str,
        kind: type[Any] | None = None,
        *,
        history: int | None = None,
        ttl: Seconds | None = None,
    ) -> Store[Any]:
        """Make a store. One that exists is left as it is.

        Args:
            name: its name.
            kind: type of its values; None = any messages; `Any` = as they are stored, not decoded. The server
                does not know it: it is checked here.
            history: revisions of a key that a new store keeps, 1 to 64; None = 1.
            ttl: age at which entries of a new store expire; None = never.
        """
        request = state.EnsureStoreRequest(
            store=self._caller.names.name(name), history=history, ttl=None if ttl is None else duration(ttl)
        )
        await self._caller.call(request, state.EnsureStoreResponse, Repeat.SAME)
        return Store(self._caller, name, kind)

    async def list(self) -> AsyncIterator[StoreInfo]:
        """List the stores of the client's namespace by name."""
        names = self._caller.names
        async for entry in pages(
            self._caller, state.ListStoresRequest(), state.ListStoresResponse, lambda page: page.stores
        ):
            if names.owns(entry.store):
                name, ttl = names.bare_name(entry.store), timedelta_of(entry, "ttl")
                yield StoreInfo(name, entry.keys, entry.bytes, entry.history, ttl)

    async def delete(self, name: str) -> None:
        """Delete a store with all that is in it.

        Raises:
            StoreNotFound: it does not exist.
        """
        request = state.DeleteStoreRequest(store=self._caller.names.name(name))
        await self._caller.call(request, state.DeleteStoreResponse, Repeat.SAME, gone=StatusCode.NOT_FOUND)
