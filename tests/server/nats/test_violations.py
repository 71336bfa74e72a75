"""What the broker does not let its user do: told in the log, and at once to whoever waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.broker import QUICK, Broker, connect, in_seconds
from tests.support.nats_server import NatsServer
from windshift.server.errors import BrokerUnavailable, ForbiddenByBroker, OutcomeUnknown
from windshift.server.nats.batch_get import batch_get
from windshift.server.nats.connection import Connection
from windshift.server.nats.deliveries import Arrival, Deliveries, Notice, PullOptions
from windshift.server.nats.options import parse_servers
from windshift.server.nats.replies import NoReply, Replies
from windshift.server.nats.violations import Violations, read_violation
from windshift.server.nats.writes import Write, WriteOptions, Writes

OTHERS = '{user: other, password: other, permissions: {publish: ">", subscribe: ">"}}'


def allow(directory: Path, publish: str, subscribe: str = '{deny: "No.>"}') -> Path:
    """Write a configuration with a user that may publish and subscribe so, and one that may do everything."""
    config = directory / "config"
    mine = f"{{user: me, password: me, permissions: {{publish: {publish}, subscribe: {subscribe}}}}}"
    config.write_text(f"authorization {{ users: [{mine}, {OTHERS}] }}")
    return config


@asynccontextmanager
async def limited(
    directory: Path, publish: str, subscribe: str = '{deny: "No.>"}'
) -> AsyncIterator[tuple[NatsServer, Broker]]:
    """Connect as a user with limits."""
    server = NatsServer(directory, "--config", str(allow(directory, publish, subscribe)))
    server.start()
    try:
        async with connect(url(server)) as broker:
            yield server, broker
    finally:
        server.kill()


def url(server: NatsServer, user: str = "me") -> str:
    """Return the URL with a user's credentials."""
    return f"nats://{user}:{user}@127.0.0.1:{server.port}"


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("'Permissions Violation for Publish to \"$JS.API.INFO\"'", ("$JS.API.INFO", False)),
        ("'Permissions Violation for Subscription to \"a.B\"'", ("a.B", True)),
        ('\'Permissions Violation for Subscription to "a.B" (sid "3")\'', ("a.B", True)),
        ("'Permissions Violation for Publish with Reply of \"$JS.ACK.a\"'", None),
        ("'Authorization Violation'", None),
    ],
)
def test_what_the_broker_says(text: str, told: tuple[str, bool] | None) -> None:
    """Subjects are read as they are, capitals included; what is no such message is none."""
    violation = read_violation(text)
    assert (None if violation is None else (violation.subject, violation.is_subscription)) == told


def test_told_seldom(caplog: pytest.LogCaptureFixture) -> None:
    """One record for each kind in a while, whatever the names in it; inboxes are not shown."""
    violations = Violations("_INBOX_me", interval=3600)
    subjects = [
        *(f"$JS.API.STREAM.MSG.GET.S{number}" for number in range(5)),
        *(f"$JS.API.STREAM.INFO.S{number}" for number in range(5)),
        *(f"orders.{number}" for number in range(5)),
        "_INBOX_me.secret.1",
    ]
    for subject in subjects:
        for kind in ("Publish", "Subscription"):
            violation = read_violation(f'Permissions Violation for {kind} to "{subject}"')
            assert violation is not None
            violations.told(violation)
    may_not = [record.getMessage() for record in caplog.records]
    for what in ("publish", "subscribe"):
        assert [text for text in may_not if f"may not {what} to" in text] == [
            f'NATS: this user may not {what} to "{subject}"; what needs it fails'
            for subject in (subjects[0], subjects[5], subjects[10], "_INBOX_me.>")
        ]


