"""Rows of the authorization matrix: who asks for what, the answer, and what really happened then."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from queue import SimpleQueue
from typing import Any, Final, NamedTuple, TypeAlias

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from tests.authorization.world import World
from tests.support.client import Client, Refusal, read_refusal
from windshift._gen.windshift.admin.v1alpha1 import principals_pb2 as principals_pb
from windshift._gen.windshift.admin.v1alpha1 import service_pb2 as admin_pb
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as dead_letters_pb
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as events_pb
from windshift._gen.windshift.state.v1alpha1 import service_pb2 as state_pb
from windshift.rpc._gen.grpc.health.v1 import health_pb2 as health_pb
from windshift.rpc._gen.grpc.reflection.v1 import reflection_pb2 as reflection_pb
from windshift.rpc._gen.grpc.reflection.v1alpha import reflection_pb2 as older_reflection_pb

Request: TypeAlias = Message | Callable[[World], Message]


class Answer(NamedTuple):
    """How a call ends."""

    code: str
    reason: str


ALLOWED: Final = Answer("OK", "")
DENIED: Final = Answer("PERMISSION_DENIED", "PERMISSION_DENIED")
UNKNOWN: Final = Answer("UNAUTHENTICATED", "UNAUTHENTICATED")
INVALID: Final = Answer("INVALID_ARGUMENT", "INVALID_FIELD")
NO_STREAM: Final = Answer("NOT_FOUND", "STREAM_NOT_FOUND")
NO_CONSUMER: Final = Answer("NOT_FOUND", "CONSUMER_NOT_FOUND")
NO_STORE: Final = Answer("NOT_FOUND", "STORE_NOT_FOUND")
NO_PRINCIPAL: Final = Answer("NOT_FOUND", "PRINCIPAL_NOT_FOUND")
NO_LETTER: Final = Answer("NOT_FOUND", "DEAD_LETTER_NOT_FOUND")
UNBOUND: Final = Answer("FAILED_PRECONDITION", "UNBOUND_SUBJECT")
OVERLAP: Final = Answer("FAILED_PRECONDITION", "SUBJECTS_OVERLAP")


CODES: Final = {code.value[0]: code.name for code in grpc.StatusCode}
"""The names of status codes by their numbers."""

_TOGETHER: Final = 40
"""Rows for which the broker is looked at once: a consumer that a row made would not live for ever."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Attributes:
        method: the service and the method, as in `EventsService/Publish`.
        who: the principal.
        request: what is asked for; a function makes it, and what it needs, when the row is played.
        expected: the answer.
        about: what this row is about.
    """

    method: str
    who: str
    request: Request
    expected: Answer
    about: str = ""

    def __str__(self) -> str:
        about = f" {self.about}" if self.about else ""
        return f"{self.method} by {self.who}{about}: {self.expected.reason or self.expected.code}"


SERVICES: Final = {
    file.services_by_name[name].name + older: file.services_by_name[name]
    for file, name, older in (
        (events_pb.DESCRIPTOR, "EventsService", ""),
        (state_pb.DESCRIPTOR, "StateService", ""),
        (dead_letters_pb.DESCRIPTOR, "DeadLettersService", ""),
        (admin_pb.DESCRIPTOR, "AdminService", ""),
        (principals_pb.DESCRIPTOR, "PrincipalsService", ""),
        (health_pb.DESCRIPTOR, "Health", ""),
        (reflection_pb.DESCRIPTOR, "ServerReflection", ""),
        (older_reflection_pb.DESCRIPTOR, "ServerReflection", "Alpha"),
    )
}
"""All services, by what rows call them."""
BY_NAME: Final = {descriptor.full_name: descriptor for descriptor in SERVICES.values()}


def method_of(name: str) -> Any:
    """Return the descriptor of what a row calls a method."""
    service, _, method = name.partition("/")
    return SERVICES[service].methods_by_name[method]


def path_of(method: Any) -> str:
    """Return the path of a method's calls."""
    return f"/{method.containing_service.full_name}/{method.name}"


