"""What stands for a server in tests of single handlers: stores in memory, and a list of what is published."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar, cast

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from windshift.protos import events, state
from windshift.rpc import ClientCall, RpcError, StatusCode

from .calling import Caller, path_of
from .credentials import Credentials
from .errors import (
    InvalidField,
    KeyExists,
    KeyNotFound,
    RevisionMismatch,
    StoreNotFound,
    TtlNotSupported,
    UnsupportedCombination,
)
from .names import Names
from .payloads import Codec, Payloads
from .retry import Repeat
from .settings import Settings
from .stores import Store
from .subjects import EVERYTHING, overlap
from .times import timedelta_of, timestamp

M = TypeVar("M", bound=Message)
T = TypeVar("T")


class Published(NamedTuple):
    """An event that was published in a test.

    Attributes:
        id: its id, counted over all subjects.
        subject: its subject.
        message: its payload, as the Protobuf message that it travels in.
        key: its idempotency key.
        expected_last_id: the condition that its publisher gave.
    """

    id: int
    subject: str
    message: Message
    key: str | None
    expected_last_id: int | None


@dataclass(slots=True)
class _FakeStore:
    history: int = 1
    ttl: timedelta | None = None
    last: int = 0
    keys: dict[str, list[state.Entry]] = field(default_factory=dict)
    watches: set[asyncio.Queue[state.Entry | None]] = field(default_factory=set)  # None: it was deleted

    def append(self, key: str, entry: state.Entry) -> state.Entry:
        self.last += 1
        entry.key, entry.revision = key, self.last
        entry.updated.CopyFrom(timestamp(datetime.now(UTC)))
        entries = self.keys.setdefault(key, [])
        entries.append(entry)
        del entries[: -self.history]
        for watch in self.watches:
            watch.put_nowait(entry)
        return entry

    def put(self, key: str, value: AnyMessage, ttl: timedelta | None) -> int:
        entry = state.Entry(value=value)
        if ttl and (self.ttl is None or ttl <= self.ttl):
            entry.expires.FromDatetime(datetime.now(UTC) + ttl)
        return self.append(key, entry).revision

    def expiry(self, entry: state.Entry) -> datetime:
        own = entry.expires.ToDatetime(UTC) if entry.HasField("expires") else _NEVER
        return own if self.ttl is None else min(own, entry.updated.ToDatetime(UTC) + self.ttl)

    def current(self, key: str) -> state.Entry | None:
        entries = self.keys.get(key)
        if not entries or entries[-1].deleted or self.expiry(entries[-1]) <= datetime.now(UTC):
            return None
        return entries[-1]

    def existing(self) -> list[state.Entry]:
        """Return what all keys have, in the order of the revisions."""
        found = (self.current(key) for key in self.keys)
        return _in_order(entry for entry in found if entry is not None)

    def newest(self) -> list[state.Entry]:
        """Return the last revisions of all keys, deletions too, in order."""
        self.expire()
        return _in_order(entries[-1] for entries in self.keys.values())

    def since(self, revision: int) -> list[state.Entry]:
        """Return what is kept of the revisions from this one on, in order."""
        return _in_order(
            entry for entries in self.keys.values() for entry in entries if entry.revision >= revision
        )

    def expire(self) -> float | None:
        """Turn what has expired into deletions; return in how many seconds something will; None = nothing."""
        now = datetime.now(UTC)
        lasting = [
            (self.expiry(entries[-1]), key) for key, entries in self.keys.items() if not entries[-1].deleted
        ]
        for end, key in lasting:
            if end <= now:
                self.append(key, state.Entry(deleted=True))
        left = [end for end, _ in lasting if now < end < _NEVER]
        return (min(left) - now).total_seconds() if left else None


_NEVER = datetime.max.replace(tzinfo=UTC)


def _in_order(entries: Iterable[state.Entry]) -> list[state.Entry]:
    return sorted(entries, key=lambda entry: entry.revision)


class _Watch:
    """A watch of a store, with what a client needs of its call."""

    def __init__(self, store: Callable[[str], _FakeStore]) -> None:
        self._store = store
        self._request = state.WatchRequest()

    def send(self, request: state.WatchRequest) -> None:
        self._request.CopyFrom(request)

    def close_send(self) -> None:
        """Do nothing: there was one request."""

    async def begun(self) -> bool:
        """Say that it has."""
        return True

    async def __aiter__(self) -> AsyncIterator[state.WatchResponse]:
        request = self._request
        store = self._store(request.store)
        if request.from_revision > store.last + 1:
            raise InvalidField("the store has not reached this revision", metadata={"field": "from_revision"})
        entries = store.newest() if request.existing else []
        if request.from_revision:
            entries = store.since(request.from_revision)
        up_to_date = state.WatchResponse(up_to_date=state.WatchResponse.UpToDate(revision=store.last))
        changes: asyncio.Queue[state.Entry | None] = asyncio.Queue()
        store.watches.add(changes)
        pattern = request.filter or EVERYTHING
        try:
            for entry in entries:
                if overlap(pattern, entry.key):
                    yield state.WatchResponse(entry=entry)
            yield up_to_date
            while (change := await _next(store, changes)) is not None:
                if overlap(pattern, change.key):
                    yield state.WatchResponse(entry=change)
            self._store(request.store)  # it is gone
        finally:
            store.watches.discard(changes)


async def _next(store: _FakeStore, changes: asyncio.Queue[state.Entry | None]) -> state.Entry | None:
    """Wait for a change, or until something expires."""
    while True:
        try:
            async with asyncio.timeout(store.expire()):
                return await changes.get()
        except TimeoutError:
            continue


class FakeCaller(Caller):
    """Answers the calls of a client in this process.

    Publishes are recorded and given ids; no stream needs to exist. Stores are in memory, with the errors of
    real ones about revisions, keys and times to live. What names and values a server refuses is not checked.

    Attributes:
        published: what was published.
    """

    def __init__(self, codecs: Sequence[Codec] = ()) -> None:
        super().__init__(Settings((), None, Credentials(None), 10.0, Names(), Payloads(codecs)))
        self.published: list[Published] = []
        self.lacks_publish_stream = True
        self._stores: dict[str, _FakeStore] = {}
        self._answers: dict[type[Message], Callable[[Any], Message]] = {
            events.PublishEventRequest: self._publish,
            events.PublishBatchRequest: self._publish_batch,
            events.EnsureStreamRequest: lambda _: events.EnsureStreamResponse(),
            state.EnsureStoreRequest: self._ensure_store,
            state.ListStoresRequest: self._list_stores,
            state.DeleteStoreRequest: self._delete_store,
            state.GetRequest: self._get,
            state.SetRequest: self._set,
            state.DeleteRequest: self._delete,
            state.TouchRequest: self._touch,
            state.TransactRequest: self._transact,
            state.ListKeysRequest: self._list_keys,
            state.HistoryRequest: self._history,
        }

    async def call(
        self,
        request: Message,
        response: type[M],
        repeat: Repeat,
        *,
        timeout: float | None = None,
        gone: StatusCode | None = None,
        failed: RpcError | None = None,
    ) -> M:
        """Answer a call.

        Raises:
            NotImplementedError: it needs a server.
        """
        if type(request) not in self._answers:
            raise NotImplementedError(f"{path_of(type(request))} needs a server: use the fixture `windshift`")
        answer: Any = self._answers[type(request)](request)
        return cast("M", answer)

    @asynccontextmanager
    async def stream(
        self, request: type[Message], response: type[M], span: Any = None
    ) -> AsyncIterator[ClientCall[M]]:
        """Answer the watch of a store.

        Raises:
            NotImplementedError: the call is another one, which needs a server.
        """
        if response is not state.WatchResponse:
            raise NotImplementedError(f"{path_of(request)} needs a server: use the fixture `windshift`")
        yield cast("ClientCall[M]", _Watch(self._store))

    # -- events ------------------------------------------------------------------------------------------

    def _publish(self, request: events.PublishEventRequest) -> events.PublishEventResponse:
        key = request.idempotency_key if request.HasField("idempotency_key") else None
        last = request.expected_last_id if request.HasField("expected_last_id") else None
        event = Published(
            len(self.published) + 1, request.subject, self.payloads.unpack(request.data), key, last
        )
        self.published.append(event)
        return events.PublishEventResponse(id=event.id)

    def _publish_batch(self, request: events.PublishBatchRequest) -> Message:
        return events.PublishBatchResponse(ids=[self._publish(each).id for each in request.events])

    # -- stores ------------------------------------------------------------------------------------------

    def _ensure_store(self, request: state.EnsureStoreRequest) -> Message:
        self._stores.setdefault(request.store, _FakeStore(request.history or 1, timedelta_of(request, "ttl")))
        return state.EnsureStoreResponse()

    def _list_stores(self, _: state.ListStoresRequest) -> Message:
        response = state.ListStoresResponse()
        for name, store in sorted(self._stores.items()):
            size = sum(entry.ByteSize() for entries in store.keys.values() for entry in entries)
            entry = response.stores.add(store=name, keys=len(store.keys), bytes=size, history=store.history)
            if store.ttl is not None:
                entry.ttl.FromTimedelta(store.ttl)
        return response

    def _delete_store(self, request: state.DeleteStoreRequest) -> Message:
        for watch in self._store(request.store).watches:
            watch.put_nowait(None)
        del self._stores[request.store]
        return state.DeleteStoreResponse()

    def _store(self, name: str) -> _FakeStore:
        if name not in self._stores:
            raise StoreNotFound(
                f"store {name!r} does not exist", hint="ensure it first", metadata={"name": name}
            )
        return self._stores[name]

    def _get(self, request: state.GetRequest) -> Message:
        entry = self._store(request.store).current(request.key)
        if entry is None:
            return state.GetResponse()
        return state.GetResponse(last_updated=entry.updated, revision=entry.revision, value=entry.value)

    def _set(self, request: state.SetRequest) -> Message:
        store = self._store(request.store)
        if request.HasField("ttl"):
            _can_expire(request.store, store)
        current = store.current(request.key)
        if request.create_only and current is not None:
            metadata = {"name": request.key, "actual": str(current.revision)}
            raise KeyExists(
                f"key {request.key!r} exists already, at revision {current.revision}", metadata=metadata
            )
        if request.HasField("last_revision"):
            _compare(request.key, request.last_revision, current)
        return state.SetResponse(revision=store.put(request.key, request.value, timedelta_of(request, "ttl")))

    def _delete(self, request: state.DeleteRequest) -> Message:
        store = self._store(request.store)
        current = store.current(request.key)
        if request.HasField("last_revision"):
            _compare(request.key, request.last_revision, current)
        if current is not None:
            store.append(request.key, state.Entry(deleted=True))
        return state.DeleteResponse()

    def _touch(self, request: state.TouchRequest) -> Message:
        store = self._store(request.store)
        _can_expire(request.store, store)
        current = store.current(request.key)
        if current is None:
            raise KeyNotFound(f"key {request.key!r} does not exist", metadata={"name": request.key})
        return state.TouchResponse(
            revision=store.put(request.key, current.value, timedelta_of(request, "ttl"))
        )

    def _transact(self, request: state.TransactRequest) -> Message:
        store = self._store(request.store)
        written = {write.key for write in request.writes}
        checked = {check.key for check in request.checks}
        if len(checked - written) > len(written - checked):
            raise UnsupportedCombination("more checks of other keys than writes whose own key has none")
        if any(write.set.HasField("ttl") for write in request.writes):
            _can_expire(request.store, store)
        for check in request.checks:
            _compare(check.key, check.revision, store.current(check.key), {"key": check.key})
        response = state.TransactResponse()
        for write in request.writes:
            if write.delete:
                revision = store.append(write.key, state.Entry(deleted=True)).revision
            else:
                revision = store.put(write.key, write.set.value, timedelta_of(write.set, "ttl"))
            response.revisions.append(revision)
        return response

    def _list_keys(self, request: state.ListKeysRequest) -> Message:
        store, response = self._store(request.store), state.ListKeysResponse()
        for entry in store.existing():
            if overlap(request.filter or EVERYTHING, entry.key):
                response.entries.append(entry)
                if not request.with_values:
                    response.entries[-1].ClearField("value")
        return response

    def _history(self, request: state.HistoryRequest) -> Message:
        return state.HistoryResponse(entries=self._store(request.store).keys.get(request.key, []))


def _can_expire(name: str, store: _FakeStore) -> None:
    if store.history > 1:
        raise TtlNotSupported(f"store {name!r} keeps a history, so its values cannot expire one by one")


def _compare(
    key: str, expected: int, current: state.Entry | None, extra: Mapping[str, str] = MappingProxyType({})
) -> None:
    actual = 0 if current is None else current.revision
    if actual != expected:
        metadata = {"name": key, "expected": str(expected), "actual": str(actual), **extra}
        raise RevisionMismatch(f"key {key!r} has the revision {actual}, not {expected}", metadata=metadata)


class FakeStore(Store[T]):
    """A store in memory, for tests: `FakeStore(RunningTotal)`. See `FakeCaller` for what it checks.

    Args:
        kind: type of its values.
        name: its name.
        codecs: what takes values that are no Protobuf messages.
        history: revisions of a key that it keeps.
        ttl: age at which its entries expire.
    """

    def __init__(
        self,
        kind: type[T] | None = None,
        name: str = "fake",
        *,
        codecs: Sequence[Codec] = (),
        history: int = 1,
        ttl: timedelta | None = None,
    ) -> None:
        caller = FakeCaller(codecs)
        caller._stores[name] = _FakeStore(history, ttl)  # noqa: SLF001 -- they are one thing
        super().__init__(caller, name, kind)
