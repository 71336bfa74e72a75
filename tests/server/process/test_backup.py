"""Backups: what is made of one is what there was, and what cannot be done is told."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.support.broker import Broker, connect, in_seconds
from tests.support.nats_server import NatsServer, running_nats
from windshift.cli.main import main
from windshift.nats import NoReply
from windshift.nats.headers import block
from windshift.nats.jetstream.api import JetStream
from windshift.nats.jetstream.snapshots import take_snapshot
from windshift.server.config.read import config_from_environment
from windshift.server.config.tree import ServerConfig
from windshift.server.process.backup import BackupError, back_up, restore
from windshift.server.process.embedded.nats import EmbeddedNats

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "operations" / "backup.md"
HOUR = 3_600_000_000_000


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """Run a nats-server."""
    with running_nats(tmp_path / "nats") as running:
        yield running


def config(url: str | None, tmp_path: Path) -> ServerConfig:
    """Return the configuration of a server with that broker, or with an embedded one."""
    place = {"WINDSHIFT_DATA_DIR": str(tmp_path / "data"), "HOME": str(tmp_path)}
    return config_from_environment(place if url is None else {**place, "NATS_URL": url})


class Serving(list[str]):
    """Lines that were told."""

    def __contains__(self, part: object) -> bool:
        return any(str(part) in line for line in self)


async def fill(user: Broker, events: int = 300) -> None:
    """Make a stream with a consumer that is half-way, a store, dead letters, and a stream in memory."""
    await user.stream("ORDERS", "orders.>", storage="file", duplicate_window=HOUR)
    for number in range(events):
        await user.publish("orders.a", b"x" * 1000, {"Nats-Msg-Id": f"k{number}"})
    await user.stream("KV_accounts", "$KV.accounts.>", storage="file", max_msgs_per_subject=5)
    for revision in range(3):
        await user.publish("$KV.accounts.a", b"%d" % revision)
    await user.stream("WS_DEAD_LETTERS", "_WS.dead.>", storage="file")
    await user.publish("_WS.dead.ORDERS.c.1", b"letter")
    await user.stream("MEMORY", "memory.>")
    durable = {"durable_name": "c", "ack_policy": "explicit", "max_ack_pending": 1000}
    await user.api.create_consumer("ORDERS", "c", durable, in_seconds(30))
    for number in range(10):
        reply = await pulled(user, "ORDERS", "c")
        if number < 7:
            assert await user.requests.request(reply, b"+ACK", b"", in_seconds(30)) == b""


async def pulled(user: Broker, stream: str, consumer: str) -> bytes:
    """Have one event delivered, and return where to acknowledge it."""
    arrived: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    inbox = user.connection.inbox()
    subscription = user.connection.subscribe(inbox, lambda message: arrived.set_result(message.reply))
    user.connection.publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}".encode(), b"1", b"", inbox)
    async with asyncio.timeout(20):
        reply = await arrived
    subscription.unsubscribe()
    return reply


async def seen(user: Broker, stream: str) -> Any:
    """Return what there is in a stream, but for how many consumers."""
    state = (await user.api.stream_info(stream, in_seconds(30)))["state"]
    return {name: state[name] for name in ("messages", "bytes", "first_seq", "last_seq", "last_ts")}


async def position(user: Broker) -> Any:
    """Return where the consumer is."""
    info = await user.api.consumer_info("ORDERS", "c", in_seconds(30))
    assert info is not None
    return info["ack_floor"]["stream_seq"], info["delivered"]["stream_seq"], info["num_ack_pending"]


async def test_everything_is_there_again(broker: NatsServer, tmp_path: Path) -> None:
    """Events, values, dead letters and positions; keys too, once nats-server has started anew."""
    told, names = Serving(), ("ORDERS", "KV_accounts", "WS_DEAD_LETTERS")
    async with connect(broker.url) as user:
        await fill(user)
        before, at = [await seen(user, name) for name in names], await position(user)
        await back_up(config(broker.url, tmp_path), tmp_path / "backup", (), told.append)
        assert "MEMORY: left out" in told
        assert "ORDERS: 300 messages" in told
        for name in names:
            await user.api.call(f"STREAM.DELETE.{name}", None, in_seconds(30))
        await restore(config(broker.url, tmp_path), tmp_path / "backup", (), None, told.append)
        assert [await seen(user, name) for name in names] == before
        assert await position(user) == at == (7, 10, 3)
    broker.stop()
    broker.start()
    async with connect(broker.url) as user:
        assert (await user.publish("orders.a", b"", {"Nats-Msg-Id": "k5"})).duplicate
        assert await seen(user, "ORDERS") == before[0]
    assert {path.stat().st_mode & 0o77 for path in (tmp_path / "backup").rglob("*")} == {0}


async def test_from_one_data_directory_to_another(tmp_path: Path) -> None:
    """An embedded broker whose server is stopped; keys are remembered at its next start."""
    first, second = config(None, tmp_path / "a"), config(None, tmp_path / "b")
    told = Serving()
    async with embedded(first) as user:
        await fill(user, events=20)
        with pytest.raises(BackupError, match="in use by another server"):
            async with asyncio.timeout(60):
                await back_up(first, tmp_path / "early", (), told.append)
    await back_up(first, tmp_path / "backup", ["ORDERS"], told.append)
    assert {path.name for path in (tmp_path / "backup").iterdir()} == {"ORDERS", "streams.json"}
    await restore(second, tmp_path / "backup", (), None, told.append)
    async with embedded(second) as user:
        assert (await user.publish("orders.a", b"", {"Nats-Msg-Id": "k5"})).duplicate
        assert await position(user) == (7, 10, 3)


async def test_damaged_data(tmp_path: Path) -> None:
    """It is told and not backed up, unless that is accepted, or sound streams are asked for."""
    of, backup = config(None, tmp_path), tmp_path / "backup"
    async with embedded(of) as user:
        await user.stream("DAMAGED", storage="file")
        await user.stream("SOUND", storage="file")
    (of.embedded.data_dir / "jetstream" / "$G" / "streams" / "DAMAGED" / "meta.inf").write_text("{")
    for _ in range(2):
        with pytest.raises(BackupError, match=r"^the data of stream DAMAGED is damaged: cannot be read"):
            await back_up(of, backup, (), print)
    with pytest.raises(BackupError, match="WINDSHIFT_NATS_ACCEPT_LOSS=DAMAGED to back up"):
        await back_up(of, backup, ["DAMAGED", "SOUND"], print)
    assert list(backup.iterdir()) == []
    told = Serving()
    await back_up(of, backup, ["SOUND"], told.append)
    assert "1 streams are in" in told
    assert "DAMAGED" not in told
    accepting = replace(of, embedded=replace(of.embedded, accepted_losses=("DAMAGED",)))
    await back_up(accepting, tmp_path / "left", (), told.append)
    assert "the data of stream DAMAGED is damaged: cannot be read" in told
    assert {path.name for path in (tmp_path / "left").iterdir()} == {"SOUND", "streams.json"}


async def test_a_part_of_a_stream_is_told(tmp_path: Path) -> None:
    """Where NATS takes only smaller events, it keeps those before the first that is too large."""
    (tmp_path / "large.conf").write_text("max_payload: 2MB\n")
    backup = tmp_path / "backup"
    with running_nats(tmp_path / "old", "--config", str(tmp_path / "large.conf")) as old:
        async with connect(old.url) as user:
            await user.stream("ORDERS", "orders.>", storage="file")
            await user.publish("orders.a", b"small")
            await user.publish("orders.a", b"x" * 1_500_000)
        await back_up(config(old.url, tmp_path), backup, (), Serving().append)
    with running_nats(tmp_path / "new") as new:
        with pytest.raises(BackupError, match=r"a part of it is there \(1 messages\): delete that"):
            await restore(config(new.url, tmp_path), backup, (), None, Serving().append)
        with pytest.raises(BackupError, match="these exist already: ORDERS"):
            await restore(config(new.url, tmp_path), backup, (), None, Serving().append)


async def test_events_that_have_reached_their_age_since(broker: NatsServer, tmp_path: Path) -> None:
    """They do not come back, their ids are not given again, and the other streams are restored too."""
    backup, of, told = tmp_path / "backup", config(broker.url, tmp_path), Serving()
    async with connect(broker.url) as user:
        await two_streams(user, of, backup)
        await asyncio.sleep(1.5)  # nats-server leaves out those whose time is over as it restores them
        await restore(of, backup, (), None, told.append)
        assert "KEPT: 3 messages" in told
        assert (await user.publish("AGED.a")).sequence == 4


@pytest.mark.parametrize(
    ("stream", "said", "wrong"),
    [
        ("AGED", {"last_seq": 4}, "AGED is not restored as it was: its last id is 3, and was 4"),
        ("KEPT", {"last_seq": 4}, "KEPT is not restored as it was: its last id is 3, and was 4"),
        ("KEPT", {"messages": 4}, "KEPT is not restored as it was: it has 3 events of 4"),
    ],
)
async def test_events_that_are_missing(
    broker: NatsServer, tmp_path: Path, stream: str, said: dict[str, int], wrong: str
) -> None:
    """A stream that lacks what its backup says is told."""
    backup, of = tmp_path / "backup", config(broker.url, tmp_path)
    async with connect(broker.url) as user:
        await two_streams(user, of, backup)
    changed(backup / stream, "state", **said)
    with pytest.raises(BackupError, match=wrong):
        await restore(of, backup, [stream], None, Serving().append)


async def two_streams(user: Broker, of: ServerConfig, backup: Path) -> None:
    """Make two streams, of which one keeps events for a second, back them up, and delete them."""
    for name, headers in (("AGED", {"Nats-TTL": "1s"}), ("KEPT", {})):
        await user.stream(name, storage="file", allow_msg_ttl=bool(headers))
        for _ in range(3):
            await user.publish(f"{name}.a", headers=headers)
    await back_up(of, backup, (), Serving().append)
    for name in ("AGED", "KEPT"):
        await user.api.call(f"STREAM.DELETE.{name}", None, in_seconds(30))


def changed(place: Path, part: str, **values: int) -> None:
    """Change what the description of a stream's backup says."""
    description = json.loads((place / "backup.json").read_text())
    description[part].update(values)
    (place / "backup.json").write_text(json.dumps(description))


