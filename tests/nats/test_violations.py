"""What the server does not let its user do: told to whoever waits, at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.nats.waiting import eventually
from tests.support.broker import QUICK, Broker, connect, in_seconds
from tests.support.nats_server import NatsServer, running_nats
from windshift.nats import (
    ConnectFailed,
    Connection,
    Forbidden,
    Message,
    NoReply,
    OutcomeUnknown,
    Requests,
    Unavailable,
    parse_servers,
)
from windshift.nats.connection import Violations
from windshift.nats.jetstream.pulling import Arrival, Notice, Puller, PullOptions
from windshift.nats.jetstream.writes import Write, WriteOptions, Writes
from windshift.nats.protocol import ErrorKind, ServerError

OTHERS = '{user: other, password: other, permissions: {publish: ">", subscribe: ">"}}'
NOT_NO = '{deny: "No.>"}'


def allow(directory: Path, publish: str, subscribe: str = NOT_NO) -> Path:
    """Write a configuration with a user that may publish and subscribe so, and one that may do everything."""
    config = directory / "config"
    mine = f"{{user: me, password: me, permissions: {{publish: {publish}, subscribe: {subscribe}}}}}"
    config.write_text(f"authorization {{ users: [{mine}, {OTHERS}] }}")
    return config


@asynccontextmanager
async def limited(
    directory: Path, publish: str, subscribe: str = NOT_NO
) -> AsyncIterator[tuple[NatsServer, Broker]]:
    """Connect as a user with limits."""
    config = allow(directory, publish, subscribe)
    with running_nats(directory / "nats", "--config", str(config)) as server:
        async with connect(url(server)) as broker:
            yield server, broker


def url(server: NatsServer, user: str = "me") -> str:
    """Return the URL with a user's credentials."""
    return f"nats://{user}:{user}@127.0.0.1:{server.port}"


def test_who_is_told() -> None:
    """All hear of everything; who watches a subject, or all messages, hears of dropped messages only."""
    violations, told = Violations(), list[str]()
    violations.on_any.append(lambda violation: told.append(f"any {violation.subject.decode()}"))
    violations.on_publish.append(lambda subject: told.append(f"publish {subject.decode()}"))
    stop = violations.watch(b"a", lambda: told.append("watched"))
    also = violations.watch(b"a", lambda: told.append("watched too"))
    violations.report(ServerError(ErrorKind.PUBLISH_FORBIDDEN, b"a"))
    violations.report(ServerError(ErrorKind.PUBLISH_FORBIDDEN, b"b"))
    violations.report(ServerError(ErrorKind.SUBSCRIPTION_FORBIDDEN, b"a"))
    stop()
    stop()
    violations.report(ServerError(ErrorKind.PUBLISH_FORBIDDEN, b"a"))
    also()
    violations.report(ServerError(ErrorKind.PUBLISH_FORBIDDEN, b"a"))
    assert told == [
        *("any a", "publish a", "watched", "watched too"),
        *("any b", "publish b"),
        "any a",
        *("any a", "publish a", "watched too"),
        *("any a", "publish a"),
    ]


def test_who_stops_watching_when_told() -> None:
    """A hook may end its own watch, and another's."""
    violations, told = Violations(), list[int]()

    def once() -> None:
        told.append(1)
        stop()

    stop = violations.watch(b"a", once)
    violations.report(ServerError(ErrorKind.PUBLISH_FORBIDDEN, b"a"))
    violations.report(ServerError(ErrorKind.PUBLISH_FORBIDDEN, b"a"))
    assert told == [1]


async def test_what_is_forbidden_ends_nothing(tmp_path: Path) -> None:
    """The server's word is passed on, letters and bytes as they are, and the connection goes on."""
    async with limited(tmp_path, '{deny: "No.>"}') as (_, broker):
        told = list[ServerError]()
        broker.connection.violations.on_any.append(told.append)
        got = list[Message]()
        subjects = (b"No.A", b"No.B", "No.Schön".encode())
        for subject in subjects:
            broker.connection.subscribe(subject, got.append)
            broker.connection.publish(subject)
        await eventually(lambda: len(told) == 6)
        assert told == [
            ServerError(kind, subject)
            for subject in subjects
            for kind in (ErrorKind.SUBSCRIPTION_FORBIDDEN, ErrorKind.PUBLISH_FORBIDDEN)
        ]
        await broker.api.call("INFO", None, in_seconds(20))
        assert broker.connection.reconnects == 0
        assert not got


async def test_what_is_forbidden_is_told_again(tmp_path: Path) -> None:
    """A forbidden subscription is told again by the next server; the others work there."""
    async with limited(tmp_path, '{deny: "No.>"}') as (server, broker):
        got, told = asyncio.Queue[Message](), list[ServerError]()
        broker.connection.subscribe(b"No.A", got.put_nowait)
        broker.connection.subscribe(b"fine", got.put_nowait)
        await broker.requests.round_trip(in_seconds(20))
        broker.connection.violations.on_any.append(told.append)
        server.kill()
        await broker.lost()
        server.start()
        await broker.connection.wait_ready(in_seconds(20))
        assert told == [ServerError(ErrorKind.SUBSCRIPTION_FORBIDDEN, b"No.A")]
        broker.connection.publish(b"fine")
        assert (await got.get()).subject == b"fine"


