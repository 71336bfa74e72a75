"""What is listed while a nats-server of a cluster, which leads some of it, does not answer."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.broker import Broker, connect, in_seconds
from tests.support.nats_server import NatsServer
from windshift.server.admin.look import Look
from windshift.server.config.read import config_from_environment
from windshift.server.monitoring.snapshot import SnapshotCollector
from windshift.server.monitoring.snapshot_cache import SnapshotCache
from windshift.server.process.backup import BackupError, back_up

Unique = Callable[[], str]

pytestmark = pytest.mark.timeout(180)

NOW = timedelta(0)


class Silent(NamedTuple):
    """A cluster of which one server is frozen.

    Attributes:
        broker: a connection to another one.
        url: the address of that one.
        stream: a stream on disk that only this one has.
        streams: all streams that are not only on the frozen one.
        missing: those that are.
        replicated: a stream that all servers have.
        consumers: consumers of that stream which others have.
        missing_consumers: those that only the frozen one has.
    """

    broker: Broker
    url: str
    stream: str
    streams: set[str]
    missing: set[str]
    replicated: str
    consumers: set[str]
    missing_consumers: set[str]


@pytest.fixture
async def silent(cluster: list[NatsServer], unique: Unique) -> AsyncIterator[Silent]:
    """Freeze a server that leads a stream and a consumer."""
    streams, consumers = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    async with connect(cluster[0].url) as broker:
        await broker.api.call("INFO", None, in_seconds(60))

        async def place(name: str) -> str:
            info = await broker.api.stream_info(name, in_seconds(30))
            streams[info["cluster"]["leader"]].add(name)
            return str(info["cluster"]["leader"])

        replicated, stream = await broker.stream(unique(), num_replicas=3), unique()
        used = await place(await broker.stream(stream, storage="file"))
        while len(streams) == 1:
            await place(await broker.stream(unique()))
        (frozen,) = streams.keys() - {used}
        while not {frozen} < consumers.keys():
            name = unique()
            config = {"durable_name": name, "ack_policy": "explicit", "num_replicas": 1, "mem_storage": True}
            await broker.api.create_consumer(replicated, name, config, in_seconds(30))
            info = await broker.api.consumer_info(replicated, name, in_seconds(30))
            assert info is not None
            consumers[info["cluster"]["leader"]].add(name)
    missing, missing_consumers = streams.pop(frozen), consumers.pop(frozen)
    there = {replicated}.union(*streams.values())
    server, url = server_called(frozen, cluster), server_called(used, cluster).url
    async with connect(url) as broker:
        server.freeze()
        try:
            consumers_there = set[str]().union(*consumers.values())
            yield Silent(broker, url, stream, there, missing, replicated, consumers_there, missing_consumers)
        finally:
            server.thaw()


def server_called(name: str, cluster: list[NatsServer]) -> NatsServer:
    """Return the server that calls itself ``node0``, or with another number."""
    return cluster[int(name.removeprefix("node"))]


async def until(expected: object, ask: Callable[[], Awaitable[object]]) -> None:
    """Ask again and again: leaders that others have to elect first may be missing too for a while."""
    async with asyncio.timeout(90):
        while await ask() != expected:
            pass


async def test_lists(silent: Silent) -> None:
    """What others have is listed; of the rest the names are told. People see the former."""
    api = silent.broker.api

    async def listed(operation: str, key: str) -> tuple[set[str], set[str]]:
        names, missing = set[str](), set[str]()
        async for page in api.pages(operation, key, in_seconds(60)):
            names |= {each.get("name") or each["config"]["name"] for each in page.items}
            missing |= page.missing
        return names, missing

    await until((silent.streams, silent.missing), lambda: listed("STREAM.LIST", "streams"))
    consumers = f"CONSUMER.LIST.{silent.replicated}"
    await until((silent.consumers, silent.missing_consumers), lambda: listed(consumers, "consumers"))
    look = Look(api)
    assert (await look.seen(in_seconds(60))).named.keys() == silent.streams
    rows = await look.rows_of(silent.replicated, in_seconds(60))
    assert {row.key.name for row in rows} == silent.consumers


async def test_a_snapshot(silent: Silent) -> None:
    """Metrics show what there is; the rest counts as left out."""
    broker = silent.broker
    cache = SnapshotCache(broker.requests, SnapshotCollector(broker.api), keep=NOW, keep_failure=NOW)

    async def seen() -> tuple[set[str], set[str], int, int] | None:
        await cache.refresh()
        if (found := cache.snapshot) is None:
            return None
        streams = {each.name for each in found.streams}
        consumers = {each.name for each in found.consumers}
        return streams, consumers, found.omitted_streams, found.omitted_consumers

    left_out = len(silent.missing), len(silent.missing_consumers)
    await until((silent.streams, silent.consumers, *left_out), seen)


async def test_a_backup(silent: Silent, tmp_path: Path) -> None:
    """Not all can be backed up, which is said before anything is written; others can by their names."""
    place, told = {"NATS_URL": silent.url, "HOME": str(tmp_path)}, list[str]()
    config = config_from_environment(place)
    with pytest.raises(BackupError, match=f"no nats-server answers for .*{min(silent.missing)}"):
        await back_up(config, tmp_path / "all", (), told.append)
    assert not list((tmp_path / "all").iterdir())
    await back_up(config, tmp_path / "one", [silent.stream], told.append)
    assert (tmp_path / "one" / silent.stream / "backup.json").exists()
