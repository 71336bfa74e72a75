"""The recipes of docs/operations, as an operator does them: with processes, and the files shown there."""

from __future__ import annotations

import asyncio
import itertools
import re
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from click.testing import CliRunner

from tests.support.app import running_app
from tests.support.broker import connect, in_seconds
from tests.support.client import REPEAT_UNAVAILABLE, Client, text_of
from tests.support.cluster import running_cluster
from tests.support.nats_server import NatsServer, running_nats
from tests.support.windshift_process import windshift
from tests.wire.burying import ack, consumer, listed, reject
from tests.wire.consuming import Call, subscribed
from tests.wire.management import ensure_stream
from windshift._gen.windshift.events.v1alpha1 import service_pb2 as pb
from windshift.cli.main import main
from windshift.nats import NatsError, retry

OPERATIONS = Path(__file__).resolve().parents[2] / "docs" / "operations"
DEAD_LETTER = pb.EventsRequest.REJECT_ACTION_DEAD_LETTER
TIMEOUT: Any = {"processing_timeout": "5s"}
"""For which a restored consumer waits for whoever held an event at the backup."""
PASSWORD = "s3cret"

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def shared_three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NatsServer]]:
    """Run a cluster with the file of cluster.md; what belongs to a machine is given by arguments."""
    (text,) = re.findall(
        r"^```\n(# nats\.conf.*?)^```$", (OPERATIONS / "cluster.md").read_text(), re.MULTILINE | re.DOTALL
    )
    for place in (r"server_name: .*", r"port: 4222", r"cluster \{.*?\n\}", r"store_dir: .*"):
        text, count = re.subn(place, "", text, flags=re.DOTALL if "cluster" in place else 0)
        assert count == 1
    config = tmp_path_factory.mktemp("config") / "nats.conf"
    config.write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NATS_WINDSHIFT_PASSWORD", PASSWORD)
        with running_cluster(lambda: tmp_path_factory.mktemp("three"), "--config", str(config)) as servers:
            yield servers


@pytest.fixture
def three(shared_three: list[NatsServer]) -> list[NatsServer]:
    """Give a test the cluster when each node is ready: the test before may have restarted one."""
    for server in shared_three:
        asyncio.run(is_ready(server))
    return shared_three


def url_of(*servers: NatsServer) -> str:
    """Return the URL of servers for the user of the pages."""
    return ",".join(f"nats://windshift:{PASSWORD}@127.0.0.1:{server.port}" for server in servers)


async def is_ready(server: NatsServer) -> None:
    """Wait until the cluster has a leader that knows all three servers."""
    async with connect(url_of(server)) as broker:
        stream = {"name": "READY", "storage": "memory", "num_replicas": 3}
        async for _ in retry(in_seconds(60)):
            with suppress(NatsError):
                await broker.api.call("STREAM.CREATE.READY", stream, in_seconds(60))
                break
        await broker.api.call("STREAM.DELETE.READY", None, in_seconds(60))


async def is_whole(server: NatsServer, stream: str, *, whole: bool = True) -> None:
    """Wait until a stream has a leader, and two replicas that have all of it; or until it has not."""
    async with connect(url_of(server)) as broker:
        for looks in itertools.count(1):
            if _is_whole(await broker.api.stream_info(stream, in_seconds(60))) == whole:
                return
            if (
                looks % 40 == 0
            ):  # a leader that has nothing to write may not notice that a replica has all of it
                await broker.api.call(
                    f"STREAM.PURGE.{stream}", {"filter": f"{stream}.nothing"}, in_seconds(60)
                )
            await asyncio.sleep(0.05)


def _is_whole(info: Any) -> bool:
    cluster = info["cluster"]
    current = [each["current"] for each in cluster.get("replicas", ())]
    return bool(cluster.get("leader")) and current == [True, True]


def run(*command: str, **environment: str) -> str:
    """Run a command of `windshift`, which must succeed; return what it printed."""
    done = CliRunner().invoke(main, list(command), env={"NO_COLOR": "1", **environment})
    assert done.exit_code == 0, f"{done.output}{done.stderr}"
    return done.stdout


@contextmanager
def client_of(address: str) -> Iterator[Client]:
    """Connect a client for the length of a block."""
    client = Client(address, service_config=REPEAT_UNAVAILABLE)
    try:
        yield client
    finally:
        client.channel.close()


def work(client: Client) -> None:
    """Publish 30 events with keys; acknowledge 10, give one up, hold three; and keep two values."""
    ensure_stream(client, "ORDERS", subjects={"subjects": ["orders.>"]})
    consumer(client, "ORDERS", "billing", **TIMEOUT)
    for number in range(30):
        client.publish("orders.placed", f"{number}", idempotency_key=f"order-{number}")
    with subscribed(client, "ORDERS", 14, "billing") as call:
        call.events(14)
        ack(call, *range(1, 11))
        reject(call, 11, action=DEAD_LETTER, reason="no such customer")
    client.ensure_store("accounts")
    client.set("accounts", "ann", "1")
    client.set("accounts", "ann", "2")


def check_work(client: Client) -> None:
    """See that all of it is there, and goes on where it was: nothing lost, nothing twice."""
    assert client.publish("orders.placed", "again", idempotency_key="order-29") == 30
    assert text_of(client.get("accounts", "ann").value) == "2"
    (letter,) = listed(client, "ORDERS")
    assert (letter.event.id, letter.reason) == (11, "no such customer")
    with subscribed(client, "ORDERS", 50, "billing") as call:
        assert sorted(event.id for event in taken(call, 19)) == list(range(12, 31))
        call.nothing()


def taken(call: Call, count: int) -> list[pb.Event]:
    """Take events, and acknowledge each at once: others may be held by a call before for a while."""
    events = []
    for _ in range(count):
        events.append(call.event())
        ack(call, events[-1].id)
    return events


