"""Every rule about a published event holds in each way of publishing it, and is told in the same words.

A single publish goes a short way where nothing has to be waited for but the answer, and another one when it
is traced; batches and streams have ways of their own, and so do events whose ids nobody asks for, once more
where the broker ingests them fast.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from tests.authorization.callers import Caller, Callers, callers_of
from tests.authorization.policies import ALL, principal, put, token_of
from tests.support.app import running_app
from tests.support.client import EVENTS, any_of, read_refusal
from tests.support.collector import Collector, grpc_collector
from tests.support.nats_server import NatsServer
from tests.support.windshift_process import wait_for
from tests.wire import test_publish_batches as batches
from tests.wire import test_publish_streams as streams
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb

WITHOUT_IDS = ("without ids", "ingest")
REFUSED = ("single", "traced", "batch", "atomic")
"""Ways in which whoever has no call left is refused; in the others he waits."""
POLICY = (
    ALL
    + """
[role.some]
publish = ["*.a", "*.b"]
deny.publish = ["*.b"]
"""
    + principal("all")
    + principal("some")
    + "".join(principal(f"seldom-{way}", "all", more="max_rps = 0.001") for way in REFUSED)
)
NUMBERS = count(1)


class Outcome(NamedTuple):
    """What the client is told."""

    id: int = 0
    duplicate: bool = False
    code: str = "OK"
    message: str = ""
    reason: str = ""
    metadata: tuple[tuple[str, str], ...] = ()


def single(caller: Caller, event: pb.PublishEventRequest) -> Outcome:
    """Publish with a call of its own."""
    try:
        response = caller.call(EVENTS.methods_by_name["PublishEvent"], event, 20)
    except grpc.RpcError as error:
        return refused_with(error)
    return Outcome(response.id, response.duplicate)


def refused_with(error: grpc.RpcError) -> Outcome:
    """Read the error of a call."""
    told = read_refusal(error)
    metadata = {**told.metadata, "hint": told.hint} if told.hint else told.metadata
    return Outcome(0, False, told.code, told.message, told.reason, tuple(sorted(metadata.items())))


def outcome_of(response: pb.PublishBatchResponse | pb.PublishStreamResponse) -> Outcome:
    """Read the result of an only event."""
    (id_,) = response.ids or [0]  # there is none where nobody asked for it
    if not response.errors:
        return Outcome(id_, bool(response.duplicates))
    (error,) = response.errors
    code = next(code.name for code in grpc.StatusCode if code.value[0] == error.code)
    return Outcome(id_, False, code, error.message, error.reason, tuple(sorted(error.metadata.items())))


def batch(caller: Caller, event: pb.PublishEventRequest) -> Outcome:
    """Publish as a batch of one."""
    return outcome_of(batches.publish(caller, event))


def atomic(caller: Caller, event: pb.PublishEventRequest) -> Outcome:
    """Publish as all of the events that are stored or not; that it is the first is told as well."""
    try:
        return outcome_of(batches.publish(caller, event, atomic=True))
    except grpc.RpcError as error:
        told = refused_with(error)
        return told._replace(
            message=told.message.replace("events[0].", ""),
            metadata=tuple(
                (key, value.replace("events[0].", "")) for key, value in told.metadata if key != "index"
            ),
        )


def stream(caller: Caller, event: pb.PublishEventRequest) -> Outcome:
    """Publish on a stream of events."""
    (response,) = streams.publish(caller, [event])
    return outcome_of(response)


def without_ids(caller: Caller, event: pb.PublishEventRequest) -> Outcome:
    """Publish on a stream of events that have no ids."""
    (response,) = streams.start(caller, iter([pb.PublishStreamRequest(events=[event], without_ids=True)]))
    assert (response.first, response.count, len(response.ids)) == (0, 1, 0)
    return outcome_of(response)


PUBLISH = {
    "single": single,
    "traced": single,
    "batch": batch,
    "atomic": atomic,
    "stream": stream,
    "without ids": without_ids,
    "ingest": without_ids,
}


class Server(NamedTuple):
    """A server with the rules, and one that records every call beside it."""

    plain: Callers
    traced: Callers
    collector: Collector

    def publish(self, way: str, who: str, event: pb.PublishEventRequest) -> Outcome:
        """Publish in one of the ways."""
        callers = self.traced if way == "traced" else self.plain
        return PUBLISH[way](callers.with_token(token_of(who)), event)


@pytest.fixture(scope="module")
def server(nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run both."""
    file = put(tmp_path_factory.mktemp("ways") / "auth.toml", POLICY)
    rules = {"WINDSHIFT_AUTH_FILE": str(file)}
    with grpc_collector() as collector:
        traces = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "20"}
        with (
            running_app(nats_server.url, **rules) as plain,
            running_app(nats_server.url, **rules, **traces) as traced,
            callers_of(plain) as plain_callers,
            callers_of(traced) as traced_callers,
        ):
            yield Server(plain_callers, traced_callers, collector)


class Case(NamedTuple):
    """An event, and what must come of it.

    Attributes:
        given: its fields; its subject begins with the stream's name, unless there is another.
        code: of the status.
        reason: of the error.
        who: publishes it.
        before: the fields of events that the stream has.
    """

    given: dict[str, Any]
    code: str = "OK"
    reason: str = ""
    who: str = "all"
    before: tuple[dict[str, Any], ...] = ()


