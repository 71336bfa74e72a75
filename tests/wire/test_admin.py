"""Looking at streams and consumers, and managing them, as a client sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.message_factory import GetMessageClass

from tests.support.broker import connect, in_seconds
from tests.support.client import EVENTS, Client, refused
from tests.support.nats_server import NatsServer
from tests.support.windshift_process import wait_for
from tests.wire.burying import bury
from tests.wire.consuming import subscribed
from tests.wire.looking import ADMIN, ask, tail
from tests.wire.management import ensure_consumer, ensure_stream

Unique = Callable[[], str]


def names(page: Any) -> list[str]:
    """Give the names of the streams on a page."""
    return [stream.spec.name for stream in page.streams]


def list_all(client: Client, page_size: int = 1000, **fields: Any) -> list[str]:
    """List page after page of streams; give their names."""
    found: list[str] = []
    token = ""
    while True:
        page = ask(client, "ListStreams", page_size=page_size, page_token=token, **fields)
        found += names(page)
        token = page.next_page_token
        if not token:
            assert page.total == len(found)
            return found


# --- Streams ----------------------------------------------------------------------------------------------


def test_a_list_of_streams(client: Client, unique: Unique) -> None:
    """Streams are found by a part of their name, in whatever case, and come page by page."""
    word = unique()
    streams = [client.ensure_stream(f"{word}-{number}") for number in range(5)]
    assert list_all(client, find=word.upper(), page_size=2) == streams
    assert list_all(client, find=word, page_size=2, descending=True) == streams[::-1]
    assert list_all(client, find=word + "-3.") == [streams[3]]  # in a subject


@pytest.mark.parametrize("order", ["ORDER_EVENTS", "ORDER_BYTES", "ORDER_NEWEST", "ORDER_LAG"])
def test_orders(client: Client, unique: Unique, order: str) -> None:
    """Streams are sorted by what they hold, by their age, and by how far their consumers are behind.

    What the server has seen of them may be some seconds old.
    """
    word = unique()
    streams = [client.ensure_stream(f"{word}-{number}") for number in range(3)]
    for number, stream in enumerate(streams):
        ensure_consumer(client, stream, name="c")
        for _ in range(number):
            client.publish(f"{stream}.a")
    wait_for(lambda: list_all(client, find=word, order_by=order, page_size=2) == streams)
    assert list_all(client, find=word, order_by=order, page_size=2, descending=True) == streams[::-1]


def test_an_order_by_dead_letters(client: Client, nats_server: NatsServer, unique: Unique) -> None:
    """The stream whose consumers gave up on most comes first, with how many they are."""
    word = unique()
    none, some = client.ensure_stream(f"{word}-a"), client.ensure_stream(f"{word}-b")
    ensure_consumer(client, some, name="c", retry_policy={"maxAttempts": 1})
    bury(nats_server, some, client.publish(f"{some}.a"))
    page = ask(client, "ListStreams", find=word, order_by="ORDER_DEAD_LETTERS", descending=True)
    assert names(page) == [some, none]
    assert page.streams[0].dead_letters == 1


def test_what_is_created_or_deleted_between_pages(client: Client, unique: Unique) -> None:
    """A page goes on behind the last name of the one before, also when that is not there any more."""
    word = unique()
    for number in (1, 2, 4, 5):
        client.ensure_stream(f"{word}-{number}")
    page = ask(client, "ListStreams", find=word, page_size=2)
    ask(client, "DeleteStream", name=f"{word}-2")
    client.ensure_stream(f"{word}-3")
    token = page.next_page_token
    rest: list[str] = []
    while token:
        page = ask(client, "ListStreams", find=word, page_size=2, page_token=token)
        rest, token = rest + names(page), page.next_page_token
    assert rest[-2:] == [f"{word}-4", f"{word}-5"]


def test_a_whole_stream(client: Client, unique: Unique) -> None:
    """Everything that a stream was ensured with can be read, and makes the same stream again."""
    name, origin = unique(), client.ensure_stream(unique())
    fields: dict[str, Any] = {
        "retentionPolicy": {
            "maxAge": "3600s",
            "maxEvents": "100",
            "maxEventsPerSubject": "10",
            "maxBytes": "100000",
            "discardPolicy": "DISCARD_POLICY_NEW",
            "discardNewPerSubject": True,
        },
        "storage": {"type": "STORAGE_TYPE_MEMORY", "replicas": 1},
        "deduplicationWindow": "60s",
        "maxEventSize": 5000,
    }
    ensure_stream(client, name, **fields)
    stream = ask(client, "GetStream", name=name).stream
    ensure_stream(client, name, **fields)
    assert ask(client, "GetStream", name=name).stream.spec == stream.spec
    assert stream.spec.retention_policy.max_age.seconds == 3600
    assert stream.spec.max_event_size == 5000
    aggregate = unique()
    source = {"name": origin, "filterSubjects": [f"{origin}.a"], "from": {"offset": "1"}}
    ensure_stream(client, aggregate, aggregate={"sources": [source]})
    spec = ask(client, "GetStream", name=aggregate).stream.spec
    assert spec.aggregate.sources[0].name == origin
    assert list(spec.aggregate.sources[0].filter_subjects) == [f"{origin}.a"]


def test_a_stream_that_became_an_aggregate(client: Client, nats_server: NatsServer, unique: Unique) -> None:
    """It takes no batches any more, nor does its spec ask for them, also where another program has it so."""
    name, origin = unique(), client.ensure_stream(unique())
    ensure_stream(client, name, atomicBatches=True, fastIngest=True)
    fields: dict[str, Any] = {"aggregate": {"sources": [{"name": origin}]}}
    ensure_stream(client, name, **fields)
    config = asyncio.run(change_stream(nats_server, name, {}))
    assert not config.keys() & {"allow_atomic", "allow_batched"}
    for _ in range(2):
        spec = ask(client, "GetStream", name=name).stream.spec
        assert (spec.atomic_batches, spec.fast_ingest) == (False, False)
        client.call(EVENTS.methods_by_name["EnsureStream"], spec)
        asyncio.run(change_stream(nats_server, name, {"allow_atomic": True, "allow_batched": True}))


def test_an_aggregate_that_is_published_to(client: Client, nats_server: NatsServer, unique: Unique) -> None:
    """Ensured as it is shown, it keeps the subjects that another program has bound to it."""
    name, origin = unique(), client.ensure_stream(unique())
    ensure_stream(client, name, aggregate={"sources": [{"name": origin}]})
    asyncio.run(change_stream(nats_server, name, {"subjects": [f"{name}.>"]}))
    spec = ask(client, "GetStream", name=name).stream.spec
    spec.retention_policy.max_events = 10
    client.call(EVENTS.methods_by_name["EnsureStream"], spec)
    assert client.publish(f"{name}.a") == 1


def test_what_a_stream_holds(client: Client, unique: Unique) -> None:
    """Its first and last event, their times, subjects, consumers and lag."""
    stream = client.ensure_stream(unique())
    empty = ask(client, "GetStream", name=stream).stream
    assert (empty.events, empty.last_id, empty.HasField("first_time")) == (0, 0, False)
    ensure_consumer(client, stream, name="c")
    for subject in ("a", "b", "a"):
        client.publish(f"{stream}.{subject}")
    ask(client, "DeleteEvent", stream=stream, id=1)
    found = ask(client, "GetStream", name=stream).stream
    assert (found.events, found.first_id, found.last_id) == (2, 2, 3)
    assert (found.subjects, found.consumers, found.worst_lag) == (2, 1, 2)
    assert found.first_time.ToNanoseconds() < found.last_time.ToNanoseconds()


def test_subjects(client: Client, unique: Unique) -> None:
    """The subjects that match, each with its number of events, page by page."""
    stream = client.ensure_stream(unique())
    for number in range(5):
        for _ in range(number + 1):
            client.publish(f"{stream}.a.{number}")
    client.publish(f"{stream}.b")
    found: dict[str, int] = {}
    token = ""
    while True:
        fields = {"filter": f"{stream}.a.*", "page_size": 2, "page_token": token}
        page = ask(client, "ListSubjects", stream=stream, **fields)
        found |= {entry.subject: entry.events for entry in page.subjects}
        token = page.next_page_token
        if not token:
            break
    assert found == {f"{stream}.a.{number}": number + 1 for number in range(5)}


@pytest.mark.parametrize(
    ("which", "left"),
    [
        ({}, []),
        ({"upToId": "4"}, [5, 6]),
        ({"keep": "2"}, [5, 6]),
        ({"subject": "{}.a"}, [2, 4, 6]),
        ({"subject": "{}.a", "upToId": "3"}, [2, 4, 5, 6]),
        ({"subject": "{}.a", "keep": "1"}, [2, 4, 5, 6]),
        ({"upToId": "100"}, []),
        ({"upToId": "100", "subject": ">"}, []),
        ({"upToId": "100", "subject": "{}.a"}, [2, 4, 6]),
        ({"upToId": str(2**63 - 2)}, []),
        ({"upToId": "0"}, [1, 2, 3, 4, 5, 6]),
        ({"subject": "{}.a", "upToId": "0"}, [1, 2, 3, 4, 5, 6]),
        ({"keep": "100"}, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_purges(client: Client, unique: Unique, which: dict[str, str], left: list[int]) -> None:
    """What is asked for goes and nothing else; a dry run says as much and removes nothing. Ids go on."""
    stream = client.ensure_stream(unique())
    for number in range(6):
        client.publish(f"{stream}.{'ab'[number % 2]}")
    which = {key: value.format(stream) for key, value in which.items()}
    expected = 6 - len(left)
    assert ask(client, "PurgeStream", stream=stream, dryRun=True, **which).purged == expected
    assert ask(client, "GetStream", name=stream).stream.events == 6
    assert ask(client, "PurgeStream", stream=stream, **which).purged == expected
    events = ask(client, "ReadEvents", stream=stream).events
    assert [event.event.id for event in events] == left
    assert client.publish(f"{stream}.a") == 7


@pytest.mark.parametrize("subject", ["", ">"])
def test_purging_an_empty_stream(client: Client, unique: Unique, subject: str) -> None:
    """Nothing goes, and ids begin at 1."""
    stream = client.ensure_stream(unique())
    assert ask(client, "PurgeStream", stream=stream, upToId="100", subject=subject).purged == 0
    assert client.publish(f"{stream}.a") == 1


def test_work_queues(client: Client, nats_server: NatsServer, unique: Unique) -> None:
    """A stream that takes no consumer to follow or count it is told so; what needs none goes on."""
    stream = unique()
    asyncio.run(make_stream(nats_server, stream, retention="workqueue"))
    ensure_consumer(client, stream, name="c", **{"from": {"start": True}})
    client.publish(f"{stream}.a")
    with refused("INVALID_ARGUMENT", "UNSUPPORTED_COMBINATION") as caught:
        ask(client, "PurgeStream", stream=stream, dryRun=True)
    assert "work" in caught[0].message
    with refused("INVALID_ARGUMENT", "UNSUPPORTED_COMBINATION"):
        ask(client, "SeekConsumer", stream=stream, consumer="c", to={"start": True}, dryRun=True)
    with refused("INVALID_ARGUMENT", "UNSUPPORTED_COMBINATION"):
        next(tail(client, stream))
    assert ask(client, "PurgeStream", stream=stream).purged == 1


@pytest.mark.parametrize("denied", ["deny_purge", "deny_delete", "sealed"])
def test_streams_that_keep_everything(
    client: Client, nats_server: NatsServer, unique: Unique, denied: str
) -> None:
    """What another program keeps from being removed stays, and who tries is told why."""
    stream = unique()
    asyncio.run(make_stream(nats_server, stream))
    client.publish(f"{stream}.a")
    asyncio.run(change_stream(nats_server, stream, {denied: True}))
    calls: list[tuple[str, dict[str, Any]]] = []
    if denied != "deny_delete":
        calls += [("PurgeStream", {}), ("PurgeStream", {"upToId": "1"})]
    if denied != "deny_purge":
        calls += [("DeleteEvent", {"id": "1"}), ("DeleteEvent", {"id": "1", "erase": True})]
    for method, fields in calls:
        with refused("FAILED_PRECONDITION", "NOT_ALLOWED_BY_STREAM") as caught:
            ask(client, method, stream=stream, **fields)
        assert caught[0].metadata == {"name": stream}
        assert denied in caught[0].message
    assert ask(client, "GetStream", name=stream).stream.events == 1


async def change_stream(nats_server: NatsServer, name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Change what only NATS's own tools can; return how the stream was configured."""
    async with connect(nats_server.url) as broker:
        config: dict[str, Any] = (await broker.api.stream_info(name, in_seconds(30)))["config"]
        await broker.api.update_stream(config | settings, in_seconds(30))
        return config


