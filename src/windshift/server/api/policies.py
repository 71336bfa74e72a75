"""The table of methods: what the server knows about each method that it serves.

The server does not start with a method that is not in it. Interceptors look a method up once, at the start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum
from itertools import islice
from typing import Any, Final, TypeAlias

from windshift._gen.windshift.admin.v1alpha1 import principals_pb2 as principals_pb
from windshift._gen.windshift.admin.v1alpha1 import service_pb2 as admin_pb
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as dead_letters_pb
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as events_pb
from windshift._gen.windshift.state.v1alpha1 import service_pb2 as state_pb
from windshift.rpc.service import UNLIMITED
from windshift.server.api.dead_letters import MOST_IDS, check_ids_or_filter, read_filter, read_id
from windshift.server.api.fields import few
from windshift.server.api.principals import read_principal
from windshift.server.api.streams import read_consumer, read_consumer_key, read_stream, read_which_consumer
from windshift.server.auth import actions
from windshift.server.auth.actions import Action
from windshift.server.domain import names
from windshift.server.domain.errors import InvalidField
from windshift.server.domain.names import EVERYTHING
from windshift.server.events.dead_letters.model import DeadLetterId
from windshift.server.state.transactions import MOST_KEYS

Rule: TypeAlias = Callable[[Any], Iterator[Action]]
"""Returns the actions that a request needs. The request may be malformed: its names are only compared."""

Check: TypeAlias = Callable[[Any], object]
"""Raises `InvalidField` for a malformed request."""

MOST_ACTIONS: Final = 16_384
"""The most actions of one request; no broker accepts a request with more."""

LARGEST_REQUEST: Final = 512 * 1024
"""Bytes of a request that carries no payload: 10,000 ids, or 4,096 subjects of 125 characters.

A list of elements of two bytes each takes 16 to 32 times the memory once it is decoded, before anybody can
count it. So only what carries payloads may be as large as those.
"""

LARGEST_OF_DEAD_LETTERS: Final = 1024 * 1024
"""The same for those about dead letters, whose ids hold names: 1,000 of the longest."""

LARGEST_OF_TRANSACTIONS: Final = 4 * 1024 * 1024
"""The same for transactions, which carry several payloads, and are counted before they are decoded."""

LARGEST_OF_EVENTS: Final = 8 * 1024 * 1024
"""The same for several events, which are counted before they are decoded."""

MOST_FILTERS: Final = 16
"""Subjects or types of one request that reads events without a consumer."""

MOST_EVENTS: Final = 1000
"""Events of one request: the broker's limit on atomic batches."""

_EVENTS_AT_ONCE: Final = {events_pb.PublishBatchRequest.EVENTS_FIELD_NUMBER: MOST_EVENTS}
"""The same of `PublishStreamRequest`."""

LARGEST_OF_HEALTH: Final = 4 * 1024
"""The same for probes, which anybody may send, and which may stay open: they hold the name of a service."""


class Quota(Enum):
    """The quota that a call counts towards.

    Attributes:
        CALLS: the principal's calls per second.
        OPEN_STREAMS: these, and the principal's open streams (`max_streams`): calls that stream, and no
            streams of events.
    """

    NONE = 0
    CALLS = 1
    OPEN_STREAMS = 2


class Weight(IntEnum):
    """What a call weighs as long as it is under way, towards its principal's quota `calls`.

    Attributes:
        NONE: nothing: it has a limit of its own.
        LIGHT: one request to the broker, or a few.
        CHANGE: several, and what they change lasts.
        LIST: an answer of a megabyte, or a stream that each dead letter is work for.
        BULK: thousands of requests to the broker, one after the other.
    """

    NONE = 0
    LIGHT = 1
    CHANGE = 4
    LIST = 16
    BULK = 128


class Trace(Enum):
    """The span of a call.

    Attributes:
        NONE: none here; the domain may make one.
        CALL: a remote procedure call.
        STORE: a database operation, which is what a store is to its caller.
    """

    NONE = 0
    CALL = 1
    STORE = 2


