from google.protobuf import any_pb2 as _any_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EnsureStoreRequest(_message.Message):
    __slots__ = ("store", "history", "ttl")
    STORE_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    store: str
    history: int
    ttl: _duration_pb2.Duration
    def __init__(self, store: _Optional[str] = ..., history: _Optional[int] = ..., ttl: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class EnsureStoreResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("store", "key")
    STORE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    store: str
    key: str
    def __init__(self, store: _Optional[str] = ..., key: _Optional[str] = ...) -> None: ...

class GetResponse(_message.Message):
    __slots__ = ("last_updated", "revision", "value")
    LAST_UPDATED_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    last_updated: _timestamp_pb2.Timestamp
    revision: int
    value: _any_pb2.Any
    def __init__(self, last_updated: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., revision: _Optional[int] = ..., value: _Optional[_Union[_any_pb2.Any, _Mapping]] = ...) -> None: ...

class SetRequest(_message.Message):
    __slots__ = ("store", "key", "value", "create_only", "last_revision", "ttl")
    STORE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    CREATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    LAST_REVISION_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    store: str
    key: str
    value: _any_pb2.Any
    create_only: bool
    last_revision: int
    ttl: _duration_pb2.Duration
    def __init__(self, store: _Optional[str] = ..., key: _Optional[str] = ..., value: _Optional[_Union[_any_pb2.Any, _Mapping]] = ..., create_only: bool = ..., last_revision: _Optional[int] = ..., ttl: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class SetResponse(_message.Message):
    __slots__ = ("revision",)
    REVISION_FIELD_NUMBER: _ClassVar[int]
    revision: int
    def __init__(self, revision: _Optional[int] = ...) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("store", "key", "last_revision")
    STORE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    LAST_REVISION_FIELD_NUMBER: _ClassVar[int]
    store: str
    key: str
    last_revision: int
    def __init__(self, store: _Optional[str] = ..., key: _Optional[str] = ..., last_revision: _Optional[int] = ...) -> None: ...

class DeleteResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TouchRequest(_message.Message):
    __slots__ = ("store", "key", "ttl")
    STORE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    store: str
    key: str
    ttl: _duration_pb2.Duration
    def __init__(self, store: _Optional[str] = ..., key: _Optional[str] = ..., ttl: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class TouchResponse(_message.Message):
    __slots__ = ("revision",)
    REVISION_FIELD_NUMBER: _ClassVar[int]
    revision: int
    def __init__(self, revision: _Optional[int] = ...) -> None: ...

class ListStoresRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListStoresResponse(_message.Message):
    __slots__ = ("stores", "next_page_token")
    class Entry(_message.Message):
        __slots__ = ("store", "keys", "bytes", "history", "ttl")
        STORE_FIELD_NUMBER: _ClassVar[int]
        KEYS_FIELD_NUMBER: _ClassVar[int]
        BYTES_FIELD_NUMBER: _ClassVar[int]
        HISTORY_FIELD_NUMBER: _ClassVar[int]
        TTL_FIELD_NUMBER: _ClassVar[int]
        store: str
        keys: int
        bytes: int
        history: int
        ttl: _duration_pb2.Duration
        def __init__(self, store: _Optional[str] = ..., keys: _Optional[int] = ..., bytes: _Optional[int] = ..., history: _Optional[int] = ..., ttl: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...
    STORES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    stores: _containers.RepeatedCompositeFieldContainer[ListStoresResponse.Entry]
    next_page_token: str
    def __init__(self, stores: _Optional[_Iterable[_Union[ListStoresResponse.Entry, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DeleteStoreRequest(_message.Message):
    __slots__ = ("store",)
    STORE_FIELD_NUMBER: _ClassVar[int]
    store: str
    def __init__(self, store: _Optional[str] = ...) -> None: ...

class DeleteStoreResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListKeysRequest(_message.Message):
    __slots__ = ("store", "filter", "with_values", "page_size", "page_token")
    STORE_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    WITH_VALUES_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    store: str
    filter: str
    with_values: bool
    page_size: int
    page_token: str
    def __init__(self, store: _Optional[str] = ..., filter: _Optional[str] = ..., with_values: bool = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListKeysResponse(_message.Message):
    __slots__ = ("entries", "next_page_token")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[Entry]
    next_page_token: str
    def __init__(self, entries: _Optional[_Iterable[_Union[Entry, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class Entry(_message.Message):
    __slots__ = ("key", "revision", "updated", "value", "deleted", "expires")
    KEY_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    UPDATED_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    DELETED_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    key: str
    revision: int
    updated: _timestamp_pb2.Timestamp
    value: _any_pb2.Any
    deleted: bool
    expires: _timestamp_pb2.Timestamp
    def __init__(self, key: _Optional[str] = ..., revision: _Optional[int] = ..., updated: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., value: _Optional[_Union[_any_pb2.Any, _Mapping]] = ..., deleted: bool = ..., expires: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class HistoryRequest(_message.Message):
    __slots__ = ("store", "key", "page_token")
    STORE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    store: str
    key: str
    page_token: str
    def __init__(self, store: _Optional[str] = ..., key: _Optional[str] = ..., page_token: _Optional[str] = ...) -> None: ...

class HistoryResponse(_message.Message):
    __slots__ = ("entries", "next_page_token")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[Entry]
    next_page_token: str
    def __init__(self, entries: _Optional[_Iterable[_Union[Entry, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("store", "filter", "from_revision", "existing")
    STORE_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    FROM_REVISION_FIELD_NUMBER: _ClassVar[int]
    EXISTING_FIELD_NUMBER: _ClassVar[int]
    store: str
    filter: str
    from_revision: int
    existing: bool
    def __init__(self, store: _Optional[str] = ..., filter: _Optional[str] = ..., from_revision: _Optional[int] = ..., existing: bool = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("entry", "up_to_date")
    class UpToDate(_message.Message):
        __slots__ = ("revision",)
        REVISION_FIELD_NUMBER: _ClassVar[int]
        revision: int
        def __init__(self, revision: _Optional[int] = ...) -> None: ...
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    UP_TO_DATE_FIELD_NUMBER: _ClassVar[int]
    entry: Entry
    up_to_date: WatchResponse.UpToDate
    def __init__(self, entry: _Optional[_Union[Entry, _Mapping]] = ..., up_to_date: _Optional[_Union[WatchResponse.UpToDate, _Mapping]] = ...) -> None: ...

class TransactRequest(_message.Message):
    __slots__ = ("store", "checks", "writes")
    class Check(_message.Message):
        __slots__ = ("key", "revision", "absent")
        KEY_FIELD_NUMBER: _ClassVar[int]
        REVISION_FIELD_NUMBER: _ClassVar[int]
        ABSENT_FIELD_NUMBER: _ClassVar[int]
        key: str
        revision: int
        absent: bool
        def __init__(self, key: _Optional[str] = ..., revision: _Optional[int] = ..., absent: bool = ...) -> None: ...
    class Set(_message.Message):
        __slots__ = ("value", "ttl")
        VALUE_FIELD_NUMBER: _ClassVar[int]
        TTL_FIELD_NUMBER: _ClassVar[int]
        value: _any_pb2.Any
        ttl: _duration_pb2.Duration
        def __init__(self, value: _Optional[_Union[_any_pb2.Any, _Mapping]] = ..., ttl: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...
    class Write(_message.Message):
        __slots__ = ("key", "set", "delete")
        KEY_FIELD_NUMBER: _ClassVar[int]
        SET_FIELD_NUMBER: _ClassVar[int]
        DELETE_FIELD_NUMBER: _ClassVar[int]
        key: str
        set: TransactRequest.Set
        delete: bool
        def __init__(self, key: _Optional[str] = ..., set: _Optional[_Union[TransactRequest.Set, _Mapping]] = ..., delete: bool = ...) -> None: ...
    STORE_FIELD_NUMBER: _ClassVar[int]
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    WRITES_FIELD_NUMBER: _ClassVar[int]
    store: str
    checks: _containers.RepeatedCompositeFieldContainer[TransactRequest.Check]
    writes: _containers.RepeatedCompositeFieldContainer[TransactRequest.Write]
    def __init__(self, store: _Optional[str] = ..., checks: _Optional[_Iterable[_Union[TransactRequest.Check, _Mapping]]] = ..., writes: _Optional[_Iterable[_Union[TransactRequest.Write, _Mapping]]] = ...) -> None: ...

class TransactResponse(_message.Message):
    __slots__ = ("revisions",)
    REVISIONS_FIELD_NUMBER: _ClassVar[int]
    revisions: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, revisions: _Optional[_Iterable[int]] = ...) -> None: ...
