"""The NATS user of docs/nats.md: Windshift can do everything with it, and it can do little else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.authorization.callers import callers_of
from tests.authorization.policies import ALL, principal, put, token_of
from tests.e2e.nats_user import (
    DOCUMENT,
    PASSWORD,
    allowed,
    allowed_by_nsc,
    bury,
    consume,
    keep,
    matches,
    publish,
    walk,
    work_with_consumers,
    write_configuration,
)
from tests.support.broker import QUICK, connect, in_seconds
from tests.support.client import REPEAT_UNAVAILABLE, Client, refused
from tests.support.cluster import running_cluster
from tests.support.exposition import scrape
from tests.support.nats_server import NatsServer, running_nats
from tests.support.operator import write_operator
from tests.support.windshift_process import WindshiftProcess, windshift
from tests.wire.burying import listed
from tests.wire.consuming import calling, subscribed
from tests.wire.looking import ask
from tests.wire.management import ensure_consumer, ensure_stream
from windshift.nats import NoReply

NO_QUOTAS = 'streams = "off", reserved_bytes = "off", stored_bytes = "off"'
URL = f"nats://windshift:{PASSWORD}@127.0.0.1"


@pytest.fixture(autouse=True)
def _passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_WINDSHIFT_PASSWORD", PASSWORD)
    monkeypatch.setenv("ADMIN_NATS_PASSWORD", "s3cret-of-admin")


@contextmanager
def served(
    directory: Path, config: Path, *arguments: str, **environment: str
) -> Iterator[tuple[NatsServer, WindshiftProcess]]:
    """Run a nats-server with a configuration, and a server that uses it, by a password if by nothing else."""
    with running_nats(directory / "nats", "--config", str(config), *arguments) as broker:
        url = broker.url if "NATS_CREDS" in environment else f"{URL}:{broker.port}"
        with windshift(directory, NATS_URL=url, **environment) as server:
            yield broker, server


def walk_with(server: WindshiftProcess, replicas: int = 1) -> None:
    """Walk through the API of a server; a cluster on a busy machine may change its leader meanwhile."""
    client = Client(server.address, service_config=REPEAT_UNAVAILABLE)
    walk(client, replicas=replicas)
    client.channel.close()


def assert_content(server: WindshiftProcess, *brokers: NatsServer) -> None:
    """See that the server is ready, and that nothing was forbidden."""
    wanted = 'windshift_stream_messages{stream="ORDERS"'
    server.wait_for(lambda: wanted in scrape(server.health_port).text)
    assert server.probe("/readyz").status == 200
    assert server.stop() == 0
    assert [line for broker in brokers for line in broker.log.splitlines() if "iolation" in line] == []
    assert [line for line in server.err.splitlines() if '"error"' in line] == []


def reconnect(server: WindshiftProcess, broker: NatsServer) -> None:
    """Have the broker restarted, and see that the server finds it again."""
    broker.stop()
    server.wait_for(lambda: server.probe("/readyz").status == 503)
    broker.start()
    server.wait_for(lambda: server.probe("/readyz").status == 200)
    client = Client(server.address)
    assert client.publish("orders.a", timeout=15) > 0
    client.channel.close()


@pytest.mark.parametrize("form", [0, 1], ids=["authorization", "accounts"])
def test_everything_works(tmp_path: Path, form: int) -> None:
    """With each form of the configuration the whole API works, and nothing that is done is forbidden."""
    with served(tmp_path, write_configuration(tmp_path, form)) as (broker, server):
        walk_with(server)
        reconnect(server, broker)
        assert_content(server, broker)


def test_everything_works_on_a_cluster(tmp_path: Path) -> None:
    """The same with three servers and three replicas."""
    config = write_configuration(tmp_path)
    directories = (tmp_path / f"cluster{number}" for number in range(5))

    def directory() -> Path:
        made = next(directories)
        made.mkdir()
        return made

    with running_cluster(directory, "--config", str(config)) as brokers:
        urls = ",".join(f"{URL}:{broker.port}" for broker in brokers)
        with windshift(tmp_path, NATS_URL=urls, WINDSHIFT_DEFAULT_REPLICAS="3") as server:
            wait_for_leader(server)
            walk_with(server, replicas=3)
            assert_content(server, *brokers)


def wait_for_leader(server: WindshiftProcess) -> None:
    """Wait until the cluster takes orders."""

    def takes_orders() -> bool:
        try:
            client.ensure_store("first")
        except grpc.RpcError:
            return False
        return True

    client = Client(server.address)
    server.wait_for(takes_orders)
    client.channel.close()


def test_credentials_file(tmp_path: Path) -> None:
    """What the document has nsc allow is the same, and works with a JWT."""
    publish_to, subscribe_to = allowed_by_nsc()
    assert (sorted(publish_to), sorted(subscribe_to)) == tuple(map(sorted, allowed()))
    permissions = {"pub": {"allow": publish_to}, "sub": {"allow": subscribe_to}}
    config, credentials = write_operator(tmp_path, permissions)
    with served(tmp_path, config, NATS_CREDS=str(credentials)) as (broker, server):
        walk_with(server)
        assert_content(server, broker)


def test_nothing_is_allowed_that_is_not_needed(tmp_path: Path) -> None:
    """Each line of the document is used, but for the second example of events."""
    with served(tmp_path, write_configuration(tmp_path), "-V") as (broker, server):
        walk_with(server)
        assert_content(server, broker)
        sent = set(re.findall(r"\[H?PUB (\S+)", broker.log))
        heard = set(re.findall(r"\[SUB (\S+)", broker.log))
    publish_to, subscribe_to = allowed()
    assert unused(publish_to, sent) == ["payments.>"]
    assert unused(subscribe_to, heard) == []


def unused(patterns: list[str], subjects: set[str]) -> list[str]:
    """Return the patterns that no subject needed."""
    return [each for each in patterns if not any(matches(each, subject) for subject in subjects)]


FORBIDDEN_TO_PUBLISH = (
    "$JS.API.ACCOUNT.PURGE.EVENTS",
    "$JS.API.ACCOUNT.STREAM.MOVE.EVENTS.ORDERS",
    "$JS.API.SERVER.REMOVE",
    "$JS.API.META.LEADER.STEPDOWN",
    "$JS.API.STREAM.DELETE.ORDERS",
    "$JS.API.STREAM.PURGE.ORDERS",
    "$JS.API.STREAM.PURGE.KV_settings",
    "$JS.API.STREAM.MSG.DELETE.ORDERS",
    "$JS.API.STREAM.SNAPSHOT.ORDERS",
    "$JS.API.STREAM.RESTORE.ORDERS",
    "$JS.API.STREAM.LEADER.STEPDOWN.ORDERS",
    "$JS.API.STREAM.PEER.REMOVE.ORDERS",
    "$JS.API.STREAM.DELETE.WS_DEAD_LETTERS",
    "$JS.API.CONSUMER.LEADER.STEPDOWN.ORDERS.billing",
    "$JS.API.CONSUMER.PAUSE.ORDERS.billing",
    "$JS.API.CONSUMER.RESET.ORDERS.billing",
    "$JS.API.CONSUMER.UNPIN.ORDERS.billing",
    "$JS.API.CONSUMER.DURABLE.CREATE.ORDERS.billing",
    "$JS.API.DIRECT.GET.ORDERS",
    "$SYS.REQ.SERVER.PING",
    "$SYS.REQ.ACCOUNT.EVENTS.CONNZ",
    "_INBOX.somebody.1",
    "_R_.somebody",
    "_WS.other",
    "invoices.a",
    "orders",
)
FORBIDDEN_TO_SUBSCRIBE = (
    ">",
    "*.>",
    "$SYS.>",
    "$SYS.ACCOUNT.EVENTS.CONNECT",
    "$JS.>",
    "$JS.API.>",
    "$JS.EVENT.ADVISORY.>",
    "$KV.>",
    "_INBOX.>",
    "_INBOX.somebody.*",
    "_WS.>",
    "_WS.dead.>",
    "orders.>",
    "orders.a",
)


@pytest.mark.parametrize("form", [0, 1], ids=["authorization", "accounts"])
async def test_little_else_is_allowed(tmp_path: Path, form: int) -> None:
    """Neither the system account, nor other programs' subjects and answers, nor deleting streams."""
    with running_nats(tmp_path / "nats", "--config", str(write_configuration(tmp_path, form))) as broker:
        async with connect(f"{URL}:{broker.port}", replace(QUICK, inbox_prefix="_INBOX_windshift")) as user:
            for subject in FORBIDDEN_TO_PUBLISH:
                answer = await user.requests.request(subject.encode(), b"", b"", in_seconds(20))
                assert answer is NoReply.FORBIDDEN, subject
            for subject in FORBIDDEN_TO_SUBSCRIBE:
                user.connection.subscribe(subject.encode(), lambda _: None)
            await user.api.call("STREAM.NAMES", None, in_seconds(20))
            told = set(re.findall(r'Subscription Violation - Subject "([^"]+)"', broker.log))
            assert told == set(FORBIDDEN_TO_SUBSCRIBE)
            assert user.connection.reconnects == 0


