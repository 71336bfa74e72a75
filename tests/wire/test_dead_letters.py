"""Dead letters at the wire: listing, getting and purging them, and what is refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from tests.support.broker import connect
from tests.support.client import Client, any_of, refused, refused_in_time, text_of
from tests.support.nats_server import NatsServer
from tests.wire.burying import ask, bury, listed
from tests.wire.consuming import ensure_consumer
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as pb
from windshift.server.events.dead_letters.model import Cause

Unique = Callable[[], str]

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TYPE = "windshift.test.v1.StringValue"


@pytest.fixture
def stream(client: Client, unique: Unique) -> str:
    """Make a stream with a consumer ``c``."""
    name = client.ensure_stream(unique())
    ensure_consumer(client, name)
    return name


def publish(client: Client, stream: str, count: int) -> list[int]:
    """Publish events; give their ids."""
    return [client.publish(f"{stream}.x", f"{number}") for number in range(count)]


def ids_of(letters: list[pb.DeadLetter]) -> list[int]:
    """Give the ids of the events."""
    return [letter.event.id for letter in letters]


def at(seconds: float) -> Timestamp:
    """Make a time."""
    return Timestamp(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))


# What an entry holds


def test_everything_that_an_entry_holds(client: Client, nats_server: NatsServer, stream: str) -> None:
    """The event whole, where it came from, and what happened to it."""
    before = time.time()
    client.publish(
        f"{stream}.a.b",
        "héllo",
        timestamp=Timestamp(seconds=1_700_000_000, nanos=1),
        idempotency_key="key",
        metadata=(("traceparent", PARENT), ("tracestate", "a=1")),
    )
    (name,) = bury(
        nats_server,
        stream,
        1,
        attempts=5,
        cause=Cause.REJECTED,
        reason="kein Lager\nmehr: ß",
        error_type="shop.OutOfStock",
        replay_count=2,
    )
    letter = ask(client, "Get", pb.GetRequest(id=name)).dead_letter
    assert listed(client, stream) == [letter]
    assert (letter.id, letter.stream, letter.consumer) == (name, stream, "c")
    assert (letter.attempts, letter.cause, letter.replay_count) == (5, pb.CAUSE_REJECTED, 2)
    assert (letter.reason, letter.error_type) == ("kein Lager\nmehr: ß", "shop.OutOfStock")
    assert letter.first_delivery == Timestamp(seconds=1_700_000_000, nanos=1)
    assert letter.last_delivery == Timestamp(seconds=1_700_000_001, nanos=2)
    assert before - 1 <= letter.time.seconds <= time.time() + 1
    assert not letter.replaying
    event = letter.event
    assert (event.id, event.subject, event.delivery_attempt) == (1, f"{stream}.a.b", 5)
    assert text_of(event.data) == "héllo"
    assert event.data.type_url == f"type.googleapis.com/{TYPE}"
    assert letter.data_size == len(event.data.value)
    headers = event.headers
    assert headers.timestamp == Timestamp(seconds=1_700_000_000, nanos=1)
    assert (headers.idempotency_key, headers.trace_parent, headers.trace_state) == ("key", PARENT, "a=1")
    assert not letter.other_headers


def test_what_the_server_does_not_know(client: Client, nats_server: NatsServer, stream: str) -> None:
    """Times of deliveries that another server made are absent."""
    publish(client, stream, 1)
    bury(nats_server, stream, 1, first_delivery_ns=0, last_delivery_ns=0)
    (letter,) = listed(client, stream)
    assert not letter.HasField("first_delivery")
    assert not letter.HasField("last_delivery")
    assert letter.HasField("time")


def test_events_of_other_programs(client: Client, nats_server: NatsServer, stream: str) -> None:
    """Their own headers are kept, those that control NATS are not, and there need be no type nor data."""
    headers = {"Some-Header": "its value", "Nats-Expected-Stream": stream}
    asyncio.run(publish_foreign(nats_server, f"{stream}.x", headers))
    bury(nats_server, stream, 1)
    (letter,) = listed(client, stream)
    assert dict(letter.other_headers) == {"Some-Header": "its value"}
    assert letter.event.data.type_url == "type.googleapis.com/"
    assert (letter.event.data.value, letter.data_size) == (b"", 0)


async def publish_foreign(nats_server: NatsServer, subject: str, headers: dict[str, str]) -> None:
    """Publish as a program does that knows nothing of Windshift."""
    async with connect(nats_server.url) as broker:
        await broker.publish(subject, b"", headers)


def test_without_data(client: Client, nats_server: NatsServer, stream: str) -> None:
    """The data may be left out; its size and type are told all the same."""
    client.publish(f"{stream}.x", "y" * 1000)
    bury(nats_server, stream, 1)
    request = pb.ListRequest(filter=pb.Filter(stream=stream), without_data=True)
    (letter,) = ask(client, "List", request).dead_letters
    assert letter.event.data.value == b""
    assert letter.event.data.type_url == f"type.googleapis.com/{TYPE}"
    assert letter.data_size > 1000


# Pages


def test_pages(client: Client, nats_server: NatsServer, stream: str) -> None:
    """They come in the order in which the entries were written, and each entry is on one."""
    publish(client, stream, 5)
    bury(nats_server, stream, 3, 1, 5, 2, 4)
    request = pb.ListRequest(filter=pb.Filter(stream=stream), page_size=2)
    seen: list[int] = []
    while True:
        page = ask(client, "List", request)
        assert len(page.dead_letters) <= 2
        seen += ids_of(page.dead_letters)
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert seen == [3, 1, 5, 2, 4]


def test_pages_end_at_their_size_in_bytes(client: Client, nats_server: NatsServer, stream: str) -> None:
    """Large entries make short pages, and all of them come."""
    for _ in range(5):
        client.publish(f"{stream}.x", "y" * 500_000)
    bury(nats_server, stream, 1, 2, 3, 4, 5)
    request = pb.ListRequest(filter=pb.Filter(stream=stream))
    page = ask(client, "List", request)
    assert page.next_page_token
    assert page.ByteSize() < 2_000_000
    assert ids_of(listed(client, stream)) == [1, 2, 3, 4, 5]


def test_the_default_page(own_client: Client, own_nats_server: NatsServer) -> None:
    """It has 50 entries; without a filter there are those of all streams."""
    streams = [own_client.ensure_stream(name) for name in ("one", "two")]
    for stream in streams:
        bury(own_nats_server, stream, *publish(own_client, stream, 30))
    page = ask(own_client, "List", pb.ListRequest())
    assert len(page.dead_letters) == 50
    rest = ask(own_client, "List", pb.ListRequest(page_token=page.next_page_token))
    assert len(rest.dead_letters) == 10
    assert {letter.stream for letter in rest.dead_letters} == {"two"}


def test_before_there_ever_was_one(own_client: Client) -> None:
    """Nothing is there, and nothing is wrong."""
    assert ask(own_client, "List", pb.ListRequest()) == pb.ListResponse(total=0)
    with refused("NOT_FOUND", "DEAD_LETTER_NOT_FOUND"):
        ask(own_client, "Get", pb.GetRequest(id="s.c.1.2"))
    assert ask(own_client, "Purge", pb.PurgeRequest(filter=pb.Filter())) == pb.PurgeResponse()
    assert ask(own_client, "Purge", pb.PurgeRequest(ids=["s.c.1.2"])).missing_ids == ["s.c.1.2"]
    assert ask(own_client, "Replay", pb.ReplayRequest(filter=pb.Filter())) == pb.ReplayResponse()
    assert ask(own_client, "Replay", pb.ReplayRequest(ids=["s.c.1.2"])).missing_ids == ["s.c.1.2"]


def test_tokens_of_other_filters(client: Client, nats_server: NatsServer, stream: str) -> None:
    """A token goes with its filter only, and says so."""
    bury(nats_server, stream, *publish(client, stream, 2))
    token = ask(client, "List", pb.ListRequest(filter=pb.Filter(stream=stream), page_size=1)).next_page_token
    for request in (
        pb.ListRequest(page_token=token),
        pb.ListRequest(filter=pb.Filter(stream=stream, consumer="c"), page_token=token),
        pb.ListRequest(filter=pb.Filter(stream=stream), page_token="nonsense"),
    ):
        with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
            ask(client, "List", request)
        assert caught[0].fields == ("page_token",)


# Filters


def test_filters(client: Client, nats_server: NatsServer, stream: str, unique: Unique) -> None:
    """Each restricts, and all that are set must hold."""
    publish(client, stream, 4)
    other = any_of("")
    other.type_url, other.value = "type.googleapis.com/acme.v1.Order", b""
    client.publish(f"{stream}.x", data=other)
    elsewhere = client.ensure_stream(unique())
    publish(client, elsewhere, 1)
    bury(nats_server, elsewhere, 1)
    bury(nats_server, stream, 1)
    bury(nats_server, stream, 2, consumer="d", cause=Cause.REJECTED)
    bury(nats_server, stream, 3, 5, cause=Cause.REJECTED)
    bury(nats_server, stream, 4, cause=Cause.REJECTED)

    def found(**fields: Any) -> list[int]:
        return ids_of(listed(client, stream, **fields))

    assert found() == [1, 2, 3, 5, 4]
    assert found(consumer="d") == [2]
    assert found(causes=[pb.CAUSE_REJECTED]) == [2, 3, 5, 4]
    assert found(causes=[pb.CAUSE_REJECTED, pb.CAUSE_MAX_ATTEMPTS]) == [1, 2, 3, 5, 4]
    assert found(causes=[pb.CAUSE_UNSPECIFIED]) == [1, 2, 3, 5, 4]
    assert found(consumer="c", causes=[pb.CAUSE_REJECTED], type="acme.v1.Order") == [5]
    assert found(type="acme.v1.Nothing") == []
    assert found(consumer="nobody") == []


def test_filters_by_time(client: Client, nats_server: NatsServer, stream: str) -> None:
    """From `since` on, and before `until`, by when the consumer gave up."""
    publish(client, stream, 3)
    bury(nats_server, stream, 1)
    bury(nats_server, stream, 2)
    bury(nats_server, stream, 3)
    times = [letter.time for letter in listed(client, stream)]
    assert ids_of(listed(client, stream, since=times[1])) == [2, 3]
    assert ids_of(listed(client, stream, until=times[1])) == [1]
    assert ids_of(listed(client, stream, since=times[1], until=times[2])) == [2]
    assert ids_of(listed(client, stream, until=at(1))) == []
    assert ids_of(listed(client, stream, since=at(253_402_300_799))) == []
    assert ids_of(listed(client, stream, since=Timestamp(seconds=-62_135_596_800))) == [1, 2, 3]


# Get


def test_an_entry_that_is_not_there(client: Client, stream: str) -> None:
    """It is not found, and the error names it."""
    name = f"{stream}.c.1.1700000000000000000"
    with refused("NOT_FOUND", "DEAD_LETTER_NOT_FOUND") as caught:
        ask(client, "Get", pb.GetRequest(id=name))
    assert caught[0].metadata == {"name": name}


# Purge


def test_purge_by_ids(client: Client, nats_server: NatsServer, stream: str) -> None:
    """Those are removed for good, others are not; what is not there is named, once for each id."""
    publish(client, stream, 3)
    one, _, three = bury(nats_server, stream, 1, 2, 3)
    nothing = f"{stream}.c.9.1"
    request = pb.PurgeRequest(ids=[one, nothing, three, one], dry_run=True)
    counted = pb.PurgeResponse(purged=2, missing_ids=[nothing])
    assert ask(client, "Purge", request) == counted
    assert ids_of(listed(client, stream)) == [1, 2, 3]
    request.dry_run = False
    assert ask(client, "Purge", request) == counted
    assert ids_of(listed(client, stream)) == [2]
    assert ask(client, "Purge", request) == pb.PurgeResponse(missing_ids=[one, nothing, three])


@pytest.mark.parametrize("consumer", ["", "c"])
def test_purge_of_a_whole(client: Client, nats_server: NatsServer, stream: str, consumer: str) -> None:
    """All of a stream or of a consumer go at once."""
    publish(client, stream, 4)
    bury(nats_server, stream, 1, 2, 3)
    bury(nats_server, stream, 4, consumer="d")
    which = pb.Filter(stream=stream, consumer=consumer)
    count = 3 if consumer else 4
    assert ask(client, "Purge", pb.PurgeRequest(filter=which, dry_run=True)) == pb.PurgeResponse(purged=count)
    assert len(listed(client, stream)) == 4
    assert ask(client, "Purge", pb.PurgeRequest(filter=which)) == pb.PurgeResponse(purged=count)
    assert ids_of(listed(client, stream)) == ([4] if consumer else [])


def test_purge_of_some(client: Client, nats_server: NatsServer, stream: str) -> None:
    """Any other filter is gone through entry by entry."""
    publish(client, stream, 4)
    bury(nats_server, stream, 1, 3)
    bury(nats_server, stream, 2, 4, cause=Cause.REJECTED)
    which = pb.Filter(stream=stream, causes=[pb.CAUSE_REJECTED])
    assert ask(client, "Purge", pb.PurgeRequest(filter=which, dry_run=True)) == pb.PurgeResponse(purged=2)
    assert ask(client, "Purge", pb.PurgeRequest(filter=which)) == pb.PurgeResponse(purged=2)
    assert ids_of(listed(client, stream)) == [1, 3]
    assert ask(client, "Purge", pb.PurgeRequest(filter=which)) == pb.PurgeResponse()


def test_purge_of_everything(own_client: Client, own_nats_server: NatsServer) -> None:
    """A filter in which nothing is set stands for all."""
    for name in ("one", "two"):
        own_client.ensure_stream(name)
        bury(own_nats_server, name, *publish(own_client, name, 3))
    assert ask(own_client, "Purge", pb.PurgeRequest(filter=pb.Filter())).purged == 6
    assert ask(own_client, "List", pb.ListRequest()) == pb.ListResponse(total=0)


# What is refused


def filters(**fields: Any) -> list[tuple[str, Any]]:
    """Put a filter into every request that takes one."""
    which = pb.Filter(**fields)
    return [
        ("List", pb.ListRequest(filter=which)),
        ("Replay", pb.ReplayRequest(filter=which)),
        ("Purge", pb.PurgeRequest(filter=which)),
        ("Watch", pb.WatchRequest(filter=which)),
    ]


REFUSED: list[tuple[str, str, Any]] = [
    *(("filter.consumer", *each) for each in filters(consumer="c")),
    *(("filter.stream", *each) for each in filters(stream="a.b")),
    *(("filter.stream", *each) for each in filters(stream="WS_DEAD_LETTERS")),
    *(("filter.stream", *each) for each in filters(stream="x" * 256)),
    *(("filter.consumer", *each) for each in filters(stream="a", consumer="*")),
    *(("filter.causes[1]", *each) for each in filters(causes=[1, 99])),
    *(("filter.causes", *each) for each in filters(causes=[1] * 101)),
    *(("filter.type", *each) for each in filters(type="no type")),
    *(("filter.type", *each) for each in filters(type="type.googleapis.com/acme.v1.Order")),
    *(("filter.type", *each) for each in filters(type="x" * 1025)),
    *(("filter.since", *each) for each in filters(since=Timestamp(nanos=-1))),
    *(("filter.until", *each) for each in filters(until=Timestamp(seconds=2**40))),
    ("page_size", "List", pb.ListRequest(page_size=501)),
    ("page_token", "List", pb.ListRequest(page_token="x")),
    ("page_token", "List", pb.ListRequest(page_token="ü" * 100_000)),
    ("id", "Get", pb.GetRequest()),
    ("id", "Get", pb.GetRequest(id="a.b.c")),
    ("id", "Get", pb.GetRequest(id="a.b.01.2")),
    ("id", "Get", pb.GetRequest(id="a.>.1.2")),
    ("id", "Get", pb.GetRequest(id="WS_x.c.1.2")),
    ("id", "Get", pb.GetRequest(id="a.b.99999999999999999999.2")),
    ("id", "Get", pb.GetRequest(id="a.b.1.2\n")),
    ("ids", "Replay", pb.ReplayRequest()),
    ("ids", "Replay", pb.ReplayRequest(ids=["a.b.1.2"] * 1001)),
    ("ids[1]", "Replay", pb.ReplayRequest(ids=["a.b.1.2", "x"])),
    ("filter", "Replay", pb.ReplayRequest(ids=["a.b.1.2"], filter=pb.Filter())),
    ("limit", "Replay", pb.ReplayRequest(ids=["a.b.1.2"], limit=1)),
    ("limit", "Replay", pb.ReplayRequest(filter=pb.Filter(), limit=100_001)),
    ("rate", "Replay", pb.ReplayRequest(filter=pb.Filter(), rate=10_001)),
    ("page_token", "Replay", pb.ReplayRequest(ids=["a.b.1.2"], page_token="x")),
    ("page_token", "Replay", pb.ReplayRequest(filter=pb.Filter(), page_token="x")),
    ("ids", "Purge", pb.PurgeRequest()),
    ("ids", "Purge", pb.PurgeRequest(ids=["a.b.1.2"] * 1001)),
    ("ids[0]", "Purge", pb.PurgeRequest(ids=[""])),
    ("filter", "Purge", pb.PurgeRequest(ids=["a.b.1.2"], filter=pb.Filter())),
    ("page_token", "Purge", pb.PurgeRequest(ids=["a.b.1.2"], page_token="x")),
    ("page_token", "Purge", pb.PurgeRequest(filter=pb.Filter(), page_token="x")),
    ("position", "Watch", pb.WatchRequest(position="x")),
    ("position", "Watch", pb.WatchRequest(position="1-")),
    ("position", "Watch", pb.WatchRequest(position="99999999999999999999-1")),
]


@pytest.mark.parametrize(("field", "method", "request_"), REFUSED)
def test_what_is_refused(client: Client, field: str, method: str, request_: Any) -> None:
    """The error names the field, whatever is wrong with it."""
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        if method == "Watch":
            call: Any = client.channel.unary_stream(
                "/windshift.deadletters.v1alpha1.DeadLettersService/Watch",
                request_serializer=pb.WatchRequest.SerializeToString,
            )
            list(call(request_, timeout=30))
        else:
            ask(client, method, request_)
    assert caught[0].fields == (field,)


def test_tokens_where_one_call_is_enough(client: Client, nats_server: NatsServer, stream: str) -> None:
    """A purge of a whole stream takes none: it would be ignored, and more be removed than was meant."""
    bury(nats_server, stream, *publish(client, stream, 2))
    which = pb.Filter(stream=stream)
    token = ask(client, "List", pb.ListRequest(filter=which, page_size=1)).next_page_token
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        ask(client, "Purge", pb.PurgeRequest(filter=which, page_token=token))
    assert caught[0].fields == ("page_token",)
    assert len(listed(client, stream)) == 2


def test_without_a_deadline(client: Client, nats_server: NatsServer, stream: str) -> None:
    """A call that names none is answered as well."""
    (name,) = bury(nats_server, stream, *publish(client, stream, 1))
    assert ask(client, "Get", pb.GetRequest(id=name), timeout=None).dead_letter.id == name
    assert len(ask(client, "List", pb.ListRequest(), timeout=None).dead_letters) > 0


def test_while_the_broker_is_away(own_client: Client, own_nats_server: NatsServer) -> None:
    """Calls fail in time, with a reason, and work again afterwards."""
    own_client.ensure_stream("s")
    (name,) = bury(own_nats_server, "s", *publish(own_client, "s", 1))
    own_nats_server.kill()
    for method, request in (
        ("List", pb.ListRequest()),
        ("Get", pb.GetRequest(id=name)),
        ("Replay", pb.ReplayRequest(filter=pb.Filter())),
        ("Purge", pb.PurgeRequest(ids=[name])),
    ):
        refused_in_time("UNAVAILABLE", "BROKER_UNAVAILABLE", partial(ask, own_client, method, request))
    own_nats_server.start()
    assert ask(own_client, "Get", pb.GetRequest(id=name)).dead_letter.id == name
