"""Who calls a server, when they did last, and an end to their connections."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner, Result

import windshift as ws
from tests.authorization.callers import Caller, WithMetadata, bearer
from tests.authorization.policies import ALL, digest_of, principal, token_of
from tests.authorization.served import Served, served
from tests.support.app import running_app
from tests.support.client import Client, read_refusal, refused
from tests.support.nats_server import NatsServer
from tests.support.windshift_process import wait_for
from tests.wire.consuming import subscribed
from tests.wire.management import ensure_consumer, get_consumer
from windshift._gen.windshift.admin.v1alpha1 import principals_pb2 as pb
from windshift.cli.main import main
from windshift.server.api.principals import PRINCIPALS

POLICY = (
    ALL
    + '[role.user]\nstreams = { consume = ["USED"], subjects = [">"] }\nconsumers.use = ["*"]\n'
    + principal("all")
    + principal("ann", "user")
    + principal("bob", "user", more='mtls = "CN=bob"\n')
    + principal("idle", "user")
).replace(f'["{digest_of("ann")}"]', f'["{digest_of("ann")}", "{digest_of("ann", 2)}"]')
NUMBERS = count()
LIMIT = 20.0
END = "/windshift.admin.v1alpha1.PrincipalsService/EndConnections"


@pytest.fixture(scope="module")
def server(nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Run a process that knows its callers."""
    with served(tmp_path_factory.mktemp("principals"), POLICY, NATS_URL=nats_server.url) as server:
        server.caller("all").ensure_stream("USED", "used.>")
        yield server


def listed(caller: Caller) -> dict[str, pb.Principal]:
    """List the principals, by name."""
    response = caller.call(PRINCIPALS.methods_by_name["ListPrincipals"], pb.ListPrincipalsRequest())
    return {each.name: each for each in response.principals}


def ended(caller: Client, name: str) -> int:
    """End the connections of a principal; give how many there were."""
    request = pb.EndConnectionsRequest(principal=name)
    response: pb.EndConnectionsResponse = caller.call(PRINCIPALS.methods_by_name["EndConnections"], request)
    return response.connections


def consumer(server: Served) -> tuple[str, int]:
    """Make a consumer of one event; give its name, and the event's id."""
    name = f"c{next(NUMBERS)}"
    ensure_consumer(server.caller("all"), "USED", name=name, subjects=[f"used.{name}"])
    return name, server.caller("all").publish(f"used.{name}")


def test_when_a_credential_was_used_last(server: Served) -> None:
    """Each token has a time of its own, which a change of the rules leaves as it is; none: never."""
    admin = server.caller("all")
    before = time.time()
    with refused("NOT_FOUND", "CONSUMER_NOT_FOUND"):
        ensure_nothing(server.caller("ann"))
    after = time.time()
    used, unused = listed(admin)["ann"].credentials
    assert (used.credential, unused.credential) == tuple(
        f"token {digest_of('ann', version)[:8]}" for version in (1, 2)
    )
    assert before <= used.last_used.ToNanoseconds() / 1e9 <= after
    assert not unused.HasField("last_used")
    assert [each.credential for each in listed(admin)["bob"].credentials][1] == "certificate CN=bob"
    server.hang_up()
    assert listed(admin)["ann"].credentials[0].last_used == used.last_used
    for _ in range(2):
        with refused("NOT_FOUND", "CONSUMER_NOT_FOUND"):
            ensure_nothing(server.caller("ann", 2))
    used, now_used = listed(admin)["ann"].credentials
    assert now_used.last_used.ToNanoseconds() > used.last_used.ToNanoseconds()


def ensure_nothing(caller: Caller) -> None:
    """Look at a consumer that is not there."""
    get_consumer(caller, "USED", "missing")


