"""How much one principal may ask of a server, at the wire."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from google.protobuf.message import Message

from tests.authorization.callers import Caller, Callers, bearer, callers_with_rules
from tests.authorization.policies import ALL, digest_of, principal, put, token_of
from tests.authorization.rows import ALLOWED, Answer, invoke, method_of
from tests.support.app import running_app
from tests.support.client import Refusal, any_of, refused
from tests.support.nats_server import NatsServer
from tests.support.windshift_process import LIMIT, wait_for
from tests.wire.burying import watching
from tests.wire.consuming import calling, subscribed
from tests.wire.management import ensure_consumer
from tests.wire.test_publish_batches import publish
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as dead_letters_pb
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb
from windshift._gen.windshift.state.v1alpha1 import service_pb2 as state_pb
from windshift.rpc._gen.grpc.reflection.v1 import reflection_pb2 as reflection_pb

EXCEEDED = Answer("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")
PUBLISH = method_of("EventsService/Publish")
REFLECTION = (
    "ServerReflection/ServerReflectionInfo",
    reflection_pb.ServerReflectionRequest(list_services=""),
)
STREAMS: dict[str, Message] = {
    "EventsService/Consume": pb.EventsRequest(),
    "DeadLettersService/Watch": dead_letters_pb.WatchRequest(),
    REFLECTION[0]: REFLECTION[1],
}
NUMBERS = count()


def limited(name: str, more: str) -> str:
    """Write a principal with a quota, and two tokens."""
    text = principal(name, "all", more=more)
    return text.replace(f'"{digest_of(name)}"', f'"{digest_of(name)}", "{digest_of(name, 2)}"')


POLICY = (
    ALL
    + principal("all")
    + '\n[role.nothing]\npublish = ["nothing.>"]\n'
    + principal("stranger", "nothing", more="max_rps = 0.001")
    + limited("two-streams", "max_streams = 2")
    + limited("three-calls", "max_rps = 3")
    + limited("seldom", "max_rps = 0.001")
    + limited("seldom-too", "max_rps = 0.001")
    + limited("twenty-events", "max_rps = 20")
    + limited("twenty-others", "max_rps = 20")
    + limited("never", "max_rps = 0.001")
    + limited("large-batches", "max_rps = 20")
    + limited("two-watches", "quotas = { calls = 32 }")
)


@pytest.fixture(scope="module")
def callers(nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callers]:
    """Run a server with principals that have quotas."""
    file = put(tmp_path_factory.mktemp("quotas") / "auth.toml", POLICY)
    with callers_with_rules(nats_server, file) as callers:
        callers.with_token(token_of("all")).ensure_stream("QUOTAS", "quotas.>")
        yield callers


def consumer(callers: Callers) -> str:
    """Make a consumer that nobody else has."""
    name = f"c-{next(NUMBERS)}"
    return ensure_consumer(callers.with_token(token_of("all")), "QUOTAS", name=name)


@contextmanager
def two_open(callers: Callers) -> Iterator[tuple[Caller, ExitStack]]:
    """Open as many streams as one may have, with both tokens; the first can be closed."""
    first, second = (callers.with_token(token_of("two-streams", version)) for version in (1, 2))
    with subscribed(second, "QUOTAS", consumer=consumer(callers)), ExitStack() as closing:
        closing.enter_context(subscribed(first, "QUOTAS", consumer=consumer(callers)))
        yield first, closing


def refused_stream(caller: Caller) -> Refusal:
    """Open a stream that is one too many."""
    with calling(caller) as call:
        call.say(subscribe=pb.EventsRequest.Subscribe(stream="QUOTAS", consumer="c"))
        end = call.end(LIMIT)
    assert end is not None
    return end


def test_streams(callers: Callers) -> None:
    """One more stream than allowed is refused, whatever token it comes with; one that closes makes room."""
    with two_open(callers) as (caller, closing):
        refusal = refused_stream(caller)
        assert (refusal.code, refusal.reason) == EXCEEDED
        assert refusal.metadata == {"quota": "max_streams", "limit": "2"}
        assert refusal.message == (
            "'two-streams' may have no more than 2 open streams at once; wait, or have max_streams raised in "
            "the rules"
        )
        closing.close()
        wait_for(lambda: _opens(callers, caller))


def _opens(callers: Callers, caller: Caller) -> bool:
    with calling(caller) as call:
        call.say(subscribe=pb.EventsRequest.Subscribe(stream="QUOTAS", consumer=consumer(callers)))
        wait_for(lambda: call.subscribed.qsize() or call._ended.is_set())
        return not call._ended.is_set()


def test_all_streams_count(callers: Callers) -> None:
    """Streams of every kind count; calls without streams do not, and others are not affected."""
    with two_open(callers) as (caller, closing):
        for name, request in STREAMS.items():
            assert invoke(caller, method_of(name), request).answer == EXCEEDED
        assert invoke(caller, PUBLISH, event()).answer == ALLOWED
        other = callers.with_token(token_of("all"))
        with ExitStack() as many:
            for _ in range(5):
                many.enter_context(subscribed(other, "QUOTAS", consumer=consumer(callers)))
        closing.close()
        name, request = REFLECTION
        wait_for(lambda: invoke(caller, method_of(name), request).answer == ALLOWED)


def event() -> pb.PublishEventRequest:
    """Make a request to publish."""
    return pb.PublishEventRequest(subject="quotas.x", data=any_of("x"))


def test_calls_per_second(callers: Callers) -> None:
    """A second's worth may come at once; what comes on top is refused until time has passed."""
    caller = callers.with_token(token_of("seldom"))
    first, second = (invoke(caller, PUBLISH, event()) for _ in range(2))
    assert first.answer == ALLOWED
    refusal = second.refusal
    assert refusal is not None
    assert second.answer == EXCEEDED
    assert refusal.metadata == {"quota": "max_rps", "limit": "0.001"}
    assert refusal.message == (
        "'seldom' may have no more than 0.001 calls per second; wait, or have max_rps raised in the rules"
    )
    other = invoke(callers.with_token(token_of("seldom", 2)), PUBLISH, event())
    assert other.answer == EXCEEDED  # another token of the same principal