def consume_in_vain(client: Client) -> None:
    """Subscribe without the permission to ask for events: the call ends."""
    with calling(client) as call:
        call.subscribe("ORDERS", "billing")
        refusal = call.end(20)
        assert refusal is not None
        assert (refusal.code, refusal.reason) == ("FAILED_PRECONDITION", "FORBIDDEN_BY_BROKER")
        assert refusal.metadata == {"subject": "$JS.API.CONSUMER.MSG.NEXT.ORDERS.billing"}


def acknowledge_in_vain(client: Client) -> None:
    """Acknowledge without the permission to: it may be tried again."""
    with subscribed(client, "ORDERS", consumer="billing") as call:
        event = call.event(20)
        call.ack(event.id)
        assert call.told(4) == ("ack", [], [], [event.id])


def publish_in_vain(client: Client) -> None:
    """Publish without the permission to."""
    for key in ("", "k"):
        with refused("FAILED_PRECONDITION", "FORBIDDEN_BY_BROKER") as caught:
            client.publish("orders.a", timeout=60, idempotency_key=key)
        assert caught[0].metadata == {"subject": "orders.a"}


def read_in_vain(client: Client) -> None:
    """Read a key without the permission to."""
    with refused("FAILED_PRECONDITION", "FORBIDDEN_BY_BROKER") as caught:
        client.get("settings", "a", timeout=60)
    assert caught[0].metadata == {"subject": "$JS.API.STREAM.MSG.GET.KV_settings"}