async def make_stream(nats_server: NatsServer, name: str, **config: Any) -> None:
    """Make a stream as only NATS's own tools can."""
    async with connect(nats_server.url) as broker:
        await broker.stream(name, **config)


def test_deleting_a_stream(client: Client, unique: Unique) -> None:
    """A stream goes with its events, on the condition that nothing was published meanwhile."""
    stream = client.ensure_stream(unique())
    last = client.publish(f"{stream}.a")
    with refused("ABORTED", "WRONG_LAST_ID") as caught:
        ask(client, "DeleteStream", name=stream, expectedLastId=last + 1)
    assert caught[0].metadata == {"expected": str(last + 1), "actual": str(last)}
    ask(client, "DeleteStream", name=stream, expectedLastId=last)
    with refused("NOT_FOUND", "STREAM_NOT_FOUND"):
        ask(client, "DeleteStream", name=stream)
    with refused("NOT_FOUND", "STREAM_NOT_FOUND"):
        ask(client, "GetStream", name=stream)


def test_reserved_streams(client: Client, unique: Unique) -> None:
    """What Windshift and the broker keep for themselves is neither listed nor touched."""
    client.ensure_store(unique())
    assert not [name for name in list_all(client) if name.startswith(("KV_", "WS_", "OBJ_"))]
    for method, field in (("GetStream", "name"), ("DeleteStream", "name"), ("PurgeStream", "stream")):
        with refused("INVALID_ARGUMENT", "INVALID_FIELD"):
            ask(client, method, **{field: "WS_DEAD_LETTERS"})


