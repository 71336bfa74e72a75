"""A NATS that cannot store for this server: it is not ready, says what is missing, and heals by itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.client import Client, refused
from tests.support.nats_server import running_nats
from tests.support.windshift_process import WindshiftProcess, windshift
from tests.wire.management import ensure_stream

ACCOUNTS = """
accounts {{
  EVENTS: {{ {events} users: [{{user: events, password: p}}] }}
  SYS: {{ users: [{{user: sys, password: p}}] }}
}}
system_account: SYS
"""
ON = "jetstream: enabled,"
USER = "authorization { users: [ {user: me, password: p %s} ] }"
DENIED = ', permissions: {publish: {deny: ["$JS.API.STREAM.NAMES"]}}'


def write_accounts(directory: Path, events: str) -> Path:
    """Write a configuration with an account for events, of which `events` is told, and a system account."""
    config = directory / "nats.conf"
    config.write_text(ACCOUNTS.format(events=events))
    return config


@contextmanager
def launched(directory: Path, url: str, **environment: str) -> Iterator[WindshiftProcess]:
    """Run a server, and give it when it has found out that it cannot be ready."""
    process = WindshiftProcess(directory, NATS_URL=url, **environment)
    process.launch()
    try:
        process.wait_for(lambda: process.probe("/readyz").body.get("reason") == "no JetStream")
        yield process
    finally:
        process.kill()


def assert_not_ready(process: WindshiftProcess, what: str) -> None:
    """See that it tells what is missing, and that it never said that it is ready."""
    probe = process.probe("/readyz")
    assert probe.status == 503
    assert what in probe.body["detail"]
    assert process.probe("/healthz").status == 200
    assert process.out == ""
    assert [what in line for line in process.err.splitlines() if "not ready" in line] == [True]


def assert_heals(process: WindshiftProcess) -> None:
    """See that it becomes ready, and works."""
    process.wait_ready()
    assert process.probe("/readyz").status == 200
    client = Client(process.address)
    ensure_stream(client, "S")
    assert client.publish("S.a") == 1
    client.channel.close()


def test_no_jetstream(tmp_path: Path) -> None:
    """A nats-server without JetStream; with it from its next start on, the same process is ready.

    Meanwhile calls fail at once, and it can be stopped.
    """
    with running_nats(tmp_path / "nats", jetstream=False) as broker:
        with launched(tmp_path, broker.url) as server:
            assert_not_ready(server, "start it with -js")
            client = Client(server.address)
            begun = time.monotonic()
            with refused("UNAVAILABLE", "BROKER_UNAVAILABLE"):
                ensure_stream(client, "S", timeout=60)
            assert time.monotonic() - begun < 30
            client.channel.close()
            assert server.stop() == 0
        with launched(tmp_path, broker.url) as server:
            broker.kill()
            broker.jetstream = True
            broker.start()
            assert_heals(server)
            assert server.stop() == 0


def test_jetstream_goes(tmp_path: Path) -> None:
    """A server that was ready is not, once its NATS comes back without JetStream, and is again with it."""
    with running_nats(tmp_path / "nats") as broker, windshift(tmp_path, NATS_URL=broker.url) as server:
        for jetstream, status in ((False, 503), (True, 200)):
            broker.kill()
            server.wait_for(lambda: server.probe("/readyz").status == 503)
            broker.jetstream = jetstream
            broker.start()
            server.wait_for(
                lambda status=status: (
                    server.probe("/readyz").status == status  # type: ignore[misc]
                    and server.probe("/readyz").body.get("reason") in {None, "no JetStream"}
                )
            )
        assert server.stop() == 0


def test_system_account(tmp_path: Path) -> None:
    """A user of the system account, where JetStream never is."""
    with (
        running_nats(tmp_path / "nats", "--config", str(write_accounts(tmp_path, ON))) as broker,
        launched(tmp_path, f"nats://sys:p@127.0.0.1:{broker.port}") as server,
    ):
        assert_not_ready(server, "the system account never has it")
        assert server.stop() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_account_without_jetstream(tmp_path: Path, workers: str) -> None:
    """It is enabled for the account later, without a new connection: by one process, and by workers."""
    with running_nats(tmp_path / "nats", "--config", str(write_accounts(tmp_path, ""))) as broker:
        url = f"nats://events:p@127.0.0.1:{broker.port}"
        with launched(tmp_path, url, WINDSHIFT_WORKERS=workers) as server:
            assert server.out == ""
            write_accounts(tmp_path, ON)
            broker.reload()
            assert_heals(server)
            assert server.stop() == 0


def test_a_user_who_may_not_ask(tmp_path: Path) -> None:
    """A user without the permission that every documented one has; granted, it is ready."""
    config = tmp_path / "nats.conf"
    config.write_text(USER % DENIED)
    with (
        running_nats(tmp_path / "nats", "--config", str(config)) as broker,
        launched(tmp_path, f"nats://me:p@127.0.0.1:{broker.port}") as server,
    ):
        assert_not_ready(server, "may not publish to $JS.API.STREAM.NAMES")
        config.write_text(USER % "")
        broker.reload()
        assert_heals(server)
        assert server.stop() == 0
