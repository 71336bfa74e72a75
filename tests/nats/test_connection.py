"""The connection against real servers: starting, losing and finding them again."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.nats.waiting import eventually, serving, wire_of
from tests.support.broker import QUICK, Broker, connect, in_seconds
from tests.support.nats_server import NatsServer, running_nats
from windshift.nats import (
    ConnectFailed,
    Connection,
    ConnectionOptions,
    Message,
    MessageTooLarge,
    NoReply,
    NotConnected,
    Unavailable,
    parse_servers,
    wire,
)
from windshift.nats import headers as h
from windshift.nats.protocol import publish_frame
from windshift.nats.wire import Wire

Unique = Callable[[], str]

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop", "asyncio"])


def publish_many(connection: Connection, count: int) -> None:
    """Publish so many messages of the largest size."""
    for _ in range(count):
        connection.publish(b"x", bytes(connection.max_payload))


async def settled(broker: Broker) -> None:
    """Return when the server has taken in, and sent, all that was asked of it before."""
    async with asyncio.timeout(20):
        await wire_of(broker).ping()


# --- Messages ---------------------------------------------------------------------------------------------


async def test_messages_arrive(broker: Broker, unique: Unique) -> None:
    """What is published arrives at every subscription, in order, with its headers; and not after its end."""
    subject, got = unique().encode(), asyncio.Queue[Message]()
    subscription = broker.connection.subscribe(subject, got.put_nowait)
    other = broker.connection.subscribe(b"*", got.put_nowait)
    blocks = [h.block(((b"Number", b"%d" % number),)) for number in range(3)]
    for number, block in enumerate(blocks):
        broker.connection.publish(subject, b"%d" % number, block, b"reply.to")
    messages = [await got.get() for _ in range(6)]
    for sid in (subscription.sid, other.sid):
        assert [each for each in messages if each.sid == sid] == [
            Message(sid, subject, b"reply.to", block, b"%d" % number) for number, block in enumerate(blocks)
        ]
    subscription.unsubscribe()
    other.unsubscribe()
    broker.connection.publish(subject, b"late")
    await settled(broker)
    assert got.empty()


async def test_much_at_once_lets_others_run(
    broker: Broker, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes at once is received in order, in slices: no turn of the loop is busy with all of it."""
    monkeypatch.setattr(wire, "_SLICE", 0.0)
    subject, loop, last, turns = unique().encode(), asyncio.get_running_loop(), asyncio.Event(), 0
    got: list[tuple[int, int]] = []

    def turn() -> None:
        nonlocal turns
        turns += 1
        if not last.is_set():
            loop.call_soon(turn)

    def receive(message: Message) -> None:
        number = int(message.body[:10])
        got.append((number, turns))
        if number == 4999:
            last.set()

    broker.connection.subscribe(subject, receive)
    turn()
    for number in range(5000):
        broker.connection.publish(subject, b"%-200d" % number)
    async with asyncio.timeout(60):
        await last.wait()
    assert [number for number, _ in got] == list(range(5000))
    at = [turn for _, turn in got]
    assert max(at.count(turn) for turn in set(at)) < 200