# --- Consumers --------------------------------------------------------------------------------------------


def test_consumers_of_a_stream(client: Client, unique: Unique) -> None:
    """Consumers come by name, page by page, with how far they have come."""
    stream = client.ensure_stream(unique())
    for name in ("a", "b", "c"):
        ensure_consumer(client, stream, name=name)
    client.publish(f"{stream}.a")
    first = ask(client, "ListConsumers", stream=stream, pageSize=2)
    rest = ask(client, "ListConsumers", stream=stream, pageSize=2, pageToken=first.next_page_token)
    found = [*first.consumers, *rest.consumers]
    assert [each.consumer.id for each in found] == ["a", "b", "c"]
    assert [each.consumer.pending for each in found] == [1, 1, 1]
    assert (first.total, rest.next_page_token) == (3, "")
    stored = ask(client, "GetEvent", stream=stream, id=1).event.stored
    assert found[0].oldest_unsettled == stored


@pytest.mark.parametrize("order", ["ORDER_PENDING", "ORDER_OLDEST"])
def test_orders_of_consumers(client: Client, unique: Unique, order: str) -> None:
    """The consumer that is furthest behind comes first."""
    stream = client.ensure_stream(unique())
    for number, name in enumerate(("c", "b", "a")):
        ensure_consumer(client, stream, name=name)
        client.publish(f"{stream}.{number}")
    page = ask(client, "ListConsumers", stream=stream, orderBy=order)
    assert [each.consumer.id for each in page.consumers] == ["c", "b", "a"]


