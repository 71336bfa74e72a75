from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from ....windshift.events.v1alpha1 import service_pb2 as _service_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetServerRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetServerResponse(_message.Message):
    __slots__ = ("server",)
    SERVER_FIELD_NUMBER: _ClassVar[int]
    server: Server
    def __init__(self, server: _Optional[_Union[Server, _Mapping]] = ...) -> None: ...

class Server(_message.Message):
    __slots__ = ("id", "name", "version", "started", "max_payload", "rules", "broker", "methods", "limits", "worker", "time", "libnghttp2")
    class Broker(_message.Message):
        __slots__ = ("name", "version", "cluster", "url", "connected", "round_trip")
        NAME_FIELD_NUMBER: _ClassVar[int]
        VERSION_FIELD_NUMBER: _ClassVar[int]
        CLUSTER_FIELD_NUMBER: _ClassVar[int]
        URL_FIELD_NUMBER: _ClassVar[int]
        CONNECTED_FIELD_NUMBER: _ClassVar[int]
        ROUND_TRIP_FIELD_NUMBER: _ClassVar[int]
        name: str
        version: str
        cluster: str
        url: str
        connected: bool
        round_trip: _duration_pb2.Duration
        def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., cluster: _Optional[str] = ..., url: _Optional[str] = ..., connected: bool = ..., round_trip: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...
    class Limit(_message.Message):
        __slots__ = ("name", "value")
        NAME_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        name: str
        value: int
        def __init__(self, name: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    MAX_PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    BROKER_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    LIBNGHTTP2_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    version: str
    started: _timestamp_pb2.Timestamp
    max_payload: int
    rules: bool
    broker: Server.Broker
    methods: _containers.RepeatedScalarFieldContainer[str]
    limits: _containers.RepeatedCompositeFieldContainer[Server.Limit]
    worker: int
    time: _timestamp_pb2.Timestamp
    libnghttp2: str
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., version: _Optional[str] = ..., started: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., max_payload: _Optional[int] = ..., rules: bool = ..., broker: _Optional[_Union[Server.Broker, _Mapping]] = ..., methods: _Optional[_Iterable[str]] = ..., limits: _Optional[_Iterable[_Union[Server.Limit, _Mapping]]] = ..., worker: _Optional[int] = ..., time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., libnghttp2: _Optional[str] = ...) -> None: ...

class WhoAmIRequest(_message.Message):
    __slots__ = ("checks",)
    class Check(_message.Message):
        __slots__ = ("verb", "resource")
        VERB_FIELD_NUMBER: _ClassVar[int]
        RESOURCE_FIELD_NUMBER: _ClassVar[int]
        verb: str
        resource: str
        def __init__(self, verb: _Optional[str] = ..., resource: _Optional[str] = ...) -> None: ...
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    checks: _containers.RepeatedCompositeFieldContainer[WhoAmIRequest.Check]
    def __init__(self, checks: _Optional[_Iterable[_Union[WhoAmIRequest.Check, _Mapping]]] = ...) -> None: ...

class WhoAmIResponse(_message.Message):
    __slots__ = ("principal", "credential", "expires", "granted", "checks")
    class Grant(_message.Message):
        __slots__ = ("verb", "resource", "role")
        VERB_FIELD_NUMBER: _ClassVar[int]
        RESOURCE_FIELD_NUMBER: _ClassVar[int]
        ROLE_FIELD_NUMBER: _ClassVar[int]
        verb: str
        resource: str
        role: str
        def __init__(self, verb: _Optional[str] = ..., resource: _Optional[str] = ..., role: _Optional[str] = ...) -> None: ...
    class Decision(_message.Message):
        __slots__ = ("allowed", "rule")
        ALLOWED_FIELD_NUMBER: _ClassVar[int]
        RULE_FIELD_NUMBER: _ClassVar[int]
        allowed: bool
        rule: str
        def __init__(self, allowed: bool = ..., rule: _Optional[str] = ...) -> None: ...
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    principal: str
    credential: str
    expires: _timestamp_pb2.Timestamp
    granted: _containers.RepeatedCompositeFieldContainer[WhoAmIResponse.Grant]
    checks: _containers.RepeatedCompositeFieldContainer[WhoAmIResponse.Decision]
    def __init__(self, principal: _Optional[str] = ..., credential: _Optional[str] = ..., expires: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., granted: _Optional[_Iterable[_Union[WhoAmIResponse.Grant, _Mapping]]] = ..., checks: _Optional[_Iterable[_Union[WhoAmIResponse.Decision, _Mapping]]] = ...) -> None: ...

class ListServersRequest(_message.Message):
    __slots__ = ("jet_stream",)
    JET_STREAM_FIELD_NUMBER: _ClassVar[int]
    jet_stream: bool
    def __init__(self, jet_stream: bool = ...) -> None: ...