def _nothing(_: object) -> Iterator[Action]:
    return iter(())


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodPolicy:
    """What applies to the calls of one method.

    Attributes:
        rule: returns the actions that a request needs: none where the method needs no rights, or the domain
            checks them when it knows more than the request.
        check: raises what is malformed in a request. It is called only before a caller is denied, to be told
            that instead, since no rule covers a malformed name: the handler must validate requests itself.
        identified: whether a caller needs an identity; probes have none.
        quota: what a call counts towards.
        weight: what a call counts in `quotas.calls`; publishes wait for their turn instead.
        trace: what span the API makes of it.
        max_size: bytes of a request.
        most_elements: how many there may be in a list of a request, by the number of its field; a request
            with more is not decoded. Other lists have no limit but the request's size.
        writes: whether the outcome is unknown if the call is cut off.
        carries_payload: whether a request has a payload, whose size the broker limits.
        managed: whether each call has a record in the audit log, of what it managed.
        reads: whether each call has one of what it reads: events of others, without a consumer.
        lasting: whether a call may take up to an hour.
        each: whether the handler checks the rights to each thing in a request, and reports on it alone.
    """

    rule: Rule = _nothing
    check: Check | None = None
    identified: bool = True
    quota: Quota = Quota.CALLS
    weight: Weight = Weight.LIGHT
    trace: Trace = Trace.CALL
    max_size: int = LARGEST_REQUEST
    most_elements: Mapping[int, int] = field(default_factory=dict)
    writes: bool = False
    carries_payload: bool = False
    managed: bool = False
    reads: bool = False
    lasting: bool = False
    each: bool = False

    @property
    def publishes(self) -> bool:
        """Whether requests are events: the most frequent calls, which have a subject."""
        return self.rule is _publish

    @property
    def is_bulk(self) -> bool:
        """Whether calls share a slice of the event loop's time, since each is work for long."""
        return self.weight >= Weight.LIST and not self.carries_payload

    @property
    def takes_turns(self) -> bool:
        """Whether few calls of one caller are at work at the same time: lists, but not streams."""
        return self.is_bulk and self.weight is Weight.LIST and self.quota is Quota.CALLS


def actions_of(rule: Rule, request: Any) -> list[Action]:
    """Return the actions that a request needs. Raise `InvalidField` if there are too many."""
    return [action for part in in_parts(rule, request, MOST_ACTIONS) for action in part]


def in_parts(rule: Rule, request: Any, size: int) -> Iterator[list[Action]]:
    """Yield the same, so many at a time: to make thousands takes long."""
    asked, left = rule(request), MOST_ACTIONS
    while part := list(islice(asked, size)):
        left -= len(part)
        if left < 0:
            raise InvalidField("", f"the request needs more than {MOST_ACTIONS} permissions")
        yield part


# --- Events -----------------------------------------------------------------------------------------------


def _publish(request: events_pb.PublishEventRequest) -> Iterator[Action]:
    yield actions.Publish(request.subject)


def _ensure_stream(request: events_pb.EnsureStreamRequest) -> Iterator[Action]:
    yield actions.ManageStream(request.name)
    yield from map(actions.Bind, request.subjects.subjects)
    sources = [request.mirror] if request.HasField("mirror") else request.aggregate.sources
    for source in sources:
        for subject in source.filter_subjects or (EVERYTHING,):
            yield actions.Copy(source.name, subject)


def _ensure_consumer(request: events_pb.EnsureConsumerRequest) -> Iterator[Action]:
    name = request.name if request.HasField("name") else None
    for subject in request.subjects or (EVERYTHING,):
        yield actions.Consume(request.stream, subject, name)
    if name is None:
        yield actions.MakeEphemeral(request.stream)


def _get_consumer(request: events_pb.GetConsumerRequest) -> Iterator[Action]:
    yield actions.UseConsumer(request.stream, names.given_name(request.id))


def _delete_consumer(request: events_pb.DeleteConsumerRequest) -> Iterator[Action]:
    yield actions.DeleteConsumer(request.stream, names.given_name(request.id))


# --- State ------------------------------------------------------------------------------------------------


def _ensure_store(request: state_pb.EnsureStoreRequest) -> Iterator[Action]:
    yield actions.ManageStore(request.store)


def _get(request: state_pb.GetRequest) -> Iterator[Action]:
    yield actions.ReadKey(request.store, request.key)


def _write(
    request: state_pb.SetRequest | state_pb.DeleteRequest | state_pb.TouchRequest,
) -> Iterator[Action]:
    yield actions.WriteKey(request.store, request.key)


def _delete_store(request: state_pb.DeleteStoreRequest) -> Iterator[Action]:
    yield actions.ManageStore(request.store)
    yield actions.WriteKey(request.store, EVERYTHING)


def _read_keys(request: state_pb.ListKeysRequest | state_pb.WatchRequest) -> Iterator[Action]:
    yield actions.ReadKey(request.store, request.filter or EVERYTHING)