def list_in_vain(client: Client) -> None:
    """List dead letters without the permission to."""
    with refused("FAILED_PRECONDITION", "FORBIDDEN_BY_BROKER"):
        listed(client, "ORDERS")


@pytest.mark.parametrize(
    ("without", "told", "try_it"),
    [
        ("orders.>", "orders.a", publish_in_vain),
        ("$JS.API.CONSUMER.MSG.NEXT.*.*", "$JS.API.CONSUMER.MSG.NEXT.ORDERS.billing", consume_in_vain),
        ("$JS.ACK.>", "$JS.ACK.ORDERS.billing.1.", acknowledge_in_vain),
        ("$JS.API.STREAM.MSG.GET.*", "$JS.API.STREAM.MSG.GET.KV_settings", read_in_vain),
        ("$JS.API.DIRECT.GET.WS_DEAD_LETTERS", "$JS.API.DIRECT.GET.WS_DEAD_LETTERS", list_in_vain),
    ],
)
def test_a_permission_that_is_missing(
    tmp_path: Path, without: str, told: str, try_it: Callable[[Client], None]
) -> None:
    """What needs it fails at once, the log names the subject, and everything else goes on."""
    config = write_configuration(tmp_path)
    with served(tmp_path, config) as (broker, server):
        client = Client(server.address)
        ensure_stream(client, "ORDERS", subjects={"subjects": ["orders.>"]})
        ensure_consumer(client, "ORDERS", name="billing", **{"from": {"start": True}})
        client.publish("orders.a")
        client.channel.close()
        assert server.stop() == 0
        permissions = tmp_path / "windshift.conf"
        text = permissions.read_text()
        assert f'"{without}"\n' in text
        permissions.write_text(text.replace(f'"{without}"\n', "\n"))
        broker.reload()
        with windshift(tmp_path, NATS_URL=f"{URL}:{broker.port}") as limited:
            client = Client(limited.address)
            try_it(client)
            limited.wait_for(lambda: f'this user may not publish to \\"{told}' in limited.err)
            assert limited.probe("/readyz").status == 200
            assert "ended" not in limited.err
            client.channel.close()


OPERATORS: dict[str, dict[str, Any]] = {
    "PurgeStream": {"stream": "ORDERS", "up_to_id": 1},
    "DeleteEvent": {"stream": "ORDERS", "id": 2},
    "PauseConsumer": {"stream": "ORDERS", "consumer": "billing"},
    "SeekConsumer": {"stream": "ORDERS", "consumer": "billing", "to": {"start": True}},
    "DeleteStream": {"name": "ORDERS"},
}