def test_the_oldest_event_of_a_consumer_with_many_filters(client: Client, unique: Unique) -> None:
    """It is told for up to four filters; with more, the consumer counts as one of which it is not known."""
    stream = client.ensure_stream(unique())
    for name, subjects in (("all", "abcde"), ("four", "bcde"), ("one", "a")):
        ensure_consumer(client, stream, name=name, subjects=[f"{stream}.{subject}" for subject in subjects])
    for subject in "ea":
        client.publish(f"{stream}.{subject}")
    page = ask(client, "ListConsumers", stream=stream, order_by="ORDER_OLDEST").consumers
    assert [each.consumer.id for each in page] == ["four", "one", "all"]
    stored = [ask(client, "GetEvent", stream=stream, id=number).event.stored for number in (1, 2)]
    assert [each.oldest_unsettled for each in page[:2]] == stored
    assert not page[2].HasField("oldest_unsettled")


async def make_consumers(nats_server: NatsServer, *keys: tuple[str, str]) -> None:
    """Make consumers as only NATS's own tools can, with their streams where these are not there."""
    async with connect(nats_server.url) as broker:
        for stream, name in keys:
            if await broker.api.find_stream(stream, in_seconds(30)) is None:
                await broker.stream(stream)
            config = {"durable_name": name, "ack_policy": "explicit"}
            await broker.api.create_consumer(stream, name, config, in_seconds(30))


