"""A server takes over from another one on the same port while clients publish."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import grpc
import pytest

from tests.support.client import Client
from tests.support.nats_server import NatsServer
from tests.support.windshift_process import WindshiftProcess, wait_for, windshift
from tests.wire.consuming import ensure_consumer, subscribed
from tests.wire.management import ensure_stream


@pytest.fixture
def first(tmp_path: Path, nats_server: NatsServer) -> Iterator[WindshiftProcess]:
    """Run a server that shares its ports."""
    (tmp_path / "first").mkdir()
    with windshift(tmp_path / "first", "--share-port", NATS_URL=nats_server.url) as server:
        yield server


@pytest.fixture
def successor(tmp_path: Path, first: WindshiftProcess) -> Iterator[WindshiftProcess]:
    """Run a second server on the ports of the first one."""
    (tmp_path / "second").mkdir()
    ports = {"GRPC_PORT": str(first.api_port), "HEALTH_PORT": str(first.health_port)}
    environment = {**ports, "NATS_URL": first.environment["NATS_URL"]}
    with windshift(tmp_path / "second", "--share-port", **environment) as server:
        yield server


def test_takes_over_without_a_failed_call(first: WindshiftProcess, successor: WindshiftProcess) -> None:
    """No publish fails while one server drains and the other goes on, and none is stored twice."""
    clients = [Client(first.address) for _ in range(8)]
    clients[0].ensure_stream("handover", "handover")
    stop = Event()

    def publish(client: Client) -> list[int]:
        ids = []
        while not stop.is_set():
            ids.append(client.publish("handover"))
        return ids

    with ThreadPoolExecutor(len(clients)) as pool:
        running = [pool.submit(publish, client) for client in clients]
        assert first.stop() == 0
        stop.set()
        ids = [each for result in running for each in result.result()]
    assert sorted(ids) == list(range(1, len(ids) + 1))


def test_a_port_that_is_not_shared_is_in_use(tmp_path: Path, first: WindshiftProcess) -> None:
    """A server that does not share refuses a port that another one shares."""
    (tmp_path / "other").mkdir()
    other = WindshiftProcess(
        tmp_path / "other", NATS_URL=first.environment["NATS_URL"], GRPC_PORT=str(first.api_port)
    )
    other.launch()
    try:
        assert other.wait() == 1
    finally:
        other.kill()
    assert "the port is in use" in other.err


def test_a_channel_that_comes_back_finds_everything(tmp_path: Path, nats_server: NatsServer) -> None:
    """After a crash of the server a client goes on with its channel where it was, on the next server."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    stream = f"t{secrets.token_hex(6)}"
    with windshift(tmp_path / "one", NATS_URL=nats_server.url) as server:
        port = str(server.api_port)
        client = Client(server.address)
        ensure_stream(client, stream)
        ensure_consumer(client, stream)
        client.ensure_store(stream)
        revision = client.set(stream, "a", "kept")
        ids = [client.publish(f"{stream}.a", idempotency_key=f"k{number}") for number in range(3)]
        with subscribed(client, stream, 10) as call:
            assert [event.id for event in call.events(3)] == ids
            call.ack(ids[0])
            assert call.told()[1] == [ids[0]]
            server.kill()
            wait_for(call.call.done)
            assert call.call.code() is grpc.StatusCode.UNAVAILABLE
    with windshift(tmp_path / "two", NATS_URL=nats_server.url, GRPC_PORT=port):
        wait_for(lambda: answers(client, stream))
        ensure_consumer(client, stream, timeout=1.5)  # what was not acknowledged comes again then
        assert client.get(stream, "a").revision == revision
        assert client.publish(f"{stream}.a", idempotency_key="k2") == ids[2]
        with subscribed(client, stream, 10) as call:
            assert {(event.id, event.delivery_attempt) for event in call.events(2)} == {
                (ids[1], 2),
                (ids[2], 2),
            }
    client.channel.close()


def answers(client: Client, store: str) -> bool:
    """Say whether the client's channel has found a server."""
    try:
        client.get(store, "a", timeout=1)
    except grpc.RpcError:
        return False
    return True