def _transact(request: state_pb.TransactRequest) -> Iterator[Action]:
    written = dict.fromkeys(write.key for write in request.writes)
    for key in written:
        yield actions.WriteKey(request.store, key)
    for check in request.checks:
        if check.key not in written:  # who may write a key may do so on a condition, as with Set
            yield actions.ReadKey(request.store, check.key)


# --- Dead letters -----------------------------------------------------------------------------------------


_Reads: TypeAlias = (
    dead_letters_pb.ListRequest | dead_letters_pb.WatchRequest | dead_letters_pb.SummarizeRequest
)


def _read_matching(request: _Reads) -> Iterator[Action]:
    yield actions.ReadDeadLetters(request.filter.stream, request.filter.consumer)


def _read_one(request: dead_letters_pb.GetRequest) -> Iterator[Action]:
    yield from _of_ids(actions.ReadDeadLetters, [request.id])


def _replay(request: dead_letters_pb.ReplayRequest | dead_letters_pb.CancelReplayRequest) -> Iterator[Action]:
    return _of_ids_or_filter(actions.ReplayDeadLetters, request)


def _purge(request: dead_letters_pb.PurgeRequest) -> Iterator[Action]:
    return _of_ids_or_filter(actions.PurgeDeadLetters, request)


def _of_ids_or_filter(action: Callable[[str, str], Action], request: Any) -> Iterator[Action]:
    if request.HasField("filter"):
        yield action(request.filter.stream, request.filter.consumer)
    yield from _of_ids(action, few("ids", request.ids, MOST_IDS))


def _of_ids(action: Callable[[str, str], Action], ids: Any) -> Iterator[Action]:
    """Yield an action for each consumer whose dead letters are named. Malformed ids are rejected later."""
    seen = set[str]()
    for text in ids:
        consumer = text.rsplit(".", 2)[0]  # to parse a thousand ids takes milliseconds
        if consumer in seen:
            continue
        try:
            named = DeadLetterId.parse(text)
        except ValueError:
            continue
        seen.add(consumer)
        yield action(named.stream, named.consumer)


# --- Admin ------------------------------------------------------------------------------------------------


def _view(request: admin_pb.GetStreamRequest) -> Iterator[Action]:
    yield actions.ViewStream(request.name)


def _view_of(request: admin_pb.ListSubjectsRequest | admin_pb.ListConsumersRequest) -> Iterator[Action]:
    if request.stream:  # a list of all leaves out what the caller may not see
        yield actions.ViewStream(request.stream)


def _purge_stream(request: admin_pb.PurgeStreamRequest) -> Iterator[Action]:
    yield actions.PurgeStream(request.stream, request.subject or EVERYTHING)


def _delete_stream(request: admin_pb.DeleteStreamRequest) -> Iterator[Action]:
    yield actions.DeleteStream(request.name)


def _delete_event(request: admin_pb.DeleteEventRequest) -> Iterator[Action]:
    yield actions.PurgeStream(request.stream, EVERYTHING)


def _get_event(request: admin_pb.GetEventRequest) -> Iterator[Action]:
    yield actions.Consume(request.stream, request.last_of_subject or request.subject or EVERYTHING, None)


def _read_events(request: admin_pb.ReadEventsRequest | admin_pb.TailEventsRequest) -> Iterator[Action]:
    for subject in few("subjects", request.subjects, MOST_FILTERS) or (EVERYTHING,):
        yield actions.Consume(request.stream, subject, None)


def _control(request: admin_pb.PauseConsumerRequest | admin_pb.SeekConsumerRequest) -> Iterator[Action]:
    yield actions.ControlConsumer(request.stream, names.given_name(request.consumer))


def _observe(_: object) -> Iterator[Action]:
    yield actions.ObserveServer()


def _explain_event(request: admin_pb.ExplainEventRequest) -> Iterator[Action]:
    yield actions.ObserveServer()
    yield actions.ViewStream(request.stream)


# --- Principals -------------------------------------------------------------------------------------------


def _end_connections(request: principals_pb.EndConnectionsRequest) -> Iterator[Action]:
    yield actions.EndConnections(request.principal)


# --- Malformed requests ----------------------------------------------------------------------------------


def _valid(check: Callable[[str, str], None], field: str) -> Check:
    return lambda request: check(field, getattr(request, field))


_check_publish = _valid(names.subject, "subject")
_check_store = _valid(names.store_name, "store")
_check_stream = _valid(names.stream_name, "name")
_check_of_stream = _valid(names.stream_name, "stream")


