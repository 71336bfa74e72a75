"""What each method needs: the one table from requests to actions.

A method that is not in the table is denied to everybody as soon as there are rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Final, TypeAlias

from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as dead_letters_pb
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as events_pb
from windshift._gen.windshift.state.v1alpha1 import service_pb2 as state_pb
from windshift.server import names
from windshift.server.api.streams import read_consumer, read_stream, read_which_consumer
from windshift.server.auth.actions import (
    EVERYTHING,
    Action,
    Bind,
    Consume,
    Copy,
    DeleteConsumer,
    ManageStore,
    ManageStream,
    Publish,
    PurgeDeadLetters,
    ReadDeadLetters,
    ReadKey,
    ReplayDeadLetters,
    UseConsumer,
    WriteKey,
)
from windshift.server.errors import InvalidField
from windshift.server.events.dead_letters.model import DeadLetterId

Rule: TypeAlias = Callable[[Any], Iterator[Action]]
"""Says what a request asks for. The request may be malformed: whatever it names is only compared."""

MOST_ACTIONS: Final = 16_384
"""Things that one request may ask for; no broker takes one that has more."""


def actions(rule: Rule, request: Any) -> list[Action]:
    """Return all that a request asks for. Raise `InvalidField` when that is too much."""
    asked = list(islice(rule(request), MOST_ACTIONS + 1))
    if len(asked) > MOST_ACTIONS:
        raise InvalidField("", f"the request names more than {MOST_ACTIONS} things")
    return asked


# --- Events -----------------------------------------------------------------------------------------------


def _publish(request: events_pb.PublishEventRequest) -> Iterator[Action]:
    yield Publish(request.subject)


def _ensure_stream(request: events_pb.EnsureStreamRequest) -> Iterator[Action]:
    yield ManageStream(request.name)
    yield from map(Bind, request.subjects.subjects)
    sources = [request.mirror] if request.HasField("mirror") else request.aggregate.sources
    for source in sources:
        for subject in source.filter_subjects or (EVERYTHING,):
            yield Copy(source.name, subject)


def _ensure_consumer(request: events_pb.EnsureConsumerRequest) -> Iterator[Action]:
    name = request.name if request.HasField("name") else None
    for subject in request.subjects or (EVERYTHING,):
        yield Consume(request.stream, subject, name)


def _get_consumer(request: events_pb.GetConsumerRequest) -> Iterator[Action]:
    yield UseConsumer(request.stream, names.given_name(request.id))


def _delete_consumer(request: events_pb.DeleteConsumerRequest) -> Iterator[Action]:
    yield DeleteConsumer(request.stream, names.given_name(request.id))


# --- State ------------------------------------------------------------------------------------------------


def _ensure_store(request: state_pb.EnsureStoreRequest) -> Iterator[Action]:
    yield ManageStore(request.store)


def _get(request: state_pb.GetRequest) -> Iterator[Action]:
    yield ReadKey(request.store, request.key)


def _write(request: state_pb.SetRequest | state_pb.DeleteRequest) -> Iterator[Action]:
    yield WriteKey(request.store, request.key)


# --- Dead letters -----------------------------------------------------------------------------------------


def _read_matching(request: dead_letters_pb.ListRequest | dead_letters_pb.WatchRequest) -> Iterator[Action]:
    yield ReadDeadLetters(request.filter.stream, request.filter.consumer)


def _read_one(request: dead_letters_pb.GetRequest) -> Iterator[Action]:
    yield from _of_ids(ReadDeadLetters, [request.id])


def _replay(request: dead_letters_pb.ReplayRequest) -> Iterator[Action]:
    return _of_ids_or_filter(ReplayDeadLetters, request)


def _purge(request: dead_letters_pb.PurgeRequest) -> Iterator[Action]:
    return _of_ids_or_filter(PurgeDeadLetters, request)


_OfDeadLetters: TypeAlias = Callable[[str, str], Action]


def _of_ids_or_filter(
    action: _OfDeadLetters, request: dead_letters_pb.ReplayRequest | dead_letters_pb.PurgeRequest
) -> Iterator[Action]:
    if request.HasField("filter"):
        yield action(request.filter.stream, request.filter.consumer)
    yield from _of_ids(action, request.ids)


def _of_ids(action: _OfDeadLetters, ids: Any) -> Iterator[Action]:
    """Give an action for each consumer whose dead letters are named. What is no id is refused later."""
    seen = set()
    for text in islice(ids, MOST_ACTIONS + 1):
        try:
            named = DeadLetterId.parse(text)
        except ValueError:
            continue
        if (named.stream, named.consumer) not in seen:
            seen.add((named.stream, named.consumer))
            yield action(named.stream, named.consumer)


# --- The table --------------------------------------------------------------------------------------------

_EVENTS: Final = "/windshift.events.v1alpha1.EventsService/"
_STATE: Final = "/windshift.state.v1alpha1.StateService/"
_DEAD_LETTERS: Final = "/windshift.deadletters.v1alpha1.DeadLettersService/"

RULES: Final[Mapping[str, Rule]] = {
    _EVENTS + "EnsureStream": _ensure_stream,
    _EVENTS + "EnsureConsumer": _ensure_consumer,
    _EVENTS + "GetConsumer": _get_consumer,
    _EVENTS + "DeleteConsumer": _delete_consumer,
    _EVENTS + "PublishEvent": _publish,
    _EVENTS + "Publish": _publish,
    _STATE + "EnsureStore": _ensure_store,
    _STATE + "Get": _get,
    _STATE + "Set": _write,
    _STATE + "Delete": _write,
    _DEAD_LETTERS + "List": _read_matching,
    _DEAD_LETTERS + "Get": _read_one,
    _DEAD_LETTERS + "Replay": _replay,
    _DEAD_LETTERS + "Purge": _purge,
    _DEAD_LETTERS + "Watch": _read_matching,
}
"""Methods whose request says all."""

Check: TypeAlias = Callable[[Any], object]
"""Raises `InvalidField` for a request that nobody's rights could make valid."""


