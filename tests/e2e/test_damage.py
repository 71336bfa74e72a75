"""A data directory that is not as it was left: told by name at the start, and served if that is accepted."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.client import Client
from tests.support.windshift_process import WindshiftProcess, windshift
from tests.wire.consuming import delete_consumer, ensure_consumer, subscribed
from tests.wire.management import ensure_stream

ENTRIES = 20


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a data directory with a stream for each damage, and leave it."""
    directory = tmp_path_factory.mktemp("left")
    with windshift(directory) as server:
        client = Client(server.address)
        for stream in ("sound", *DAMAGES):
            fill(client, stream)
        client.channel.close()
        assert server.stop() == 0
    return server.data


def fill(client: Client, stream: str) -> None:
    """Make a stream, or a store, with 20 entries; a stream has a consumer of which 5 are settled."""
    if stream.startswith("KV_"):
        client.ensure_store(stream.removeprefix("KV_"))
        for number in range(ENTRIES):
            client.set(stream.removeprefix("KV_"), f"key-{number}")
        return
    ensure_stream(client, stream)
    ensure_consumer(client, stream)
    for number in range(ENTRIES):
        client.publish(f"{stream}.{number}")
    with subscribed(client, stream) as call:
        call.ack(*(event.id for event in call.events(5)))
        call.told()


@pytest.fixture
def data(left: Path, tmp_path: Path) -> Path:
    """Give a copy of it, which is where a server in `tmp_path` has its data."""
    return shutil.copytree(left, tmp_path / "data")