def check_keys(request: state_pb.ListKeysRequest | state_pb.WatchRequest) -> None:
    """Raise `InvalidField` if the name of the store, or the pattern of its keys, is malformed."""
    names.store_name("store", request.store)
    if request.filter:
        names.filter_subject("filter", request.filter)


def _check_key(request: state_pb.GetRequest | state_pb.SetRequest | state_pb.DeleteRequest) -> None:
    names.store_name("store", request.store)
    names.key("key", request.key)


def _check_transaction(request: state_pb.TransactRequest) -> None:
    names.store_name("store", request.store)
    for position, write in enumerate(request.writes):
        names.key(f"writes[{position}].key", write.key)
    for position, check in enumerate(request.checks):
        names.key(f"checks[{position}].key", check.key)


def _check_filter(request: _Reads) -> None:
    read_filter(request.filter)


# --- The table --------------------------------------------------------------------------------------------

_PUBLISH: Final = MethodPolicy(
    rule=_publish,
    check=_check_publish,
    weight=Weight.NONE,
    trace=Trace.NONE,
    max_size=UNLIMITED,
    writes=True,
    carries_payload=True,
)
_PUBLISH_MANY: Final = MethodPolicy(
    weight=Weight.LIST,
    max_size=LARGEST_OF_EVENTS,
    most_elements=_EVENTS_AT_ONCE,
    writes=True,
    carries_payload=True,
    each=True,
)
_CONSUME: Final = MethodPolicy(quota=Quota.OPEN_STREAMS, weight=Weight.NONE)
_PROBE: Final = MethodPolicy(
    identified=False,
    quota=Quota.NONE,
    weight=Weight.NONE,
    trace=Trace.NONE,
    max_size=LARGEST_OF_HEALTH,
)
_REFLECTION: Final = MethodPolicy(quota=Quota.OPEN_STREAMS, weight=Weight.NONE, trace=Trace.NONE)


def _changes(rule: Rule, check: Check) -> MethodPolicy:
    return MethodPolicy(rule=rule, check=check, weight=Weight.CHANGE, writes=True, managed=True)


def _state(rule: Rule, check: Check, *, writes: bool = True, managed: bool = False) -> MethodPolicy:
    weight = Weight.CHANGE if managed else Weight.LIGHT
    return MethodPolicy(
        rule=rule, check=check, weight=weight, trace=Trace.STORE, writes=writes, managed=managed
    )


def _dead_letters(
    rule: Rule, check: Check, quota: Quota = Quota.CALLS, *, changes: bool = False
) -> MethodPolicy:
    return MethodPolicy(
        rule=rule,
        check=check,
        quota=quota,
        weight=Weight.BULK if changes else Weight.LIST,
        max_size=LARGEST_OF_DEAD_LETTERS,
        writes=changes,
        managed=changes,
        reads=not changes,
        lasting=changes,
    )


_EVENTS: Final = "/windshift.events.v1alpha1.EventsService/"
_STATE: Final = "/windshift.state.v1alpha1.StateService/"
_DEAD_LETTERS: Final = "/windshift.deadletters.v1alpha1.DeadLettersService/"
_ADMIN: Final = "/windshift.admin.v1alpha1.AdminService/"
_PRINCIPALS: Final = "/windshift.admin.v1alpha1.PrincipalsService/"
_HEALTH: Final = "/grpc.health.v1.Health/"

