from google.protobuf import timestamp_pb2 as _timestamp_pb2
from ....windshift.events.v1alpha1 import service_pb2 as _service_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Cause(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CAUSE_UNSPECIFIED: _ClassVar[Cause]
    CAUSE_MAX_ATTEMPTS: _ClassVar[Cause]
    CAUSE_REJECTED: _ClassVar[Cause]
CAUSE_UNSPECIFIED: Cause
CAUSE_MAX_ATTEMPTS: Cause
CAUSE_REJECTED: Cause

class Filter(_message.Message):
    __slots__ = ("stream", "consumer", "causes", "type", "since", "until", "error_types", "text", "subjects", "event_ids")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    CONSUMER_FIELD_NUMBER: _ClassVar[int]
    CAUSES_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    ERROR_TYPES_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SUBJECTS_FIELD_NUMBER: _ClassVar[int]
    EVENT_IDS_FIELD_NUMBER: _ClassVar[int]
    stream: str
    consumer: str
    causes: _containers.RepeatedScalarFieldContainer[Cause]
    type: str
    since: _timestamp_pb2.Timestamp
    until: _timestamp_pb2.Timestamp
    error_types: _containers.RepeatedScalarFieldContainer[str]
    text: str
    subjects: _containers.RepeatedScalarFieldContainer[str]
    event_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, stream: _Optional[str] = ..., consumer: _Optional[str] = ..., causes: _Optional[_Iterable[_Union[Cause, str]]] = ..., type: _Optional[str] = ..., since: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., until: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., error_types: _Optional[_Iterable[str]] = ..., text: _Optional[str] = ..., subjects: _Optional[_Iterable[str]] = ..., event_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class DeadLetter(_message.Message):
    __slots__ = ("id", "stream", "consumer", "event", "other_headers", "attempts", "first_delivery", "last_delivery", "time", "cause", "reason", "error_type", "replay_count", "replaying", "data_size")
    class OtherHeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    CONSUMER_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    OTHER_HEADERS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    FIRST_DELIVERY_FIELD_NUMBER: _ClassVar[int]
    LAST_DELIVERY_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ERROR_TYPE_FIELD_NUMBER: _ClassVar[int]
    REPLAY_COUNT_FIELD_NUMBER: _ClassVar[int]
    REPLAYING_FIELD_NUMBER: _ClassVar[int]
    DATA_SIZE_FIELD_NUMBER: _ClassVar[int]
    id: str
    stream: str
    consumer: str
    event: _service_pb2.Event
    other_headers: _containers.ScalarMap[str, str]
    attempts: int
    first_delivery: _timestamp_pb2.Timestamp
    last_delivery: _timestamp_pb2.Timestamp
    time: _timestamp_pb2.Timestamp
    cause: Cause
    reason: str
    error_type: str
    replay_count: int
    replaying: bool
    data_size: int
    def __init__(self, id: _Optional[str] = ..., stream: _Optional[str] = ..., consumer: _Optional[str] = ..., event: _Optional[_Union[_service_pb2.Event, _Mapping]] = ..., other_headers: _Optional[_Mapping[str, str]] = ..., attempts: _Optional[int] = ..., first_delivery: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., last_delivery: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., cause: _Optional[_Union[Cause, str]] = ..., reason: _Optional[str] = ..., error_type: _Optional[str] = ..., replay_count: _Optional[int] = ..., replaying: bool = ..., data_size: _Optional[int] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("filter", "page_size", "page_token", "without_data", "newest_first")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_DATA_FIELD_NUMBER: _ClassVar[int]
    NEWEST_FIRST_FIELD_NUMBER: _ClassVar[int]
    filter: Filter
    page_size: int
    page_token: str
    without_data: bool
    newest_first: bool
    def __init__(self, filter: _Optional[_Union[Filter, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., without_data: bool = ..., newest_first: bool = ...) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("dead_letters", "next_page_token", "total")
    DEAD_LETTERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    dead_letters: _containers.RepeatedCompositeFieldContainer[DeadLetter]
    next_page_token: str
    total: int
    def __init__(self, dead_letters: _Optional[_Iterable[_Union[DeadLetter, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., total: _Optional[int] = ...) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class GetResponse(_message.Message):
    __slots__ = ("dead_letter",)
    DEAD_LETTER_FIELD_NUMBER: _ClassVar[int]
    dead_letter: DeadLetter
    def __init__(self, dead_letter: _Optional[_Union[DeadLetter, _Mapping]] = ...) -> None: ...

class ReplayRequest(_message.Message):
    __slots__ = ("ids", "filter", "rate", "dry_run", "limit", "page_token")
    IDS_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[str]
    filter: Filter
    rate: int
    dry_run: bool
    limit: int
    page_token: str
    def __init__(self, ids: _Optional[_Iterable[str]] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ..., rate: _Optional[int] = ..., dry_run: bool = ..., limit: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ReplayResponse(_message.Message):
    __slots__ = ("replayed", "already_replaying", "missing_ids", "without_consumer", "next_page_token")
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    ALREADY_REPLAYING_FIELD_NUMBER: _ClassVar[int]
    MISSING_IDS_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_CONSUMER_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    replayed: int
    already_replaying: int
    missing_ids: _containers.RepeatedScalarFieldContainer[str]
    without_consumer: int
    next_page_token: str
    def __init__(self, replayed: _Optional[int] = ..., already_replaying: _Optional[int] = ..., missing_ids: _Optional[_Iterable[str]] = ..., without_consumer: _Optional[int] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CancelReplayRequest(_message.Message):
    __slots__ = ("ids", "filter", "page_token")
    IDS_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[str]
    filter: Filter
    page_token: str
    def __init__(self, ids: _Optional[_Iterable[str]] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ..., page_token: _Optional[str] = ...) -> None: ...

class CancelReplayResponse(_message.Message):
    __slots__ = ("cancelled", "delivering", "missing_ids", "next_page_token")
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    DELIVERING_FIELD_NUMBER: _ClassVar[int]
    MISSING_IDS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    cancelled: int
    delivering: int
    missing_ids: _containers.RepeatedScalarFieldContainer[str]
    next_page_token: str
    def __init__(self, cancelled: _Optional[int] = ..., delivering: _Optional[int] = ..., missing_ids: _Optional[_Iterable[str]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class SummarizeRequest(_message.Message):
    __slots__ = ("filter", "by", "limit")
    class By(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        BY_UNSPECIFIED: _ClassVar[SummarizeRequest.By]
        BY_STREAM: _ClassVar[SummarizeRequest.By]
        BY_CONSUMER: _ClassVar[SummarizeRequest.By]
        BY_CAUSE: _ClassVar[SummarizeRequest.By]
        BY_ERROR_TYPE: _ClassVar[SummarizeRequest.By]
        BY_TYPE: _ClassVar[SummarizeRequest.By]
        BY_SUBJECT: _ClassVar[SummarizeRequest.By]
        BY_REASON: _ClassVar[SummarizeRequest.By]
    BY_UNSPECIFIED: SummarizeRequest.By
    BY_STREAM: SummarizeRequest.By
    BY_CONSUMER: SummarizeRequest.By
    BY_CAUSE: SummarizeRequest.By
    BY_ERROR_TYPE: SummarizeRequest.By
    BY_TYPE: SummarizeRequest.By
    BY_SUBJECT: SummarizeRequest.By
    BY_REASON: SummarizeRequest.By
    FILTER_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    filter: Filter
    by: _containers.RepeatedScalarFieldContainer[SummarizeRequest.By]
    limit: int
    def __init__(self, filter: _Optional[_Union[Filter, _Mapping]] = ..., by: _Optional[_Iterable[_Union[SummarizeRequest.By, str]]] = ..., limit: _Optional[int] = ...) -> None: ...

class SummarizeResponse(_message.Message):
    __slots__ = ("groups", "total", "truncated")
    class Group(_message.Message):
        __slots__ = ("keys", "count", "first", "last", "sample_id")
        KEYS_FIELD_NUMBER: _ClassVar[int]
        COUNT_FIELD_NUMBER: _ClassVar[int]
        FIRST_FIELD_NUMBER: _ClassVar[int]
        LAST_FIELD_NUMBER: _ClassVar[int]
        SAMPLE_ID_FIELD_NUMBER: _ClassVar[int]
        keys: _containers.RepeatedScalarFieldContainer[str]
        count: int
        first: _timestamp_pb2.Timestamp
        last: _timestamp_pb2.Timestamp
        sample_id: str
        def __init__(self, keys: _Optional[_Iterable[str]] = ..., count: _Optional[int] = ..., first: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., last: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., sample_id: _Optional[str] = ...) -> None: ...
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    groups: _containers.RepeatedCompositeFieldContainer[SummarizeResponse.Group]
    total: int
    truncated: bool
    def __init__(self, groups: _Optional[_Iterable[_Union[SummarizeResponse.Group, _Mapping]]] = ..., total: _Optional[int] = ..., truncated: bool = ...) -> None: ...

class PurgeRequest(_message.Message):
    __slots__ = ("ids", "filter", "dry_run", "page_token")
    IDS_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[str]
    filter: Filter
    dry_run: bool
    page_token: str
    def __init__(self, ids: _Optional[_Iterable[str]] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ..., dry_run: bool = ..., page_token: _Optional[str] = ...) -> None: ...

class PurgeResponse(_message.Message):
    __slots__ = ("purged", "missing_ids", "next_page_token")
    PURGED_FIELD_NUMBER: _ClassVar[int]
    MISSING_IDS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    purged: int
    missing_ids: _containers.RepeatedScalarFieldContainer[str]
    next_page_token: str
    def __init__(self, purged: _Optional[int] = ..., missing_ids: _Optional[_Iterable[str]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("filter", "position", "existing", "without_data")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    EXISTING_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_DATA_FIELD_NUMBER: _ClassVar[int]
    filter: Filter
    position: str
    existing: bool
    without_data: bool
    def __init__(self, filter: _Optional[_Union[Filter, _Mapping]] = ..., position: _Optional[str] = ..., existing: bool = ..., without_data: bool = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("dead_letter", "position")
    DEAD_LETTER_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    dead_letter: DeadLetter
    position: str
    def __init__(self, dead_letter: _Optional[_Union[DeadLetter, _Mapping]] = ..., position: _Optional[str] = ...) -> None: ...