def flip(file: Path) -> None:
    """Turn all bits of the byte in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


def cut(file: Path) -> None:
    """Take away the second half of a file."""
    os.truncate(file, file.stat().st_size // 2)


def garble(file: Path) -> None:
    """Make it no JSON."""
    file.write_text("{")


def extend(file: Path) -> None:
    """Have it ask for what only a nats-server of the future has."""
    file.write_text(re.sub(r'"_nats.req.level":\s*"\d+"', '"_nats.req.level":"999"', file.read_text()))


GIVEN_AGAIN = r"its last id was 20 and is \d+: ids would be given a second time"
FEWER = r"\d+ of 20 events are gone"

DAMAGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "event": (flip, "msgs/1.blk", GIVEN_AGAIN),
    "KV_values": (flip, "msgs/1.blk", GIVEN_AGAIN),
    "half": (cut, "msgs/1.blk", FEWER),
    "block": (Path.unlink, "msgs/1.blk", FEWER),
    "blocks": (shutil.rmtree, "msgs", "its last id was 20 and is 0: ids would be given a second time"),
    "config": (flip, "meta.inf", r"cannot be read: .*/streams/config/meta\.inf.*"),
    "no-config": (Path.unlink, "meta.inf", r"cannot be read: .*/streams/no-config/meta\.inf.*"),
    "gone": (shutil.rmtree, "", "its directory is gone"),
    "consumer": (garble, "obs/c/meta.inf", r"its consumer c cannot be read: .*/obs/c/.*"),
    "future": (extend, "obs/c/meta.inf", "cannot be read: .*unsupported.*"),
    "progress": (Path.unlink, "obs/c/o.dat", "its consumer c had settled all up to id 5, .*"),
}
"""What happens to which file of a stream of this name, and what is said of it."""


def harm(data: Path, stream: str) -> None:
    """Do it."""
    act, path, _ = DAMAGES[stream]
    act(data / "jetstream/$G/streams" / stream / path)


def told(server: WindshiftProcess, stream: str, text: str) -> bool:
    """Say whether this damage stands in the log."""
    return re.search(f'"the data of stream {stream} is damaged: {text}"', server.err) is not None


def held(directory: Path, **environment: str) -> WindshiftProcess:
    """Start a server that finds damage, wait until it says so, and stop it."""
    server = WindshiftProcess(directory, LOG_LEVEL="warning", **environment)
    server.launch()
    try:
        server.wait_for(lambda: server.probe("/readyz").body.get("reason") == "data is damaged")
        names = server.probe("/readyz").body["detail"].removeprefix("streams: ")
        assert f"WINDSHIFT_NATS_ACCEPT_LOSS={names}" in server.err
        assert server.probe("/healthz").status == 200
        assert server.out == ""
        assert server.stop() == 0
    finally:
        server.kill()
    return server


def test_damaged(tmp_path: Path, data: Path) -> None:
    """All of it is named, nothing is served, and probes say so; what is accepted is no damage any more."""
    for stream in DAMAGES:
        harm(data, stream)
    server = held(tmp_path)
    assert [name for name, (_, _, text) in DAMAGES.items() if not told(server, name, text)] == [], server.err
    assert "stream sound " not in server.err
    assert ",".join(sorted(DAMAGES)) in server.err
    with windshift(tmp_path, WINDSHIFT_NATS_ACCEPT_LOSS=",".join(DAMAGES)) as server:
        client = Client(server.address)
        assert client.publish("sound.a") == ENTRIES + 1
        ensure_stream(client, "config")
        ensure_stream(client, "future")
        ensure_consumer(client, "consumer")
        client.channel.close()
        assert server.stop() == 0
    aside = {each.name.rpartition("-")[0] for each in (data / "damaged").iterdir()}
    assert aside == {"config", "no-config", "future", "consumer-obs-c"}
    with windshift(tmp_path) as server:
        assert server.stop() == 0
        assert "damaged" not in server.err


def test_a_log_that_is_moved_aside(tmp_path: Path, data: Path) -> None:
    """What nats-server says while it starts is found though it begins another file, as from 10 MB on."""
    harm(data, "consumer")
    with (data / "nats-server.log").open("ab") as log:
        log.write(b"\n" * 11_000_000)
    server = held(tmp_path)
    assert len(list(data.glob("nats-server.log.*"))) == 1
    assert told(server, "consumer", DAMAGES["consumer"][2]), server.err


def test_what_is_accepted(tmp_path: Path, data: Path) -> None:
    """What is accepted for one stream is not accepted for another; `all` is for all."""
    harm(data, "event")
    held(tmp_path, WINDSHIFT_NATS_ACCEPT_LOSS="sound,half")
    with windshift(tmp_path, WINDSHIFT_NATS_ACCEPT_LOSS="all") as server:
        assert "the data of stream event is damaged" in server.err
        assert server.stop() == 0


def test_after_a_crash(tmp_path: Path, data: Path) -> None:
    """What was removed before a crash is no damage; an id that went back is."""
    with windshift(tmp_path) as server:
        crash_without_its_consumer(server)
    with windshift(tmp_path) as server:
        assert "damaged" not in server.err
        crash(server)
    harm(data, "event")
    harm(data, "config")
    server = held(tmp_path)
    assert told(server, "event", GIVEN_AGAIN)
    assert told(server, "config", DAMAGES["config"][2])


def test_a_crash_after_files_were_moved(tmp_path: Path, data: Path) -> None:
    """What was removed between accepting damage and the crash is no damage."""
    harm(data, "config")
    with windshift(tmp_path, WINDSHIFT_NATS_ACCEPT_LOSS="config") as server:
        crash_without_its_consumer(server)
    with windshift(tmp_path) as server:
        assert "damaged" not in server.err
        assert server.stop() == 0


def crash_without_its_consumer(server: WindshiftProcess) -> None:
    """Delete the consumer of the sound stream, then kill the server."""
    client = Client(server.address)
    delete_consumer(client, "sound")
    client.channel.close()
    crash(server)


def crash(server: WindshiftProcess) -> None:
    """Kill it with its nats-server."""
    nats = server.nats_pid
    assert nats is not None
    os.kill(nats, signal.SIGKILL)
    server.kill()