@asynccontextmanager
async def embedded(of: ServerConfig) -> AsyncIterator[Broker]:
    """Run the embedded broker of a configuration."""
    nats = EmbeddedNats(of.embedded)
    await nats.start()
    address = nats.address
    try:
        async with connect(f"nats://{address.user}:{address.password}@127.0.0.1:{address.port}") as user:
            yield user
    finally:
        await nats.stop()


async def test_what_cannot_be_done_is_told(broker: NatsServer, tmp_path: Path) -> None:
    """Each error says what, and nothing is written over."""
    backup, of = tmp_path / "backup", config(broker.url, tmp_path)
    async with connect(broker.url) as user:
        await user.stream("ORDERS", "orders.>", storage="file")
        await user.publish("orders.a", b"x")
        with pytest.raises(BackupError, match="there is no stream called NONE"):
            await back_up(of, backup, ["NONE", "ORDERS"], print)
        with pytest.raises(BackupError, match="holds no backup"):
            await restore(of, backup, (), None, print)
        await back_up(of, backup, (), print)
        with pytest.raises(BackupError, match="is not empty"):
            await back_up(of, backup, (), print)
        with pytest.raises(BackupError, match="these exist already: ORDERS"):
            await restore(of, backup, (), None, print)
        with pytest.raises(BackupError, match="there is no stream called NONE"):
            await restore(of, backup, ["NONE"], None, print)
        await user.api.call("STREAM.DELETE.ORDERS", None, in_seconds(30))
        with pytest.raises(BackupError, match=r"ORDERS is not restored: .*replicas > 1"):
            await restore(of, backup, (), 3, print)
        (backup / "ORDERS" / "stream.tar.s2").write_bytes(b"\0" * 1000)
        with pytest.raises(BackupError, match="ORDERS is not restored"):
            await restore(of, backup, (), None, print)
        (backup / "ORDERS" / "backup.json").write_text("[]")
        with pytest.raises(BackupError, match=r"backup\.json cannot be used"):
            await restore(of, backup, (), None, print)
        shutil.rmtree(backup)
        backup.touch()
        with pytest.raises(BackupError, match="cannot be used: File exists"):
            await back_up(of, backup, (), print)
    broker.kill()


