from google.protobuf import any_pb2 as _any_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EnsureStreamRequest(_message.Message):
    __slots__ = ("name", "retention_policy", "subjects", "mirror", "aggregate", "storage", "deduplication_window", "max_event_size", "atomic_batches", "fast_ingest")
    class DiscardPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        DISCARD_POLICY_UNSPECIFIED: _ClassVar[EnsureStreamRequest.DiscardPolicy]
        DISCARD_POLICY_OLD: _ClassVar[EnsureStreamRequest.DiscardPolicy]
        DISCARD_POLICY_NEW: _ClassVar[EnsureStreamRequest.DiscardPolicy]
    DISCARD_POLICY_UNSPECIFIED: EnsureStreamRequest.DiscardPolicy
    DISCARD_POLICY_OLD: EnsureStreamRequest.DiscardPolicy
    DISCARD_POLICY_NEW: EnsureStreamRequest.DiscardPolicy
    class StorageType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STORAGE_TYPE_UNSPECIFIED: _ClassVar[EnsureStreamRequest.StorageType]
        STORAGE_TYPE_FILE: _ClassVar[EnsureStreamRequest.StorageType]
        STORAGE_TYPE_MEMORY: _ClassVar[EnsureStreamRequest.StorageType]
    STORAGE_TYPE_UNSPECIFIED: EnsureStreamRequest.StorageType
    STORAGE_TYPE_FILE: EnsureStreamRequest.StorageType
    STORAGE_TYPE_MEMORY: EnsureStreamRequest.StorageType
    class RetentionPolicy(_message.Message):
        __slots__ = ("max_age", "max_events", "max_events_per_subject", "max_bytes", "discard_policy", "discard_new_per_subject")
        MAX_AGE_FIELD_NUMBER: _ClassVar[int]
        MAX_EVENTS_FIELD_NUMBER: _ClassVar[int]
        MAX_EVENTS_PER_SUBJECT_FIELD_NUMBER: _ClassVar[int]
        MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
        DISCARD_POLICY_FIELD_NUMBER: _ClassVar[int]
        DISCARD_NEW_PER_SUBJECT_FIELD_NUMBER: _ClassVar[int]
        max_age: _duration_pb2.Duration
        max_events: int
        max_events_per_subject: int
        max_bytes: int
        discard_policy: EnsureStreamRequest.DiscardPolicy
        discard_new_per_subject: bool
        def __init__(self, max_age: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., max_events: _Optional[int] = ..., max_events_per_subject: _Optional[int] = ..., max_bytes: _Optional[int] = ..., discard_policy: _Optional[_Union[EnsureStreamRequest.DiscardPolicy, str]] = ..., discard_new_per_subject: bool = ...) -> None: ...
    class Subjects(_message.Message):
        __slots__ = ("subjects",)
        SUBJECTS_FIELD_NUMBER: _ClassVar[int]
        subjects: _containers.RepeatedScalarFieldContainer[str]
        def __init__(self, subjects: _Optional[_Iterable[str]] = ...) -> None: ...
    class StreamSource(_message.Message):
        __slots__ = ("name", "filter_subjects")
        NAME_FIELD_NUMBER: _ClassVar[int]
        FROM_FIELD_NUMBER: _ClassVar[int]
        FILTER_SUBJECTS_FIELD_NUMBER: _ClassVar[int]
        name: str
        filter_subjects: _containers.RepeatedScalarFieldContainer[str]
        def __init__(self, name: _Optional[str] = ..., filter_subjects: _Optional[_Iterable[str]] = ..., **kwargs) -> None: ...
    class StreamSources(_message.Message):
        __slots__ = ("sources",)
        SOURCES_FIELD_NUMBER: _ClassVar[int]
        sources: _containers.RepeatedCompositeFieldContainer[EnsureStreamRequest.StreamSource]
        def __init__(self, sources: _Optional[_Iterable[_Union[EnsureStreamRequest.StreamSource, _Mapping]]] = ...) -> None: ...
    class Storage(_message.Message):
        __slots__ = ("type", "replicas")
        TYPE_FIELD_NUMBER: _ClassVar[int]
        REPLICAS_FIELD_NUMBER: _ClassVar[int]
        type: EnsureStreamRequest.StorageType
        replicas: int
        def __init__(self, type: _Optional[_Union[EnsureStreamRequest.StorageType, str]] = ..., replicas: _Optional[int] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    RETENTION_POLICY_FIELD_NUMBER: _ClassVar[int]
    SUBJECTS_FIELD_NUMBER: _ClassVar[int]
    MIRROR_FIELD_NUMBER: _ClassVar[int]
    AGGREGATE_FIELD_NUMBER: _ClassVar[int]
    STORAGE_FIELD_NUMBER: _ClassVar[int]
    DEDUPLICATION_WINDOW_FIELD_NUMBER: _ClassVar[int]
    MAX_EVENT_SIZE_FIELD_NUMBER: _ClassVar[int]
    ATOMIC_BATCHES_FIELD_NUMBER: _ClassVar[int]
    FAST_INGEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    retention_policy: EnsureStreamRequest.RetentionPolicy
    subjects: EnsureStreamRequest.Subjects
    mirror: EnsureStreamRequest.StreamSource
    aggregate: EnsureStreamRequest.StreamSources
    storage: EnsureStreamRequest.Storage
    deduplication_window: _duration_pb2.Duration
    max_event_size: int
    atomic_batches: bool
    fast_ingest: bool
    def __init__(self, name: _Optional[str] = ..., retention_policy: _Optional[_Union[EnsureStreamRequest.RetentionPolicy, _Mapping]] = ..., subjects: _Optional[_Union[EnsureStreamRequest.Subjects, _Mapping]] = ..., mirror: _Optional[_Union[EnsureStreamRequest.StreamSource, _Mapping]] = ..., aggregate: _Optional[_Union[EnsureStreamRequest.StreamSources, _Mapping]] = ..., storage: _Optional[_Union[EnsureStreamRequest.Storage, _Mapping]] = ..., deduplication_window: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., max_event_size: _Optional[int] = ..., atomic_batches: bool = ..., fast_ingest: bool = ...) -> None: ...

class EnsureStreamResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class EnsureConsumerRequest(_message.Message):
    __slots__ = ("stream", "name", "subjects", "processing_timeout", "retry_policy")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SUBJECTS_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    PROCESSING_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    RETRY_POLICY_FIELD_NUMBER: _ClassVar[int]
    stream: str
    name: str
    subjects: _containers.RepeatedScalarFieldContainer[str]
    processing_timeout: _duration_pb2.Duration
    retry_policy: RetryPolicy
    def __init__(self, stream: _Optional[str] = ..., name: _Optional[str] = ..., subjects: _Optional[_Iterable[str]] = ..., processing_timeout: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., retry_policy: _Optional[_Union[RetryPolicy, _Mapping]] = ..., **kwargs) -> None: ...

class RetryPolicy(_message.Message):
    __slots__ = ("max_attempts", "initial_backoff", "max_backoff", "backoff_multiplier", "jitter", "dead_letters")
    MAX_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    INITIAL_BACKOFF_FIELD_NUMBER: _ClassVar[int]
    MAX_BACKOFF_FIELD_NUMBER: _ClassVar[int]
    BACKOFF_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    JITTER_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTERS_FIELD_NUMBER: _ClassVar[int]
    max_attempts: int
    initial_backoff: _duration_pb2.Duration
    max_backoff: _duration_pb2.Duration
    backoff_multiplier: float
    jitter: float
    dead_letters: bool
    def __init__(self, max_attempts: _Optional[int] = ..., initial_backoff: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., max_backoff: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., backoff_multiplier: _Optional[float] = ..., jitter: _Optional[float] = ..., dead_letters: bool = ...) -> None: ...

class EnsureConsumerResponse(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class GetConsumerRequest(_message.Message):
    __slots__ = ("stream", "id")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    stream: str
    id: str
    def __init__(self, stream: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class GetConsumerResponse(_message.Message):
    __slots__ = ("stream", "id", "durable", "subjects", "processing_timeout", "retry_policy", "pending", "unsettled", "settled_to", "dead_letters")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    DURABLE_FIELD_NUMBER: _ClassVar[int]
    SUBJECTS_FIELD_NUMBER: _ClassVar[int]
    PROCESSING_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    RETRY_POLICY_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    UNSETTLED_FIELD_NUMBER: _ClassVar[int]
    SETTLED_TO_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTERS_FIELD_NUMBER: _ClassVar[int]
    stream: str
    id: str
    durable: bool
    subjects: _containers.RepeatedScalarFieldContainer[str]
    processing_timeout: _duration_pb2.Duration
    retry_policy: RetryPolicy
    pending: int
    unsettled: int
    settled_to: int
    dead_letters: int
    def __init__(self, stream: _Optional[str] = ..., id: _Optional[str] = ..., durable: bool = ..., subjects: _Optional[_Iterable[str]] = ..., processing_timeout: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., retry_policy: _Optional[_Union[RetryPolicy, _Mapping]] = ..., pending: _Optional[int] = ..., unsettled: _Optional[int] = ..., settled_to: _Optional[int] = ..., dead_letters: _Optional[int] = ...) -> None: ...

class DeleteConsumerRequest(_message.Message):
    __slots__ = ("stream", "id")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    stream: str
    id: str
    def __init__(self, stream: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class DeleteConsumerResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StreamPointer(_message.Message):
    __slots__ = ("start", "end", "time", "offset")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    start: bool
    end: bool
    time: _timestamp_pb2.Timestamp
    offset: int
    def __init__(self, start: bool = ..., end: bool = ..., time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., offset: _Optional[int] = ...) -> None: ...

class PublishEventRequest(_message.Message):
    __slots__ = ("subject", "data", "timestamp", "idempotency_key", "expected_last_id")
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_LAST_ID_FIELD_NUMBER: _ClassVar[int]
    subject: str
    data: _any_pb2.Any
    timestamp: _timestamp_pb2.Timestamp
    idempotency_key: str
    expected_last_id: int
    def __init__(self, subject: _Optional[str] = ..., data: _Optional[_Union[_any_pb2.Any, _Mapping]] = ..., timestamp: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., idempotency_key: _Optional[str] = ..., expected_last_id: _Optional[int] = ...) -> None: ...

class PublishEventResponse(_message.Message):
    __slots__ = ("id", "duplicate")
    ID_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    id: int
    duplicate: bool
    def __init__(self, id: _Optional[int] = ..., duplicate: bool = ...) -> None: ...

class PublishBatchRequest(_message.Message):
    __slots__ = ("events", "atomic")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    ATOMIC_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[PublishEventRequest]
    atomic: bool
    def __init__(self, events: _Optional[_Iterable[_Union[PublishEventRequest, _Mapping]]] = ..., atomic: bool = ...) -> None: ...

class PublishBatchResponse(_message.Message):
    __slots__ = ("ids", "duplicates", "errors")
    IDS_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    duplicates: _containers.RepeatedScalarFieldContainer[int]
    errors: _containers.RepeatedCompositeFieldContainer[PublishError]
    def __init__(self, ids: _Optional[_Iterable[int]] = ..., duplicates: _Optional[_Iterable[int]] = ..., errors: _Optional[_Iterable[_Union[PublishError, _Mapping]]] = ...) -> None: ...

class PublishStreamRequest(_message.Message):
    __slots__ = ("events", "without_ids")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_IDS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[PublishEventRequest]
    without_ids: bool
    def __init__(self, events: _Optional[_Iterable[_Union[PublishEventRequest, _Mapping]]] = ..., without_ids: bool = ...) -> None: ...

class PublishStreamResponse(_message.Message):
    __slots__ = ("ids", "duplicates", "errors", "first", "count")
    IDS_FIELD_NUMBER: _ClassVar[int]
    DUPLICATES_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    duplicates: _containers.RepeatedScalarFieldContainer[int]
    errors: _containers.RepeatedCompositeFieldContainer[PublishError]
    first: int
    count: int
    def __init__(self, ids: _Optional[_Iterable[int]] = ..., duplicates: _Optional[_Iterable[int]] = ..., errors: _Optional[_Iterable[_Union[PublishError, _Mapping]]] = ..., first: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class PublishError(_message.Message):
    __slots__ = ("index", "code", "message", "reason", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    INDEX_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    index: int
    code: int
    message: str
    reason: str
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, index: _Optional[int] = ..., code: _Optional[int] = ..., message: _Optional[str] = ..., reason: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class EventsRequest(_message.Message):
    __slots__ = ("subscribe", "ack", "reject", "ping", "limit")
    class RejectAction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REJECT_ACTION_UNSPECIFIED: _ClassVar[EventsRequest.RejectAction]
        REJECT_ACTION_RETRY: _ClassVar[EventsRequest.RejectAction]
        REJECT_ACTION_DEAD_LETTER: _ClassVar[EventsRequest.RejectAction]
        REJECT_ACTION_DROP: _ClassVar[EventsRequest.RejectAction]
    REJECT_ACTION_UNSPECIFIED: EventsRequest.RejectAction
    REJECT_ACTION_RETRY: EventsRequest.RejectAction
    REJECT_ACTION_DEAD_LETTER: EventsRequest.RejectAction
    REJECT_ACTION_DROP: EventsRequest.RejectAction
    class Subscribe(_message.Message):
        __slots__ = ("stream", "consumer", "max_processing_events", "resume", "linger", "max_batch", "max_message_size")
        STREAM_FIELD_NUMBER: _ClassVar[int]
        CONSUMER_FIELD_NUMBER: _ClassVar[int]
        MAX_PROCESSING_EVENTS_FIELD_NUMBER: _ClassVar[int]
        RESUME_FIELD_NUMBER: _ClassVar[int]
        LINGER_FIELD_NUMBER: _ClassVar[int]
        MAX_BATCH_FIELD_NUMBER: _ClassVar[int]
        MAX_MESSAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
        stream: str
        consumer: str
        max_processing_events: int
        resume: _containers.RepeatedScalarFieldContainer[bytes]
        linger: _duration_pb2.Duration
        max_batch: int
        max_message_size: int
        def __init__(self, stream: _Optional[str] = ..., consumer: _Optional[str] = ..., max_processing_events: _Optional[int] = ..., resume: _Optional[_Iterable[bytes]] = ..., linger: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., max_batch: _Optional[int] = ..., max_message_size: _Optional[int] = ...) -> None: ...
    class Ack(_message.Message):
        __slots__ = ("ids",)
        IDS_FIELD_NUMBER: _ClassVar[int]
        ids: _containers.RepeatedScalarFieldContainer[int]
        def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...
    class Reject(_message.Message):
        __slots__ = ("ids", "permanently", "delay", "reason", "error_type", "action")
        IDS_FIELD_NUMBER: _ClassVar[int]
        PERMANENTLY_FIELD_NUMBER: _ClassVar[int]
        DELAY_FIELD_NUMBER: _ClassVar[int]
        REASON_FIELD_NUMBER: _ClassVar[int]
        ERROR_TYPE_FIELD_NUMBER: _ClassVar[int]
        ACTION_FIELD_NUMBER: _ClassVar[int]
        ids: _containers.RepeatedScalarFieldContainer[int]
        permanently: bool
        delay: _duration_pb2.Duration
        reason: str
        error_type: str
        action: EventsRequest.RejectAction
        def __init__(self, ids: _Optional[_Iterable[int]] = ..., permanently: bool = ..., delay: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., reason: _Optional[str] = ..., error_type: _Optional[str] = ..., action: _Optional[_Union[EventsRequest.RejectAction, str]] = ...) -> None: ...
    class Ping(_message.Message):
        __slots__ = ("ids",)
        IDS_FIELD_NUMBER: _ClassVar[int]
        ids: _containers.RepeatedScalarFieldContainer[int]
        def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...
    class Limit(_message.Message):
        __slots__ = ("max_processing_events",)
        MAX_PROCESSING_EVENTS_FIELD_NUMBER: _ClassVar[int]
        max_processing_events: int
        def __init__(self, max_processing_events: _Optional[int] = ...) -> None: ...
    SUBSCRIBE_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    REJECT_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    subscribe: EventsRequest.Subscribe
    ack: EventsRequest.Ack
    reject: EventsRequest.Reject
    ping: EventsRequest.Ping
    limit: EventsRequest.Limit
    def __init__(self, subscribe: _Optional[_Union[EventsRequest.Subscribe, _Mapping]] = ..., ack: _Optional[_Union[EventsRequest.Ack, _Mapping]] = ..., reject: _Optional[_Union[EventsRequest.Reject, _Mapping]] = ..., ping: _Optional[_Union[EventsRequest.Ping, _Mapping]] = ..., limit: _Optional[_Union[EventsRequest.Limit, _Mapping]] = ...) -> None: ...

class EventsResponse(_message.Message):
    __slots__ = ("event", "subscribed", "ack_confirmation", "reject_confirmation", "ping_confirmation", "batch")
    class Subscribed(_message.Message):
        __slots__ = ("processing_timeout", "linger")
        PROCESSING_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
        LINGER_FIELD_NUMBER: _ClassVar[int]
        processing_timeout: _duration_pb2.Duration
        linger: _duration_pb2.Duration
        def __init__(self, processing_timeout: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., linger: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...
    class AckConfirmation(_message.Message):
        __slots__ = ("ids", "invalid_ids", "temporary_failed_ids")
        IDS_FIELD_NUMBER: _ClassVar[int]
        INVALID_IDS_FIELD_NUMBER: _ClassVar[int]
        TEMPORARY_FAILED_IDS_FIELD_NUMBER: _ClassVar[int]
        ids: _containers.RepeatedScalarFieldContainer[int]
        invalid_ids: _containers.RepeatedScalarFieldContainer[int]
        temporary_failed_ids: _containers.RepeatedScalarFieldContainer[int]
        def __init__(self, ids: _Optional[_Iterable[int]] = ..., invalid_ids: _Optional[_Iterable[int]] = ..., temporary_failed_ids: _Optional[_Iterable[int]] = ...) -> None: ...
    class RejectConfirmation(_message.Message):
        __slots__ = ("ids", "invalid_ids", "temporary_failed_ids")
        IDS_FIELD_NUMBER: _ClassVar[int]
        INVALID_IDS_FIELD_NUMBER: _ClassVar[int]
        TEMPORARY_FAILED_IDS_FIELD_NUMBER: _ClassVar[int]
        ids: _containers.RepeatedScalarFieldContainer[int]
        invalid_ids: _containers.RepeatedScalarFieldContainer[int]
        temporary_failed_ids: _containers.RepeatedScalarFieldContainer[int]
        def __init__(self, ids: _Optional[_Iterable[int]] = ..., invalid_ids: _Optional[_Iterable[int]] = ..., temporary_failed_ids: _Optional[_Iterable[int]] = ...) -> None: ...
    class PingConfirmation(_message.Message):
        __slots__ = ("ids", "invalid_ids", "temporary_failed_ids")
        IDS_FIELD_NUMBER: _ClassVar[int]
        INVALID_IDS_FIELD_NUMBER: _ClassVar[int]
        TEMPORARY_FAILED_IDS_FIELD_NUMBER: _ClassVar[int]
        ids: _containers.RepeatedScalarFieldContainer[int]
        invalid_ids: _containers.RepeatedScalarFieldContainer[int]
        temporary_failed_ids: _containers.RepeatedScalarFieldContainer[int]
        def __init__(self, ids: _Optional[_Iterable[int]] = ..., invalid_ids: _Optional[_Iterable[int]] = ..., temporary_failed_ids: _Optional[_Iterable[int]] = ...) -> None: ...
    EVENT_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIBED_FIELD_NUMBER: _ClassVar[int]
    ACK_CONFIRMATION_FIELD_NUMBER: _ClassVar[int]
    REJECT_CONFIRMATION_FIELD_NUMBER: _ClassVar[int]
    PING_CONFIRMATION_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    event: Event
    subscribed: EventsResponse.Subscribed
    ack_confirmation: EventsResponse.AckConfirmation
    reject_confirmation: EventsResponse.RejectConfirmation
    ping_confirmation: EventsResponse.PingConfirmation
    batch: EventBatch
    def __init__(self, event: _Optional[_Union[Event, _Mapping]] = ..., subscribed: _Optional[_Union[EventsResponse.Subscribed, _Mapping]] = ..., ack_confirmation: _Optional[_Union[EventsResponse.AckConfirmation, _Mapping]] = ..., reject_confirmation: _Optional[_Union[EventsResponse.RejectConfirmation, _Mapping]] = ..., ping_confirmation: _Optional[_Union[EventsResponse.PingConfirmation, _Mapping]] = ..., batch: _Optional[_Union[EventBatch, _Mapping]] = ...) -> None: ...

class EventBatch(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    def __init__(self, events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("id", "subject", "headers", "data", "delivery_attempt", "token")
    ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    id: int
    subject: str
    headers: Headers
    data: _any_pb2.Any
    delivery_attempt: int
    token: bytes
    def __init__(self, id: _Optional[int] = ..., subject: _Optional[str] = ..., headers: _Optional[_Union[Headers, _Mapping]] = ..., data: _Optional[_Union[_any_pb2.Any, _Mapping]] = ..., delivery_attempt: _Optional[int] = ..., token: _Optional[bytes] = ...) -> None: ...

class Headers(_message.Message):
    __slots__ = ("timestamp", "idempotency_key", "trace_parent", "trace_state")
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    TRACE_PARENT_FIELD_NUMBER: _ClassVar[int]
    TRACE_STATE_FIELD_NUMBER: _ClassVar[int]
    timestamp: _timestamp_pb2.Timestamp
    idempotency_key: str
    trace_parent: str
    trace_state: str
    def __init__(self, timestamp: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., idempotency_key: _Optional[str] = ..., trace_parent: _Optional[str] = ..., trace_state: _Optional[str] = ...) -> None: ...