def test_connections_are_ended(server: Served) -> None:
    """Open streams and idle connections of the principal end at once; what it held goes to others."""
    admin, ann = server.caller("all"), Caller(server.process.address, bearer(token_of("ann")))
    idle = Caller(server.process.address, bearer(token_of("ann", 2)))
    name, event = consumer(server)
    other, theirs = consumer(server)
    with (
        subscribed(ann, "USED", consumer=name) as hers,
        subscribed(server.caller("bob"), "USED", consumer=other) as his,
    ):
        assert [each.id for each in hers.events(1)] == [event]
        assert [each.id for each in his.events(1)] == [theirs]
        with refused("NOT_FOUND", "CONSUMER_NOT_FOUND"):
            ensure_nothing(idle)
        found = listed(admin)["ann"]
        assert found.connections >= 2
        assert found.open_streams == 1
        assert ended(admin, "ann") == found.connections
        refusal = hers.end(LIMIT)
        assert refusal is not None
        assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "CONNECTION_ENDED")
        wait_for(lambda: listed(admin)["ann"].connections == 0)
        wait_for(lambda: listed(admin)["ann"].open_streams == 0)
        with subscribed(server.caller("bob"), "USED", consumer=name) as now_his:
            (again,) = now_his.events(1)
            assert (again.id, again.delivery_attempt) == (event, 2)
            now_his.ack(event)
            now_his.told()
        his.ack(theirs)
        assert his.told() == ("ack", [theirs], [], [])
    with refused("NOT_FOUND", "CONSUMER_NOT_FOUND"):  # whoever is still in the rules comes back
        ensure_nothing(ann)
    assert server.records(event="managed", resource="ann")[-1]["code"] == "OK"


def as_principal(caller: Caller, name: str) -> Client:
    """Return a client that shows a token on the connection of another."""
    client = Client.__new__(Client)
    client.channel = grpc.intercept_channel(caller.channel, WithMetadata(bearer(token_of(name))))
    return client


def test_a_connection_of_several(server: Served) -> None:
    """Calls of others on it end, too."""
    shared = Caller(server.process.address)
    name, _ = consumer(server)
    with subscribed(as_principal(shared, "ann"), "USED", consumer=name) as hers:
        hers.events(1)
        with subscribed(as_principal(shared, "bob"), "USED", consumer=name) as his:
            assert ended(server.caller("all"), "ann") >= 1
            for stream in (hers, his):
                refusal = stream.end(LIMIT)
                assert refusal is not None
                assert refusal.code == "UNAVAILABLE"


@pytest.mark.parametrize(
    "write",
    [lambda who: who.publish("used.x", timeout=30), lambda who: who.set("kept", "key", timeout=30)],
    ids=["publish", "set"],
)
def test_writes_under_way(
    own_nats_server: NatsServer, tmp_path: Path, write: Callable[[Client], object]
) -> None:
    """The client is told that its write may have been stored, and so it may have been."""
    rules = ALL + principal("all") + principal("ann", "all")
    with served(tmp_path, rules, NATS_URL=own_nats_server.url) as server, ThreadPoolExecutor(1) as pool:
        admin = server.caller("all")
        admin.ensure_stream("USED", "used.>")
        admin.ensure_store("kept")
        own_nats_server.freeze()
        writing = pool.submit(write, server.caller("ann"))
        server.process.wait_for(lambda: server.seen().value("windshift_publish_in_flight") == 1)
        assert ended(admin, "ann") == 1
        error = writing.exception(LIMIT)
        own_nats_server.thaw()
        refusal = read_refusal(error)
        assert (refusal.code, refusal.reason) == ("DEADLINE_EXCEEDED", "OUTCOME_UNKNOWN")
        assert refusal.message == "an operator ended this connection before the broker answered"


def test_nobody_of_that_name(server: Served) -> None:
    """Whose connections are none of the rules' is not found; who has none has none."""
    with refused("NOT_FOUND", "PRINCIPAL_NOT_FOUND"):
        ended(server.caller("all"), "nobody")
    assert ended(server.caller("all"), "idle") == 0


def test_without_rules(nats_server: NatsServer, tmp_path: Path) -> None:
    """There are no principals then, and nobody's connections to end."""
    with running_app(nats_server.url) as address:
        caller = Caller(address)
        assert listed(caller) == {}
        with refused("NOT_FOUND", "PRINCIPAL_NOT_FOUND"):
            ended(caller, "all")
        caller.channel.close()


async def test_by_the_library(server: Served) -> None:
    """The same as the client library has it; a client may end its own connection and is answered."""
    async with ws.connect(server.process.address, token=token_of("all")) as client:
        found = await client.principals()
        assert [each.name for each in found.principals] == ["all", "ann", "bob", "idle"]
        assert found.since is not None
        own, idle = found.principals[0], found.principals[-1]
        assert own.connections >= 1
        assert own.credentials[0].last_used is not None
        assert idle.credentials == (ws.Credential(f"token {digest_of('idle')[:8]}", None, None),)
        assert await client.end_connections("idle") == 0
        with pytest.raises(ws.PrincipalNotFound):
            await client.end_connections("nobody")


