"""What servers say of themselves and of each other, and of who calls."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, Final

import windshift
from tests.nats.waiting import eventually
from tests.support.app import running_app
from tests.support.broker import connect, in_seconds
from tests.support.client import Client, refused
from tests.support.nats_server import NatsServer, running_nats
from tests.support.windshift_process import wait_for
from tests.wire.consuming import ensure_consumer, subscribed
from tests.wire.looking import ask, ask_all
from tests.wire.management import ensure_stream
from windshift._gen.windshift.admin.v1alpha1 import service_pb2 as pb
from windshift.rpc import libnghttp2_version

LIMITED: Final = """
accounts {
  A {
    jetstream { max_file: 2000000, max_mem: 3000000, max_streams: 10, max_consumers: 20 }
    users: [
      { user: a, password: a }
      { user: narrow, password: narrow, permissions: { publish: { deny: ["$JS.API.INFO", "$SYS.>"] } } }
    ]
  }
}
"""
"""What a nats-server is configured with: an account with limits."""


def test_this_server(client: Client) -> None:
    """A server says what it is, what it serves, and what it is connected to."""
    server = ask(client, "GetServer").server
    assert server.version == windshift.__version__
    assert server.libnghttp2 == libnghttp2_version() != ""
    assert 0 <= time.time() - server.started.ToNanoseconds() / 1e9 < 3600
    assert "/windshift.admin.v1alpha1.AdminService/GetServer" in server.methods
    assert {limit.name for limit in server.limits} >= {"GRPC_MAX_CONNECTIONS"}
    assert server.max_payload == 1024 * 1024
    assert not server.rules
    assert server.broker.connected
    assert server.broker.version
    assert server.broker.url.startswith("nats://127.0.0.1:")


def test_what_may_be_held(nats_server: NatsServer) -> None:
    """It is told as it was set."""
    with running_app(nats_server.url, GRPC_MAX_HELD_MB="1") as address:
        client = Client(address)
        limits = {each.name: each.value for each in ask(client, "GetServer").server.limits}
        assert limits["GRPC_MAX_HELD_MB"] == 1
        client.channel.close()


def test_all_servers(own_nats_server: NatsServer, own_client: Client) -> None:
    """Servers on the same broker know each other; one that hangs is named, and one that stopped is not."""
    own = ask(own_client, "GetServer").server.id
    assert [entry.server.id for entry in ask(own_client, "ListServers").servers] == [own]
    with running_app(own_nats_server.url) as address:
        other = Client(address)
        second = ask(other, "GetServer").server.id
        found = wait_for_servers(own_client, {own, second})
        assert all(entry.ready for entry in found.servers)
        assert all(entry.memory > 10_000_000 for entry in found.servers)
        assert not found.missing
        other.channel.close()
    assert not wait_for_servers(own_client, {own}).missing


def test_what_the_account_uses(own_nats_server: NatsServer, own_client: Client) -> None:
    """Who asks for it learns what is used of JetStream, and how the clocks differ."""
    assert not ask(own_client, "ListServers").HasField("jet_stream")
    ensure_stream(own_client, "S", subjects={"subjects": ["s.>"]})
    ensure_consumer(own_client, "S", name="c")
    before, found, after = look_at_account(own_client)
    assert before <= found.servers[0].server.time.ToNanoseconds() <= after
    assert abs(found.jet_stream.clock_ahead.ToNanoseconds()) <= after - before  # it is the same clock
    usage = {each.resource: each for each in found.jet_stream.usage}
    assert usage[pb.JetStream.Usage.RESOURCE_STREAMS].used >= 1
    assert usage[pb.JetStream.Usage.RESOURCE_CONSUMERS].used >= 1
    assert not any(each.HasField("limit") or each.tier for each in usage.values())


def test_limits_of_an_account(tmp_path: Path) -> None:
    """The limits are told, and what streams have reserved; what the user may not ask for is left out."""
    config = tmp_path / "nats.conf"
    config.write_text(LIMITED)
    with running_nats(tmp_path / "nats", "--config", str(config)) as broker:
        url = broker.url.removeprefix("nats://")
        with running_app(f"nats://a:a@{url}") as address:
            client = Client(address)
            ensure_stream(
                client,
                "S",
                subjects={"subjects": ["s.>"]},
                retention_policy={"max_bytes": "1000"},
                deduplication_window="0.1s",
            )
            found = look_at_account(client)[1].jet_stream
            told = {each.resource: (each.used, each.reserved, each.limit) for each in found.usage}
            assert told == {
                pb.JetStream.Usage.RESOURCE_STORAGE: (0, 1000, 2_000_000),
                pb.JetStream.Usage.RESOURCE_MEMORY: (0, 0, 3_000_000),
                pb.JetStream.Usage.RESOURCE_STREAMS: (1, 0, 10),
                pb.JetStream.Usage.RESOURCE_CONSUMERS: (0, 0, 20),
            }
            client.channel.close()
        with running_app(f"nats://narrow:narrow@{url}") as address:
            client = Client(address)
            found = ask(client, "ListServers", jet_stream=True)
            assert found.HasField("jet_stream")
            assert found.jet_stream == pb.JetStream()
            client.channel.close()


def look_at_account(client: Client) -> tuple[int, Any, int]:
    """Ask until the broker has answered in time, for it is not waited for long.

    Return the time in nanoseconds before, the answer, and the time after.
    """
    until = time.monotonic() + 60
    while True:
        before = time.time_ns()
        found = ask(client, "ListServers", jet_stream=True)
        after = time.time_ns()
        if found.jet_stream.usage and found.jet_stream.HasField("clock_ahead"):
            return before, found, after
        assert time.monotonic() < until, found


def wait_for_servers(client: Client, ids: set[str]) -> Any:
    """Ask until these servers and no others answer: they hear of each other in their own time."""
    until = time.monotonic() + 30
    while True:
        found = ask(client, "ListServers")
        if {entry.server.id for entry in found.servers} == ids and not found.missing:
            return found
        assert time.monotonic() < until, found


def test_who_is_subscribed(own_nats_server: NatsServer, own_client: Client) -> None:
    """Every call that consumes is shown by every server, with what it holds, until it ends."""
    with running_app(own_nats_server.url) as address:
        other = Client(address)
        own, second = (ask(each, "GetServer").server.id for each in (own_client, other))
        for each in (own_client, other):
            wait_for_servers(each, {own, second})
        own_client.ensure_stream("S")
        for consumer in ("c", "d"):
            ensure_consumer(own_client, "S", consumer)
        for _ in range(3):
            own_client.publish("S.a")
        with subscribed(own_client, "S", window=7) as call, subscribed(other, "S", consumer="d") as away:
            call.events(3)
            away.events(3)
            call.ack(1)
            call.told()
            call.reject(2, permanently=True)
            call.told()
            here, there = ask_all(own_client, "ListSubscriptions", stream="S").subscriptions
            assert (here.consumer, here.server, there.consumer, there.server) == ("c", own, "d", second)
            assert (here.max_processing_events, here.unsettled) == (7, 1)
            assert (here.delivered, here.acked, here.rejected) == (3, 1, 1)
            assert here.peer.startswith("127.0.0.1:")
            assert here.user_agent.startswith("grpc-python")
            assert here.principal == ""
            shown = ask_all(other, "ListSubscriptions", stream="S", consumer="c").subscriptions
            assert list(shown) == [here]
            wait_for(lambda: subscriptions_of_each(other) == [1, 1])  # it does not say whether all answered
        until = time.monotonic() + 30
        while ask(own_client, "ListSubscriptions").subscriptions:
            assert time.monotonic() < until
        other.channel.close()
    with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
        ask(own_client, "ListSubscriptions", consumer="c")
    assert caught[0].fields == ("consumer",)


def subscriptions_of_each(client: Client) -> list[int]:
    """Count the subscriptions of each consumer."""
    return [each.subscriptions for each in ask(client, "ListConsumers", stream="S").consumers]


def test_who_calls_without_rules(client: Client) -> None:
    """Where there are no rules nobody is known, and everything is allowed."""
    checks = [{"verb": "publish", "resource": "a.b"}, {"verb": "consume", "resource": "S a.> -"}]
    answer = ask(client, "WhoAmI", checks=checks)
    assert (answer.principal, answer.credential, list(answer.granted)) == ("", "", [])
    assert [check.allowed for check in answer.checks] == [True, True]


def test_malformed_checks(client: Client) -> None:
    """A verb that there is not, or a resource that does not fit, is told."""
    for check in (
        {"verb": "fly", "resource": "a"},
        {"verb": "publish", "resource": ""},
        {"verb": "publish", "resource": "a b"},
        {"verb": "publish", "resource": "a..b"},
        {"verb": "x" * 400_000, "resource": "a"},
        {"verb": "publish", "resource": "\u6f22" * 100_000},
    ):
        with refused("INVALID_ARGUMENT", "INVALID_FIELD") as caught:
            ask(client, "WhoAmI", checks=[check])
        assert caught[0].fields == ("checks[0]",)
    with refused("INVALID_ARGUMENT", "INVALID_FIELD"):
        ask(client, "WhoAmI", checks=[{"verb": "publish", "resource": "a"}] * 101)


def test_servers_are_asked_for_what_is_shown(own_nats_server: NatsServer, own_client: Client) -> None:
    """A list without consumers costs the other servers nothing."""

    async def questions() -> list[bytes]:
        asked: list[bytes] = []
        async with connect(own_nats_server.url) as broker:
            broker.connection.subscribe(b"_WS.ask.*", lambda message: asked.append(message.body))
            await broker.requests.round_trip(in_seconds(30))
            for stream in ("NONE", "SOME"):
                await asyncio.to_thread(ask, own_client, "ListConsumers", stream=stream)
            await asyncio.to_thread(ask, own_client, "ListSubscriptions", stream="LAST")
            await eventually(lambda: any(b"LAST" in each for each in asked))
        return asked

    for stream in ("NONE", "SOME"):
        own_client.ensure_stream(stream)
    ensure_consumer(own_client, "SOME", "c")
    assert len(asyncio.run(questions())) == 2
