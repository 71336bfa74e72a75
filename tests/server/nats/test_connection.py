"""The connection against real servers: starting, losing and finding them again."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from tests.support.broker import QUICK, Broker, connect, in_seconds
from tests.support.nats_server import NatsServer
from windshift.server.errors import BrokerUnavailable
from windshift.server.nats.connection import Connection, NotConnected
from windshift.server.nats.options import parse_servers


async def eventually(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


async def test_messages_arrive(broker: Broker, unique: Callable[[], str]) -> None:
    """What is published arrives at every subscription, in order, with its headers."""
    subject, got = unique(), asyncio.Queue[Msg]()

    def keep(message: Msg) -> None:
        got.put_nowait(message)

    subscription = await broker.connection.subscribe(subject, keep)
    for number in range(3):
        broker.connection.publish(subject, b"%d" % number, {"Number": str(number)})
    messages = [await got.get() for _ in range(3)]
    assert [message.data for message in messages] == [b"0", b"1", b"2"]
    assert [message.headers for message in messages] == [{"Number": str(number)} for number in range(3)]
    await subscription.unsubscribe()
    broker.connection.publish(subject, b"late")
    await broker.api.call("INFO", None, in_seconds(5))
    assert got.empty()


async def test_start_without_server_names_it_once() -> None:
    """Without a server the start fails with one error that names it and hides the password."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        servers = parse_servers(f"nats://me:s3cret@127.0.0.1:{port}")
        connection = Connection(replace(QUICK, servers=servers, start_timeout=timedelta(milliseconds=50)))
        with pytest.raises(BrokerUnavailable, match=f"127.0.0.1:{port}.*refused the connection") as caught:
            await connection.connect()
    assert "s3cret" not in repr(caught.value) + connection.last_error
    assert not connection.connected
    await connection.close()


async def test_start_with_wrong_password_fails_at_once(tmp_path: Path) -> None:
    """Refused credentials are not tried for the whole start timeout."""
    server = NatsServer(tmp_path, "--user", "me", "--pass", "p@ss word")
    server.start()
    try:
        wrong = parse_servers(f"nats://me:wrong@127.0.0.1:{server.port}")
        with pytest.raises(BrokerUnavailable, match="refused the credentials"):
            async with asyncio.timeout(5):
                await Connection(replace(QUICK, servers=wrong, start_timeout=timedelta(minutes=1))).connect()
        async with connect(f"nats://me:p%40ss%20word@127.0.0.1:{server.port}") as broker:
            assert broker.connection.connected
    finally:
        server.kill()


async def test_token_in_url(tmp_path: Path) -> None:
    """A URL's user without a password is a token."""
    server = NatsServer(tmp_path, "--auth", "t0ken")
    server.start()
    try:
        async with connect(f"nats://t0ken@127.0.0.1:{server.port}") as broker:
            assert broker.connection.connected
    finally:
        server.kill()


async def test_silent_server_is_given_up() -> None:
    """A server that takes the connection and says nothing counts as unreachable."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        options = replace(
            QUICK,
            servers=parse_servers(f"127.0.0.1:{silent.getsockname()[1]}"),
            connect_timeout=timedelta(milliseconds=50),
            start_timeout=timedelta(milliseconds=100),
        )
        with pytest.raises(BrokerUnavailable, match="did not answer in time"):
            await Connection(options).connect()


async def test_comes_back_with_its_subscriptions(own_nats_server: NatsServer, own_broker: Broker) -> None:
    """After a crash of the server the connection and its subscriptions are there again."""
    connection, got = own_broker.connection, asyncio.Queue[bytes]()
    told: list[str] = []
    connection.on_lost.append(lambda: told.append("lost"))
    connection.on_connected.append(lambda: told.append("connected"))

    def keep(message: Msg) -> None:
        got.put_nowait(message.data)

    await connection.subscribe("news", keep)
    own_nats_server.kill()
    await eventually(lambda: not connection.connected)
    with pytest.raises(NotConnected):
        connection.publish("news", b"lost")
    await eventually(lambda: told == ["lost"])
    assert connection.last_error
    own_nats_server.start()
    await connection.wait_connected(in_seconds(10))
    connection.publish("news", b"found")
    assert await got.get() == b"found"
    assert told == ["lost", "connected"]
    assert connection.last_error == ""


async def test_recovers_from_protocol_error(own_broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    """A broker that ends the connection over an oversized message is connected to again at once."""
    connection = own_broker.connection
    connection.publish("big", bytes(connection.max_payload), {"One": "too many"})
    await eventually(lambda: connection.reconnects == 1)
    await own_broker.api.call("INFO", None, in_seconds(5))
    assert "NATS: the connection ended (maximum payload violation)" in caplog.text


async def test_frozen_server_is_noticed_and_left(
    own_nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A server that answers no pings is left for another one, unsent data notwithstanding."""
    other = NatsServer(tmp_path_factory.mktemp("other"))
    other.start()
    options = replace(
        QUICK, ping_interval=timedelta(milliseconds=100), connect_timeout=timedelta(milliseconds=500)
    )
    try:
        async with connect(f"{own_nats_server.url},{other.url}", options) as broker:
            client = broker.connection.client
            assert client is not None
            assert client.connected_url is not None
            frozen = other if client.connected_url.port == other.port else own_nats_server
            frozen.freeze()
            for _ in range(64):  # far more than the socket's buffers hold
                broker.connection.publish("x", bytes(broker.connection.max_payload))
            await eventually(lambda: broker.connection.reconnects == 1)
            await broker.api.call("INFO", None, in_seconds(5))
        assert len(asyncio.all_tasks()) == 1
        frozen.kill()  # only now can the first client's socket be closed
        await asyncio.sleep(0.05)
    finally:
        other.kill()