def services_told(client: Client) -> Iterator[Any]:
    """Ask a server which services it has; give their descriptors."""
    request = reflection_pb.ServerReflectionRequest(list_services="")
    outcome = invoke(client, method_of("ServerReflection/ServerReflectionInfo"), request)
    assert outcome.refusal is None
    for service in outcome.responses[0].list_services_response.service:
        yield BY_NAME[service.name]


_OF_SEVERAL: Final = (events_pb.PublishBatchResponse, events_pb.PublishStreamResponse)


class Outcome(NamedTuple):
    """What came back."""

    responses: Sequence[Any]
    refusal: Refusal | None

    @property
    def answer(self) -> Answer:
        """How the call ended."""
        refusal = self.refusal
        if refusal is not None:
            return Answer(refusal.code, refusal.reason)
        for error in self.responses[0].errors if self.is_of_several else ():
            return Answer(CODES[error.code], error.reason)
        return ALLOWED

    @property
    def is_of_several(self) -> bool:
        """Whether there may be errors of single events in the response."""
        return bool(self.responses) and isinstance(self.responses[0], _OF_SEVERAL)


def invoke(client: Client, method: Any, request: Message, limit: int = 1) -> Outcome:
    """Make a call of whatever kind with one request.

    `limit` says how many responses of a server's stream are read, and how many events a consume call waits
    for, which it acknowledges.
    """
    requests: SimpleQueue[Message | None] = SimpleQueue()
    requests.put(request)
    call = _start(client, method, requests)
    responses: list[Any] = []
    try:
        if not method.server_streaming:
            return Outcome([call.result()], None)
        if isinstance(request, events_pb.EventsRequest):
            _consume(call, requests, responses, limit)
        else:
            responses.extend(islice(call, limit))
    except grpc.RpcError as error:
        return Outcome(responses, read_refusal(error))
    finally:
        requests.put(None)
        call.cancel()
    return Outcome(responses, None)


def _start(client: Client, method: Any, requests: SimpleQueue[Message | None]) -> Any:
    request = requests.get()
    assert request is not None
    codecs: dict[str, Any] = {
        "request_serializer": type(request).SerializeToString,
        "response_deserializer": GetMessageClass(method.output_type).FromString,
    }
    path = path_of(method)
    channel: Any = client.channel
    if method.client_streaming:
        return channel.stream_stream(path, **codecs)(chain([request], iter(requests.get, None)), timeout=20)
    if method.server_streaming:
        return channel.unary_stream(path, **codecs)(request, timeout=20)
    return channel.unary_unary(path, **codecs).future(request, timeout=20)


def _consume(call: Any, requests: SimpleQueue[Message | None], responses: list[Any], limit: int) -> None:
    """Take events, acknowledge all of them, and end the call."""
    ids = []
    for response in call:
        responses.append(response)
        if response.HasField("event"):
            ids.append(response.event.id)
        if len(ids) == limit and not response.HasField("ack_confirmation"):
            requests.put(events_pb.EventsRequest(ack={"ids": ids}))
        if response.HasField("ack_confirmation"):
            requests.put(None)


def play(world: World, rows: Sequence[Row]) -> None:
    """Play rows: the answers are as they should be, and so is what happened, or did not."""
    allowed = [row for row in rows if row.expected == ALLOWED]
    refused = [row for row in rows if row.expected != ALLOWED]
    for first in range(0, len(refused), _TOGETHER):
        _play_refused(world, refused[first : first + _TOGETHER])
    for row in allowed:
        request = _made(world, row)
        outcome = invoke(world.caller(row.who), method_of(row.method), request, _limit(world, request))
        assert outcome.answer == ALLOWED, (str(row), outcome.refusal)
        EFFECTS[row.method](world, request, outcome.responses)