CASES = {
    "plain": Case({}),
    "with a key": Case({"idempotency_key": "k"}),
    "a known key": Case({"idempotency_key": "k"}, before=({"idempotency_key": "k"},)),
    "a known key of somebody else": Case(
        {"idempotency_key": "k"}, who="some", before=({"idempotency_key": "k"},)
    ),
    "after no event": Case({"expected_last_id": 0}),
    "after another event": Case({"expected_last_id": 7}, "ABORTED", "WRONG_LAST_ID"),
    "repeated after no event": Case(
        {"expected_last_id": 0, "idempotency_key": "k"},
        before=({"expected_last_id": 0, "idempotency_key": "k"},),
    ),
    "in a full stream": Case({}, "RESOURCE_EXHAUSTED", "STREAM_FULL", before=({}, {})),
    "larger than the stream takes": Case(
        {"data": any_of("x" * 10_000)}, "INVALID_ARGUMENT", "EVENT_TOO_LARGE"
    ),
    "larger than the broker takes": Case(
        {"data": any_of("x" * 2**20)}, "INVALID_ARGUMENT", "EVENT_TOO_LARGE"
    ),
    "without data": Case({"data": None}, "INVALID_ARGUMENT", "INVALID_FIELD"),
    "without a type": Case({"data": AnyMessage()}, "INVALID_ARGUMENT", "INVALID_FIELD"),
    "a bad key": Case({"idempotency_key": " k"}, "INVALID_ARGUMENT", "INVALID_FIELD"),
    "a bad position": Case({"expected_last_id": 2**63}, "INVALID_ARGUMENT", "INVALID_FIELD"),
    "without a subject": Case({"subject": ""}, "INVALID_ARGUMENT", "INVALID_FIELD"),
    "a pattern as its subject": Case({"subject": "*.a"}, "INVALID_ARGUMENT", "INVALID_FIELD"),
    "a subject of the broker": Case({"subject": "$JS.API.INFO"}, "INVALID_ARGUMENT", "INVALID_FIELD"),
    "for no stream": Case({"subject": "nobody.takes.this"}, "FAILED_PRECONDITION", "UNBOUND_SUBJECT"),
    "allowed": Case({}, who="some"),
    "not allowed": Case({"subject": "elsewhere.c"}, "PERMISSION_DENIED", "PERMISSION_DENIED", who="some"),
    "denied": Case({"subject": "elsewhere.b"}, "PERMISSION_DENIED", "PERMISSION_DENIED", who="some"),
}


def event_of(name: str, given: dict[str, Any]) -> pb.PublishEventRequest:
    """Make an event for a stream."""
    return pb.PublishEventRequest(**{"subject": f"{name}.a", "data": any_of("text"), **given})


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_each_way_has_every_rule(server: Server, case: Case) -> None:
    """The outcome is the same in each way, to the words of the error."""
    seen = dict[str, Outcome]()
    for way in PUBLISH:
        name = f"ways-{next(NUMBERS)}"
        limits = {"max_events": 2, "discard_policy": 2}
        manager = server.plain.with_token(token_of("all"))
        settings = {"max_event_size": 10_000, "fast_ingest": way == "ingest"}
        manager.ensure_stream(name, retention_policy=limits, **settings)
        for before in case.before:
            assert server.publish("single", "all", event_of(name, before)).code == "OK"
        outcome = server.publish(way, case.who, event_of(name, case.given))
        seen[way] = outcome._replace(
            message=outcome.message.replace(name, "NAME"),
            metadata=tuple((key, value.replace(name, "NAME")) for key, value in outcome.metadata),
        )
    assert (seen["single"].code, seen["single"].reason) == (case.code, case.reason)
    expected = dict.fromkeys(PUBLISH, seen["single"])
    for way in WITHOUT_IDS:
        expected[way] = seen["single"]._replace(id=0, duplicate=False)
    assert seen == expected


@pytest.mark.parametrize("way", REFUSED)
def test_each_way_counts(server: Server, way: str) -> None:
    """Whoever has no call left is refused."""
    name = f"ways-{next(NUMBERS)}"
    server.plain.with_token(token_of("all")).ensure_stream(name)
    outcomes = []
    for _ in range(3):
        try:
            outcomes.append(server.publish(way, f"seldom-{way}", event_of(name, {})))
        except grpc.RpcError as error:  # the whole call
            told = read_refusal(error)
            outcomes.append(Outcome(code=told.code, reason=told.reason))
    assert outcomes[0].code == "OK"
    assert {(outcome.code, outcome.reason) for outcome in outcomes[1:]} == {
        ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")
    }


def test_the_traced_way(server: Server) -> None:
    """It records what it does, and so is another way."""
    name = f"ways-{next(NUMBERS)}"
    server.plain.with_token(token_of("all")).ensure_stream(name)
    assert server.publish("traced", "all", event_of(name, {})).code == "OK"
    wait_for(lambda: f"send {name}" in [span.name for span in server.collector.spans])
