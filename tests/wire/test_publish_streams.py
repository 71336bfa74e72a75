"""Publishing events as they come, as a client in the field sees it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import Any

import grpc
import pytest

from tests.support.app import running_app
from tests.support.client import Client, any_of, refused
from tests.support.nats_server import NatsServer
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb

Unique = Callable[[], str]
PATH = "/windshift.events.v1alpha1.EventsService/PublishStream"


def an_event(subject: str, text: str = "text", **fields: Any) -> pb.PublishEventRequest:
    """Make an event."""
    return pb.PublishEventRequest(subject=subject, **{"data": any_of(text), **fields})


def start(
    client: Client, requests: Iterator[pb.PublishStreamRequest], timeout: float = 60, **options: Any
) -> Any:
    """Begin a call."""
    call = client.channel.stream_stream(
        PATH,
        request_serializer=pb.PublishStreamRequest.SerializeToString,
        response_deserializer=pb.PublishStreamResponse.FromString,
    )
    return call(requests, timeout=timeout, **options)


def publish(client: Client, *requests: Iterable[pb.PublishEventRequest]) -> list[pb.PublishStreamResponse]:
    """Publish with one call, some events in each request; every event has one result, in order."""
    responses = list(start(client, (pb.PublishStreamRequest(events=events) for events in requests)))
    answered = 0
    for response in responses:
        assert response.first == answered
        assert response.count == len(response.ids)
        answered += response.count
    assert answered == sum(len(list(events)) for events in requests)
    return responses


def ids_of(responses: Iterable[pb.PublishStreamResponse]) -> list[int]:
    """Give all ids."""
    return [each for response in responses for each in response.ids]


@pytest.mark.parametrize(("requests", "events"), [(1, 1), (300, 1), (20, 100), (3, 1000)])
def test_order(client: Client, unique: Unique, requests: int, events: int) -> None:
    """Events are stored in the order sent, however they are spread over requests."""
    name = client.ensure_stream(unique())
    sent = [[an_event(f"{name}.a")] * events for _ in range(requests)]
    assert ids_of(publish(client, *sent)) == list(range(1, requests * events + 1))


def test_nothing(client: Client) -> None:
    """A call without events ends well, and so does one with requests that have none."""
    assert publish(client) == []
    assert publish(client, [], []) == []


def test_each_for_itself(client: Client, unique: Unique) -> None:
    """What cannot be published is told by its number in the call, and the call goes on."""
    name = client.ensure_stream(unique())
    responses = publish(
        client,
        [an_event(f"{name}.a", idempotency_key="known"), an_event("a..b")],
        [an_event("nobody.takes.this"), an_event(f"{name}.a", expected_last_id=7)],
        [an_event(f"{name}.a", idempotency_key="known"), an_event(f"{name}.a", expected_last_id=1)],
    )
    assert ids_of(responses) == [1, 0, 0, 0, 1, 2]
    assert [each for response in responses for each in response.duplicates] == [4]
    errors = [(error.index, error.code, error.reason) for each in responses for error in each.errors]
    assert errors == [(1, 3, "INVALID_FIELD"), (2, 9, "UNBOUND_SUBJECT"), (3, 10, "WRONG_LAST_ID")]


def test_too_many_events_in_a_request(client: Client, unique: Unique) -> None:
    """A request with too many events ends the call, when those before it have their results."""
    name = client.ensure_stream(unique())
    sent = [[an_event(f"{name}.a")], [an_event(f"{name}.a")] * 1001]
    call = start(client, (pb.PublishStreamRequest(events=events) for events in sent))
    responses = []
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        responses.extend(call)
    assert caught[0].fields == ("events",)
    assert client.publish(f"{name}.a") == 2


def test_headers_come_at_once(client: Client) -> None:
    """The client hears that its call was taken up before it has sent anything."""
    requests: SimpleQueue[pb.PublishStreamRequest | None] = SimpleQueue()
    call = start(client, iter(requests.get, None))
    assert call.initial_metadata() is not None
    requests.put(None)
    assert list(call) == []


def test_results_come_while_the_call_is_open(client: Client, unique: Unique) -> None:
    """A result does not wait for later events."""
    name = client.ensure_stream(unique())
    requests: SimpleQueue[pb.PublishStreamRequest | None] = SimpleQueue()
    call = start(client, iter(requests.get, None))
    for number in range(1, 4):
        requests.put(pb.PublishStreamRequest(events=[an_event(f"{name}.a")]))
        assert list(next(call).ids) == [number]
    requests.put(None)
    assert list(call) == []


def test_cancelled_calls_leave_nothing_behind(own_nats_server: NatsServer, unique: Unique) -> None:
    """Calls that are cancelled in the middle give back what they had of the publishes under way."""
    with running_app(own_nats_server.url, NATS_PUBLISH_ASYNC_MAX_PENDING="8") as address:
        client = Client(address)
        name = client.ensure_stream(unique())
        for _ in range(20):
            endless = itertools.repeat(pb.PublishStreamRequest(events=[an_event(f"{name}.a")] * 50))
            call = start(client, endless)
            next(call)
            call.cancel()
        assert len(ids_of(publish(client, [an_event(f"{name}.a")] * 100))) == 100
        client.channel.close()


def test_many_calls_at_once(own_nats_server: NatsServer, unique: Unique) -> None:
    """Calls share what may be under way, and each keeps its order."""
    with running_app(own_nats_server.url, NATS_PUBLISH_ASYNC_MAX_PENDING="5") as address:
        client = Client(address)
        name = client.ensure_stream(unique())
        sent = [pb.PublishStreamRequest(events=[an_event(f"{name}.a")] * 20) for _ in range(10)]
        calls = [start(client, iter(sent)) for _ in range(8)]
        found = [ids_of(call) for call in calls]
        assert all(ids == sorted(ids) for ids in found)
        assert sorted(each for ids in found for each in ids) == list(range(1, 8 * 200 + 1))
        client.channel.close()


def test_a_drain(nats_server: NatsServer, client: Client, unique: Unique) -> None:
    """A server that stops ends calls with UNAVAILABLE; what it answered is stored, and nothing else is."""
    name = client.ensure_stream(unique())
    requests: SimpleQueue[pb.PublishStreamRequest | None] = SimpleQueue()
    with running_app(nats_server.url) as elsewhere:
        drained = Client(elsewhere)
        call = start(drained, iter(requests.get, None))
        requests.put(pb.PublishStreamRequest(events=[an_event(f"{name}.a")] * 3))
        answered: list[int] = []
        while len(answered) < 3:
            answered += next(call).ids
    with refused("UNAVAILABLE", "SHUTTING_DOWN"):
        next(call)
    requests.put(None)
    drained.channel.close()
    assert answered == [1, 2, 3]
    assert client.publish(f"{name}.a") == 4


def test_calls_that_last_longer_than_others_may(
    client: Client, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longest deadline of other calls ends none that publishes as long as its client likes."""
    name = client.ensure_stream(unique())
    monkeypatch.setattr("windshift.server.api.deadlines.LONGEST", 0.5)
    requests: SimpleQueue[pb.PublishStreamRequest | None] = SimpleQueue()
    call = start(client, iter(requests.get, None))
    for number in range(1, 3):
        requests.put(pb.PublishStreamRequest(events=[an_event(f"{name}.a")]))
        response = next(call)
        assert (list(response.ids), list(response.errors)) == ([number], [])
        time.sleep(0.6)
    requests.put(None)
    assert list(call) == []


def test_deadline(client: Client, unique: Unique) -> None:
    """A call ends at its deadline like any other."""
    requests: SimpleQueue[pb.PublishStreamRequest | None] = SimpleQueue()
    call = start(client, iter(requests.get, None), timeout=0.5)
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    requests.put(None)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