POLICIES: Final[Mapping[str, MethodPolicy]] = {
    _EVENTS + "EnsureStream": _changes(_ensure_stream, read_stream),
    _EVENTS + "EnsureConsumer": _changes(_ensure_consumer, read_consumer),
    _EVENTS + "GetConsumer": MethodPolicy(rule=_get_consumer, check=read_which_consumer),
    _EVENTS + "DeleteConsumer": _changes(_delete_consumer, read_which_consumer),
    _EVENTS + "PublishEvent": _PUBLISH,
    _EVENTS + "Publish": _PUBLISH,
    _EVENTS + "PublishBatch": _PUBLISH_MANY,
    _EVENTS + "PublishStream": replace(
        _PUBLISH_MANY, quota=Quota.OPEN_STREAMS, weight=Weight.NONE, trace=Trace.NONE
    ),
    _EVENTS + "Events": _CONSUME,
    _EVENTS + "Consume": _CONSUME,
    _STATE + "EnsureStore": _state(_ensure_store, _check_store, managed=True),
    _STATE + "Get": _state(_get, _check_key, writes=False),
    _STATE + "Set": replace(_state(_write, _check_key), max_size=UNLIMITED, carries_payload=True),
    _STATE + "Delete": _state(_write, _check_key),
    _STATE + "Touch": _state(_write, _check_key),
    _STATE + "ListStores": MethodPolicy(weight=Weight.LIST),
    _STATE + "DeleteStore": _state(_delete_store, _check_store, managed=True),
    _STATE + "ListKeys": replace(_state(_read_keys, check_keys, writes=False), weight=Weight.LIST),
    _STATE + "History": replace(_state(_get, _check_key, writes=False), weight=Weight.LIST),
    _STATE + "Watch": MethodPolicy(
        rule=_read_keys, check=check_keys, quota=Quota.OPEN_STREAMS, weight=Weight.LIST
    ),
    _STATE + "Transact": replace(
        _state(_transact, _check_transaction),
        weight=Weight.LIST,
        max_size=LARGEST_OF_TRANSACTIONS,
        most_elements={
            state_pb.TransactRequest.CHECKS_FIELD_NUMBER: MOST_KEYS,
            state_pb.TransactRequest.WRITES_FIELD_NUMBER: MOST_KEYS,
        },
        carries_payload=True,
    ),
    _DEAD_LETTERS + "List": _dead_letters(_read_matching, _check_filter),
    _DEAD_LETTERS + "Get": _dead_letters(_read_one, read_id),
    _DEAD_LETTERS + "Replay": _dead_letters(_replay, check_ids_or_filter, changes=True),
    _DEAD_LETTERS + "CancelReplay": _dead_letters(_replay, check_ids_or_filter, changes=True),
    _DEAD_LETTERS + "Summarize": replace(
        _dead_letters(_read_matching, _check_filter), weight=Weight.BULK, reads=False
    ),
    _DEAD_LETTERS + "Purge": _dead_letters(_purge, check_ids_or_filter, changes=True),
    _DEAD_LETTERS + "Watch": _dead_letters(_read_matching, _check_filter, Quota.OPEN_STREAMS),
    _ADMIN + "GetServer": MethodPolicy(),
    _ADMIN + "WhoAmI": MethodPolicy(),
    _ADMIN + "ListServers": MethodPolicy(rule=_observe, weight=Weight.LIST),
    _ADMIN + "ListStreams": MethodPolicy(weight=Weight.LIST),
    _ADMIN + "GetStream": MethodPolicy(rule=_view, check=_check_stream),
    _ADMIN + "ListSubjects": MethodPolicy(rule=_view_of, check=_check_of_stream, weight=Weight.LIST),
    _ADMIN + "PurgeStream": _changes(_purge_stream, _check_of_stream),
    _ADMIN + "DeleteStream": _changes(_delete_stream, _check_stream),
    _ADMIN + "GetEvent": MethodPolicy(rule=_get_event, check=_check_of_stream, reads=True),
    _ADMIN + "ReadEvents": MethodPolicy(
        rule=_read_events, check=_check_of_stream, weight=Weight.LIST, reads=True
    ),
    _ADMIN + "TailEvents": MethodPolicy(
        rule=_read_events, check=_check_of_stream, quota=Quota.OPEN_STREAMS, weight=Weight.LIST, reads=True
    ),
    _ADMIN + "DeleteEvent": _changes(_delete_event, _check_of_stream),
    _ADMIN + "ExplainEvent": MethodPolicy(rule=_explain_event, check=_check_of_stream, weight=Weight.LIST),
    _ADMIN + "ListConsumers": MethodPolicy(rule=_view_of, weight=Weight.LIST),
    _ADMIN + "ListSubscriptions": MethodPolicy(rule=_observe, weight=Weight.LIST),
    _ADMIN + "PauseConsumer": _changes(_control, read_consumer_key),
    _ADMIN + "SeekConsumer": _changes(_control, read_consumer_key),
    _ADMIN + "GetHistory": MethodPolicy(weight=Weight.LIST),
    _PRINCIPALS + "ListPrincipals": MethodPolicy(rule=_observe, weight=Weight.LIST),
    _PRINCIPALS + "EndConnections": _changes(_end_connections, read_principal),
    _HEALTH + "Check": _PROBE,
    _HEALTH + "List": _PROBE,
    _HEALTH + "Watch": _PROBE,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": _REFLECTION,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _REFLECTION,
}


class NoPolicy(Exception):
    """A method is served but not in the table."""


def policy_of(path: str) -> MethodPolicy:
    """Return the policy of a method. Raise `NoPolicy` when it is not in the table."""
    policy = POLICIES.get(path)
    if policy is None:
        raise NoPolicy(f"{path} has no policy; add it to POLICIES in {__name__}")
    return policy
