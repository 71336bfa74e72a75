"""Servers on a cluster of three nats-servers, as clients in the field see them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import grpc
import pytest

from tests.support.app import running_app
from tests.support.broker import connect, in_seconds
from tests.support.client import Client, read_refusal, refused, text_of
from tests.support.nats_server import NatsServer
from tests.support.windshift_process import wait_for
from tests.wire import looking, management
from tests.wire.burying import ack, ask, consumer, listed, reject, watching
from tests.wire.consuming import calling, delete_consumer, ensure_consumer, subscribed
from tests.wire.management import ensure_stream, stored_stream
from windshift._gen.windshift.deadletters.v1alpha1 import service_pb2 as deadletters

Unique = Callable[[], str]

pytestmark = pytest.mark.timeout(120)


async def has_leader(server: NatsServer) -> None:
    """Wait until the cluster takes orders."""
    async with connect(server.url) as broker:
        await broker.api.call("INFO", None, in_seconds(60))


@pytest.fixture
def clients(cluster: list[NatsServer]) -> Iterator[list[Client]]:
    """Run a server on each member of the cluster, and connect a client to each; 3 replicas by default."""
    asyncio.run(has_leader(cluster[0]))
    with ExitStack() as stack:
        clients = []
        for member in cluster:
            address = stack.enter_context(running_app(member.url, WINDSHIFT_DEFAULT_REPLICAS="3"))
            clients.append(Client(address))
            stack.callback(clients[-1].channel.close)
        yield clients


async def test_replicas(clients: list[Client], cluster: list[NatsServer], unique: Unique) -> None:
    """The server's default counts for what is new; what a request names, and what is stored, comes first."""
    name, other, store = unique(), unique(), unique()
    ensure_stream(clients[0], name)
    ensure_stream(clients[1], other, storage={"replicas": 1})
    clients[2].ensure_store(store)
    for stream, replicas in ((name, 3), (other, 1), (f"KV_{store}", 3)):
        assert (await stored_stream(cluster[0], stream))["config"]["num_replicas"] == replicas
    ensure_stream(clients[1], other)
    assert (await stored_stream(cluster[0], other))["config"]["num_replicas"] == 1
    with refused("FAILED_PRECONDITION", "REPLICAS_UNAVAILABLE"):
        ensure_stream(clients[0], unique(), storage={"replicas": 5})


async def test_replicas_of_dead_letters(cluster: list[NatsServer], unique: Unique) -> None:
    """There are as many as the streams of the consumers have, at least, whatever the server's default."""
    await has_leader(cluster[0])
    with running_app(cluster[0].url) as address:
        client = Client(address)
        for replicas in (1, 3, 1):
            name = unique()
            ensure_stream(client, name, storage={"replicas": replicas})
            management.ensure_consumer(client, name, name="c", retry_policy={"max_attempts": 5})
        client.channel.close()
    assert (await stored_stream(cluster[0], "WS_DEAD_LETTERS"))["config"]["num_replicas"] == 3


def test_reads_see_the_latest_write(clients: list[Client], unique: Unique) -> None:
    """What one server confirmed every other one reads, at once."""
    store = clients[0].ensure_store(unique())
    for number in range(30):
        revision = clients[number % 3].set(store, "a", str(number))
        response = clients[(number + 1) % 3].get(store, "a")
        assert (text_of(response.value), response.revision) == (str(number), revision)
    clients[0].delete(store, "a")
    assert clients[1].get(store, "a").revision == 0


def test_compare_and_swap(clients: list[Client], unique: Unique) -> None:
    """Of writers at all servers who expect the same exactly one wins."""
    store = clients[0].ensure_store(unique())

    def create(number: int) -> str:
        try:
            clients[number % 3].set(store, "a", create_only=True)
        except grpc.RpcError as error:
            return read_refusal(error).reason
        return "won"

    with ThreadPoolExecutor(12) as pool:
        assert sorted(pool.map(create, range(12))) == ["KEY_EXISTS"] * 11 + ["won"]


def test_publish_once_and_in_order(clients: list[Client], unique: Unique) -> None:
    """A key is one for all servers, and so is the stream's last id."""
    name = unique()
    ensure_stream(clients[0], name)
    with ThreadPoolExecutor(12) as pool:
        ids = pool.map(
            lambda number: clients[number % 3].publish(f"{name}.a", idempotency_key="k"), range(24)
        )
        assert set(ids) == {1}
    assert clients[1].publish(f"{name}.b", expected_last_id=1) == 2
    with refused("ABORTED", "WRONG_LAST_ID") as caught:
        clients[2].publish(f"{name}.b", expected_last_id=1)
    assert caught[0].metadata == {"expected": "1", "actual": "2"}