async def test_waiting_for_a_connection_ends_at_the_deadline(
    own_nats_server: NatsServer, own_broker: Broker
) -> None:
    """Who waits for the broker is told at the deadline that it is not there."""
    own_nats_server.kill()
    await eventually(lambda: not own_broker.connection.connected)
    with pytest.raises(BrokerUnavailable):
        await own_broker.connection.wait_connected(in_seconds(0.05))
    with pytest.raises(BrokerUnavailable):
        await own_broker.api.call("INFO", None, in_seconds(0.05))


async def test_unreachable_servers_are_logged_once_each(caplog: pytest.LogCaptureFixture) -> None:
    """However long several servers stay away, the log says why once for each."""
    with socket.socket() as first, socket.socket() as second:
        for nobody in (first, second):
            nobody.bind(("127.0.0.1", 0))
        url = ",".join(f"127.0.0.1:{nobody.getsockname()[1]}" for nobody in (first, second))
        options = replace(QUICK, servers=parse_servers(url), start_timeout=timedelta(milliseconds=300))
        with pytest.raises(BrokerUnavailable):
            await Connection(options).connect()
    assert len(caplog.records) == 2


async def test_subscribing_while_disconnected(own_nats_server: NatsServer, own_broker: Broker) -> None:
    """A subscription that was asked for while there was no connection is there from the next one on."""
    got = asyncio.Queue[bytes]()

    def keep(message: Msg) -> None:
        got.put_nowait(message.data)

    own_nats_server.kill()
    await eventually(lambda: not own_broker.connection.connected)
    await own_broker.connection.subscribe("later", keep)
    gone = await own_broker.connection.subscribe("gone", keep)
    await gone.unsubscribe()
    own_nats_server.start()
    await own_broker.connection.wait_connected(in_seconds(10))
    own_broker.connection.publish("gone", b"gone")
    own_broker.connection.publish("later", b"later")
    assert await got.get() == b"later"


def serving(broker: Broker, *servers: NatsServer) -> NatsServer:
    """Say which of the servers the connection is to."""
    client = broker.connection.client
    assert client is not None
    assert client.connected_url is not None
    return next(server for server in servers if server.port == client.connected_url.port)