def test_from_the_embedded_nats_to_another(tmp_path: Path) -> None:
    """backup.md: nothing is lost, what was settled stays settled, and keys are known after a restart."""
    with windshift(tmp_path) as process:
        with client_of(process.address) as client:
            work(client)
        assert process.stop() == 0
    backup = str(tmp_path / "move")
    assert "ORDERS: 30 messages" in run("backup", backup, **process.environment)
    with running_nats(tmp_path / "nats") as nats:
        run("restore", backup, NATS_URL=nats.url)
        nats.stop()
        nats.start()
        with (
            windshift(tmp_path, NATS_URL=nats.url) as process,
            client_of(process.address) as client,
        ):
            check_work(client)
            assert "broken" not in run("doctor", WINDSHIFT_ADDRESS=process.address, HOME=str(tmp_path))


def test_a_restore_into_a_cluster(
    tmp_path: Path, nats_server: NatsServer, three: list[NatsServer], unique: Callable[[], str]
) -> None:
    """backup.md: with `--replicas 3` each server has a copy, and consumers go on where they were."""
    stream = unique()
    with running_app(nats_server.url) as address, client_of(address) as client:
        ensure_stream(client, stream)
        consumer(client, stream, **TIMEOUT)
        for number in range(5):
            client.publish(f"{stream}.x", f"{number}")
        with subscribed(client, stream, 2) as call:
            ack(call, *(event.id for event in call.events(2)))
    backup = str(tmp_path / "move")
    run("backup", backup, "--stream", stream, NATS_URL=nats_server.url)
    run("restore", backup, "--replicas", "3", NATS_URL=url_of(*three))
    asyncio.run(is_whole(three[0], stream))
    with running_app(url_of(*three)) as address, client_of(address) as client:
        with subscribed(client, stream, 5) as call:
            assert {text_of(event.data) for event in taken(call, 3)} == {"2", "3", "4"}
        assert client.publish(f"{stream}.x") == 6


async def test_an_empty_disk_in_a_cluster(three: list[NatsServer], unique: Callable[[], str]) -> None:
    """cluster.md: a nats-server that is started with an empty `store_dir` copies from the others."""
    stream, first, third = unique(), three[0], three[2]
    async with connect(url_of(first)) as broker:
        await broker.stream(stream, storage="file", num_replicas=3)
        for number in range(20):
            await broker.publish(f"{stream}.x", b"%d" % number)
        await is_whole(first, stream)
        third.stop()
        await is_whole(first, stream, whole=False)
        shutil.rmtree(third.store)
        async with supervised(third):
            await is_whole(first, stream)


@asynccontextmanager
async def supervised(node: NatsServer) -> AsyncIterator[None]:
    """Run a node as its supervisor does, for the length of a block: start it whenever it has ended.

    nats-server 2.15 crashes, not always, where it copies a stream that was restored onto an empty disk.
    """

    async def supervise() -> None:
        while True:
            if not node.is_running:
                node.start()
            await asyncio.sleep(0.1)

    supervising = asyncio.create_task(supervise())
    try:
        yield
    finally:
        supervising.cancel()
    assert node.is_running


@pytest.mark.timeout(240)
def test_three_nodes_in_turn(three: list[NatsServer], unique: Callable[[], str]) -> None:
    """upgrades.md: nodes restart one after the other, each when streams are current; no caller notices."""
    stream, over = unique(), Event()
    with running_app(url_of(*three), WINDSHIFT_DEFAULT_REPLICAS="3") as address, client_of(address) as client:
        ensure_stream(client, stream)
        consumer(client, stream)

        def work() -> int:
            number = 0
            with subscribed(client, stream, 1) as call:
                while not over.is_set():
                    number += 1
                    assert client.publish(f"{stream}.x", idempotency_key=f"{number}", timeout=60) == number
                    assert call.event(60).id == number
                    acknowledge(call, number)
            return number

        with ThreadPoolExecutor(1) as pool:
            working = pool.submit(work)
            try:
                for node in three:
                    node.stop()
                    node.start()
                    asyncio.run(is_whole(node, stream))
            finally:
                over.set()
            done = working.result()
        assert client.publish(f"{stream}.x") == done + 1


def acknowledge(call: Call, id_: int) -> None:
    """Acknowledge an event, and do so again when that fails for now."""
    call.ack(id_)
    while (told := call.told()) != ("ack", [id_], [], []):
        assert told == ("ack", [], [], [id_])
        call.ack(id_)


def test_another_password_of_nats(tmp_path: Path) -> None:
    """rotation.md: with both users for a while, servers change over in turn, and no call fails."""
    config = tmp_path / "nats.conf"

    def users(*names: str) -> None:
        listed = ", ".join(f'{{ user: {name}, password: "{PASSWORD}-{name}" }}' for name in names)
        config.write_text(f"authorization {{ users: [{listed}] }}\n")

    users("old")
    with running_nats(tmp_path / "nats", "--config", str(config)) as nats:

        def url(name: str) -> str:
            return f"nats://{name}:{PASSWORD}-{name}@127.0.0.1:{nats.port}"

        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        with windshift(tmp_path / "a", NATS_URL=url("old")) as process, client_of(process.address) as client:
            client.ensure_stream("ORDERS", "orders.>")
            assert client.publish("orders.a") == 1
            users("old", "new")
            nats.reload()
            assert client.publish("orders.a") == 2
            with (
                windshift(tmp_path / "b", NATS_URL=url("new")) as successor,
                client_of(successor.address) as other,
            ):
                assert process.stop() == 0
                users("new")
                nats.reload()
                assert other.publish("orders.a") == 3
                assert successor.probe("/readyz").status == 200
