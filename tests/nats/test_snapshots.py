"""Snapshots of streams while the connection moves to another server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nats.waiting import eventually, serving
from tests.support.broker import connect
from tests.support.cluster import cluster_of_three
from tests.support.nats_server import NatsServer
from windshift.nats import Message
from windshift.nats.jetstream.snapshots import SnapshotFailed, take_snapshot


@pytest.fixture
def plain_cluster(tmp_path: Path) -> Iterator[list[NatsServer]]:
    """Run three nats-servers without JetStream, so that a test plays it."""
    servers = cluster_of_three(tmp_path)
    for each in servers:
        each.jetstream = False
        each.start()
    yield servers
    for each in servers:
        each.kill()


async def test_a_server_that_is_left_meanwhile(plain_cluster: list[NatsServer]) -> None:
    """The snapshot fails, and is told nothing twice."""
    first, second, third = plain_cluster
    async with connect(f"{first.url},{second.url}") as broker, connect(third.url) as player:
        begun, pieces = asyncio.get_running_loop().create_future(), list[bytes]()

        def begin(asked: Message) -> None:
            begun.set_result(json.loads(asked.body)["deliver_subject"].encode())
            player.connection.publish(asked.reply, b'{"config":{},"state":{}}')
            player.connection.publish(begun.result(), b"first")

        player.connection.subscribe(b"$JS.API.STREAM.SNAPSHOT.S", begin)
        taking = asyncio.create_task(take_snapshot(broker.api, "S", pieces.append))
        inbox = await begun
        await eventually(lambda: bool(pieces))
        serving(broker, first, second).enter_lame_duck_mode()
        await eventually(lambda: broker.connection.reconnects == 1)
        player.connection.publish(inbox, b"second")
        player.connection.publish(inbox, b"")  # the end
        with pytest.raises(SnapshotFailed, match="lost"):
            async with asyncio.timeout(30):
                await taking
        assert pieces == [b"first"]