async def test_a_server_about_to_stop_is_left_in_good_order(
    own_nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A server in lame-duck mode is left before it stops, without a moment that could not send.

    What is under way still gets its answer.
    """
    other = NatsServer(tmp_path_factory.mktemp("other"))
    other.start()
    told: list[str] = []
    try:
        async with connect(f"{own_nats_server.url},{other.url}") as broker:
            connection, got = broker.connection, asyncio.Queue[bytes]()
            connection.on_lost.append(lambda: told.append("lost"))
            connection.on_moved.append(lambda: told.append("moved"))
            await connection.subscribe("news", lambda message: got.put_nowait(message.data))
            left = serving(broker, own_nats_server, other)
            async with connect(left.url) as slow:
                asked = asyncio.Queue[Msg]()
                await slow.connection.subscribe("question", asked.put_nowait)
                await slow.api.call("INFO", None, in_seconds(5))
                answer = asyncio.create_task(broker.replies.request("question", b"?", None, in_seconds(20)))
                question = await asked.get()
                left.enter_lame_duck_mode()
                await eventually(lambda: bool(told))
                assert connection.connected
                assert serving(broker, own_nats_server, other) is not left
                connection.publish("news", b"sent by the other one")
                assert await got.get() == b"sent by the other one"
                slow.connection.publish(question.reply, b"!")
                assert await answer == b"!"
            assert told == ["moved"]
        assert len(asyncio.all_tasks()) == 1
    finally:
        other.kill()


async def test_the_only_server_is_used_to_its_end(own_nats_server: NatsServer, own_broker: Broker) -> None:
    """With nowhere to go the connection stays, and the next one is made when there is a server again."""
    connection, told = own_broker.connection, list[str]()
    connection.on_lost.append(lambda: told.append("lost"))
    connection.on_moved.append(lambda: told.append("moved"))
    own_nats_server.enter_lame_duck_mode()
    await eventually(lambda: "refused the connection" in connection.last_error)
    assert connection.connected
    assert told == []
    own_nats_server.kill()
    own_nats_server.start()
    await eventually(lambda: connection.reconnects == 1)
    await own_broker.api.call("INFO", None, in_seconds(5))
    assert told == ["lost"]


async def test_a_user_that_is_taken_away(tmp_path: Path) -> None:
    """A connection that the broker ended because of its user comes back once the user does."""
    config = tmp_path / "config"
    config.write_text("authorization { users: [{user: me, password: right}] }")
    server = NatsServer(tmp_path, "--config", str(config))
    server.start()
    try:
        async with connect(f"nats://me:right@127.0.0.1:{server.port}") as broker:
            config.write_text("authorization { users: [{user: other, password: right}] }")
            server.reload()
            await eventually(lambda: not broker.connection.connected)
            await eventually(lambda: "refused the credentials" in broker.connection.last_error)
            config.write_text("authorization { users: [{user: me, password: right}] }")
            server.reload()
            await broker.connection.wait_connected(in_seconds(10))
            await broker.api.call("INFO", None, in_seconds(5))
    finally:
        server.kill()


async def test_a_connection_that_the_broker_calls_stale(tmp_path: Path) -> None:
    """A broker that ends the connection because it heard nothing is connected to again."""
    config = tmp_path / "config"
    config.write_text('ping_interval: "100ms"\nping_max: 1')
    server = NatsServer(tmp_path, "--config", str(config))
    server.start()
    try:
        async with connect(server.url) as broker:
            time.sleep(1)  # noqa: ASYNC251 - this process must not answer the pings
            await eventually(lambda: broker.connection.reconnects == 1)
            await broker.api.call("INFO", None, in_seconds(5))
    finally:
        server.kill()


async def test_a_connection_that_is_kicked(tmp_path: Path) -> None:
    """A connection that an operator ended at the broker is made anew."""
    config = tmp_path / "config"
    config.write_text(
        "accounts { SYS: {users: [{user: sys, password: s}]},"
        " A: {jetstream: enabled, users: [{user: a, password: a}]} }\nsystem_account: SYS"
    )
    server = NatsServer(tmp_path, "--config", str(config))
    server.start()
    try:
        async with (
            connect(f"nats://a:a@127.0.0.1:{server.port}") as broker,
            connect(f"nats://sys:s@127.0.0.1:{server.port}") as operator,
        ):
            client = broker.connection.client
            assert client is not None
            server_id = client._server_info["server_id"]
            kick = f'{{"cid": {client.client_id}}}'.encode()
            await operator.replies.request(f"$SYS.REQ.SERVER.{server_id}.KICK", kick, None, in_seconds(5))
            await eventually(lambda: broker.connection.reconnects == 1)
            await broker.api.call("INFO", None, in_seconds(5))
    finally:
        server.kill()


@pytest.mark.parametrize("mishap", [RuntimeError("unexpected"), asyncio.CancelledError()])
async def test_a_mishap_while_connecting(
    own_nats_server: NatsServer, own_broker: Broker, monkeypatch: pytest.MonkeyPatch, mishap: BaseException
) -> None:
    """Whatever comes out of nats-py while it connects, it is tried again."""
    connection, happened = own_broker.connection, list[None]()
    connect_really = Client.connect

    async def connect_badly(self: Client, *arguments: Any, **options: Any) -> None:
        if not happened:
            happened.append(None)
            raise mishap
        await connect_really(self, *arguments, **options)

    monkeypatch.setattr(Client, "connect", connect_badly)
    own_nats_server.kill()
    await eventually(lambda: not connection.connected)
    own_nats_server.start()
    await connection.wait_connected(in_seconds(10))
    await own_broker.api.call("INFO", None, in_seconds(5))
    assert happened


async def test_publishing_on_a_socket_that_has_just_closed(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no connection then, though nats-py has yet to notice, and uvloop says so in its own way."""

    def closed(*_: object) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")

    client = broker.connection.client
    assert client is not None
    flusher = client._flusher_task
    assert flusher is not None
    flusher.cancel()  # it has ended by then, and whoever publishes writes for itself
    await asyncio.wait([flusher])
    monkeypatch.setattr(client._transport, "writelines", closed)
    with pytest.raises(NotConnected):
        broker.connection.publish("nobody.listens")