async def test_requests_fail_at_once(tmp_path: Path) -> None:
    """A forbidden request is told to be so, to each that asked, and to nobody else."""
    async with limited(tmp_path, '{deny: ["No.>", "$JS.API.STREAM.*.*"]}') as (_, broker):
        deadline = in_seconds(60)
        ask = broker.requests.request
        outcomes = await asyncio.gather(
            *(ask(b"No.A", b"", b"", deadline) for _ in range(3)),
            ask(b"$JS.API.INFO", b"", b"", deadline),
            ask(b"no.a", b"", b"", deadline),
        )
        assert outcomes[:3] == [NoReply.FORBIDDEN] * 3
        assert isinstance(outcomes[3], bytes)
        assert outcomes[4] is NoReply.NO_RESPONDERS
        with pytest.raises(Forbidden):
            await broker.api.call("STREAM.INFO.S", None, deadline)
        with pytest.raises(Forbidden):
            await broker.api.change("STREAM.CREATE.S", {}, deadline)
        assert len(broker.requests) == 0


async def test_a_subject_with_a_quote(tmp_path: Path) -> None:
    """What the server has to write otherwise in its message is known again."""
    async with limited(tmp_path, '{deny: "No.>"}') as (_, broker):
        for subject in (b'No."', b"No.\\", b'No.a"b\\"', "No.ö".encode(), b"No.\x01"):
            assert await broker.requests.request(subject, b"", b"", in_seconds(20)) is NoReply.FORBIDDEN


@pytest.mark.parametrize("repeatable", [False, True])
async def test_writes_fail_at_once(tmp_path: Path, *, repeatable: bool) -> None:
    """A forbidden write was not stored, and is not tried again."""
    async with limited(tmp_path, '{deny: "No.>"}') as (_, broker):
        writes = Writes(broker.requests, broker.api)
        with pytest.raises(Forbidden):
            await writes.write(Write(b"No.A", b"", b"", in_seconds(60), repeatable))
        assert writes.in_flight == 0


async def test_a_write_that_became_forbidden_is_in_doubt(tmp_path: Path) -> None:
    """That an attempt is forbidden says nothing of one before, which may be stored."""
    async with limited(tmp_path, '{deny: "$JS.API.>"}') as (server, broker):
        options = WriteOptions(attempt_timeout=timedelta(seconds=0.2))
        writes = Writes(broker.requests, broker.api, options)
        async with connect(url(server, "other")) as other:
            arrived = asyncio.Event()
            other.connection.subscribe(b"S.a", lambda _: arrived.set())
            await other.requests.round_trip(in_seconds(20))
            write = Write(b"S.a", b"", b"", in_seconds(60), repeatable=True)
            writing = asyncio.create_task(writes.write(write))
            await arrived.wait()
            allow(tmp_path, '{deny: ["$JS.API.>", "S.>"]}')
            server.reload()
            with pytest.raises(OutcomeUnknown):
                await writing


async def test_pulls_and_batches_fail_at_once(tmp_path: Path) -> None:
    """What is answered by many messages is told, too."""
    deny = '{deny: ["$JS.API.CONSUMER.MSG.NEXT.>", "$JS.API.DIRECT.GET.>"]}'
    async with limited(tmp_path, deny) as (_, broker):
        arrivals = asyncio.Queue[Arrival]()
        puller = Puller(broker.connection, "S", "c", PullOptions(), arrivals.put_nowait)
        assert puller.open()
        assert puller.pull(1)
        async with asyncio.timeout(30):
            assert await arrivals.get() is Notice.FORBIDDEN
        await puller.close()
        with pytest.raises(Forbidden):
            await broker.api.batch("S", {"seq": 1}, in_seconds(60))


async def test_start_without_replies(tmp_path: Path) -> None:
    """A user that may not hear replies is of no use: that is said at once, without the inbox."""
    config = allow(tmp_path, ">", '{allow: "_INBOX.>"}')
    with running_nats(tmp_path / "nats", "--config", str(config)) as server:
        options = replace(QUICK, servers=parse_servers(url(server)), start_timeout=timedelta(minutes=1))
        connection = Connection(options)
        Requests(connection)
        with pytest.raises(ConnectFailed, match=r"\(.* may not subscribe to _INBOX_windshift\.>\)$"):
            async with asyncio.timeout(20):
                await connection.connect()
        await connection.close()


async def test_replies_that_become_forbidden(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """When the user is changed so, there is no connection until it is changed back."""
    async with limited(tmp_path, '{allow: ">"}', '{allow: ">"}') as (server, broker):
        connection = broker.connection
        allow(tmp_path, '{allow: ">"}', '{allow: "_INBOX.>"}')
        server.reload()
        await eventually(lambda: "may not subscribe to _INBOX_windshift.>" in connection.last_error)
        assert not connection.connected
        with pytest.raises(Unavailable):
            await connection.wait_ready(in_seconds(0.2))
        allow(tmp_path, '{allow: ">"}', '{allow: ">"}')
        server.reload()
        await connection.wait_ready(in_seconds(30))
        await broker.api.call("INFO", None, in_seconds(20))
    assert caplog.text.count("WARNING") <= 3


async def test_a_vital_subscription_that_is_made_later(tmp_path: Path) -> None:
    """When it is forbidden, the connection that was up is of no use any more."""
    async with limited(tmp_path, '{allow: ">"}', '{deny: "No.>"}') as (_, broker):
        connection = broker.connection
        broker.connection.subscribe(b"No.A", lambda _: None)
        await broker.requests.round_trip(in_seconds(20))
        assert connection.connected
        vital = broker.connection.subscribe(b"No.B", lambda _: None, is_vital=True)
        await broker.lost()
        vital.unsubscribe()
        await connection.wait_ready(in_seconds(20))
