"""Publishing events as they come and without ids, by the broker's fast ingest where the stream allows it."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from queue import SimpleQueue

import grpc
import pytest

from tests.support.app import running_app
from tests.support.client import Client, refused, text_of
from tests.support.nats_server import NatsServer
from tests.wire.looking import ask
from tests.wire.management import ensure_stream
from tests.wire.test_publish_streams import an_event, start
from tests.wire.test_tracing import caller, of_caller, traced
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb

Unique = Callable[[], str]
Events = Iterable[pb.PublishEventRequest]


def requests_of(*requests: Events) -> Iterator[pb.PublishStreamRequest]:
    """Make the requests of a call without ids."""
    for number, events in enumerate(requests):
        yield pb.PublishStreamRequest(events=events, without_ids=number == 0)


def errors_of(responses: Iterable[pb.PublishStreamResponse], count: int) -> dict[int, str]:
    """Give the reasons of what was not published; every event has one result, in order, and none an id."""
    errors: dict[int, str] = {}
    answered = 0
    for response in responses:
        assert response.first == answered
        assert not response.ids
        assert not response.duplicates
        answered += response.count
        errors |= {error.index: error.reason for error in response.errors}
    assert answered == count
    assert list(errors) == sorted(errors)
    return errors


def publish(client: Client, *requests: Sequence[pb.PublishEventRequest]) -> dict[int, str]:
    """Publish with one call, some events in each request."""
    return errors_of(start(client, requests_of(*requests)), sum(map(len, requests)))


def stream(client: Client, unique: Unique, **options: object) -> str:
    """Make a stream that allows fast ingest."""
    return client.ensure_stream(unique(), **{"fast_ingest": True, **options})


def texts(client: Client, name: str) -> list[str]:
    """Read all that a stream has, in its order."""
    found: list[str] = []
    token = ""
    while True:
        page = ask(client, "ReadEvents", stream=name, limit=500, page_token=token)
        found += [text_of(each.event.data) for each in page.events]
        token = page.next_page_token
        if not token:
            return found


def numbered(name: str, count: int, first: int = 0, **fields: object) -> list[pb.PublishEventRequest]:
    """Make events whose texts are their numbers."""
    return [an_event(f"{name}.a", str(number), **fields) for number in range(first, first + count)]


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(("requests", "events"), [(1, 1), (200, 1), (10, 100), (2, 1000)])
def test_order(client: Client, unique: Unique, requests: int, events: int, *, fast: bool) -> None:
    """Events are stored in the order sent, whether the stream allows fast ingest or not."""
    name = stream(client, unique, fast_ingest=fast)
    sent = [numbered(name, events, events * place) for place in range(requests)]
    assert publish(client, *sent) == {}
    assert texts(client, name) == [str(number) for number in range(requests * events)]


def test_nothing(client: Client) -> None:
    """A call without events ends well."""
    assert publish(client) == {}
    assert publish(client, [], []) == {}


def test_the_first_request_says_it(client: Client, unique: Unique) -> None:
    """What later ones say changes nothing."""
    name = stream(client, unique)
    for first in (True, False):
        requests: SimpleQueue[pb.PublishStreamRequest | None] = SimpleQueue()
        call = start(client, iter(requests.get, None))
        for without_ids in (first, not first):
            requests.put(pb.PublishStreamRequest(events=numbered(name, 2), without_ids=without_ids))
            answered = 0
            while answered < 2:
                response = next(call)
                answered += response.count
                assert len(response.ids) == (0 if first else response.count)
        requests.put(None)
        assert list(call) == []
    assert len(texts(client, name)) == 8


def test_each_for_itself(client: Client, unique: Unique) -> None:
    """What cannot be published is told by its number in the call; the others are stored, in their order."""
    name = stream(client, unique, max_event_size=1000)
    plain = stream(client, unique, fast_ingest=False)
    sent = numbered(name, 50)
    sent[3].expected_last_id = 3
    sent[7].expected_last_id = 99
    sent[11].subject = "a..b"
    sent[23].data.value = bytes(2000)
    sent[31].data.type_url = "no name/"
    sent[40].idempotency_key = sent[41].idempotency_key = "known"
    wrong = {7: "WRONG_LAST_ID", 11: "INVALID_FIELD", 23: "EVENT_TOO_LARGE", 31: "INVALID_FIELD"}
    assert publish(client, sent) == wrong
    good = [str(number) for number in range(50) if number not in wrong and number != 41]
    assert texts(client, name) == good
    others = [an_event("nobody.takes.this"), *numbered(plain, 1), *numbered(name, 1)]
    assert publish(client, numbered(name, 1), others) == {1: "UNBOUND_SUBJECT"}
    assert texts(client, name) == [*good, "0", "0"]
    assert texts(client, plain) == ["0"]


def test_keys(client: Client, unique: Unique) -> None:
    """An event whose key was stored before is not stored again, and that is not told."""
    name = stream(client, unique)
    sent = numbered(name, 100)
    for event in sent:
        event.idempotency_key = text_of(event.data)
    for _ in range(2):
        assert publish(client, sent[:60], sent[30:]) == {}
    assert texts(client, name) == [str(number) for number in range(100)]


def test_full_stream(client: Client, unique: Unique) -> None:
    """What has no room is told one by one, and then the others may have some."""
    policy = {"max_events": 5, "discard_policy": "DISCARD_POLICY_NEW"}
    name = stream(client, unique, retention_policy=policy)
    assert publish(client, numbered(name, 300)) == dict.fromkeys(range(5, 300), "STREAM_FULL")
    assert publish(client, numbered(name, 20)) == dict.fromkeys(range(20), "STREAM_FULL")
    assert texts(client, name) == [str(number) for number in range(5)]


def test_several_streams(client: Client, unique: Unique) -> None:
    """Events of several streams keep their order in each."""
    names = [stream(client, unique), stream(client, unique), stream(client, unique, fast_ingest=False)]
    sent = [event for number in range(100) for name in names for event in numbered(name, 1, number)]
    assert publish(client, sent, *(numbered(name, 50, 100) for name in names)) == {}
    for name in names:
        assert texts(client, name) == [str(number) for number in range(150)]


def test_many_subjects(client: Client, unique: Unique) -> None:
    """A subject for each event makes no difference."""
    name = stream(client, unique)
    assert publish(client, [an_event(f"{name}.{number}", str(number)) for number in range(1000)]) == {}
    assert texts(client, name) == [str(number) for number in range(1000)]


def test_many_calls_at_once(own_nats_server: NatsServer, unique: Unique) -> None:
    """Calls share what may be under way, each keeps its order, and cancelled ones leave nothing behind."""
    with running_app(own_nats_server.url, NATS_PUBLISH_ASYNC_MAX_PENDING="5") as address:
        client = Client(address)
        name = stream(client, unique)
        for _ in range(10):
            call = start(client, requests_of(*itertools.repeat(numbered(name, 50), 1000)))
            next(call)
            call.cancel()
        other = stream(client, unique)
        sent = [[an_event(f"{other}.{who}", f"{who} {number}") for number in range(200)] for who in range(8)]
        cut = [[each[at : at + 20] for at in range(0, 200, 20)] for each in sent]
        calls = [start(client, requests_of(*each)) for each in cut]
        assert [errors_of(call, 200) for call in calls] == [{}] * 8
        stored = texts(client, other)
        for who in range(8):
            own = [text for text in stored if text.startswith(f"{who} ")]
            assert own == [f"{who} {number}" for number in range(200)]
        client.channel.close()


def test_a_drain(nats_server: NatsServer, client: Client, unique: Unique) -> None:
    """A server that stops ends calls with UNAVAILABLE; what it answered is stored, and nothing else is."""
    name = stream(client, unique)
    requests: SimpleQueue[pb.PublishStreamRequest | None] = SimpleQueue()
    with running_app(nats_server.url) as elsewhere:
        drained = Client(elsewhere)
        call = start(drained, iter(requests.get, None))
        requests.put(pb.PublishStreamRequest(events=numbered(name, 300), without_ids=True))
        answered = 0
        while answered < 300:
            answered += next(call).count
    with refused("UNAVAILABLE", "SHUTTING_DOWN"):
        next(call)
    requests.put(None)
    drained.channel.close()
    assert texts(client, name) == [str(number) for number in range(300)]


@pytest.mark.parametrize("keyed", [False, True])
def test_the_broker_is_killed(own_nats_server: NatsServer, *, keyed: bool) -> None:
    """What is told as stored is stored, whenever it dies; with keys all is, and once."""
    with running_app(own_nats_server.url) as address:
        client = Client(address)
        name = "S"
        ensure_stream(client, name, fast_ingest=True)
        sent = numbered(name, 6000)
        if keyed:
            for event in sent:
                event.idempotency_key = text_of(event.data)
        call = start(client, requests_of(*(sent[at : at + 20] for at in range(0, 6000, 20))))
        responses = [next(call)]
        own_nats_server.kill()
        own_nats_server.start()
        responses += call
        errors = errors_of(responses, 6000)
        stored = Counter(texts(client, name))
        client.channel.close()
    told = {str(number) for number in range(6000) if number not in errors}
    assert told <= stored.keys()
    assert max(stored.values()) == 1
    assert set(errors.values()) <= (set[str]() if keyed else {"OUTCOME_UNKNOWN", "BROKER_UNAVAILABLE"})
    in_doubt = {str(number) for number, reason in errors.items() if reason == "OUTCOME_UNKNOWN"}
    assert stored.keys() <= told | in_doubt


@pytest.mark.parametrize("without_ids", [False, True])
def test_many_are_in_doubt(own_nats_server: NatsServer, *, without_ids: bool) -> None:
    """Events with keys that were not answered are sent again together: all have their time."""
    with running_app(own_nats_server.url) as address:
        client = Client(address)
        ensure_stream(client, "S", fast_ingest=True)
        sent = numbered("S", 1000)
        for event in sent:
            event.idempotency_key = text_of(event.data)
        publish(client, sent[:1])
        own_nats_server.freeze()
        call = start(client, iter([pb.PublishStreamRequest(events=sent, without_ids=without_ids)]))
        time.sleep(0.5)  # nothing tells that they were sent
        own_nats_server.kill()
        own_nats_server.start()
        assert [error.reason for response in call for error in response.errors] == []
        assert texts(client, "S") == [str(number) for number in range(1000)]
        client.channel.close()


def test_the_broker_does_not_answer(own_client: Client, own_nats_server: NatsServer, unique: Unique) -> None:
    """At the call's deadline it ends like any other; what was under way may be stored, once."""
    name = stream(own_client, unique)
    publish(own_client, numbered(name, 10))
    own_nats_server.freeze()
    call = start(own_client, requests_of(numbered(name, 100, 10)), timeout=3)
    responses: list[pb.PublishStreamResponse] = []
    with suppress(grpc.RpcError):  # on a busy machine the deadline comes before the results
        responses.extend(call)
    own_nats_server.thaw()
    errors = [error.reason for response in responses for error in response.errors]
    assert len(errors) == sum(response.count for response in responses)
    assert set(errors) <= {"OUTCOME_UNKNOWN", "BROKER_UNAVAILABLE"}
    publish(own_client, numbered(name, 10, 110))
    stored = texts(own_client, name)
    assert stored[:10] + stored[-10:] == [str(number) for number in (*range(10), *range(110, 120))]
    assert max(Counter(stored).values()) == 1