def publish_stream(caller: Caller, requests: SimpleQueue[pb.PublishStreamRequest | None]) -> Any:
    """Begin a PublishStream."""
    call = caller.channel.stream_stream(
        "/windshift.events.v1alpha1.EventsService/PublishStream",
        request_serializer=pb.PublishStreamRequest.SerializeToString,
        response_deserializer=pb.PublishStreamResponse.FromString,
    )
    return call(iter(requests.get, None), timeout=LIMIT)


@pytest.mark.parametrize(("who", "without_ids"), [("twenty-events", False), ("twenty-others", True)])
def test_events_of_a_stream_of_publishes(callers: Callers, who: str, *, without_ids: bool) -> None:
    """Its events count, and are none refused: those that are too many wait until time has passed."""
    requests: SimpleQueue[pb.PublishStreamRequest | None] = SimpleQueue()
    begin = time.monotonic()
    call = publish_stream(callers.with_token(token_of(who)), requests)
    for _ in range(3):
        requests.put(pb.PublishStreamRequest(events=[event()] * 20, without_ids=without_ids))
        answered = 0
        while answered < 20:
            response = next(call)
            answered += response.count
            assert not response.errors
    assert time.monotonic() - begin > 1  # the call and 40 events come before the last 20, at 20 a second
    requests.put(None)
    assert list(call) == []