def test_what_operators_need(tmp_path: Path) -> None:
    """Each of their methods fails without its line of the document, and works with it."""
    config = write_configuration(tmp_path)
    more = re.findall(r"^\| `(\$(?:JS|SYS)\.[^`]+)` \|", DOCUMENT.read_text(), re.MULTILINE)
    permissions = tmp_path / "windshift.conf"
    with served(tmp_path, config) as (broker, server):
        client = Client(server.address)
        ensure_stream(client, "ORDERS", subjects={"subjects": ["orders.>"]})
        ensure_consumer(client, "ORDERS", name="billing", **{"from": {"start": True}})
        for _ in range(3):
            client.publish("orders.a")
        for method, request in OPERATORS.items():
            with refused("FAILED_PRECONDITION", "FORBIDDEN_BY_BROKER"):
                ask(client, method, **request)
        told = ask(client, "ListServers", jet_stream=True).jet_stream
        assert told.usage
        assert not told.HasField("clock_ahead")
        client.channel.close()
        assert server.stop() == 0
        lines = "".join(f'      "{subject}"\n' for subject in more)
        permissions.write_text(permissions.read_text().replace("allow: [\n", f"allow: [\n{lines}", 1))
        broker.reload()
        with windshift(tmp_path, NATS_URL=f"{URL}:{broker.port}") as allowed_more:
            client = Client(allowed_more.address)
            for method, request in OPERATORS.items():
                ask(client, method, **request)
            told = ask(client, "ListServers", jet_stream=True).jet_stream
            assert told.HasField("clock_ahead")
            client.channel.close()


def test_quotas_need_lists(tmp_path: Path) -> None:
    """Where there are rules and no lists, nobody can make anything: what there is already is not known."""
    config = write_configuration(tmp_path)
    permissions = tmp_path / "windshift.conf"
    permissions.write_text(permissions.read_text().replace('"$JS.API.STREAM.LIST"\n', "\n"))
    rules = ALL + principal("all") + principal("free", "all", more=f"quotas = {{ {NO_QUOTAS} }}\n")
    file = put(tmp_path / "auth.toml", rules)
    with (
        served(tmp_path, config, WINDSHIFT_AUTH_FILE=str(file)) as (_, server),
        callers_of(server.address) as callers,
    ):
        orders = {"subjects": ["orders.>"]}
        with refused("FAILED_PRECONDITION", "FORBIDDEN_BY_BROKER"):
            ensure_stream(callers.with_token(token_of("all")), "ORDERS", subjects=orders)
        server.wait_for(lambda: 'this user may not publish to \\"$JS.API.STREAM.LIST' in server.err)
        ensure_stream(callers.with_token(token_of("free")), "ORDERS", subjects=orders)
        ensure_stream(callers.with_token(token_of("all")), "ORDERS", subjects=orders)


def test_narrower_user(tmp_path: Path) -> None:
    """The narrow user works with what others have made, and with nothing else."""
    config = write_configuration(tmp_path)
    with running_nats(tmp_path / "nats", "--config", str(config)) as broker:
        with windshift(tmp_path, NATS_URL=f"{URL}:{broker.port}") as server:
            client = Client(server.address)
            ensure_stream(client, "ORDERS", subjects={"subjects": ["orders.>"]})
            ensure_stream(client, "PAYMENTS", subjects={"subjects": ["payments.>"]})
            client.ensure_store("settings")
            client.channel.close()
            assert server.stop() == 0
        text = config.read_text().replace("windshift.conf", "windshift-orders.conf")
        config.write_text(text.replace("$WINDSHIFT }", "$WINDSHIFT_ORDERS }"))
        assert "$WINDSHIFT_ORDERS" in config.read_text()
        broker.reload()
        with windshift(tmp_path, NATS_URL=f"{URL}:{broker.port}") as server:
            client = Client(server.address)
            work_narrowly(client)
            told = [line for line in broker.log.splitlines() if "iolation" in line]
            assert [line for line in told if "STREAM.LIST" not in line] == []  # which is tried now and then
            see_limits(client)
            server.wait_for(lambda: "STREAM.UPDATE.ORDERS" in server.err)
            assert server.probe("/readyz").status == 200
            client.channel.close()


def work_narrowly(client: Client) -> None:
    """Do all that the narrow user allows."""
    ensure_stream(client, "ORDERS", subjects={"subjects": ["orders.>"]})
    work_with_consumers(client)
    publish(client)
    consume(client)
    bury(client)
    keep(client)
    ensure_consumer(client, "ORDERS", name="narrow")
    assert ask(client, "ExplainEvent", stream="ORDERS", id=1, consumer="narrow").consumers


def see_limits(client: Client) -> None:
    """See what fails, at once."""
    with refused("FAILED_PRECONDITION", "FORBIDDEN_BY_BROKER"):
        client.publish("payments.a", timeout=60)
    with refused("FAILED_PRECONDITION", "FORBIDDEN_BY_BROKER"):
        client.set("others", "a", timeout=60)
    with refused("FAILED_PRECONDITION", "FORBIDDEN_BY_BROKER"):
        ask(client, "ExplainEvent", stream="ORDERS", id=1)
    for name in ("PAYMENTS", "ORDERS", "NEW"):
        with refused("FAILED_PRECONDITION", "FORBIDDEN_BY_BROKER"):
            ensure_stream(client, name, 60, subjects={"subjects": ["orders.>"]}, max_event_size=1000)