class ListServersResponse(_message.Message):
    __slots__ = ("servers", "missing", "jet_stream")
    class Entry(_message.Message):
        __slots__ = ("server", "connections", "active_calls", "memory", "cpu", "ready", "not_ready_reason")
        SERVER_FIELD_NUMBER: _ClassVar[int]
        CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
        ACTIVE_CALLS_FIELD_NUMBER: _ClassVar[int]
        MEMORY_FIELD_NUMBER: _ClassVar[int]
        CPU_FIELD_NUMBER: _ClassVar[int]
        READY_FIELD_NUMBER: _ClassVar[int]
        NOT_READY_REASON_FIELD_NUMBER: _ClassVar[int]
        server: Server
        connections: int
        active_calls: int
        memory: int
        cpu: float
        ready: bool
        not_ready_reason: str
        def __init__(self, server: _Optional[_Union[Server, _Mapping]] = ..., connections: _Optional[int] = ..., active_calls: _Optional[int] = ..., memory: _Optional[int] = ..., cpu: _Optional[float] = ..., ready: bool = ..., not_ready_reason: _Optional[str] = ...) -> None: ...
    SERVERS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    JET_STREAM_FIELD_NUMBER: _ClassVar[int]
    servers: _containers.RepeatedCompositeFieldContainer[ListServersResponse.Entry]
    missing: _containers.RepeatedScalarFieldContainer[str]
    jet_stream: JetStream
    def __init__(self, servers: _Optional[_Iterable[_Union[ListServersResponse.Entry, _Mapping]]] = ..., missing: _Optional[_Iterable[str]] = ..., jet_stream: _Optional[_Union[JetStream, _Mapping]] = ...) -> None: ...