async def test_what_was_read_before_the_end_is_received(
    own_broker: Broker, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that ends while it is busy with what it read hands the rest of that over."""
    monkeypatch.setattr(wire, "_SLICE", 0.0)
    subject, connection, came = unique().encode(), wire_of(own_broker), asyncio.Event()
    got, last_read = list[int](), list[int]()

    def receive(message: Message) -> None:
        got.append(int(message.body))
        if len(got) % 1000 == 1:
            time.sleep(0.05)  # so that the others of these thousand are read in few pieces
        elif not last_read and len(read := re.findall(rb"\r\n(\d+) *\r\n", connection._rest)) > 100:
            last_read.append(int(read[-1]))
            assert connection._transport is not None
            connection._transport.abort()
        if last_read or len(got) % 1000 == 0:
            came.set()

    own_broker.connection.subscribe(subject, receive)
    async with asyncio.timeout(60):
        while not last_read:
            came.clear()
            for number in range(len(got), len(got) + 1000):
                own_broker.connection.publish(subject, b"%-200d" % number)
            await came.wait()
        await connection._ended
    assert got == list(range(len(got)))
    assert got[-1] >= last_read[0]


async def test_time_of_other_processes_does_not_count(
    broker: Broker, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is received in one piece stays much on a machine where others run in between."""
    monkeypatch.setattr(broker.connection, "is_shared", lambda: True)
    monkeypatch.setattr(wire, "thread_time", lambda: 0.0)  # this thread does nothing
    subject, numbers = unique().encode(), asyncio.Queue[int]()

    def receive(message: Message) -> None:
        time.sleep(0.001)  # the processor is somebody else's
        numbers.put_nowait(int(message.body[:10]))

    broker.connection.subscribe(subject, receive)
    for number in range(200):
        broker.connection.publish(subject, b"%-200d" % number)
    async with asyncio.timeout(20):
        assert [await numbers.get() for _ in range(200)] == list(range(200))
    assert wire_of(broker)._piece > wire._SMALLEST_PIECE


async def test_no_body_and_no_headers(broker: Broker, unique: Unique) -> None:
    """An empty message arrives as one, with headers and without."""
    subject, got = unique().encode(), asyncio.Queue[Message]()
    broker.connection.subscribe(subject, got.put_nowait)
    broker.connection.publish(subject)
    broker.connection.publish(subject, headers=h.block(((b"Empty", b""),)))
    first, second = await got.get(), await got.get()
    assert (first.reply, first.headers, first.body) == (b"", b"", b"")
    assert (h.split(second.headers), second.body) == (((b"Empty", b""),), b"")


async def test_subjects_that_are_no_text(broker: Broker, unique: Unique) -> None:
    """A subject may be any bytes but white space."""
    prefix, got = unique().encode(), asyncio.Queue[Message]()
    broker.connection.subscribe(prefix + b".>", got.put_nowait)
    subjects = [
        prefix + b"." + tail for tail in (b"\xff\xfe", "schön".encode(), b'"q"', b"a\\b", b"\x00\x01")
    ]
    for subject in subjects:
        broker.connection.publish(subject)
    assert [(await got.get()).subject for _ in subjects] == subjects


async def test_a_receiver_that_fails(
    broker: Broker, unique: Unique, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and harms no other message."""
    subject, got = unique().encode(), asyncio.Queue[bytes]()

    def fail_once(message: Message) -> None:
        got.put_nowait(message.body)
        if message.body == b"bad":
            raise RuntimeError("cannot handle that")

    broker.connection.subscribe(subject, fail_once)
    broker.connection.publish(subject, b"bad")
    broker.connection.publish(subject, b"good")
    assert [await got.get(), await got.get()] == [b"bad", b"good"]
    assert "cannot handle that" in caplog.text
    assert broker.connection.reconnects == 0


async def test_drain_hands_over_what_is_on_its_way(broker: Broker, unique: Unique) -> None:
    """When a subscription has been drained it has got all that was published before, and gets no more."""
    subject, got = unique().encode(), list[bytes]()
    subscription = broker.connection.subscribe(subject, lambda message: got.append(message.body))
    await settled(broker)
    bodies = [b"%d" % number for number in range(1000)]
    for body in bodies:
        broker.connection.publish(subject, body)
    await subscription.drain(20)
    broker.connection.publish(subject, b"late")
    await settled(broker)
    assert got == bodies


async def test_a_drain_that_is_cancelled_at_once(broker: Broker, unique: Unique) -> None:
    """The interest ends all the same: to the server nobody listens to the subject any more."""
    subject = unique().encode()
    subscription = broker.connection.subscribe(subject, lambda _: None)
    await settled(broker)
    draining = asyncio.create_task(subscription.drain(20))
    await asyncio.sleep(0)  # it has begun, and what it waits for has not
    draining.cancel()
    await asyncio.wait([draining])
    outcome = await broker.requests.request(subject, b"", b"", in_seconds(20))
    assert outcome is NoReply.NO_RESPONDERS


async def test_drain_ends_in_time(own_broker: Broker, own_nats_server: NatsServer) -> None:
    """A server that does not answer holds up a drain no longer than it may, and a dead one not at all."""
    subscription = own_broker.connection.subscribe(b"a", lambda _: None)
    other = own_broker.connection.subscribe(b"b", lambda _: None)
    own_nats_server.freeze()
    begun = time.monotonic()
    await subscription.drain(0.1)
    assert 0.09 < time.monotonic() - begun < 20
    draining = asyncio.create_task(other.drain(60))
    await asyncio.sleep(0)
    own_nats_server.kill()
    async with asyncio.timeout(20):
        await draining


async def test_too_large_a_message_is_not_sent(tmp_path: Path) -> None:
    """A message that the server would end the connection over is refused here; one byte less is taken."""
    config = tmp_path / "config"
    config.write_text("max_payload: 2000")
    with running_nats(tmp_path / "nats", "--config", str(config)) as server:
        async with connect(server.url) as broker:
            connection, got = broker.connection, asyncio.Queue[Message]()
            assert connection.max_payload == 2000
            connection.subscribe(b"big", got.put_nowait)
            headers = h.block(((b"Some", b"more"),))
            with pytest.raises(MessageTooLarge) as caught:
                connection.publish(b"big", bytes(2001 - len(headers)), headers)
            assert caught.value.limit == 2000
            connection.publish(b"big", bytes(2000 - len(headers)), headers)
            assert len((await got.get()).body) == 2000 - len(headers)
            assert connection.reconnects == 0


async def test_a_smaller_limit_is_learned(tmp_path: Path) -> None:
    """A server does not say that it takes less from now on: it ends the connection once, and it is known."""
    config = tmp_path / "config"
    config.write_text("max_payload: 2000")
    with running_nats(tmp_path / "nats", "--config", str(config)) as server:
        async with connect(server.url) as broker:
            config.write_text("max_payload: 1000")
            server.reload()
            broker.connection.publish(b"big", bytes(1001))
            await eventually(lambda: broker.connection.reconnects == 1)
            assert broker.connection.max_payload == 1000
            with pytest.raises(MessageTooLarge):
                broker.connection.publish(b"big", bytes(1001))


async def test_inboxes_are_below_their_prefix(nats_server: NatsServer) -> None:
    """Each inbox is a fresh subject below the prefix that was asked for."""
    async with connect(nats_server.url, replace(QUICK, inbox_prefix="_INBOX_mine")) as broker:
        inboxes = {broker.connection.inbox() for _ in range(100)}
        assert len(inboxes) == 100
        assert all(re.fullmatch(rb"_INBOX_mine\.[0-9a-f]{22}", inbox) for inbox in inboxes)


async def test_a_subscription_for_one_wire(own_broker: Broker, own_nats_server: NatsServer) -> None:
    """An inbox of `subscribe_once` ends with its wire; there is none without one."""
    connection, got = own_broker.connection, asyncio.Queue[Message]()
    inbox = connection.subscribe_once(got.put_nowait)
    assert inbox is not None
    connection.publish(inbox.subject, b"heard")
    assert (await got.get()).body == b"heard"
    own_nats_server.kill()
    await own_broker.lost()
    assert connection.subscribe_once(got.put_nowait) is None
    own_nats_server.start()
    await connection.wait_ready(in_seconds(20))
    connection.publish(inbox.subject, b"gone")
    await settled(own_broker)
    inbox.unsubscribe()  # does no harm
    await inbox.drain(20)
    assert got.empty()


# --- Starting ---------------------------------------------------------------------------------------------


async def test_start_without_server_names_it_once() -> None:
    """Without a server the start fails with one error that names it and hides the password."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        servers = parse_servers(f"nats://me:s3cret@127.0.0.1:{port}")
        connection = Connection(replace(QUICK, servers=servers, start_timeout=timedelta(milliseconds=50)))
        with pytest.raises(ConnectFailed, match=f"127.0.0.1:{port}.*refused the connection") as caught:
            await connection.connect()
    assert "s3cret" not in repr(caught.value) + connection.last_error
    assert not connection.connected
    await connection.close()


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
        with pytest.raises(ConnectFailed, match="did not answer in time"):
            await Connection(options).connect()


async def test_an_unknown_host() -> None:
    """A host name that nobody knows is told as that."""
    options = replace(QUICK, servers=parse_servers("no.such.host.invalid"), start_timeout=timedelta(0))
    with pytest.raises(ConnectFailed, match="its host name is unknown"):
        await Connection(options).connect()


async def test_unreachable_servers_are_logged_once_each(caplog: pytest.LogCaptureFixture) -> None:
    """However long several servers stay away, the log says why once for each."""
    with socket.socket() as first, socket.socket() as second:
        for nobody in (first, second):
            nobody.bind(("127.0.0.1", 0))
        url = ",".join(f"127.0.0.1:{nobody.getsockname()[1]}" for nobody in (first, second))
        options = replace(QUICK, servers=parse_servers(url), start_timeout=timedelta(milliseconds=300))
        with pytest.raises(ConnectFailed):
            await Connection(options).connect()
    assert len([each for each in caplog.records if each.name == "windshift.nats.connection"]) == 2


async def test_one_of_several_servers_is_enough(nats_server: NatsServer) -> None:
    """With several servers each is tried, whatever is wrong with the others."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{nobody.getsockname()[1]},no.such.host.invalid,{nats_server.url}"
        async with connect(url) as broker:
            assert serving(broker, nats_server) is nats_server


async def test_what_a_server_shows_of_us(tmp_path: Path) -> None:
    """Monitoring names the client, its language and its version."""
    config = tmp_path / "config"
    config.write_text("accounts { SYS: {users: [{user: sys, password: s}]} }\nsystem_account: SYS")
    with running_nats(tmp_path / "nats", "--config", str(config)) as server:
        url = f"nats://sys:s@127.0.0.1:{server.port}"
        async with connect(url, replace(QUICK, name="somebody's name")) as broker:
            connz = f"$SYS.REQ.SERVER.{wire_of(broker).info.server_id}.CONNZ".encode()
            answer = await broker.requests.request(connz, b"", b"", in_seconds(20))
            assert isinstance(answer, bytes)
            [shown] = json.loads(answer)["data"]["connections"]
            assert (shown["name"], shown["lang"]) == ("somebody's name", "python")
            assert shown["version"]
            assert shown["cid"] == wire_of(broker).info.client_id


# --- Losing and finding a server --------------------------------------------------------------------------


async def test_comes_back_with_its_subscriptions(own_nats_server: NatsServer, own_broker: Broker) -> None:
    """After a crash of the server the connection and its subscriptions are there again."""
    connection, got = own_broker.connection, asyncio.Queue[bytes]()
    told: list[str] = []
    connection.on_lost.append(lambda: told.append("lost"))
    connection.on_connected.append(lambda: told.append("connected"))
    connection.subscribe(b"news", lambda message: got.put_nowait(message.body))
    own_nats_server.kill()
    await own_broker.lost()
    with pytest.raises(NotConnected):
        connection.publish(b"news", b"lost")
    assert told == ["lost"]
    assert connection.last_error
    own_nats_server.start()
    await connection.wait_ready(in_seconds(20))
    connection.publish(b"news", b"found")
    assert await got.get() == b"found"
    assert told == ["lost", "connected"]
    assert connection.last_error == ""


async def test_recovers_from_protocol_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A server that ends the connection over an oversized message is connected to again at once."""
    config = tmp_path / "config"
    config.write_text("max_payload: 2000")
    with running_nats(tmp_path / "nats", "--config", str(config)) as server:
        async with connect(server.url) as broker:
            wire_of(broker).send(publish_frame(b"big", bytes(2001)))
            await eventually(lambda: broker.connection.reconnects == 1)
            await settled(broker)
    assert "NATS: the connection ended (maximum payload violation)" in caplog.text


async def test_frozen_server_is_noticed_and_left(
    own_nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A server that answers no pings is left for another one, unsent data notwithstanding."""
    options = replace(
        QUICK, ping_interval=timedelta(milliseconds=150), connect_timeout=timedelta(milliseconds=500)
    )
    with running_nats(tmp_path_factory.mktemp("other")) as other:
        async with connect(f"{own_nats_server.url},{other.url}", options) as broker:
            frozen = serving(broker, own_nats_server, other)
            frozen.freeze()
            while not wire_of(broker).congested:  # the socket's buffers are full
                broker.connection.publish(b"x", bytes(broker.connection.max_payload))
                await asyncio.sleep(0)
            await eventually(lambda: broker.connection.reconnects == 1)
            assert serving(broker, own_nats_server, other) is not frozen
            await settled(broker)
        assert len(asyncio.all_tasks()) == 1


async def test_who_waits_while_too_much_is_unsent(own_broker: Broker, own_nats_server: NatsServer) -> None:
    """While a server does not read, who waits for the connection is held up, at most until the deadline."""
    connection, got = own_broker.connection, list[int]()
    connection.subscribe(b"x", lambda message: got.append(len(message.body)))
    await settled(own_broker)
    own_nats_server.freeze()
    for _ in range(15):
        connection.publish(b"x", bytes(connection.max_payload))
    assert wire_of(own_broker).congested
    with pytest.raises(Unavailable):
        await connection.wait_ready(in_seconds(0.05))
    own_nats_server.thaw()
    await connection.wait_ready(in_seconds(20))
    assert not wire_of(own_broker).congested
    await settled(own_broker)
    assert got == [connection.max_payload] * 15


async def test_waiting_for_a_connection_ends_at_the_deadline(
    own_nats_server: NatsServer, own_broker: Broker
) -> None:
    """Who waits for the server is told at the deadline that it is not there."""
    own_nats_server.kill()
    await own_broker.lost()
    with pytest.raises(Unavailable):
        await own_broker.connection.wait_ready(in_seconds(0.05))
    with pytest.raises(Unavailable):
        await own_broker.api.call("INFO", None, in_seconds(0.05))


async def test_subscribing_while_disconnected(own_nats_server: NatsServer, own_broker: Broker) -> None:
    """A subscription that was asked for while there was no connection is there from the next one on."""
    got = asyncio.Queue[bytes]()
    own_nats_server.kill()
    await own_broker.lost()
    own_broker.connection.subscribe(b"later", lambda message: got.put_nowait(message.body))
    gone = own_broker.connection.subscribe(b"gone", lambda message: got.put_nowait(message.body))
    gone.unsubscribe()
    own_nats_server.start()
    await own_broker.connection.wait_ready(in_seconds(20))
    own_broker.connection.publish(b"gone", b"gone")
    own_broker.connection.publish(b"later", b"later")
    assert await got.get() == b"later"


async def test_a_server_about_to_stop_is_left_in_good_order(
    own_nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A server in lame-duck mode is left before it stops, without a moment that could not send.

    What is under way still gets its answer.
    """
    told: list[str] = []
    with running_nats(tmp_path_factory.mktemp("other")) as other:
        async with connect(f"{own_nats_server.url},{other.url}") as broker:
            connection, got = broker.connection, asyncio.Queue[bytes]()
            connection.on_lost.append(lambda: told.append("lost"))
            connection.on_replaced.append(lambda: told.append("replaced"))
            connection.subscribe(b"news", lambda message: got.put_nowait(message.body))
            left = serving(broker, own_nats_server, other)
            async with connect(left.url) as slow:
                asked = asyncio.Queue[Message]()
                slow.connection.subscribe(b"question", asked.put_nowait)
                await settled(slow)
                answer = asyncio.create_task(broker.requests.request(b"question", b"?", b"", in_seconds(20)))
                question = await asked.get()
                left.enter_lame_duck_mode()
                await eventually(lambda: bool(told))
                assert connection.connected
                assert serving(broker, own_nats_server, other) is not left
                connection.publish(b"news", b"sent by the other one")
                assert await got.get() == b"sent by the other one"
                slow.connection.publish(question.reply, b"!")
                assert await answer == b"!"
            assert told == ["replaced"]
        assert len(asyncio.all_tasks()) == 1


async def test_the_only_server_is_used_to_its_end(own_nats_server: NatsServer, own_broker: Broker) -> None:
    """With nowhere to go the connection stays, and the next one is made when there is a server again."""
    connection, told = own_broker.connection, list[str]()
    connection.on_lost.append(lambda: told.append("lost"))
    connection.on_replaced.append(lambda: told.append("replaced"))
    own_nats_server.enter_lame_duck_mode()
    await eventually(lambda: "refused the connection" in connection.last_error)
    assert connection.connected
    assert told == []
    own_nats_server.kill()
    own_nats_server.start()
    await eventually(lambda: connection.reconnects == 1)
    await settled(own_broker)
    assert told == ["lost"]


async def test_a_connection_that_the_server_calls_stale(tmp_path: Path) -> None:
    """A server that ends the connection because it heard nothing is connected to again."""
    config = tmp_path / "config"
    config.write_text('ping_interval: "200ms"\nping_max: 1')
    with running_nats(tmp_path / "nats", "--config", str(config)) as server:
        async with connect(server.url) as broker:
            time.sleep(1.5)  # noqa: ASYNC251 - this process must not answer the pings
            await eventually(lambda: broker.connection.reconnects == 1)
            await settled(broker)


async def test_a_connection_that_is_kicked(tmp_path: Path) -> None:
    """A connection that an operator ended at the server is made anew."""
    config = tmp_path / "config"
    config.write_text(
        "accounts { SYS: {users: [{user: sys, password: s}]},"
        " A: {jetstream: enabled, users: [{user: a, password: a}]} }\nsystem_account: SYS"
    )
    with running_nats(tmp_path / "nats", "--config", str(config)) as server:
        async with (
            connect(f"nats://a:a@127.0.0.1:{server.port}") as broker,
            connect(f"nats://sys:s@127.0.0.1:{server.port}") as operator,
        ):
            info = wire_of(broker).info
            kick = f"$SYS.REQ.SERVER.{info.server_id}.KICK".encode()
            await operator.requests.request(kick, b'{"cid": %d}' % info.client_id, b"", in_seconds(20))
            await eventually(lambda: broker.connection.reconnects == 1)
            await settled(broker)


async def test_a_mishap_while_connecting(
    own_nats_server: NatsServer, own_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong while it connects, it is tried again."""
    connection, happened = own_broker.connection, list[None]()
    attach_all = Connection._attach_all

    async def attach_badly(self: Connection, wire: Wire) -> None:
        if not happened:
            happened.append(None)
            raise RuntimeError("unexpected")
        await attach_all(self, wire)

    monkeypatch.setattr(Connection, "_attach_all", attach_badly)
    own_nats_server.kill()
    await own_broker.lost()
    own_nats_server.start()
    await connection.wait_ready(in_seconds(20))
    await settled(own_broker)
    assert happened


async def test_sending_on_a_socket_that_has_just_closed(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the loop says so in its own way, as uvloop does, that is the end of the connection."""
    transport = wire_of(broker)._transport

    class Closed:
        def write(self, data: bytes) -> None:
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>")

        def abort(self) -> None:
            assert transport is not None
            transport.abort()

    monkeypatch.setattr(wire_of(broker), "_transport", Closed())
    broker.connection.publish(b"nobody.listens")
    await eventually(lambda: broker.connection.reconnects == 1)
    await settled(broker)


@asynccontextmanager
async def made_up_server(spoilt: int) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Run a server that speaks nonsense on its first connection, together with the answer to this ping.

    Give its address, and what came on the second connection.
    """
    connections, heard = 0, list[bytes]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        is_first, pings = connections == 1, 0
        writer.write(b'INFO {"headers": true, "max_payload": 1000}\r\n')
        try:
            while line := await reader.readline():
                if line == b"PING\r\n":
                    pings += 1
                    writer.write(b"PONG\r\n" + b"nonsense\r\n" * (is_first and pings == spoilt))
                if not is_first:
                    heard.append(line)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", heard


@pytest.mark.parametrize("spoilt", [1, 2, 3, 4])
@pytest.mark.parametrize("subscriptions", [0, 1])
async def test_a_connection_that_ends_as_it_begins(spoilt: int, subscriptions: int) -> None:
    """A wire that has ended is never taken for one that is up, whichever answer was its last."""
    options = replace(QUICK, ping_interval=timedelta(milliseconds=50))
    async with made_up_server(spoilt) as (url, heard):
        connection = Connection(replace(options, servers=parse_servers(url)))
        for _ in range(subscriptions):
            connection.subscribe(b"news", lambda _: None)
        await connection.connect()
        try:
            await eventually(lambda: bool(heard))
            await connection.wait_ready(in_seconds(20))
            connection.publish(b"fine")
            await eventually(lambda: b"PUB fine  0\r\n" in heard)
        finally:
            await connection.close()


async def test_a_server_that_ends_every_connection() -> None:
    """One that takes each connection and ends it once it is up is not pestered without a pause."""
    taken = 0

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        taken += 1
        writer.write(b'INFO {"headers": true}\r\n')
        await reader.readuntil(b"PING\r\n")
        writer.write(b"PONG\r\n")
        await reader.readuntil(b"PING\r\n")  # the connection is up
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    async with server:
        url = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        options = replace(QUICK, servers=parse_servers(url), reconnect_wait=timedelta(milliseconds=100))
        connection = Connection(options)
        begun = time.monotonic()
        await connection.connect()
        try:
            await eventually(lambda: taken == 6)
        finally:
            await connection.close()
    assert time.monotonic() - begun > 5 * 0.05


# --- The end ----------------------------------------------------------------------------------------------


async def test_close_sends_what_waits(nats_server: NatsServer, broker: Broker, unique: Unique) -> None:
    """What was published before a connection was closed arrives, however much it is."""
    subject, got = unique().encode(), list[int]()
    broker.connection.subscribe(subject, lambda message: got.append(len(message.body)))
    await settled(broker)
    options = replace(QUICK, servers=parse_servers(nats_server.url), close_timeout=timedelta(seconds=20))
    connection = Connection(options)
    await connection.connect()
    for _ in range(12):
        connection.publish(subject, bytes(1_000_000))
    await connection.close()
    assert not connection.connected
    await eventually(lambda: got == [1_000_000] * 12)


async def test_close_sends_what_waits_while_much_comes(
    nats_server: NatsServer, broker: Broker, unique: Unique
) -> None:
    """The same where a socket is closed with something to read in it: TCP resets such a connection."""
    subject, noise, got = unique().encode(), unique().encode(), list[int]()
    broker.connection.subscribe(subject, lambda message: got.append(len(message.body)))
    await settled(broker)
    options = replace(QUICK, servers=parse_servers(nats_server.url), close_timeout=timedelta(seconds=20))
    connection, other = Connection(options), Connection(options)
    await connection.connect()
    await other.connect()
    connection.subscribe(noise, lambda _: None)

    async def make_noise() -> None:
        while True:
            other.publish(noise, bytes(50_000))
            await asyncio.sleep(0.001)

    noisy = asyncio.create_task(make_noise())
    try:
        await asyncio.sleep(0.1)
        for _ in range(12):
            connection.publish(subject, bytes(1_000_000))
        await connection.close()
        await eventually(lambda: got == [1_000_000] * 12)
    finally:
        noisy.cancel()
        await other.close()


async def test_close_does_not_wait_for_a_frozen_server(
    own_nats_server: NatsServer, own_broker: Broker
) -> None:
    """A server that reads nothing holds up the end only for a while, and is not connected to again."""
    connection = own_broker.connection
    own_nats_server.freeze()
    with pytest.raises(NotConnected):  # so much may wait, and no more
        publish_many(connection, 30)
    begun = time.monotonic()
    await connection.close()
    assert time.monotonic() - begun < 20
    own_nats_server.thaw()
    assert not connection.connected
    assert connection.last_error == "closed"
    with pytest.raises(NotConnected):
        connection.publish(b"x")
    await eventually(lambda: len(asyncio.all_tasks()) == 1)


async def test_close_while_it_tries_to_connect(own_nats_server: NatsServer, own_broker: Broker) -> None:
    """A connection that looks for a server stops looking when it is closed, and leaves nothing behind."""
    own_nats_server.kill()
    await own_broker.lost()
    await own_broker.connection.close()
    own_nats_server.start()
    assert len(asyncio.all_tasks()) == 1
    assert not own_broker.connection.connected


@pytest.mark.parametrize("moment", ["tcp", "handshake"])
async def test_close_while_a_server_keeps_it_waiting(own_broker: Broker, moment: str) -> None:
    """The same while a server has yet to answer."""
    accepted = asyncio.Event()

    async def keep_waiting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if moment == "handshake":
            writer.write(b'INFO {"headers": true}\r\n')
            await reader.readuntil(b"PING\r\n")
        accepted.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(keep_waiting, "127.0.0.1", 0)
    async with server:
        options = ConnectionOptions(
            parse_servers(f"127.0.0.1:{server.sockets[0].getsockname()[1]}"),
            connect_timeout=timedelta(minutes=1),
        )
        connection = Connection(options)
        connecting = asyncio.create_task(connection.connect())
        async with asyncio.timeout(20):
            await accepted.wait()
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        await connection.close()