def _check_publish(request: events_pb.PublishEventRequest) -> None:
    names.subject("subject", request.subject)


def _check_store(request: state_pb.EnsureStoreRequest) -> None:
    names.store_name("store", request.store)


def _check_key(request: state_pb.GetRequest | state_pb.SetRequest | state_pb.DeleteRequest) -> None:
    names.store_name("store", request.store)
    names.key("key", request.key)


CHECKS: Final[Mapping[str, Check]] = {
    _EVENTS + "EnsureStream": read_stream,
    _EVENTS + "EnsureConsumer": read_consumer,
    _EVENTS + "GetConsumer": read_which_consumer,
    _EVENTS + "DeleteConsumer": read_which_consumer,
    _EVENTS + "PublishEvent": _check_publish,
    _EVENTS + "Publish": _check_publish,
    _STATE + "EnsureStore": _check_store,
    _STATE + "Get": _check_key,
    _STATE + "Set": _check_key,
    _STATE + "Delete": _check_key,
}
"""Methods where what is malformed is told so, and not that it is denied: nothing covers a malformed name."""

PUBLISHING: Final = frozenset(path for path, rule in RULES.items() if rule is _publish)
"""Methods that are called most, and whose requests have a subject."""

CONSUMING: Final = frozenset({_EVENTS + "Events", _EVENTS + "Consume"})
"""Methods where the domain asks, once it knows the consumer."""

FOR_ALL_KNOWN: Final = frozenset(
    {
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    }
)
"""Methods that need an identity, and nothing more."""

FOR_ALL: Final = frozenset(
    {"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/List", "/grpc.health.v1.Health/Watch"}
)
"""Methods that need no identity: probes have none."""

MANAGING: Final = frozenset(
    {
        _EVENTS + "EnsureStream",
        _EVENTS + "EnsureConsumer",
        _EVENTS + "DeleteConsumer",
        _STATE + "EnsureStore",
        _DEAD_LETTERS + "Replay",
        _DEAD_LETTERS + "Purge",
    }
)
"""Methods that the audit log has a record of, each time."""

LASTING: Final = frozenset({_DEAD_LETTERS + "Replay", _DEAD_LETTERS + "Purge"})
"""Methods whose calls go on for as long as there is something to do, and the client wants: up to an hour."""