class JetStream(_message.Message):
    __slots__ = ("usage", "clock_ahead")
    class Usage(_message.Message):
        __slots__ = ("resource", "tier", "used", "reserved", "limit")
        class Resource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            RESOURCE_UNSPECIFIED: _ClassVar[JetStream.Usage.Resource]
            RESOURCE_STORAGE: _ClassVar[JetStream.Usage.Resource]
            RESOURCE_MEMORY: _ClassVar[JetStream.Usage.Resource]
            RESOURCE_STREAMS: _ClassVar[JetStream.Usage.Resource]
            RESOURCE_CONSUMERS: _ClassVar[JetStream.Usage.Resource]
        RESOURCE_UNSPECIFIED: JetStream.Usage.Resource
        RESOURCE_STORAGE: JetStream.Usage.Resource
        RESOURCE_MEMORY: JetStream.Usage.Resource
        RESOURCE_STREAMS: JetStream.Usage.Resource
        RESOURCE_CONSUMERS: JetStream.Usage.Resource
        RESOURCE_FIELD_NUMBER: _ClassVar[int]
        TIER_FIELD_NUMBER: _ClassVar[int]
        USED_FIELD_NUMBER: _ClassVar[int]
        RESERVED_FIELD_NUMBER: _ClassVar[int]
        LIMIT_FIELD_NUMBER: _ClassVar[int]
        resource: JetStream.Usage.Resource
        tier: str
        used: int
        reserved: int
        limit: int
        def __init__(self, resource: _Optional[_Union[JetStream.Usage.Resource, str]] = ..., tier: _Optional[str] = ..., used: _Optional[int] = ..., reserved: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...
    USAGE_FIELD_NUMBER: _ClassVar[int]
    CLOCK_AHEAD_FIELD_NUMBER: _ClassVar[int]
    usage: _containers.RepeatedCompositeFieldContainer[JetStream.Usage]
    clock_ahead: _duration_pb2.Duration
    def __init__(self, usage: _Optional[_Iterable[_Union[JetStream.Usage, _Mapping]]] = ..., clock_ahead: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ListStreamsRequest(_message.Message):
    __slots__ = ("find", "order_by", "descending", "page_size", "page_token")
    class Order(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ORDER_UNSPECIFIED: _ClassVar[ListStreamsRequest.Order]
        ORDER_NAME: _ClassVar[ListStreamsRequest.Order]
        ORDER_EVENTS: _ClassVar[ListStreamsRequest.Order]
        ORDER_BYTES: _ClassVar[ListStreamsRequest.Order]
        ORDER_RATE: _ClassVar[ListStreamsRequest.Order]
        ORDER_LAG: _ClassVar[ListStreamsRequest.Order]
        ORDER_DEAD_LETTERS: _ClassVar[ListStreamsRequest.Order]
        ORDER_NEWEST: _ClassVar[ListStreamsRequest.Order]
    ORDER_UNSPECIFIED: ListStreamsRequest.Order
    ORDER_NAME: ListStreamsRequest.Order
    ORDER_EVENTS: ListStreamsRequest.Order
    ORDER_BYTES: ListStreamsRequest.Order
    ORDER_RATE: ListStreamsRequest.Order
    ORDER_LAG: ListStreamsRequest.Order
    ORDER_DEAD_LETTERS: ListStreamsRequest.Order
    ORDER_NEWEST: ListStreamsRequest.Order
    FIND_FIELD_NUMBER: _ClassVar[int]
    ORDER_BY_FIELD_NUMBER: _ClassVar[int]
    DESCENDING_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    find: str
    order_by: ListStreamsRequest.Order
    descending: bool
    page_size: int
    page_token: str
    def __init__(self, find: _Optional[str] = ..., order_by: _Optional[_Union[ListStreamsRequest.Order, str]] = ..., descending: bool = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListStreamsResponse(_message.Message):
    __slots__ = ("streams", "total", "next_page_token")
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    streams: _containers.RepeatedCompositeFieldContainer[StreamInfo]
    total: int
    next_page_token: str
    def __init__(self, streams: _Optional[_Iterable[_Union[StreamInfo, _Mapping]]] = ..., total: _Optional[int] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class StreamInfo(_message.Message):
    __slots__ = ("spec", "created", "events", "bytes", "first_id", "last_id", "first_time", "last_time", "subjects", "consumers", "worst_lag", "dead_letters", "rate", "sources", "replication")
    class Source(_message.Message):
        __slots__ = ("name", "lag", "heard", "error")
        NAME_FIELD_NUMBER: _ClassVar[int]
        LAG_FIELD_NUMBER: _ClassVar[int]
        HEARD_FIELD_NUMBER: _ClassVar[int]
        ERROR_FIELD_NUMBER: _ClassVar[int]
        name: str
        lag: int
        heard: _duration_pb2.Duration
        error: str
        def __init__(self, name: _Optional[str] = ..., lag: _Optional[int] = ..., heard: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., error: _Optional[str] = ...) -> None: ...
    class Replication(_message.Message):
        __slots__ = ("leader", "replicas")
        class Replica(_message.Message):
            __slots__ = ("name", "current", "lag")
            NAME_FIELD_NUMBER: _ClassVar[int]
            CURRENT_FIELD_NUMBER: _ClassVar[int]
            LAG_FIELD_NUMBER: _ClassVar[int]
            name: str
            current: bool
            lag: int
            def __init__(self, name: _Optional[str] = ..., current: bool = ..., lag: _Optional[int] = ...) -> None: ...
        LEADER_FIELD_NUMBER: _ClassVar[int]
        REPLICAS_FIELD_NUMBER: _ClassVar[int]
        leader: str
        replicas: _containers.RepeatedCompositeFieldContainer[StreamInfo.Replication.Replica]
        def __init__(self, leader: _Optional[str] = ..., replicas: _Optional[_Iterable[_Union[StreamInfo.Replication.Replica, _Mapping]]] = ...) -> None: ...
    SPEC_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    FIRST_ID_FIELD_NUMBER: _ClassVar[int]
    LAST_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_TIME_FIELD_NUMBER: _ClassVar[int]
    LAST_TIME_FIELD_NUMBER: _ClassVar[int]
    SUBJECTS_FIELD_NUMBER: _ClassVar[int]
    CONSUMERS_FIELD_NUMBER: _ClassVar[int]
    WORST_LAG_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTERS_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    REPLICATION_FIELD_NUMBER: _ClassVar[int]
    spec: _service_pb2.EnsureStreamRequest
    created: _timestamp_pb2.Timestamp
    events: int
    bytes: int
    first_id: int
    last_id: int
    first_time: _timestamp_pb2.Timestamp
    last_time: _timestamp_pb2.Timestamp
    subjects: int
    consumers: int
    worst_lag: int
    dead_letters: int
    rate: float
    sources: _containers.RepeatedCompositeFieldContainer[StreamInfo.Source]
    replication: StreamInfo.Replication
    def __init__(self, spec: _Optional[_Union[_service_pb2.EnsureStreamRequest, _Mapping]] = ..., created: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., events: _Optional[int] = ..., bytes: _Optional[int] = ..., first_id: _Optional[int] = ..., last_id: _Optional[int] = ..., first_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., last_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., subjects: _Optional[int] = ..., consumers: _Optional[int] = ..., worst_lag: _Optional[int] = ..., dead_letters: _Optional[int] = ..., rate: _Optional[float] = ..., sources: _Optional[_Iterable[_Union[StreamInfo.Source, _Mapping]]] = ..., replication: _Optional[_Union[StreamInfo.Replication, _Mapping]] = ...) -> None: ...

class GetStreamRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetStreamResponse(_message.Message):
    __slots__ = ("stream",)
    STREAM_FIELD_NUMBER: _ClassVar[int]
    stream: StreamInfo
    def __init__(self, stream: _Optional[_Union[StreamInfo, _Mapping]] = ...) -> None: ...

class ListSubjectsRequest(_message.Message):
    __slots__ = ("stream", "filter", "page_size", "page_token")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    stream: str
    filter: str
    page_size: int
    page_token: str
    def __init__(self, stream: _Optional[str] = ..., filter: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListSubjectsResponse(_message.Message):
    __slots__ = ("subjects", "next_page_token")
    class Entry(_message.Message):
        __slots__ = ("subject", "events")
        SUBJECT_FIELD_NUMBER: _ClassVar[int]
        EVENTS_FIELD_NUMBER: _ClassVar[int]
        subject: str
        events: int
        def __init__(self, subject: _Optional[str] = ..., events: _Optional[int] = ...) -> None: ...
    SUBJECTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    subjects: _containers.RepeatedCompositeFieldContainer[ListSubjectsResponse.Entry]
    next_page_token: str
    def __init__(self, subjects: _Optional[_Iterable[_Union[ListSubjectsResponse.Entry, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class PurgeStreamRequest(_message.Message):
    __slots__ = ("stream", "subject", "up_to_id", "keep", "dry_run")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    UP_TO_ID_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    stream: str
    subject: str
    up_to_id: int
    keep: int
    dry_run: bool
    def __init__(self, stream: _Optional[str] = ..., subject: _Optional[str] = ..., up_to_id: _Optional[int] = ..., keep: _Optional[int] = ..., dry_run: bool = ...) -> None: ...

class PurgeStreamResponse(_message.Message):
    __slots__ = ("purged",)
    PURGED_FIELD_NUMBER: _ClassVar[int]
    purged: int
    def __init__(self, purged: _Optional[int] = ...) -> None: ...

class DeleteStreamRequest(_message.Message):
    __slots__ = ("name", "expected_last_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_LAST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    expected_last_id: int
    def __init__(self, name: _Optional[str] = ..., expected_last_id: _Optional[int] = ...) -> None: ...

class DeleteStreamResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetEventRequest(_message.Message):
    __slots__ = ("stream", "id", "time", "last_of_subject", "subject")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    LAST_OF_SUBJECT_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    stream: str
    id: int
    time: _timestamp_pb2.Timestamp
    last_of_subject: str
    subject: str
    def __init__(self, stream: _Optional[str] = ..., id: _Optional[int] = ..., time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., last_of_subject: _Optional[str] = ..., subject: _Optional[str] = ...) -> None: ...

class GetEventResponse(_message.Message):
    __slots__ = ("event",)
    EVENT_FIELD_NUMBER: _ClassVar[int]
    event: StoredEvent
    def __init__(self, event: _Optional[_Union[StoredEvent, _Mapping]] = ...) -> None: ...

class StoredEvent(_message.Message):
    __slots__ = ("event", "stored", "other_headers", "data_size")
    class OtherHeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    EVENT_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    OTHER_HEADERS_FIELD_NUMBER: _ClassVar[int]
    DATA_SIZE_FIELD_NUMBER: _ClassVar[int]
    event: _service_pb2.Event
    stored: _timestamp_pb2.Timestamp
    other_headers: _containers.ScalarMap[str, str]
    data_size: int
    def __init__(self, event: _Optional[_Union[_service_pb2.Event, _Mapping]] = ..., stored: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., other_headers: _Optional[_Mapping[str, str]] = ..., data_size: _Optional[int] = ...) -> None: ...

class ReadEventsRequest(_message.Message):
    __slots__ = ("stream", "subjects", "types", "backwards", "limit", "without_data", "data_limit", "page_token")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    SUBJECTS_FIELD_NUMBER: _ClassVar[int]
    TYPES_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    BACKWARDS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_DATA_FIELD_NUMBER: _ClassVar[int]
    DATA_LIMIT_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    stream: str
    subjects: _containers.RepeatedScalarFieldContainer[str]
    types: _containers.RepeatedScalarFieldContainer[str]
    backwards: bool
    limit: int
    without_data: bool
    data_limit: int
    page_token: str
    def __init__(self, stream: _Optional[str] = ..., subjects: _Optional[_Iterable[str]] = ..., types: _Optional[_Iterable[str]] = ..., backwards: bool = ..., limit: _Optional[int] = ..., without_data: bool = ..., data_limit: _Optional[int] = ..., page_token: _Optional[str] = ..., **kwargs) -> None: ...

class ReadEventsResponse(_message.Message):
    __slots__ = ("events", "scanned_to", "next_page_token")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    SCANNED_TO_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[StoredEvent]
    scanned_to: int
    next_page_token: str
    def __init__(self, events: _Optional[_Iterable[_Union[StoredEvent, _Mapping]]] = ..., scanned_to: _Optional[int] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class TailEventsRequest(_message.Message):
    __slots__ = ("stream", "subjects", "types", "without_data", "max_rate")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    SUBJECTS_FIELD_NUMBER: _ClassVar[int]
    TYPES_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_DATA_FIELD_NUMBER: _ClassVar[int]
    MAX_RATE_FIELD_NUMBER: _ClassVar[int]
    stream: str
    subjects: _containers.RepeatedScalarFieldContainer[str]
    types: _containers.RepeatedScalarFieldContainer[str]
    without_data: bool
    max_rate: int
    def __init__(self, stream: _Optional[str] = ..., subjects: _Optional[_Iterable[str]] = ..., types: _Optional[_Iterable[str]] = ..., without_data: bool = ..., max_rate: _Optional[int] = ..., **kwargs) -> None: ...

class TailEventsResponse(_message.Message):
    __slots__ = ("event", "skipped", "caught_up", "position")
    class Skipped(_message.Message):
        __slots__ = ("events", "last_id")
        EVENTS_FIELD_NUMBER: _ClassVar[int]
        LAST_ID_FIELD_NUMBER: _ClassVar[int]
        events: int
        last_id: int
        def __init__(self, events: _Optional[int] = ..., last_id: _Optional[int] = ...) -> None: ...
    EVENT_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    CAUGHT_UP_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    event: StoredEvent
    skipped: TailEventsResponse.Skipped
    caught_up: bool
    position: int
    def __init__(self, event: _Optional[_Union[StoredEvent, _Mapping]] = ..., skipped: _Optional[_Union[TailEventsResponse.Skipped, _Mapping]] = ..., caught_up: bool = ..., position: _Optional[int] = ...) -> None: ...

class DeleteEventRequest(_message.Message):
    __slots__ = ("stream", "id", "erase")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    ERASE_FIELD_NUMBER: _ClassVar[int]
    stream: str
    id: int
    erase: bool
    def __init__(self, stream: _Optional[str] = ..., id: _Optional[int] = ..., erase: bool = ...) -> None: ...

class DeleteEventResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ExplainEventRequest(_message.Message):
    __slots__ = ("stream", "id", "consumer")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    CONSUMER_FIELD_NUMBER: _ClassVar[int]
    stream: str
    id: int
    consumer: str
    def __init__(self, stream: _Optional[str] = ..., id: _Optional[int] = ..., consumer: _Optional[str] = ...) -> None: ...

class ExplainEventResponse(_message.Message):
    __slots__ = ("presence", "subject", "stored", "removals", "first_id", "last_id", "consumers", "left_out", "missing")
    class Presence(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        PRESENCE_UNSPECIFIED: _ClassVar[ExplainEventResponse.Presence]
        PRESENCE_HELD: _ClassVar[ExplainEventResponse.Presence]
        PRESENCE_REMOVED: _ClassVar[ExplainEventResponse.Presence]
        PRESENCE_NOT_YET: _ClassVar[ExplainEventResponse.Presence]
    PRESENCE_UNSPECIFIED: ExplainEventResponse.Presence
    PRESENCE_HELD: ExplainEventResponse.Presence
    PRESENCE_REMOVED: ExplainEventResponse.Presence
    PRESENCE_NOT_YET: ExplainEventResponse.Presence
    class Removal(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REMOVAL_UNSPECIFIED: _ClassVar[ExplainEventResponse.Removal]
        REMOVAL_BY_HAND: _ClassVar[ExplainEventResponse.Removal]
        REMOVAL_MAX_AGE: _ClassVar[ExplainEventResponse.Removal]
        REMOVAL_MAX_EVENTS: _ClassVar[ExplainEventResponse.Removal]
        REMOVAL_MAX_BYTES: _ClassVar[ExplainEventResponse.Removal]
        REMOVAL_MAX_EVENTS_PER_SUBJECT: _ClassVar[ExplainEventResponse.Removal]
        REMOVAL_SETTLED: _ClassVar[ExplainEventResponse.Removal]
    REMOVAL_UNSPECIFIED: ExplainEventResponse.Removal
    REMOVAL_BY_HAND: ExplainEventResponse.Removal
    REMOVAL_MAX_AGE: ExplainEventResponse.Removal
    REMOVAL_MAX_EVENTS: ExplainEventResponse.Removal
    REMOVAL_MAX_BYTES: ExplainEventResponse.Removal
    REMOVAL_MAX_EVENTS_PER_SUBJECT: ExplainEventResponse.Removal
    REMOVAL_SETTLED: ExplainEventResponse.Removal
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[ExplainEventResponse.State]
        STATE_FILTERED_OUT: _ClassVar[ExplainEventResponse.State]
        STATE_BEFORE_START: _ClassVar[ExplainEventResponse.State]
        STATE_PENDING: _ClassVar[ExplainEventResponse.State]
        STATE_HELD: _ClassVar[ExplainEventResponse.State]
        STATE_WAITING: _ClassVar[ExplainEventResponse.State]
        STATE_DELIVERED: _ClassVar[ExplainEventResponse.State]
        STATE_SETTLED: _ClassVar[ExplainEventResponse.State]
        STATE_DEAD_LETTER: _ClassVar[ExplainEventResponse.State]
        STATE_REPLAYING: _ClassVar[ExplainEventResponse.State]
        STATE_REMOVED: _ClassVar[ExplainEventResponse.State]
    STATE_UNSPECIFIED: ExplainEventResponse.State
    STATE_FILTERED_OUT: ExplainEventResponse.State
    STATE_BEFORE_START: ExplainEventResponse.State
    STATE_PENDING: ExplainEventResponse.State
    STATE_HELD: ExplainEventResponse.State
    STATE_WAITING: ExplainEventResponse.State
    STATE_DELIVERED: ExplainEventResponse.State
    STATE_SETTLED: ExplainEventResponse.State
    STATE_DEAD_LETTER: ExplainEventResponse.State
    STATE_REPLAYING: ExplainEventResponse.State
    STATE_REMOVED: ExplainEventResponse.State
    class Hindrance(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        HINDRANCE_UNSPECIFIED: _ClassVar[ExplainEventResponse.Hindrance]
        HINDRANCE_PAUSED: _ClassVar[ExplainEventResponse.Hindrance]
        HINDRANCE_NO_SUBSCRIBER: _ClassVar[ExplainEventResponse.Hindrance]
        HINDRANCE_WINDOWS_FULL: _ClassVar[ExplainEventResponse.Hindrance]
        HINDRANCE_TOO_MANY_UNSETTLED: _ClassVar[ExplainEventResponse.Hindrance]
    HINDRANCE_UNSPECIFIED: ExplainEventResponse.Hindrance
    HINDRANCE_PAUSED: ExplainEventResponse.Hindrance
    HINDRANCE_NO_SUBSCRIBER: ExplainEventResponse.Hindrance
    HINDRANCE_WINDOWS_FULL: ExplainEventResponse.Hindrance
    HINDRANCE_TOO_MANY_UNSETTLED: ExplainEventResponse.Hindrance
    class Holder(_message.Message):
        __slots__ = ("server", "peer", "principal", "attempt", "until")
        SERVER_FIELD_NUMBER: _ClassVar[int]
        PEER_FIELD_NUMBER: _ClassVar[int]
        PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
        ATTEMPT_FIELD_NUMBER: _ClassVar[int]
        UNTIL_FIELD_NUMBER: _ClassVar[int]
        server: str
        peer: str
        principal: str
        attempt: int
        until: _timestamp_pb2.Timestamp
        def __init__(self, server: _Optional[str] = ..., peer: _Optional[str] = ..., principal: _Optional[str] = ..., attempt: _Optional[int] = ..., until: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
    class Consumer(_message.Message):
        __slots__ = ("name", "state", "hindrances", "attempts", "holders", "next_attempt", "reason", "dead_letter", "settled_to", "delivered_to", "paused_until", "subscriptions", "moved")
        NAME_FIELD_NUMBER: _ClassVar[int]
        STATE_FIELD_NUMBER: _ClassVar[int]
        HINDRANCES_FIELD_NUMBER: _ClassVar[int]
        ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
        HOLDERS_FIELD_NUMBER: _ClassVar[int]
        NEXT_ATTEMPT_FIELD_NUMBER: _ClassVar[int]
        REASON_FIELD_NUMBER: _ClassVar[int]
        DEAD_LETTER_FIELD_NUMBER: _ClassVar[int]
        SETTLED_TO_FIELD_NUMBER: _ClassVar[int]
        DELIVERED_TO_FIELD_NUMBER: _ClassVar[int]
        PAUSED_UNTIL_FIELD_NUMBER: _ClassVar[int]
        SUBSCRIPTIONS_FIELD_NUMBER: _ClassVar[int]
        MOVED_FIELD_NUMBER: _ClassVar[int]
        name: str
        state: ExplainEventResponse.State
        hindrances: _containers.RepeatedScalarFieldContainer[ExplainEventResponse.Hindrance]
        attempts: int
        holders: _containers.RepeatedCompositeFieldContainer[ExplainEventResponse.Holder]
        next_attempt: _timestamp_pb2.Timestamp
        reason: str
        dead_letter: str
        settled_to: int
        delivered_to: int
        paused_until: _timestamp_pb2.Timestamp
        subscriptions: int
        moved: _timestamp_pb2.Timestamp
        def __init__(self, name: _Optional[str] = ..., state: _Optional[_Union[ExplainEventResponse.State, str]] = ..., hindrances: _Optional[_Iterable[_Union[ExplainEventResponse.Hindrance, str]]] = ..., attempts: _Optional[int] = ..., holders: _Optional[_Iterable[_Union[ExplainEventResponse.Holder, _Mapping]]] = ..., next_attempt: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., reason: _Optional[str] = ..., dead_letter: _Optional[str] = ..., settled_to: _Optional[int] = ..., delivered_to: _Optional[int] = ..., paused_until: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., subscriptions: _Optional[int] = ..., moved: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
    PRESENCE_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    REMOVALS_FIELD_NUMBER: _ClassVar[int]
    FIRST_ID_FIELD_NUMBER: _ClassVar[int]
    LAST_ID_FIELD_NUMBER: _ClassVar[int]
    CONSUMERS_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    presence: ExplainEventResponse.Presence
    subject: str
    stored: _timestamp_pb2.Timestamp
    removals: _containers.RepeatedScalarFieldContainer[ExplainEventResponse.Removal]
    first_id: int
    last_id: int
    consumers: _containers.RepeatedCompositeFieldContainer[ExplainEventResponse.Consumer]
    left_out: int
    missing: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, presence: _Optional[_Union[ExplainEventResponse.Presence, str]] = ..., subject: _Optional[str] = ..., stored: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., removals: _Optional[_Iterable[_Union[ExplainEventResponse.Removal, str]]] = ..., first_id: _Optional[int] = ..., last_id: _Optional[int] = ..., consumers: _Optional[_Iterable[_Union[ExplainEventResponse.Consumer, _Mapping]]] = ..., left_out: _Optional[int] = ..., missing: _Optional[_Iterable[str]] = ...) -> None: ...

class ListConsumersRequest(_message.Message):
    __slots__ = ("stream", "order_by", "page_size", "page_token")
    class Order(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ORDER_UNSPECIFIED: _ClassVar[ListConsumersRequest.Order]
        ORDER_NAME: _ClassVar[ListConsumersRequest.Order]
        ORDER_PENDING: _ClassVar[ListConsumersRequest.Order]
        ORDER_UNSETTLED: _ClassVar[ListConsumersRequest.Order]
        ORDER_OLDEST: _ClassVar[ListConsumersRequest.Order]
    ORDER_UNSPECIFIED: ListConsumersRequest.Order
    ORDER_NAME: ListConsumersRequest.Order
    ORDER_PENDING: ListConsumersRequest.Order
    ORDER_UNSETTLED: ListConsumersRequest.Order
    ORDER_OLDEST: ListConsumersRequest.Order
    STREAM_FIELD_NUMBER: _ClassVar[int]
    ORDER_BY_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    stream: str
    order_by: ListConsumersRequest.Order
    page_size: int
    page_token: str
    def __init__(self, stream: _Optional[str] = ..., order_by: _Optional[_Union[ListConsumersRequest.Order, str]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListConsumersResponse(_message.Message):
    __slots__ = ("consumers", "total", "next_page_token")
    CONSUMERS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    consumers: _containers.RepeatedCompositeFieldContainer[ConsumerInfo]
    total: int
    next_page_token: str
    def __init__(self, consumers: _Optional[_Iterable[_Union[ConsumerInfo, _Mapping]]] = ..., total: _Optional[int] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ConsumerInfo(_message.Message):
    __slots__ = ("consumer", "created", "delivered_to", "redelivered", "oldest_unsettled", "last_delivery", "last_ack", "paused_until", "subscriptions", "waiting_replays")
    CONSUMER_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_TO_FIELD_NUMBER: _ClassVar[int]
    REDELIVERED_FIELD_NUMBER: _ClassVar[int]
    OLDEST_UNSETTLED_FIELD_NUMBER: _ClassVar[int]
    LAST_DELIVERY_FIELD_NUMBER: _ClassVar[int]
    LAST_ACK_FIELD_NUMBER: _ClassVar[int]
    PAUSED_UNTIL_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTIONS_FIELD_NUMBER: _ClassVar[int]
    WAITING_REPLAYS_FIELD_NUMBER: _ClassVar[int]
    consumer: _service_pb2.GetConsumerResponse
    created: _timestamp_pb2.Timestamp
    delivered_to: int
    redelivered: int
    oldest_unsettled: _timestamp_pb2.Timestamp
    last_delivery: _timestamp_pb2.Timestamp
    last_ack: _timestamp_pb2.Timestamp
    paused_until: _timestamp_pb2.Timestamp
    subscriptions: int
    waiting_replays: int
    def __init__(self, consumer: _Optional[_Union[_service_pb2.GetConsumerResponse, _Mapping]] = ..., created: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., delivered_to: _Optional[int] = ..., redelivered: _Optional[int] = ..., oldest_unsettled: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., last_delivery: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., last_ack: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., paused_until: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., subscriptions: _Optional[int] = ..., waiting_replays: _Optional[int] = ...) -> None: ...

class ListSubscriptionsRequest(_message.Message):
    __slots__ = ("stream", "consumer")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    CONSUMER_FIELD_NUMBER: _ClassVar[int]
    stream: str
    consumer: str
    def __init__(self, stream: _Optional[str] = ..., consumer: _Optional[str] = ...) -> None: ...

class ListSubscriptionsResponse(_message.Message):
    __slots__ = ("subscriptions", "missing")
    SUBSCRIPTIONS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    subscriptions: _containers.RepeatedCompositeFieldContainer[Subscription]
    missing: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, subscriptions: _Optional[_Iterable[_Union[Subscription, _Mapping]]] = ..., missing: _Optional[_Iterable[str]] = ...) -> None: ...

class Subscription(_message.Message):
    __slots__ = ("server", "stream", "consumer", "peer", "principal", "user_agent", "since", "max_processing_events", "unsettled", "delivered", "acked", "rejected")
    SERVER_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    CONSUMER_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    USER_AGENT_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    MAX_PROCESSING_EVENTS_FIELD_NUMBER: _ClassVar[int]
    UNSETTLED_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_FIELD_NUMBER: _ClassVar[int]
    ACKED_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    server: str
    stream: str
    consumer: str
    peer: str
    principal: str
    user_agent: str
    since: _timestamp_pb2.Timestamp
    max_processing_events: int
    unsettled: int
    delivered: int
    acked: int
    rejected: int
    def __init__(self, server: _Optional[str] = ..., stream: _Optional[str] = ..., consumer: _Optional[str] = ..., peer: _Optional[str] = ..., principal: _Optional[str] = ..., user_agent: _Optional[str] = ..., since: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., max_processing_events: _Optional[int] = ..., unsettled: _Optional[int] = ..., delivered: _Optional[int] = ..., acked: _Optional[int] = ..., rejected: _Optional[int] = ...) -> None: ...

class PauseConsumerRequest(_message.Message):
    __slots__ = ("stream", "consumer", "until")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    CONSUMER_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    stream: str
    consumer: str
    until: _timestamp_pb2.Timestamp
    def __init__(self, stream: _Optional[str] = ..., consumer: _Optional[str] = ..., until: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class PauseConsumerResponse(_message.Message):
    __slots__ = ("paused_until",)
    PAUSED_UNTIL_FIELD_NUMBER: _ClassVar[int]
    paused_until: _timestamp_pb2.Timestamp
    def __init__(self, paused_until: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class SeekConsumerRequest(_message.Message):
    __slots__ = ("stream", "consumer", "to", "dry_run")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    CONSUMER_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    stream: str
    consumer: str
    to: _service_pb2.StreamPointer
    dry_run: bool
    def __init__(self, stream: _Optional[str] = ..., consumer: _Optional[str] = ..., to: _Optional[_Union[_service_pb2.StreamPointer, _Mapping]] = ..., dry_run: bool = ...) -> None: ...

class SeekConsumerResponse(_message.Message):
    __slots__ = ("next_id", "was", "pending")
    NEXT_ID_FIELD_NUMBER: _ClassVar[int]
    WAS_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    next_id: int
    was: int
    pending: int
    def __init__(self, next_id: _Optional[int] = ..., was: _Optional[int] = ..., pending: _Optional[int] = ...) -> None: ...

class GetHistoryRequest(_message.Message):
    __slots__ = ("streams", "consumers", "since", "points")
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    CONSUMERS_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    streams: _containers.RepeatedScalarFieldContainer[str]
    consumers: _containers.RepeatedScalarFieldContainer[str]
    since: _timestamp_pb2.Timestamp
    points: int
    def __init__(self, streams: _Optional[_Iterable[str]] = ..., consumers: _Optional[_Iterable[str]] = ..., since: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., points: _Optional[int] = ...) -> None: ...

class GetHistoryResponse(_message.Message):
    __slots__ = ("series", "missing")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[GetHistoryResponse.Kind]
        KIND_RATE: _ClassVar[GetHistoryResponse.Kind]
        KIND_EVENTS: _ClassVar[GetHistoryResponse.Kind]
        KIND_BYTES: _ClassVar[GetHistoryResponse.Kind]
        KIND_LAG: _ClassVar[GetHistoryResponse.Kind]
        KIND_IN_FLIGHT: _ClassVar[GetHistoryResponse.Kind]
        KIND_DEAD_LETTERS: _ClassVar[GetHistoryResponse.Kind]
    KIND_UNSPECIFIED: GetHistoryResponse.Kind
    KIND_RATE: GetHistoryResponse.Kind
    KIND_EVENTS: GetHistoryResponse.Kind
    KIND_BYTES: GetHistoryResponse.Kind
    KIND_LAG: GetHistoryResponse.Kind
    KIND_IN_FLIGHT: GetHistoryResponse.Kind
    KIND_DEAD_LETTERS: GetHistoryResponse.Kind
    class Series(_message.Message):
        __slots__ = ("name", "kind", "start", "step", "values")
        NAME_FIELD_NUMBER: _ClassVar[int]
        KIND_FIELD_NUMBER: _ClassVar[int]
        START_FIELD_NUMBER: _ClassVar[int]
        STEP_FIELD_NUMBER: _ClassVar[int]
        VALUES_FIELD_NUMBER: _ClassVar[int]
        name: str
        kind: GetHistoryResponse.Kind
        start: _timestamp_pb2.Timestamp
        step: _duration_pb2.Duration
        values: _containers.RepeatedScalarFieldContainer[float]
        def __init__(self, name: _Optional[str] = ..., kind: _Optional[_Union[GetHistoryResponse.Kind, str]] = ..., start: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., step: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., values: _Optional[_Iterable[float]] = ...) -> None: ...
    SERIES_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    series: _containers.RepeatedCompositeFieldContainer[GetHistoryResponse.Series]
    missing: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, series: _Optional[_Iterable[_Union[GetHistoryResponse.Series, _Mapping]]] = ..., missing: _Optional[_Iterable[str]] = ...) -> None: ...
