"""Reading events without a consumer, as a client sees it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from tests.support.broker import connect, in_seconds
from tests.support.client import Client, any_of, read_refusal, refused, text_of
from tests.support.nats_server import NatsServer
from tests.wire.looking import ask, read_all, tail, until_caught_up
from tests.wire.management import ensure_stream

Unique = Callable[[], str]
EVENTS = 40


@pytest.fixture
def stream(client: Client, unique: Unique) -> str:
    """Make a stream of 40 events: every tenth on `rare`, every second of another type."""
    name = client.ensure_stream(unique())
    for number in range(1, EVENTS + 1):
        data = any_of(str(number)) if number % 2 else AnyMessage(type_url="x/acme.v1.Other")
        kind = "plain" if number % 10 else "rare"
        client.publish(f"{name}.{kind}.{number % 3}", data=data)
    return name


@pytest.fixture(params=["direct", "leader"])
def readable(request: pytest.FixtureRequest, nats_server: NatsServer, stream: str) -> str:
    """Give the stream as it is made here, and as other programs make one, without direct gets."""
    if request.param == "leader":
        switch_direct_gets_off(nats_server, stream)
    return stream


def switch_direct_gets_off(nats_server: NatsServer, stream: str) -> None:
    """Have a stream as a program makes it that knows nothing of direct gets."""

    async def switch() -> None:
        async with connect(nats_server.url) as broker:
            config = (await broker.api.stream_info(stream, in_seconds(30)))["config"]
            await broker.api.update_stream(config | {"allow_direct": False}, in_seconds(30))

    asyncio.run(switch())


# --- One event --------------------------------------------------------------------------------------------


def test_by_id(client: Client, stream: str) -> None:
    """An event is read by its id, whole, as it was published and with the time at which it was stored."""
    stored = ask(client, "GetEvent", stream=stream, id=7).event
    assert stored.event.id == 7
    assert stored.event.subject == f"{stream}.plain.1"
    assert text_of(stored.event.data) == "7"
    assert stored.event.delivery_attempt == 0
    assert stored.data_size == len(stored.event.data.value)
    assert stored.stored.ToNanoseconds() >= stored.event.headers.timestamp.ToNanoseconds()


def test_next_on_a_subject(client: Client, stream: str) -> None:
    """With a subject the first event from the id on counts that matches it."""
    found = ask(client, "GetEvent", stream=stream, id=7, subject=f"{stream}.rare.>")
    assert found.event.event.id == 10


def test_by_time(client: Client, stream: str) -> None:
    """A time means the first event that was stored then or later."""
    time = ask(client, "GetEvent", stream=stream, id=12).event.stored.ToJsonString()
    assert ask(client, "GetEvent", stream=stream, time=time).event.event.id == 12


def test_last_of_a_subject(client: Client, stream: str) -> None:
    """The newest event on a subject, right after it was published."""
    newest = client.publish(f"{stream}.rare.9")
    found = ask(client, "GetEvent", stream=stream, last_of_subject=f"{stream}.rare.9")
    assert found.event.event.id == newest


def test_no_such_event(client: Client, stream: str) -> None:
    """An id that the stream does not hold, a time after its last event, a subject without events."""
    for which in (
        {"id": 1000},
        {"time": "2100-01-01T00:00:00Z"},
        {"last_of_subject": f"{stream}.none"},
        {"id": 1, "subject": f"{stream}.none"},
    ):
        with refused("NOT_FOUND", "EVENT_NOT_FOUND"):
            ask(client, "GetEvent", stream=stream, **which)


def test_no_such_stream(client: Client, unique: Unique) -> None:
    """Every method names the stream that is not there."""
    missing = unique()
    for method, fields in (
        ("GetEvent", {"id": 1}),
        ("ReadEvents", {}),
        ("ReadEvents", {"backwards": True}),
        ("DeleteEvent", {"id": 1}),
        ("ListSubjects", {}),
        ("PurgeStream", {}),
        ("PurgeStream", {"dry_run": True}),
        ("PurgeStream", {"up_to_id": 0}),
        ("ListConsumers", {}),
    ):
        with refused("NOT_FOUND", "STREAM_NOT_FOUND") as caught:
            ask(client, method, stream=missing, **fields)
        assert caught[0].metadata == {"name": missing}


def test_malformed_requests(client: Client, stream: str) -> None:
    """Each field says what is wrong with it."""
    for method, field, fields in (
        ("GetEvent", "event", {}),
        ("GetEvent", "id", {"id": 0}),
        ("GetEvent", "last_of_subject", {"last_of_subject": "a.*"}),
        ("GetEvent", "subject", {"last_of_subject": "a.b", "subject": "a.b"}),
        ("ReadEvents", "subjects[0]", {"subjects": ["a..b"]}),
        ("ReadEvents", "subjects", {"subjects": ["a"] * 17}),
        ("ReadEvents", "types[0]", {"types": ["x/acme.v1.Order"]}),
        ("ReadEvents", "limit", {"limit": 501}),
        ("ReadEvents", "page_token", {"page_token": "AAAA"}),
        ("ReadEvents", "page_token", {"page_token": "ö"}),
        ("DeleteEvent", "id", {}),
        ("ListSubjects", "filter", {"filter": "$JS.>"}),
        ("ListSubjects", "page_size", {"page_size": 1001}),
        ("PurgeStream", "subject", {"subject": "a b"}),
    ):
        with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
            ask(client, method, stream=stream, **fields)
        assert caught[0].fields == (field,), (method, fields)


# --- Pages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 7, 500])
def test_forwards_and_backwards(client: Client, readable: str, limit: int) -> None:
    """Page by page every event comes once, in the order that was asked for."""
    everything = list(range(1, EVENTS + 1))
    assert read_all(client, readable, limit=limit) == everything
    assert read_all(client, readable, limit=limit, backwards=True) == everything[::-1]


def test_filters(client: Client, readable: str) -> None:
    """Subjects and types choose, also together, several of each, in both directions."""
    rare = [10, 20, 30, 40]
    assert read_all(client, readable, subjects=[f"{readable}.rare.>"], limit=3) == rare
    assert read_all(client, readable, subjects=[f"{readable}.rare.>"], backwards=True) == rare[::-1]
    some = [f"{readable}.rare.>", f"{readable}.*.1"]  # they overlap
    wanted = sorted({*rare, *(number for number in range(1, EVENTS + 1) if number % 3 == 1)})
    assert read_all(client, readable, subjects=some, limit=3) == wanted
    assert read_all(client, readable, subjects=some, limit=3, backwards=True) == wanted[::-1]
    even = list(range(2, EVENTS + 1, 2))
    assert read_all(client, readable, types=["acme.v1.Other"], limit=3) == even
    assert read_all(client, readable, types=["acme.v1.Other"], limit=3, backwards=True) == even[::-1]
    assert read_all(client, readable, types=["acme.v1.None"]) == []


def test_where_to_begin(client: Client, stream: str) -> None:
    """An id, a time, the start and the end, in both directions; the event there is the first."""
    time = ask(client, "GetEvent", stream=stream, id=12).event.stored.ToJsonString()
    everything = list(range(1, EVENTS + 1))
    for begin, forwards, backwards in (
        ({"offset": "12"}, everything[11:], everything[11::-1]),
        ({"time": time}, everything[11:], everything[11::-1]),
        ({"start": True}, everything, [1]),
        ({"end": True}, [], everything[::-1]),
        ({"offset": "1000"}, [], everything[::-1]),
        ({"time": "2100-01-01T00:00:00Z"}, [], everything[::-1]),
    ):
        assert read_all(client, stream, **{"from": begin}) == forwards, begin
        assert read_all(client, stream, **{"from": begin}, backwards=True) == backwards, begin


def test_holes(client: Client, stream: str) -> None:
    """Events that were deleted or purged are passed over, in both directions."""
    for number in (3, 17, 40):
        ask(client, "DeleteEvent", stream=stream, id=number)
    ask(client, "PurgeStream", stream=stream, up_to_id=5)
    left = [number for number in range(6, 40) if number != 17]
    assert read_all(client, stream, limit=5) == left
    assert read_all(client, stream, limit=5, backwards=True) == left[::-1]
    with refused("NOT_FOUND", "EVENT_NOT_FOUND"):
        ask(client, "DeleteEvent", stream=stream, id=17)


def test_a_mirror_of_a_part(client: Client, stream: str, unique: Unique) -> None:
    """A mirror that holds less than its origin is read as what it is, and answers for nothing else."""
    mirror = unique()
    ensure_stream(client, mirror, mirror={"name": stream, "filterSubjects": [f"{stream}.rare.>"]})
    while read_all(client, mirror) != [10, 20, 30, 40]:  # it is filled in its own time
        time.sleep(0.01)
    for _ in range(10):
        assert read_all(client, stream) == list(range(1, EVENTS + 1))


@pytest.mark.parametrize("backwards", [False, True])
def test_what_others_change_meanwhile(
    client: Client, nats_server: NatsServer, stream: str, unique: Unique, *, backwards: bool
) -> None:
    """A look is some seconds old: streams made, changed or deleted behind it are read as they are."""
    everything = list(range(1, EVENTS + 1))[:: -1 if backwards else 1]
    assert read_all(client, stream, backwards=backwards) == everything
    switch_direct_gets_off(nats_server, stream)
    assert read_all(client, stream, backwards=backwards) == everything
    new = unique()

    async def make_and_delete() -> None:
        async with connect(nats_server.url) as broker:
            await broker.stream(new, allow_direct=True)
            await broker.api.change(f"STREAM.DELETE.{stream}", None, in_seconds(30))

    asyncio.run(make_and_delete())
    assert read_all(client, new, backwards=backwards) == []
    with refused("NOT_FOUND", "STREAM_NOT_FOUND"):
        read_all(client, stream, backwards=backwards)


def test_an_empty_stream(client: Client, unique: Unique) -> None:
    """There is nothing to read, and that is no error."""
    empty = client.ensure_stream(unique())
    for backwards in (False, True):
        page = ask(client, "ReadEvents", stream=empty, backwards=backwards)
        assert (list(page.events), page.scanned_to, page.next_page_token) == ([], 0, "")


def test_without_data(client: Client, stream: str) -> None:
    """Data is left out, or cut off; its size is told all the same."""
    whole = ask(client, "ReadEvents", stream=stream, limit=1).events[0]
    without = ask(client, "ReadEvents", stream=stream, limit=1, without_data=True).events[0]
    cut = ask(client, "ReadEvents", stream=stream, limit=1, data_limit=1).events[0]
    assert whole.data_size == without.data_size == cut.data_size == len(whole.event.data.value)
    assert without.event.data.value == b""
    assert cut.event.data.value == whole.event.data.value[:1]
    assert without.event.data.type_url == whole.event.data.type_url


def test_a_page_ends_at_its_size(client: Client, unique: Unique) -> None:
    """Large events fill a page before their number does, and none is lost or comes twice."""
    stream = client.ensure_stream(unique())
    for _ in range(12):
        client.publish(f"{stream}.a", "x" * 300_000)
    page = ask(client, "ReadEvents", stream=stream, limit=500)
    assert 1 <= len(page.events) < 12
    assert read_all(client, stream, limit=500) == list(range(1, 13))
    assert read_all(client, stream, limit=500, backwards=True) == list(range(12, 0, -1))


def test_a_token_of_another_request(client: Client, stream: str) -> None:
    """A token goes with the request that it was given for."""
    token = ask(client, "ReadEvents", stream=stream, limit=3).next_page_token
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        ask(client, "ReadEvents", stream=stream, backwards=True, page_token=token)
    assert caught[0].fields == ("page_token",)


# --- Tails ------------------------------------------------------------------------------------------------


def test_a_tail_from_the_start(client: Client, stream: str) -> None:
    """What is stored comes first, then word of that, then what is published."""
    responses = tail(client, stream, begin={"start": True})
    assert until_caught_up(responses) == list(range(1, EVENTS + 1))
    newest = client.publish(f"{stream}.plain.0", "news")
    event = next(responses).event
    assert (event.event.id, text_of(event.event.data)) == (newest, "news")


def test_a_tail_of_what_is_new(client: Client, stream: str) -> None:
    """Once the headers are there nothing is missed; what was there before does not come."""
    responses = tail(client, stream)
    assert until_caught_up(responses) == []
    published = [client.publish(f"{stream}.plain.0") for _ in range(5)]
    assert [next(responses).event.event.id for _ in published] == published


def test_a_tail_of_what_comes_fast(client: Client, stream: str) -> None:
    """Events that are sent together keep their order, small and large ones, and each comes once."""
    responses = tail(client, stream)
    until_caught_up(responses)
    texts = [str(number) * (1, 3_000)[number % 10 == 0] for number in range(100)]
    published = [client.publish(f"{stream}.plain.0", text) for text in texts]
    events = [next(responses).event.event for _ in published]
    assert [event.id for event in events] == published
    assert [text_of(event.data) for event in events] == texts


def test_tails_of_one_stream_side_by_side(client: Client, stream: str) -> None:
    """Each shows the same events in the way that it was asked to."""
    whole, bare = tail(client, stream), tail(client, stream, without_data=True)
    for responses in (whole, bare):
        until_caught_up(responses)
    for number in range(10):
        client.publish(f"{stream}.plain.0", str(number))
        seen, unseen = next(whole).event, next(bare).event
        assert text_of(seen.event.data) == str(number)
        assert unseen.event.data.value == b""
        seen.event.data.value = b""
        assert seen == unseen


def test_a_tail_of_a_stream_made_anew(client: Client, unique: Unique) -> None:
    """An id may be given again by a stream of the same name: each tail shows the event that is there."""
    name = unique()
    for text in ("first", "second"):
        client.ensure_stream(name)
        client.publish(f"{name}.a", text)
        event = next(tail(client, name, begin={"start": True})).event.event
        assert (event.id, text_of(event.data)) == (1, text)
        ask(client, "DeleteStream", name=name)


def test_a_tail_with_filters(client: Client, stream: str) -> None:
    """Subjects and types choose; where types let nothing through, the tail tells how far it has come."""
    rare = tail(client, stream, subjects=[f"{stream}.rare.>"], begin={"start": True})
    assert until_caught_up(rare) == [10, 20, 30, 40]
    none = tail(client, stream, types=["acme.v1.None"], begin={"start": True})
    assert until_caught_up(none) == []
    assert next(none).position == EVENTS


def test_a_tail_that_is_too_fast(client: Client, stream: str) -> None:
    """Beyond its rate events are skipped, and counted."""
    sent = skipped = 0
    for response in tail(client, stream, max_rate=5, begin={"start": True}):
        sent += response.HasField("event")
        skipped += response.skipped.events
        if response.caught_up:
            break
    assert skipped > 0
    assert sent + skipped == EVENTS


def test_a_tail_ends_with_its_stream(client: Client, stream: str) -> None:
    """When the stream is deleted the tail ends with NOT_FOUND; of none it never begins."""
    responses = tail(client, stream)
    until_caught_up(responses)
    ask(client, "DeleteStream", name=stream)
    with pytest.raises(grpc.RpcError) as caught:
        list(responses)
    assert read_refusal(caught.value).reason == "STREAM_NOT_FOUND"
    with pytest.raises(grpc.RpcError) as caught:
        list(tail(client, stream))
    assert read_refusal(caught.value).reason == "STREAM_NOT_FOUND"


def test_a_tail_through_a_restart_of_the_broker(own_client: Client, own_nats_server: NatsServer) -> None:
    """A tail outlives the broker: nothing is missed, and nothing comes twice."""
    ensure_stream(own_client, "S")
    responses = tail(own_client, "S", timeout=60)
    until_caught_up(responses)
    for _ in range(3):
        published = [own_client.publish("S.a", timeout=20) for _ in range(3)]
        assert [next(responses).event.event.id for _ in published] == published
        own_nats_server.stop()
        own_nats_server.start()