# --- The setting ------------------------------------------------------------------------------------------


def allows(client: Client, name: str) -> bool:
    """Tell whether a stream allows fast ingest, as an operator sees it."""
    return bool(ask(client, "GetStream", name=name).stream.spec.fast_ingest)


def test_setting(client: Client, unique: Unique) -> None:
    """A new stream is without it; what is left out stays."""
    name = client.ensure_stream(unique())
    assert not allows(client, name)
    client.ensure_stream(name, fast_ingest=True)
    client.ensure_stream(name)
    assert allows(client, name)
    client.ensure_stream(name, fast_ingest=False)
    assert not allows(client, name)
    assert publish(client, numbered(name, 100)) == {}


def test_streams_that_copy(client: Client, unique: Unique) -> None:
    """Nobody publishes to mirrors and aggregates."""
    origin = stream(client, unique)
    for source in ({"mirror": {"name": origin}}, {"aggregate": {"sources": [{"name": origin}]}}):
        with refused("INVALID_ARGUMENT", "UNSUPPORTED_COMBINATION") as caught:
            ensure_stream(client, unique(), fast_ingest=True, **source)
        assert "fast_ingest" in caught[0].message


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes, with an older version in the server's words, and the end."""
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data.replace(b'"version":"2.15.', b'"version":"2.13.'))
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def test_an_older_broker(nats_server: NatsServer, unique: Unique) -> None:
    """It cannot be had with it, which is told; events are stored one by one."""
    relays: set[asyncio.Task[object] | None] = set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relays.add(asyncio.current_task())
        behind, ahead = await asyncio.open_connection("127.0.0.1", nats_server.port)
        await asyncio.gather(_pump(reader, ahead), _pump(behind, writer))

    def use(port: int) -> None:
        with running_app(f"nats://127.0.0.1:{port}") as address:
            client = Client(address)
            with refused("FAILED_PRECONDITION", "NOT_SUPPORTED_BY_BROKER") as caught:
                stream(client, unique)
            assert "nats-server 2.14" in caught[0].message
            name = client.ensure_stream(unique(), fast_ingest=False)
            assert publish(client, numbered(name, 100)) == {}
            assert texts(client, name) == [str(number) for number in range(100)]
            client.channel.close()

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as server:
        await asyncio.to_thread(use, server.sockets[0].getsockname()[1])
        await asyncio.gather(*filter(None, relays))


def test_traces(nats_server: NatsServer, unique: Unique) -> None:
    """Each event of a recorded trace has its span, with the stream, and without an id that nobody knows."""
    with traced(nats_server) as (client, collector):
        name = stream(client, unique)
        call = start(client, requests_of(numbered(name, 3)), metadata=caller())
        assert errors_of(call, 3) == {}
    spans = [span for span in of_caller(collector) if span.name.startswith("send")]
    assert [span.name for span in spans] == [f"send {name}"] * 3
    assert not any("messaging.message.id" in span.attributes for span in spans)