def test_names_that_other_programs_gave(client: Client, nats_server: NatsServer, unique: Unique) -> None:
    """Streams and consumers that no request can name are listed, also where there are dead letters."""
    stream = client.ensure_stream(unique())
    foreign = f"{stream}:eu"
    ensure_consumer(client, stream, name="c", retry_policy={"maxAttempts": 1})
    bury(nats_server, stream, client.publish(f"{stream}.a"))
    keys = [(stream, "a:b"), (foreign, "c"), (foreign, "c:d")]
    asyncio.run(make_consumers(nats_server, *keys))

    def listed(**fields: Any) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        page = ask(client, "ListConsumers", page_size=1000, **fields)
        while True:
            found += ((info.consumer.stream, info.consumer.id) for info in page.consumers)
            if not page.next_page_token:
                return found
            page = ask(client, "ListConsumers", page_size=1000, page_token=page.next_page_token, **fields)

    wait_for(lambda: set(keys) <= set(listed()))  # a list may be 5 seconds old
    assert listed(stream=stream) == [(stream, "a:b"), (stream, "c")]
    wait_for(lambda: list_all(client, find=stream) == [stream, foreign])


def test_a_tail_is_no_consumer(client: Client, unique: Unique) -> None:
    """What the server makes for itself to look at events is not shown."""
    stream = client.ensure_stream(unique())
    responses = tail(client, stream)
    assert next(responses).caught_up
    assert ask(client, "ListConsumers", stream=stream).total == 0


def test_pausing(client: Client, unique: Unique) -> None:
    """A paused consumer delivers nothing until it is resumed; then all that waited."""
    stream = client.ensure_stream(unique())
    ensure_consumer(client, stream, name="c")
    paused = ask(client, "PauseConsumer", stream=stream, consumer="c", until="2100-01-01T00:00:00Z")
    assert paused.paused_until.ToJsonString() == "2100-01-01T00:00:00Z"
    info = ask(client, "ListConsumers", stream=stream).consumers[0]
    assert info.paused_until == paused.paused_until
    published = client.publish(f"{stream}.a")
    with subscribed(client, stream) as call:
        call.nothing()
        resumed = ask(client, "PauseConsumer", stream=stream, consumer="c")
        assert not resumed.HasField("paused_until")
        assert call.event().id == published
    with refused("NOT_FOUND", "CONSUMER_NOT_FOUND"):
        ask(client, "PauseConsumer", stream=stream, consumer="nobody")


# --- Without the broker -----------------------------------------------------------------------------------


def test_broker_gone(own_client: Client, own_nats_server: NatsServer) -> None:
    """Lists are unavailable before the deadline, and told so; servers are told all the same."""
    ensure_stream(own_client, "S", subjects={"subjects": ["s.>"]})
    own_nats_server.kill()
    calls: list[tuple[str, dict[str, Any]]] = [
        ("ListStreams", {}),
        ("ListConsumers", {}),
        ("GetStream", {"name": "S"}),
        ("ListConsumers", {"stream": "S"}),
    ]
    for method, fields in calls:
        assert code_in_time(own_client, method, **fields) is grpc.StatusCode.UNAVAILABLE, method
    found = ask(own_client, "ListServers", jet_stream=True)
    assert found.servers[0].not_ready_reason
    assert not found.jet_stream.usage
    assert not found.jet_stream.HasField("clock_ahead")


def code_in_time(client: Client, method: str, **fields: Any) -> Any:
    """Give the code of a call that fails before its deadline: on a busy machine only a later one is."""
    code, described = None, ADMIN.methods_by_name[method]
    request = ParseDict(fields, GetMessageClass(described.input_type)())
    for seconds in (0.5, 3, 9):
        with pytest.raises(grpc.RpcError) as caught:
            client.call(described, request, seconds)
        code = caught.value.code()
        if code is not grpc.StatusCode.DEADLINE_EXCEEDED:
            break
    return code