def _play_refused(world: World, rows: Sequence[Row]) -> None:
    """Play rows that are to have no effect, which is looked for once."""
    requests = [_made(world, row) for row in rows]
    before = world.effects()
    for row, request in zip(rows, requests, strict=True):
        outcome = invoke(world.caller(row.who), method_of(row.method), request)
        assert outcome.answer == row.expected, (str(row), outcome.refusal)
        assert outcome.responses == [] or not any(outcome.responses[0].ids), str(row)
    changed = _difference(before, world.effects())
    assert not changed, changed


def _difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return what is not as it was: before, and after."""
    return {
        f"{kind} {name}": (before[kind].get(name), after[kind].get(name))
        for kind in before
        for name in before[kind].keys() | after[kind].keys()
        if before[kind].get(name) != after[kind].get(name)
    }


def _made(world: World, row: Row) -> Message:
    return row.request(world) if callable(row.request) else row.request


def _limit(world: World, request: Any) -> int:
    """Return how much is to come."""
    if isinstance(request, events_pb.EventsRequest):
        consumer = world.witness.consumer(request.subscribe.stream, request.subscribe.consumer)
        assert consumer is not None
        return int(consumer["num_pending"])
    return 1


# What must have happened when a call was let through


def _published(world: World, request: Any, responses: Any) -> None:
    stream = world.witness.stream_of(request.subject)
    assert stream is not None
    stored = world.witness.message(stream, seq=responses[0].id)
    assert stored is not None
    assert stored["subject"] == request.subject


def _all_published(world: World, request: Any, responses: Any) -> None:
    ids = [{"seq": seq} for seq in responses[0].ids]
    if isinstance(request, events_pb.PublishStreamRequest) and request.without_ids:
        assert not ids
        assert responses[0].count == len(request.events)
        ids = [{"last_by_subj": event.subject} for event in request.events]
    for event, which in zip(request.events, ids, strict=True):
        stream = world.witness.stream_of(event.subject)
        assert stream is not None
        stored = world.witness.message(stream, **which)
        assert stored is not None
        assert stored["subject"] == event.subject


def _stream_ensured(world: World, request: Any, _: Any) -> None:
    stored = world.witness.stream(request.name)
    assert stored is not None
    config = stored["config"]
    match request.WhichOneof("source"):
        case "subjects":
            assert sorted(config["subjects"]) == sorted(request.subjects.subjects)
        case "mirror":
            assert config["mirror"]["name"] == request.mirror.name
        case _:
            names = [source["name"] for source in config["sources"]]
            assert sorted(names) == sorted(source.name for source in request.aggregate.sources)


def filters_of(consumer: Any) -> set[str]:
    """Return the filters of a consumer as JetStream has it."""
    config = consumer["config"]
    found = {*config.get("filter_subjects", ()), config.get("filter_subject", "")}
    return found - {"", ">"}


def _consumer_ensured(world: World, request: Any, responses: Any) -> None:
    stored = world.witness.consumer(request.stream, responses[0].id)
    assert stored is not None
    assert filters_of(stored) == set(request.subjects) - {">"}


def _consumer_seen(world: World, request: Any, responses: Any) -> None:
    assert (responses[0].stream, responses[0].id) == (request.stream, request.id)


def _consumer_deleted(world: World, request: Any, _: Any) -> None:
    assert world.witness.consumer(request.stream, request.id) is None


def _consumed(world: World, request: Any, responses: Any) -> None:
    assert responses[0].HasField("subscribed")
    stored = world.witness.consumer(request.subscribe.stream, request.subscribe.consumer)
    assert stored is not None
    assert stored["num_ack_pending"] == stored["num_pending"] == 0


def _store_ensured(world: World, request: Any, _: Any) -> None:
    assert world.witness.stream(f"KV_{request.store}") is not None


def _got(world: World, request: Any, responses: Any) -> None:
    stored = _entry(world, request)
    assert responses[0].revision == (0 if stored is None else stored["seq"])


def _set(world: World, request: Any, responses: Any) -> None:
    stored = _entry(world, request)
    assert stored is not None
    assert stored["seq"] == responses[0].revision


def _deleted(world: World, request: Any, _: Any) -> None:
    stored = _entry(world, request)
    assert stored is None or "data" not in stored
    world.admin.set(request.store, request.key)  # for rows that read it


def _entry(world: World, request: Any) -> Any:
    return world.witness.message(f"KV_{request.store}", last_by_subj=f"$KV.{request.store}.{request.key}")


def _stores_listed(world: World, request: Any, responses: Any) -> None:
    assert all(world.witness.stream(f"KV_{each.store}") for each in responses[0].stores)


def _store_deleted(world: World, request: Any, _: Any) -> None:
    assert world.witness.stream(f"KV_{request.store}") is None


def _keys_listed(world: World, request: Any, responses: Any) -> None:
    for entry in responses[0].entries:
        subject = f"$KV.{request.store}.{entry.key}"
        stored = world.witness.message(f"KV_{request.store}", last_by_subj=subject)
        assert stored is not None
        assert stored["seq"] == entry.revision


def _history_read(world: World, request: Any, responses: Any) -> None:
    stored = _entry(world, request)
    found = [entry.revision for entry in responses[0].entries]
    assert found == ([] if stored is None else [stored["seq"]])


def _transacted(world: World, request: Any, responses: Any) -> None:
    for write, revision in zip(request.writes, responses[0].revisions, strict=True):
        subject = f"$KV.{request.store}.{write.key}"
        stored = world.witness.message(f"KV_{request.store}", last_by_subj=subject)
        assert stored is not None
        assert stored["seq"] == revision


def _listed(world: World, request: Any, responses: Any) -> None:
    letters = responses[0].dead_letters
    assert letters
    for letter in letters:
        assert request.filter.stream in ("", letter.stream)
        assert request.filter.consumer in ("", letter.consumer)


def _letter_got(world: World, request: Any, responses: Any) -> None:
    assert responses[0].dead_letter.id == request.id


def _replayed(world: World, request: Any, responses: Any) -> None:
    assert responses[0].replayed + responses[0].already_replaying >= max(1, len(request.ids))


def _cancelled(world: World, request: Any, responses: Any) -> None:
    told = responses[0]
    if request.ids:
        assert told.cancelled + told.delivering + len(told.missing_ids) == len(set(request.ids))


def _summarized(world: World, request: Any, responses: Any) -> None:
    assert responses[0].total >= 1


def _purged(world: World, request: Any, responses: Any) -> None:
    assert responses[0].purged >= max(1, len(request.ids))
    for letter in request.ids if not request.dry_run else ():
        stream, consumer, seq, stored = letter.rsplit(".", 3)
        found = dead_letters_pb.ListRequest(filter={"stream": stream, "consumer": consumer}, page_size=500)
        listed = invoke(world.admin, method_of("DeadLettersService/List"), found).responses[0]
        assert f"{stream}.{consumer}.{seq}.{stored}" not in [each.id for each in listed.dead_letters]


def _watching(world: World, request: Any, responses: Any) -> None:
    letter = responses[0].dead_letter
    assert request.filter.stream in ("", letter.stream)
    assert request.filter.consumer in ("", letter.consumer)


def _told(world: World, request: Any, responses: Any) -> None:
    assert len(responses) == 1


def _streams_listed(world: World, request: Any, responses: Any) -> None:
    assert all(world.witness.stream(stream.spec.name) for stream in responses[0].streams)


def _history_told(world: World, request: Any, responses: Any) -> None:
    assert {series.name for series in responses[0].series} <= {*request.streams, *request.consumers}


def _stream_seen(world: World, request: Any, responses: Any) -> None:
    stored = world.witness.stream(request.name)
    assert stored is not None
    assert responses[0].stream.events == stored["state"]["messages"]


def _subjects_listed(world: World, request: Any, responses: Any) -> None:
    stored = world.witness.stream(request.stream)
    assert stored is not None
    assert len(responses[0].subjects) == min(100, stored["state"].get("num_subjects", 0))


def _consumers_listed(world: World, request: Any, responses: Any) -> None:
    for each in responses[0].consumers:
        assert world.witness.consumer(each.consumer.stream, each.consumer.id) is not None


def _event_read(world: World, request: Any, responses: Any) -> None:
    assert responses[0].event.event.subject.startswith(f"{request.stream.lower()}.")


def _events_read(world: World, request: Any, responses: Any) -> None:
    assert responses[0].events


def _events_purged(world: World, request: Any, responses: Any) -> None:
    assert responses[0].purged <= 1


def _event_deleted(world: World, request: Any, _: Any) -> None:
    assert world.witness.message(request.stream, seq=request.id) is None


def _stream_deleted(world: World, request: Any, _: Any) -> None:
    assert world.witness.stream(request.name) is None


def _explained(_: World, request: Any, responses: Any) -> None:
    assert responses[0].last_id >= request.id or not responses[0].consumers


def _paused(world: World, request: Any, _: Any) -> None:
    stored = world.witness.consumer(request.stream, request.consumer)
    assert stored is not None
    assert stored["paused"]


def _sought(world: World, request: Any, responses: Any) -> None:
    stored = world.witness.consumer(request.stream, request.consumer)
    assert stored is not None
    assert "windshift.run" in stored["config"]["metadata"]
    assert responses[0].next_id > 0


def _principals_listed(world: World, request: Any, responses: Any) -> None:
    names = [each.name for each in responses[0].principals]
    assert names == sorted(names)
    assert {"all", "observes"} <= set(names)


EFFECTS: Final[dict[str, Callable[[World, Any, Any], None]]] = {
    "EventsService/Publish": _published,
    "EventsService/PublishEvent": _published,
    "EventsService/PublishBatch": _all_published,
    "EventsService/PublishStream": _all_published,
    "EventsService/EnsureStream": _stream_ensured,
    "EventsService/EnsureConsumer": _consumer_ensured,
    "EventsService/GetConsumer": _consumer_seen,
    "EventsService/DeleteConsumer": _consumer_deleted,
    "EventsService/Events": _consumed,
    "EventsService/Consume": _consumed,
    "StateService/EnsureStore": _store_ensured,
    "StateService/Get": _got,
    "StateService/Set": _set,
    "StateService/Delete": _deleted,
    "StateService/Touch": _set,
    "StateService/ListStores": _stores_listed,
    "StateService/DeleteStore": _store_deleted,
    "StateService/ListKeys": _keys_listed,
    "StateService/History": _history_read,
    "StateService/Watch": _told,
    "StateService/Transact": _transacted,
    "DeadLettersService/List": _listed,
    "DeadLettersService/Get": _letter_got,
    "DeadLettersService/Replay": _replayed,
    "DeadLettersService/CancelReplay": _cancelled,
    "DeadLettersService/Summarize": _summarized,
    "DeadLettersService/Purge": _purged,
    "DeadLettersService/Watch": _watching,
    "AdminService/GetServer": _told,
    "AdminService/WhoAmI": _told,
    "AdminService/ListServers": _told,
    "AdminService/ListStreams": _streams_listed,
    "AdminService/GetStream": _stream_seen,
    "AdminService/ListSubjects": _subjects_listed,
    "AdminService/PurgeStream": _events_purged,
    "AdminService/DeleteStream": _stream_deleted,
    "AdminService/GetEvent": _event_read,
    "AdminService/ReadEvents": _events_read,
    "AdminService/TailEvents": _told,
    "AdminService/DeleteEvent": _event_deleted,
    "AdminService/ExplainEvent": _explained,
    "AdminService/ListConsumers": _consumers_listed,
    "AdminService/ListSubscriptions": _told,
    "AdminService/PauseConsumer": _paused,
    "AdminService/SeekConsumer": _sought,
    "AdminService/GetHistory": _history_told,
    "PrincipalsService/ListPrincipals": _principals_listed,
    "PrincipalsService/EndConnections": _told,
    "Health/Check": _told,
    "Health/List": _told,
    "Health/Watch": _told,
    "ServerReflection/ServerReflectionInfo": _told,
    "ServerReflectionAlpha/ServerReflectionInfo": _told,
}
"""For each method: sees that a call had its effect."""
