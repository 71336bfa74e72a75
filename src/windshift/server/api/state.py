"""``StateService``: each method converts the request, calls the domain and converts the result."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Final

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError

from windshift._gen.windshift.state.v1alpha1 import service_pb2 as pb
from windshift.nats.jetstream.kv import BucketInfo, Record
from windshift.nats.times import Time
from windshift.rpc import ServerCall
from windshift.server.api.call_stream import CallStream
from windshift.server.api.callers import asker_of, caller_of
from windshift.server.api.deadlines import answer_by
from windshift.server.api.fields import duration, number, page_size, wire_time
from windshift.server.api.policies import check_keys
from windshift.server.api.sizes import field_at
from windshift.server.auth.actions import ViewStore
from windshift.server.domain.errors import InvalidField, ValueNotAny
from windshift.server.domain.names import EVERYTHING
from windshift.server.domain.pages import PageCut, read_token, write_token
from windshift.server.state.model import Check, Revision, Write
from windshift.server.state.stores import Stores
from windshift.server.state.watching import Watch, WatchClient

_MOST_HISTORY: Final = 64
"""The most that NATS clients let a bucket keep."""
_SHORTEST_TTL: Final = timedelta(seconds=1)
LONGEST_TTL: Final = timedelta(days=100 * 365)
"""The time at which a value expires must fit into 64 bits of nanoseconds since 1970."""
_TAGS_OF_ANY: Final = b"\x0a\x12"
"""The tags of the two fields of an `Any`."""
_MOST_FIELDS: Final = 100
"""Fields of a value that are looked at: each should be there once, and there may be millions."""

STATE = pb.DESCRIPTOR.services_by_name["StateService"]


class StateService:
    """Stores of values by key.

    Args:
        stores: reads and writes.
        watch: follows keys of a store: its name, a pattern, and where to send changes.
    """

    def __init__(self, stores: Stores, watch: Callable[[str, str, WatchClient], Watch]) -> None:
        self._stores = stores
        self._watch = watch
        self._set_response = pb.SetResponse()

    async def ensure_store(self, request: pb.EnsureStoreRequest, call: ServerCall) -> pb.EnsureStoreResponse:
        """Create a store, or leave it as it is."""
        history = number("history", request.history, _MOST_HISTORY) or 1
        ttl = duration("ttl", request.ttl, _SHORTEST_TTL)
        await self._stores.ensure(request.store, answer_by(call), caller_of(call), history, ttl)
        return pb.EnsureStoreResponse()

    async def get(self, request: pb.GetRequest, call: ServerCall) -> pb.GetResponse:
        """Read a key; nothing but revision 0 says that it does not exist."""
        record = await self._stores.get(request.store, request.key, answer_by(call))
        return _found(request.key, record)

    def begin_get(self, request: pb.GetRequest, call: ServerCall) -> bool:
        """Read a key without a task, unless others are about who use less: a task can wait for its turn."""
        if call.connection.hinders:
            return False
        store, key, deadline = request.store, request.key, answer_by(call)
        call.on_cancel = self._stores.begin_get(
            store, key, deadline, asker_of(call), call, lambda record: _found(key, record)
        )
        return call.on_cancel is not None

    async def set(self, request: pb.SetRequest, call: ServerCall) -> pb.SetResponse:
        """Write a key."""
        revision = await self._stores.set(
            request.store,
            request.key,
            _value("value", request),
            answer_by(call),
            create_only=request.create_only,
            last_revision=_last_revision(request),
            ttl=_seconds("ttl", request.ttl),
        )
        return pb.SetResponse(revision=revision)

    def begin_set(self, request: pb.SetRequest, call: ServerCall) -> bool:
        """Write a key without a task, if there is no condition."""
        if request.create_only or request.HasField("last_revision") or request.HasField("ttl"):
            return False
        store, key, value, deadline = request.store, request.key, _value("value", request), answer_by(call)
        call.on_cancel = self._stores.begin_set(
            store, key, value, deadline, asker_of(call), call, self._written
        )
        return True

    def _written(self, revision: int) -> pb.SetResponse:
        """Return the response, which is to be sent at once: it is the same object, which is cheaper."""
        self._set_response.revision = revision
        return self._set_response

    async def touch(self, request: pb.TouchRequest, call: ServerCall) -> pb.TouchResponse:
        """Give a value another time to live."""
        ttl = _seconds("ttl", request.ttl)
        revision = await self._stores.touch(request.store, request.key, ttl, answer_by(call))
        return pb.TouchResponse(revision=revision)

    async def delete(self, request: pb.DeleteRequest, call: ServerCall) -> pb.DeleteResponse:
        """Delete a key."""
        await self._stores.delete(
            request.store, request.key, answer_by(call), last_revision=_last_revision(request)
        )
        return pb.DeleteResponse()

    async def transact(self, request: pb.TransactRequest, call: ServerCall) -> pb.TransactResponse:
        """Write several keys, all or none."""
        revisions = await self._stores.transact(
            request.store,
            [_check(f"checks[{position}]", each) for position, each in enumerate(request.checks)],
            [_write(f"writes[{position}]", each) for position, each in enumerate(request.writes)],
            answer_by(call),
        )
        return pb.TransactResponse(revisions=revisions)

    # --- Looking ------------------------------------------------------------------------------------------

    async def list_stores(self, request: pb.ListStoresRequest, call: ServerCall) -> pb.ListStoresResponse:
        """List the stores that the caller may see."""
        size = page_size(request.page_size)
        after = read_token("page_token", request.page_token, (str,))
        found = {each.name: each for each in await self._stores.all(answer_by(call))}
        cut = PageCut[tuple[str]](size, after)
        cut.add((name,) for name in found if _may_view(call, name))
        page, more = cut.page()
        return pb.ListStoresResponse(
            stores=[_store_entry(found[name]) for (name,) in page],
            next_page_token=write_token(more),
        )

    async def delete_store(self, request: pb.DeleteStoreRequest, call: ServerCall) -> pb.DeleteStoreResponse:
        """Delete a store."""
        await self._stores.drop(request.store, answer_by(call))
        return pb.DeleteStoreResponse()

    async def list_keys(self, request: pb.ListKeysRequest, call: ServerCall) -> pb.ListKeysResponse:
        """List keys."""
        check_keys(request)
        bound = (request.store, request.filter)
        after = read_token("page_token", request.page_token, (str,), *bound)
        found, more = await self._stores.keys(
            request.store,
            request.filter or EVERYTHING,
            "" if after is None else after[0],
            page_size(request.page_size),
            answer_by(call),
            with_values=request.with_values,
        )
        return pb.ListKeysResponse(
            entries=[_key_entry(*each, with_value=request.with_values) for each in found],
            next_page_token=write_token((found[-1][0],), *bound) if more else "",
        )

    async def history(self, request: pb.HistoryRequest, call: ServerCall) -> pb.HistoryResponse:
        """Read what a key held."""
        bound = (request.store, request.key)
        (after,) = read_token("page_token", request.page_token, (int,), *bound) or (0,)
        found, more = await self._stores.history(*bound, after, answer_by(call))
        return pb.HistoryResponse(
            entries=[_key_entry(request.key, each, with_value=True) for each in found],
            next_page_token=write_token((found[-1].sequence,), *bound) if more else "",
        )

    async def watch(self, request: pb.WatchRequest, call: ServerCall) -> None:
        """Send changes of keys. A drain of the server ends the call."""
        check_keys(request)
        begin = Revision(number("from_revision", request.from_revision))
        if begin and request.existing:
            raise InvalidField("existing", "cannot be combined with from_revision; set one of them")
        pattern = request.filter or EVERYTHING
        watch = self._watch(request.store, pattern, CallWatch(call))
        await watch.run(begin, existing=request.existing)


class CallWatch(CallStream):
    """The client's end of a watch, as the domain sees it."""

    __slots__ = ()

    def send(self, key: str, record: Record) -> None:
        """Send a change of a key."""
        self._call.send(pb.WatchResponse(entry=_key_entry(key, record, with_value=True)))

    def up_to_date(self, revision: Revision) -> None:
        """Tell that everything is new from here on."""
        self._call.send(pb.WatchResponse(up_to_date=pb.WatchResponse.UpToDate(revision=revision)))