def test_a_batch_is_let_in_whole(callers: Callers) -> None:
    """Then no other call is, until as many as it has events have come in again."""
    caller = callers.with_token(token_of("large-batches"))
    response = publish(caller, *[event()] * 1000)
    assert (len(response.ids), len(response.errors)) == (1000, 0)
    get = method_of("StateService/Get"), state_pb.GetRequest(store="quotas", key="k")
    assert [invoke(caller, *ask).answer for ask in (get, (PUBLISH, event()))] == [EXCEEDED] * 2


def test_a_drain_while_events_wait(nats_server: NatsServer, tmp_path: Path) -> None:
    """A server that stops does not wait until a caller may publish on; what waited is not stored."""
    file = put(tmp_path / "auth.toml", POLICY)
    requests: SimpleQueue[pb.PublishStreamRequest | None] = SimpleQueue()
    with running_app(nats_server.url, WINDSHIFT_AUTH_FILE=str(file)) as address:
        caller = Caller(address, bearer(token_of("never")))
        call = publish_stream(caller, requests)
        call.initial_metadata()
        requests.put(pb.PublishStreamRequest(events=[event()]))
    with refused("UNAVAILABLE", "SHUTTING_DOWN"):
        next(call)
    requests.put(None)
    caller.channel.close()


def test_every_call_counts(callers: Callers) -> None:
    """Also one that is denied or malformed, and one with streams."""
    caller = callers.with_token(token_of("seldom-too"))
    bad = pb.GetConsumerRequest(stream="a b", id="c")
    assert invoke(caller, method_of("EventsService/GetConsumer"), bad).answer.code != EXCEEDED.code
    for name, request in (
        ("GetConsumer", bad),
        ("Publish", event()),
        ("PublishEvent", event()),
        ("Events", pb.EventsRequest()),
    ):
        assert invoke(caller, method_of(f"EventsService/{name}"), request).answer == EXCEEDED


def test_denied_calls_count(callers: Callers) -> None:
    """One that its caller may not make is refused as one too many, once there were enough."""
    caller = callers.with_token(token_of("stranger"))
    ask = method_of("EventsService/GetConsumer"), pb.GetConsumerRequest(stream="a", id="c")
    assert invoke(caller, *ask).answer.code == "PERMISSION_DENIED"
    assert invoke(caller, *ask).answer == EXCEEDED


def test_calls_are_let_in_again(callers: Callers) -> None:
    """After a burst calls go on at the rate that is allowed, and others are not affected meanwhile."""
    caller, other = (callers.with_token(token_of(name)) for name in ("three-calls", "all"))
    answers = [invoke(caller, PUBLISH, event()).answer for _ in range(10)]
    assert answers[:3] == [ALLOWED] * 3
    assert EXCEEDED in answers
    assert [invoke(other, PUBLISH, event()).answer for _ in range(50)] == [ALLOWED] * 50
    wait_for(lambda: invoke(caller, PUBLISH, event()).answer == ALLOWED)


def test_calls_at_once(callers: Callers) -> None:
    """Calls count by weight as long as they are under way; events are published all the same."""
    caller = callers.with_token(token_of("two-watches"))
    listing = method_of("DeadLettersService/List"), dead_letters_pb.ListRequest()
    callers.with_token(token_of("all")).ensure_store("quotas")
    with watching(caller, "QUOTAS"), ExitStack() as closing:
        closing.enter_context(watching(caller, "QUOTAS"))
        for method, request in (
            listing,
            (method_of("DeadLettersService/Watch"), dead_letters_pb.WatchRequest()),
            (method_of("StateService/Get"), state_pb.GetRequest(store="quotas", key="k")),
        ):
            refusal = invoke(caller, method, request).refusal
            assert refusal is not None
            assert (refusal.code, refusal.reason) == EXCEEDED
            assert refusal.metadata == {"quota": "calls", "limit": "32"}
        assert invoke(caller, PUBLISH, event()).answer == ALLOWED
        assert invoke(callers.with_token(token_of("all")), *listing).answer == ALLOWED
        closing.close()
        wait_for(lambda: invoke(caller, *listing).answer == ALLOWED)
