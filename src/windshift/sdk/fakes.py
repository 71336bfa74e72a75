"""What stands for a server in tests of single handlers: stores in memory, and a list of what is published."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from google.protobuf.message import Message

from windshift.protos import events, state
from windshift.rpc import ClientCall, StatusCode

from .calling import Caller
from .credentials import Credentials
from .errors import KeyExists, KeyNotFound, RevisionMismatch, StoreNotFound, TtlNotSupported
from .names import Names
from .payloads import Codec, Payloads
from .retry import Repeat
from .settings import Settings
from .stores import Store
from .subjects import EVERYTHING, overlap
from .times import timestamp

M = TypeVar("M", bound=Message)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Published:
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
        self._stores: dict[str, _FakeStore] = {}
        self._answers: dict[type[Message], Callable[[Any], Message]] = {
            events.PublishEventRequest: self._publish,
            events.EnsureStreamRequest: lambda _: events.EnsureStreamResponse(),
            state.EnsureStoreRequest: self._ensure_store,
            state.ListStoresRequest: self._list_stores,
            state.DeleteStoreRequest: self._delete_store,
            state.GetRequest: self._get,
            state.SetRequest: self._set,
            state.DeleteRequest: self._delete,
            state.TouchRequest: self._touch,
            state.ListKeysRequest: self._list_keys,
            state.HistoryRequest: self._history,
        }

    async def call(
        self,
        method: str,
        request: Message,
        response: type[M],
        repeat: Repeat,
        *,
        timeout: float | None = None,
        gone: StatusCode | None = None,
    ) -> M:
        """Answer a call.

        Raises:
            NotImplementedError: it needs a server.
        """
        if type(request) not in self._answers:
            raise NotImplementedError(f"{method} needs a server: use the fixture `windshift`")
        answer = self._answers[type(request)](request)
        if not isinstance(answer, response):
            raise TypeError(f"{method} is answered with {type(answer).__name__}")
        return answer

    @asynccontextmanager
    async def stream(self, method: str, response: type[M]) -> AsyncIterator[ClientCall[M]]:
        """Raise NotImplementedError: it needs a server."""
        raise NotImplementedError(f"{method} needs a server: use the fixture `windshift`")
        yield  # type: ignore[unreachable] # makes it a generator

    # -- events ------------------------------------------------------------------------------------------

    def _publish(self, request: events.PublishEventRequest) -> Message:
        key = request.idempotency_key if request.HasField("idempotency_key") else None
        last = request.expected_last_id if request.HasField("expected_last_id") else None
        event = Published(
            len(self.published) + 1, request.subject, self.payloads.unpack(request.data), key, last
        )
        self.published.append(event)
        return events.PublishEventResponse(id=event.id)

    # -- stores ------------------------------------------------------------------------------------------

    def _ensure_store(self, request: state.EnsureStoreRequest) -> Message:
        ttl = request.ttl.ToTimedelta() if request.HasField("ttl") else None
        self._stores.setdefault(request.store, _FakeStore(request.history or 1, ttl))
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
        self._store(request.store)
        del self._stores[request.store]
        return state.DeleteStoreResponse()

    def _store(self, name: str) -> _FakeStore:
        if name not in self._stores:
            raise StoreNotFound(f"store {name!r} does not exist", metadata={"name": name})
        return self._stores[name]

    def _current(self, store: _FakeStore, key: str) -> state.Entry | None:
        entries = store.keys.get(key)
        if not entries or entries[-1].deleted:
            return None
        entry, now = entries[-1], datetime.now(UTC)
        if entry.HasField("expires") and entry.expires.ToDatetime(UTC) <= now:
            return None
        if store.ttl is not None and entry.updated.ToDatetime(UTC) + store.ttl <= now:
            return None
        return entry

    def _get(self, request: state.GetRequest) -> Message:
        entry = self._current(self._store(request.store), request.key)
        if entry is None:
            return state.GetResponse()
        return state.GetResponse(last_updated=entry.updated, revision=entry.revision, value=entry.value)

    def _set(self, request: state.SetRequest) -> Message:
        store = self._store(request.store)
        current = self._current(store, request.key)
        if request.create_only and current is not None:
            metadata = {"name": request.key, "actual": str(current.revision)}
            raise KeyExists(f"key {request.key!r} exists", metadata=metadata)
        if request.HasField("last_revision"):
            _compare(request.key, request.last_revision, current)
        if request.HasField("ttl"):
            _can_expire(request.store, store)
        entry = self._append(store, request.key, state.Entry(value=request.value))
        if request.HasField("ttl"):
            entry.expires.FromDatetime(datetime.now(UTC) + request.ttl.ToTimedelta())
        return state.SetResponse(revision=entry.revision)

    def _append(self, store: _FakeStore, key: str, entry: state.Entry) -> state.Entry:
        store.last += 1
        entry.key, entry.revision = key, store.last
        entry.updated.CopyFrom(timestamp(datetime.now(UTC)))
        entries = store.keys.setdefault(key, [])
        entries.append(entry)
        del entries[: -store.history]
        return entry

    def _delete(self, request: state.DeleteRequest) -> Message:
        store = self._store(request.store)
        current = self._current(store, request.key)
        if request.HasField("last_revision"):
            _compare(request.key, request.last_revision, current)
        if current is not None:
            self._append(store, request.key, state.Entry(deleted=True))
        return state.DeleteResponse()

    def _touch(self, request: state.TouchRequest) -> Message:
        store = self._store(request.store)
        current = self._current(store, request.key)
        if current is None:
            raise KeyNotFound(f"key {request.key!r} does not exist", metadata={"name": request.key})
        _can_expire(request.store, store)
        entry = self._append(store, request.key, state.Entry(value=current.value))
        ttl = request.ttl.ToTimedelta()
        if ttl:
            entry.expires.FromDatetime(datetime.now(UTC) + ttl)
        return state.TouchResponse(revision=entry.revision)

    def _list_keys(self, request: state.ListKeysRequest) -> Message:
        store, response = self._store(request.store), state.ListKeysResponse()
        for key in store.keys:
            entry = self._current(store, key)
            if entry is not None and overlap(request.filter or EVERYTHING, key):
                response.entries.append(entry)
                if not request.with_values:
                    response.entries[-1].ClearField("value")
        return response

    def _history(self, request: state.HistoryRequest) -> Message:
        return state.HistoryResponse(entries=self._store(request.store).keys.get(request.key, []))


def _can_expire(name: str, store: _FakeStore) -> None:
    if store.history > 1:
        raise TtlNotSupported(f"store {name!r} keeps a history, so its values cannot expire one by one")


def _compare(key: str, expected: int, current: state.Entry | None) -> None:
    actual = 0 if current is None else current.revision
    if actual != expected:
        metadata = {"name": key, "expected": str(expected), "actual": str(actual)}
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