async def test_what_is_forbidden_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is forbidden is in the log, as an error, and the connection goes on."""
    async with limited(tmp_path, '{deny: "No.>"}') as (_, broker):
        for subject in ("No.A", "No.B"):
            broker.connection.publish(subject)
            await broker.connection.subscribe(subject, lambda _: None)
        await eventually(lambda: caplog.text.count("this user may not") == 2)
        await broker.api.call("INFO", None, in_seconds(5))
        assert broker.connection.reconnects == 0
    assert {record.levelname for record in caplog.records if "may not" in record.message} == {"ERROR"}
    assert 'may not publish to "No.A"' in caplog.text
    assert 'may not subscribe to "No.A"' in caplog.text


async def test_requests_fail_at_once(tmp_path: Path) -> None:
    """A forbidden request is told to be so, to each that asked, and to nobody else."""
    async with limited(tmp_path, '{deny: ["No.>", "$JS.API.STREAM.*.*"]}') as (_, broker):
        deadline = in_seconds(60)
        ask = broker.replies.request
        outcomes = await asyncio.gather(
            *(ask("No.A", b"", None, deadline) for _ in range(3)),
            ask("$JS.API.INFO", b"", None, deadline),
            ask("no.a", b"", None, deadline),
        )
        assert outcomes[:3] == [NoReply.FORBIDDEN] * 3
        assert isinstance(outcomes[3], bytes)
        assert outcomes[4] is NoReply.NO_RESPONDERS
        with pytest.raises(ForbiddenByBroker, match="NATS user"):
            await broker.api.call("STREAM.INFO.S", None, deadline)
        with pytest.raises(ForbiddenByBroker):
            await broker.api.change("STREAM.CREATE.S", {}, deadline)


@pytest.mark.parametrize("repeatable", [False, True])
async def test_writes_fail_at_once(tmp_path: Path, *, repeatable: bool) -> None:
    """A forbidden write was not stored, and is not tried again."""
    async with limited(tmp_path, '{deny: "No.>"}') as (_, broker):
        writes = Writes(broker.connection, broker.replies, broker.api)
        with pytest.raises(ForbiddenByBroker):
            await writes.write(Write("No.A", b"", None, in_seconds(60), repeatable))
        assert writes.in_flight == 0


async def test_a_write_that_became_forbidden_is_in_doubt(tmp_path: Path) -> None:
    """That an attempt is forbidden says nothing of one before, which may be stored."""
    async with limited(tmp_path, '{deny: "$JS.API.>"}') as (server, broker):
        options = WriteOptions(attempt_timeout=timedelta(seconds=0.2))
        writes = Writes(broker.connection, broker.replies, broker.api, options)
        async with connect(url(server, "other")) as other:
            arrived = asyncio.Event()
            await other.connection.subscribe("S.a", lambda _: arrived.set())
            await other.replies.round_trip(in_seconds(10))
            write = Write("S.a", b"", None, in_seconds(60), repeatable=True)
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
        deliveries = Deliveries(broker.connection, "S", "c", PullOptions(), arrivals.put_nowait)
        assert await deliveries.open()
        assert deliveries.pull(1)
        async with asyncio.timeout(30):
            assert await arrivals.get() is Notice.FORBIDDEN
        await deliveries.close()
        with pytest.raises(ForbiddenByBroker):
            await batch_get(broker.connection, "S", {"seq": 1}, in_seconds(60))


async def test_start_without_replies(tmp_path: Path) -> None:
    """A user that may not hear replies is of no use: that is said at once, without the inbox."""
    server = NatsServer(tmp_path, "--config", str(allow(tmp_path, ">", '{allow: "_INBOX.>"}')))
    server.start()
    try:
        connection = Connection(replace(QUICK, servers=parse_servers(url(server))))
        await Replies(connection).start()
        with pytest.raises(BrokerUnavailable, match=r"\(.* may not subscribe to _INBOX_windshift\.>\)$"):
            await connection.connect()
    finally:
        server.kill()


async def test_replies_that_become_forbidden(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """When the user is changed so, there is no connection until it is changed back."""
    async with limited(tmp_path, '{allow: ">"}', '{allow: ">"}') as (server, broker):
        connection = broker.connection
        allow(tmp_path, '{allow: ">"}', '{allow: "_INBOX.>"}')
        server.reload()
        await eventually(lambda: "may not subscribe to _INBOX_windshift.>" in connection.last_error)
        assert not connection.connected
        allow(tmp_path, '{allow: ">"}', '{allow: ">"}')
        server.reload()
        await connection.wait_connected(in_seconds(30))
        await broker.api.call("INFO", None, in_seconds(5))
    assert caplog.text.count("WARNING") <= 3