def test_a_repeated_conditional_publish(clients: list[Client], unique: Unique) -> None:
    """On replicas, too, the repeat of a conditional publish gives the id of the first."""
    name = unique()
    ensure_stream(clients[0], name)
    for client in clients:
        assert client.publish(f"{name}.a", idempotency_key="k", expected_last_id=0) == 1


def test_consume_anywhere(clients: list[Client], unique: Unique) -> None:
    """A consumer is shared by the subscribers of all servers, and a deletion ends all of their calls."""
    name = unique()
    ensure_stream(clients[0], name)
    ensure_consumer(clients[1], name)
    with ExitStack() as stack:
        calls = [stack.enter_context(subscribed(client, name, 4)) for client in clients]
        for _ in range(12):
            clients[0].publish(f"{name}.a")
        seen = []
        for call in calls:
            events = call.events(4)
            call.ack(*(event.id for event in events))
            assert call.told()[1] == sorted(event.id for event in events)
            seen += [event.id for event in events]
        assert sorted(seen) == list(range(1, 13))
        delete_consumer(clients[2], name)
        for call in calls:
            refusal = call.end()
            assert refusal is not None
            assert (refusal.code, refusal.reason) == ("NOT_FOUND", "CONSUMER_NOT_FOUND")


def test_dead_letters(clients: list[Client], unique: Unique) -> None:
    """Every server tells of them; replayed by all at once, an event comes once, and is gone everywhere."""
    stream = unique()
    ensure_stream(clients[0], stream)
    consumer(clients[0], stream)
    for _ in range(20):
        clients[0].publish(f"{stream}.x", "poison")
    with ExitStack() as stack:
        watches = [stack.enter_context(watching(client, stream)) for client in clients]
        call = stack.enter_context(subscribed(clients[1], stream))
        ids = {event.id for event in call.events(20)}
        reject(call, *ids, permanently=True)
        assert all(set(watch.ids(20)) == ids for watch in watches)
        request = deadletters.ReplayRequest(filter=deadletters.Filter(stream=stream), rate=10_000)
        with ThreadPoolExecutor() as pool:
            done = list(pool.map(lambda client: ask(client, "Replay", request), clients))
        assert sum(each.replayed for each in done) == 20
        assert {call.event(30).id for _ in ids} == ids
        ack(call, *ids)
        call.nothing()
    wait_for(lambda: not any(listed(client, stream) for client in clients))  # by any replica


async def test_streams_that_remove_what_is_settled(
    clients: list[Client], cluster: list[NatsServer], unique: Unique
) -> None:
    """Such a stream is followed and counted, too, with as many replicas as its consumers must have."""
    name = unique()
    async with connect(cluster[0].url) as broker:
        await broker.stream(name, storage="file", num_replicas=3, retention="interest")
    ensure_consumer(clients[0], name)
    clients[0].publish(f"{name}.a")
    assert looking.until_caught_up(looking.tail(clients[1], name, begin={"start": True})) == [1]
    assert looking.ask(clients[2], "PurgeStream", stream=name, dryRun=True).purged == 1
    sought = looking.ask(
        clients[0], "SeekConsumer", stream=name, consumer="c", to={"start": True}, dryRun=True
    )
    assert sought.pending == 1


def test_another_server_goes_on(clients: list[Client], unique: Unique) -> None:
    """Deliveries of a consumer with three replicas linger, and are resumed by way of another member."""
    stream = unique()
    ensure_stream(clients[0], stream)
    ensure_consumer(clients[0], stream)
    for _ in range(3):
        clients[0].publish(f"{stream}.x", "text")
    with calling(clients[0]) as call:
        call.subscribe(stream, "c", linger=30)
        tokens = [event.token for event in call.events(3)]
        call.cancel()
    with calling(clients[1]) as other, calling(clients[2]) as call:
        other.subscribe(stream, "c")
        call.subscribe(stream, "c", resume=tokens)
        call.ack(1, 2, 3)
        assert call.told() == ("ack", [1, 2, 3], [], [])
        other.nothing(1)