def _may_view(call: ServerCall, store: str) -> bool:
    caller = caller_of(call)
    return caller is None or caller.permissions.decide(ViewStore(store)).allowed


def _seconds(field: str, value: Duration) -> int | None:
    """Read a time to live in whole seconds; None for zero."""
    ttl = duration(field, value, _SHORTEST_TTL)
    if ttl is not None and ttl.microseconds:
        raise InvalidField(field, "must be in whole seconds")
    if ttl is not None and ttl > LONGEST_TTL:
        raise InvalidField(field, f"must be at most {LONGEST_TTL.days // 365} years of 365 days")
    return None if ttl is None else ttl // _SHORTEST_TTL


def _store_entry(info: BucketInfo) -> pb.ListStoresResponse.Entry:
    entry = pb.ListStoresResponse.Entry(
        store=info.name, keys=info.keys, bytes=info.size, history=max(info.history, 0)
    )
    if info.max_age_ns:
        entry.ttl.FromMicroseconds(info.max_age_ns // 1000)
    return entry


def _key_entry(key: str, record: Record, *, with_value: bool) -> pb.Entry:
    """Write one revision of a key. A value that another program wrote, and that is no `Any`, is left out."""
    seconds, nanos = record.time
    entry = pb.Entry(
        key=key,
        revision=record.sequence,
        deleted=record.value is None,
        updated=wire_time(record.time),
        expires=None if record.ttl is None else wire_time(Time(seconds + record.ttl, nanos)),
    )
    if with_value and record.value is not None:
        try:
            _read_any(entry.value, key, record.value)
        except ValueNotAny:
            entry.ClearField("value")
    return entry


def _last_revision(request: pb.SetRequest | pb.DeleteRequest) -> int | None:
    if not request.HasField("last_revision"):
        return None
    return number("last_revision", request.last_revision)


def _check(field: str, check: pb.TransactRequest.Check) -> Check:
    if check.WhichOneof("expected") is None:
        raise InvalidField(f"{field}.expected", "set one of revision and absent")
    return Check(check.key, number(f"{field}.revision", check.revision))


def _write(field: str, write: pb.TransactRequest.Write) -> Write:
    match write.WhichOneof("write"):
        case "set":
            value = _value(f"{field}.set.value", write.set)
            return Write(write.key, value, _seconds(f"{field}.set.ttl", write.set.ttl))
        case "delete":
            return Write(write.key, None)
        case _:
            raise InvalidField(f"{field}.write", "set one of set and delete")


def _value(field: str, request: pb.SetRequest | pb.TransactRequest.Set) -> bytes:
    if not request.HasField("value"):
        raise InvalidField(field, "is missing; set the value, or delete the key")
    request.value.DiscardUnknownFields()  # with these it would not be taken for an Any when it is read
    return request.value.SerializeToString()


def _found(key: str, record: Record) -> pb.GetResponse:
    if record.value is None:
        return pb.GetResponse()
    response = pb.GetResponse(revision=record.sequence)
    _read_any(response.value, key, record.value)
    updated = response.last_updated
    updated.seconds, updated.nanos = record.time
    return response


def _read_any(into: Any, key: str, value: bytes) -> None:
    """Parse a stored value.

    Bytes that another program wrote may happen to parse, but hardly into the two fields of an `Any` alone.
    """
    try:
        into.ParseFromString(value)
        position = fields = 0
        while position < len(value):
            fields += 1
            if value[position] not in _TAGS_OF_ANY or fields > _MOST_FIELDS:
                raise ValueNotAny(key)
            _, _, position = field_at(value, position)
    except DecodeError:
        raise ValueNotAny(key) from None
