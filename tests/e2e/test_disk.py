"""A server whose embedded NATS has a disk that is full, grows, or cannot be written to."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.e2e.test_process import refused as refused_start
from tests.support.client import Client, read_refusal, refused
from tests.support.small_disk import SmallDisk, small_disk
from tests.support.windshift_process import WindshiftProcess, windshift
from tests.wire.consuming import ensure_consumer, subscribed
from tests.wire.management import ensure_stream

AT_ONCE = 8.0
"""Seconds that a busy machine may need; calls below have a deadline of many more."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Mount a small disk where the server has its data."""
    with small_disk(tmp_path / "data") as mounted:
        yield mounted


@pytest.fixture
def server(tmp_path: Path, disk: SmallDisk) -> Iterator[WindshiftProcess]:
    """Run a server on it."""
    with windshift(tmp_path) as process:
        yield process


@pytest.fixture
def client(server: WindshiftProcess) -> Iterator[Client]:
    """Have streams `S` and a store `s` in it."""
    made = Client(server.address)
    ensure_stream(made, "S")
    ensure_consumer(made, "S")
    made.ensure_store("s")
    made.publish("S.a", "before")
    made.set("s", "key", "before")
    yield made
    made.channel.close()


def reason(server: WindshiftProcess) -> str:
    """Return why it is not ready; empty if it is."""
    return server.probe("/readyz").body.get("reason", "")


def refuses(client: Client) -> None:
    """See that all that would be stored is refused at once, and that reads are answered."""
    started = time.monotonic()
    for write in (
        lambda: client.publish("S.a"),
        lambda: client.publish("S.a", idempotency_key="k"),
        lambda: client.set("s", "key"),
        lambda: ensure_stream(client, "T"),
        lambda: client.ensure_store("t"),
    ):
        with refused("RESOURCE_EXHAUSTED", "STORAGE_FULL"):
            write()
    assert time.monotonic() - started < AT_ONCE
    client.ensure_store("s")
    assert client.get("s", "key").revision == 1


def test_full(server: WindshiftProcess, client: Client, disk: SmallDisk) -> None:
    """Before the disk is full writes are refused; probes and the log say why; with room they are taken."""
    disk.leave(megabytes=1)
    server.wait_for(lambda: reason(server) == "NATS can store nothing")
    assert re.search(r"[01]\.\d MB free of 33\.6 MB", server.probe("/readyz").body["detail"])
    assert str(disk.directory) in server.err
    assert "its disk is full" in server.err
    refuses(client)
    nats = server.nats_pid
    disk.make_room()
    server.wait_for(lambda: reason(server) == "")
    assert client.publish("S.a") == 2
    assert server.nats_pid == nats  # it had failed at nothing


def test_full_at_once(server: WindshiftProcess, client: Client, disk: SmallDisk) -> None:
    """What nats-server has failed at is mended without a restart of ours, and no ack is forgotten."""
    with subscribed(client, "S") as call:
        disk.fill()
        started = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            client.publish("S.a", "x" * 100_000)
        assert read_refusal(caught.value).reason in {"OUTCOME_UNKNOWN", "STORAGE_FULL"}
        assert time.monotonic() - started < AT_ONCE
        server.wait_for(lambda: reason(server) == "NATS can store nothing")
        refuses(client)
        (event,) = call.events(1)
        call.ack(event.id)
        call.told()
    disk.make_room()
    server.wait_for(lambda: reason(server) == "")
    assert client.publish("S.a", "after") == 2
    with subscribed(client, "S") as call:
        assert [each.id for each in call.events(1)] == [2]


def test_grows(server: WindshiftProcess, client: Client, disk: SmallDisk) -> None:
    """A disk that becomes larger holds more, at once, in the eyes of nats-server too."""
    large = "x" * 1_000_000
    with refused("RESOURCE_EXHAUSTED", "STORAGE_FULL"):
        for _ in range(40):
            client.publish("S.a", large)
    disk.resize(96)
    server.wait_for(lambda: reason(server) == "")
    server.wait_for(lambda: "Reloaded server configuration" in (server.data / "nats-server.log").read_text())
    assert "the disk has grown" in server.err
    for number in range(40):  # with keys, since nats-server ends the connection to take the new limit
        client.publish("S.a", large, idempotency_key=str(number))
    disk.resize(70)  # less than nats-server may store
    server.wait_for(lambda: reason(server) == "NATS can store nothing")
    with refused("RESOURCE_EXHAUSTED", "STORAGE_FULL"):
        client.publish("S.a", large)


def test_takes_no_files(server: WindshiftProcess, client: Client) -> None:
    """Where no file can be made nothing is stored; nats-server, which may have failed, is started anew."""
    nats = server.nats_pid
    (server.data / "run").rename(server.data / "elsewhere")
    server.wait_for(lambda: reason(server) == "NATS can store nothing")
    assert "its disk cannot be written to" in server.err
    refuses(client)
    (server.data / "elsewhere").rename(server.data / "run")
    server.wait_for(lambda: reason(server) == "")
    assert client.publish("S.a") == 2
    server.wait_for(lambda: server.nats_pid not in {nats, None})


def test_full_at_the_start(tmp_path: Path, disk: SmallDisk) -> None:
    """Where there is no room for its own files it does not start, and says what to do."""
    disk.fill()
    status, told = refused_start(tmp_path)
    assert status == 1
    assert "No space left on device; make room there, or set another WINDSHIFT_DATA_DIR" in told