async def test_one_s_own_connection(server: Served) -> None:
    """The call that ends it is answered, once; other calls on it end, and so does the connection."""
    before = len(server.records(event="managed", resource="all", method=END))
    async with ws.connect(server.process.address, token=token_of("all")) as client:
        assert await client.end_connections("all") >= 1
    assert len(server.records(event="managed", resource="all", method=END)) == before + 1
    name, _ = consumer(server)
    shared = Caller(server.process.address)
    with subscribed(as_principal(shared, "ann"), "USED", consumer=name) as hers:
        hers.events(1)
        assert ended(as_principal(shared, "all"), "ann") >= 1
        refusal = hers.end(LIMIT)
        assert refusal is not None
        assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "CONNECTION_ENDED")
    wait_for(lambda: listed(server.caller("all"))["ann"].connections == 0)


def command(server: Served, *arguments: str, who: str = "all") -> Result:
    """Run a command of `windshift auth` as somebody; as nobody with an empty name."""
    where = {"WINDSHIFT_ADDRESS": server.process.address, "WINDSHIFT_TOKEN": token_of(who) if who else ""}
    return CliRunner().invoke(main, ["auth", *arguments], env=where)


def test_listing_by_the_command(server: Served) -> None:
    """A line for each credential, and since when that is known."""
    done = command(server, "list")
    assert (done.exit_code, done.stderr) == (0, "")
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["PRINCIPAL", "OPEN", "CREDENTIAL", "LAST", "USED", "EXPIRES"]
    assert [line.split()[0] for line in lines if " connections, " in line] == ["all", "ann", "bob", "idle"]
    (idle,) = (line for line in lines if line.startswith("idle "))
    assert " ".join(idle.split()) == f"idle 0 connections, 0 streams token {digest_of('idle')[:8]} never"
    (own,) = (line for line in lines if line.startswith("all "))
    assert re.search(rf"token {digest_of('all')[:8]} +\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d$", own)
    assert lines[-1].endswith("when the server was started")


def test_listing_for_programs(server: Served) -> None:
    """As JSON there is all of it, with times in UTC."""
    done = command(server, "list", "-o", "json")
    found = {each["name"]: each for each in json.loads(done.stdout)}
    assert sorted(found) == ["all", "ann", "bob", "idle"]
    unused = {"name": f"token {digest_of('idle')[:8]}", "last_used": None, "expires": None}
    assert found["idle"] == {"name": "idle", "connections": 0, "open_streams": 0, "credentials": [unused]}
    assert found["all"]["credentials"][0]["last_used"].endswith("Z")


def test_where_the_server_is(server: Served, tmp_path: Path) -> None:
    """It is said as to all other commands: by options, variables, and contexts."""
    (tmp_path / "token").write_text(token_of("all"))
    address, file = server.process.address, str(tmp_path / "token")
    nothing = {"WINDSHIFT_ADDRESS": "", "XDG_CONFIG_HOME": str(tmp_path)}
    prod = ["context", "add", "prod", "--address", address, "--token-file", file]
    assert CliRunner().invoke(main, prod, env=nothing).exit_code == 0
    for options, environment in (
        (["--address", address, "--token-file", file], nothing),
        ([], {"WINDSHIFT_ADDRESS": address, "WINDSHIFT_TOKEN_FILE": file}),
        (["-c", "prod"], nothing),
    ):
        done = CliRunner().invoke(main, ["auth", "list", *options], env=environment)
        assert done.exit_code == 0, done.output
        assert "\nidle " in done.output


def test_ending_by_the_command(server: Served) -> None:
    """It tells how many there were; what the server refuses is told, with the status of all commands."""
    name, _ = consumer(server)
    with subscribed(server.caller("bob"), "USED", consumer=name) as call:
        call.events(1)
        done = command(server, "end", "bob")
        assert (done.exit_code, done.stderr) == (0, "")
        assert re.fullmatch(r"connections that were ended: [1-9]\d*\n", done.stdout)
        assert call.end(LIMIT) is not None
    for who, whose, status, told in (
        ("ann", "bob", 6, "'ann' may not end connections of principal 'bob'"),
        ("", "bob", 6, "the call has no valid credentials; a token is needed"),
        ("all", "nobody", 3, "the rules have no principal 'nobody'"),
    ):
        done = command(server, "end", whose, who=who)
        assert (done.exit_code, done.stdout) == (status, "")
        assert done.stderr.startswith(f"windshift: {told}")