class Interrupted(Exception):
    """What ends a backup."""


async def test_a_backup_that_was_interrupted(broker: NatsServer, tmp_path: Path) -> None:
    """It is not restored as if it was whole; what it has is, by name."""
    backup, of, told = tmp_path / "backup", config(broker.url, tmp_path), Serving()

    def interrupt(_: str) -> None:
        raise Interrupted

    async with connect(broker.url) as user:
        for name in ("A", "B", "C"):
            await user.stream(name, storage="file")
        with pytest.raises(Interrupted):
            await back_up(of, backup, (), interrupt)
        for name in ("A", "B", "C"):
            await user.api.call(f"STREAM.DELETE.{name}", None, in_seconds(30))
    with pytest.raises(BackupError, match=r"is not whole, it lacks B, C: .* with --stream"):
        await restore(of, backup, (), None, told.append)
    assert told == []
    await restore(of, backup, ["A"], None, told.append)
    assert "1 streams are restored" in told
    (backup / "streams.json").write_text("1")
    with pytest.raises(BackupError, match=r"streams\.json cannot be used"):
        await restore(of, backup, (), None, print)
    (backup / "streams.json").unlink()  # as older versions made them
    with pytest.raises(BackupError, match="these exist already: A"):
        await restore(of, backup, (), None, print)


async def test_an_interruption_while_dead_letters_are_taken_again(
    broker: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then they are not whole, and nothing is restored."""
    backup, of, told = tmp_path / "backup", config(broker.url, tmp_path), Serving()
    times = count(1)

    async def taken(api: JetStream, stream: str, write: Callable[[bytes], object]) -> Any:
        if stream == "WS_DEAD_LETTERS" and next(times) == 2:
            write(b"the beginning of it")
            raise Interrupted
        found = await take_snapshot(api, stream, write)
        if stream == "WS_DEAD_LETTERS":
            await user.publish("_WS.dead.ORDERS.c.2", b"another one")
        return found

    monkeypatch.setattr("windshift.server.process.backup.take_snapshot", taken)
    async with connect(broker.url) as user:
        await fill(user, events=20)
        with pytest.raises(Interrupted):
            await back_up(of, backup, (), print)
        for name in ("ORDERS", "KV_accounts", "WS_DEAD_LETTERS"):
            await user.api.call(f"STREAM.DELETE.{name}", None, in_seconds(30))
    with pytest.raises(BackupError, match="is not whole, it lacks WS_DEAD_LETTERS:"):
        await restore(of, backup, (), None, told.append)
    assert told == []


async def test_the_documented_user(tmp_path: Path) -> None:
    """It can back up and restore with what the document says, and without one of the lines it says so."""
    (permissions,) = re.findall(
        r"^```\n(# windshift-backup\.conf.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL
    )
    (tmp_path / "windshift-backup.conf").write_text(permissions)
    main_file = tmp_path / "nats.conf"
    users = '{ user: admin, password: "a" }, { user: backup, password: "b", permissions: $WINDSHIFT_BACKUP }'
    main_file.write_text(f'include "windshift-backup.conf"\nauthorization {{ users: [{users}] }}\n')
    with running_nats(tmp_path / "nats", "--config", str(main_file)) as broker:
        of = config(f"nats://backup:b@127.0.0.1:{broker.port}", tmp_path)
        async with connect(f"nats://admin:a@127.0.0.1:{broker.port}") as admin:
            await admin.stream("ORDERS", "orders.>", storage="file")
            await admin.publish("orders.a", os.urandom(1_000_000))  # in several pieces
            await back_up(of, tmp_path / "backup", (), print)
            await admin.api.call("STREAM.DELETE.ORDERS", None, in_seconds(30))
            await restore(of, tmp_path / "backup", (), None, print)
            assert (await seen(admin, "ORDERS"))["messages"] == 1
        assert [line for line in broker.log.splitlines() if "iolation" in line] == []
        user = of.nats.servers[0]
        async with connect(user.url.replace("://", f"://{user.user}:{user.password}@")) as backup:
            refused = await backup.requests.request(b"orders.a", b"", block(()), in_seconds(20))
            assert refused is NoReply.FORBIDDEN
        (tmp_path / "windshift-backup.conf").write_text(re.sub(r'"\$JS.*SNAPSHOT\.\*"\n', "\n", permissions))
        broker.reload()
        with pytest.raises(BackupError, match="this user may not do it"):
            await back_up(of, tmp_path / "again", (), print)


def test_the_command_line(tmp_path: Path) -> None:
    """It exits with 1 and a line for what cannot be done, and with 2 for a wrong environment."""
    with running_nats(tmp_path / "nats") as broker:
        environment = {"NATS_URL": broker.url}
        done = CliRunner().invoke(main, ["backup", str(tmp_path / "b")], env=environment)
        assert (done.exit_code, done.stdout) == (0, f"0 streams are in {tmp_path / 'b'}\n")
        done = CliRunner().invoke(main, ["restore", str(tmp_path / "b")], env=environment)
        assert done.exit_code == 1
        assert done.stderr.startswith(f"windshift: {tmp_path / 'b'} holds no backup")
    done = CliRunner().invoke(main, ["backup", str(tmp_path / "c")], env={"WINDSHIFT_DRAIN": "1"})
    assert done.exit_code == 2
    assert "WINDSHIFT_DRAIN" in done.stderr


async def test_descriptions_are_those_of_other_tools(broker: NatsServer, tmp_path: Path) -> None:
    """`nats stream restore` reads `config` and `state` of `backup.json`."""
    async with connect(broker.url) as user:
        await user.stream("ORDERS", "orders.>", storage="file")
        await back_up(config(broker.url, tmp_path), tmp_path / "b", (), print)
    found = json.loads((tmp_path / "b" / "ORDERS" / "backup.json").read_text())
    assert found["config"]["subjects"] == ["orders.>"]
    assert found["state"]["messages"] == 0
